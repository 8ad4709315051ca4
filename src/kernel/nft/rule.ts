/**
 * A rule as data: what it matches and what it does, in the order in which the kernel evaluates it. It is written as
 * nft text (rule-text.ts), for people, and as expressions (statements.ts), for the kernel; a test compares what
 * nft lists of both.
 */
import { type Cidr, type Family, type IpAddress, withoutCovered } from '../../addr/index.ts';
import type { Datum } from './datum.ts';
import type { NftExpression } from './expression.ts';
import type { NftField } from './fields.ts';
import type { NftVerdict } from './verdict.ts';

/** One value, or all from `key` to `keyEnd`, both included; one part for each field. */
export interface NftValues {
  readonly key: readonly Datum[];
  readonly keyEnd?: readonly Datum[];
}

/** Bits of `ct state`: NF_CT_STATE_BIT in include/uapi/linux/netfilter/nf_conntrack_common.h. */
export const CT_STATES = { invalid: 1, established: 2, related: 4, new: 8, untracked: 64 } as const;
export type CtState = keyof typeof CT_STATES;

/** Bits of `tcp flags` (RFC 9293 section 3.1). */
export const TCP_FLAGS = { fin: 1, syn: 2, rst: 4, psh: 8, ack: 16 } as const;
export type TcpFlag = keyof typeof TCP_FLAGS;

export const LIMIT_UNITS = { second: 1n, minute: 60n, hour: 3600n } as const;

export type NftStatement =
  /** `ip saddr @set`: the fields together are an element of a named set. */
  | {
      readonly kind: 'lookup';
      readonly fields: readonly NftField[];
      readonly set: string;
      readonly not?: boolean;
    }
  /** `ip saddr vmap @map`: the verdict that a named map has for the fields; none goes on. */
  | { readonly kind: 'vmap'; readonly fields: readonly NftField[]; readonly map: string }
  /** `tcp dport 80`, `ip saddr { 10.0.0.1, 10.0.0.7-10.0.0.9 }`. Values must not overlap. */
  | {
      readonly kind: 'among';
      readonly fields: readonly NftField[];
      readonly values: readonly NftValues[];
      readonly not?: boolean;
    }
  /** `ip saddr 10.0.0.0/8` */
  | { readonly kind: 'prefix'; readonly field: NftField; readonly cidr: Cidr; readonly not?: boolean }
  | { readonly kind: 'state'; readonly states: readonly CtState[] }
  /** `tcp flags & (fin | syn) != syn` */
  | {
      readonly kind: 'flags';
      readonly mask: readonly TcpFlag[];
      readonly flags: readonly TcpFlag[];
      readonly not?: boolean;
    }
  /** `meta mark & 0x4000 == 0x4000` */
  | {
      readonly kind: 'mark';
      readonly field: 'meta mark' | 'ct mark';
      readonly mask: number;
      readonly value: number;
      readonly not?: boolean;
    }
  | { readonly kind: 'counter' }
  /** Matches no more often than this. */
  | {
      readonly kind: 'limit';
      readonly rate: number;
      readonly per: keyof typeof LIMIT_UNITS;
      readonly burst: number;
    }
  /** To the readers of an nflog group; at most `snaplen` bytes of the packet. */
  | { readonly kind: 'log'; readonly prefix: string; readonly group: number; readonly snaplen?: number }
  /** A refusal that the sender sees: a TCP reset, or ICMP "administratively prohibited". */
  | { readonly kind: 'reject'; readonly with: 'tcp reset' | 'icmp' | 'icmpv6' }
  /**
   * Source NAT to an address of the outgoing interface, by a port that nobody can guess, of these if given (a match of
   * protocols that have ports comes before); ends the chain.
   */
  | { readonly kind: 'masquerade'; readonly ports?: readonly [first: number, last: number] }
  /** Source NAT to this address, by a port as of `masquerade`. */
  | {
      readonly kind: 'snat';
      readonly address: IpAddress;
      readonly ports?: readonly [first: number, last: number];
    }
  /** Source NAT to the address that it has: no later chain gives it another one. */
  | { readonly kind: 'keep source'; readonly family: Family }
  /** `ct direction reply` */
  | { readonly kind: 'direction'; readonly direction: 'original' | 'reply' }
  /** `rt nexthop 192.0.2.1`: where routing sends it; not before it has been routed. */
  | { readonly kind: 'nexthop'; readonly address: IpAddress; readonly not?: boolean }
  /** Sets the bits of the packet mark that are in `mask`. */
  | { readonly kind: 'set mark'; readonly mask: number; readonly value: number }
  | { readonly kind: 'verdict'; readonly verdict: NftVerdict }
  /** Has the kernel tell of the packet's further way: see trace.ts. */
  | { readonly kind: 'trace' }
  /** What the language of nft(8) has no word for: see expression.ts. */
  | { readonly kind: 'steps'; readonly steps: readonly NftExpression[] };

/** Between the parts of a concatenation. */
export const FIELD_JOIN = ' . ';

export interface NftRule {
  readonly statements: readonly NftStatement[];
  /** At most 127 bytes. */
  readonly comment?: string;
}

export const MASQUERADE = { kind: 'masquerade' } as const satisfies NftStatement;
export const COUNTER: NftStatement = { kind: 'counter' };
export const ACCEPT: NftStatement = { kind: 'verdict', verdict: { verdict: 'accept' } };
export const DROP: NftStatement = { kind: 'verdict', verdict: { verdict: 'drop' } };
export const RETURN: NftStatement = { kind: 'verdict', verdict: { verdict: 'return' } };

export function jumpTo(chain: string): NftStatement {
  return { kind: 'verdict', verdict: { verdict: 'jump', chain } };
}

export function goTo(chain: string): NftStatement {
  return { kind: 'verdict', verdict: { verdict: 'goto', chain } };
}

export function inSet(fields: readonly NftField[], set: string): NftStatement {
  return { kind: 'lookup', fields, set };
}

/** Values of one field. */
export function among(field: NftField, values: readonly NftValues[]): NftStatement {
  return { kind: 'among', fields: [field], values };
}

/** One value of one field. */
export function equals(field: NftField, value: Datum): NftStatement {
  return { kind: 'among', fields: [field], values: [{ key: [value] }] };
}

export function ctState(...states: readonly CtState[]): NftStatement {
  return { kind: 'state', states };
}

export function ruleOf(statements: readonly NftStatement[], comment?: string): NftRule {
  return comment === undefined ? { statements } : { statements, comment };
}

/** Whether a field is in one of these networks. */
export function inCidrs(field: NftField, cidrs: readonly Cidr[], not = false): NftStatement {
  const apart = withoutCovered(cidrs);
  if (apart.length === 1) return { kind: 'prefix', field, cidr: apart[0]!, not };
  const values = apart
    .sort((a, b) => a.compare(b))
    .map((cidr) => ({ key: [cidr.address], keyEnd: [cidr.last] }));
  return { kind: 'among', fields: [field], values, not };
}
