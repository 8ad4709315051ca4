/**
 * Statements of rules as the kernel's expressions. Pure.
 *
 *     tcp dport 80        meta l4proto => reg 0 | cmp eq reg 0 6 | payload 2 bytes of transport + 2 => reg 0 | cmp eq reg 0 80
 *     ip saddr @s         payload 4 bytes of network + 12 => reg 0 | lookup reg 0 set s
 *     jump c              immediate verdict jump c
 *
 * Parts of a concatenation lie in registers one behind the other, each filled up to 4 bytes. A set of values written in
 * the rule is an anonymous set, made in the same transaction just before the rule and named by a number in it.
 * Source: what nft(8) sends, seen with `nft --debug=mnl`.
 */
import { addressBits, type Cidr } from '../../addr/index.ts';
import { nftError } from '../../errors/nft.ts';
import { type Datum, padded, sizeOf, typesNamed, writeParts } from './datum.ts';
import {
  bitwise,
  compare,
  constant,
  counter,
  ct,
  hostU32,
  META,
  masquerade,
  meta,
  type NftExpression,
  nextHop,
  type Register,
  reject,
  setMark,
  snat,
  verdict,
  verdictMap,
} from './expression.ts';
import { type FieldSpec, fieldSpec, type NftField } from './fields.ts';
import {
  CT_STATES,
  FIELD_JOIN,
  LIMIT_UNITS,
  type NftRule,
  type NftStatement,
  type NftValues,
  TCP_FLAGS,
  type TcpFlag,
} from './rule.ts';

const PROTOCOL_TCP = 6;

/** The set that a rule's values need; `key` is its type as nft writes it. */
export interface AnonymousSet {
  readonly key: string;
  readonly values: readonly NftValues[];
}

/** Gives an anonymous set its number in the transaction. */
export type SetNumbers = (set: AnonymousSet) => number;

/** The anonymous sets of a rule, in the order in which expressionsOf() asks for them. */
export function anonymousSets(statements: readonly NftStatement[]): AnonymousSet[] {
  return statements.flatMap((statement) =>
    statement.kind === 'among' && needsSet(statement.fields, statement.values)
      ? [{ key: typeText(statement.fields), values: statement.values }]
      : [],
  );
}

/** What the kernel runs for a rule. Throws NFT_VALUE_INVALID. */
export function expressionsOf({ statements }: NftRule, numberOf: SetNumbers = () => 0): NftExpression[] {
  const out: NftExpression[] = [];
  for (const statement of statements) translate(out, statement, numberOf);
  return out;
}

/** Chains that a rule's own verdicts lead to. */
export function targetsOf({ statements }: NftRule): string[] {
  const verdicts = statements.flatMap((statement) => {
    if (statement.kind === 'verdict') return [statement.verdict];
    if (statement.kind !== 'steps') return [];
    return statement.steps.flatMap((step) => ('verdict' in step ? [step.verdict] : []));
  });
  return verdicts.flatMap((verdict) => ('chain' in verdict ? [verdict.chain] : []));
}

function translate(out: NftExpression[], statement: NftStatement, numberOf: SetNumbers): void {
  switch (statement.kind) {
    case 'trace':
      out.push(constant(Uint8Array.of(1), 0), { name: 'meta', key: META.nftrace, from: 0 });
      return;
    case 'steps':
      out.push(...statement.steps);
      return;
    case 'lookup':
      load(out, statement.fields);
      out.push({ name: 'lookup', set: statement.set, key: 0, not: statement.not });
      return;
    case 'vmap':
      load(out, statement.fields);
      out.push(verdictMap(statement.map, 0));
      return;
    case 'among':
      among(out, statement, numberOf);
      return;
    case 'prefix': {
      const { field, cidr, not } = statement;
      load(out, [field]);
      mask(out, maskOf(cidr));
      out.push(compare(0, bytesOf([field], [cidr.address]), not));
      return;
    }
    case 'state':
      load(out, ['ct state']);
      mask(out, hostU32(statement.states.reduce((bits, state) => bits | CT_STATES[state], 0)));
      out.push(compare(0, hostU32(0), true));
      return;
    case 'flags':
      load(out, ['tcp flags']);
      mask(out, Uint8Array.of(flagBits(statement.mask)));
      out.push(compare(0, Uint8Array.of(flagBits(statement.flags)), statement.not));
      return;
    case 'mark':
      load(out, [statement.field]);
      mask(out, hostU32(statement.mask));
      out.push(compare(0, hostU32(statement.value), statement.not));
      return;
    case 'counter':
      out.push(counter());
      return;
    case 'limit':
      out.push({
        name: 'limit',
        rate: statement.rate,
        perSeconds: LIMIT_UNITS[statement.per],
        burst: statement.burst,
      });
      return;
    case 'log':
      out.push({
        name: 'log',
        group: statement.group,
        prefix: statement.prefix,
        snaplen: statement.snaplen,
      });
      return;
    case 'reject':
      if (statement.with === 'tcp reset') protocolIs(out, PROTOCOL_TCP);
      out.push(reject(statement.with));
      return;
    case 'masquerade':
      portRange(out, statement.ports);
      out.push(masquerade(statement.ports && PORTS));
      return;
    case 'snat':
      out.push(constant(statement.address.toBytes(), SOURCE));
      portRange(out, statement.ports);
      out.push(snat(statement.address.family, SOURCE, { random: true, ports: statement.ports && PORTS }));
      return;
    case 'keep source':
      load(out, [statement.family === 4 ? 'ip saddr' : 'ip6 saddr']);
      out.push(snat(statement.family, 0, { random: false }));
      return;
    case 'direction':
      out.push(ct('direction', 0), compare(0, Uint8Array.of(statement.direction === 'reply' ? 1 : 0)));
      return;
    case 'nexthop':
      out.push(nextHop(statement.address.family, 0));
      out.push(compare(0, statement.address.toBytes(), statement.not));
      return;
    case 'set mark':
      load(out, ['meta mark']);
      out.push(bitwise(0, ~statement.mask, statement.value & statement.mask), setMark(0));
      return;
    case 'verdict':
      out.push(verdict(statement.verdict));
  }
}

/** Where nft puts the two ports: registers of 16 bytes. */
const PORTS = [0, 4] as const;
/** Register of an address beside them. */
const SOURCE = 8;

function portRange(out: NftExpression[], ports: readonly number[] | undefined): void {
  ports?.forEach((port, at) => {
    out.push(constant(Uint8Array.of(port >>> 8, port), PORTS[at]!));
  });
}

function among(
  out: NftExpression[],
  { fields, values, not }: Extract<NftStatement, { kind: 'among' }>,
  numberOf: SetNumbers,
): void {
  load(out, fields);
  if (needsSet(fields, values)) {
    out.push({ ...ANONYMOUS, id: numberOf({ key: typeText(fields), values }), not });
    return;
  }
  const { key, keyEnd } = values[0]!;
  const first = bytesOf(fields, key);
  if (!keyEnd || String(keyEnd[0]) === String(key[0])) out.push(compare(0, first, not));
  else if (not) out.push({ name: 'range', register: 0, first, last: bytesOf(fields, keyEnd) });
  else
    out.push(
      { name: 'cmp', register: 0, operation: 'gte', value: first },
      { name: 'cmp', register: 0, operation: 'lte', value: bytesOf(fields, keyEnd) },
    );
}

/** The kernel puts a number of its own for %d. */
export const ANONYMOUS_NAME = '__set%d';
const ANONYMOUS = { name: 'lookup', set: ANONYMOUS_NAME, key: 0 } as const;

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
function load(out: NftExpression[], fields: readonly NftField[]): void {
  let slot: Register = 0;
  for (const field of fields) {
    const spec = fieldSpec(field);
    if (spec.protocol !== undefined) protocolIs(out, spec.protocol);
    out.push(loadOne(spec, slot));
    slot += padded(sizeOf(typesNamed(spec.type))) / 4;
  }
}

function loadOne({ source }: FieldSpec, to: Register): NftExpression {
  if (source.from === 'payload') {
    const { base, offset, length } = source;
    return { name: 'payload', base, offset, length, to };
  }
  if (source.from === 'fib') return { name: 'fib', result: source.result, flags: source.flags, to };
  return { name: source.from, key: source.key, to };
}

function protocolIs(out: NftExpression[], protocol: number): void {
  out.push(meta('l4proto', 0), compare(0, Uint8Array.of(protocol)));
}

/** Keeps the bits of `bits`. */
function mask(out: NftExpression[], bits: Uint8Array): void {
  out.push({ name: 'bitwise', register: 0, mask: bits, xor: new Uint8Array(bits.length) });
}

/** The bits of the prefix, in network order. */
function maskOf({ family, prefixLength }: Cidr): Uint8Array {
  return new Uint8Array(addressBits(family) / 8).map((_, at) => {
    const bits = Math.min(8, Math.max(0, prefixLength - at * 8));
    return 0xff << (8 - bits);
  });
}

function flagBits(flags: readonly TcpFlag[]): number {
  return flags.reduce((bits, flag) => bits | TCP_FLAGS[flag], 0);
}
