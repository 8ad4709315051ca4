/**
 * Reads a 64-bit little-endian relocatable ELF file for machine BPF, as `clang -target bpf` writes it.
 *
 *   header (64 bytes) -> section header table -> sections
 *   .symtab + its string table -> symbols;  .relX -> relocations of section X
 *
 * Every offset in the file is checked before use: input may be cut or hostile, and is refused with the place.
 * Source: System V ABI, "Object Files"; include/uapi/linux/elf.h.
 */
import { viewOf } from '../../codec/index.ts';
import { bpfError } from '../../errors/bpf.ts';

export interface ElfSection {
  readonly index: number;
  readonly name: string;
  readonly type: number;
  readonly flags: number;
  /** Where it lies in the file, for messages. */
  readonly fileOffset: number;
  readonly size: number;
  readonly link: number;
  readonly info: number;
  /** Its bytes; empty for SHT_NOBITS (.bss), whose size still counts. */
  readonly data: Uint8Array;
}

export interface ElfSymbol {
  readonly name: string;
  readonly value: number;
  readonly size: number;
  /** STT_*, see SYMBOL_TYPE. */
  readonly type: number;
  /** STB_*: 0 local, 1 global, 2 weak. */
  readonly binding: number;
  /** STV_*: 0 default, 1 internal, 2 hidden. */
  readonly visibility: number;
  /** Index of its section; 0 when it is defined elsewhere. */
  readonly section: number;
}

export interface ElfRelocation {
  /** Byte offset in the section that is relocated. */
  readonly offset: number;
  readonly type: number;
  readonly symbol: ElfSymbol;
}

export interface ElfObject {
  /** File name or other label, for messages. */
  readonly label: string;
  readonly sections: readonly ElfSection[];
  readonly symbols: readonly ElfSymbol[];
  section(name: string): ElfSection | undefined;
  relocationsOf(section: ElfSection): readonly ElfRelocation[];
}

export const SYMBOL_TYPE = { none: 0, object: 1, function: 2, section: 3 } as const;
export const SECTION_TYPE = { progbits: 1, symtab: 2, strtab: 3, nobits: 8, rel: 9 } as const;
/** SHF_EXECINSTR. */
export const SECTION_EXECUTABLE = 4;

const HEADER_SIZE = 64;
const SECTION_HEADER_SIZE = 64;
const SYMBOL_SIZE = 24;
const RELOCATION_SIZE = 16;
const EM_BPF = 247;
const ET_REL = 1;
const MOST_SECTIONS = 4096;

/** Parses an object file. Throws BPF_OBJECT_MALFORMED. */
export function parseElf(data: Uint8Array, label: string): ElfObject {
  const fail = (part: string, offset: number, why: string): never => {
    throw bpfError('BPF_OBJECT_MALFORMED', { object: label, part, offset, why });
  };
  const view = viewOf(data);
  if (data.length < HEADER_SIZE) fail('ELF header', 0, `has ${data.length} bytes, want ${HEADER_SIZE}`);
  if (view.getUint32(0) !== 0x7f454c46) fail('ELF header', 0, 'is no ELF file');
  if (data[4] !== 2 || data[5] !== 1) fail('ELF header', 4, 'is not 64-bit little-endian');
  if (view.getUint16(16, true) !== ET_REL) fail('ELF header', 16, 'is not a relocatable object');
  if (view.getUint16(18, true) !== EM_BPF)
    fail('ELF header', 18, `is for machine ${view.getUint16(18, true)}, want ${EM_BPF} (BPF)`);

  const number = (at: number, part: string): number => {
    const value = view.getBigUint64(at, true);
    if (value > 0xffff_ffffn) fail(part, at, `value ${value} is too large`);
    return Number(value);
  };
  const tableAt = number(40, 'ELF header');
  const count = view.getUint16(60, true);
  const namesIndex = view.getUint16(62, true);
  if (view.getUint16(58, true) !== SECTION_HEADER_SIZE)
    fail('ELF header', 58, `section headers have ${view.getUint16(58, true)} bytes, want 64`);
  if (count === 0 || count > MOST_SECTIONS) fail('ELF header', 60, `has ${count} sections`);
  if (tableAt + count * SECTION_HEADER_SIZE > data.length)
    fail('section header table', tableAt, `of ${count} sections lies beyond the end at ${data.length}`);
  if (namesIndex >= count) fail('ELF header', 62, `section ${namesIndex} with the names does not exist`);

  const raw = Array.from({ length: count }, (_, index) => {
    const at = tableAt + index * SECTION_HEADER_SIZE;
    const part = `section header ${index}`;
    const type = view.getUint32(at + 4, true);
    const fileOffset = number(at + 24, part);
    const size = number(at + 32, part);
    const empty = type === SECTION_TYPE.nobits || type === 0;
    if (!empty && fileOffset + size > data.length)
      fail(part, at, `${size} bytes at ${fileOffset} lie beyond the end at ${data.length}`);
    return {
      index,
      nameAt: view.getUint32(at, true),
      type,
      flags: number(at + 8, part),
      fileOffset,
      size: type === 0 ? 0 : size,
      link: view.getUint32(at + 40, true),
      info: view.getUint32(at + 44, true),
      data: empty ? new Uint8Array(0) : data.subarray(fileOffset, fileOffset + size),
    };
  });
  const text = (table: { data: Uint8Array; fileOffset: number }, at: number, part: string): string => {
    const end = at < table.data.length ? table.data.indexOf(0, at) : -1;
    if (end < 0) fail(part, table.fileOffset + at, 'name does not end inside the string table');
    return Buffer.from(table.data.subarray(at, end)).toString('latin1');
  };
  const names = raw[namesIndex]!;
  const sections = raw.map(
    ({ nameAt, ...section }): ElfSection => ({
      ...section,
      name: section.index === 0 ? '' : text(names, nameAt, `section header ${section.index}`),
    }),
  );

  const symbols = readSymbols();
  const relocations = readRelocations();
  return {
    label,
    sections,
    symbols,
    section: (name) => sections.find((section) => section.name === name),
    relocationsOf: (section) => relocations.get(section.index) ?? [],
  };

  function readSymbols(): ElfSymbol[] {
    const table = sections.find((section) => section.type === SECTION_TYPE.symtab);
    if (!table) return [];
    const part = `section "${table.name}"`;
    if (table.size % SYMBOL_SIZE !== 0)
      fail(part, table.fileOffset, `size ${table.size} is no multiple of 24`);
    const strings = sections[table.link];
    if (strings?.type !== SECTION_TYPE.strtab) return fail(part, table.fileOffset, 'has no string table');
    return Array.from({ length: table.size / SYMBOL_SIZE }, (_, index) => {
      const at = table.fileOffset + index * SYMBOL_SIZE;
      const section = view.getUint16(at + 6, true);
      const SHN_LORESERVE = 0xff00;
      if (section >= count && section < SHN_LORESERVE)
        fail(part, at, `symbol is in missing section ${section}`);
      return {
        name: text(strings, view.getUint32(at, true), part),
        binding: data[at + 4]! >> 4,
        type: data[at + 4]! & 15,
        visibility: data[at + 5]! & 3,
        section,
        value: number(at + 8, part),
        size: number(at + 16, part),
      };
    });
  }

  function readRelocations(): Map<number, ElfRelocation[]> {
    const found = new Map<number, ElfRelocation[]>();
    for (const section of sections) {
      if (section.type !== SECTION_TYPE.rel) continue;
      const part = `section "${section.name}"`;
      const target = sections[section.info];
      if (!target) return fail(part, section.fileOffset, `relocates missing section ${section.info}`);
      if (section.size % RELOCATION_SIZE !== 0)
        fail(part, section.fileOffset, `size ${section.size} is no multiple of 16`);
      const list: ElfRelocation[] = [];
      for (let at = section.fileOffset; at < section.fileOffset + section.size; at += RELOCATION_SIZE) {
        const offset = number(at, part);
        const symbol = symbols[view.getUint32(at + 12, true)];
        if (!symbol) return fail(part, at, `names missing symbol ${view.getUint32(at + 12, true)}`);
        if (offset >= target.size) fail(part, at, `offset ${offset} is beyond section "${target.name}"`);
        list.push({ offset, symbol, type: view.getUint32(at + 8, true) });
      }
      found.set(target.index, list);
    }
    return found;
  }
}
