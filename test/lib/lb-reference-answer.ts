/** Answers that refuse a packet, and the hash of flows, for the reference of the packet programs. */
import { ETHERNET, fold, type Packet, PROTOCOL, sumOfBytes } from './lb-reference-packet.ts';

const TCP = { FIN: 1, SYN: 2, RST: 4, ACK: 16 } as const;
/** Bytes of the transport header that an ICMP error carries. */
const EMBEDDED = 8;
const EMBEDDED_TCP = 20;
/** IPv6 extension headers before it, at most: others are taken for what follows the header. */
const EXTENSIONS = 8;

/** RFC 9293, 3.5.2, group 1: what a segment of no connection is answered with, in the segment itself. */
export function answerReset(p: Packet): void {
  const { view, transportAt: at } = p;
  const before = sumOfBytes(p.bytes, at, at + 14);
  view.setUint16(at, p.targetPort);
  view.setUint16(at + 2, p.sourcePort);
  const sequence = view.getUint32(at + 4);
  const acknowledged = view.getUint32(at + 8);
  const offset = view.getUint8(at + 12) >> 4;
  const answers = (p.tcpFlags & TCP.ACK) !== 0;
  const data = Math.max(0, p.payload - offset * 4);
  const grown = data + Number((p.tcpFlags & TCP.SYN) !== 0) + Number((p.tcpFlags & TCP.FIN) !== 0);
  view.setUint32(at + 4, answers ? acknowledged : 0);
  view.setUint32(at + 8, answers ? 0 : (sequence + grown) >>> 0);
  view.setUint16(at + 12, (offset << 12) | TCP.RST | (answers ? 0 : TCP.ACK));
  p.adjust(at + 16, sumOfBytes(p.bytes, at, at + 14) + 65_535 * 16 - before);
  p.writeAddress(p.addressAt('source'), p.target);
  p.writeAddress(p.addressAt('target'), p.source);
  p.swapMacs();
}

/** What is said to a sender: type and code of IPv4, then of IPv6. */
export const COMPLAINT = {
  unreachable: [3, 3, 1, 4],
  tooBig: [3, 4, 2, 0],
  hopsUsedUp: [11, 0, 3, 0],
} as const;

/**
 * An ICMP error, RFC 792 and 4443; returns its length. 0 where there is no answer: IPv4 options are not understood.
 * `mtu` is what fits.
 */
export function answerError(p: Packet, length: number, what: keyof typeof COMPLAINT, mtu = 0): number {
  const { bytes, view, four } = p;
  const header = four ? 20 : 40;
  const extensions = p.transportAt - ETHERNET - header;
  const transport = p.protocol === PROTOCOL.TCP ? EMBEDDED_TCP : EMBEDDED;
  const carried = extensions <= EXTENSIONS ? extensions + transport : transport;
  const embedded = header + Math.min(carried, EMBEDDED_TCP);
  if (length < ETHERNET + embedded || (four && p.transportAt !== ETHERNET + header)) return 0;
  const icmpAt = ETHERNET + header;
  bytes.copyWithin(icmpAt + 8, ETHERNET, ETHERNET + embedded);
  bytes.fill(0, ETHERNET, icmpAt + 8);
  const end = icmpAt + 8 + embedded;
  if (four) {
    view.setUint16(ETHERNET, 0x4500);
    view.setUint16(ETHERNET + 2, header + 8 + embedded);
    bytes[ETHERNET + 8] = 64;
    bytes[ETHERNET + 9] = PROTOCOL.ICMP;
  } else {
    bytes[ETHERNET] = 0x60;
    view.setUint16(ETHERNET + 4, 8 + embedded);
    bytes[ETHERNET + 6] = PROTOCOL.ICMP6;
    bytes[ETHERNET + 7] = 64;
  }
  p.writeAddress(p.addressAt('source'), p.target);
  p.writeAddress(p.addressAt('target'), p.source);
  if (four) view.setUint16(ETHERNET + 10, ~fold(sumOfBytes(bytes, ETHERNET, icmpAt)) & 0xffff);
  const [type4, code4, type6, code6] = COMPLAINT[what];
  bytes[icmpAt] = four ? type4 : type6;
  bytes[icmpAt + 1] = four ? code4 : code6;
  view.setUint32(icmpAt + 4, mtu);
  const pseudo = four ? 0 : sumOfBytes(bytes, ETHERNET + 8, icmpAt) + 8 + embedded + PROTOCOL.ICMP6;
  view.setUint16(icmpAt + 2, ~fold(pseudo + sumOfBytes(bytes, icmpAt, end)) & 0xffff);
  p.swapMacs();
  return end;
}

/** MurmurHash3 of protocol, both addresses word by word in turn, and the ports: the same on every node. */
export function flowHash(p: Packet, affinity: boolean): number {
  let hash = p.protocol;
  const mix = (word: number) => {
    let k = Math.imul(word, 0xcc9e_2d51);
    k = Math.imul((k << 15) | (k >>> 17), 0x1b87_3593);
    hash ^= k;
    hash = (Math.imul((hash << 13) | (hash >>> 19), 5) + 0xe654_6b64) | 0;
  };
  for (let word = 0; word < 4; word++) {
    mix(swap32(p.source[word]!));
    mix(swap32(p.target[word]!));
  }
  mix(affinity ? swap16(p.targetPort) : (swap16(p.sourcePort) << 16) | swap16(p.targetPort));
  hash ^= hash >>> 16;
  hash = Math.imul(hash, 0x85eb_ca6b);
  hash ^= hash >>> 13;
  hash = Math.imul(hash, 0xc2b2_ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/** Words as a little-endian machine loads them. */
function swap32(word: number): number {
  return (swap16(word & 0xffff) << 16) | swap16(word >>> 16);
}

function swap16(word: number): number {
  return ((word & 0xff) << 8) | (word >> 8);
}
