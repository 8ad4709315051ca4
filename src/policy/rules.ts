/**
 * Policies as nft rules of one family. Pure.
 *
 *     policy_forward   established, or a pod to itself ──► accept
 *                      source in policy_egress ──► goto policy_out_GROUP ─ jump policy_out/NS/NAME ─ match ──► goto policy_to
 *                                                                        └ drop
 *                      destination in policy_ingress ──► goto policy_in_GROUP ─ jump policy_in/NS/NAME ─ match ──► accept
 *                                                                             └ drop
 *     policy_to        destination in policy_ingress ──► as above; else accept
 *     policy_input     what pods send to their node: egress only
 *     policy_output    the node amid a connection that was cut ──► drop; it begins what it likes with its own pods
 *
 * An `accept` here ends only this table; other people's rules still count.
 */
import type { Family } from '../addr/index.ts';
import {
  ACCEPT,
  among,
  COUNTER,
  ctState,
  DROP,
  equals,
  goTo,
  inSet,
  jumpTo,
  type NftField,
  type NftRule,
  type NftStatement,
  type NftValues,
  RETURN,
  ruleOf,
} from '../kernel/nft/index.ts';
import type { PolicyAction } from '../model/cluster-network-policy.ts';
import { joinRanges } from './facts.ts';
import { type Logging, logRule } from './logging.ts';
import {
  comment,
  FORWARD,
  groupName,
  INPUT,
  ISOLATED,
  namedPortName,
  nftFamily,
  OUTPUT,
  ownerName,
  policyChainName,
  ruleComment,
  SELVES,
  TO,
  tierChainName,
  VERDICTS,
} from './names.ts';
import type { Standing } from './standing.ts';
import type { Chain } from './tables.ts';
import type { ClusterPolicyFacts, Direction, PolicyFacts, PortFacts, RuleFacts } from './types.ts';

const PROTOCOLS = [
  ['TCP', 6, 'tcp dport'],
  ['UDP', 17, 'udp dport'],
  ['SCTP', 132, 'sctp dport'],
] as const;

export const ESTABLISHED = ruleOf(
  [ctState('established', 'related'), ACCEPT],
  'replies and what is allowed already',
);
/** Neighbours of a pod's link must be found whatever its policies say: the four ND types (RFC 4861 section 4). */
export const NEIGHBOURS = ruleOf(
  [
    among(
      'icmpv6 type',
      [133, 134, 135, 136].map((type) => ({ key: [type] })),
    ),
    ACCEPT,
  ],
  'neighbour discovery',
);
const NO_START: NftStatement = {
  kind: 'flags',
  mask: ['fin', 'syn', 'rst', 'ack'],
  flags: ['syn'],
  not: true,
};
const FILTER = { type: 'filter', priority: 0, policy: 'accept' } as const;

/** The field of a packet that has its source's or destination's address. */
export function addressField(family: Family, side: 'saddr' | 'daddr'): NftField {
  return `${nftFamily(family)} ${side}`;
}

/** The chains that every packet of a forwarding node meets while any local pod is isolated. */
export function baseChains(family: Family, cutEstablished: boolean): Map<string, Chain> {
  const source = addressField(family, 'saddr');
  const destination = addressField(family, 'daddr');
  // A cut connection must not come back from its other end: its packets are no start of a connection.
  const midway = [source, destination].map((side) =>
    ruleOf(
      [ctState('new'), NO_START, inSet([side], ISOLATED), COUNTER, DROP],
      'cut: no start of a connection',
    ),
  );
  const itself = ruleOf(
    [inSet([source, destination], SELVES), ACCEPT],
    'a pod that a Service leads to itself',
  );
  const egress = ruleOf([{ kind: 'vmap', fields: [source], map: VERDICTS.egress }]);
  const ingress = ruleOf([{ kind: 'vmap', fields: [destination], map: VERDICTS.ingress }]);
  return new Map<string, Chain>([
    [TO, { rules: [ingress, ruleOf([ACCEPT])] }],
    [
      FORWARD,
      {
        hook: { ...FILTER, hook: 'forward' },
        rules: [ESTABLISHED, ...(cutEstablished ? midway : []), itself, egress, ingress],
      },
    ],
    ...(cutEstablished
      ? [[OUTPUT, { hook: { ...FILTER, hook: 'output' }, rules: midway.slice(1) }] as const]
      : []),
    [
      INPUT,
      {
        hook: { ...FILTER, hook: 'input' },
        rules: [ESTABLISHED, ...(family === 6 ? [NEIGHBOURS] : []), egress],
      },
    ],
  ]);
}

/** The chain of one policy and direction; undefined when it can allow nothing in this family. */
export function policyChain(
  policy: PolicyFacts,
  direction: Direction,
  family: Family,
  logging: Logging,
): { name: string; chain: Chain } | undefined {
  const rules = (policy[direction] ?? []).flatMap((rule, index) =>
    ruleLines(
      rule,
      direction,
      family,
      [allowing(direction), logging === 'all' ? 'allowed' : undefined],
      ruleComment('np', policy.key, `${direction}[${index}]`),
    ),
  );
  if (rules.length === 0) return undefined;
  return { name: policyChainName(policy.key, direction), chain: { rules } };
}

/**
 * The rules of ClusterNetworkPolicies of one tier in their order; undefined when none matches anything in this family.
 * They stand in one chain, because a Pass ends the whole tier: it returns.
 */
export function tierChain(
  policies: readonly ClusterPolicyFacts[],
  direction: Direction,
  family: Family,
  logging: Logging,
): { name: string; chain: Chain } | undefined {
  const [first] = policies;
  if (!first) return undefined;
  const verdicts: Readonly<Record<PolicyAction, Outcome>> = {
    Accept: [allowing(direction), logging === 'all' ? 'allowed' : undefined],
    Deny: [DROP, logging === 'off' ? undefined : 'denied'],
    Pass: [RETURN, undefined],
  };
  const rules = policies.flatMap((policy) =>
    policy[direction].flatMap((rule, index) => {
      const owner = ruleComment('cnp', policy.name, `${direction}[${index}]`, rule.name);
      return ruleLines(rule, direction, family, verdicts[rule.action], owner);
    }),
  );
  if (rules.length === 0) return undefined;
  const names = policies.map(({ name }) => name);
  return { name: tierChainName(first.tier, names, direction), chain: { rules } };
}

/** What pods go through that stand under the same policies; tiers are chains of `tierChain`. */
export function groupChain(
  { policies }: Standing,
  direction: Direction,
  tiers: Readonly<Record<'admin' | 'baseline', string | undefined>>,
  chainOf: (key: string) => string | undefined,
  logging: Logging,
): Chain {
  const rules = tiers.admin ? [ruleOf([jumpTo(tiers.admin)])] : [];
  const [first] = policies;
  if (first === undefined) {
    if (tiers.baseline) rules.push(ruleOf([jumpTo(tiers.baseline)]));
    return { rules: [...rules, ruleOf([allowing(direction)])] };
  }
  for (const key of policies) {
    const chain = chainOf(key);
    if (chain !== undefined) rules.push(ruleOf([jumpTo(chain)]));
  }
  const more = policies.length > 1 ? ` and ${policies.length - 1} more` : '';
  const why = comment(`np default deny ${direction}: isolated by ${ownerName(first)}${more}`);
  if (logging !== 'off') rules.push(logRule([], 'denied', why));
  return { rules: [...rules, ruleOf([COUNTER, DROP], why)] };
}

/** What the source's policies allow goes on to those of the destination. */
const allowing = (direction: Direction): NftStatement => (direction === 'ingress' ? ACCEPT : goTo(TO));

/** What a rule does, and as what it is reported. */
export type Outcome = readonly [verdict: NftStatement, logged: 'allowed' | 'denied' | undefined];

export function ruleLines(
  rule: RuleFacts,
  direction: Direction,
  family: Family,
  [verdict, logged]: Outcome,
  owner: string,
): NftRule[] {
  const peers = peerMatches(rule, addressField(family, direction === 'ingress' ? 'saddr' : 'daddr'), family);
  const ports = portMatches(rule.ports, family);
  return peers.flatMap((peer) =>
    ports.flatMap((port) => {
      const decides = ruleOf([...peer, ...port, COUNTER, verdict], owner);
      return logged ? [logRule([...peer, ...port], logged, owner), decides] : [decides];
    }),
  );
}

/** What matches the peers of a rule: each entry is one way to match; no statement matches all. */
export function peerMatches(
  { peers }: Pick<RuleFacts, 'peers'>,
  side: NftField,
  family: Family,
): NftStatement[][] {
  if (!peers) return [[]];
  const groups = peers.flatMap((peer) =>
    peer.kind === 'pods' ? [groupName(peer.selection.id)] : peer.kind === 'nodes' ? [groupName(peer.id)] : [],
  );
  const matches = [...new Set(groups)].map((group) => [inSet([side], group)]);
  const blocks = peers.flatMap((peer) =>
    peer.kind === 'block' && peer.family === family ? peer.ranges : [],
  );
  if (blocks.length > 0) {
    const values = joinRanges(blocks).map(
      ({ first, last }): NftValues =>
        first.equals(last) ? { key: [first] } : { key: [first], keyEnd: [last] },
    );
    matches.push([among(side, values)]);
  }
  return matches;
}

/** What matches the ports of a rule, as peerMatches(). */
export function portMatches(ports: readonly PortFacts[] | undefined, family: Family): NftStatement[][] {
  if (!ports) return [[]];
  const named = ports.flatMap(({ port, protocol }) =>
    typeof port === 'string' ? [namedPortName(port, protocol)] : [],
  );
  const matches = [...new Set(named)].map((name): NftStatement[] => [
    inSet([addressField(family, 'daddr'), 'meta l4proto', 'th dport'], name),
  ]);
  const numbers = PROTOCOLS.flatMap(([protocol, number, field]) =>
    joinPorts(ports.filter((port) => port.protocol === protocol && typeof port.port !== 'string')).map(
      ([first, last]) => ({ number, field, first, last }),
    ),
  );
  const only = numbers[0];
  if (numbers.length === 1 && only) {
    const all = only.first === 0 && only.last === 65_535;
    matches.unshift([all ? equals('meta l4proto', only.number) : among(only.field, [portValues([], only)])]);
  } else if (numbers.length > 1)
    matches.unshift([
      {
        kind: 'among',
        fields: ['meta l4proto', 'th dport'],
        values: numbers.map((each) => portValues([each.number], each)),
      },
    ]);
  return matches;
}

function portValues(
  before: readonly number[],
  { first, last }: { readonly first: number; readonly last: number },
): NftValues {
  const key = [...before, first];
  return first === last ? { key } : { key, keyEnd: [...before, last] };
}

/** Port ranges joined where they touch: nft refuses sets whose elements overlap. */
function joinPorts(ports: readonly PortFacts[]): [number, number][] {
  const ranges = ports
    .map(({ port, endPort }): [number, number] =>
      typeof port === 'number' ? [port, Math.max(port, endPort ?? port)] : [0, 65_535],
    )
    .sort(([a], [b]) => a - b);
  const joined: [number, number][] = [];
  for (const [first, last] of ranges) {
    const before = joined.at(-1);
    if (before && first <= before[1] + 1) before[1] = Math.max(before[1], last);
    else joined.push([first, last]);
  }
  return joined;
}
