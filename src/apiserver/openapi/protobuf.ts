/**
 * Just enough protobuf writing for messages made of strings, booleans, doubles, 64-bit integers and messages.
 * Source: protobuf encoding specification; a field is `tag = number << 3 | wire type`, then its value.
 */
export class ProtobufWriter {
  readonly #parts: Uint8Array[] = [];
  #size = 0;

  /** Wire type 2; the empty string is the default and is left out. */
  string(number: number, value: string): void {
    if (value !== '') this.bytes(number, new TextEncoder().encode(value));
  }

  /** Wire type 2. */
  bytes(number: number, value: Uint8Array): void {
    this.#varint((number << 3) | 2);
    this.#varint(value.length);
    this.#push(value);
  }

  /** Wire type 0; false is the default and is left out. */
  boolean(number: number, value: boolean): void {
    if (value) this.integer(number, 1);
  }

  /** Wire type 0, not negative. */
  integer(number: number, value: number): void {
    this.#varint(number << 3);
    this.#varint(value);
  }

  /** Wire type 1. */
  double(number: number, value: number): void {
    this.#varint((number << 3) | 1);
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setFloat64(0, value, true);
    this.#push(bytes);
  }

  /** The message so far. */
  finish(): Uint8Array {
    const result = new Uint8Array(this.#size);
    let at = 0;
    for (const part of this.#parts) {
      result.set(part, at);
      at += part.length;
    }
    return result;
  }

  #varint(value: number): void {
    const bytes: number[] = [];
    let rest = value;
    for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes.push((rest % 0x80) | 0x80);
    bytes.push(rest);
    this.#push(Uint8Array.from(bytes));
  }

  #push(part: Uint8Array): void {
    this.#parts.push(part);
    this.#size += part.length;
  }
}
