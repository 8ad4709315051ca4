/** Defaults of Namespace and Node: pkg/apis/core/v1/defaults.go, and what their registries set on creation. */
import type { Namespace, Node } from '../../../model/kubernetes.ts';

/** Also sets the label by which policies and people select a namespace by name. */
export function defaultNamespace(namespace: Namespace): void {
  namespace.spec ??= {};
  if (!namespace.metadata.deletionTimestamp) {
    namespace.spec.finalizers ??= ['kubernetes'];
    namespace.status ??= {};
    namespace.status.phase ??= 'Active';
  }
  const { name } = namespace.metadata;
  if (!name) return;
  namespace.metadata.labels ??= {};
  namespace.metadata.labels['kubernetes.io/metadata.name'] = name;
}

export function defaultNode(node: Node): void {
  node.spec ??= {};
  node.status ??= {};
  const { spec, status } = node;
  if (spec.podCIDR && !spec.podCIDRs) spec.podCIDRs = [spec.podCIDR];
  if (!spec.podCIDR && spec.podCIDRs?.[0]) spec.podCIDR = spec.podCIDRs[0];
  if (status.capacity && !status.allocatable) status.allocatable = { ...status.capacity };
}
