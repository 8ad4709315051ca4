import type { Node } from '../model/kubernetes.ts';
import { ANNOTATION_PREFIX, type Lease, leaseOfNode, type NodeRecord } from '../overlay/index.ts';

/** A Node object never changes, so its lease is read once: a thousand take 3 ms, and one Node changes all the time. */
const known = new WeakMap<Node, Lease | undefined>();

/** A Node whose lease cannot be read. */
export interface Unreadable {
  node: string;
  error: Error;
}

/** What of a Node says how to reach its pods. */
export function nodeRecord({ metadata, spec }: Node): NodeRecord {
  const annotations = Object.entries(metadata.annotations ?? {});
  return {
    name: metadata.name,
    annotations: Object.fromEntries(annotations.filter(([key]) => key.startsWith(`${ANNOTATION_PREFIX}/`))),
    podCidrs: spec?.podCIDRs ?? [],
  };
}

/** Leases of all nodes but one; Nodes with an unreadable annotation are left out and told. */
export function peerLeases(
  nodes: Iterable<Node>,
  except: string,
): { leases: Lease[]; unreadable: Unreadable[] } {
  const leases: Lease[] = [];
  const unreadable: Unreadable[] = [];
  for (const node of nodes) {
    const { name } = node.metadata;
    if (name === except) continue;
    try {
      if (!known.has(node)) known.set(node, leaseOfNode(nodeRecord(node)));
      const lease = known.get(node);
      if (lease) leases.push(lease);
    } catch (error) {
      unreadable.push({ node: name, error: error as Error });
    }
  }
  return { leases, unreadable };
}
