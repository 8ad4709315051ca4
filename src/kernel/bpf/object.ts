/**
 * Gives a BPF object to the kernel: type information, maps, constants, programs; in this order, because programs
 * hold descriptors of maps. When a step fails, what the steps before made is closed again.
 */
import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { bpfError } from '../../errors/bpf.ts';
import { closeFd } from '../syscall/index.ts';
import { btfForKernel } from './btf-kernel.ts';
import { MAP_FLAG, MAP_TYPE } from './constants.ts';
import { fixInstructions, loadBtf, loadProgram } from './load-program.ts';
import { BpfMap } from './map.ts';
import { describeShape, type MapShape } from './map-shape.ts';
import {
  type DataSection,
  type MapDefinition,
  type ObjectFile,
  readObjectFile,
  setVariable,
} from './object-file.ts';
import { openPinned } from './pin.ts';
import type { BpfProgram } from './prog.ts';

export interface LoadOptions {
  /** Constants (`const volatile`) and start values of variables by name; integers, or bytes of the exact size. */
  readonly rodata?: Readonly<Record<string, number | bigint | boolean | Uint8Array>>;
  /**
   * Folder in a bpffs for the maps that the source marks with `__uint(pinning, LIBBPF_PIN_BY_NAME)`: a map pinned
   * there under its name is adopted when its shape fits, else one is made and pinned. Without it nothing is pinned.
   */
  readonly pins?: string;
  /** By name: an existing map to use instead (it stays the caller's to close), or another size. */
  readonly maps?: Readonly<Record<string, BpfMap | { readonly maxEntries: number }>>;
  /**
   * By name of a map of maps: the names of structures in the maps that it holds, where the source gives their sizes only.
   * Linux before 6.2 takes only maps into it that have types when these have them.
   */
  readonly innerTypes?: Readonly<Record<string, { readonly key: string; readonly value: string }>>;
  /** Load these programs only; default all. */
  readonly programs?: readonly string[];
  /** Name in messages; default the file's name. */
  readonly label?: string;
}

export class BpfObject {
  readonly label: string;
  /** All maps by their names in the source. */
  readonly maps: ReadonlyMap<string, BpfMap>;
  /** All loaded programs by function name. */
  readonly programs: ReadonlyMap<string, BpfProgram>;
  /** Maps of .rodata, .data and .bss by section name. */
  readonly data: ReadonlyMap<string, BpfMap>;
  /** Of the file nothing else is kept: objects live as long as the process, and their code is in the kernel. */
  readonly #sections: ObjectFile['data'];
  readonly #owned: readonly BpfMap[];

  constructor(
    file: ObjectFile,
    parts: {
      maps: Map<string, BpfMap>;
      data: Map<string, BpfMap>;
      programs: Map<string, BpfProgram>;
      owned: BpfMap[];
    },
  ) {
    this.label = file.label;
    this.maps = parts.maps;
    this.data = parts.data;
    this.programs = parts.programs;
    this.#sections = file.data;
    this.#owned = parts.owned;
  }

  /** The map of this name; its absence means that the code and its object do not belong together. */
  map(name: string): BpfMap {
    return this.maps.get(name) ?? this.#missing(`map "${name}"`, [...this.maps.keys()]);
  }

  program(name: string): BpfProgram {
    return this.programs.get(name) ?? this.#missing(`program "${name}"`, [...this.programs.keys()]);
  }

  /** The bytes of a global variable now. */
  readVariable(name: string): Uint8Array {
    const found = this.#sections
      .flatMap((section) => section.variables.map((variable) => ({ section, variable })))
      .find(({ variable }) => variable.name === name);
    const map = found && this.data.get(found.section.name);
    if (!found || !map) return this.#missing(`variable "${name}"`, []);
    const value = map.get(new Uint8Array(4))!;
    return value.slice(found.variable.offset, found.variable.offset + found.variable.size);
  }

  /** Closes all descriptors; what is attached or pinned lives on. */
  close(): void {
    for (const program of this.programs.values()) program.close();
    for (const map of this.#owned) map.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #missing(what: string, known: string[]): never {
    const why = `it has none, but: ${known.join(', ') || '(nothing)'}`;
    throw bpfError('BPF_OBJECT_UNSUPPORTED', { object: this.label, what, why });
  }
}

/** Map types whose keys and values the kernel lets BTF describe. */
const DESCRIBED: ReadonlySet<number> = new Set([
  MAP_TYPE.HASH,
  MAP_TYPE.ARRAY,
  MAP_TYPE.PERCPU_HASH,
  MAP_TYPE.PERCPU_ARRAY,
  MAP_TYPE.LRU_HASH,
  MAP_TYPE.LRU_PERCPU_HASH,
  MAP_TYPE.LPM_TRIE,
  MAP_TYPE.SK_STORAGE,
  MAP_TYPE.CGRP_STORAGE,
]);

/**
 * Loads an object from a file or from memory. Throws BPF_OBJECT_*, BPF_VARIABLE_*, BPF_BTF_REFUSED,
 * BPF_MAP_REFUSED, BPF_PIN_*, BPF_PROGRAM_REFUSED (its context has the verifier's log).
 */
export function loadObject(source: string | Uint8Array, options: LoadOptions = {}): BpfObject {
  const label = options.label ?? (typeof source === 'string' ? basename(source) : 'object in memory');
  const bytes = typeof source === 'string' ? readFileSync(source) : source;
  const file = readObjectFile(bytes, label);
  for (const [name, value] of Object.entries(options.rodata ?? {})) setVariable(file, name, value);

  const owned: BpfMap[] = [];
  const own = (map: BpfMap): BpfMap => {
    owned.push(map);
    return map;
  };
  const programs = new Map<string, BpfProgram>();
  const btfFd = loadBtf(btfForKernel(file.btf, file.elf), label);
  try {
    const maps = new Map<string, BpfMap>();
    for (const declared of file.maps) {
      const definition = withInnerTypes(declared, options.innerTypes?.[declared.name], file);
      const given = options.maps?.[definition.name];
      const map =
        given instanceof BpfMap
          ? fitting(given, definition)
          : own(openMap(resized(definition, given?.maxEntries), btfFd, options.pins));
      maps.set(definition.name, map);
    }
    const data = new Map<string, BpfMap>();
    const prefix = basename(label).split('.')[0]!.slice(0, 8);
    for (const section of file.data) data.set(section.name, own(dataMap(section, prefix, btfFd)));
    fillMapsOfMaps(file, maps);
    for (const definition of file.programs) {
      if (options.programs && !options.programs.includes(definition.name)) continue;
      const code = fixInstructions(file, definition, maps, data);
      programs.set(definition.name, loadProgram(file, definition, code, btfFd));
    }
    fillProgramArrays(file, maps, programs);
    return new BpfObject(file, { maps, data, programs, owned });
  } catch (error) {
    for (const program of programs.values()) program.close();
    for (const map of owned) map.close();
    throw error;
  } finally {
    closeFd(btfFd);
  }
}

/** The map with types in the maps that it holds, when the object knows both. */
function withInnerTypes(
  definition: MapDefinition,
  names: { readonly key: string; readonly value: string } | undefined,
  { btf }: ObjectFile,
): MapDefinition {
  const keyTypeId = names && btf.sizedType(names.key);
  const valueTypeId = names && btf.sizedType(names.value);
  if (!definition.inner || keyTypeId === undefined || valueTypeId === undefined) return definition;
  return { ...definition, inner: { ...definition.inner, keyTypeId, valueTypeId } };
}

function resized(definition: MapDefinition, maxEntries: number | undefined): MapDefinition {
  return maxEntries === undefined ? definition : { ...definition, maxEntries };
}

function openMap(definition: MapDefinition, btfFd: number, pins: string | undefined): BpfMap {
  const path = definition.pinned && pins !== undefined ? join(pins, definition.name) : undefined;
  if (path !== undefined) {
    const fd = openPinned(path, 'map');
    if (fd !== undefined) return adoptFitting(fd, definition, path);
  }
  const map = createMap(definition, btfFd);
  if (path !== undefined) {
    try {
      map.pin(path);
    } catch (error) {
      map.close();
      throw error;
    }
  }
  return map;
}

function createMap(definition: MapDefinition, btfFd: number): BpfMap {
  const inner = definition.inner && createMap(definition.inner, btfFd);
  const described =
    DESCRIBED.has(definition.type) && definition.keyTypeId !== 0 && definition.valueTypeId !== 0;
  try {
    return BpfMap.create(definition, {
      extra: definition.extra,
      numaNode: definition.numaNode,
      ...(inner ? { inner } : {}),
      ...(described
        ? { btf: { fd: btfFd, keyTypeId: definition.keyTypeId, valueTypeId: definition.valueTypeId } }
        : {}),
    });
  } finally {
    inner?.close();
  }
}

function sameShape(a: MapShape, b: MapShape): boolean {
  // What a descriptor may do (RDONLY, WRONLY) belongs to the opener, not to the shape.
  const shown = (flags = 0) => flags & ~(MAP_FLAG.RDONLY | MAP_FLAG.WRONLY);
  return (
    a.type === b.type &&
    a.keySize === b.keySize &&
    a.valueSize === b.valueSize &&
    a.maxEntries === b.maxEntries &&
    shown(a.flags) === shown(b.flags)
  );
}

function adoptFitting(fd: number, definition: MapDefinition, path: string): BpfMap {
  const map = BpfMap.fromFd(fd, definition.name);
  if (sameShape(map, definition)) return map;
  map.close();
  throw bpfError('BPF_PIN_MISMATCH', { path, pinned: describeShape(map), wanted: describeShape(definition) });
}

/** A map that the caller gives in place of one of the object; its size may differ, its structures may not. */
function fitting(map: BpfMap, definition: MapDefinition): BpfMap {
  if (sameShape(map, { ...definition, maxEntries: map.maxEntries })) return map;
  throw bpfError('BPF_PIN_MISMATCH', {
    path: map.name,
    pinned: describeShape(map),
    wanted: describeShape(definition),
  });
}

function dataMap(section: DataSection, prefix: string, btfFd: number): BpfMap {
  const constant = section.kind === 'rodata';
  const map = BpfMap.create(
    {
      name: `${prefix}${section.name}`,
      type: MAP_TYPE.ARRAY,
      keySize: 4,
      valueSize: section.bytes.length,
      maxEntries: 1,
      flags: MAP_FLAG.MMAPABLE | (constant ? MAP_FLAG.RDONLY_PROG : 0),
    },
    section.typeId === 0 ? {} : { btf: { fd: btfFd, keyTypeId: 0, valueTypeId: section.typeId } },
  );
  try {
    if (section.kind !== 'bss' || section.bytes.some((byte) => byte !== 0))
      map.set(new Uint8Array(4), section.bytes);
    if (constant) map.freeze();
  } catch (error) {
    map.close();
    throw error;
  }
  return map;
}

function indexKey(index: number): Uint8Array {
  const key = new Uint8Array(4);
  new DataView(key.buffer).setUint32(0, index, true);
  return key;
}

function fillMapsOfMaps(file: ObjectFile, maps: Map<string, BpfMap>): void {
  for (const definition of file.maps) {
    if (definition.type === MAP_TYPE.PROG_ARRAY) continue;
    for (const { index, symbol } of definition.initial) {
      const inner = maps.get(symbol);
      if (!inner) unknownValue(file, definition.name, symbol);
      else maps.get(definition.name)!.setFd(indexKey(index), inner);
    }
  }
}

function fillProgramArrays(
  file: ObjectFile,
  maps: Map<string, BpfMap>,
  programs: Map<string, BpfProgram>,
): void {
  for (const definition of file.maps) {
    if (definition.type !== MAP_TYPE.PROG_ARRAY) continue;
    for (const { index, symbol } of definition.initial) {
      const program = programs.get(symbol);
      if (program) maps.get(definition.name)!.setFd(indexKey(index), program);
      else if (!file.programs.some(({ name }) => name === symbol))
        unknownValue(file, definition.name, symbol);
    }
  }
}

function unknownValue(file: ObjectFile, map: string, symbol: string): never {
  throw bpfError('BPF_OBJECT_UNSUPPORTED', {
    object: file.label,
    what: `map "${map}"`,
    why: `its value "${symbol}" is neither a map nor a program of this object`,
  });
}
