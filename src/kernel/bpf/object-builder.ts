/**
 * Builds BPF objects byte by byte for tests: a second way to the bytes that clang writes, and small enough to be cut
 * at every offset.
 */
import { viewOf } from '../../codec/index.ts';

/** Strings with NUL between them; offset 0 is the empty one. */
class Strings {
  #bytes = [0];
  add(text: string): number {
    if (text === '') return 0;
    const at = this.#bytes.length;
    this.#bytes.push(...Buffer.from(text, 'latin1'), 0);
    return at;
  }
  get data(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }
}

function words(...values: number[]): Uint8Array {
  const data = new Uint8Array(values.length * 4);
  values.forEach((value, index) => {
    viewOf(data).setUint32(index * 4, value >>> 0, true);
  });
  return data;
}

/** Builds a .BTF section type by type; each method returns the id of what it added. */
export class BtfBuilder {
  readonly strings = new Strings();
  #types: Uint8Array[] = [];

  add(name: string, kind: number, vlen: number, sizeOrType: number, ...extra: number[]): number {
    this.#types.push(words(this.strings.add(name), (kind << 24) | vlen, sizeOrType, ...extra));
    return this.#types.length;
  }
  int(name: string, size: number): number {
    return this.add(name, 1, 0, size, size * 8);
  }
  pointer(to: number): number {
    return this.add('', 2, 0, to);
  }
  array(element: number, count: number, index: number): number {
    return this.add('', 3, 0, 0, element, index, count);
  }
  struct(name: string, size: number, members: [name: string, type: number, bitOffset: number][]): number {
    const list = members.flatMap(([member, type, offset]) => [this.strings.add(member), type, offset]);
    return this.add(name, 4, members.length, size, ...list);
  }
  typedef(name: string, to: number): number {
    return this.add(name, 8, 0, to);
  }
  variable(name: string, type: number): number {
    return this.add(name, 14, 0, type, 1);
  }
  section(name: string, variables: [type: number, size: number][]): number {
    return this.add(name, 15, variables.length, 0, ...variables.flatMap(([type, size]) => [type, 0, size]));
  }
  /** A function without parameters that returns `returned`. */
  func(name: string, returned: number, linkage: number): number {
    const prototype = this.add('', 13, 0, returned);
    return this.add(name, 12, linkage, prototype);
  }
  get data(): Uint8Array {
    const types = Buffer.concat(this.#types);
    const strings = this.strings.data;
    const header = words(0x0001eb9f, 24, 0, types.length, types.length, strings.length);
    return Buffer.concat([header, types, strings]);
  }
}

export interface BuiltSection {
  readonly name: string;
  readonly type: number;
  readonly flags?: number;
  readonly data: Uint8Array;
  /** Relocations of this section: offset, type, index of the symbol (1 is the first given). */
  readonly relocations?: readonly (readonly [offset: number, type: number, symbol: number])[];
}

export interface BuiltSymbol {
  readonly name: string;
  /** STT_*. */
  readonly type: number;
  /** STB_*. */
  readonly binding: number;
  /** Name of its section; '' when it is defined elsewhere. */
  readonly section: string;
  readonly value: number;
  readonly size: number;
}

/** An ELF object for machine BPF. */
export function buildElf(sections: readonly BuiltSection[], symbols: readonly BuiltSymbol[]): Uint8Array {
  const names = new Strings();
  const symbolNames = new Strings();
  const indexOf = (name: string) => sections.findIndex((section) => section.name === name) + 1;
  const relocated = sections.filter((section) => section.relocations);
  const symtabIndex = sections.length + relocated.length + 1;
  const symbolData = [new Uint8Array(24)];
  for (const { name, type, binding, section, value, size } of symbols) {
    const entry = new Uint8Array(24);
    const view = viewOf(entry);
    view.setUint32(0, symbolNames.add(name), true);
    entry[4] = (binding << 4) | type;
    view.setUint16(6, indexOf(section), true);
    view.setBigUint64(8, BigInt(value), true);
    view.setBigUint64(16, BigInt(size), true);
    symbolData.push(entry);
  }
  const all = [
    ...sections.map((section) => ({ ...section, link: 0, info: 0, entry: 0 })),
    ...relocated.map((section) => ({
      name: `.rel${section.name}`,
      type: 9,
      flags: 0,
      data: Buffer.concat(section.relocations!.map(([at, type, symbol]) => words(at, 0, type, symbol))),
      link: symtabIndex,
      info: indexOf(section.name),
      entry: 16,
    })),
    {
      name: '.symtab',
      type: 2,
      flags: 0,
      data: Buffer.concat(symbolData),
      link: symtabIndex + 1,
      info: 1,
      entry: 24,
    },
    { name: '.strtab', type: 3, flags: 0, data: symbolNames.data, link: 0, info: 0, entry: 0 },
  ];
  const nameOffsets = [...all, { name: '.shstrtab' }].map(({ name }) => names.add(name));
  const withNames = [
    ...all,
    { name: '.shstrtab', type: 3, flags: 0, data: names.data, link: 0, info: 0, entry: 0 },
  ];
  const chunks: Uint8Array[] = [new Uint8Array(64)];
  const headers: Uint8Array[] = [new Uint8Array(64)];
  let at = 64;
  withNames.forEach((section, index) => {
    const header = new Uint8Array(64);
    const view = viewOf(header);
    view.setUint32(0, nameOffsets[index]!, true);
    view.setUint32(4, section.type, true);
    view.setBigUint64(8, BigInt(section.flags ?? 0), true);
    view.setBigUint64(24, BigInt(at), true);
    view.setBigUint64(32, BigInt(section.data.length), true);
    view.setUint32(40, section.link, true);
    view.setUint32(44, section.info, true);
    view.setBigUint64(56, BigInt(section.entry), true);
    headers.push(header);
    const padded = new Uint8Array((section.data.length + 7) & ~7);
    padded.set(section.data);
    chunks.push(padded);
    at += padded.length;
  });
  const header = viewOf(chunks[0]!);
  header.setUint32(0, 0x7f454c46);
  chunks[0]!.set([2, 1, 1], 4);
  header.setUint16(16, 1, true);
  header.setUint16(18, 247, true);
  header.setUint32(20, 1, true);
  header.setBigUint64(40, BigInt(at), true);
  header.setUint16(52, 64, true);
  header.setUint16(58, 64, true);
  header.setUint16(60, withNames.length + 1, true);
  header.setUint16(62, withNames.length, true);
  return Buffer.concat([...chunks, ...headers]);
}

/** Instructions as [code, dst | src << 4, offset, immediate]. */
export function code(...instructions: readonly (readonly [number, number, number, number])[]): Uint8Array {
  const data = new Uint8Array(instructions.length * 8);
  const view = viewOf(data);
  instructions.forEach(([opcode, registers, offset, immediate], index) => {
    data[index * 8] = opcode;
    data[index * 8 + 1] = registers;
    view.setInt16(index * 8 + 2, offset, true);
    view.setInt32(index * 8 + 4, immediate, true);
  });
  return data;
}

/**
 * A whole object: an array map "counts", a constant "magic", program "main" in section "tc" that calls "helper" in
 * .text, which loads the constant.
 */
export function sampleObject(): Uint8Array {
  const btf = new BtfBuilder();
  const u32 = btf.int('unsigned int', 4);
  const u64 = btf.typedef('__u64', btf.int('unsigned long', 8));
  const number = (value: number) => btf.pointer(btf.array(u32, value, u32));
  const map = btf.struct('', 32, [
    ['type', number(2), 0],
    ['max_entries', number(8), 64],
    ['key', btf.pointer(u32), 128],
    ['value', btf.pointer(u64), 192],
  ]);
  btf.section('.maps', [[btf.variable('counts', map), 32]]);
  btf.section('.rodata', [[btf.variable('magic', u32), 4]]);
  btf.struct('pair', 16, [
    ['address', u32, 0],
    ['port', u32, 32],
    ['id', u64, 64],
  ]);
  const LOAD64 = 0x18;
  const CALL = 0x85;
  const EXIT = 0x95;
  return buildElf(
    [
      // helper: r0 = *(u32 *)&magic
      {
        name: '.text',
        type: 1,
        flags: 6,
        data: code([LOAD64, 1, 0, 0], [0, 0, 0, 0], [0x61, 0x10, 0, 0], [EXIT, 0, 0, 0]),
        relocations: [[0, 1, 5]],
      },
      {
        name: 'tc',
        type: 1,
        flags: 6,
        data: code([LOAD64, 1, 0, 0], [0, 0, 0, 0], [CALL, 0x10, 0, -1], [EXIT, 0, 0, 0]),
        relocations: [
          [0, 1, 4],
          [16, 10, 3],
        ],
      },
      { name: '.maps', type: 1, flags: 3, data: new Uint8Array(32) },
      { name: '.rodata', type: 1, flags: 2, data: Uint8Array.of(7, 0, 0, 0) },
      { name: 'license', type: 1, flags: 3, data: Buffer.from('GPL\0') },
      { name: '.BTF', type: 1, data: btf.data },
    ],
    [
      { name: '', type: 3, binding: 0, section: '.text', value: 0, size: 0 },
      { name: 'main', type: 2, binding: 1, section: 'tc', value: 0, size: 32 },
      { name: 'helper', type: 2, binding: 0, section: '.text', value: 0, size: 32 },
      { name: 'counts', type: 1, binding: 1, section: '.maps', value: 0, size: 32 },
      { name: 'magic', type: 1, binding: 1, section: '.rodata', value: 0, size: 4 },
    ],
  );
}
