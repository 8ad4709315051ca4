/**
 * Builds and reads packets for tests, written from the RFCs and not from what programs under test do: Ethernet,
 * IPv4 (RFC 791), IPv6 (RFC 8200), TCP (RFC 9293), UDP (RFC 768), ICMP (RFC 792, 4443), with checksums (RFC 1071).
 */
import { parseIp } from '../../src/addr/index.ts';

export const TCP = { FIN: 1, SYN: 2, RST: 4, PSH: 8, ACK: 16 } as const;

export interface Segment {
  readonly from: string;
  readonly to: string;
  readonly protocol: 'tcp' | 'udp' | 'icmp';
  readonly sourcePort?: number;
  readonly targetPort?: number;
  /** TCP flags. */
  readonly flags?: number;
  readonly sequence?: number;
  readonly acknowledged?: number;
  /** ICMP type and code. */
  readonly type?: number;
  readonly code?: number;
  readonly payload?: Uint8Array;
  /** UDP without a checksum. */
  readonly noChecksum?: boolean;
  /** IPv4: offset in units of 8 bytes, more fragments, identification. */
  readonly fragment?: { readonly offset: number; readonly more: boolean; readonly id: number };
  readonly ttl?: number;
}

const PROTOCOL = { tcp: 6, udp: 17, icmp: 1 } as const;
const MAC = { source: [2, 0, 0, 0, 0, 1], target: [2, 0, 0, 0, 0, 2] };

/** Ones' complement sum of 16-bit words, complemented. */
export function checksum(...parts: Uint8Array[]): number {
  let sum = 0;
  for (const part of parts)
    for (let at = 0; at < part.length; at += 2) sum += (part[at]! << 8) | (part[at + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

function u16(value: number): number[] {
  return [(value >> 8) & 255, value & 255];
}

function u32(value: number): number[] {
  return [...u16(value >>> 16), ...u16(value & 0xffff)];
}

function pseudo(from: Uint8Array, to: Uint8Array, protocol: number, length: number): Uint8Array {
  return from.length === 4
    ? Uint8Array.from([...from, ...to, 0, protocol, ...u16(length)])
    : Uint8Array.from([...from, ...to, ...u32(length), 0, 0, 0, protocol]);
}

function transport(s: Segment, from: Uint8Array, to: Uint8Array, protocol: number): Uint8Array {
  const payload = s.payload ?? new Uint8Array(0);
  const ports = [...u16(s.sourcePort ?? 0), ...u16(s.targetPort ?? 0)];
  let bytes: Uint8Array;
  let at: number;
  if (s.protocol === 'tcp') {
    bytes = Uint8Array.from([
      ...ports,
      ...u32(s.sequence ?? 1000),
      ...u32(s.acknowledged ?? 0),
      0x50,
      s.flags ?? TCP.SYN,
      ...u16(64_240),
      ...u16(0),
      ...u16(0),
      ...payload,
    ]);
    at = 16;
  } else if (s.protocol === 'udp') {
    bytes = Uint8Array.from([...ports, ...u16(8 + payload.length), ...u16(0), ...payload]);
    at = 6;
  } else {
    bytes = Uint8Array.from([s.type ?? 8, s.code ?? 0, 0, 0, 0, 0, 0, 0, ...payload]);
    at = 2;
  }
  if (s.noChecksum) return bytes;
  const parts = s.protocol === 'icmp' && from.length === 4 ? [] : [pseudo(from, to, protocol, bytes.length)];
  bytes.set(u16(checksum(...parts, bytes) || (s.protocol === 'udp' ? 0xffff : 0)), at);
  return bytes;
}

/** The IP packet, without Ethernet. */
export function ipPacket(s: Segment): Uint8Array {
  const from = parseIp(s.from).toBytes();
  const to = parseIp(s.to).toBytes();
  const protocol = s.protocol === 'icmp' && from.length === 16 ? 58 : PROTOCOL[s.protocol];
  let body = transport(s, from, to, protocol);
  if (s.fragment) body = s.fragment.offset === 0 ? body : (s.payload ?? new Uint8Array(0));
  if (from.length === 16) {
    const head = [0x60, 0, 0, 0, ...u16(body.length), protocol, s.ttl ?? 64, ...from, ...to];
    return Uint8Array.from([...head, ...body]);
  }
  const fragment = s.fragment ? (s.fragment.more ? 0x2000 : 0) | s.fragment.offset : 0x4000;
  const head = Uint8Array.from([
    0x45,
    0,
    ...u16(20 + body.length),
    ...u16(s.fragment?.id ?? 7),
    ...u16(fragment),
    s.ttl ?? 64,
    protocol,
    0,
    0,
    ...from,
    ...to,
  ]);
  head.set(u16(checksum(head)), 10);
  return Uint8Array.from([...head, ...body]);
}

/** The whole frame. */
export function frame(s: Segment): Uint8Array {
  const ip = ipPacket(s);
  return Uint8Array.from([...MAC.target, ...MAC.source, ...u16(ip[0]! >> 4 === 4 ? 0x0800 : 0x86dd), ...ip]);
}

/** What a frame says, for comparisons. */
export interface Read {
  readonly from: string;
  readonly to: string;
  readonly protocol: number;
  readonly sourcePort: number;
  readonly targetPort: number;
  readonly flags: number;
  readonly sequence: number;
  readonly acknowledged: number;
  readonly type: number;
  readonly code: number;
  readonly macs: { readonly target: number[]; readonly source: number[] };
  /** After the transport header. */
  readonly payload: Uint8Array;
  /** Checksums that are wrong: `ip`, `transport`. */
  readonly wrong: string[];
}

function text(bytes: Uint8Array): string {
  if (bytes.length === 4) return bytes.join('.');
  const groups: string[] = [];
  for (let at = 0; at < 16; at += 2) groups.push(((bytes[at]! << 8) | bytes[at + 1]!).toString(16));
  return parseIp(groups.join(':')).toString();
}

/** Reads a frame; `embedded` reads a packet inside an ICMP error, whose transport part is cut. */
export function readFrame(bytes: Uint8Array): Read {
  return readIp(bytes.subarray(14), {
    target: [...bytes.subarray(0, 6)],
    source: [...bytes.subarray(6, 12)],
  });
}

export function readIp(ip: Uint8Array, macs: Read['macs'] = { target: [], source: [] }): Read {
  const wrong: string[] = [];
  const four = ip[0]! >> 4 === 4;
  const headLength = four ? (ip[0]! & 15) * 4 : 40;
  if (four && checksum(ip.subarray(0, headLength)) !== 0) wrong.push('ip');
  const from = four ? ip.subarray(12, 16) : ip.subarray(8, 24);
  const to = four ? ip.subarray(16, 20) : ip.subarray(24, 40);
  const protocol = four ? ip[9]! : ip[6]!;
  const length = four ? ((ip[2]! << 8) | ip[3]!) - headLength : (ip[4]! << 8) | ip[5]!;
  const body = ip.subarray(headLength, headLength + length);
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  const icmp = protocol === 1 || protocol === 58;
  const noChecksum = protocol === 17 && view.getUint16(6) === 0;
  const parts = protocol === 1 ? [] : [pseudo(from, to, protocol, body.length)];
  if (!noChecksum && checksum(...parts, body) !== 0) wrong.push('transport');
  const tcp = protocol === 6 && body.length >= 20;
  const skip = tcp ? (body[12]! >> 4) * 4 : 8;
  return {
    from: text(from),
    to: text(to),
    protocol,
    sourcePort: icmp ? 0 : view.getUint16(0),
    targetPort: icmp ? 0 : view.getUint16(2),
    flags: tcp ? body[13]! : 0,
    sequence: tcp ? view.getUint32(4) : 0,
    acknowledged: tcp ? view.getUint32(8) : 0,
    type: icmp ? body[0]! : 0,
    code: icmp ? body[1]! : 0,
    macs,
    payload: body.subarray(skip),
    wrong,
  };
}
