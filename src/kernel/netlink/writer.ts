import { NLA_F_NESTED, NLMSG_HDRLEN } from './constants.ts';

/**
 * Builds netlink messages one behind the other, ready for one send:
 *
 *     0       4     6      8      12     16
 *     | length| type| flags| seq  | port | family header | attribute | attribute | ... (next message)
 *                                                         | length type value pad|
 *
 * The buffer grows; it is handed to the kernel only as a whole and during one call.
 */
export class NlWriter {
  #bytes: Uint8Array;
  #view: DataView;
  #at = 0;
  #message = 0;

  constructor(size = 4096) {
    this.#bytes = new Uint8Array(size);
    this.#view = new DataView(this.#bytes.buffer);
  }

  /** Bytes written so far. */
  get length(): number {
    return this.#at;
  }

  /** What was written; valid until the next write. */
  get written(): Uint8Array {
    return this.#bytes.subarray(0, this.#at);
  }

  /** Forgets everything. */
  reset(): this {
    this.#at = 0;
    return this;
  }

  /** Starts a message; `end` completes it. */
  begin(type: number, flags: number, sequence: number): this {
    this.#room(NLMSG_HDRLEN);
    this.#message = this.#at;
    this.#view.setUint32(this.#at, 0, true);
    this.#view.setUint16(this.#at + 4, type, true);
    this.#view.setUint16(this.#at + 6, flags, true);
    this.#view.setUint32(this.#at + 8, sequence, true);
    this.#view.setUint32(this.#at + 12, 0, true);
    this.#at += NLMSG_HDRLEN;
    return this;
  }

  end(): this {
    this.#align();
    this.#view.setUint32(this.#message, this.#at - this.#message, true);
    return this;
  }

  /** Adds flag bits to the message begun last. */
  addFlags(flags: number): this {
    const at = this.#message + 6;
    this.#view.setUint16(at, this.#view.getUint16(at, true) | flags, true);
    return this;
  }

  /** Forgets the message begun last, when building it failed half-way. */
  abandon(): void {
    this.#at = this.#message;
  }

  u8(value: number): this {
    this.#room(1);
    this.#view.setUint8(this.#at, value);
    this.#at += 1;
    return this;
  }

  u16(value: number): this {
    this.#room(2);
    this.#view.setUint16(this.#at, value, true);
    this.#at += 2;
    return this;
  }

  u16be(value: number): this {
    this.#room(2);
    this.#view.setUint16(this.#at, value);
    this.#at += 2;
    return this;
  }

  u32(value: number): this {
    this.#room(4);
    this.#view.setUint32(this.#at, value >>> 0, true);
    this.#at += 4;
    return this;
  }

  u32be(value: number): this {
    this.#room(4);
    this.#view.setUint32(this.#at, value >>> 0);
    this.#at += 4;
    return this;
  }

  u64(value: bigint): this {
    this.#room(8);
    this.#view.setBigUint64(this.#at, value, true);
    this.#at += 8;
    return this;
  }

  u64be(value: bigint): this {
    this.#room(8);
    this.#view.setBigUint64(this.#at, value);
    this.#at += 8;
    return this;
  }

  bytes(value: Uint8Array): this {
    this.#room(value.length);
    this.#bytes.set(value, this.#at);
    this.#at += value.length;
    return this;
  }

  /** UTF-8 with a NUL behind it. */
  string(value: string): this {
    this.#room(textRoom(value));
    this.#at += encodeText(value, this.#bytes, this.#at);
    return this;
  }

  /** One attribute, its value written by `write`. */
  attribute(type: number, write: () => void): this {
    this.#align();
    this.#room(4);
    const start = this.#at;
    this.#view.setUint16(start + 2, type, true);
    this.#at += 4;
    write();
    const length = this.#at - start;
    if (length > 0xffff)
      throw new RangeError(`attribute ${type & ~NLA_F_NESTED} of ${length} bytes is too long`);
    this.#view.setUint16(start, length, true);
    this.#align();
    return this;
  }

  /** One attribute that holds attributes. */
  nest(type: number, write: () => void): this {
    return this.attribute(type | NLA_F_NESTED, write);
  }

  #align(): void {
    while (this.#at & 3) this.u8(0);
  }

  #room(size: number): void {
    if (this.#at + size <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(this.#bytes.length * 2, this.#at + size));
    grown.set(this.#bytes.subarray(0, this.#at));
    this.#bytes = grown;
    this.#view = new DataView(grown.buffer);
  }
}

/** Bytes that encodeText() may need. */
export function textRoom(text: string): number {
  return text.length * 3 + 1;
}

/**
 * Writes UTF-8 with a NUL behind it; returns how many bytes that were. Names and comments are short and nearly always
 * ASCII, where a Buffer for each costs more than its bytes.
 */
export function encodeText(text: string, target: Uint8Array, at: number): number {
  for (let index = 0; index < text.length; index++) {
    const code = text.charCodeAt(index);
    if (code > 0x7f) {
      const { written } = new TextEncoder().encodeInto(text, target.subarray(at));
      target[at + written] = 0;
      return written + 1;
    }
    target[at + index] = code;
  }
  target[at + text.length] = 0;
  return text.length + 1;
}
