/**
 * Bodies of type application/vnd.kubernetes.protobuf as the JSON they stand for.
 *
 *   "k8s\0"  Unknown { 1: TypeMeta { 1: apiVersion, 2: kind }, 2: the message }
 *
 * Answers are always JSON: every client that sends protobuf takes it.
 */
import { type FieldKind, type Message, messages } from './messages.ts';
import { fieldsOf, WireError, type WireField } from './reader.ts';

export const PROTOBUF_TYPE = 'application/vnd.kubernetes.protobuf';
const MAGIC = Buffer.from('k8s\0', 'latin1');

type Json = Record<string, unknown>;

const utf8 = new TextDecoder('utf-8', { fatal: true });

function textOf(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch {
    throw new WireError('a text is not UTF-8');
  }
}

/** @throws WireError for bytes that are no such body, or hold a kind that is not known in this form */
export function decodeProtobufBody(body: Uint8Array): Json {
  if (body.length < 4 || Buffer.compare(body.subarray(0, 4), MAGIC) !== 0)
    throw new WireError('the prefix "k8s" is missing');
  let apiVersion = '';
  let kind = '';
  let raw: Uint8Array = new Uint8Array();
  for (const field of fieldsOf(body.subarray(4))) {
    if (field.wire !== 'bytes') continue;
    if (field.number === 2) raw = field.value;
    if (field.number !== 1) continue;
    for (const part of fieldsOf(field.value)) {
      if (part.wire !== 'bytes') continue;
      if (part.number === 1) apiVersion = textOf(part.value);
      if (part.number === 2) kind = textOf(part.value);
    }
  }
  const message = messages[`${apiVersion}/${kind}`];
  if (!message) throw new WireError(`kind "${kind}" of "${apiVersion}" is taken as JSON only`);
  return { apiVersion, kind, ...decodeMessage(message, raw) };
}

function decodeMessage(message: Message, bytes: Uint8Array): Json {
  const result: Json = {};
  for (const wire of fieldsOf(bytes)) {
    const field = message.get(wire.number);
    if (!field) continue;
    const value = decodeValue(field.kind, wire);
    const before = result[field.name];
    if (field.list) result[field.name] = [...((before ?? []) as unknown[]), value];
    else if (typeof field.kind === 'string' && field.kind.endsWith('Map'))
      result[field.name] = { ...((before ?? {}) as Json), ...(value as Json) };
    else if (value !== undefined) result[field.name] = value;
  }
  return result;
}

function decodeValue(kind: FieldKind, wire: WireField): unknown {
  if (kind === 'int' || kind === 'bool') {
    if (wire.wire !== 'varint') throw new WireError(`field ${wire.number} should be a number`);
    return kind === 'bool' ? wire.value !== 0n : Number(BigInt.asIntN(64, wire.value));
  }
  if (wire.wire !== 'bytes') throw new WireError(`field ${wire.number} should have a length`);
  const bytes = wire.value;
  if (typeof kind === 'object') return decodeMessage(kind.message(), bytes);
  switch (kind) {
    case 'string':
      return textOf(bytes);
    case 'bytes':
      return Buffer.from(bytes).toString('base64');
    case 'time':
    case 'microTime':
      return decodeTime(bytes, kind);
    case 'intOrString':
      return decodeIntOrString(bytes);
    case 'quantity':
      return decodeQuantity(bytes);
    default:
      return decodeMapEntry(bytes, kind);
  }
}

/** Seconds and nanoseconds; an empty message is the zero time, which JSON leaves out. */
function decodeTime(bytes: Uint8Array, kind: 'time' | 'microTime'): string | undefined {
  let seconds = 0n;
  let nanos = 0n;
  for (const part of fieldsOf(bytes)) {
    if (part.wire !== 'varint') continue;
    if (part.number === 1) seconds = BigInt.asIntN(64, part.value);
    if (part.number === 2) nanos = part.value;
  }
  if (bytes.length === 0 || seconds <= -62135596800n) return undefined;
  const whole = new Date(Number(seconds) * 1000);
  if (Number.isNaN(whole.getTime())) throw new WireError('a time is out of range');
  const text = whole.toISOString().slice(0, 19);
  return kind === 'time' ? `${text}Z` : `${text}.${String(nanos / 1000n).padStart(6, '0')}Z`;
}

function decodeIntOrString(bytes: Uint8Array): number | string {
  let isString = false;
  let number = 0;
  let text = '';
  for (const part of fieldsOf(bytes)) {
    if (part.number === 1 && part.wire === 'varint') isString = part.value === 1n;
    if (part.number === 2 && part.wire === 'varint') number = Number(BigInt.asIntN(64, part.value));
    if (part.number === 3 && part.wire === 'bytes') text = textOf(part.value);
  }
  return isString ? text : number;
}

function decodeQuantity(bytes: Uint8Array): string {
  for (const part of fieldsOf(bytes))
    if (part.number === 1 && part.wire === 'bytes') return textOf(part.value);
  return '0';
}

/** A map is a list of entries `{ 1: key, 2: value }`. */
function decodeMapEntry(bytes: Uint8Array, kind: 'stringMap' | 'bytesMap' | 'quantityMap'): Json {
  let key = '';
  let value: Uint8Array = new Uint8Array();
  for (const part of fieldsOf(bytes)) {
    if (part.wire !== 'bytes') continue;
    if (part.number === 1) key = textOf(part.value);
    if (part.number === 2) value = part.value;
  }
  const decoded =
    kind === 'stringMap'
      ? textOf(value)
      : kind === 'bytesMap'
        ? Buffer.from(value).toString('base64')
        : decodeQuantity(value);
  // As an own property, whatever the key is called.
  return Object.fromEntries([[key, decoded]]);
}
