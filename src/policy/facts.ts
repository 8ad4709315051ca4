/** From the API's objects to facts: defaults filled in, addresses read, selections given one name. Pure. */
import { type Cidr, IpAddress, looseCidr, tryParseIp } from '../addr/index.ts';
import type {
  LabelSelector,
  NetworkPolicy,
  NetworkPolicyPeer,
  NetworkPolicyPort,
  Pod,
} from '../model/kubernetes.ts';
import { type Labels, labelSelectorText } from '../model/label-selector.ts';
import type {
  AddressRange,
  NamedPort,
  PeerFacts,
  PodFacts,
  PodHostPort,
  PolicyFacts,
  PortFacts,
  RuleFacts,
  Selection,
} from './types.ts';

/** Every namespace has its own name as this label, whether or not it is stored. */
const NAME_LABEL = 'kubernetes.io/metadata.name';

export function namespaceLabels(namespace: {
  metadata: { name: string; labels?: Record<string, string> };
}): Labels {
  const { name, labels } = namespace.metadata;
  return { ...labels, [NAME_LABEL]: name };
}

export function podFacts(pod: Pod): PodFacts {
  const { metadata, spec, status } = pod;
  const phase = status?.phase;
  const ips = status?.podIPs ?? [];
  const ports: NamedPort[] = [];
  const hostPorts: PodHostPort[] = [];
  // Init containers that restart always are sidecars; their ports count, those of others are gone when the pod serves.
  const sidecars = (spec?.initContainers ?? []).filter(({ restartPolicy }) => restartPolicy === 'Always');
  const containers = [...sidecars, ...(spec?.containers ?? [])];
  for (const container of containers)
    for (const { name, containerPort, protocol = 'TCP', hostPort, hostIP } of container.ports ?? []) {
      if (name !== undefined && name !== '') ports.push({ name, protocol, port: containerPort });
      const at = hostIP ? tryParseIp(hostIP) : undefined;
      if (hostPort && (at || !hostIP))
        hostPorts.push({ protocol, hostPort, hostIP: at, port: containerPort });
    }
  return {
    namespace: metadata.namespace ?? 'default',
    name: metadata.name,
    uid: metadata.uid ?? '',
    labels: metadata.labels ?? {},
    node: spec?.nodeName ?? '',
    hostNetwork: spec?.hostNetwork === true,
    ended: phase === 'Succeeded' || phase === 'Failed',
    addresses: ips.flatMap(({ ip }) => tryParseIp(ip) ?? []),
    ports,
    ...(hostPorts.length > 0 && { hostPorts }),
  };
}

/** policyTypes default: Ingress always, Egress when the policy has egress rules. */
export function policyFacts(policy: NetworkPolicy): PolicyFacts {
  const { metadata, spec } = policy;
  const namespace = metadata.namespace ?? 'default';
  const problems: string[] = [];
  const egressGiven = (spec?.egress?.length ?? 0) > 0;
  const types = spec?.policyTypes ?? (egressGiven ? ['Ingress', 'Egress'] : ['Ingress']);
  const rule = (
    at: string,
    peers: readonly NetworkPolicyPeer[] | undefined,
    ports: readonly NetworkPolicyPort[] | undefined,
  ): RuleFacts => ({
    peers:
      peers && peers.length > 0
        ? peers.flatMap((peer, index) => peerFacts(peer, namespace, `${at}.peer[${index}]`, problems))
        : undefined,
    ports: ports && ports.length > 0 ? ports.map(portFacts) : undefined,
  });
  return {
    key: `${namespace}/${metadata.name}`,
    namespace,
    name: metadata.name,
    generation: metadata.generation ?? 0,
    podSelector: spec?.podSelector ?? {},
    ingress: types.includes('Ingress')
      ? (spec?.ingress ?? []).map(({ from, ports }, index) => rule(`ingress[${index}]`, from, ports))
      : undefined,
    egress: types.includes('Egress')
      ? (spec?.egress ?? []).map(({ to, ports }, index) => rule(`egress[${index}]`, to, ports))
      : undefined,
    problems,
  };
}

function portFacts({ protocol, port, endPort }: NetworkPolicyPort): PortFacts {
  return { protocol: protocol ?? 'TCP', port, endPort };
}

/** Nodes by their labels as a peer. */
export function nodesPeer(selector: LabelSelector): PeerFacts {
  return { kind: 'nodes', id: `nodes (${labelSelectorText(selector) || 'all'})`, selector };
}

function peerFacts(
  peer: NetworkPolicyPeer,
  namespace: string,
  at: string,
  problems: string[],
): readonly PeerFacts[] {
  const { podSelector, namespaceSelector, ipBlock } = peer;
  if (ipBlock) {
    const cidr = looseCidr(ipBlock.cidr);
    const except = (ipBlock.except ?? []).map((text) => looseCidr(text));
    if (!cidr || except.includes(undefined)) {
      problems.push(`${at}: ipBlock ${JSON.stringify(ipBlock)} is not readable and matches nothing`);
      return [];
    }
    const text = `${cidr}${except.length > 0 ? ` except ${except.map(String).join(' ')}` : ''}`;
    const ranges = subtract(cidr, except as Cidr[]);
    return [{ kind: 'block', text, family: cidr.family, ranges }];
  }
  if (!podSelector && !namespaceSelector) {
    problems.push(`${at}: it has no selector and no ipBlock, and matches nothing`);
    return [];
  }
  return [{ kind: 'pods', selection: selectionOf(namespaceSelector ?? namespace, podSelector ?? {}) }];
}

export function selectionOf(namespaces: string | LabelSelector, pods: LabelSelector): Selection {
  const where =
    typeof namespaces === 'string'
      ? `namespace ${namespaces}`
      : `namespaces (${labelSelectorText(namespaces) || 'all'})`;
  return { id: `${where} pods (${labelSelectorText(pods) || 'all'})`, namespaces, pods };
}

/** The addresses of a network that are in none of the others, as few ranges in order. */
export function subtract(cidr: Cidr, except: readonly Cidr[]): AddressRange[] {
  const { family } = cidr;
  const holes = except
    .filter((hole) => hole.overlaps(cidr))
    .map((hole) => ({ first: BigInt(hole.address.value), last: BigInt(hole.last.value) }))
    .sort((a, b) => (a.first < b.first ? -1 : 1));
  const ranges: AddressRange[] = [];
  const end = BigInt(cidr.last.value);
  let from = BigInt(cidr.address.value);
  const push = (last: bigint) => {
    if (last >= from) ranges.push({ first: IpAddress.of(family, from), last: IpAddress.of(family, last) });
  };
  for (const hole of holes) {
    push(hole.first - 1n);
    if (hole.last + 1n > from) from = hole.last + 1n;
  }
  push(end);
  return ranges;
}

/** Ranges joined where they touch or overlap, in order: what one nftables set takes. */
export function joinRanges(ranges: readonly AddressRange[]): AddressRange[] {
  const sorted = [...ranges].sort((a, b) => a.first.compare(b.first));
  const joined: { first: IpAddress; last: IpAddress }[] = [];
  for (const { first, last } of sorted) {
    const before = joined.at(-1);
    if (before && BigInt(first.value) <= BigInt(before.last.value) + 1n) {
      if (last.compare(before.last) > 0) before.last = last;
    } else joined.push({ first, last });
  }
  return joined;
}
