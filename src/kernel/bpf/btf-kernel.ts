/**
 * Makes an object's BTF acceptable to the kernel: the compiler leaves to the loader what only the linker knows.
 *
 * - sizes and offsets in data sections are 0 until the ELF symbols say them;
 * - functions that are only declared (kfuncs) have linkage `extern`, which the kernel refuses;
 * - .ksyms lists functions, which the kernel refuses in a data section: it becomes an anonymous struct;
 * - global functions with hidden visibility are verified like static ones, together with their callers.
 */
import { viewOf } from '../../codec/index.ts';
import { type Btf, KIND } from './btf.ts';
import { type ElfObject, SYMBOL_TYPE } from './elf.ts';

const EXTERN = 2;
const GLOBAL = 1;
const STATIC = 0;

/** A corrected copy of the BTF data. */
export function btfForKernel(btf: Btf, elf: ElfObject): Uint8Array {
  const data = btf.data.slice();
  const view = viewOf(data);
  const hidden = new Set(
    elf.symbols
      .filter((s) => s.type === SYMBOL_TYPE.function && (s.visibility === 1 || s.visibility === 2))
      .map((s) => s.name),
  );
  for (const type of btf.ofKind(KIND.FUNC)) {
    const linkage = type.vlen === EXTERN ? GLOBAL : hidden.has(type.name) ? STATIC : type.vlen;
    if (linkage !== type.vlen) view.setUint32(type.at - 8, (KIND.FUNC << 24) | linkage, true);
    if (type.vlen === EXTERN) nameParameters(btf, view, type.sizeOrType, type.at - 12);
  }
  let anInt: number | undefined;
  for (const type of btf.ofKind(KIND.INT)) {
    if (type.sizeOrType === 4) anInt ??= type.id;
  }
  for (const type of btf.ofKind(KIND.DATASEC)) {
    const section = elf.section(type.name);
    if (type.name === '.ksyms' || !section) {
      asStruct(type.at, type.vlen);
      continue;
    }
    const symbols = new Map(
      elf.symbols.filter((s) => s.section === section.index).map((s) => [s.name, s.value]),
    );
    const entries = btf
      .variables(type)
      .map((entry) => ({ ...entry, offset: symbols.get(btf.type(entry.typeId).name) ?? entry.offset }))
      .sort((a, b) => a.offset - b.offset);
    view.setUint32(type.at - 4, section.size, true);
    entries.forEach((entry, index) => {
      const at = type.at + index * 12;
      view.setUint32(at, entry.typeId, true);
      view.setUint32(at + 4, entry.offset, true);
      view.setUint32(at + 8, entry.size, true);
    });
  }
  return data;

  /** A struct member has the size of a data section entry: {name_off, type, bit offset}. */
  function asStruct(at: number, entries: number): void {
    const members = anInt === undefined ? 0 : entries;
    view.setUint32(at - 12, 0, true);
    view.setUint32(at - 8, (KIND.STRUCT << 24) | entries, true);
    view.setUint32(at - 4, members * 4, true);
    for (let index = 0; index < entries; index++) {
      view.setUint32(at + index * 12, 0, true);
      view.setUint32(at + index * 12 + 4, anInt ?? 0, true);
      view.setUint32(at + index * 12 + 8, index * 32, true);
    }
  }
}

/** Parameters of a declaration may lack names, which the kernel wants in every global function. */
function nameParameters(btf: Btf, view: DataView, prototypeId: number, functionAt: number): void {
  const prototype = btf.type(prototypeId);
  if (prototype.kind !== KIND.FUNC_PROTO) return;
  const anyName = view.getUint32(functionAt, true);
  for (let index = 0; index < prototype.vlen; index++) {
    const at = prototype.at + index * 8;
    if (view.getUint32(at, true) === 0 && view.getUint32(at + 4, true) !== 0)
      view.setUint32(at, anyName, true);
  }
}
