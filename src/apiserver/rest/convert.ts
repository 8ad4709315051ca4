/** Between the version of a kind that a client speaks and the one that is stored. */
import type { KubeObject } from '../../model/kubernetes.ts';
import type { Resource } from '../resources.ts';

export function fromStored(resource: Resource, object: KubeObject): KubeObject {
  return resource.stored === resource.schema ? object : object;
}

export function toStored(resource: Resource, object: KubeObject): KubeObject {
  return resource.stored === resource.schema ? object : object;
}
