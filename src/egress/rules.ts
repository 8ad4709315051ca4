/**
 * The rules of egress addresses in one family, as a part of the tables that all of Portolan shares. Pure.
 *
 *     pod's node                                          holder of the address
 *     egress_prerouting   source in egress_from:          egress_forward       new, from a pod of another node that no
 *       egress_to_N         mark with slot N                                   namespace sends here: dropped
 *       egress_closed/NS    counted, dropped              egress_postrouting   source in egress_as:
 *     egress_forward      marked, but not on the way         egress_as_ADDRESS   source becomes the address, random port
 *                         to its slot: dropped
 *     egress_postrouting  marked: source stays
 *     egress_last         mark taken away again
 *
 * Only packets that a pod sends of itself, to what is no pod, Service or node: egress_inside returns for all others.
 * Marking comes after Services were translated (dstnat, -100), source NAT before the overlay's masquerade (100).
 */

import { type Cidr, type Family, type IpAddress, parseCidr } from '../addr/index.ts';
import {
  COUNTER,
  ctState,
  DROP,
  inCidrs,
  inSet,
  jumpTo,
  type NftElement,
  type NftField,
  type NftPart,
  type NftPartChain,
  type NftPartSet,
  type NftRule,
  type NftSetShape,
  type NftStatement,
  RETURN,
  ruleOf,
  sourceNatRules,
} from '../kernel/nft/index.ts';
import { NFT_TABLE } from '../model/nft-parts.ts';
import type { EgressDesired, EgressPodFate } from './desired.ts';
import { MARK_MASK, markOf } from './slots.ts';
import type { EgressState, Fate, Slot } from './types.ts';

export const EGRESS_PREFIX = 'egress_';
const name = (text: string) => `${EGRESS_PREFIX}${text}`;

const FROM = name('from');
const AS = name('as');
const KNOWN = name('known');
const HELD = name('held');
const AWAY = name('away');
const UNMARKED = name('unmarked');
const NODES = name('nodes');
const STRANGER = name('stranger');

/** After DNAT (-100); before source NAT of Services (99) and pods (100); before policies at hook forward (0 and up). */
const PRIORITY = { prerouting: -90, forward: -10, postrouting: 98 } as const;
/** After source NAT (100), before the packet reaches its link. */
const LAST_PRIORITY = 110;

/** Never outside: multicast, this link only, this host, everybody on the link (RFC 6890, RFC 4291). */
const NOT_OUTSIDE: Record<Family, readonly Cidr[]> = {
  4: ['224.0.0.0/4', '169.254.0.0/16', '127.0.0.0/8', '255.255.255.255/32'].map(parseCidr),
  6: ['ff00::/8', 'fe80::/10', '::1/128'].map(parseCidr),
};
/** RTN_UNICAST: neither an address of this node nor a broadcast of its links. */
const UNICAST = 1;
const ANY_SLOT: NftStatement = { kind: 'mark', field: 'meta mark', mask: MARK_MASK, value: 0, not: true };

/** What `egress list` counts by: the comment of a rule that drops. */
export const DROPS = {
  closed: (namespace: string) => `egress: closed for namespace ${namespace}`,
  stranger: 'egress: from a pod of another node, whose address is not here',
  astray: (node: string) => `egress: not on the way to ${node}`,
  invalid: 'egress: of no connection',
  unmarked: 'egress: not marked',
  held: 'egress: to an egress address, of no connection',
} as const;

/**
 * The part of one family; nothing while no namespace asks. `leaving` are pods that are let by no more, but still
 * translated: see egressSteps().
 */
export function egressPart(
  family: Family,
  desired: EgressDesired,
  leaving: readonly EgressPodFate[] = [],
): NftPart {
  const at = { family: family === 4 ? 'ip' : 'ip6', table: NFT_TABLE, prefix: EGRESS_PREFIX } as const;
  if (!desired.active) return { ...at, sets: [], chains: [] };
  const of = <T extends { readonly family: Family }>(list: readonly T[]) =>
    list.filter((each) => each.family === family);
  const here = [...desired.local, ...desired.remote].filter(
    ({ address, fate }) => address.family === family && fate.kind === 'here',
  );
  const translated = [...leaving.filter(({ address }) => address.family === family), ...here];
  const away = desired.local.filter(({ address, fate }) => address.family === family && fate.kind !== 'here');
  const slots = of(desired.slots);
  return {
    ...at,
    sets: [
      verdicts(family, FROM, away),
      verdicts(family, AS, translated),
      plain(
        family,
        KNOWN,
        'pods that leave by this node',
        here.map(({ address }) => address),
      ),
      plain(
        family,
        AWAY,
        'pods that leave by another node, or not at all',
        away.map(({ address }) => address),
      ),
      plain(family, HELD, 'egress addresses that this node was elected for', of(desired.elected)),
      plain(family, NODES, 'nodes', of(desired.nodeAddresses)),
    ],
    chains: [
      ...slots.map((slot) => slotChain(family, desired, slot)),
      ...closedChains(family, desired, away),
      ...sourceChains(family, desired, translated),
      strangerChain(family, desired),
      unmarkedChain(family, desired),
      ...baseChains(family, desired, slots),
    ],
  };
}

/**
 * The part as it has to become, one after the other. A packet that has passed hook forward is not at postrouting yet:
 * if its egress address went in that moment, it would leave with the address of this node. So first nothing more of
 * such a pod is let by, then its translation goes.
 */
export function egressSteps(family: Family, before: EgressDesired, now: EgressDesired): NftPart[] {
  const leaving = leavingPods(before, now).filter(({ address }) => address.family === family);
  const part = egressPart(family, now);
  return now.active && leaving.length > 0 ? [egressPart(family, now, leaving), part] : [part];
}

/** Pods that had an egress address here before, and have none now. */
function leavingPods(before: EgressDesired, now: EgressDesired): EgressPodFate[] {
  const here = ({ local, remote }: EgressDesired) =>
    [...local, ...remote].filter(({ fate }) => fate.kind === 'here');
  const stay = new Set(here(now).map(({ address }) => String(address)));
  return here(before).filter(({ address }) => !stay.has(String(address)));
}

function baseChains(family: Family, { cluster, own }: EgressDesired, slots: readonly Slot[]): NftPartChain[] {
  const saddr = field(family, 'saddr');
  const pods = ofFamily(cluster, family);
  const mine = ofFamily(own, family);
  const forward: NftRule[] = slots.map((slot) => {
    const marked: NftStatement = {
      kind: 'mark',
      field: 'meta mark',
      mask: MARK_MASK,
      value: markOf(slot.number),
    };
    const astray: NftStatement = { kind: 'nexthop', address: slot.gateway, not: true };
    return ruleOf([marked, astray, COUNTER, DROP], DROPS.astray(safe(slot.node)));
  });
  if (pods.length > 0 && mine.length > 0)
    forward.push(ruleOf([inCidrs(saddr, pods), inCidrs(saddr, mine, true), jumpTo(STRANGER)]));
  forward.push(
    ruleOf([inSet([saddr], AWAY), jumpTo(UNMARKED)]),
    ruleOf([inSet([field(family, 'daddr')], HELD), COUNTER, DROP], DROPS.held),
    ruleOf([ctState('invalid'), inSet([saddr], KNOWN), COUNTER, DROP], DROPS.invalid),
  );
  const base = (
    hook: keyof typeof PRIORITY,
    type: 'filter' | 'nat',
    rules: readonly NftRule[],
  ): NftPartChain => ({
    name: name(hook),
    hook: { type, hook, priority: PRIORITY[hook], policy: 'accept' },
    rules,
  });
  const chains = [
    base('prerouting', 'filter', [ruleOf([{ kind: 'vmap', fields: [saddr], map: FROM }])]),
    base('forward', 'filter', forward),
    base('postrouting', 'nat', [
      ruleOf([ANY_SLOT, { kind: 'keep source', family }], 'egress: its holder gives it its address'),
      ruleOf([{ kind: 'vmap', fields: [saddr], map: AS }]),
    ]),
  ];
  // A tunnel routes what it sends by the mark of what is inside: with it, its packets would be sent to itself.
  if (slots.length > 0)
    chains.push({
      name: name('last'),
      hook: { type: 'filter', hook: 'postrouting', priority: LAST_PRIORITY, policy: 'accept' },
      rules: [ruleOf([ANY_SLOT, { kind: 'set mark', mask: MARK_MASK, value: 0 }])],
    });
  return chains;
}

/** Returns for whatever is no connection of a pod to the outside. */
function inside(family: Family, { cluster }: EgressDesired): NftRule[] {
  const daddr = field(family, 'daddr');
  const inner = [...ofFamily(cluster, family), ...NOT_OUTSIDE[family]];
  return [
    ruleOf([{ kind: 'direction', direction: 'reply' }, RETURN], 'answers go where the question came from'),
    ruleOf([inCidrs(daddr, inner), RETURN]),
    ruleOf([inSet([daddr], NODES), RETURN]),
    ruleOf([{ kind: 'among', fields: ['fib daddr type'], values: [{ key: [UNICAST] }], not: true }, RETURN]),
  ];
}

function slotChain(family: Family, desired: EgressDesired, slot: Slot): NftPartChain {
  const mark: NftStatement = { kind: 'set mark', mask: MARK_MASK, value: markOf(slot.number) };
  return {
    name: slotName(slot.number),
    rules: [...inside(family, desired), ruleOf([mark], `egress: by ${safe(slot.node)}`)],
  };
}

function closedChains(
  family: Family,
  desired: EgressDesired,
  away: readonly EgressPodFate[],
): NftPartChain[] {
  const namespaces = new Set(
    away.flatMap(({ pod, fate }) => (fate.kind === 'closed' ? [pod.namespace] : [])),
  );
  return [...namespaces].sort().map((namespace) => ({
    name: closedName(namespace),
    rules: [...inside(family, desired), ruleOf([COUNTER, DROP], DROPS.closed(namespace))],
  }));
}

function sourceChains(
  family: Family,
  desired: EgressDesired,
  here: readonly EgressPodFate[],
): NftPartChain[] {
  const addresses = new Map<string, IpAddress>();
  for (const { fate } of here) if (fate.kind === 'here') addresses.set(String(fate.address), fate.address);
  return [...addresses.keys()].sort().map((text) => ({
    name: sourceName(addresses.get(text)!),
    rules: [...inside(family, desired), ...sourceNatRules(addresses.get(text)!, 'egress')],
  }));
}

/** What pods of other nodes send outside by this node: only with an egress address, never with this node's own. */
function strangerChain(family: Family, desired: EgressDesired): NftPartChain {
  return {
    name: STRANGER,
    rules: [
      ...inside(family, desired),
      ruleOf([ctState('invalid'), COUNTER, DROP], DROPS.invalid),
      ruleOf([inSet([field(family, 'saddr')], KNOWN), RETURN]),
      ruleOf([COUNTER, DROP], DROPS.stranger),
    ],
  };
}

/** What is to be marked and is not, because somebody has edited the rules that do it. */
function unmarkedChain(family: Family, desired: EgressDesired): NftPartChain {
  return {
    name: UNMARKED,
    rules: [ruleOf([ANY_SLOT, RETURN]), ...inside(family, desired), ruleOf([COUNTER, DROP], DROPS.unmarked)],
  };
}

const POD = 'pod ';

/** The pod that an element's comment names. */
export function podOfComment(comment: string): string | undefined {
  return comment.startsWith(POD) && comment.includes('/') ? comment.slice(POD.length) : undefined;
}

/** The map of pods that leave by this node. */
export function leavingSet(family: Family): NftSetShape {
  return { name: AS, map: true, key: keyOf(family) };
}

function verdicts(family: Family, set: string, pods: readonly EgressPodFate[]): NftPartSet {
  const elements = new Map<string, NftElement>();
  for (const { pod, address, fate } of pods)
    elements.set(String(address), {
      key: [address],
      data: { verdict: 'goto', chain: chainOf(pod.namespace, fate) },
      comment: safe(POD + pod.name),
    });
  return { name: set, map: true, key: keyOf(family), elements: sorted(elements) };
}

function plain(family: Family, set: string, comment: string, addresses: readonly IpAddress[]): NftPartSet {
  const elements = new Map(addresses.map((address) => [String(address), { key: [address] }]));
  return { name: set, map: false, key: keyOf(family), comment, elements: sorted(elements) };
}

/** In one order, so that the same elements are the same part. */
function sorted(elements: ReadonlyMap<string, NftElement>): NftElement[] {
  return [...elements.keys()].sort().map((key) => elements.get(key)!);
}

function chainOf(namespace: string, fate: Fate): string {
  if (fate.kind === 'via') return slotName(fate.slot);
  return fate.kind === 'here' ? sourceName(fate.address) : closedName(namespace);
}

const slotName = (slot: number) => name(`to_${slot}`);
const closedName = (namespace: string) => name(`closed/${namespace}`);
/** nft allows no ":" in names. */
const sourceName = (address: IpAddress) => name(`as_${String(address).replaceAll(':', '-')}`);

function keyOf(family: Family): string {
  return family === 4 ? 'ipv4_addr' : 'ipv6_addr';
}

function field(family: Family, part: 'saddr' | 'daddr'): NftField {
  return family === 4 ? `ip ${part}` : `ip6 ${part}`;
}

function ofFamily(cidrs: readonly Cidr[], family: Family): Cidr[] {
  return cidrs.filter((cidr) => cidr.family === family);
}

const LONGEST_COMMENT = 120;

/** Text that nft takes between quotes, cut to what the kernel keeps. */
function safe(text: string): string {
  return text.replace(/[^\w .,/=()!:;[\]+-]/g, '_').slice(0, LONGEST_COMMENT);
}

/** Namespaces that are closed in a family, for tests and people. */
export function closedOf(states: readonly EgressState[]): EgressState[] {
  return states.filter(({ fate }) => fate.kind === 'closed');
}
