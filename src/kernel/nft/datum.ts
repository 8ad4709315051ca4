/**
 * Types of values in nftables sets: how each lies in a register. Numbers of types are those of nft(8),
 * include/datatype.h; the kernel only keeps them. Addresses and ports lie in network order, marks and interface
 * indexes in host order; in a concatenation every part is padded to 4 bytes.
 */
import { IpAddress, macBytes, macFromBytes, parseMac } from '../../addr/index.ts';
import { viewOf } from '../../codec/index.ts';
import { nftError } from '../../errors/nft.ts';

/** A value of a set: an address, a MAC or interface name, a port, protocol, mark or index. */
export type Datum = IpAddress | string | number;

export interface DatumType {
  /** Number of the type in NFTA_SET_KEY_TYPE. */
  readonly id: number;
  /** As nft writes it, e.g. `ipv4_addr`. */
  readonly name: string;
  /** In bytes, without padding. */
  readonly size: number;
  write(target: Uint8Array, at: number, value: Datum): void;
  read(bytes: Uint8Array, at: number): Datum;
}

function invalid(type: string, value: unknown, why: string): never {
  throw nftError('NFT_VALUE_INVALID', { type, value: String(value), why });
}

function address(id: number, name: string, family: 4 | 6): DatumType {
  const size = family === 4 ? 4 : 16;
  return {
    id,
    name,
    size,
    write(target, at, value) {
      if (!(value instanceof IpAddress) || value.family !== family)
        return invalid(name, value, `want an IPv${family} address`);
      if (family === 6) return value.writeTo(target, at);
      const bits = value.value as number;
      target[at] = bits >>> 24;
      target[at + 1] = bits >>> 16;
      target[at + 2] = bits >>> 8;
      target[at + 3] = bits;
    },
    read: (bytes, at) => IpAddress.fromBytes(bytes.subarray(at, at + size)),
  };
}

function number(id: number, name: string, size: 1 | 2 | 4, littleEndian: boolean): DatumType {
  return {
    id,
    name,
    size,
    write(target, at, value) {
      if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value >= 2 ** (size * 8))
        return invalid(name, value, `want a number below ${2 ** (size * 8)}`);
      // Byte by byte: a view for each of ten thousand values costs more than the rest.
      for (let index = 0; index < size; index++)
        target[at + index] = value >>> (8 * (littleEndian ? index : size - 1 - index));
    },
    read(bytes, at) {
      const view = viewOf(bytes);
      if (size === 1) return view.getUint8(at);
      return size === 2 ? view.getUint16(at, littleEndian) : view.getUint32(at, littleEndian);
    },
  };
}

const IFNAMSIZ = 16;

const TYPES: readonly DatumType[] = [
  address(7, 'ipv4_addr', 4),
  address(8, 'ipv6_addr', 6),
  {
    id: 9,
    name: 'ether_addr',
    size: 6,
    write(target, at, value) {
      if (typeof value !== 'string') return invalid('ether_addr', value, 'want a MAC');
      target.set(macBytes(parseMac(value)), at);
    },
    read: (bytes, at) => macFromBytes(bytes.subarray(at, at + 6)),
  },
  number(10, 'ether_type', 2, false),
  number(12, 'inet_proto', 1, false),
  number(13, 'inet_service', 2, false),
  number(14, 'icmp_type', 1, false),
  number(15, 'tcp_flag', 1, false),
  number(21, 'arphrd', 2, true),
  number(26, 'ct_state', 4, true),
  number(29, 'icmpv6_type', 1, false),
  number(38, 'fib_addrtype', 4, true),
  number(19, 'mark', 4, true),
  number(20, 'iface_index', 4, true),
  {
    id: 41,
    name: 'ifname',
    size: IFNAMSIZ,
    write(target, at, value) {
      const name = typeof value === 'string' ? Buffer.from(value) : undefined;
      if (!name || name.length === 0 || name.length >= IFNAMSIZ)
        return invalid('ifname', value, 'want 1 to 15 characters');
      target.set(name, at);
    },
    read(bytes, at) {
      const name = bytes.subarray(at, at + IFNAMSIZ);
      const end = name.indexOf(0);
      return Buffer.from(end < 0 ? name : name.subarray(0, end)).toString();
    },
  },
];

const byId = new Map(TYPES.map((type) => [type.id, type]));
const byName = new Map(TYPES.map((type) => [type.name, type]));

/** Bits of one type in the number of a concatenation. */
const TYPE_BITS = 6;

/** The parts of a set's key or data, from the number that nft stored; undefined when one is not known here. */
export function typesOf(packed: number): DatumType[] | undefined {
  const types: DatumType[] = [];
  for (let rest = packed; rest !== 0; rest >>>= TYPE_BITS) {
    const type = byId.get(rest & ((1 << TYPE_BITS) - 1));
    if (!type) return undefined;
    types.unshift(type);
  }
  return types.length === 0 ? undefined : types;
}

/** The number of a key with these parts, as NFTA_SET_KEY_TYPE has it. */
export function packedTypes(types: readonly DatumType[]): number {
  return types.reduce((packed, { id }) => (packed << TYPE_BITS) | id, 0);
}

/** The parts of `ipv4_addr . inet_proto`. Throws NFT_VALUE_INVALID for a type that is not known here. */
export function typesNamed(text: string): DatumType[] {
  return text.split(' . ').map((name) => byName.get(name) ?? invalid(name, text, 'no such type'));
}

/** Bytes of a value of these parts. */
export function sizeOf(types: readonly DatumType[]): number {
  if (types.length === 1) return types[0]!.size;
  return types.reduce((size, type) => size + padded(type.size), 0);
}

export function padded(size: number): number {
  return (size + 3) & ~3;
}

/** Writes the parts; `target` is zeroed and has room for sizeOf(types). Throws NFT_VALUE_INVALID. */
export function writeParts(
  types: readonly DatumType[],
  target: Uint8Array,
  at: number,
  values: readonly Datum[],
): void {
  if (values.length !== types.length)
    invalid(types.map((type) => type.name).join(' . '), values.join(' . '), `want ${types.length} parts`);
  let offset = at;
  for (let index = 0; index < types.length; index++) {
    types[index]!.write(target, offset, values[index]!);
    offset += padded(types[index]!.size);
  }
}

/** Reads the parts. Throws NFT_VALUE_INVALID on bytes of another size. */
export function readParts(types: readonly DatumType[], bytes: Uint8Array): Datum[] {
  if (bytes.length < sizeOf(types))
    invalid(types.map((type) => type.name).join(' . '), Buffer.from(bytes).toString('hex'), 'too few bytes');
  let offset = 0;
  return types.map((type) => {
    const value = type.read(bytes, offset);
    offset += padded(type.size);
    return value;
  });
}
