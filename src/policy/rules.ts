/**
 * Policies as nft rules of one family. Pure.
 *
 *     policy_forward   established ──► accept
 *                      source in policy_egress ──► goto policy_out_GROUP ─ jump policy_out/NS/NAME ─ match ──► goto policy_to
 *                                                                        └ drop
 *                      destination in policy_ingress ──► goto policy_in_GROUP ─ jump policy_in/NS/NAME ─ match ──► accept
 *                                                                             └ drop
 *     policy_to        destination in policy_ingress ──► as above; else accept
 *     policy_input     what pods send to their node: egress only
 *
 * What the node itself sends comes by the output hook and meets no chain: a node reaches its own pods always. An
 * `accept` here ends only this table; other people's rules still count.
 */
import type { Family } from '../addr/index.ts';
import { joinRanges } from './facts.ts';
import {
  comment,
  FORWARD,
  groupName,
  INPUT,
  ISOLATED,
  namedPortName,
  nftFamily,
  policyChainName,
  TO,
  unionChainName,
  VERDICTS,
} from './names.ts';
import type { Chain } from './tables.ts';
import type { Direction, PolicyFacts, PortFacts, RuleFacts } from './types.ts';

const ESTABLISHED = 'ct state established,related accept comment "replies and what is allowed already"';
/** Neighbours of a pod's link must be found whatever its policies say (RFC 4861). */
const NEIGHBOURS =
  'icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept comment "neighbour discovery"';

/** The chains that every packet of a forwarding node meets while any local pod is isolated. */
export function baseChains(family: Family, cutEstablished: boolean): Map<string, Chain> {
  const ip = nftFamily(family);
  // A cut connection must not come back from its other end: its packets are no start of a connection.
  const midway = ['saddr', 'daddr'].map(
    (side) =>
      `ct state new tcp flags & (fin|syn|rst|ack) != syn ${ip} ${side} @${ISOLATED} counter drop comment "cut: no start of a connection"`,
  );
  const egress = `${ip} saddr vmap @${VERDICTS.egress}`;
  const ingress = `${ip} daddr vmap @${VERDICTS.ingress}`;
  return new Map<string, Chain>([
    [TO, { rules: [ingress, 'accept'] }],
    [
      FORWARD,
      {
        hook: 'type filter hook forward priority 0; policy accept;',
        rules: [ESTABLISHED, ...(cutEstablished ? midway : []), egress, ingress],
      },
    ],
    [
      INPUT,
      {
        hook: 'type filter hook input priority 0; policy accept;',
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
): { name: string; chain: Chain } | undefined {
  const rules = (policy[direction] ?? []).flatMap((rule, index) =>
    ruleLines(rule, direction, family, comment(`np ${policy.key} ${direction}[${index}]`)),
  );
  if (rules.length === 0) return undefined;
  return { name: policyChainName(policy.key, direction), chain: { rules } };
}

/** The chain of all policies that isolate a pod in a direction; `keys` are sorted. */
export function unionChain(
  keys: readonly string[],
  direction: Direction,
  chainOf: (key: string) => string | undefined,
): { name: string; chain: Chain } {
  const jumps = keys.flatMap((key) => {
    const chain = chainOf(key);
    return chain === undefined ? [] : [`jump ${chain}`];
  });
  const more = keys.length > 1 ? ` and ${keys.length - 1} more` : '';
  const why = comment(`np default deny ${direction}: isolated by ${keys[0]}${more}`);
  return {
    name: unionChainName(keys, direction),
    chain: { rules: [...jumps, `counter drop comment "${why}"`] },
  };
}

function ruleLines(rule: RuleFacts, direction: Direction, family: Family, owner: string): string[] {
  const ip = nftFamily(family);
  const verdict = direction === 'ingress' ? 'accept' : `goto ${TO}`;
  const peers = peerMatches(rule, `${ip} ${direction === 'ingress' ? 'saddr' : 'daddr'}`, family);
  const ports = portMatches(rule.ports, ip);
  return peers.flatMap((peer) =>
    ports.map((port) =>
      [peer, port, 'counter', verdict, `comment "${owner}"`].filter((part) => part !== '').join(' '),
    ),
  );
}

function peerMatches({ peers }: RuleFacts, side: string, family: Family): string[] {
  if (!peers) return [''];
  const groups = peers.flatMap((peer) => (peer.kind === 'pods' ? [groupName(peer.selection.id)] : []));
  const lines = [...new Set(groups)].map((group) => `${side} @${group}`);
  const blocks = peers.flatMap((peer) =>
    peer.kind === 'block' && peer.family === family ? peer.ranges : [],
  );
  if (blocks.length > 0) {
    const ranges = joinRanges(blocks).map(({ first, last }) =>
      first.equals(last) ? String(first) : `${first}-${last}`,
    );
    lines.push(`${side} { ${ranges.join(', ')} }`);
  }
  return lines;
}

function portMatches(ports: readonly PortFacts[] | undefined, ip: string): string[] {
  if (!ports) return [''];
  const named = ports.flatMap(({ port, protocol }) =>
    typeof port === 'string' ? [namedPortName(port, protocol)] : [],
  );
  const lines = [...new Set(named)].map((name) => `${ip} daddr . meta l4proto . th dport @${name}`);
  const numbers = (['TCP', 'UDP', 'SCTP'] as const).flatMap((protocol) =>
    joinPorts(ports.filter((port) => port.protocol === protocol && typeof port.port !== 'string')).map(
      ([first, last]) => ({ protocol: protocol.toLowerCase(), first, last }),
    ),
  );
  const text = (first: number, last: number) => (first === last ? `${first}` : `${first}-${last}`);
  const only = numbers[0];
  if (numbers.length === 1 && only)
    lines.unshift(
      only.first === 0 && only.last === 65_535
        ? `meta l4proto ${only.protocol}`
        : `${only.protocol} dport ${text(only.first, only.last)}`,
    );
  else if (numbers.length > 1)
    lines.unshift(
      `meta l4proto . th dport { ${numbers.map(({ protocol, first, last }) => `${protocol} . ${text(first, last)}`).join(', ')} }`,
    );
  return lines;
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
