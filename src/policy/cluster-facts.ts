/** From ClusterNetworkPolicy objects to facts. What is not understood fails closed, as its API demands. Pure. */
import { looseCidr, tryParseIp } from '../addr/index.ts';
import type {
  ClusterNetworkPolicy,
  ClusterPolicyPeer,
  ClusterPolicyProtocol,
  ClusterPolicyRule,
  PortMatch,
} from '../model/cluster-network-policy.ts';
import type { Node } from '../model/kubernetes.ts';
import { nodesPeer, selectionOf, subtract } from './facts.ts';
import type {
  ClusterPolicyFacts,
  NodeFacts,
  PeerFacts,
  PortFacts,
  Selection,
  TierRuleFacts,
} from './types.ts';

const TRANSPORTS = [
  ['tcp', 'TCP'],
  ['udp', 'UDP'],
  ['sctp', 'SCTP'],
] as const;

export function clusterPolicyFacts({ metadata, spec }: ClusterNetworkPolicy): ClusterPolicyFacts {
  const problems: string[] = [];
  const rules = (direction: 'ingress' | 'egress', side: 'from' | 'to') =>
    (spec[direction] ?? []).map((rule, index) =>
      ruleFacts(rule, rule[side] ?? [], `${direction}[${index}]`, problems),
    );
  const subject = subjectOf(spec.subject);
  if (!subject) problems.push('subject: it is not known to this version; the policy selects nothing');
  return {
    name: metadata.name,
    generation: metadata.generation ?? 0,
    tier: spec.tier,
    priority: spec.priority,
    subject: subject ?? selectionOf('', {}),
    ingress: rules('ingress', 'from'),
    egress: rules('egress', 'to'),
    problems,
  };
}

/** Undefined when it is of a newer kind. */
function subjectOf({ namespaces, pods }: ClusterNetworkPolicy['spec']['subject']): Selection | undefined {
  if (pods) return selectionOf(pods.namespaceSelector ?? {}, pods.podSelector ?? {});
  return namespaces && selectionOf(namespaces, {});
}

export function nodeFacts({ metadata, spec, status }: Node): NodeFacts {
  const addresses = (status?.addresses ?? []).flatMap(({ address }) => tryParseIp(address) ?? []);
  const podCidrs = spec?.podCIDRs ?? (spec?.podCIDR === undefined ? [] : [spec.podCIDR]);
  // As flannel: the first address of a node's pods is that of its tunnel device.
  const tunnel = podCidrs.flatMap((text) => looseCidr(text)?.address ?? []);
  return { labels: metadata.labels ?? {}, addresses, tunnel };
}

/** Names of nodes by the text of their addresses; the first that has one keeps it. */
export function nodesByAddress(nodes: ReadonlyMap<string, NodeFacts>): Map<string, string> {
  const found = new Map<string, string>();
  for (const [name, { addresses, tunnel = [] }] of nodes)
    for (const address of [...addresses, ...tunnel])
      if (!found.has(String(address))) found.set(String(address), name);
  return found;
}

/**
 * A rule with a peer or protocol of a newer version of the API: "Accept" matches nothing, "Deny" and "Pass" become
 * "Deny all" (network-policy-api v1alpha2, ClusterNetworkPolicyEgressPeer).
 */
export function ruleFacts(
  { action, name = '', protocols }: ClusterPolicyRule,
  from: readonly ClusterPolicyPeer[],
  at: string,
  problems: string[],
): TierRuleFacts {
  const peers = from.map(peerFacts);
  const ports = protocols?.map(portFacts);
  if (!peers.includes(undefined) && !ports?.includes(undefined))
    return {
      action,
      name,
      peers: peers.flatMap((peer) => peer ?? []),
      ports: ports?.flatMap((port) => port ?? []),
    };
  const closed = action === 'Accept' ? 'matches nothing' : 'denies everything';
  problems.push(`${at}: a peer or protocol of it is not known to this version; the rule ${closed}`);
  return action === 'Accept'
    ? { action, name, peers: [], ports: [] }
    : { action: 'Deny', name, peers: undefined, ports: undefined };
}

function peerFacts({ namespaces, pods, nodes, networks }: ClusterPolicyPeer): PeerFacts[] | undefined {
  if (namespaces) return [{ kind: 'pods', selection: selectionOf(namespaces, {}) }];
  if (pods)
    return [{ kind: 'pods', selection: selectionOf(pods.namespaceSelector ?? {}, pods.podSelector ?? {}) }];
  if (nodes) return [nodesPeer(nodes)];
  if (!networks) return undefined;
  const cidrs = networks.map((text) => looseCidr(text));
  if (cidrs.includes(undefined)) return undefined;
  return cidrs.map((cidr) => ({
    kind: 'block',
    text: String(cidr),
    family: cidr!.family,
    ranges: subtract(cidr!, []),
  }));
}

function portFacts(protocol: ClusterPolicyProtocol): PortFacts[] | undefined {
  const { destinationNamedPort: named } = protocol;
  if (named) return TRANSPORTS.map(([, each]) => ({ protocol: each, port: named, endPort: undefined }));
  for (const [member, transport] of TRANSPORTS) {
    const match = protocol[member];
    if (match) return numberFacts(match.destinationPort, transport);
  }
  return undefined;
}

function numberFacts(port: PortMatch | undefined, protocol: PortFacts['protocol']): PortFacts[] | undefined {
  if (!port) return [{ protocol, port: undefined, endPort: undefined }];
  const { number, range } = port;
  if (number !== undefined) return [{ protocol, port: number, endPort: undefined }];
  return range && [{ protocol, port: range.start, endPort: range.end }];
}
