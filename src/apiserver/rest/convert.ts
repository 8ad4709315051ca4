/**
 * Between the version of a kind that a client speaks and the one that is stored. Of Event, core/v1 is stored, and
 * events.k8s.io/v1 is the same object under newer names (pkg/apis/events/v1/conversion.go); ServiceCIDR v1beta1 is
 * ServiceCIDR v1 in all but its apiVersion.
 */
import type { KubeObject } from '../../model/kubernetes.ts';
import type { Resource } from '../resources.ts';
import { groupVersionOf } from '../schema/index.ts';

/** Name in events.k8s.io/v1 to name in core/v1. */
const EVENT_FIELDS: readonly (readonly [string, string])[] = [
  ['regarding', 'involvedObject'],
  ['note', 'message'],
  ['reportingController', 'reportingComponent'],
  ['deprecatedSource', 'source'],
  ['deprecatedFirstTimestamp', 'firstTimestamp'],
  ['deprecatedLastTimestamp', 'lastTimestamp'],
  ['deprecatedCount', 'count'],
];

const newNames = new Map(EVENT_FIELDS.map(([newer, older]) => [older, newer]));
const oldNames = new Map(EVENT_FIELDS);

function renamed(object: KubeObject, names: ReadonlyMap<string, string>, apiVersion: string): KubeObject {
  const entries = Object.entries(object).map(([key, value]) => [names.get(key) ?? key, value]);
  return { ...Object.fromEntries(entries), apiVersion } as KubeObject;
}

/** The stored object as the resource's version has it; the same object where that is the stored one. */
export function fromStored(resource: Resource, object: KubeObject): KubeObject {
  if (resource.stored === resource.schema) return object;
  const apiVersion = groupVersionOf(resource.schema);
  return resource.stored.kind === 'Event' ? renamed(object, newNames, apiVersion) : { ...object, apiVersion };
}

/** The other way. */
export function toStored(resource: Resource, object: KubeObject): KubeObject {
  if (resource.stored === resource.schema) return object;
  const apiVersion = groupVersionOf(resource.stored);
  if (resource.stored.kind !== 'Event') return { ...object, apiVersion };
  const stored = renamed(object, oldNames, apiVersion) as KubeObject & {
    involvedObject?: object;
  };
  // Required by the stored version.
  stored.involvedObject ??= {};
  return stored;
}
