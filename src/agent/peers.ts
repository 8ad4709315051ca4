import type { Node } from '../model/kubernetes.ts';
import { type Lease, leaseOfNode } from '../overlay/index.ts';

/** A Node object never changes, so its lease is read once: a thousand take 3 ms, and one Node changes all the time. */
const known = new WeakMap<Node, Lease | undefined>();

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
      if (!known.has(node))
        known.set(node, leaseOfNode({ name, annotations, podCidrs: node.spec?.podCIDRs ?? [] }));
      const lease = known.get(node);
      if (lease) leases.push(lease);
    } catch (error) {
      unreadable.push({ node: name, error: error as Error });
    }
  }
  return { leases, unreadable };
}
