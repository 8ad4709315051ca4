/**
 * Statements of rules as the kernel's expressions: small programs over registers. Pure.
 *
 *     tcp dport 80        meta l4proto => reg 1 | cmp eq reg 1 6 | payload 2 bytes of transport + 2 => reg 1 | cmp eq reg 1 80
 *     ip saddr @s         payload 4 bytes of network + 12 => reg 1 | lookup reg 1 set s
 *     jump c              immediate reg 0 jump c
 *
 * Parts of a concatenation lie in registers one behind the other, each filled up to 4 bytes. A set of values written in
 * the rule is an anonymous set, made in the same transaction just before the rule and named by a number in it.
 * Source: include/uapi/linux/netfilter/nf_tables.h; what nft(8) sends, seen with `nft --debug=mnl`.
 */
import { addressBits, type Cidr } from '../../addr/index.ts';
import { nftError } from '../../errors/nft.ts';
import type { NlWriter } from '../netlink/index.ts';
import { type Datum, padded, sizeOf, typesNamed, writeParts } from './datum.ts';
import { type FieldSpec, fieldSpec, type NftField } from './fields.ts';
import {
  CT_STATES,
  FIELD_JOIN,
  LIMIT_UNITS,
  type NftStatement,
  type NftValues,
  TCP_FLAGS,
  type TcpFlag,
} from './rule.ts';
import { type NftVerdict, VERDICT_CODES } from './set-element.ts';

const NFTA_LIST_ELEM = 1;
const NFTA_EXPR = { NAME: 1, DATA: 2 } as const;
const NFTA_DATA = { VALUE: 1, VERDICT: 2 } as const;
const NFTA_VERDICT = { CODE: 1, CHAIN: 2 } as const;
const PAYLOAD_BASE = { network: 1, transport: 2 } as const;
const COMPARE = { eq: 0, neq: 1, lte: 3, gte: 5 } as const;
const LOOKUP_INVERTED = 1;
const META_L4PROTO = 16;
/** NFT_REG_VERDICT, NFT_REG_1, NFT_REG32_00. */
const REGISTER = { verdict: 0, first: 1, first32: 8 } as const;
const PROTOCOL_TCP = 6;
/** include/uapi/linux/netfilter/nf_nat.h */
const NF_NAT_RANGE_PROTO_RANDOM_FULLY = 1 << 4;
/** NFT_REJECT_*; code 13 of ICMP and 1 of ICMPv6 is "administratively prohibited" (RFC 1812, RFC 4443). */
const REJECT = {
  'tcp reset': { type: 1, code: 0 },
  icmp: { type: 0, code: 13 },
  icmpv6: { type: 0, code: 1 },
} as const;

/** The set that a rule's values need; `key` is its type as nft writes it. */
export interface AnonymousSet {
  readonly key: string;
  readonly values: readonly NftValues[];
}

/** Gives an anonymous set its number in the transaction. */
export type SetNumbers = (set: AnonymousSet) => number;

/** The anonymous sets of a rule, in the order in which writeStatements() asks for them. */
export function anonymousSets(statements: readonly NftStatement[]): AnonymousSet[] {
  return statements.flatMap((statement) =>
    statement.kind === 'among' && needsSet(statement.fields, statement.values)
      ? [{ key: typeText(statement.fields), values: statement.values }]
      : [],
  );
}

/** Writes NFTA_RULE_EXPRESSIONS' content. Throws NFT_VALUE_INVALID. */
export function writeStatements(
  writer: NlWriter,
  statements: readonly NftStatement[],
  numberOf: SetNumbers,
): void {
  for (const statement of statements) writeStatement(writer, statement, numberOf);
}

function writeStatement(w: NlWriter, statement: NftStatement, numberOf: SetNumbers): void {
  switch (statement.kind) {
    case 'lookup':
      load(w, statement.fields);
      lookup(w, { set: statement.set, not: statement.not });
      return;
    case 'vmap':
      load(w, statement.fields);
      lookup(w, { set: statement.map, verdict: true });
      return;
    case 'among':
      among(w, statement, numberOf);
      return;
    case 'prefix': {
      const { field, cidr, not } = statement;
      load(w, [field]);
      bitwise(w, maskOf(cidr));
      compare(w, not ? COMPARE.neq : COMPARE.eq, bytesOf([field], [cidr.address]));
      return;
    }
    case 'state':
      load(w, ['ct state']);
      bitwise(w, u32(statement.states.reduce((bits, state) => bits | CT_STATES[state], 0)));
      compare(w, COMPARE.neq, u32(0));
      return;
    case 'flags':
      load(w, ['tcp flags']);
      bitwise(w, Uint8Array.of(flagBits(statement.mask)));
      compare(w, statement.not ? COMPARE.neq : COMPARE.eq, Uint8Array.of(flagBits(statement.flags)));
      return;
    case 'mark':
      load(w, [statement.field]);
      bitwise(w, u32(statement.mask));
      compare(w, statement.not ? COMPARE.neq : COMPARE.eq, u32(statement.value));
      return;
    case 'counter':
      expression(w, 'counter', () => {
        w.attribute(1, () => w.u64be(0n));
        w.attribute(2, () => w.u64be(0n));
      });
      return;
    case 'limit':
      expression(w, 'limit', () => {
        w.attribute(1, () => w.u64be(BigInt(statement.rate)));
        w.attribute(2, () => w.u64be(LIMIT_UNITS[statement.per]));
        w.attribute(3, () => w.u32be(statement.burst));
        w.attribute(4, () => w.u32be(0));
      });
      return;
    case 'log':
      expression(w, 'log', () => {
        w.attribute(1, () => w.u16be(statement.group));
        w.attribute(2, () => w.string(statement.prefix));
        const { snaplen } = statement;
        if (snaplen !== undefined) w.attribute(3, () => w.u32be(snaplen));
      });
      return;
    case 'reject': {
      const { type, code } = REJECT[statement.with];
      if (statement.with === 'tcp reset') protocolIs(w, PROTOCOL_TCP);
      expression(w, 'reject', () => {
        w.attribute(1, () => w.u32be(type));
        w.attribute(2, () => w.u8(code));
      });
      return;
    }
    case 'masquerade':
      expression(w, 'masq', () => w.attribute(1, () => w.u32be(NF_NAT_RANGE_PROTO_RANDOM_FULLY)));
      return;
    case 'verdict':
      expression(w, 'immediate', () => {
        w.attribute(1, () => w.u32be(REGISTER.verdict));
        w.nest(2, () => w.nest(NFTA_DATA.VERDICT, () => writeVerdict(w, statement.verdict)));
      });
  }
}

function among(
  w: NlWriter,
  { fields, values, not }: Extract<NftStatement, { kind: 'among' }>,
  numberOf: SetNumbers,
): void {
  load(w, fields);
  if (needsSet(fields, values)) {
    lookup(w, { set: '__set%d', id: numberOf({ key: typeText(fields), values }), not });
    return;
  }
  const { key, keyEnd } = values[0]!;
  const first = bytesOf(fields, key);
  if (!keyEnd || String(keyEnd[0]) === String(key[0])) compare(w, not ? COMPARE.neq : COMPARE.eq, first);
  else if (not)
    expression(w, 'range', () => {
      w.attribute(1, () => w.u32be(REGISTER.first));
      w.attribute(2, () => w.u32be(COMPARE.neq));
      w.nest(3, () => w.attribute(NFTA_DATA.VALUE, () => w.bytes(first)));
      w.nest(4, () => w.attribute(NFTA_DATA.VALUE, () => w.bytes(bytesOf(fields, keyEnd))));
    });
  else {
    compare(w, COMPARE.gte, first);
    compare(w, COMPARE.lte, bytesOf(fields, keyEnd));
  }
}

/** One field is compared, more go to a set, as nft does it. */
function needsSet(fields: readonly NftField[], values: readonly NftValues[]): boolean {
  if (values.length === 0)
    throw nftError('NFT_VALUE_INVALID', {
      type: typeText(fields),
      value: '{}',
      why: 'a rule without values would match nothing',
    });
  return fields.length > 1 || values.length > 1;
}

function typeText(fields: readonly NftField[]): string {
  return fields.map((field) => fieldSpec(field).type).join(FIELD_JOIN);
}

function bytesOf(fields: readonly NftField[], values: readonly Datum[]): Uint8Array {
  const types = typesNamed(typeText(fields));
  const bytes = new Uint8Array(sizeOf(types));
  writeParts(types, bytes, 0, values);
  return bytes;
}

/** Loads fields into registers from the first on. */
function load(w: NlWriter, fields: readonly NftField[]): void {
  let slot = 0;
  for (const field of fields) {
    const spec = fieldSpec(field);
    if (spec.protocol !== undefined) protocolIs(w, spec.protocol);
    loadOne(w, spec, registerOf(slot));
    slot += padded(sizeOf(typesNamed(spec.type))) / 4;
  }
}

function loadOne(w: NlWriter, { source }: FieldSpec, register: number): void {
  if (source.from === 'payload')
    expression(w, 'payload', () => {
      w.attribute(1, () => w.u32be(register));
      w.attribute(2, () => w.u32be(PAYLOAD_BASE[source.base]));
      w.attribute(3, () => w.u32be(source.offset));
      w.attribute(4, () => w.u32be(source.length));
    });
  else if (source.from === 'fib')
    expression(w, 'fib', () => {
      w.attribute(1, () => w.u32be(register));
      w.attribute(2, () => w.u32be(source.result));
      w.attribute(3, () => w.u32be(source.flags));
    });
  else
    expression(w, source.from, () => {
      w.attribute(1, () => w.u32be(register));
      w.attribute(2, () => w.u32be(source.key));
    });
}

/** Number of the register that begins at a slot of 4 bytes: by its old name where it has one. */
function registerOf(slot: number): number {
  return slot % 4 === 0 ? REGISTER.first + slot / 4 : REGISTER.first32 + slot;
}

function protocolIs(w: NlWriter, protocol: number): void {
  expression(w, 'meta', () => {
    w.attribute(1, () => w.u32be(REGISTER.first));
    w.attribute(2, () => w.u32be(META_L4PROTO));
  });
  compare(w, COMPARE.eq, Uint8Array.of(protocol));
}

function compare(w: NlWriter, operation: number, value: Uint8Array): void {
  expression(w, 'cmp', () => {
    w.attribute(1, () => w.u32be(REGISTER.first));
    w.attribute(2, () => w.u32be(operation));
    w.nest(3, () => w.attribute(NFTA_DATA.VALUE, () => w.bytes(value)));
  });
}

/** Keeps the bits of `mask`. */
function bitwise(w: NlWriter, mask: Uint8Array): void {
  expression(w, 'bitwise', () => {
    w.attribute(1, () => w.u32be(REGISTER.first));
    w.attribute(2, () => w.u32be(REGISTER.first));
    w.attribute(3, () => w.u32be(mask.length));
    w.nest(4, () => w.attribute(NFTA_DATA.VALUE, () => w.bytes(mask)));
    w.nest(5, () => w.attribute(NFTA_DATA.VALUE, () => w.bytes(new Uint8Array(mask.length))));
  });
}

function lookup(
  w: NlWriter,
  {
    set,
    id,
    verdict = false,
    not = false,
  }: {
    readonly set: string;
    readonly id?: number | undefined;
    readonly verdict?: boolean | undefined;
    readonly not?: boolean | undefined;
  },
): void {
  expression(w, 'lookup', () => {
    w.attribute(1, () => w.string(set));
    w.attribute(2, () => w.u32be(REGISTER.first));
    if (verdict) w.attribute(3, () => w.u32be(REGISTER.verdict));
    if (id !== undefined) w.attribute(4, () => w.u32be(id));
    if (not) w.attribute(5, () => w.u32be(LOOKUP_INVERTED));
  });
}

function writeVerdict(w: NlWriter, verdict: NftVerdict): void {
  w.attribute(NFTA_VERDICT.CODE, () => w.u32be(VERDICT_CODES[verdict.verdict]));
  if ('chain' in verdict) w.attribute(NFTA_VERDICT.CHAIN, () => w.string(verdict.chain));
}

function expression(w: NlWriter, name: string, write: () => void): void {
  w.nest(NFTA_LIST_ELEM, () => {
    w.attribute(NFTA_EXPR.NAME, () => w.string(name));
    w.nest(NFTA_EXPR.DATA, write);
  });
}

function flagBits(flags: readonly TcpFlag[]): number {
  return flags.reduce((bits, flag) => bits | TCP_FLAGS[flag], 0);
}

/** The bits of the prefix, in network order. */
function maskOf({ family, prefixLength }: Cidr): Uint8Array {
  return new Uint8Array(addressBits(family) / 8).map((_, at) => {
    const bits = Math.min(8, Math.max(0, prefixLength - at * 8));
    return 0xff << (8 - bits);
  });
}

/** In the order of this machine, as the kernel keeps marks and states. */
function u32(value: number): Uint8Array {
  return Uint8Array.of(value, value >>> 8, value >>> 16, value >>> 24);
}
