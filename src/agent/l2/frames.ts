/**
 * The four frames by which an address is found on a link. IPv4: ARP (RFC 826, announcements RFC 5227, 3). IPv6:
 * neighbour discovery (RFC 4861, 4.3 and 4.4). Pure.
 *
 *     someone asks   ARP request / neighbour solicitation   ──►  Question
 *     someone tells  ARP of any kind / advertisement        ──►  Claim
 */
import { IpAddress, type Mac, macBytes, macFromBytes, parseIp } from '../../addr/index.ts';

export const ETHERTYPE = { arp: 0x0806, ipv6: 0x86dd } as const;

/** Who asks for an address. */
export interface Question {
  readonly kind: 'question';
  readonly target: IpAddress;
  readonly askerMac: Mac;
  /** Unspecified when the asker looks whether the address is free. */
  readonly asker: IpAddress;
}

/** Someone says that an address is at a MAC. */
export interface Claim {
  readonly kind: 'claim';
  readonly target: IpAddress;
  readonly mac: Mac;
}

const ARP_BYTES = 42;
const ND_BYTES = 14 + 40 + 24;
const BROADCAST = new Uint8Array(6).fill(0xff);
const ALL_NODES = parseIp('ff02::1');
/** ff02::1:ff00:0/104, RFC 4291, 2.7.1 */
const SOLICITED_NODE = BigInt(parseIp('ff02::1:ff00:0').value);
const ICMP6 = 58;
const SOLICITATION = 135;
const ADVERTISEMENT = 136;
const SOLICITED = 0x40;
const OVERRIDE = 0x20;
const OPTION_SOURCE = 1;
const OPTION_TARGET = 2;

/** Group by which neighbours ask for an IPv6 address. */
export function solicitedNodeGroup(address: IpAddress): IpAddress {
  return IpAddress.v6(SOLICITED_NODE | (BigInt(address.value) & 0xff_ffffn));
}

/** What a frame says, in its order; nothing for frames that are none of these, or malformed. */
export function readFrame(frame: Uint8Array): (Question | Claim)[] {
  if (frame.length < ARP_BYTES) return [];
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  const type = view.getUint16(12);
  if (type === ETHERTYPE.arp) return readArp(frame, view);
  return type === ETHERTYPE.ipv6 ? readNd(frame, view) : [];
}

function readArp(frame: Uint8Array, view: DataView): (Question | Claim)[] {
  // Ethernet, IPv4, 6 and 4 bytes of address.
  if (view.getUint32(14) !== 0x0001_0800 || view.getUint16(18) !== 0x0604) return [];
  const operation = view.getUint16(20);
  if (operation !== 1 && operation !== 2) return [];
  const mac = macFromBytes(frame.subarray(22, 28));
  const sender = IpAddress.fromBytes(frame.subarray(28, 32));
  const target = IpAddress.fromBytes(frame.subarray(38, 42));
  const found: (Question | Claim)[] = [];
  if (!sender.isUnspecified) found.push({ kind: 'claim', target: sender, mac });
  if (operation === 1 && !sender.equals(target))
    found.push({ kind: 'question', target, askerMac: mac, asker: sender });
  return found;
}

function readNd(frame: Uint8Array, view: DataView): (Question | Claim)[] {
  // RFC 4861, 7.1: hop limit 255 proves that no router forwarded it.
  if (frame.length < ND_BYTES || frame[20] !== ICMP6 || frame[21] !== 255) return [];
  const size = view.getUint16(18);
  if (size < 24 || frame.length < 54 + size) return [];
  if (checksum(frame.subarray(22, 54), frame.subarray(54, 54 + size)) !== 0) return [];
  const [type, code] = [frame[54], frame[55]];
  const target = IpAddress.fromBytes(frame.subarray(62, 78));
  if (code !== 0 || target.isMulticast) return [];
  const asker = IpAddress.fromBytes(frame.subarray(22, 38));
  const ethernet = macFromBytes(frame.subarray(6, 12));
  const options = frame.subarray(78, 54 + size);
  if (type === SOLICITATION)
    return [{ kind: 'question', target, asker, askerMac: linkAddress(options, OPTION_SOURCE) ?? ethernet }];
  if (type === ADVERTISEMENT)
    return [{ kind: 'claim', target, mac: linkAddress(options, OPTION_TARGET) ?? ethernet }];
  return [];
}

function linkAddress(options: Uint8Array, wanted: number): Mac | undefined {
  for (let at = 0; at + 8 <= options.length; ) {
    const length = options[at + 1]! * 8;
    if (length === 0) return undefined;
    if (options[at] === wanted) return macFromBytes(options.subarray(at + 2, at + 8));
    at += length;
  }
  return undefined;
}

/** The answer "it is at `mac`". */
export function answerFrame({ target, asker, askerMac }: Question, mac: Mac): Uint8Array {
  if (target.family === 4) return arpFrame(2, macBytes(askerMac), mac, target, macBytes(askerMac), asker);
  // One that looks whether the address is free has none to be answered at (RFC 4861, 7.2.4).
  return asker.isUnspecified
    ? advertisement(target, mac, ALL_NODES, undefined, OVERRIDE)
    : advertisement(target, mac, asker, macBytes(askerMac), SOLICITED | OVERRIDE);
}

/** Frames that tell everybody on the link where the address is now. */
export function announcementFrames(target: IpAddress, mac: Mac): Uint8Array[] {
  if (target.family === 6) return [advertisement(target, mac, ALL_NODES, undefined, OVERRIDE)];
  // Some hosts learn only from requests, some only from replies.
  return [
    arpFrame(1, BROADCAST, mac, target, new Uint8Array(6), target),
    arpFrame(2, BROADCAST, mac, target, BROADCAST, target),
  ];
}

/**
 * Frames that ask whether anybody has an address, by one who does not say that it is its own: an ARP probe (RFC 5227,
 * 2.1.1), a solicitation as of duplicate address detection (RFC 4862, 5.4.2).
 */
export function probeFrame(target: IpAddress, mac: Mac): Uint8Array {
  if (target.family === 4) return arpFrame(1, BROADCAST, mac, IpAddress.v4(0), new Uint8Array(6), target);
  const group = solicitedNodeGroup(target);
  return ndFrame({ type: SOLICITATION, target, mac, from: IpAddress.v6(0n), to: group, flags: 0 });
}

function arpFrame(
  operation: 1 | 2,
  to: Uint8Array,
  mac: Mac,
  sender: IpAddress,
  targetMac: Uint8Array,
  target: IpAddress,
): Uint8Array {
  const frame = new Uint8Array(ARP_BYTES);
  const view = new DataView(frame.buffer);
  frame.set(to, 0);
  frame.set(macBytes(mac), 6);
  view.setUint16(12, ETHERTYPE.arp);
  view.setUint32(14, 0x0001_0800);
  view.setUint16(18, 0x0604);
  view.setUint16(20, operation);
  frame.set(macBytes(mac), 22);
  sender.writeTo(frame, 28);
  frame.set(targetMac, 32);
  target.writeTo(frame, 38);
  return frame;
}

function advertisement(
  target: IpAddress,
  mac: Mac,
  to: IpAddress,
  toMac: Uint8Array | undefined,
  flags: number,
): Uint8Array {
  return ndFrame({ type: ADVERTISEMENT, target, mac, from: target, to, toMac, flags, option: OPTION_TARGET });
}

interface NdFrame {
  readonly type: number;
  readonly target: IpAddress;
  readonly mac: Mac;
  readonly from: IpAddress;
  readonly to: IpAddress;
  /** Default that of a group. */
  readonly toMac?: Uint8Array | undefined;
  readonly flags: number;
  /** Which option carries the MAC; none from who has no address (RFC 4861, 4.3). */
  readonly option?: number;
}

function ndFrame({ type, target, mac, from, to, toMac, flags, option }: NdFrame): Uint8Array {
  const size = option === undefined ? 24 : 32;
  const frame = new Uint8Array(54 + size);
  const view = new DataView(frame.buffer);
  frame.set(toMac ?? [0x33, 0x33, ...to.toBytes().subarray(12)], 0);
  frame.set(macBytes(mac), 6);
  view.setUint16(12, ETHERTYPE.ipv6);
  view.setUint32(14, 6 << 28);
  view.setUint16(18, size);
  frame[20] = ICMP6;
  frame[21] = 255;
  from.writeTo(frame, 22);
  to.writeTo(frame, 38);
  frame[54] = type;
  frame[58] = flags;
  target.writeTo(frame, 62);
  if (option !== undefined) {
    frame[78] = option;
    frame[79] = 1;
    frame.set(macBytes(mac), 80);
  }
  view.setUint16(56, checksum(frame.subarray(22, 54), frame.subarray(54)));
  return frame;
}

/** Of ICMPv6 with its pseudo header (RFC 8200, 8.1); 0 over a message whose checksum is right. */
function checksum(addresses: Uint8Array, message: Uint8Array): number {
  let sum = message.length + ICMP6;
  for (const bytes of [addresses, message])
    for (let at = 0; at < bytes.length; at += 2) sum += (bytes[at]! << 8) | (bytes[at + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}
