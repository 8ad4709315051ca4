/** What a Service loses when its type changes: pkg/registry/core/service/strategy.go, dropTypeDependentFields. */
import type { Service } from '../../../model/kubernetes.ts';
import { equalJson } from '../validate/field-errors.ts';

type Spec = Service['spec'];

const hasClusterIP = (spec: Spec) => spec.type !== 'ExternalName';
const isLoadBalancer = (spec: Spec) => spec.type === 'LoadBalancer';
const hasHealthCheckPort = (spec: Spec) => isLoadBalancer(spec) && spec.externalTrafficPolicy === 'Local';
const hasNodePorts = (spec: Spec) =>
  spec.type === 'NodePort' || (isLoadBalancer(spec) && spec.allocateLoadBalancerNodePorts !== false);
const isExternal = (spec: Spec) =>
  spec.type === 'NodePort' ||
  isLoadBalancer(spec) ||
  (spec.type === 'ClusterIP' && !!spec.externalIPs?.length);

/**
 * Drops from `next`, in place, what only the old type needs and the client merely sent back. What the client set
 * anew stays, and validation refuses it.
 */
export function dropTypeDependentFields(next: Service, old: Service): void {
  const [a, b] = [next.spec, old.spec];
  const lost = (has: (spec: Spec) => boolean, ...members: (keyof Spec)[]) =>
    has(b) &&
    !has(a) &&
    members.every((member) => a[member] === undefined || equalJson(a[member], b[member]));
  if (lost(hasClusterIP, 'clusterIP', 'clusterIPs')) {
    delete a.clusterIP;
    delete a.clusterIPs;
    delete a.ipFamilies;
    delete a.ipFamilyPolicy;
  }
  if (lost(hasClusterIP, 'internalTrafficPolicy')) delete a.internalTrafficPolicy;
  if (hasNodePorts(b) && !hasNodePorts(a) && sameNodePorts(a, b))
    for (const port of a.ports ?? []) delete port.nodePort;
  if (lost(hasHealthCheckPort, 'healthCheckNodePort')) delete a.healthCheckNodePort;
  if (lost(isLoadBalancer, 'allocateLoadBalancerNodePorts')) delete a.allocateLoadBalancerNodePorts;
  if (lost(isLoadBalancer, 'loadBalancerClass')) delete a.loadBalancerClass;
  if (lost(isExternal, 'externalTrafficPolicy')) delete a.externalTrafficPolicy;
}

/** Whether every node port of `a` is one that `b` has. */
function sameNodePorts(a: Spec, b: Spec): boolean {
  const before = new Set((b.ports ?? []).map((port) => port.nodePort));
  return (a.ports ?? []).every((port) => port.nodePort === undefined || before.has(port.nodePort));
}
