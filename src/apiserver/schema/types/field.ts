/**
 * The vocabulary in which one table per kind describes its JSON. Everything that must know a kind's shape reads
 * the same table: decoding, strategic merge keys, server-side apply field sets and the OpenAPI documents.
 *
 *   ports: list(() => servicePort, { keys: ['port', 'protocol'], merge: 'port' }, 'Ports that are exposed.')
 *
 * Source of the facts in the tables: Kubernetes API v1.32 (list types, patch keys and which fields are pointers).
 */

/** A leaf. `quantity`, `time` and `microTime` are strings with a syntax, `raw` is any JSON. */
export type ScalarName =
  | 'string'
  | 'int32'
  | 'int64'
  | 'boolean'
  | 'intOrString'
  | 'quantity'
  | 'time'
  | 'microTime'
  | 'bytes'
  | 'raw';

export interface ScalarType {
  readonly is: 'scalar';
  readonly scalar: ScalarName;
}

export interface ListType {
  readonly is: 'list';
  readonly of: TypeRef;
  /** How server-side apply merges it: whole, as a set of scalars, or by the keys of its elements. */
  readonly listType: 'atomic' | 'set' | 'map';
  readonly keys: readonly string[];
}

export interface MapType {
  readonly is: 'map';
  readonly of: TypeRef;
  /** An atomic map is replaced whole by server-side apply. */
  readonly atomic: boolean;
}

export interface StructType {
  readonly is: 'struct';
  /** Dotted tail of the Kubernetes model name, e.g. `core.v1.ServiceSpec`. */
  readonly name: string;
  readonly doc: string;
  readonly fields: ReadonlyMap<string, Field>;
  /** An atomic object is replaced whole by server-side apply. */
  readonly atomic: boolean;
}

export type FieldType = ScalarType | ListType | MapType | StructType;
/** Tables refer to each other lazily, so that they may be written in any order and may be recursive. */
export type TypeRef = FieldType | (() => FieldType);

export interface Field {
  readonly type: TypeRef;
  readonly doc: string;
  /** Must be present; OpenAPI lists it under `required`. */
  readonly required: boolean;
  /** Zero ("" 0 false [] {}) differs from absent: a pointer in Kubernetes' own types. */
  readonly keepZero: boolean;
  /** Strategic merge patch: how a list or an object is combined. */
  readonly patchStrategy?: 'merge' | 'retainKeys' | 'merge,retainKeys';
  readonly patchMergeKey?: string;
  /** Default that OpenAPI states and that server-side apply uses for list keys. */
  readonly default?: unknown;
}

export interface ListOptions {
  /** Keys of a list that is a map, e.g. `['name']`. */
  readonly keys?: readonly string[];
  readonly set?: true;
  /** Strategic merge key, or `true` for a list of scalars that merges. */
  readonly merge?: string | true;
  readonly retainKeys?: true;
}

/** The type behind a reference. */
export function resolve(ref: TypeRef): FieldType {
  return typeof ref === 'function' ? ref() : ref;
}

export function struct(
  name: string,
  doc: string,
  fields: Record<string, Field>,
  options: { atomic?: boolean } = {},
): StructType {
  return {
    is: 'struct',
    name,
    doc,
    fields: new Map(Object.entries(fields)),
    atomic: options.atomic ?? false,
  };
}

const scalars = new Map<ScalarName, ScalarType>();

/** The one value that stands for this scalar. */
export function scalar(name: ScalarName): ScalarType {
  const known = scalars.get(name);
  if (known) return known;
  const made: ScalarType = { is: 'scalar', scalar: name };
  scalars.set(name, made);
  return made;
}

const field = (type: TypeRef, doc: string): Field => ({ type, doc, required: false, keepZero: false });

export const str = (doc: string) => field(scalar('string'), doc);
export const int32 = (doc: string) => field(scalar('int32'), doc);
export const int64 = (doc: string) => field(scalar('int64'), doc);
export const bool = (doc: string) => field(scalar('boolean'), doc);
export const intOrString = (doc: string) => field(scalar('intOrString'), doc);
export const quantity = (doc: string) => field(scalar('quantity'), doc);
export const time = (doc: string) => field(scalar('time'), doc);
export const microTime = (doc: string) => field(scalar('microTime'), doc);
export const raw = (doc: string) => field(scalar('raw'), doc);
export const obj = (type: () => StructType, doc: string) => field(type, doc);

/** A list; without options it is atomic for apply and replaced by strategic merge. */
export function list(of: TypeRef, options: ListOptions, doc: string): Field {
  const type: ListType = {
    is: 'list',
    of,
    listType: options.keys ? 'map' : options.set ? 'set' : 'atomic',
    keys: options.keys ?? [],
  };
  return {
    ...field(type, doc),
    ...(options.merge && { patchStrategy: options.retainKeys ? 'merge,retainKeys' : 'merge' }),
    ...(typeof options.merge === 'string' && { patchMergeKey: options.merge }),
  };
}

/** A list of strings. */
export const strings = (doc: string, options: ListOptions = {}) => list(scalar('string'), options, doc);

/** An object with free keys. */
export function map(of: TypeRef, doc: string, options: { atomic?: boolean } = {}): Field {
  return field({ is: 'map', of, atomic: options.atomic ?? false }, doc);
}
export const stringMap = (doc: string, options: { atomic?: boolean } = {}) =>
  map(scalar('string'), doc, options);
export const quantities = (doc: string) => map(scalar('quantity'), doc);

/** Marks a field that must be present. */
export const req = (inner: Field): Field => ({ ...inner, required: true, keepZero: true });
/** Marks a field whose zero value differs from its absence. */
export const ptr = (inner: Field): Field => ({ ...inner, keepZero: true });
/** States a default in OpenAPI; the defaulting itself is in `defaults/`. */
export const dflt = (value: unknown, inner: Field): Field => ({ ...inner, default: value });
/** Strategic merge drops keys that the patch does not name (unions such as a volume source). */
export const retainKeys = (inner: Field): Field => ({ ...inner, patchStrategy: 'retainKeys' });
