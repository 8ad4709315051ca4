/** What namespaces ask for, pods, nodes and routes, put together: the fate of each namespace in each family. Pure. */
import { type Cidr, FAMILIES, type Family, type IpAddress } from '../addr/index.ts';
import type { Route } from '../kernel/rtnl/index.ts';
import { type Holder, holderOf } from './holders.ts';
import { MOST_SLOTS, placeSlots, wayTo } from './slots.ts';
import type { EgressNode, EgressPod, EgressState, Fate, Slot, Way, Wish } from './types.ts';

export interface EgressInput {
  readonly node: string;
  readonly families: readonly Family[];
  /** By namespace; without those that ask for nothing. */
  readonly wishes: ReadonlyMap<string, Wish>;
  /** Whether a namespace is known; its pods are closed until it is. */
  readonly isKnown: (namespace: string) => boolean;
  /** All nodes; this one with what it claims now. */
  readonly nodes: readonly EgressNode[];
  /** Pods of this node. */
  readonly local: readonly EgressPod[];
  /** Pods of other nodes, in namespaces whose address this node may hold. */
  readonly remote: readonly EgressPod[];
  /** What this node knows about why nobody holds an address. */
  readonly whyNot?: ((address: string) => string | undefined) | undefined;
  /** Routes of Portolan in all tables. */
  readonly routes: readonly Route[];
  /** Networks of pods and Services. */
  readonly cluster: readonly Cidr[];
  /** Pod networks of this node. */
  readonly own: readonly Cidr[];
}

/** A pod's address and what happens to what it sends outside. */
export interface EgressPodFate {
  readonly pod: EgressPod;
  readonly address: IpAddress;
  readonly fate: Fate;
}

export interface EgressDesired {
  readonly slots: readonly Slot[];
  readonly states: readonly EgressState[];
  readonly local: readonly EgressPodFate[];
  /** Pods of other nodes that leave by this one. */
  readonly remote: readonly EgressPodFate[];
  /** Egress addresses that this node was elected for: nobody may be reached there. */
  readonly elected: readonly IpAddress[];
  readonly cluster: readonly Cidr[];
  readonly own: readonly Cidr[];
  readonly nodeAddresses: readonly IpAddress[];
  /** Whether anything asks for an egress address: without that, nothing is in the kernel. */
  readonly active: boolean;
}

export const NOT_KNOWN = 'its namespace is not known yet';

export function desiredEgress(input: EgressInput): EgressDesired {
  const { node, families, wishes, nodes } = input;
  const byName = new Map(nodes.map((each) => [each.name, each]));
  const holders = new Map<string, Holder | undefined>();
  for (const { addresses } of wishes.values())
    for (const family of families) {
      const address = addresses[family];
      if (address) holders.set(String(address), holderOf(String(address), nodes));
    }
  const slots = new Map(families.map((family) => [family, slotsOf(family, holders, byName, input)]));
  const fates = new Map<string, Fate>();
  const states: EgressState[] = [];
  for (const wish of [...wishes.values()].sort((a, b) => (a.namespace < b.namespace ? -1 : 1)))
    for (const family of families) {
      const fate = fateOf(wish, family, holders, slots.get(family)!, input);
      if (!fate) continue;
      fates.set(`${wish.namespace} ${family}`, fate);
      const pods = input.local.filter(
        ({ namespace, addresses }) =>
          namespace === wish.namespace && addresses.some((address) => address.family === family),
      );
      states.push({ namespace: wish.namespace, family, fate, pods: pods.length });
    }
  const unknown: Fate = { kind: 'closed', address: undefined, why: NOT_KNOWN };
  const fatesOf = (pods: readonly EgressPod[], wanted: (fate: Fate) => boolean) =>
    pods.flatMap((pod) =>
      pod.addresses.flatMap((address): EgressPodFate[] => {
        const fate =
          fates.get(`${pod.namespace} ${address.family}`) ??
          (input.isKnown(pod.namespace) ? undefined : unknown);
        return fate && families.includes(address.family) && wanted(fate) ? [{ pod, address, fate }] : [];
      }),
    );
  const local = fatesOf(input.local, () => true);
  const own = byName.get(node);
  return {
    slots: [...slots.values()].flatMap((each) => [...each.values()]),
    states,
    local,
    remote: fatesOf(input.remote, (fate) => fate.kind === 'here'),
    elected: [...holders].flatMap(([text, holder]) => {
      if (holder?.node !== node || own?.claims.get(text) === 'own') return [];
      return FAMILIES.flatMap((family) => addressOf(text, family, wishes));
    }),
    cluster: input.cluster,
    own: input.own,
    nodeAddresses: nodes.flatMap(({ addresses }) => addresses),
    active: wishes.size > 0 || local.length > 0,
  };
}

function addressOf(text: string, family: Family, wishes: ReadonlyMap<string, Wish>): IpAddress[] {
  for (const { addresses } of wishes.values()) {
    const address = addresses[family];
    if (address && String(address) === text) return [address];
  }
  return [];
}

function slotsOf(
  family: Family,
  holders: ReadonlyMap<string, Holder | undefined>,
  nodes: ReadonlyMap<string, EgressNode>,
  { node, routes, wishes }: EgressInput,
): Map<string, Slot> {
  const ways = new Map<string, Way>();
  for (const { addresses } of wishes.values()) {
    const address = addresses[family];
    const holder = address && holders.get(String(address));
    if (!holder || holder.node === node) continue;
    const other = nodes.get(holder.node);
    const way = other && wayTo(other, family, routes);
    if (way) ways.set(holder.node, way);
  }
  return placeSlots(family, ways, routes);
}

function fateOf(
  { addresses, problem }: Wish,
  family: Family,
  holders: ReadonlyMap<string, Holder | undefined>,
  slots: ReadonlyMap<string, Slot>,
  { node, whyNot }: EgressInput,
): Fate | undefined {
  if (problem !== undefined)
    return { kind: 'closed', address: undefined, why: `its annotation is wrong: ${problem}` };
  const address = addresses[family];
  if (!address) return undefined;
  const holder = holders.get(String(address));
  if (!holder) {
    const more = whyNot?.(String(address));
    return {
      kind: 'closed',
      address,
      why: `no node holds ${address}${more === undefined ? '' : `: ${more}`}`,
    };
  }
  if (holder.node === node) return { kind: 'here', address };
  const slot = slots.get(holder.node);
  if (slot) return { kind: 'via', address, node: holder.node, slot: slot.number };
  const why =
    slots.size >= MOST_SLOTS
      ? `${address} is on node "${holder.node}", and there are no more than ${MOST_SLOTS} ways out over other nodes`
      : `${address} is on node "${holder.node}", and the overlay has no route to that`;
  return { kind: 'closed', address, why };
}
