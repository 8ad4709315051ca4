import { IpAddress, type Mac, macBytes, macFromBytes } from '../../addr/index.ts';
import { NLA_TYPE_MASK } from './constants.ts';
import { cString, malformed, viewOf } from './reader.ts';
import type { NlWriter } from './writer.ts';

/** How the value of one attribute is written and read. */
export interface AttributeCodec<T> {
  readonly nested?: boolean;
  write(writer: NlWriter, value: T): void;
  /** Throws RangeError or NETLINK_MALFORMED on bytes that are no such value. */
  read(bytes: Uint8Array): T;
}

function fixed<T>(
  size: number,
  write: (writer: NlWriter, value: T) => void,
  read: (view: DataView) => T,
): AttributeCodec<T> {
  return {
    write,
    read(bytes) {
      // The kernel may lengthen an attribute, never shorten it.
      if (bytes.length < size) throw new RangeError(`want ${size} bytes, got ${bytes.length}`);
      return read(viewOf(bytes));
    },
  };
}

export const nlU8 = fixed<number>(
  1,
  (w, v) => w.u8(v),
  (b) => b.getUint8(0),
);
export const nlU16 = fixed<number>(
  2,
  (w, v) => w.u16(v),
  (b) => b.getUint16(0, true),
);
export const nlU16be = fixed<number>(
  2,
  (w, v) => w.u16be(v),
  (b) => b.getUint16(0),
);
export const nlU32 = fixed<number>(
  4,
  (w, v) => w.u32(v),
  (b) => b.getUint32(0, true),
);
export const nlU32be = fixed<number>(
  4,
  (w, v) => w.u32be(v),
  (b) => b.getUint32(0),
);
export const nlI32 = fixed<number>(
  4,
  (w, v) => w.u32(v),
  (b) => b.getInt32(0, true),
);
export const nlI32be = fixed<number>(
  4,
  (w, v) => w.u32be(v),
  (b) => b.getInt32(0),
);
export const nlU64 = fixed<bigint>(
  8,
  (w, v) => w.u64(v),
  (b) => b.getBigUint64(0, true),
);
export const nlU64be = fixed<bigint>(
  8,
  (w, v) => w.u64be(v),
  (b) => b.getBigUint64(0),
);
/** A byte that is 0 or 1. */
export const nlBool = fixed<boolean>(
  1,
  (w, v) => w.u8(v ? 1 : 0),
  (b) => b.getUint8(0) !== 0,
);
/** Present means true. */
export const nlFlag: AttributeCodec<true> = { write: () => {}, read: () => true };
export const nlString: AttributeCodec<string> = { write: (w, v) => w.string(v), read: cString };
export const nlBytes: AttributeCodec<Uint8Array> = { write: (w, v) => w.bytes(v), read: (b) => b.slice() };
/** A link-layer address that is Ethernet's; tunnels have addresses of other lengths, which read as undefined. */
export const nlMac: AttributeCodec<Mac | undefined> = {
  write: (w, v) => v !== undefined && w.bytes(macBytes(v)),
  read: (b) => (b.length === 6 ? macFromBytes(b) : undefined),
};
/** 4 or 16 bytes in network order. */
export const nlIp: AttributeCodec<IpAddress> = {
  write: (w, v) => w.bytes(v.toBytes()),
  read: (b) => IpAddress.fromBytes(b),
};

/** One row of an attribute table: number, name in the kernel's header, codec, meaning. */
// biome-ignore lint/suspicious/noExplicitAny: a table holds attributes of differing value types
export type AttributeRow = readonly [id: number, name: string, codec: AttributeCodec<any>, doc?: string];

/** The value type of each attribute of a table; all are optional. */
export type AttributesOf<Rows extends Readonly<Record<string, AttributeRow>>> = {
  -readonly [K in keyof Rows]?: (Rows[K][2] extends AttributeCodec<infer T> ? T : never) | undefined;
};

/** A table of attributes: reads and writes all of one nesting level. */
export interface AttributeTable<T> extends AttributeCodec<T> {
  /** Reads attributes from an offset on; unknown ones are skipped, for newer kernels add them. */
  readFrom(bytes: Uint8Array, at: number): T;
}

/** Declares the attributes of one nesting level, once for reading and writing. `what` names it in errors. */
export function attributeTable<const Rows extends Readonly<Record<string, AttributeRow>>>(
  what: string,
  rows: Rows,
): AttributeTable<AttributesOf<Rows>> {
  const byId: { key: string; name: string; codec: AttributeCodec<unknown> }[] = [];
  for (const [key, [id, name, codec]] of Object.entries(rows)) byId[id] = { key, name, codec };
  const readFrom = (bytes: Uint8Array, at: number) => {
    const values: Record<string, unknown> = {};
    const view = viewOf(bytes);
    if (at > bytes.length) throw malformed(what, `it has ${bytes.length} bytes, want ${at} at least`);
    // As readAttributes() does, but without a slice for each attribute that nobody asks for: dumps are long.
    while (bytes.length - at >= 4) {
      const length = view.getUint16(at, true);
      if (length < 4 || length > bytes.length - at)
        throw malformed(what, `an attribute claims ${length} of ${bytes.length - at} bytes`);
      const known = byId[view.getUint16(at + 2, true) & NLA_TYPE_MASK];
      if (known) {
        try {
          values[known.key] = known.codec.read(bytes.subarray(at + 4, at + length));
        } catch (cause) {
          throw malformed(`${known.name} of ${what}`, (cause as Error).message);
        }
      }
      at += (length + 3) & ~3;
    }
    return values as AttributesOf<Rows>;
  };
  return {
    nested: true,
    readFrom,
    read: (bytes) => readFrom(bytes, 0),
    write(writer, values) {
      for (const key in rows) {
        const value = (values as Record<string, unknown>)[key];
        if (value === undefined) continue;
        const [id, , codec] = rows[key]!;
        if (codec.nested) writer.nest(id, () => codec.write(writer, value));
        else writer.attribute(id, () => codec.write(writer, value));
      }
    },
  };
}
