/**
 * Joins a program with the functions that it calls into one run of instructions, as the kernel wants it. Pure.
 *
 *   section "xdp": main ──call──► .text: parse ──call──► .text: hash
 *   result:        [ main | parse | hash ]     calls become distances, the rest becomes fixups for the loader
 *
 * Instruction (8 bytes): code u8, dst:4 src:4, off s16, imm s32; a 64-bit load takes two.
 * Source: Documentation/bpf/standardization/instruction-set.rst, include/uapi/linux/bpf.h (BPF_PSEUDO_*).
 */
import { viewOf } from '../../codec/index.ts';
import { bpfError } from '../../errors/bpf.ts';
import type { BtfExt, ExtPart } from './btf-ext.ts';
import { type ElfObject, type ElfSection, type ElfSymbol, SYMBOL_TYPE } from './elf.ts';

export const INSTRUCTION_SIZE = 8;
const CALL = 0x85;
const LOAD64 = 0x18;

/** src_reg of a call or a 64-bit load that the loader or the kernel resolves: BPF_PSEUDO_*. */
export const PSEUDO = { mapFd: 1, mapValue: 2, btfId: 3, func: 4, call: 1, kfunc: 2 } as const;

/** What the loader must write into an instruction once descriptors and kernel ids are known. */
export type Fixup =
  /** A map: `section` and `offset` name it inside .maps. */
  | { readonly kind: 'map'; readonly instruction: number; readonly section: number; readonly offset: number }
  /** A variable: byte `offset` in the value of the map of data section `section`. */
  | { readonly kind: 'data'; readonly instruction: number; readonly section: number; readonly offset: number }
  /** A call of, or the address of, something in the kernel. */
  | {
      readonly kind: 'kernel';
      readonly instruction: number;
      readonly name: string;
      readonly weak: boolean;
      readonly call: boolean;
    };

export interface LinkedCode {
  readonly instructions: Uint8Array;
  readonly fixups: readonly Fixup[];
  /** bpf_func_info, bpf_line_info and bpf_core_relo records, moved to the new places. */
  readonly functions: Records;
  readonly lines: Records;
  readonly relocations: Records;
  /** Names of the functions in their order, the program itself first. */
  readonly parts: readonly string[];
}

export interface Records {
  readonly recordSize: number;
  readonly count: number;
  readonly data: Uint8Array;
}

interface Part {
  readonly name: string;
  readonly section: ElfSection;
  /** Byte offsets in its section. */
  readonly start: number;
  readonly end: number;
  /** Index of its first instruction in the result. */
  readonly base: number;
}

/** Links the function `entry`. Throws BPF_OBJECT_MALFORMED, BPF_OBJECT_UNSUPPORTED. */
export function linkCode(elf: ElfObject, ext: BtfExt, entry: ElfSymbol): LinkedCode {
  const parts: Part[] = [];
  const chunks: Uint8Array[] = [];
  const fixups: Fixup[] = [];
  const calls: { instruction: number; to: Part; load: boolean }[] = [];
  let length = 0;

  const unsupported = (what: string, why: string): never => {
    throw bpfError('BPF_OBJECT_UNSUPPORTED', { object: elf.label, what, why });
  };
  const malformed = (section: ElfSection, offset: number, why: string): never => {
    throw bpfError('BPF_OBJECT_MALFORMED', {
      object: elf.label,
      part: `section "${section.name}"`,
      offset,
      why,
    });
  };
  /** The part that holds the function at this place; appended when it is new. */
  const partOf = (sectionIndex: number, start: number, from: ElfSection, at: number): Part => {
    const known = parts.find((part) => part.section.index === sectionIndex && part.start === start);
    if (known) return known;
    const symbol = elf.symbols.find(
      (s) => s.type === SYMBOL_TYPE.function && s.section === sectionIndex && s.value === start,
    );
    if (!symbol)
      return malformed(
        from,
        at,
        `calls offset ${start} of section ${sectionIndex}, where no function begins`,
      );
    return append(symbol);
  };
  const append = (symbol: ElfSymbol): Part => {
    const section = elf.sections[symbol.section];
    if (!section) return unsupported(`function "${symbol.name}"`, 'it is not defined in this object');
    const start = symbol.value;
    const end = start + symbol.size;
    if (start % INSTRUCTION_SIZE !== 0 || symbol.size % INSTRUCTION_SIZE !== 0 || symbol.size === 0)
      malformed(section, start, `function "${symbol.name}" is no whole number of instructions`);
    if (end > section.data.length)
      malformed(section, start, `function "${symbol.name}" ends beyond its section`);
    const part: Part = { name: symbol.name, section, start, end, base: length };
    parts.push(part);
    chunks.push(section.data.slice(start, end));
    length += symbol.size / INSTRUCTION_SIZE;
    return part;
  };

  append(entry);
  for (let index = 0; index < parts.length; index++) resolve(parts[index]!, chunks[index]!);

  const instructions = new Uint8Array(length * INSTRUCTION_SIZE);
  for (const [index, part] of parts.entries()) instructions.set(chunks[index]!, part.base * INSTRUCTION_SIZE);
  const view = viewOf(instructions);
  for (const { instruction, to, load } of calls) {
    const at = instruction * INSTRUCTION_SIZE;
    instructions[at + 1] = (instructions[at + 1]! & 15) | ((load ? PSEUDO.func : PSEUDO.call) << 4);
    view.setInt32(at + 4, to.base - instruction - 1, true);
    if (load) view.setInt32(at + 12, 0, true);
  }
  return {
    instructions,
    fixups,
    functions: move(ext.functions, true),
    lines: move(ext.lines, true),
    relocations: move(ext.relocations, false),
    parts: parts.map((part) => part.name),
  };

  /** Collects what the instructions of one part refer to. */
  function resolve(part: Part, code: Uint8Array): void {
    const { section } = part;
    const view = viewOf(code);
    const relocated = new Set<number>();
    for (const relocation of elf.relocationsOf(section)) {
      if (relocation.offset < part.start || relocation.offset >= part.end) continue;
      const at = relocation.offset - part.start;
      if (at % INSTRUCTION_SIZE !== 0)
        malformed(section, relocation.offset, 'relocation inside an instruction');
      relocated.add(at);
      const { symbol } = relocation;
      const instruction = part.base + at / INSTRUCTION_SIZE;
      const opcode = code[at]!;
      const immediate = view.getInt32(at + 4, true);
      if (opcode !== CALL && opcode !== LOAD64)
        unsupported(
          `instruction at ${relocation.offset} of "${section.name}"`,
          `opcode ${opcode} is relocated`,
        );
      if (opcode === LOAD64 && at + 16 > code.length)
        malformed(section, relocation.offset, '64-bit load is cut');
      if (symbol.section === 0) {
        fixups.push({
          kind: 'kernel',
          instruction,
          name: symbol.name,
          weak: symbol.binding === 2,
          call: opcode === CALL,
        });
        continue;
      }
      const target = elf.sections[symbol.section];
      if (!target) unsupported(`symbol "${symbol.name}"`, `it is in special section ${symbol.section}`);
      if (opcode === CALL) {
        const start = symbol.type === SYMBOL_TYPE.section ? symbol.value + (immediate + 1) * 8 : symbol.value;
        calls.push({
          instruction,
          to: partOf(symbol.section, start, section, relocation.offset),
          load: false,
        });
      } else if ((target!.flags & 4) !== 0) {
        const start = symbol.type === SYMBOL_TYPE.section ? symbol.value + immediate : symbol.value;
        calls.push({
          instruction,
          to: partOf(symbol.section, start, section, relocation.offset),
          load: true,
        });
      } else {
        const offset = symbol.value + immediate;
        const kind = target!.name === '.maps' ? 'map' : 'data';
        fixups.push({ kind, instruction, section: symbol.section, offset });
      }
    }
    // Calls inside one section carry their distance and no relocation.
    for (let at = 0; at < code.length; at += INSTRUCTION_SIZE) {
      const wide = code[at] === LOAD64;
      if (code[at] === CALL && code[at + 1]! >> 4 === PSEUDO.call && !relocated.has(at)) {
        const start = part.start + at + (view.getInt32(at + 4, true) + 1) * 8;
        const to = partOf(section.index, start, section, part.start + at);
        calls.push({ instruction: part.base + at / INSTRUCTION_SIZE, to, load: false });
      }
      if (wide) at += INSTRUCTION_SIZE;
    }
  }

  /** Takes the records of the linked functions over; offsets become instruction numbers where the kernel wants these. */
  function move(source: ExtPart, inInstructions: boolean): Records {
    const found: Uint8Array[] = [];
    for (const part of parts)
      for (const record of source.bySection.get(part.section.name) ?? []) {
        if (record.offset < part.start || record.offset >= part.end) continue;
        const copy = record.data.slice();
        const at = part.base * INSTRUCTION_SIZE + record.offset - part.start;
        viewOf(copy).setUint32(0, inInstructions ? at / INSTRUCTION_SIZE : at, true);
        found.push(copy);
      }
    return { recordSize: source.recordSize, count: found.length, data: Buffer.concat(found) };
  }
}
