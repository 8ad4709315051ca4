/**
 * How the keys and values of a map are laid out, from the type information that the kernel keeps with it: what a
 * later version of a program needs to read what an earlier one wrote.
 */
import { bpfError } from '../../errors/bpf.ts';
import { Arena, closeFd, kernelFailure } from '../syscall/index.ts';
import { Btf, KIND } from './btf.ts';
import { bpf, objectInfo } from './call.ts';
import { CMD } from './constants.ts';
import type { BpfMap } from './map.ts';
import type { BpfProgram } from './prog.ts';

/** A number, or bytes without structure, inside a key or value: `flow.0.vip`, at its offset in bytes. */
export interface Leaf {
  readonly name: string;
  readonly offset: number;
  readonly size: number;
}

export interface MapLayout {
  readonly key: readonly Leaf[];
  readonly value: readonly Leaf[];
}

const DEEPEST = 16;

/** The parts of a type in their order, padding that has a name included; a type that is one number has one part without a name. */
export function leavesOf(btf: Btf, typeId: number): Leaf[] {
  const leaves: Leaf[] = [];
  const walk = (id: number, name: string, offset: number, depth: number) => {
    const type = btf.resolve(id);
    const inner = (part: string) => (name === '' ? part : `${name}.${part}`);
    if (depth < DEEPEST && (type.kind === KIND.STRUCT || type.kind === KIND.UNION))
      for (const member of btf.members(type))
        walk(
          member.typeId,
          member.name === '' ? name : inner(member.name),
          offset + (member.bitOffset >> 3),
          depth + 1,
        );
    else if (depth < DEEPEST && type.kind === KIND.ARRAY && isComposite(btf, type)) {
      const { elementId, count } = btf.array(type);
      const size = btf.sizeOf(elementId);
      for (let at = 0; at < count; at++) walk(elementId, inner(String(at)), offset + at * size, depth + 1);
    } else leaves.push({ name, offset, size: btf.sizeOf(id) });
  };
  walk(typeId, '', 0, 0);
  return leaves;
}

function isComposite(btf: Btf, type: ReturnType<Btf['type']>): boolean {
  const { kind } = btf.resolve(btf.array(type).elementId);
  return kind === KIND.STRUCT || kind === KIND.UNION || kind === KIND.ARRAY;
}

/** The layout of an existing map; undefined when it was made without type information. Throws BPF_MAP_CALL. */
export function layoutOfMap(map: BpfMap): MapLayout | undefined {
  const INFO_SIZE = 80;
  const info = objectInfo(map.fd, INFO_SIZE);
  if (typeof info === 'number')
    throw bpfError('BPF_MAP_CALL', { action: 'describe', map: map.name }, kernelFailure(info));
  // struct bpf_map_info: btf_id, btf_key_type_id, btf_value_type_id.
  const [id, key, value] = [64, 68, 72].map((at) => info.getUint32(at, true)) as [number, number, number];
  if (id === 0 || key === 0 || value === 0) return undefined;
  const fd = btfFd(id, map.name);
  try {
    const btf = readBtf(fd, map.name);
    return { key: leavesOf(btf, key), value: leavesOf(btf, value) };
  } finally {
    closeFd(fd);
  }
}

/** A descriptor of the type information that a program was loaded with; the caller closes it. */
export function openProgramBtf(program: BpfProgram): { readonly fd: number; close(): void } {
  const INFO_SIZE = 136;
  const info = objectInfo(program.fd, INFO_SIZE);
  if (typeof info === 'number')
    throw bpfError('BPF_RUN_FAILED', { program: program.name }, kernelFailure(info));
  const BTF_ID = 128;
  const fd = btfFd(info.getUint32(BTF_ID, true), program.name);
  return { fd, close: () => closeFd(fd) };
}

function btfFd(id: number, owner: string): number {
  const attr = new Uint8Array(12);
  new DataView(attr.buffer).setUint32(0, id, true);
  const fd = bpf(CMD.BTF_GET_FD_BY_ID, attr);
  if (fd < 0) throw bpfError('BPF_MAP_CALL', { action: 'open the types of', map: owner }, kernelFailure(fd));
  return fd;
}

/** struct bpf_btf_info {btf, btf_size, id, ...}: asked twice, because the first answer tells the size. */
function readBtf(fd: number, owner: string): Btf {
  const INFO = 16;
  const ask = (room: number): { size: number; bytes: Uint8Array } => {
    const arena = new Arena(16 + INFO + room + 32);
    const attr = arena.reserve(16);
    const info = arena.reserve(INFO);
    const data = arena.reserve(room);
    arena.view.setUint32(attr, fd, true);
    arena.view.setUint32(attr + 4, INFO, true);
    arena.point(attr + 8, info);
    if (room > 0) arena.point(info, data);
    arena.view.setUint32(info + 8, room, true);
    const result = bpf(CMD.OBJ_GET_INFO_BY_FD, arena.from(attr, 16));
    if (result < 0)
      throw bpfError('BPF_MAP_CALL', { action: 'read the types of', map: owner }, kernelFailure(result));
    return { size: arena.view.getUint32(info + 8, true), bytes: arena.from(data, room).slice() };
  };
  return new Btf(ask(ask(0).size).bytes, `types of ${owner}`);
}

/** Copies what two layouts have in common, by name; what only the new one has is zero. */
export type Translate = (bytes: Uint8Array) => Uint8Array;

/**
 * From one layout to another. A number that became wider keeps its value (little endian); one that became narrower
 * loses its upper part. Without layouts the bytes that both have are kept: members were added at the end.
 */
export function translator(
  from: { readonly leaves: readonly Leaf[] | undefined; readonly size: number },
  to: { readonly leaves: readonly Leaf[] | undefined; readonly size: number },
): Translate {
  const whole = { name: '', offset: 0, size: Math.min(from.size, to.size) };
  const known = new Map((from.leaves ?? [whole]).map((leaf) => [leaf.name, leaf]));
  const moves = (from.leaves && to.leaves ? to.leaves : [whole]).flatMap((leaf) => {
    const source = from.leaves && to.leaves ? known.get(leaf.name) : whole;
    return source ? { from: source.offset, to: leaf.offset, size: Math.min(source.size, leaf.size) } : [];
  });
  return (bytes) => {
    const made = new Uint8Array(to.size);
    for (const move of moves) made.set(bytes.subarray(move.from, move.from + move.size), move.to);
    return made;
  };
}

/** Whether both name the same parts at the same places. */
export function sameLeaves(a: readonly Leaf[], b: readonly Leaf[]): boolean {
  return (
    a.length === b.length &&
    a.every(({ name, offset, size }, at) => {
      const other = b[at]!;
      return name === other.name && offset === other.offset && size === other.size;
    })
  );
}
