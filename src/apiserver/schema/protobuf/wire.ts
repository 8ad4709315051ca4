/** The protobuf wire format: fields of a message, one after the other. Source: protobuf encoding specification. */

/** One field: wire types 0, 1 and 5 give a number, wire type 2 the bytes. */
export interface Wire {
  readonly number: number;
  readonly value: bigint | Uint8Array;
}

/** Reads the fields of one message; throws an Error that says what is wrong with the bytes. */
export class WireReader implements Iterable<Wire> {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  /** Numbers that are packed into one field. */
  static *packed(bytes: Uint8Array): Generator<bigint> {
    const reader = new WireReader(bytes);
    while (reader.#at < bytes.length) yield reader.#varint();
  }

  *[Symbol.iterator](): Generator<Wire> {
    while (this.#at < this.#bytes.length) {
      const tag = this.#varint();
      const number = Number(tag >> 3n);
      if (number === 0 || number > 0x1fffffff) throw new Error(`field number ${number} is out of range`);
      yield { number, value: this.#value(Number(tag & 7n)) };
    }
  }

  #value(wireType: number): bigint | Uint8Array {
    switch (wireType) {
      case 0:
        return this.#varint();
      case 1:
        return this.#fixed(8);
      case 2:
        return this.#take(Number(this.#varint()));
      case 5:
        return this.#fixed(4);
      default:
        throw new Error(`wire type ${wireType} is not known`);
    }
  }

  /** At most ten bytes of seven bits, the lowest first. */
  #varint(): bigint {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = this.#bytes[this.#at++];
      if (byte === undefined) throw new Error('the message ends inside a number');
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return BigInt.asUintN(64, value);
    }
    throw new Error('a number is longer than ten bytes');
  }

  #take(length: number): Uint8Array {
    const end = this.#at + length;
    if (end > this.#bytes.length)
      throw new Error(`a field of ${length} bytes has only ${this.#bytes.length - this.#at}`);
    const part = this.#bytes.subarray(this.#at, end);
    this.#at = end;
    return part;
  }

  /** Little endian. */
  #fixed(length: 4 | 8): bigint {
    let value = 0n;
    for (const byte of this.#take(length).toReversed()) value = (value << 8n) | BigInt(byte);
    return value;
  }
}
