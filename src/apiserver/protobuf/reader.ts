/** The wire format of protocol buffers, as far as a reader of messages needs it: protobuf.dev/programming-guides/encoding. */

export class WireError extends Error {}

/** One field of a message: its number, and its value as a number or as bytes. */
export type WireField = { readonly number: number } & (
  | { readonly wire: 'varint'; readonly value: bigint }
  | { readonly wire: 'bytes'; readonly value: Uint8Array }
);

function varint(bytes: Uint8Array, at: number): [bigint, number] {
  let value = 0n;
  for (let shift = 0n; shift < 70n; shift += 7n) {
    const byte = bytes[at++];
    if (byte === undefined) throw new WireError('a number is cut off');
    value |= BigInt(byte & 0x7f) << shift;
    if (byte < 0x80) return [BigInt.asUintN(64, value), at];
  }
  throw new WireError('a number is longer than 10 bytes');
}

/** The fields of a message in order; fixed-width ones, which Kubernetes does not use here, are skipped. */
export function* fieldsOf(bytes: Uint8Array): Generator<WireField> {
  let at = 0;
  while (at < bytes.length) {
    const [tag, afterTag] = varint(bytes, at);
    at = afterTag;
    const number = Number(tag >> 3n);
    if (number === 0) throw new WireError('a field has number 0');
    switch (Number(tag & 7n)) {
      case 0: {
        const [value, next] = varint(bytes, at);
        at = next;
        yield { number, wire: 'varint', value };
        break;
      }
      case 2: {
        const [length, start] = varint(bytes, at);
        const end = start + Number(length);
        if (end > bytes.length) throw new WireError(`field ${number} is cut off`);
        at = end;
        yield { number, wire: 'bytes', value: bytes.subarray(start, end) };
        break;
      }
      case 1:
        at += 8;
        break;
      case 5:
        at += 4;
        break;
      default:
        throw new WireError(`field ${number} has a wire type that is not used any more`);
    }
    if (at > bytes.length) throw new WireError(`field ${number} is cut off`);
  }
}
