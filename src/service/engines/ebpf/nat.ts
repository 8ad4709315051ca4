/**
 * Ports of this node that stand for clients outside at backends on other nodes: bpf/include/lb_nat_table.h. The range lies
 * apart from ports that sockets of this node get without asking, from nodePorts, and from those that netfilter gives
 * (kernel/nft/masquerade.ts), so nobody else has one of them towards a backend.
 */
import { randomBytes } from 'node:crypto';
import { viewOf } from '../../../codec/index.ts';
import { type BpfMap, jiffiesPerSecond, type NetnsLike } from '../../../kernel/bpf/index.ts';
import { MASQUERADE_PORTS } from '../../../kernel/nft/index.ts';
import { readSysctl } from '../../../kernel/sysctl/index.ts';
import type { NodeAddresses } from '../../engine.ts';
import { interfaceStruct, NAT_SEED_AT, writeAddress } from './layout.ts';

/** First and last port. */
export type PortRange = readonly [first: number, last: number];

/** Ports that a new table of flows covers; a power of two. */
export const NAT_PORTS = 16_384;

const NODE_PORTS: PortRange = [30_000, 32_767];
/** Below, servers of the node listen. */
const LOWEST = 1_024;
const HIGHEST = 65_535;

/** The highest `ports` ports in a row that are in none of the ranges; undefined when there are none. */
export function natRange(ports: number, taken: readonly PortRange[]): PortRange | undefined {
  let last = HIGHEST;
  for (;;) {
    const first = last - ports + 1;
    if (first < LOWEST) return undefined;
    const hit = taken.filter((range) => range[0] <= last && range[1] >= first);
    if (hit.length === 0) return [first, last];
    last = Math.min(...hit.map((range) => range[0])) - 1;
  }
}

/** Ports of a namespace that connect() gives out. */
function ephemeralPorts(netns: NetnsLike | undefined): PortRange {
  const text = readSysctl('net/ipv4/ip_local_port_range', netns === undefined ? {} : { netns });
  const [first, last] = (text ?? '').split(/\s+/).map(Number);
  const KERNEL_DEFAULT: PortRange = [32_768, 60_999];
  return first && last ? [first, last] : KERNEL_DEFAULT;
}

/** Constants of the programs. `heads` is the table that an earlier process left. */
export function natConstants(
  netns: NetnsLike | undefined,
  heads: BpfMap | undefined,
  ports: number,
): Record<string, number | bigint | boolean> {
  const entries = heads?.maxEntries ?? ports;
  const taken = [ephemeralPorts(netns), NODE_PORTS, MASQUERADE_PORTS];
  const range = natRange(entries, taken);
  // Half as many further ones, which are used when one backend has so many clients.
  const further = range && natRange(entries >>> 1, [...taken, range]);
  const hz = jiffiesPerSecond();
  return {
    lb_nat_base: range?.[0] ?? 0,
    lb_nat_mask: entries - 1,
    lb_nat_more_base: further?.[0] ?? 0,
    lb_nat_seed: natSeed(heads),
    lb_hz: hz,
    lb_tick_shift: Math.max(0, Math.round(Math.log2(hz))),
    lb_stores_in_order: process.arch === 'x64',
  };
}

const FIRST = new Uint8Array(4);

/** Where flows lie depends on it, so it stays with the table: in an unused part of its first line. */
function natSeed(heads: BpfMap | undefined): bigint {
  const first = heads?.get(FIRST);
  const known = first ? viewOf(first).getBigUint64(NAT_SEED_AT, true) : 0n;
  return known !== 0n ? known : randomBytes(8).readBigUInt64LE() | 1n;
}

/** Writes the seed into a table that was made just now. Nothing else is in it: no program runs yet. */
export function keepNatSeed(heads: BpfMap, seed: bigint): void {
  const first = heads.get(FIRST);
  if (!first || viewOf(first).getBigUint64(NAT_SEED_AT, true) !== 0n) return;
  viewOf(first).setBigUint64(NAT_SEED_AT, seed, true);
  heads.set(FIRST, first);
}

/** enum lb_interface_flag. */
export const INTERFACE = { OVERLAY: 1 << 0, XDP: 1 << 1, TX: 1 << 2 } as const;

export function encodeInterface({ ip4, ip6 }: NodeAddresses, flags: number): Uint8Array {
  const addresses = new Uint8Array(32);
  if (ip4 !== undefined) writeAddress(addresses, 0, ip4);
  if (ip6 !== undefined) writeAddress(addresses, 16, ip6);
  return interfaceStruct.encode({
    source4: addresses.subarray(0, 16),
    source6: addresses.subarray(16),
    flags,
  });
}
