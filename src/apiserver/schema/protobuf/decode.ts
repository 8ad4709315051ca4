/**
 * Request bodies of type application/vnd.kubernetes.protobuf, in which Go clients from 1.32 on send what they create
 * (`kubectl create namespace`, client-go). The answer is JSON, which these clients accept as well.
 *
 *   "k8s\0" + runtime.Unknown { typeMeta = 1 { apiVersion = 1, kind = 2 }, raw = 2 (the object's message) }
 *
 * The message becomes the JSON that the same client would have sent as JSON; everything after that is the same path.
 * Source: apimachinery runtime/serializer/protobuf; protobuf encoding specification.
 */
import { apiPatchError } from '../../../errors/api-patch.ts';
import { setOwn } from '../decode.ts';
import { findKind } from '../kinds.ts';
import { binding } from '../types/core.ts';
import { type FieldType, resolve, type ScalarType, type StructType } from '../types/field.ts';
import { deleteOptions } from '../types/meta.ts';
import {
  eviction,
  selfSubjectAccessReview,
  selfSubjectReview,
  selfSubjectRulesReview,
} from '../types/requests.ts';
import { fieldNumbers, type Numbers } from './numbers.ts';
import { type Wire, WireReader } from './wire.ts';

/** Media type of such bodies. */
export const PROTOBUF_TYPE = 'application/vnd.kubernetes.protobuf';

const magic = [0x6b, 0x38, 0x73, 0x00];

/** Kinds of requests that are not stored objects. */
const requestTypes: Readonly<Record<string, StructType>> = {
  'v1/Binding': binding,
  'v1/DeleteOptions': deleteOptions,
  'policy/v1/Eviction': eviction,
  'authorization.k8s.io/v1/SelfSubjectAccessReview': selfSubjectAccessReview,
  'authorization.k8s.io/v1/SelfSubjectRulesReview': selfSubjectRulesReview,
  'authentication.k8s.io/v1/SelfSubjectReview': selfSubjectReview,
};

type Members = Record<string, unknown>;

/** The body as JSON, with apiVersion and kind. Throws API_BODY_PROTOBUF. */
export function protobufToJson(bytes: Uint8Array): Members {
  if (magic.some((byte, i) => bytes[i] !== byte))
    throw malformed('it does not begin with "k8s" and a zero byte');
  let apiVersion = '';
  let kind = '';
  let raw: Uint8Array = new Uint8Array();
  for (const field of fieldsOf(bytes.subarray(magic.length))) {
    if (field.number === 1)
      for (const part of fieldsOf(bytesOf(field))) {
        if (part.number === 1) apiVersion = textOf(part);
        if (part.number === 2) kind = textOf(part);
      }
    if (field.number === 2) raw = bytesOf(field);
  }
  // DeleteOptions come in the version of the object's group.
  const schema = findKind(apiVersion, kind);
  if (schema?.custom) throw malformed(`${apiVersion} ${kind} has no protobuf form; send JSON or YAML`);
  const type =
    schema?.type ??
    requestTypes[`${apiVersion}/${kind}`] ??
    (kind === 'DeleteOptions' ? deleteOptions : undefined);
  if (!type) throw malformed(`no kind "${kind}" is registered for version "${apiVersion}"`);
  return { apiVersion, kind, ...readStruct(type, raw) };
}

const malformed = (reason: string) => apiPatchError('API_BODY_PROTOBUF', { reason });

function fieldsOf(bytes: Uint8Array): Wire[] {
  try {
    return [...new WireReader(bytes)];
  } catch (error) {
    throw malformed((error as Error).message);
  }
}

function bytesOf(field: Wire): Uint8Array {
  if (field.value instanceof Uint8Array) return field.value;
  throw malformed(`field ${field.number} is a number, want bytes`);
}

function numberOf(field: Wire): bigint {
  if (typeof field.value === 'bigint') return field.value;
  throw malformed(`field ${field.number} is bytes, want a number`);
}

function textOf(field: Wire): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytesOf(field));
  } catch (error) {
    if (error instanceof TypeError) throw malformed(`field ${field.number} is not UTF-8`);
    throw error;
  }
}

function readStruct(type: StructType, bytes: Uint8Array): Members {
  const result: Members = {};
  readInto(result, type, fieldNumbers.get(type.name) ?? [], bytes);
  return result;
}

/** Adds the fields of a message; unknown numbers are skipped, as newer clients may send more. */
function readInto(result: Members, type: StructType, numbers: Numbers, bytes: Uint8Array): void {
  for (const field of fieldsOf(bytes)) {
    const name = numbers[field.number];
    if (name === undefined) continue;
    if (name.startsWith('...')) {
      readInto(result, type, fieldNumbers.get(name.slice(3)) ?? [], bytesOf(field));
      continue;
    }
    const declared = type.fields.get(name);
    if (declared) addValue(result, name, resolve(declared.type), field);
  }
}

function addValue(result: Members, name: string, type: FieldType, field: Wire): void {
  if (type.is === 'list') {
    result[name] ??= [];
    (result[name] as unknown[]).push(...readItems(resolve(type.of), field));
  } else if (type.is === 'map') {
    result[name] ??= {};
    let key = '';
    let value: unknown;
    const of = resolve(type.of);
    for (const part of fieldsOf(bytesOf(field))) {
      if (part.number === 1) key = textOf(part);
      if (part.number === 2) value = readValue(of, part);
    }
    setOwn(result[name] as Members, key, value ?? emptyOf(of));
  } else {
    const value = readValue(type, field);
    if (value !== undefined) result[name] = value;
  }
}

/** Value of a map's entry whose value is the default, and so left out. */
function emptyOf(type: FieldType): unknown {
  return type.is === 'scalar' ? (type.scalar === 'quantity' ? '0' : '') : {};
}

/** Numbers may come packed, several in one field. */
function readItems(type: FieldType, field: Wire): unknown[] {
  if (type.is === 'scalar' && ['int32', 'int64'].includes(type.scalar) && field.value instanceof Uint8Array)
    return [...WireReader.packed(field.value)].map((value) => signed(value));
  return [readValue(type, field)];
}

function readValue(type: FieldType, field: Wire): unknown {
  if (type.is === 'scalar') return readScalar(type, field);
  if (type.is !== 'struct') throw malformed('a list of lists has no protobuf form');
  // FieldsV1 carries its JSON as bytes.
  if (type.fields.size === 0) return rawJson(bytesOf(field));
  return readStruct(type, bytesOf(field));
}

const signed = (value: bigint) => Number(BigInt.asIntN(64, value));

function readScalar({ scalar }: ScalarType, field: Wire): unknown {
  switch (scalar) {
    case 'string':
      return textOf(field);
    case 'int32':
    case 'int64':
      return signed(numberOf(field));
    case 'boolean':
      return numberOf(field) !== 0n;
    case 'bytes':
      return Buffer.from(bytesOf(field)).toString('base64');
    case 'quantity':
      return fieldsOf(bytesOf(field)).reduce((text, part) => (part.number === 1 ? textOf(part) : text), '0');
    case 'intOrString':
      return readIntOrString(bytesOf(field));
    case 'time':
    case 'microTime':
      return readTime(bytesOf(field));
    case 'raw':
      return rawJson(bytesOf(field));
  }
}

/** { type = 1 (0 number, 1 string), intVal = 2, strVal = 3 }. */
function readIntOrString(bytes: Uint8Array): number | string {
  let isText = false;
  let number = 0;
  let text = '';
  for (const part of fieldsOf(bytes)) {
    if (part.number === 1) isText = numberOf(part) === 1n;
    if (part.number === 2) number = signed(numberOf(part));
    if (part.number === 3) text = textOf(part);
  }
  return isText ? text : number;
}

/** { seconds = 1, nanos = 2 } since 1970; without either there is no time. */
function readTime(bytes: Uint8Array): string | undefined {
  let seconds = 0;
  let nanos = 0;
  for (const part of fieldsOf(bytes)) {
    if (part.number === 1) seconds = signed(numberOf(part));
    if (part.number === 2) nanos = signed(numberOf(part));
  }
  if (seconds === 0 && nanos === 0) return undefined;
  const date = new Date(seconds * 1000);
  if (Number.isNaN(date.getTime())) throw malformed(`time ${seconds} is out of range`);
  return `${date.toISOString().slice(0, 19)}.${String(nanos).padStart(9, '0')}Z`;
}

/** { raw = 1 }: JSON text. */
function rawJson(bytes: Uint8Array): unknown {
  for (const part of fieldsOf(bytes)) {
    if (part.number !== 1) continue;
    try {
      return JSON.parse(textOf(part));
    } catch (error) {
      if (error instanceof SyntaxError) throw malformed('raw JSON is malformed');
      throw error;
    }
  }
  return {};
}
