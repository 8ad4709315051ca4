/** Expressions as NFTA_RULE_EXPRESSIONS. Pure. Source: include/uapi/linux/netfilter/nf_tables.h, enum nft_*_attributes. */
import type { NlWriter } from '../netlink/index.ts';
import { COMPARE, type NftExpression, type Register } from './expression.ts';
import { NFTA_EXPR } from './read-expression.ts';
import { NFTA_DATA, NFTA_VERDICT, type NftVerdict, VERDICT_CODES } from './verdict.ts';

const NFTA_LIST_ELEM = 1;
const PAYLOAD_BASE = { link: 0, network: 1, transport: 2 } as const;
/** NFT_REG_VERDICT, NFT_REG_1, NFT_REG32_00. */
const REGISTER = { verdict: 0, first: 1, first32: 8 } as const;
const LOOKUP_INVERTED = 1;
const NFT_RANGE_NEQ = 1;
const NFT_NG_RANDOM = 1;
const NFT_DYNSET_OP_UPDATE = 1;
const NFT_NAT_SNAT = 0;
const NFT_NAT_DNAT = 1;
const NFPROTO = { 4: 2, 6: 10 } as const;
/** include/uapi/linux/netfilter/nf_nat.h */
const NF_NAT_RANGE = { PROTO_SPECIFIED: 1 << 1, PROTO_RANDOM_FULLY: 1 << 4 } as const;

/** Writes a list of expressions, the content of NFTA_RULE_EXPRESSIONS. */
export function writeExpressions(w: NlWriter, expressions: readonly NftExpression[]): void {
  for (const expression of expressions) w.nest(NFTA_LIST_ELEM, () => writeExpression(w, expression));
}

/** Writes name and data of one expression. */
export function writeExpression(w: NlWriter, expression: NftExpression): void {
  w.attribute(NFTA_EXPR.NAME, () => w.string(expression.name));
  w.nest(NFTA_EXPR.DATA, () => writeData(w, expression));
}

function writeData(w: NlWriter, e: NftExpression): void {
  const u32 = (type: number, value: number) => w.attribute(type, () => w.u32be(value));
  const u64 = (type: number, value: number | bigint) => w.attribute(type, () => w.u64be(BigInt(value)));
  const text = (type: number, value: string) => w.attribute(type, () => w.string(value));
  const register = (type: number, slot: Register) => u32(type, registerOf(slot));
  const registers = (type: number, slots: readonly Register[] = []) =>
    slots.forEach((slot, at) => {
      register(type + at, slot);
    });
  const value = (type: number, bytes: Uint8Array) =>
    w.nest(type, () => w.attribute(NFTA_DATA.VALUE, () => w.bytes(bytes)));
  switch (e.name) {
    case 'payload':
      register(1, e.to);
      u32(2, PAYLOAD_BASE[e.base]);
      u32(3, e.offset);
      u32(4, e.length);
      return;
    case 'meta':
    case 'ct':
    case 'rt':
      if ('to' in e) register(1, e.to);
      u32(2, e.key);
      if ('from' in e) register(3, e.from);
      return;
    case 'fib':
      register(1, e.to);
      u32(2, e.result);
      u32(3, e.flags);
      return;
    case 'cmp':
      register(1, e.register);
      u32(2, COMPARE[e.operation]);
      value(3, e.value);
      return;
    case 'range':
      register(1, e.register);
      u32(2, NFT_RANGE_NEQ);
      value(3, e.first);
      value(4, e.last);
      return;
    case 'bitwise':
      register(1, e.register);
      register(2, e.register);
      u32(3, e.mask.length);
      value(4, e.mask);
      value(5, e.xor);
      return;
    case 'lookup':
      text(1, e.set);
      register(2, e.key);
      if (e.to === 'verdict') u32(3, REGISTER.verdict);
      else if (e.to !== undefined) register(3, e.to);
      if (e.id !== undefined) u32(4, e.id);
      if (e.not) u32(5, LOOKUP_INVERTED);
      return;
    case 'immediate':
      if ('verdict' in e) {
        u32(1, REGISTER.verdict);
        w.nest(2, () => w.nest(NFTA_DATA.VERDICT, () => writeVerdict(w, e.verdict)));
      } else {
        register(1, e.to);
        value(2, e.value);
      }
      return;
    case 'numgen':
      register(1, e.to);
      u32(2, e.modulus);
      u32(3, NFT_NG_RANDOM);
      u32(4, e.offset);
      return;
    case 'dynset':
      text(1, e.set);
      u32(3, NFT_DYNSET_OP_UPDATE);
      register(4, e.key);
      u64(6, e.timeoutMs);
      return;
    case 'nat':
      u32(1, 'source' in e ? NFT_NAT_SNAT : NFT_NAT_DNAT);
      u32(2, NFPROTO[e.family]);
      if ('source' in e) {
        register(3, e.source);
        registers(5, e.ports);
        if (e.random) u32(7, NF_NAT_RANGE.PROTO_RANDOM_FULLY);
        return;
      }
      for (const type of [3, 4]) register(type, e.address);
      for (const type of [5, 6]) register(type, e.port);
      return;
    case 'masq':
      u32(1, NF_NAT_RANGE.PROTO_RANDOM_FULLY | (e.ports ? NF_NAT_RANGE.PROTO_SPECIFIED : 0));
      registers(2, e.ports);
      return;
    case 'reject':
      u32(1, e.type);
      w.attribute(2, () => w.u8(e.code));
      return;
    case 'counter':
      u64(1, 0);
      u64(2, 0);
      return;
    case 'limit':
      u64(1, e.rate);
      u64(2, e.perSeconds);
      u32(3, e.burst);
      u32(4, 0);
      return;
    case 'log': {
      const { snaplen } = e;
      w.attribute(1, () => w.u16be(e.group));
      text(2, e.prefix);
      if (snaplen !== undefined) u32(3, snaplen);
    }
  }
}

/** Number of the register that begins at a slot of 4 bytes: by its old name where it has one, as nft writes it. */
function registerOf(slot: Register): number {
  return slot % 4 === 0 ? REGISTER.first + slot / 4 : REGISTER.first32 + slot;
}

function writeVerdict(w: NlWriter, verdict: NftVerdict): void {
  w.attribute(NFTA_VERDICT.CODE, () => w.u32be(VERDICT_CODES[verdict.verdict]));
  if ('chain' in verdict) w.attribute(NFTA_VERDICT.CHAIN, () => w.string(verdict.chain));
}
