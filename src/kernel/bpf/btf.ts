/**
 * Reads BTF, the type information of a BPF object or of the kernel itself.
 *
 *   header {magic 0xeb9f, version, flags, hdr_len, type_off, type_len, str_off, str_len} | types | strings
 *   a type is {name_off, info = kind_flag:1 kind:5 vlen:16, size or type} and data that depends on its kind
 *
 * Types are numbered from 1; 0 is void. The kernel's own BTF has above 100,000, so types are decoded when asked
 * for. Source: Documentation/bpf/btf.rst.
 */
import { viewOf } from '../../codec/index.ts';
import { bpfError } from '../../errors/bpf.ts';

export const KIND = {
  VOID: 0,
  INT: 1,
  PTR: 2,
  ARRAY: 3,
  STRUCT: 4,
  UNION: 5,
  ENUM: 6,
  FWD: 7,
  TYPEDEF: 8,
  VOLATILE: 9,
  CONST: 10,
  RESTRICT: 11,
  FUNC: 12,
  FUNC_PROTO: 13,
  VAR: 14,
  DATASEC: 15,
  FLOAT: 16,
  DECL_TAG: 17,
  TYPE_TAG: 18,
  ENUM64: 19,
} as const;

const KIND_COUNT = 20;
/** Bytes behind the 12 of every type: fixed, and for each of vlen items; indexed by kind. */
const FIXED = [0, 4, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 4, 0, 0];
const EACH = [0, 0, 0, 0, 12, 12, 8, 0, 0, 0, 0, 0, 0, 8, 0, 12, 0, 0, 0, 12];
/** Kinds that only decorate another type. */
const MODIFIERS: ReadonlySet<number> = new Set([
  KIND.TYPEDEF,
  KIND.VOLATILE,
  KIND.CONST,
  KIND.RESTRICT,
  KIND.TYPE_TAG,
]);
const HEADER_SIZE = 24;
const MAGIC = 0xeb9f;
const DEEPEST = 64;

export interface BtfType {
  readonly id: number;
  readonly name: string;
  readonly kind: number;
  readonly vlen: number;
  readonly kindFlag: boolean;
  /** Size in bytes, or the id of the type it refers to; which one depends on the kind. */
  readonly sizeOrType: number;
  /** Offset in the BTF data of what follows the common 12 bytes. */
  readonly at: number;
}

export interface BtfMember {
  readonly name: string;
  readonly typeId: number;
  readonly bitOffset: number;
  /** 0 unless it is a bit field. */
  readonly bitSize: number;
}

export interface BtfVariable {
  readonly typeId: number;
  readonly offset: number;
  readonly size: number;
  /** Where its 12-byte entry lies in the BTF data. */
  readonly at: number;
}

export class Btf {
  readonly label: string;
  readonly data: Uint8Array;
  readonly #view: DataView;
  /** Offset of each type in `data`; entry 0 is unused. */
  readonly #types: Uint32Array;
  readonly #stringsAt: number;
  readonly #stringsEnd: number;

  /** Parses and checks the bounds of everything. Throws BPF_OBJECT_MALFORMED. */
  constructor(data: Uint8Array, label: string) {
    this.label = label;
    this.data = data;
    this.#view = viewOf(data);
    const view = this.#view;
    if (data.length < HEADER_SIZE) this.#fail(0, `header has ${data.length} bytes, want ${HEADER_SIZE}`);
    if (view.getUint16(0, true) !== MAGIC) this.#fail(0, 'magic number is not 0xeb9f');
    if (data[2] !== 1) this.#fail(2, `version is ${data[2]}, want 1`);
    const header = view.getUint32(4, true);
    if (header < HEADER_SIZE || header > data.length) this.#fail(4, `header length ${header} is impossible`);
    const typesAt = header + view.getUint32(8, true);
    const typesEnd = typesAt + view.getUint32(12, true);
    this.#stringsAt = header + view.getUint32(16, true);
    this.#stringsEnd = this.#stringsAt + view.getUint32(20, true);
    if (typesEnd > data.length) this.#fail(8, `types end at ${typesEnd}, beyond ${data.length}`);
    if (this.#stringsEnd > data.length)
      this.#fail(16, `strings end at ${this.#stringsEnd}, beyond ${data.length}`);
    if (
      this.#stringsEnd === this.#stringsAt ||
      data[this.#stringsAt] !== 0 ||
      data[this.#stringsEnd - 1] !== 0
    )
      this.#fail(16, 'strings do not begin and end with NUL');
    const offsets: number[] = [0];
    for (let at = typesAt; at < typesEnd; ) {
      if (at + 12 > typesEnd) this.#fail(at, 'type is cut');
      const info = view.getUint32(at + 4, true);
      const kind = (info >>> 24) & 31;
      if (kind === 0 || kind >= KIND_COUNT) this.#fail(at, `kind ${kind} is unknown`);
      const next = at + 12 + FIXED[kind]! + EACH[kind]! * (info & 0xffff);
      if (next > typesEnd) this.#fail(at, 'type is cut');
      offsets.push(at);
      at = next;
    }
    this.#types = Uint32Array.from(offsets);
  }

  #fail(offset: number, why: string): never {
    throw bpfError('BPF_OBJECT_MALFORMED', { object: this.label, part: '.BTF', offset, why });
  }

  /** Highest type id. */
  get lastId(): number {
    return this.#types.length - 1;
  }

  /** Offset in `data` of the 12 common bytes of a type. */
  offsetOf(id: number): number {
    if (id <= 0 || id > this.lastId) this.#fail(0, `type ${id} does not exist`);
    return this.#types[id]!;
  }

  string(offset: number): string {
    const at = this.#stringsAt + offset;
    if (at >= this.#stringsEnd) this.#fail(at, 'string lies beyond the strings');
    return Buffer.from(this.data.subarray(at, this.data.indexOf(0, at))).toString('latin1');
  }

  type(id: number): BtfType {
    if (id === 0)
      return { id: 0, name: 'void', kind: KIND.VOID, vlen: 0, kindFlag: false, sizeOrType: 0, at: 0 };
    const at = this.offsetOf(id);
    const info = this.#view.getUint32(at + 4, true);
    return {
      id,
      name: this.string(this.#view.getUint32(at, true)),
      kind: (info >>> 24) & 31,
      vlen: info & 0xffff,
      kindFlag: info >>> 31 === 1,
      sizeOrType: this.#view.getUint32(at + 8, true),
      at: at + 12,
    };
  }

  /** Id of the structure of this name, else of what `typedef` names so. */
  sizedType(name: string): number | undefined {
    return (this.find(name, KIND.STRUCT) ?? this.find(name, KIND.TYPEDEF))?.id;
  }

  /**
   * First type of this name and kind. Looks for the name among the strings, then for types that refer to it: an index
   * of the kernel's 100,000 names would cost more than the few searches that are made.
   */
  find(name: string, kind: number): BtfType | undefined {
    if (name === '') return undefined;
    const strings = Buffer.from(this.data.buffer, this.data.byteOffset, this.#stringsEnd);
    const wanted = Buffer.from(`\0${name}\0`, 'latin1');
    for (
      let at = strings.indexOf(wanted, this.#stringsAt);
      at >= 0;
      at = strings.indexOf(wanted, at + wanted.length - 1)
    ) {
      const offset = at + 1 - this.#stringsAt;
      for (let id = 1; id <= this.lastId; id++) {
        const type = this.#types[id]!;
        if (this.#view.getUint32(type, true) !== offset) continue;
        if (((this.#view.getUint32(type + 4, true) >>> 24) & 31) === kind) return this.type(id);
      }
    }
    return undefined;
  }

  /** All types of one kind, in order. */
  *ofKind(kind: number): Generator<BtfType> {
    for (let id = 1; id <= this.lastId; id++)
      if (((this.#view.getUint32(this.#types[id]! + 4, true) >>> 24) & 31) === kind) yield this.type(id);
  }

  /** The type behind typedef, const, volatile, restrict and tags. */
  resolve(id: number): BtfType {
    let type = this.type(id);
    for (let depth = 0; MODIFIERS.has(type.kind); depth++) {
      if (depth > DEEPEST) this.#fail(type.at, `type ${id} refers to itself`);
      type = this.type(type.sizeOrType);
    }
    return type;
  }

  /** Size in bytes of a value of this type; void and functions have none and are refused. */
  sizeOf(id: number, depth = 0): number {
    const type = this.resolve(id);
    if (depth > DEEPEST) this.#fail(type.at, `type ${id} contains itself`);
    switch (type.kind) {
      case KIND.INT:
      case KIND.STRUCT:
      case KIND.UNION:
      case KIND.ENUM:
      case KIND.ENUM64:
      case KIND.FLOAT:
      case KIND.DATASEC:
        return type.sizeOrType;
      case KIND.PTR:
        return 8;
      case KIND.ARRAY: {
        const { elementId, count } = this.array(type);
        return count === 0 ? 0 : count * this.sizeOf(elementId, depth + 1);
      }
      case KIND.VAR:
        return this.sizeOf(type.sizeOrType, depth + 1);
      default:
        return this.#fail(type.at, `type ${id} ("${type.name}") has no size`);
    }
  }

  array(type: BtfType): { elementId: number; count: number } {
    this.#want(type, KIND.ARRAY);
    return {
      elementId: this.#view.getUint32(type.at, true),
      count: this.#view.getUint32(type.at + 8, true),
    };
  }

  members(type: BtfType): BtfMember[] {
    if (type.kind !== KIND.UNION) this.#want(type, KIND.STRUCT);
    return Array.from({ length: type.vlen }, (_, index) => {
      const at = type.at + index * 12;
      const offset = this.#view.getUint32(at + 8, true);
      return {
        name: this.string(this.#view.getUint32(at, true)),
        typeId: this.#view.getUint32(at + 4, true),
        bitOffset: type.kindFlag ? offset & 0xff_ffff : offset,
        bitSize: type.kindFlag ? offset >>> 24 : 0,
      };
    });
  }

  /** Names and values of an enum, signed as declared. */
  enumerators(type: BtfType): { name: string; value: number }[] {
    this.#want(type, KIND.ENUM);
    return Array.from({ length: type.vlen }, (_, index) => {
      const at = type.at + index * 8;
      return {
        name: this.string(this.#view.getUint32(at, true)),
        value: type.kindFlag ? this.#view.getInt32(at + 4, true) : this.#view.getUint32(at + 4, true),
      };
    });
  }

  /** Variables (and, in .ksyms, functions) of a data section. */
  variables(type: BtfType): BtfVariable[] {
    this.#want(type, KIND.DATASEC);
    return Array.from({ length: type.vlen }, (_, index) => {
      const at = type.at + index * 12;
      return {
        typeId: this.#view.getUint32(at, true),
        offset: this.#view.getUint32(at + 4, true),
        size: this.#view.getUint32(at + 8, true),
        at,
      };
    });
  }

  #want(type: BtfType, kind: number): void {
    if (type.kind !== kind)
      this.#fail(type.at, `type ${type.id} ("${type.name}") has kind ${type.kind}, want ${kind}`);
  }
}
