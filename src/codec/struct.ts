import { type Field, viewOf } from './bytes.ts';

type Member = readonly [name: string, field: Field<never> | Field<undefined>];
// biome-ignore lint/suspicious/noExplicitAny: a struct holds fields of differing value types
type AnyMember = readonly [name: string, field: Field<any>];

/** The object type of a list of members; members of type undefined (padding) are left out. */
export type RecordOf<Members extends readonly AnyMember[]> = {
  [M in Members[number] as M[1] extends Field<undefined> ? never : M[0]]: M[1] extends Field<infer T>
    ? T
    : never;
};

export type { Member };

/** A fixed-size C structure: one field list gives encode, decode, size and the TypeScript type. */
export interface Struct<T> extends Field<T> {
  /** The name of the structure in C, for messages and for the check against BTF. */
  readonly name: string;
  /** Members with their offsets in bytes, padding included, as the check against BTF reads them. */
  readonly members: readonly { name: string; offset: number; size: number }[];
  encode(value: T): Uint8Array;
  /** Refuses short or left-over bytes. */
  decode(data: Uint8Array): T;
}

/**
 * Declares a C structure. Members follow each other without gaps: padding is written out with `pad(n)`, and a
 * member that would be misaligned in C is refused here, at declaration.
 */
export function struct<const Members extends readonly AnyMember[]>(
  name: string,
  members: Members,
): Struct<RecordOf<Members>> {
  const laid: { name: string; offset: number; size: number; field: Field<unknown> }[] = [];
  let size = 0;
  let alignment = 1;
  for (const [memberName, field] of members) {
    if (size % field.alignment !== 0)
      throw new Error(`struct ${name}: member ${memberName} at offset ${size} is misaligned, add pad()`);
    laid.push({ name: memberName, offset: size, size: field.size, field });
    size += field.size;
    alignment = Math.max(alignment, field.alignment);
  }
  if (size % alignment !== 0)
    throw new Error(`struct ${name}: size ${size} is no multiple of its alignment ${alignment}, add pad()`);
  type T = RecordOf<Members>;
  const self: Struct<T> = {
    name,
    size,
    alignment,
    members: laid.map(({ name, offset, size }) => ({ name, offset, size })),
    read(view, at) {
      const value: Record<string, unknown> = {};
      for (const member of laid) {
        const read = member.field.read(view, at + member.offset);
        if (read !== undefined) value[member.name] = read;
      }
      return value as T;
    },
    write(view, at, value) {
      for (const member of laid) {
        try {
          member.field.write(view, at + member.offset, (value as Record<string, unknown>)[member.name]);
        } catch (cause) {
          throw new RangeError(`struct ${name}: member ${member.name}: ${(cause as Error).message}`);
        }
      }
    },
    encode(value) {
      const data = new Uint8Array(size);
      self.write(viewOf(data), 0, value);
      return data;
    },
    decode(data) {
      if (data.length !== size)
        throw new RangeError(`struct ${name}: want ${size} bytes, got ${data.length}`);
      return self.read(viewOf(data), 0);
    },
  };
  return self;
}
