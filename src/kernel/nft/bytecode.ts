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
 * Source: include/uapi/linux/netfilter/nf_tables.h. Numbers in attributes are in network order.
 */
import type { NlWriter } from '../netlink/index.ts';
import type { NftVerdict } from './set-element.ts';

/** One step of a rule. */
export interface Expression {
  /** As NFTA_EXPR_NAME has it. */
  readonly name: string;
  /** Writes NFTA_EXPR_DATA. */
  readonly write: (writer: NlWriter) => void;
}

/** Register 0 to 15; the kernel calls the first one NFT_REG32_00. */
export type Register = number;

const NFT_REG_VERDICT = 0;
const NFT_REG32_00 = 8;

const VERDICT_CODE = { drop: 0, accept: 1, continue: -1, jump: -3, goto: -4, return: -5 } as const;
const NFTA_DATA = { VALUE: 1, VERDICT: 2 } as const;
const NFTA_VERDICT = { CODE: 1, CHAIN: 2 } as const;

/** enum nft_meta_keys */
export const META = { mark: 3, iif: 4, l4proto: 16 } as const;
/** enum nft_ct_keys */
export const CT = { state: 0, status: 2 } as const;
/** NF_CT_STATE_BIT of nf_conntrack_common.h; IPS_DST_NAT of enum ip_conntrack_status. */
export const CT_STATE = { invalid: 1, new: 8 } as const;
export const CT_STATUS_DNAT = 0x20;

function expression(name: string, write: (attribute: AttributeWriter) => void): Expression {
  return { name, write: (writer) => write(new AttributeWriter(writer)) };
}

/** Attributes in the few forms that expressions have. */
class AttributeWriter {
  readonly #writer: NlWriter;
  constructor(writer: NlWriter) {
    this.#writer = writer;
  }
  u32(type: number, value: number): this {
    this.#writer.attribute(type, () => this.#writer.u32be(value));
    return this;
  }
  u8(type: number, value: number): this {
    this.#writer.attribute(type, () => this.#writer.u8(value));
    return this;
  }
  u64(type: number, value: number): this {
    this.#writer.attribute(type, () => this.#writer.u64be(BigInt(value)));
    return this;
  }
  text(type: number, value: string): this {
    this.#writer.attribute(type, () => this.#writer.string(value));
    return this;
  }
  register(type: number, register: Register): this {
    return this.u32(type, NFT_REG32_00 + register);
  }
  value(type: number, bytes: Uint8Array): this {
    this.#writer.nest(type, () => this.#writer.attribute(NFTA_DATA.VALUE, () => this.#writer.bytes(bytes)));
    return this;
  }
  verdict(type: number, verdict: NftVerdict): this {
    const writer = this.#writer;
    writer.nest(type, () =>
      writer.nest(NFTA_DATA.VERDICT, () => {
        writer.attribute(NFTA_VERDICT.CODE, () => writer.u32be(VERDICT_CODE[verdict.verdict]));
        if ('chain' in verdict) writer.attribute(NFTA_VERDICT.CHAIN, () => writer.string(verdict.chain));
      }),
    );
    return this;
  }
}

/** Bytes of a packet into registers. */
export function payload(base: 'network' | 'transport', offset: number, length: number, to: Register) {
  const BASE = { network: 1, transport: 2 } as const;
  return expression('payload', (a) => a.register(1, to).u32(2, BASE[base]).u32(3, offset).u32(4, length));
}

export function meta(key: keyof typeof META, to: Register): Expression {
  return expression('meta', (a) => a.register(1, to).u32(2, META[key]));
}

/** Sets the packet's mark. */
export function setMark(from: Register): Expression {
  return expression('meta', (a) => a.u32(2, META.mark).register(3, from));
}

export function ct(key: keyof typeof CT, to: Register): Expression {
  return expression('ct', (a) => a.register(1, to).u32(2, CT[key]));
}

/** Goes on if the register holds these bytes, or with `not` if it does not. */
export function compare(register: Register, bytes: Uint8Array, not = false): Expression {
  return expression('cmp', (a) =>
    a
      .register(1, register)
      .u32(2, not ? 1 : 0)
      .value(3, bytes),
  );
}

/** `register & mask ^ xor`, of 32 bits in the host's order. */
export function bitwise(register: Register, mask: number, xor: number): Expression {
  return expression('bitwise', (a) =>
    a.register(1, register).register(2, register).u32(3, 4).value(4, hostU32(mask)).value(5, hostU32(xor)),
  );
}

/** A number in the order of the host, as marks and interface numbers are. */
export function hostU32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value >>> 0, true);
  return bytes;
}

/** Goes on if the set has the key that begins at a register; of a map, with its value from `to` on. */
export function lookup(set: string, key: Register, to?: Register): Expression {
  return expression('lookup', (a) => {
    a.text(1, set).register(2, key);
    if (to !== undefined) a.register(3, to);
  });
}

/** Goes on if the set does not have the key. */
export function absent(set: string, key: Register): Expression {
  return expression('lookup', (a) => a.text(1, set).register(2, key).u32(5, 1));
}

/** Does what a verdict map says about the key; goes on with the next rule if it says nothing. */
export function verdictMap(map: string, key: Register): Expression {
  return expression('lookup', (a) => a.text(1, map).register(2, key).u32(3, NFT_REG_VERDICT));
}

/** A random number of the host's order: offset, ..., offset + modulus - 1. */
export function random(modulus: number, offset: number, to: Register): Expression {
  const NFT_NG_RANDOM = 1;
  return expression('numgen', (a) => a.register(1, to).u32(2, modulus).u32(3, NFT_NG_RANDOM).u32(4, offset));
}

/** Puts the key into a dynamic set, or puts its end of life off. The rule ends here when the set is full. */
export function remember(set: string, key: Register, timeoutMs: number): Expression {
  const NFT_DYNSET_OP_UPDATE = 1;
  return expression('dynset', (a) =>
    a.text(1, set).u32(3, NFT_DYNSET_OP_UPDATE).register(4, key).u64(6, timeoutMs),
  );
}

/** A constant into registers. */
export function constant(bytes: Uint8Array, to: Register): Expression {
  return expression('immediate', (a) => a.register(1, to).value(2, bytes));
}

/** Destination NAT to address and port in registers; ends the chain. */
export function dnat(family: 4 | 6, address: Register, port: Register): Expression {
  const NFT_NAT_DNAT = 1;
  return expression('nat', (a) =>
    a
      .u32(1, NFT_NAT_DNAT)
      .u32(2, family === 4 ? 2 : 10)
      .register(3, address)
      .register(4, address)
      .register(5, port)
      .register(6, port),
  );
}

/** Source NAT to an address of the outgoing interface, with a port that nobody can guess; ends the chain. */
export function masquerade(): Expression {
  const NF_NAT_RANGE_PROTO_RANDOM_FULLY = 1 << 4;
  return expression('masq', (a) => a.u32(1, NF_NAT_RANGE_PROTO_RANDOM_FULLY));
}

/** TCP is answered with a reset, anything else with ICMP "port unreachable". */
export function reject(how: 'tcp reset' | 'port unreachable', family: 4 | 6): Expression {
  const NFT_REJECT = { ICMP_UNREACH: 0, TCP_RST: 1 } as const;
  // ICMP_PORT_UNREACH, ICMPV6_PORT_UNREACH
  const code = family === 4 ? 3 : 4;
  return expression('reject', (a) =>
    how === 'tcp reset'
      ? a.u32(1, NFT_REJECT.TCP_RST).u8(2, 0)
      : a.u32(1, NFT_REJECT.ICMP_UNREACH).u8(2, code),
  );
}

/** Counts packets and bytes. */
export function counter(): Expression {
  return expression('counter', (a) => a.u64(1, 0).u64(2, 0));
}

export function verdict(what: NftVerdict): Expression {
  return expression('immediate', (a) => a.u32(1, NFT_REG_VERDICT).verdict(2, what));
}
