/**
 * How packets are read and changed, for the reference of the packet programs: written from the RFCs (791, 8200, 9293,
 * 768, 792, 4443; checksums 1071 and 1624), with numbers in host meaning.
 */

export const PROTOCOL = { TCP: 6, UDP: 17, ICMP: 1, ICMP6: 58 } as const;
export const ETHERNET = 14;

/** What a packet turns out to be. */
export type Kind =
  /** Not IP. */
  | 'other'
  /** It ends within its headers; only addresses are known. */
  | 'cut'
  /** A foreign protocol, or a later fragment whose first one is not known. */
  | 'no-ports'
  /** TCP and UDP with ports, ICMP with its type. */
  | 'whole';

export type FragmentPart = 'none' | 'first' | 'later';

/** Ports of the first fragment by the addresses, identification and protocol of all of them. */
export interface FragmentMemory {
  remember(packet: Packet, id: number): void;
  /** Puts the ports into the packet; false when the first fragment is not known. */
  recall(packet: Packet, id: number): boolean;
}

/** One packet, read into the same object again and again. */
export class Packet {
  bytes: Uint8Array = new Uint8Array(0);
  view: DataView = new DataView(new ArrayBuffer(0));
  length = 0;
  four = false;
  /** Addresses as 4 words; IPv4 in the last, behind ::ffff:0:0/96. */
  readonly source = new Uint32Array(4);
  readonly target = new Uint32Array(4);
  protocol = 0;
  sourcePort = 0;
  targetPort = 0;
  icmpType = 0;
  tcpFlags = 0;
  /** Where the transport header begins. */
  transportAt = 0;
  /** Bytes from there on, as the IP header has it. */
  payload = 0;
  fragment: FragmentPart = 'none';

  attach(bytes: Uint8Array): void {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get icmp(): boolean {
    return this.protocol === (this.four ? PROTOCOL.ICMP : PROTOCOL.ICMP6);
  }

  /** Reads the first `length` bytes. */
  read(length: number, fragments: FragmentMemory): Kind {
    this.length = length;
    this.fragment = 'none';
    this.sourcePort = this.targetPort = this.icmpType = this.tcpFlags = 0;
    const etherType = this.view.getUint16(12);
    if (etherType === 0x0800) return this.#readFour(fragments);
    if (etherType === 0x86dd) return this.#readSix(fragments);
    return 'other';
  }

  #readFour(fragments: FragmentMemory): Kind {
    const { view } = this;
    const first = this.bytes[ETHERNET]!;
    const headerBytes = (first & 15) * 4;
    if (this.length < ETHERNET + 20 || first >> 4 !== 4 || headerBytes < 20) return 'other';
    this.four = true;
    readAddress(this.source, view, ETHERNET + 12, true);
    readAddress(this.target, view, ETHERNET + 16, true);
    this.protocol = this.bytes[ETHERNET + 9]!;
    this.transportAt = ETHERNET + headerBytes;
    this.payload = Math.max(0, view.getUint16(ETHERNET + 2) - headerBytes);
    const fragment = view.getUint16(ETHERNET + 6);
    if ((fragment & 0x1fff) !== 0) this.fragment = 'later';
    else if ((fragment & 0x2000) !== 0) this.fragment = 'first';
    return this.#readTransport(fragments, view.getUint16(ETHERNET + 4));
  }

  #readSix(fragments: FragmentMemory): Kind {
    const { view, bytes } = this;
    if (this.length < ETHERNET + 40 || bytes[ETHERNET]! >> 4 !== 6) return 'other';
    this.four = false;
    readAddress(this.source, view, ETHERNET + 8, false);
    readAddress(this.target, view, ETHERNET + 24, false);
    let at = ETHERNET + 40;
    let next = bytes[ETHERNET + 6]!;
    let id = 0;
    // Hop-by-hop 0, routing 43, destination 60, fragment 44; six of them, more are a foreign protocol.
    for (let headers = 0; headers < 6; headers++) {
      if (next !== 0 && next !== 43 && next !== 60 && next !== 44) break;
      this.transportAt = at;
      if (at + 8 > this.length) return 'cut';
      if (next === 44) {
        const offset = view.getUint16(at + 2);
        id = view.getUint32(at + 4);
        if (offset >> 3 !== 0) this.fragment = 'later';
        else if ((offset & 1) !== 0) this.fragment = 'first';
        next = bytes[at]!;
        at += 8;
        if (this.fragment === 'later') break;
      } else {
        const size = (bytes[at + 1]! + 1) * 8;
        next = bytes[at]!;
        at += size;
      }
    }
    this.protocol = next;
    this.transportAt = at;
    this.payload = Math.max(0, view.getUint16(ETHERNET + 4) - (at - ETHERNET - 40));
    return this.#readTransport(fragments, id);
  }

  #readTransport(fragments: FragmentMemory, id: number): Kind {
    const at = this.transportAt;
    if (this.icmp) {
      if (this.fragment === 'later') return 'no-ports';
      if (at + 8 > this.length) return 'cut';
      this.icmpType = this.bytes[at]!;
      return 'whole';
    }
    if (this.protocol !== PROTOCOL.TCP && this.protocol !== PROTOCOL.UDP) return 'no-ports';
    if (this.fragment === 'later') return fragments.recall(this, id) ? 'whole' : 'no-ports';
    if (at + (this.protocol === PROTOCOL.TCP ? 20 : 8) > this.length) return 'cut';
    this.sourcePort = this.view.getUint16(at);
    this.targetPort = this.view.getUint16(at + 2);
    if (this.protocol === PROTOCOL.TCP) this.tcpFlags = this.bytes[at + 13]!;
    if (this.fragment === 'first') fragments.remember(this, id);
    return 'whole';
  }

  /** Puts another address and port in place of the source or the target, with all checksums that cover them. */
  replace(end: 'source' | 'target', address: Uint32Array, port: number): void {
    const addressAt = this.addressAt(end);
    const portAt = this.transportAt + (end === 'source' ? 0 : 2);
    const transport = this.fragment !== 'later';
    const sumAt = this.transportAt + (this.protocol === PROTOCOL.TCP ? 16 : 6);
    const noSum = this.protocol === PROTOCOL.UDP && transport && this.view.getUint16(sumAt) === 0;
    const before = this.#sumOf(addressAt);
    this.#write(addressAt, address);
    const change = this.#sumOf(addressAt) + 2 * 65_535 * 16 - before;
    if (this.four) this.adjust(ETHERNET + 10, change);
    if (!transport) return;
    const oldPort = this.view.getUint16(portAt);
    this.view.setUint16(portAt, port);
    if (noSum) return;
    this.adjust(sumAt, change + port + 65_535 - oldPort);
    // RFC 768: a sum that comes out as 0 is sent as all ones.
    if (this.protocol === PROTOCOL.UDP && this.view.getUint16(sumAt) === 0)
      this.view.setUint16(sumAt, 0xffff);
  }

  addressAt(end: 'source' | 'target'): number {
    if (this.four) return ETHERNET + (end === 'source' ? 12 : 16);
    return ETHERNET + (end === 'source' ? 8 : 24);
  }

  /** Writes an address of this packet's family; returns by how much the sum of its words grew, not negative. */
  writeAddress(at: number, address: Uint32Array): number {
    const before = this.#sumOf(at);
    this.#write(at, address);
    return this.#sumOf(at) + 2 * 65_535 * 16 - before;
  }

  /** RFC 1624, equation 3, for words that grew by `change` in sum. */
  adjust(sumAt: number, change: number): void {
    this.view.setUint16(sumAt, ~fold((~this.view.getUint16(sumAt) & 0xffff) + change) & 0xffff);
  }

  swapMacs(): void {
    const { bytes } = this;
    for (let at = 0; at < 6; at++) {
      const byte = bytes[at]!;
      bytes[at] = bytes[at + 6]!;
      bytes[at + 6] = byte;
    }
  }

  #write(at: number, address: Uint32Array): void {
    if (this.four) this.view.setUint32(at, address[3]!);
    else for (let word = 0; word < 4; word++) this.view.setUint32(at + word * 4, address[word]!);
  }

  #sumOf(addressAt: number): number {
    let sum = 0;
    const end = addressAt + (this.four ? 4 : 16);
    for (let at = addressAt; at < end; at += 2) sum += this.view.getUint16(at);
    return sum;
  }
}

export function readAddress(to: Uint32Array, view: DataView, at: number, four: boolean): void {
  if (four) {
    to[0] = to[1] = 0;
    to[2] = 0xffff;
    to[3] = view.getUint32(at);
  } else for (let word = 0; word < 4; word++) to[word] = view.getUint32(at + word * 4);
}

export function sameAddress(a: Uint32Array, b: Uint32Array): boolean {
  return a[3] === b[3] && a[2] === b[2] && a[1] === b[1] && a[0] === b[0];
}

/** Ones' complement sum, folded to 16 bits: 0 only for 0. */
export function fold(sum: number): number {
  let folded = sum;
  while (folded > 0xffff) folded = (folded % 65_536) + Math.floor(folded / 65_536);
  return folded;
}

/** Ones' complement sum of bytes, not complemented. */
export function sumOfBytes(bytes: Uint8Array, from: number, to: number): number {
  let sum = 0;
  for (let at = from; at < to; at += 2) sum += (bytes[at]! << 8) | (at + 1 < to ? bytes[at + 1]! : 0);
  return sum;
}
