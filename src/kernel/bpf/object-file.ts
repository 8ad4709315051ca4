/**
 * Reads a compiled BPF object into maps, data sections and programs. Pure: nothing is given to the kernel yet.
 */
import { viewOf } from '../../codec/index.ts';
import { bpfError } from '../../errors/bpf.ts';
import { Btf, type BtfMember, KIND } from './btf.ts';
import { NO_BTF_EXT, parseBtfExt } from './btf-ext.ts';
import { MAP_TYPE } from './constants.ts';
import {
  type ElfObject,
  type ElfSection,
  type ElfSymbol,
  parseElf,
  SECTION_EXECUTABLE,
  SYMBOL_TYPE,
} from './elf.ts';
import { type LinkedCode, linkCode } from './link-code.ts';
import { type ProgramKind, programKind } from './sections.ts';

export interface MapDefinition {
  readonly name: string;
  readonly type: number;
  /** In bytes. */
  readonly keySize: number;
  readonly valueSize: number;
  readonly maxEntries: number;
  readonly flags: number;
  readonly extra: number;
  readonly numaNode: number;
  /** LIBBPF_PIN_BY_NAME was asked for. */
  readonly pinned: boolean;
  /** Ids in the object's BTF, 0 when the source gave sizes only. */
  readonly keyTypeId: number;
  readonly valueTypeId: number;
  /** Shape of the maps inside a map of maps. */
  readonly inner?: MapDefinition;
  /** What `.values = { [index] = &symbol }` puts in: maps or, in a program array, programs. */
  readonly initial: readonly { readonly index: number; readonly symbol: string }[];
  /** Offset inside .maps. */
  readonly offset: number;
}

export interface DataVariable {
  readonly name: string;
  readonly offset: number;
  readonly size: number;
}

/** .rodata, .data or .bss (or one of their named parts, `.rodata.config`): becomes an array map of one value. */
export interface DataSection {
  readonly name: string;
  readonly kind: 'rodata' | 'data' | 'bss';
  readonly sectionIndex: number;
  readonly bytes: Uint8Array;
  readonly variables: readonly DataVariable[];
  /** Id of the DATASEC in BTF, 0 when there is none. */
  readonly typeId: number;
}

export interface ProgramDefinition {
  readonly name: string;
  readonly section: string;
  readonly kind: ProgramKind;
  readonly code: LinkedCode;
}

export interface ObjectFile {
  readonly label: string;
  readonly license: string;
  readonly elf: ElfObject;
  readonly btf: Btf;
  readonly maps: readonly MapDefinition[];
  readonly data: readonly DataSection[];
  readonly programs: readonly ProgramDefinition[];
}

/** Largest .bss that is believed; 64 MiB. */
const LARGEST_DATA = 64 << 20;
const DATA_SECTION = /^\.(rodata|data|bss)(\.|$)/;

/** Reads an object; `label` names it in messages. Throws BPF_OBJECT_MALFORMED, BPF_OBJECT_UNSUPPORTED. */
export function readObjectFile(bytes: Uint8Array, label: string): ObjectFile {
  const elf = parseElf(bytes, label);
  const btfSection = elf.section('.BTF');
  if (!btfSection)
    throw bpfError('BPF_OBJECT_UNSUPPORTED', {
      object: label,
      what: '.BTF',
      why: 'missing, compile with -g',
    });
  // A copy: it may outlive the rest of the file, which is several times as large.
  const btf = new Btf(btfSection.data.slice(), label);
  const extSection = elf.section('.BTF.ext');
  const ext = extSection ? parseBtfExt(extSection.data, btf) : NO_BTF_EXT;
  const licenseSection = elf.section('license');
  const license = licenseSection
    ? Buffer.from(licenseSection.data).toString('latin1').replace(/\0.*$/s, '')
    : '';

  const programs: ProgramDefinition[] = [];
  for (const symbol of elf.symbols) {
    const section = elf.sections[symbol.section];
    if (symbol.type !== SYMBOL_TYPE.function || symbol.binding === 0 || !section) continue;
    if ((section.flags & SECTION_EXECUTABLE) === 0 || section.name === '.text') continue;
    const kind = programKind(section.name.replace(/^\?/, ''));
    if (!kind)
      throw bpfError('BPF_OBJECT_UNSUPPORTED', {
        object: label,
        what: `section "${section.name}"`,
        why: `no program type is known for it (program "${symbol.name}")`,
      });
    programs.push({ name: symbol.name, section: section.name, kind, code: linkCode(elf, ext, symbol) });
  }
  return {
    label,
    license,
    elf,
    btf,
    maps: readMaps(elf, btf),
    data: elf.sections
      .filter((s) => DATA_SECTION.test(s.name) && s.size > 0)
      .map((s) => readData(elf, btf, s)),
    programs,
  };
}

function readData(elf: ElfObject, btf: Btf, section: ElfSection): DataSection {
  if (section.size > LARGEST_DATA)
    throw bpfError('BPF_OBJECT_UNSUPPORTED', {
      object: elf.label,
      what: `section "${section.name}"`,
      why: `${section.size} bytes are more than ${LARGEST_DATA}`,
    });
  const bytes = new Uint8Array(section.size);
  bytes.set(section.data);
  const type = btf.find(section.name, KIND.DATASEC);
  const variables = elf.symbols
    .filter((symbol) => symbol.section === section.index && symbol.type === SYMBOL_TYPE.object)
    .map((symbol) => ({ name: symbol.name, offset: symbol.value, size: symbol.size }));
  for (const { name, offset, size } of variables)
    if (offset + size > section.size)
      throw bpfError('BPF_OBJECT_MALFORMED', {
        object: elf.label,
        part: `section "${section.name}"`,
        offset,
        why: `variable "${name}" of ${size} bytes ends beyond it`,
      });
  const kind = DATA_SECTION.exec(section.name)![1] as DataSection['kind'];
  return { name: section.name, kind, sectionIndex: section.index, bytes, variables, typeId: type?.id ?? 0 };
}

function readMaps(elf: ElfObject, btf: Btf): MapDefinition[] {
  const section = elf.section('.maps');
  if (!section) return [];
  const list = btf.find('.maps', KIND.DATASEC);
  if (!list)
    throw bpfError('BPF_OBJECT_UNSUPPORTED', {
      object: elf.label,
      what: 'section ".maps"',
      why: 'no type information for it',
    });
  return btf.variables(list).map(({ typeId }) => {
    const variable = btf.type(typeId);
    const symbol = elf.symbols.find(
      (s) => s.section === section.index && s.name === variable.name && s.type === SYMBOL_TYPE.object,
    );
    if (variable.kind !== KIND.VAR || !symbol)
      throw bpfError('BPF_OBJECT_MALFORMED', {
        object: elf.label,
        part: 'section ".maps"',
        offset: 0,
        why: `"${variable.name}" has no symbol`,
      });
    return readMap(elf, btf, variable.name, variable.sizeOrType, { section, symbol });
  });
}

/** Where a map variable lies; maps that are only the shape of an inner map lie nowhere. */
interface Place {
  section: ElfSection;
  symbol: ElfSymbol;
}

function readMap(
  elf: ElfObject,
  btf: Btf,
  name: string,
  typeId: number,
  place: Place | undefined,
): MapDefinition {
  const unsupported = (why: string): never => {
    throw bpfError('BPF_OBJECT_UNSUPPORTED', { object: elf.label, what: `map "${name}"`, why });
  };
  const shape = btf.resolve(typeId);
  if (shape.kind !== KIND.STRUCT) unsupported('it is not declared as a struct in SEC(".maps")');
  const members = new Map(btf.members(shape).map((member) => [member.name, member]));
  const known = new Set([
    'type',
    'max_entries',
    'map_flags',
    'key',
    'value',
    'key_size',
    'value_size',
    'pinning',
    'numa_node',
    'map_extra',
    'values',
  ]);
  for (const member of members.keys()) if (!known.has(member)) unsupported(`member "${member}" is not known`);
  const size = (valueMember: string, sizeMember: string) => {
    const member = members.get(valueMember);
    if (member) {
      const pointed = btf.resolve(member.typeId).sizeOrType;
      return { id: pointed, size: btf.sizeOf(pointed) };
    }
    return { id: 0, size: numberMember(btf, members.get(sizeMember)) };
  };
  const key = size('key', 'key_size');
  const value = size('value', 'value_size');
  const type = numberMember(btf, members.get('type'));
  const ofMaps = type === MAP_TYPE.ARRAY_OF_MAPS || type === MAP_TYPE.HASH_OF_MAPS;
  const holds = ofMaps || type === MAP_TYPE.PROG_ARRAY;
  const values = members.get('values');
  let inner: MapDefinition | undefined;
  if (values && ofMaps) {
    const pointer = btf.resolve(btf.array(btf.resolve(values.typeId)).elementId);
    inner = readMap(elf, btf, `${name}.inner`, pointer.sizeOrType, undefined);
  }
  return {
    name,
    type,
    keySize: key.size === 0 && holds ? 4 : key.size,
    valueSize: value.size === 0 && holds ? 4 : value.size,
    maxEntries: numberMember(btf, members.get('max_entries')),
    flags: numberMember(btf, members.get('map_flags')),
    extra: numberMember(btf, members.get('map_extra')),
    numaNode: numberMember(btf, members.get('numa_node')),
    pinned: numberMember(btf, members.get('pinning')) === 1,
    keyTypeId: key.id,
    valueTypeId: value.id,
    ...(inner ? { inner } : {}),
    initial: place && values ? initialValues(elf, place, values) : [],
    offset: place?.symbol.value ?? 0,
  };
}

/** `__uint(name, 5)` is a pointer to int[5]; `__ulong` an enum of one value. */
function numberMember(btf: Btf, member: BtfMember | undefined): number {
  if (!member) return 0;
  const type = btf.resolve(member.typeId);
  if (type.kind === KIND.ENUM) return btf.enumerators(type)[0]?.value ?? 0;
  return btf.array(btf.resolve(type.sizeOrType)).count;
}

/** `.values = { [i] = &x }` leaves a relocation at every pointer that is set. */
function initialValues(elf: ElfObject, { section, symbol }: Place, values: BtfMember) {
  const start = symbol.value + values.bitOffset / 8;
  const end = symbol.value + symbol.size;
  return elf
    .relocationsOf(section)
    .filter(({ offset }) => offset >= start && offset < end)
    .map((relocation) => ({ index: (relocation.offset - start) / 8, symbol: relocation.symbol.name }));
}

/** The variable of this name in any data section. */
export function findVariable(
  file: ObjectFile,
  name: string,
): { section: DataSection; variable: DataVariable } | undefined {
  for (const section of file.data) {
    const variable = section.variables.find((candidate) => candidate.name === name);
    if (variable) return { section, variable };
  }
  return undefined;
}

/** Writes a constant or a start value into a section's bytes. Throws BPF_VARIABLE_UNKNOWN, BPF_VARIABLE_VALUE. */
export function setVariable(
  file: ObjectFile,
  name: string,
  value: number | bigint | boolean | Uint8Array,
): void {
  const found = findVariable(file, name);
  if (!found) {
    const known = file.data.flatMap((section) => section.variables.map((variable) => variable.name));
    throw bpfError('BPF_VARIABLE_UNKNOWN', {
      object: file.label,
      variable: name,
      known: known.join(', ') || '(none)',
    });
  }
  const { section, variable } = found;
  const wrong = (why: string): never => {
    throw bpfError('BPF_VARIABLE_VALUE', { object: file.label, variable: name, why });
  };
  if (value instanceof Uint8Array) {
    if (value.length !== variable.size) wrong(`got ${value.length} bytes, want ${variable.size}`);
    section.bytes.set(value, variable.offset);
    return;
  }
  if (typeof value === 'number' && !Number.isSafeInteger(value)) wrong(`${value} is no integer`);
  const number = BigInt(value);
  const bits = variable.size * 8;
  if (![1, 2, 4, 8].includes(variable.size)) wrong(`it has ${variable.size} bytes, pass these as bytes`);
  if (number >= 1n << BigInt(bits) || number < -(1n << BigInt(bits - 1)))
    wrong(`${number} does not fit ${variable.size} bytes`);
  const whole = new Uint8Array(8);
  viewOf(whole).setBigUint64(0, BigInt.asUintN(64, number), true);
  section.bytes.set(whole.subarray(0, variable.size), variable.offset);
}
