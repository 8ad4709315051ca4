/**
 * Rules as the kernel runs them: a list of small expressions over sixteen registers of 4 bytes. More can be said so
 * than in the language of nft(8), but nft lists only what its own language has, and older versions end
 * at other rules with an assertion: what a map gave may be an argument of nat, and no part of another key.
 *
 *     payload load 4b @ network header + 16 => reg 0     ip daddr
 *     numgen random mod 3                   => reg 3
 *     lookup slots, reg 0..3                => reg 8     address . port
 *     nat dnat                                 reg 8, 9
 *
 * Source: include/uapi/linux/netfilter/nf_tables.h.
 */
import type { NftVerdict } from './verdict.ts';

/** Register 0 to 15; an address of IPv6 takes four. */
export type Register = number;

/** One step of a rule; `name` is that of NFTA_EXPR_NAME. */
export type NftExpression =
  /** Bytes of the packet. */
  | {
      readonly name: 'payload';
      readonly base: 'link' | 'network' | 'transport';
      readonly offset: number;
      readonly length: number;
      readonly to: Register;
    }
  /** What is known of the packet or its connection: into a register, or set from one. */
  | { readonly name: 'meta' | 'ct'; readonly key: number; readonly to: Register }
  | { readonly name: 'meta'; readonly key: number; readonly from: Register }
  | { readonly name: 'fib'; readonly result: number; readonly flags: number; readonly to: Register }
  /** Goes on if the comparison holds. */
  | {
      readonly name: 'cmp';
      readonly register: Register;
      readonly operation: keyof typeof COMPARE;
      readonly value: Uint8Array;
    }
  /** Goes on if the register is outside. */
  | {
      readonly name: 'range';
      readonly register: Register;
      readonly first: Uint8Array;
      readonly last: Uint8Array;
    }
  /** `register & mask ^ xor` */
  | {
      readonly name: 'bitwise';
      readonly register: Register;
      readonly mask: Uint8Array;
      readonly xor: Uint8Array;
    }
  /** Goes on if the set has the key that begins at a register; of a map, with its value or by its verdict. */
  | {
      readonly name: 'lookup';
      readonly set: string;
      readonly key: Register;
      readonly to?: Register | 'verdict';
      readonly not?: boolean | undefined;
      /** Number of an anonymous set in its transaction. */
      readonly id?: number;
    }
  | { readonly name: 'immediate'; readonly value: Uint8Array; readonly to: Register }
  | { readonly name: 'immediate'; readonly verdict: NftVerdict }
  | { readonly name: 'numgen'; readonly modulus: number; readonly offset: number; readonly to: Register }
  | { readonly name: 'dynset'; readonly set: string; readonly key: Register; readonly timeoutMs: number }
  | { readonly name: 'nat'; readonly family: 4 | 6; readonly address: Register; readonly port: Register }
  /** Source NAT; without `random` the port stays, if it is free. */
  | {
      readonly name: 'nat';
      readonly family: 4 | 6;
      readonly source: Register;
      readonly ports?: readonly [first: Register, last: Register];
      readonly random: boolean;
    }
  | { readonly name: 'masq'; readonly ports?: readonly [first: Register, last: Register] }
  /** Where routing sends the packet, of enum nft_rt_keys. */
  | { readonly name: 'rt'; readonly key: number; readonly to: Register }
  | { readonly name: 'reject'; readonly type: number; readonly code: number }
  | { readonly name: 'counter' }
  | { readonly name: 'limit'; readonly rate: number; readonly perSeconds: bigint; readonly burst: number }
  | {
      readonly name: 'log';
      readonly group: number;
      readonly prefix: string;
      readonly snaplen?: number | undefined;
    };

/** enum nft_cmp_ops */
export const COMPARE = { eq: 0, neq: 1, lte: 3, gte: 5 } as const;
/** enum nft_meta_keys */
export const META = { mark: 3, iif: 4, l4proto: 16, nftrace: 12 } as const;
/** enum nft_ct_keys */
export const CT = { state: 0, direction: 1, status: 2 } as const;
/** NFT_RT_NEXTHOP4, NFT_RT_NEXTHOP6 */
const RT_NEXTHOP = { 4: 1, 6: 2 } as const;
/** NF_CT_STATE_BIT of nf_conntrack_common.h; IPS_DST_NAT of enum ip_conntrack_status. */
export const CT_STATE = { invalid: 1, new: 8 } as const;
export const CT_STATUS_DNAT = 0x20;

/** Bytes of a packet into registers. */
export function payload(
  base: 'link' | 'network' | 'transport',
  offset: number,
  length: number,
  to: Register,
): NftExpression {
  return { name: 'payload', base, offset, length, to };
}

export function meta(key: keyof typeof META, to: Register): NftExpression {
  return { name: 'meta', key: META[key], to };
}

/** Sets the packet's mark. */
export function setMark(from: Register): NftExpression {
  return { name: 'meta', key: META.mark, from };
}

export function ct(key: keyof typeof CT, to: Register): NftExpression {
  return { name: 'ct', key: CT[key], to };
}

/** Goes on if the register holds these bytes, or with `not` if it does not. */
export function compare(register: Register, value: Uint8Array, not = false): NftExpression {
  return { name: 'cmp', register, operation: not ? 'neq' : 'eq', value };
}

/** `register & mask ^ xor`, of 32 bits in the host's order. */
export function bitwise(register: Register, mask: number, xor: number): NftExpression {
  return { name: 'bitwise', register, mask: hostU32(mask), xor: hostU32(xor) };
}

/** A number in the order of the host, as marks and interface numbers are. */
export function hostU32(value: number): Uint8Array {
  return Uint8Array.of(value, value >>> 8, value >>> 16, value >>> 24);
}

/** Goes on if the set has the key that begins at a register; of a map, with its value from `to` on. */
export function lookup(set: string, key: Register, to?: Register): NftExpression {
  return to === undefined ? { name: 'lookup', set, key } : { name: 'lookup', set, key, to };
}

/** Goes on if the set does not have the key. */
export function absent(set: string, key: Register): NftExpression {
  return { name: 'lookup', set, key, not: true };
}

/** Does what a verdict map says about the key; goes on with the next rule if it says nothing. */
export function verdictMap(map: string, key: Register): NftExpression {
  return { name: 'lookup', set: map, key, to: 'verdict' };
}

/** A random number of the host's order: offset, ..., offset + modulus - 1. */
export function random(modulus: number, offset: number, to: Register): NftExpression {
  return { name: 'numgen', modulus, offset, to };
}

/** Puts the key into a dynamic set, or puts its end of life off. The rule ends here when the set is full. */
export function remember(set: string, key: Register, timeoutMs: number): NftExpression {
  return { name: 'dynset', set, key, timeoutMs };
}

/** A constant into registers. */
export function constant(value: Uint8Array, to: Register): NftExpression {
  return { name: 'immediate', value, to };
}

/** Destination NAT to address and port in registers; ends the chain. */
export function dnat(family: 4 | 6, address: Register, port: Register): NftExpression {
  return { name: 'nat', family, address, port };
}

/**
 * Source NAT to an address of the outgoing interface, with a port that nobody can guess, of those from one register to
 * another one if given; ends the chain.
 */
export function masquerade(ports?: readonly [first: Register, last: Register]): NftExpression {
  return ports ? { name: 'masq', ports } : { name: 'masq' };
}

/** Source NAT to the address in registers; ends the chain. */
export function snat(
  family: 4 | 6,
  source: Register,
  { random, ports }: { readonly random: boolean; readonly ports?: readonly [Register, Register] | undefined },
): NftExpression {
  return { name: 'nat', family, source, random, ...(ports && { ports }) };
}

/** The router that the packet goes to next, or its destination when there is none. */
export function nextHop(family: 4 | 6, to: Register): NftExpression {
  return { name: 'rt', key: RT_NEXTHOP[family], to };
}

/** NFT_REJECT_*; ICMP_PORT_UNREACH 3, ICMPV6_PORT_UNREACH 4, both "administratively prohibited" (RFC 1812, RFC 4443). */
const REJECT = {
  'tcp reset': { type: 1, code: 0 },
  icmp: { type: 0, code: 13 },
  icmpv6: { type: 0, code: 1 },
  'icmp port-unreachable': { type: 0, code: 3 },
  'icmpv6 port-unreachable': { type: 0, code: 4 },
} as const;

/** An answer that refuses: a TCP reset, "administratively prohibited", or "port unreachable". */
export function reject(how: keyof typeof REJECT): NftExpression {
  return { name: 'reject', ...REJECT[how] };
}

/** Counts packets and bytes. */
export function counter(): NftExpression {
  return { name: 'counter' };
}

export function verdict(what: NftVerdict): NftExpression {
  return { name: 'immediate', verdict: what };
}
