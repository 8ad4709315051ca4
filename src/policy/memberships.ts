/** Sets that rules name: addresses of a selection's pods, of nodes, and named ports of pods. */
import type { Family, IpAddress } from '../addr/index.ts';
import type { NftElement } from '../kernel/nft/index.ts';
import { type Labels, labelSelectorSelects } from '../model/label-selector.ts';
import { selectionSelects } from './evaluate.ts';
import { comment, groupName, namedPortName } from './names.ts';
import type { NodeFacts, PeerFacts, PodFacts, RuleFacts, Selection } from './types.ts';

const PROTOCOL_NUMBER = { TCP: 6, UDP: 17, SCTP: 132 } as const;
export const ADDRESS_TYPE: Readonly<Record<Family, string>> = { 4: 'ipv4_addr', 6: 'ipv6_addr' };

/** One set that pods or nodes are members of. */
export interface Membership {
  readonly name: string;
  readonly about: string;
  /** Keys of its elements for a pod that is a member; undefined when it is none. */
  readonly ofPod: (pod: PodFacts, addresses: readonly IpAddress[]) => Entry[] | undefined;
  /** The same of a node; undefined for sets without nodes. */
  readonly ofNode?: (name: string, node: NodeFacts) => Entry[] | undefined;
  readonly setKind: (family: Family) => string;
  /** The only namespace that its members can be in. */
  readonly namespace: string | undefined;
  readonly members: Map<string, Entry[]>;
  /** How many members have an element: two may hold one address for a moment. */
  readonly counts: Map<string, number>;
}

export interface Entry {
  readonly family: Family;
  readonly id: string;
  readonly element: NftElement;
}

/** Labels of a namespace; undefined when it is not known. */
export type LabelsOf = (namespace: string) => Labels | undefined;

/** The sets that rules need, by name, each made only when it is not there yet. */
export function membershipsOf(rules: Iterable<RuleFacts>, labelsOf: LabelsOf): Map<string, () => Membership> {
  const found = new Map<string, () => Membership>();
  for (const { peers, ports } of rules) {
    for (const peer of peers ?? [])
      if (peer.kind === 'pods') {
        const { selection } = peer;
        found.set(groupName(selection.id), () => selectionMembership(selection, labelsOf));
      } else if (peer.kind === 'nodes') found.set(groupName(peer.id), () => nodesMembership(peer));
    for (const { port, protocol } of ports ?? [])
      if (typeof port === 'string')
        found.set(namedPortName(port, protocol), () => namedPortMembership(port, protocol));
  }
  return found;
}

const addressEntries = (addresses: readonly IpAddress[], about: string): Entry[] =>
  addresses.map((address) => ({
    family: address.family,
    id: String(address),
    element: { key: [address], comment: comment(about) },
  }));

function selectionMembership(selection: Selection, labelsOf: LabelsOf): Membership {
  return {
    name: groupName(selection.id),
    about: selection.id,
    namespace: typeof selection.namespaces === 'string' ? selection.namespaces : undefined,
    setKind: (family) => ADDRESS_TYPE[family],
    members: new Map(),
    counts: new Map(),
    ofPod: (pod, addresses) =>
      selectionSelects(selection, pod, labelsOf(pod.namespace))
        ? addressEntries(addresses, `pod ${pod.namespace}/${pod.name}`)
        : undefined,
  };
}

function nodesMembership({ id, selector }: Extract<PeerFacts, { kind: 'nodes' }>): Membership {
  return {
    name: groupName(id),
    about: id,
    namespace: undefined,
    setKind: (family) => ADDRESS_TYPE[family],
    members: new Map(),
    counts: new Map(),
    ofPod: () => undefined,
    ofNode: (name, { labels, addresses, tunnel = [] }) =>
      labelSelectorSelects(selector, labels)
        ? addressEntries([...addresses, ...tunnel], `node ${name}`)
        : undefined,
  };
}

function namedPortMembership(name: string, protocol: keyof typeof PROTOCOL_NUMBER): Membership {
  const number = PROTOCOL_NUMBER[protocol];
  return {
    name: namedPortName(name, protocol),
    about: `pods with port ${name}/${protocol}`,
    namespace: undefined,
    setKind: (family) => `${ADDRESS_TYPE[family]} . inet_proto . inet_service`,
    members: new Map(),
    counts: new Map(),
    ofPod: (pod, addresses) => {
      const ports = new Set(
        pod.ports.filter((each) => each.name === name && each.protocol === protocol).map(({ port }) => port),
      );
      if (ports.size === 0) return undefined;
      const about = comment(`pod ${pod.namespace}/${pod.name}`);
      return addresses.flatMap((address) =>
        [...ports].map((port) => ({
          family: address.family,
          id: `${address} ${number} ${port}`,
          element: { key: [address, number, port], comment: about },
        })),
      );
    },
  };
}
