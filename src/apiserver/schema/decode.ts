/**
 * JSON to an object of a kind, by the kind's table: types are checked, unknown members are collected and left
 * out, and values get the one spelling under which Kubernetes stores them (no nulls, no zero values where zero
 * means absent, canonical quantities and times).
 */
import type { KubeObject } from '../../model/kubernetes.ts';
import type { KindSchema } from './kinds.ts';
import { formatQuantity, parseQuantity } from './quantity.ts';
import { type Field, type FieldType, resolve, type ScalarName, type StructType } from './types/field.ts';

export type FieldErrorType =
  | 'FieldValueInvalid'
  | 'FieldValueRequired'
  | 'FieldValueForbidden'
  | 'FieldValueDuplicate'
  | 'FieldValueNotSupported'
  | 'FieldValueTypeInvalid'
  | 'FieldValueNotFound';

/** One fault of an object, as it travels in `Status.details.causes`. */
export interface FieldError {
  readonly type: FieldErrorType;
  /** Path of the field, e.g. `spec.ports[0].port`. */
  readonly field: string;
  /** What is wrong, without the path. */
  readonly message: string;
}

export interface Decoded {
  readonly object: KubeObject;
  readonly typeErrors: FieldError[];
  /** Paths of members that the kind does not have, e.g. `spec.containers[0].foo`. */
  readonly unknownFields: string[];
}

interface Walk {
  readonly path: (string | number)[];
  readonly typeErrors: FieldError[];
  readonly unknownFields: string[];
  /** Last part of the name of the struct being read, for the wording of type errors. */
  struct: string;
  /** Names of the declared fields on the path, without places in lists and keys of maps. */
  readonly fields: string[];
  readonly keepZeros: boolean;
}

export interface DecodeOptions {
  /** Keep zero values that mean absent; server-side apply owns what was written, even `hostNetwork: false`. */
  readonly keepZeros?: boolean;
}

/** Stands for "leave this member out". */
const absent: unique symbol = Symbol('absent');

/** Decodes any JSON as an object of `schema`; never throws. */
export function decodeObject(schema: KindSchema, json: unknown, options: DecodeOptions = {}): Decoded {
  const walk: Walk = {
    path: [],
    fields: [],
    typeErrors: [],
    unknownFields: [],
    struct: schema.kind,
    keepZeros: options.keepZeros ?? false,
  };
  const value = decodeValue(walk, schema.type, json);
  const object = (typeof value === 'object' ? value : {}) as KubeObject;
  // A name is missed by validation, not here.
  object.metadata ??= {} as KubeObject['metadata'];
  return { object, typeErrors: walk.typeErrors, unknownFields: walk.unknownFields };
}

/** `spec.ports[0].port`. */
export function pathText(path: readonly (string | number)[]): string {
  let text = '';
  for (const step of path) text += typeof step === 'number' ? `[${step}]` : text === '' ? step : `.${step}`;
  return text;
}

function decodeValue(walk: Walk, type: FieldType, json: unknown): unknown {
  switch (type.is) {
    case 'scalar':
      return decodeScalar(walk, type.scalar, json);
    case 'struct':
      return decodeStruct(walk, type, json);
    case 'list': {
      if (!Array.isArray(json)) return wrongType(walk, json, goListName(type.of));
      const of = resolve(type.of);
      const items: unknown[] = [];
      for (let i = 0; i < json.length; i++) {
        walk.path.push(i);
        const item = json[i] === null ? zeroOf(of) : decodeValue(walk, of, json[i]);
        if (item !== absent) items.push(item);
        walk.path.pop();
      }
      return items;
    }
    case 'map': {
      if (!isObject(json)) return wrongType(walk, json, 'map');
      const of = resolve(type.of);
      const result: Record<string, unknown> = {};
      for (const key of Object.keys(json)) {
        walk.path.push(key);
        const item = json[key] === null ? zeroOf(of) : decodeValue(walk, of, json[key]);
        if (item !== absent) setOwn(result, key, item);
        walk.path.pop();
      }
      return result;
    }
  }
}

function decodeStruct(walk: Walk, type: StructType, json: unknown): unknown {
  if (!isObject(json)) return wrongType(walk, json, goName(type));
  if (type.fields.size === 0) return json;
  const outer = walk.struct;
  walk.struct = goName(type).slice(goName(type).lastIndexOf('.') + 1);
  const result: Record<string, unknown> = {};
  for (const key of Object.keys(json)) {
    const field = type.fields.get(key);
    walk.path.push(key);
    if (!field) walk.unknownFields.push(pathText(walk.path));
    else {
      walk.fields.push(key);
      const value = decodeField(walk, field, json[key]);
      if (value !== absent) result[key] = value;
      walk.fields.pop();
    }
    walk.path.pop();
  }
  walk.struct = outer;
  return result;
}

function decodeField(walk: Walk, field: Field, json: unknown): unknown {
  if (json === null || json === undefined) {
    const type = resolve(field.type);
    return field.required && type.is === 'list' ? [] : absent;
  }
  const value = decodeValue(walk, resolve(field.type), json);
  return field.keepZero || walk.keepZeros || !isZero(resolve(field.type), value) ? value : absent;
}

/** Structs count as non-zero: Kubernetes writes `resources: {}`. */
function isZero(type: FieldType, value: unknown): boolean {
  if (value === '' || value === 0 || value === false) return true;
  if (type.is === 'list') return Array.isArray(value) && value.length === 0;
  if (type.is === 'map') return isObject(value) && Object.keys(value).length === 0;
  return false;
}

function zeroOf(type: FieldType): unknown {
  if (type.is === 'struct' || type.is === 'map') return {};
  if (type.is === 'list') return [];
  if (type.scalar === 'boolean') return false;
  if (type.scalar === 'string' || type.scalar === 'bytes') return '';
  if (type.scalar === 'raw') return null;
  return type.scalar === 'quantity' ? '0' : 0;
}

const int32Range = { min: -(2 ** 31), max: 2 ** 31 - 1 };
/** JavaScript numbers are exact to 2^53; larger int64 values do not occur in the kinds that are served. */
const int64Range = { min: Number.MIN_SAFE_INTEGER, max: Number.MAX_SAFE_INTEGER };

type ScalarDecoder = (walk: Walk, json: unknown) => unknown;

const scalarDecoders: Record<ScalarName, ScalarDecoder> = {
  raw: (_walk, json) => json,
  string: (walk, json) => (typeof json === 'string' ? json : wrongType(walk, json, 'string')),
  boolean: (walk, json) => (typeof json === 'boolean' ? json : wrongType(walk, json, 'bool')),
  int32: (walk, json) => decodeInteger(walk, json, 'int32', int32Range),
  int64: (walk, json) => decodeInteger(walk, json, 'int64', int64Range),
  intOrString: (walk, json) =>
    typeof json === 'string' ? json : decodeInteger(walk, json, 'int32', int32Range),
  quantity: (walk, json) => {
    const quantity =
      typeof json === 'string' || typeof json === 'number' ? parseQuantity(String(json)) : undefined;
    if (quantity) return formatQuantity(quantity);
    if (typeof json !== 'string' && typeof json !== 'number')
      return wrongType(walk, json, 'resource.Quantity');
    return typeError(
      walk,
      "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    );
  },
  time: (walk, json) => decodeTime(walk, json, 0),
  microTime: (walk, json) => decodeTime(walk, json, 6),
  bytes: (walk, json) => {
    if (typeof json !== 'string') return wrongType(walk, json, '[]uint8');
    const text = json.replace(/[\r\n]/g, '');
    if (text.length % 4 === 0 && /^[A-Za-z0-9+/]*={0,2}$/.test(text)) return text;
    return typeError(walk, 'illegal base64 data');
  },
};

function decodeScalar(walk: Walk, scalar: ScalarName, json: unknown): unknown {
  return scalarDecoders[scalar](walk, json);
}

function decodeInteger(
  walk: Walk,
  json: unknown,
  name: string,
  range: { min: number; max: number },
): unknown {
  if (typeof json !== 'number') return wrongType(walk, json, name);
  if (!Number.isInteger(json) || json < range.min || json > range.max)
    return wrongType(walk, json, name, `number ${json}`);
  return json;
}

const rfc3339 = /^(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:[.,](\d{1,9}))?(Z|[+-]\d{2}:\d{2})$/;

/** A time in UTC with `digits` digits of a second: metav1.Time has none, MicroTime six. */
function decodeTime(walk: Walk, json: unknown, digits: 0 | 6): unknown {
  if (typeof json !== 'string') return wrongType(walk, json, digits === 0 ? 'v1.Time' : 'v1.MicroTime');
  const match = rfc3339.exec(json);
  const at = match ? Date.parse(`${match[1]}${match[3]}`) : Number.NaN;
  if (!match || Number.isNaN(at)) {
    const layout = digits === 0 ? '2006-01-02T15:04:05Z07:00' : '2006-01-02T15:04:05.000000Z07:00';
    return typeError(walk, `parsing time ${JSON.stringify(json)} as ${JSON.stringify(layout)}: cannot parse`);
  }
  const seconds = new Date(at).toISOString().slice(0, 19);
  return digits === 0 ? `${seconds}Z` : `${seconds}.${(match[2] ?? '').padEnd(6, '0').slice(0, 6)}Z`;
}

/** The words of Go's JSON decoder, which people know and tools search for. */
function wrongType(walk: Walk, json: unknown, want: string, found = jsonTypeName(json)): typeof absent {
  const names = walk.fields.join('.');
  const where = names === '' ? 'Go value' : `Go struct field ${walk.struct}.${names}`;
  return typeError(walk, `json: cannot unmarshal ${found} into ${where} of type ${want}`);
}

function typeError(walk: Walk, message: string): typeof absent {
  walk.typeErrors.push({ type: 'FieldValueTypeInvalid', field: pathText(walk.path), message });
  return absent;
}

function jsonTypeName(json: unknown): string {
  if (Array.isArray(json)) return 'array';
  if (typeof json === 'boolean') return 'bool';
  return json === null ? 'null' : typeof json;
}

/** `v1.ServicePort`. */
function goName(type: StructType): string {
  return type.name.split('.').slice(-2).join('.');
}

function goListName(of: ListElement): string {
  const type = resolve(of);
  if (type.is === 'struct') return `[]${goName(type)}`;
  return `[]${type.is === 'scalar' ? type.scalar : 'map'}`;
}
type ListElement = Parameters<typeof resolve>[0];

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Sets a member whatever its name: `__proto__` of a label map is a key like any other. */
export function setOwn(target: Record<string, unknown>, key: string, value: unknown): void {
  if (key === '__proto__')
    Object.defineProperty(target, key, { value, enumerable: true, configurable: true, writable: true });
  else target[key] = value;
}
