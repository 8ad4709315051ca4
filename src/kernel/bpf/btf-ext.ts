/**
 * Reads .BTF.ext: for each code section, which function begins where, which source line an instruction came from,
 * and which field accesses the kernel must adapt to its own structures (CO-RE).
 *
 *   header {magic, version, flags, hdr_len, func_off, func_len, line_off, line_len, core_off, core_len}
 *   each part: record size, then per section {name_off, count, records}; a record begins with its byte offset
 *
 * Source: Documentation/bpf/btf.rst section 4.
 */
import { viewOf } from '../../codec/index.ts';
import { bpfError } from '../../errors/bpf.ts';
import type { Btf } from './btf.ts';

/** Records of one kind: their size, and for each section name the records in the order of offsets. */
export interface ExtPart {
  readonly recordSize: number;
  readonly bySection: ReadonlyMap<string, readonly ExtRecord[]>;
}

export interface ExtRecord {
  /** Offset in bytes of the instruction in its section. */
  readonly offset: number;
  /** The whole record, offset included. */
  readonly data: Uint8Array;
}

export interface BtfExt {
  readonly functions: ExtPart;
  readonly lines: ExtPart;
  readonly relocations: ExtPart;
}

const NOTHING: ExtPart = { recordSize: 0, bySection: new Map() };
export const NO_BTF_EXT: BtfExt = { functions: NOTHING, lines: NOTHING, relocations: NOTHING };

/** Parses the section. Throws BPF_OBJECT_MALFORMED. */
export function parseBtfExt(data: Uint8Array, btf: Btf): BtfExt {
  const fail = (offset: number, why: string): never => {
    throw bpfError('BPF_OBJECT_MALFORMED', { object: btf.label, part: '.BTF.ext', offset, why });
  };
  const view = viewOf(data);
  if (data.length < 24) fail(0, `header has ${data.length} bytes, want 24`);
  if (view.getUint16(0, true) !== 0xeb9f) fail(0, 'magic number is not 0xeb9f');
  const header = view.getUint32(4, true);
  if (header < 24 || header > data.length) fail(4, `header length ${header} is impossible`);

  const part = (at: number, smallest: number): ExtPart => {
    if (at + 8 > header) return NOTHING;
    let offset = header + view.getUint32(at, true);
    const length = view.getUint32(at + 4, true);
    if (length === 0) return NOTHING;
    const end = offset + length;
    if (end > data.length || length < 4)
      return fail(at, `${length} bytes at ${offset} lie beyond ${data.length}`);
    const recordSize = view.getUint32(offset, true);
    if (recordSize < smallest || recordSize > 256 || recordSize % 4 !== 0)
      fail(offset, `record size ${recordSize} is impossible`);
    offset += 4;
    const bySection = new Map<string, ExtRecord[]>();
    while (offset < end) {
      if (offset + 8 > end) fail(offset, 'section entry is cut');
      const name = btf.string(view.getUint32(offset, true));
      const count = view.getUint32(offset + 4, true);
      offset += 8;
      if (count > (end - offset) / recordSize)
        fail(offset, `${count} records are more than there is room for`);
      const records: ExtRecord[] = [];
      for (let index = 0; index < count; index++, offset += recordSize)
        records.push({
          offset: view.getUint32(offset, true),
          data: data.subarray(offset, offset + recordSize),
        });
      bySection.set(name, [...(bySection.get(name) ?? []), ...records]);
    }
    return { recordSize, bySection };
  };
  return { functions: part(8, 8), lines: part(16, 16), relocations: part(24, 16) };
}
