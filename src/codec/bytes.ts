/**
 * Fixed-size fields of binary structures. Byte order is part of a field's type, so a value in the program is
 * always in host meaning. `u16`, `u32`, `u64` are little-endian: every CPU Portolan builds for is, and so are
 * netlink headers and BPF maps there; `u16be` and `u32be` are network order.
 */
export interface Field<T> {
  readonly size: number;
  readonly alignment: number;
  read(view: DataView, at: number): T;
  write(view: DataView, at: number, value: T): void;
}

/** The value type of a field. */
export type ValueOf<F> = F extends Field<infer T> ? T : never;

function number(
  size: number,
  read: (view: DataView, at: number) => number,
  write: (view: DataView, at: number, value: number) => void,
  low: number,
  high: number,
): Field<number> {
  return {
    size,
    alignment: size,
    read,
    write(view, at, value) {
      if (!Number.isInteger(value) || value < low || value > high)
        throw new RangeError(`${value} does not fit a field of ${size} bytes (${low}..${high})`);
      write(view, at, value);
    },
  };
}

export const u8 = number(
  1,
  (v, o) => v.getUint8(o),
  (v, o, x) => v.setUint8(o, x),
  0,
  0xff,
);
export const i8 = number(
  1,
  (v, o) => v.getInt8(o),
  (v, o, x) => v.setInt8(o, x),
  -0x80,
  0x7f,
);
export const u16 = number(
  2,
  (v, o) => v.getUint16(o, true),
  (v, o, x) => v.setUint16(o, x, true),
  0,
  0xffff,
);
export const u16be = number(
  2,
  (v, o) => v.getUint16(o),
  (v, o, x) => v.setUint16(o, x),
  0,
  0xffff,
);
export const u32 = number(
  4,
  (v, o) => v.getUint32(o, true),
  (v, o, x) => v.setUint32(o, x, true),
  0,
  0xffff_ffff,
);
export const u32be = number(
  4,
  (v, o) => v.getUint32(o),
  (v, o, x) => v.setUint32(o, x),
  0,
  0xffff_ffff,
);
export const i32 = number(
  4,
  (v, o) => v.getInt32(o, true),
  (v, o, x) => v.setInt32(o, x, true),
  -0x8000_0000,
  0x7fff_ffff,
);

export const u64: Field<bigint> = {
  size: 8,
  alignment: 8,
  read: (view, at) => view.getBigUint64(at, true),
  write(view, at, value) {
    if (value < 0n || value > 0xffff_ffff_ffff_ffffn) throw new RangeError(`${value} does not fit 8 bytes`);
    view.setBigUint64(at, value, true);
  },
};

/** `size` raw bytes, such as an address. Reading copies, so the value outlives the buffer. */
export function bytes(size: number): Field<Uint8Array> {
  return {
    size,
    alignment: 1,
    read: (view, at) => new Uint8Array(view.buffer, view.byteOffset + at, size).slice(),
    write(view, at, value) {
      if (value.length !== size) throw new RangeError(`want ${size} bytes, got ${value.length}`);
      new Uint8Array(view.buffer, view.byteOffset + at, size).set(value);
    },
  };
}

/** `size` bytes of padding: written as zero, ignored on reading. */
export function pad(size: number): Field<undefined> {
  return {
    size,
    alignment: 1,
    read: () => undefined,
    write(view, at) {
      new Uint8Array(view.buffer, view.byteOffset + at, size).fill(0);
    },
  };
}

/** A view on exactly the given bytes: pooled Buffers share memory, so offset and length always go along. */
export function viewOf(data: Uint8Array): DataView {
  return new DataView(data.buffer, data.byteOffset, data.byteLength);
}
