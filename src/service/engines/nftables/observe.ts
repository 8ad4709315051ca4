/** What the kernel has and counted for Service ports, and what its sets say about a packet. */
import { parseIp } from '../../../addr/index.ts';
import type { ConntrackEntry } from '../../../kernel/conntrack/index.ts';
import type { NftElement } from '../../../kernel/nft/index.ts';
import { socketAddress } from '../../describe.ts';
import type { Count, PacketAnswer, PacketQuery, PortObservation } from '../../engine.ts';
import { DROPPED, REJECTED } from './base-chains.ts';
import { backendText, entryId, PROTOCOL_NUMBER, slotEntries } from './compile.ts';
import { type DumpedTable, slotsOf } from './dump.ts';
import type { SetContents } from './kernel.ts';
import type { SetId } from './layout.ts';
import { idOf, type LedgerPort } from './ledger.ts';
import { chainOf } from './leftovers.ts';
import { parseAffine, parseTarget } from './target-chains.ts';

/** Sets whose elements count new connections that are forwarded, or dropped for policy Local. */
export const FORWARD_SETS: readonly SetId[] = [
  'vips',
  'vips-node',
  'vips-outside',
  'nodeports',
  'nodeports-node',
  'nodeports-outside',
];
/** Sets whose elements count new connections of a backend. */
export const SLOT_SETS: readonly SetId[] = ['slots', 'nodeport-slots'];
export const REFUSED_SETS: readonly SetId[] = [
  'refused',
  'refused-nodeports',
  'refused-outside',
  'refused-nodeports-outside',
];

const NO_COUNT: Count = { connections: 0, refused: 0, packets: 0, bytes: 0 };

/** Counters by the identity of the element. */
export function packetsOf(sets: SetContents): Map<string, number> {
  const counts = new Map<string, number>();
  for (const [set, elements] of Object.entries(sets) as [SetId, readonly NftElement[]][])
    for (const { key, packets } of elements) if (packets) counts.set(entryId(set, key), packets);
  return counts;
}

/** New connections to a port's frontends since they were written; undefined when it was never used. */
export function countOf(port: LedgerPort, packets: ReadonlyMap<string, number>): Count | undefined {
  let connections = 0;
  let refused = 0;
  for (const entry of port.entries) {
    const { set, element } = entry;
    const count = packets.get(idOf(entry)) ?? 0;
    if (REFUSED_SETS.includes(set) || chainOf(element) === DROPPED) refused += count;
    else if (FORWARD_SETS.includes(set)) connections += count;
  }
  return connections + refused === 0 ? undefined : { ...NO_COUNT, connections, refused };
}

/** What was counted in a family. */
export interface Counted {
  /** By the identity of the element. */
  readonly packets: ReadonlyMap<string, number>;
  /** By the number of the endpoint of a port with affinity. */
  readonly endpoints: ReadonlyMap<number, number>;
}

/** New connections by backend, since each of its slots was written. */
function backendCounts(port: LedgerPort, { packets, endpoints }: Counted): Map<string, number> {
  const counts = new Map<string, number>();
  const add = (name: string, count: number) => counts.set(name, (counts.get(name) ?? 0) + count);
  for (const [name, id] of port.affinity?.ids ?? []) add(name, endpoints.get(id) ?? 0);
  for (const { set, element } of slotEntries(port.fronts, port.slots)) {
    const count = packets.get(entryId(set, element.key));
    const [address, number] = element.data as readonly [address: unknown, number: number];
    if (count) add(backendText({ address: String(address), port: number }), count);
  }
  return counts;
}

/** `flows` are connections that conntrack translates. */
export function observePort(
  port: LedgerPort,
  counted: Counted,
  flows: readonly ConntrackEntry[],
): PortObservation {
  const { plan } = port;
  const perBackend = backendCounts(port, counted);
  const protocol = PROTOCOL_NUMBER[plan.protocol];
  const fronts = new Set(plan.frontends.map(({ address, port: number }) => `${address} ${number}`));
  const open = new Map<string, number>();
  for (const { original, reply } of flows) {
    if (original.protocol !== protocol) continue;
    if (!fronts.has(`${original.destination} ${original.destinationPort}`)) continue;
    const end = `${reply.source} ${reply.sourcePort}`;
    open.set(end, (open.get(end) ?? 0) + 1);
  }
  return {
    number: port.affinity?.number ?? 0,
    count: countOf(port, counted.packets) ?? NO_COUNT,
    backends: plan.backends.map(({ endpoint, port: number }, at) => ({
      id: at,
      count: {
        ...NO_COUNT,
        connections: perBackend.get(backendText({ address: endpoint.address, port: number })) ?? 0,
      },
      flows: open.get(`${endpoint.address} ${number}`) ?? 0,
    })),
    entries: port.entries.map(({ set, element }) => elementText(set, element)),
  };
}

/** `vips 10.96.0.10 . 6 . 80 : goto vip-3`. */
export function elementText(set: SetId, { key, data }: NftElement): string {
  const value =
    data === undefined
      ? ''
      : 'verdict' in data
        ? ` : goto ${chainOf({ key, data })}`
        : ` : ${data.join(' . ')}`;
  return `${set} ${key.join(' . ')}${value}`;
}

/** Follows the rules of base-chains.ts through the sets. Throws ADDR_BAD_IP. */
export function explainPacket({ sets, chains }: DumpedTable, query: PacketQuery): PacketAnswer {
  const target = String(parseIp(query.target));
  const source = parseIp(query.source);
  const protocol = PROTOCOL_NUMBER[query.protocol]!;
  const vip = `${target} ${protocol} ${query.targetPort}`;
  const nodePort = `${protocol} ${query.targetPort}`;
  const entries: string[] = [];
  const find = (set: SetId, key: string): NftElement | undefined => {
    const found = sets[set]?.find((element) => element.key.join(' ') === key);
    if (found) entries.push(elementText(set, found));
    return found;
  };
  const atNode = sets['node-addresses']?.some(({ key }) => String(key[0]) === target) ?? false;
  const either = (byVip: SetId, byNodePort: SetId) =>
    find(byVip, vip) ?? (atNode ? find(byNodePort, nodePort) : undefined);
  const answer = (verdict: PacketAnswer['verdict'], reason: string | undefined): PacketAnswer => ({
    verdict,
    reason,
    backend: undefined,
    masquerade: false,
    entries,
  });

  if (find('ranged', vip)) {
    const allowed = sets.allowed?.some(
      ({ key, keyEnd }) =>
        key.slice(0, 3).join(' ') === vip &&
        String(key[3]).includes(':') === query.source.includes(':') &&
        between(source.value, parseIp(String(key[3])).value, parseIp(String((keyEnd ?? key)[3])).value),
    );
    if (!allowed) return answer('drop', 'drop-source-range');
  }
  const outside = query.client === 'outside';
  // A process of the node at 127.0.0.1 or ::1: its address is good for no other node.
  const isLoopback = query.source.startsWith('127.') || query.source === '::1';
  const own = outside
    ? either('vips-outside', 'nodeports-outside')
    : query.client === 'node'
      ? either('vips-node', 'nodeports-node')
      : undefined;
  const forwarded = own ?? either('vips', 'nodeports');
  const chain = forwarded && chainOf(forwarded);
  if (chain === REJECTED) return answer('reject', 'reject-no-endpoint');
  if (chain === DROPPED) return answer('drop', 'drop-no-local-endpoint');
  const chosen = chain === undefined ? undefined : (parseAffine(chain) ?? parseTarget(chain));
  if (chain !== undefined && chosen) {
    const names = slotsOf({ sets, chains }, chain, forwarded!.key.join(' '));
    const list = [...new Set(names)].sort();
    const hairpin = list.length === 1 && list[0] === socketAddress(String(source), portOf(list[0]!));
    return {
      ...answer('forward', 'forward-nat'),
      backend: list.length === 1 ? list[0] : `one of ${list.join(', ')}`,
      masquerade: chosen.masquerade || (outside && own === undefined) || isLoopback || hairpin,
    };
  }
  const refused =
    (outside ? either('refused-outside', 'refused-nodeports-outside') : undefined) ??
    either('refused', 'refused-nodeports');
  if (refused) {
    const dropped = chainOf(refused) === DROPPED;
    return dropped ? answer('drop', 'drop-no-local-endpoint') : answer('reject', 'reject-no-endpoint');
  }
  if (find('not-ours', target)) return answer('pass', undefined);
  if (find('cluster-ips', target)) return answer('reject', 'reject-no-endpoint');
  const inRange = sets['service-ranges']?.some(
    ({ key, keyEnd }) =>
      String(key[0]).includes(':') === target.includes(':') &&
      between(
        parseIp(target).value,
        parseIp(String(key[0])).value,
        parseIp(String((keyEnd ?? key)[0])).value,
      ),
  );
  return inRange ? answer('drop', 'drop-no-service') : answer('pass', undefined);
}

function between(value: number | bigint, first: number | bigint, last: number | bigint): boolean {
  return value >= first && value <= last;
}

function portOf(address: string): number {
  return Number(address.slice(address.lastIndexOf(':') + 1));
}
