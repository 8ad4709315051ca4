/** Defaulting by kind: what the server fills in before it validates and stores. */
import type { KubeObject } from '../../../model/kubernetes.ts';
import type { KindSchema } from '../kinds.ts';
import { defaultNamespace, defaultNode } from './core.ts';
import { defaultEndpointSlice, defaultEndpoints, defaultNetworkPolicy, defaultService } from './network.ts';
import { defaultPod } from './pod.ts';

type Defaulter = (object: never) => void;

const defaulters: Readonly<Record<string, Defaulter>> = {
  '/Namespace': defaultNamespace,
  '/Node': defaultNode,
  '/Pod': defaultPod,
  '/Service': defaultService,
  '/Endpoints': defaultEndpoints,
  'discovery.k8s.io/EndpointSlice': defaultEndpointSlice,
  'networking.k8s.io/NetworkPolicy': defaultNetworkPolicy,
};

/**
 * Fills in, in place, what Kubernetes v1.32 fills in for this kind. ClusterIPs, node ports and IP families are
 * not defaults but allocations, see ../../allocate.
 */
export function applyDefaults(schema: KindSchema, object: KubeObject): void {
  defaulters[`${schema.group}/${schema.kind}`]?.(object as never);
}
