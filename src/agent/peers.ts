import type { Node } from '../model/kubernetes.ts';
import { type Lease, leaseOfNode } from '../overlay/index.ts';

/** Leases of all nodes but one; Nodes with an unreadable annotation are left out and told. */
export function peerLeases(
  nodes: Iterable<Node>,
  except: string,
): { leases: Lease[]; unreadable: { node: string; error: Error }[] } {
  const leases: Lease[] = [];
  const unreadable: { node: string; error: Error }[] = [];
  for (const node of nodes) {
    const { name, annotations = {} } = node.metadata;
    if (name === except) continue;
    try {
      const lease = leaseOfNode({ name, annotations, podCidrs: node.spec?.podCIDRs ?? [] });
      if (lease) leases.push(lease);
    } catch (error) {
      unreadable.push({ node: name, error: error as Error });
    }
  }
  return { leases, unreadable };
}
