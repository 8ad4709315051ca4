import { addrError } from '../errors/addr.ts';
import { formatIpv4, type Ipv4, readIpv4 } from './ipv4.ts';
import { formatIpv6, type Ipv6, readIpv6 } from './ipv6.ts';

/** IP version. Code that works for both takes it as a value. */
export type Family = 4 | 6;

export const FAMILIES: readonly Family[] = [4, 6];

/** Number of bits of an address. */
export function addressBits(family: Family): 32 | 128 {
  return family === 4 ? 32 : 128;
}

/**
 * An IP address of either family; immutable. Two addresses of one value are equal by `equals` or by their text,
 * which is canonical and therefore serves as a key of maps.
 */
export class IpAddress {
  readonly family: Family;
  /** Unsigned number for IPv4, 128-bit integer for IPv6. */
  readonly value: number | bigint;

  private constructor(family: Family, value: number | bigint) {
    this.family = family;
    this.value = value;
  }

  static v4(value: Ipv4 | number): IpAddress {
    return new IpAddress(4, value >>> 0);
  }

  static v6(value: Ipv6 | bigint): IpAddress {
    return new IpAddress(6, BigInt.asUintN(128, value));
  }

  /** An address of a family by its number. Throws ADDR_OUT_OF_RANGE. */
  static of(family: Family, value: bigint): IpAddress {
    if (value < 0n || value >> BigInt(addressBits(family)) !== 0n)
      throw addrError('ADDR_OUT_OF_RANGE', { what: `address number ${value}`, within: `IPv${family}` });
    return family === 4 ? IpAddress.v4(Number(value)) : IpAddress.v6(value);
  }

  /** From 4 or 16 bytes in network order, as packets and netlink have them. Throws ADDR_BAD_IP. */
  static fromBytes(bytes: Uint8Array): IpAddress {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (bytes.length === 4) return new IpAddress(4, view.getUint32(0));
    if (bytes.length === 16) return new IpAddress(6, (view.getBigUint64(0) << 64n) | view.getBigUint64(8));
    throw addrError('ADDR_BAD_IP', {
      text: Buffer.from(bytes.subarray(0, 20)).toString('hex'),
      why: `want 4 or 16 bytes, got ${bytes.length}`,
    });
  }

  /** 4 or 16 bytes in network order; a fresh array. */
  toBytes(): Uint8Array {
    const bytes = new Uint8Array(this.family === 4 ? 4 : 16);
    this.writeTo(bytes, 0);
    return bytes;
  }

  /** Writes the bytes in network order at an offset. */
  writeTo(target: Uint8Array, at: number): void {
    if (this.family === 4) {
      // Without a view: this is done for a hundred thousand endpoints in a row.
      const value = this.value as number;
      target[at] = value >>> 24;
      target[at + 1] = value >>> 16;
      target[at + 2] = value >>> 8;
      target[at + 3] = value;
    } else {
      const view = new DataView(target.buffer, target.byteOffset, target.byteLength);
      view.setBigUint64(at, (this.value as bigint) >> 64n);
      view.setBigUint64(at + 8, BigInt.asUintN(64, this.value as bigint));
    }
  }

  equals(other: IpAddress): boolean {
    return this.family === other.family && this.value === other.value;
  }

  /** IPv4 before IPv6, then by value. */
  compare(other: IpAddress): number {
    if (this.family !== other.family) return this.family - other.family;
    return this.value < other.value ? -1 : this.value > other.value ? 1 : 0;
  }

  /** The address `count` after this one. Throws ADDR_OUT_OF_RANGE beyond the last one. */
  plus(count: number | bigint): IpAddress {
    return IpAddress.of(this.family, BigInt(this.value) + BigInt(count));
  }

  get isUnspecified(): boolean {
    return this.family === 4 ? this.value === 0 : this.value === 0n;
  }

  get isLoopback(): boolean {
    return this.family === 4 ? (this.value as number) >>> 24 === 127 : this.value === 1n;
  }

  /** 169.254.0.0/16 or fe80::/10. */
  get isLinkLocal(): boolean {
    return this.family === 4
      ? (this.value as number) >>> 16 === 0xa9fe
      : (this.value as bigint) >> 118n === 0x3fan;
  }

  /** 224.0.0.0/4 or ff00::/8. */
  get isMulticast(): boolean {
    return this.family === 4
      ? (this.value as number) >>> 28 === 0xe
      : (this.value as bigint) >> 120n === 0xffn;
  }

  /** Canonical text; RFC 5952 for IPv6. */
  toString(): string {
    return this.family === 4 ? formatIpv4(this.value as number) : formatIpv6(this.value as bigint);
  }

  toJSON(): string {
    return this.toString();
  }
}

/** Reads an address of either family. Throws ADDR_BAD_IP. */
export function parseIp(text: string): IpAddress {
  const read = readIp(text);
  if (typeof read === 'string') throw addrError('ADDR_BAD_IP', { text, why: read });
  return read;
}

/** Like `parseIp`, undefined instead of an error. */
export function tryParseIp(text: string): IpAddress | undefined {
  const read = readIp(text);
  return typeof read === 'string' ? undefined : read;
}

/** The address, or the reason why it is none. */
function readIp(text: string): IpAddress | string {
  if (typeof text !== 'string') return 'it is no text';
  if (text === '') return 'it is empty';
  if (text.includes(':')) {
    const v6 = readIpv6(text);
    return typeof v6 === 'string' ? v6 : IpAddress.v6(v6);
  }
  const v4 = readIpv4(text);
  return typeof v4 === 'string' ? v4 : IpAddress.v4(v4);
}
