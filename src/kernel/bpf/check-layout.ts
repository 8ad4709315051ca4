/** Compares a structure declared in TypeScript with the one that the C compiler laid out. */
import type { Struct } from '../../codec/index.ts';
import { bpfError } from '../../errors/bpf.ts';
import { type Btf, KIND } from './btf.ts';

export interface LaidMember {
  readonly name: string;
  readonly offset: number;
  readonly size: number;
}

/** Members of a struct in C with their places in bytes; undefined when there is no such struct. Bit fields are left out. */
export function layoutOf(btf: Btf, name: string): { size: number; members: LaidMember[] } | undefined {
  const type = btf.find(name, KIND.STRUCT) ?? namedByTypedef(btf, name);
  if (!type) return undefined;
  const members: LaidMember[] = [];
  const walk = (id: number, base: number) => {
    for (const member of btf.members(btf.resolve(id))) {
      if (member.bitSize !== 0 || member.bitOffset % 8 !== 0) continue;
      const offset = base + member.bitOffset / 8;
      const inner = btf.resolve(member.typeId);
      // Members of anonymous structs and unions are used as if they were the outer struct's own.
      if (member.name === '' && (inner.kind === KIND.STRUCT || inner.kind === KIND.UNION))
        walk(inner.id, offset);
      else members.push({ name: member.name, offset, size: btf.sizeOf(member.typeId) });
    }
  };
  walk(type.id, 0);
  return { size: type.sizeOrType, members };
}

function namedByTypedef(btf: Btf, name: string) {
  const typedef = btf.find(name, KIND.TYPEDEF);
  const type = typedef && btf.resolve(typedef.id);
  return type?.kind === KIND.STRUCT ? type : undefined;
}

/** Padding may have any name in C. */
const PADDING = /^_*pad(ding)?\d*$/;

/**
 * Refuses a structure whose size, member names, offsets or sizes differ from those in BTF. Names are compared
 * without case and underscores (`backend_slot` = `backendSlot`); padding is compared by nothing but its room.
 * Throws BPF_LAYOUT_DIFFERS with all differences.
 */
export function checkLayout(struct: Struct<unknown> | Omit<Struct<never>, 'write'>, btf: Btf): void {
  const layout = layoutOf(btf, struct.name);
  const differences: string[] = [];
  if (!layout) differences.push(`"${btf.label}" has no such struct`);
  else {
    if (layout.size !== struct.size) differences.push(`size is ${struct.size}, in C ${layout.size}`);
    const plain = (name: string) => name.replaceAll('_', '').toLowerCase();
    const theirs = new Map(
      layout.members.filter(({ name }) => !PADDING.test(name)).map((member) => [plain(member.name), member]),
    );
    for (const own of struct.members) {
      if (PADDING.test(own.name)) continue;
      const other = theirs.get(plain(own.name));
      theirs.delete(plain(own.name));
      if (!other) differences.push(`"${own.name}" is not in C`);
      else if (other.offset !== own.offset || other.size !== own.size)
        differences.push(
          `"${own.name}" is at ${own.offset} with ${own.size} bytes, in C at ${other.offset} with ${other.size}`,
        );
    }
    for (const { name, offset } of theirs.values()) {
      const covered = struct.members.some(
        (m) => !PADDING.test(m.name) && offset >= m.offset && offset < m.offset + m.size,
      );
      if (!covered) differences.push(`"${name}" of C is missing`);
    }
  }
  if (differences.length > 0) throw bpfError('BPF_LAYOUT_DIFFERS', { struct: struct.name, differences });
}
