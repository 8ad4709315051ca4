/**
 * Structures and numbers shared with the programs: bpf/include/lb_types.h and lb_maps.h. A test compares the
 * structures with the object's BTF and the names of reasons with its enum.
 */
import { IpAddress, parseCidr, parseIp } from '../../../addr/index.ts';
import { bytes, pad, struct, u8, u16, u16be, u32, u64, viewOf } from '../../../codec/index.ts';
import type { Protocol } from '../../types.ts';

/** A number as a key: of an interface, or a place in an array. */
export function u32Bytes(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, value, true);
  return bytes;
}

/** Key of frontends. */
export const endpointStruct = struct('lb_endpoint', [
  ['address', bytes(16)],
  ['port', u16be],
  ['protocol', u8],
  ['pad', pad(1)],
]);

export const frontendStruct = struct('lb_frontend', [
  ['id', u32],
  ['service', u32],
  ['flags', u32],
  ['affinity_s', u32],
  ['inside_line', u32],
  ['inside_size', u32],
  ['outside_line', u32],
  ['outside_size', u32],
]);

export const lineStruct = struct('lb_line', [['backend', bytes(64)]]);

export const backendStruct = struct('lb_backend', [
  ['address', bytes(16)],
  ['port', u16be],
  ['protocol', u8],
  ['flags', u8],
  ['service', u32],
  ['spare', bytes(8)],
]);

export const peerStruct = struct('lb_peer', [
  ['vip', bytes(16)],
  ['backend', bytes(16)],
  ['vip_port', u16be],
  ['backend_port', u16be],
  ['backend_id', u32],
]);

export const socketPlaceStruct = struct('lb_socket_place', [
  ['cookie', u64],
  ['peer', bytes(peerStruct.size)],
  ['spare', bytes(16)],
]);

export const flowStruct = struct('lb_flow', [
  ['vip', bytes(16)],
  ['backend', bytes(16)],
  ['client', bytes(16)],
  ['vip_port', u16be],
  ['backend_port', u16be],
  ['client_port', u16be],
  ['flags', u16],
  ['backend_id', u32],
  ['seen', u32],
]);

/** Places that a client's port hashes to: LB_FLOW_SLOTS flows behind their tags. */
export const FLOW_SLOTS = 8;

export const flowSetStruct = struct('lb_flow_set', [
  ['tag', bytes(FLOW_SLOTS * 4)],
  ['tried', u32],
  ['settled', u32],
  ['order', bytes(FLOW_SLOTS)],
  ['spare', bytes(16)],
  ['flow', bytes(FLOW_SLOTS * flowStruct.size)],
]);

/** Where the flows of a set begin. */
export const FLOWS_AT = flowSetStruct.size - FLOW_SLOTS * flowStruct.size;

/** How large the table of flows is. */
export const flowTableStruct = struct('lb_flow_table', [
  ['mask', u32],
  ['first', u32],
  ['seed', u64],
]);

/** What lb_flow_sweep says about a chunk of the table. */
export const flowSweepStruct = struct('lb_flow_sweep', [
  ['chunk', u32],
  ['used', u32],
  ['confirmed', u32],
  ['datagrams', u32],
  ['freed', u32],
  ['unsettled', u32],
]);

/** What lb_flow_edit is asked to do with a flow. */
export const flowEditStruct = struct('lb_flow_edit', [
  ['task', u32],
  ['done', u32],
  ['now', u32],
  ['pad', pad(4)],
  ['flow', bytes(flowStruct.size)],
]);

export const clientStruct = struct('lb_client', [
  ['address', bytes(16)],
  ['service', u32],
  ['kind', u32],
]);

export const affinityStruct = struct('lb_affinity', [
  ['backend_id', u32],
  ['pad', pad(4)],
  ['seen_ns', u64],
]);

/** What a Service port or a backend was used for, of one CPU. */
export const countStruct = struct('lb_count', [
  ['connections', u64],
  ['refused', u64],
  ['packets', u64],
  ['bytes', u64],
]);

/** Key of lb_passed: 20 bytes of a client, 20 of a frontend. */
export const passedKeyStruct = struct('lb_passed_key', [
  ['client', bytes(20)],
  ['vip', bytes(20)],
]);

/** A flow that netfilter began and goes on translating. */
export const passedStruct = struct('lb_passed', [
  ['backend', bytes(16)],
  ['backend_port', u16be],
  ['pad', pad(2)],
  ['backend_id', u32],
  ['seen', u32],
  ['idle', u32],
]);

/** Key of lb_source_ranges: struct lb_source. */
export const sourceStruct = struct('lb_source', [
  ['prefix', u32],
  ['service', u32],
  ['address', bytes(16)],
]);

/** Value of lb_pod_sources, struct lb_pod_source. */
export const podSourceStruct = struct('lb_pod_source', [
  ['ip6', bytes(16)],
  ['ip4', bytes(4)],
  ['families', u32],
]);

/** A translated flow with a backend on another node: struct lb_nat_flow. */
export const natFlowStruct = struct('lb_nat_flow', [
  ['client', bytes(16)],
  ['vip', bytes(16)],
  ['backend', bytes(16)],
  ['client_port', u16be],
  ['vip_port', u16be],
  ['backend_port', u16be],
  ['nat_port', u16be],
  ['backend_id', u32],
  ['seen', u32],
  ['source', bytes(16)],
  ['service', u32],
  ['flags', u16],
  ['protocol', u8],
  ['pad', pad(1)],
  ['to_backend', bytes(20)],
  ['to_client', bytes(20)],
]);

/** Places of a port in a level: LB_NAT_SLOTS. */
export const NAT_SLOTS = 8;

/** Places with their words, of everything but the first table. */
export const natSetStruct = struct('lb_nat_set', [
  ['head', bytes(64)],
  ['flow', bytes(NAT_SLOTS * natFlowStruct.size)],
]);

/** How much of the table takes new flows. */
export const natTableStruct = struct('lb_nat_table', [
  ['open', u32],
  ['held', u32],
]);

/** What lb_nat_sweep says about some sets of the table. */
export const natSweepStruct = struct('lb_nat_sweep', [
  ['first', u32],
  ['sets', u32],
  ['levels', u32],
  ['used', u32],
  ['confirmed', u32],
  ['datagrams', u32],
  ['freed', u32],
  ['pad', pad(4)],
]);

export const interfaceStruct = struct('lb_interface', [
  ['source4', bytes(16)],
  ['source6', bytes(16)],
  ['flags', u32],
  ['spare', pad(4)],
]);

/** Where struct lb_nat_head has room: after its words and the bits of tried ports. */
export const NAT_SEED_AT = 40;

/** The fixed head of lb_config; ranges follow, 32 bytes each. */
export const CONFIG_SIZE = 264;
export const CONFIG_RANGES = 8;

export const sharedStructs = [
  endpointStruct,
  frontendStruct,
  lineStruct,
  backendStruct,
  peerStruct,
  socketPlaceStruct,
  flowStruct,
  flowSetStruct,
  flowTableStruct,
  clientStruct,
  affinityStruct,
  countStruct,
  sourceStruct,
  passedKeyStruct,
  passedStruct,
  podSourceStruct,
] as const;

/** Those of the agent's own programs in the tables of flows: lb_flow.bpf.c. */
export const flowStructs = [
  flowSweepStruct,
  flowEditStruct,
  natSetStruct,
  natTableStruct,
  natSweepStruct,
] as const;

/** Those of the programs at node interfaces: lb_nat.h, lb_hop.h. */
export const nodeStructs = [natFlowStruct, interfaceStruct] as const;

/** enum lb_frontend_flag. */
export const FRONTEND = {
  INSIDE_DROP: 1 << 0,
  OUTSIDE_DROP: 1 << 1,
  INSIDE_HASH: 1 << 2,
  OUTSIDE_HASH: 1 << 3,
  INSIDE_LOCAL: 1 << 4,
  OUTSIDE_LOCAL: 1 << 5,
  OUTSIDE_KEEP: 1 << 6,
  RANGES: 1 << 7,
  WILDCARD: 1 << 8,
  DSR: 1 << 9,
  NODE_ALLOWED: 1 << 10,
  DSR_OPTION: 1 << 11,
  KIND_SHIFT: 12,
  NOT_OURS: 1 << 16,
} as const;

/** enum lb_backend_flag. */
export const BACKEND = { USED: 1 << 0, CLUSTER: 1 << 1, LOCAL: 1 << 2, NEAR: 1 << 3 } as const;

/** enum lb_hold, at HOLD_AT in lb_config. */
export const HOLD = { OFF: 0, UNKNOWN: 1, PASS: 2, KNOWN: 3, ALL: 4 } as const;
export type Hold = (typeof HOLD)[keyof typeof HOLD];
export const HOLD_AT = 4;

/** enum lb_flow_flag. */
export const FLOW = {
  USED: 1 << 0,
  REPLIED: 1 << 1,
  FIN_CLIENT: 1 << 2,
  FIN_BACKEND: 1 << 3,
  RESET: 1 << 4,
  HAIRPIN: 1 << 5,
  MASQUERADE: 1 << 6,
  DIRECT: 1 << 7,
  OPTION: 1 << 8,
  CONFIRMED: 1 << 9,
  UDP: 1 << 10,
  TOLD_SHIFT: 11,
  WAY_SHIFT: 11,
} as const;

const LAST_WAY = 7;

/** The port of a pod that a backend sees: lb_port_by() of bpf/include/lb_flow.h. */
export function portBackendSees({
  flags,
  client_port,
}: {
  readonly flags: number;
  readonly client_port: number;
}): number {
  return flags & FLOW.OPTION ? client_port : client_port ^ (((flags >> FLOW.WAY_SHIFT) & LAST_WAY) << 13);
}

/** Kinds in the order of their numbers in the flags. */
export const KINDS = ['ClusterIP', 'NodePort', 'LoadBalancer', 'ExternalIP', 'HostPort'] as const;

export const LINE_ENTRIES = 16;
export const LINE_BYTES = 64;
/** lb_maps.h: LB_CHUNK, LB_CHUNKS. */
export const CHUNK = 1024;
export const CHUNKS = 16_384;

/** enum lb_reason, in its order: what lb_counters counts. */
export const REASONS = [
  'none',
  'forward-socket',
  'forward-flow',
  'forward-hairpin',
  'reject-no-endpoint',
  'reject-unknown-port',
  'reject-no-flow',
  'drop-no-local',
  'drop-unallocated',
  'drop-no-backend',
  'drop-fragment',
  'drop-icmp',
  'drop-malformed',
  'drop-rewrite',
  'drop-source-range',
  'forward-nat',
  'reject-too-big',
  'drop-hop-limit',
  'drop-nat-full',
  'drop-no-route',
  'forward-direct',
  'drop-direct',
  'drop-hold',
  'drop-option',
  'drop-spoofed',
  'drop-flows-full',
  'drop-sockets-full',
] as const;

export type Reason = (typeof REASONS)[number];

/** IANA protocol numbers of those that the programs carry. */
export const PROTOCOL_NUMBER: Readonly<Partial<Record<Protocol, number>>> = { TCP: 6, UDP: 17 };

export function protocolName(number: number): string {
  return number === 6 ? 'TCP' : number === 17 ? 'UDP' : number === 0 ? 'any' : String(number);
}

/** Writes an address as 16 bytes; IPv4 mapped into ::ffff:0:0/96. */
export function writeAddress(target: Uint8Array, at: number, text: string): void {
  const address = parseIp(text);
  if (address.family === 4) {
    target.fill(0, at, at + 10);
    target[at + 10] = 0xff;
    target[at + 11] = 0xff;
  }
  address.writeTo(target, address.family === 4 ? at + 12 : at);
}

/** An address of 16 bytes as text, IPv4 when it is mapped. */
export function readAddress(source: Uint8Array, at = 0): string {
  const view = viewOf(source);
  const mapped =
    view.getBigUint64(at) === 0n && view.getUint16(at + 8) === 0 && view.getUint16(at + 10) === 0xffff;
  return IpAddress.fromBytes(source.subarray(mapped ? at + 12 : at, at + 16)).toString();
}

/** The value of lb_config: at most CONFIG_RANGES Service ranges. */
export function encodeRanges(cidrs: readonly string[]): Uint8Array {
  const value = new Uint8Array(CONFIG_SIZE);
  const ranges = cidrs.slice(0, CONFIG_RANGES).map(parseCidr);
  viewOf(value).setUint32(0, ranges.length, true);
  ranges.forEach((cidr, at) => {
    const start = 8 + at * 32;
    writeAddress(value, start, cidr.address.toString());
    const bits = cidr.prefixLength + (cidr.family === 4 ? 96 : 0);
    for (let byte = 0; byte < 16; byte++)
      value[start + 16 + byte] = 0xff00 >> Math.min(8, Math.max(0, bits - byte * 8));
  });
  return value;
}

/** The ranges in a value of lb_config. */
export function decodeRanges(value: Uint8Array): string[] {
  const count = Math.min(CONFIG_RANGES, viewOf(value).getUint32(0, true));
  return Array.from({ length: count }, (_, at) => {
    const start = 8 + at * 32;
    const address = readAddress(value, start);
    const mask = value.subarray(start + 16, start + 32);
    const bits = mask.reduce((sum, byte) => sum + (byte === 0 ? 0 : 8 - Math.log2(256 - byte)), 0);
    return `${address}/${address.includes(':') ? bits : bits - 96}`;
  });
}

/** The key of a network that may use a Service's load balancer addresses. */
export function encodeSource(service: number, cidr: string): Uint8Array {
  const { address, prefixLength, family } = parseCidr(cidr);
  const bytes = new Uint8Array(16);
  writeAddress(bytes, 0, address.toString());
  const bits = prefixLength + (family === 4 ? 96 : 0);
  return sourceStruct.encode({ prefix: 32 + bits, service, address: bytes });
}

/** The key of a frontend: 20 bytes. Protocol 0 with port 0 is the address as such. */
export function encodeEndpoint(address: string, port: number, protocol: number): Uint8Array {
  const key = new Uint8Array(endpointStruct.size);
  writeAddress(key, 0, address);
  key[16] = port >> 8;
  key[17] = port & 255;
  key[18] = protocol;
  return key;
}
