/** Strategies of the kinds that need nothing of other parts: pkg/registry/<group>/<kind>/strategy.go. */
import type { Namespace, Pod } from '../../model/kubernetes.ts';
import { qosClassOf } from './qos.ts';
import type { Strategy } from './strategy.ts';

const DEFAULT_GRACE_SECONDS = 30;

export const podStrategy: Strategy = {
  generation: true,
  prepareCreate: (object) => {
    const pod = object as Pod;
    pod.status = { phase: 'Pending', qosClass: qosClassOf(pod) };
  },
  prepareStatus: (next, old) => {
    const pod = next as Pod;
    pod.status ??= {};
    pod.status.qosClass ??= (old as Pod).status?.qosClass ?? qosClassOf(old as Pod);
  },
  // A pod that no kubelet has, or that is over already, goes at once.
  gracePeriodSeconds: (object, asked) => {
    const pod = object as Pod;
    if (!pod.spec.nodeName || pod.status?.phase === 'Failed' || pod.status?.phase === 'Succeeded') return 0;
    return asked ?? pod.spec.terminationGracePeriodSeconds ?? DEFAULT_GRACE_SECONDS;
  },
};

/** Namespaces that the cluster can't do without: apiserver plugin namespace/lifecycle. */
const IMMORTAL = new Set(['default', 'kube-system', 'kube-public']);

export const namespaceStrategy: Strategy = {
  prepareCreate: (object) => {
    const namespace = object as Namespace;
    namespace.status = { phase: 'Active' };
    const finalizers = new Set(namespace.spec?.finalizers ?? []);
    namespace.spec = { finalizers: [...finalizers.add('kubernetes')] };
    namespace.metadata.labels = {
      ...namespace.metadata.labels,
      'kubernetes.io/metadata.name': namespace.metadata.name,
    };
  },
  // spec.finalizers change through the finalize subresource only.
  prepareUpdate: (next, old) => {
    (next as Namespace).spec = structuredClone((old as Namespace).spec ?? {});
    next.metadata.labels = { ...next.metadata.labels, 'kubernetes.io/metadata.name': next.metadata.name };
  },
  refuseDelete: (object) =>
    IMMORTAL.has(object.metadata.name) ? 'this namespace may not be deleted' : undefined,
};

export const counted: Strategy = { generation: true };
export const createOnUpdate: Strategy = { createOnUpdate: true };

/** By kind of the stored object; those of Service and ServiceCIDR come from `allocate/`. */
export const plainStrategies: readonly (readonly [string, Strategy])[] = [
  ['Pod', podStrategy],
  ['Namespace', namespaceStrategy],
  ['EndpointSlice', counted],
  ['NetworkPolicy', counted],
  ['ClusterNetworkPolicy', counted],
  ['NodeNetworkPolicy', counted],
  ['Lease', createOnUpdate],
  ['Event', createOnUpdate],
];
