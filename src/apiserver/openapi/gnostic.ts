/**
 * OpenAPI 2.0 as the protobuf messages of gnostic, the only form in which kubectl up to 1.26 asks for it.
 * Each message is a table of JSON member -> field number and form. What JSON spells as an object with free keys is
 * a list of (name, value) pairs here, and members that begin with `x-` go into `vendor_extension` as YAML text,
 * of which JSON is a part.
 * Source: google/gnostic openapiv2/OpenAPIv2.proto.
 */
import { isObject } from '../schema/decode.ts';
import { ProtobufWriter } from './protobuf.ts';

type Encode = (writer: ProtobufWriter, number: number, value: unknown) => void;
type Member = readonly [number, Encode];

interface Message {
  readonly members: Readonly<Record<string, Member>>;
  /** Field number of vendor_extension. */
  readonly extensions?: number;
  /** Free keys: field number of the repeated (name, value) pairs, and how the value is encoded in a pair. */
  readonly pairs?: Member;
}

const text: Encode = (writer, number, value) => writer.string(number, String(value));
const flag: Encode = (writer, number, value) => writer.boolean(number, value === true);
const texts: Encode = (writer, number, value) => {
  for (const item of value as string[]) writer.bytes(number, new TextEncoder().encode(item));
};

const sub =
  (message: () => Message): Encode =>
  (writer, number, value) =>
    writer.bytes(number, encode(message(), value));
/** Chooses the message by what the value is: a oneof. */
const oneOf =
  (choose: (value: unknown) => readonly [number, () => Message]): Encode =>
  (writer, number, value) => {
    const [branch, message] = choose(value);
    const inner = new ProtobufWriter();
    inner.bytes(branch, encode(message(), value));
    writer.bytes(number, inner.finish());
  };

/** Message Any: field 2 is YAML. */
const any: Encode = (writer, number, value) => {
  const inner = new ProtobufWriter();
  inner.string(2, `${JSON.stringify(value)}\n`);
  writer.bytes(number, inner.finish());
};

function encode(message: Message, json: unknown): Uint8Array {
  const writer = new ProtobufWriter();
  for (const [name, value] of Object.entries(isObject(json) ? json : {})) {
    if (value === undefined) continue;
    const member = message.members[name];
    if (member) member[1](writer, member[0], value);
    else if (message.extensions !== undefined && name.startsWith('x-'))
      pair(writer, message.extensions, name, value, any);
    else if (message.pairs) pair(writer, message.pairs[0], name, value, message.pairs[1]);
  }
  return writer.finish();
}

function pair(writer: ProtobufWriter, number: number, name: string, value: unknown, how: Encode): void {
  const inner = new ProtobufWriter();
  inner.string(1, name);
  how(inner, 2, value);
  writer.bytes(number, inner.finish());
}

const schemas: Message = { members: {}, pairs: [1, sub(() => schema)] };
const reference: Message = { members: { $ref: [1, text], description: [2, text] } };

/** TypeItem and ItemsItem hold a list even for one. */
const typeItem: Encode = (writer, number, value) => {
  const inner = new ProtobufWriter();
  texts(inner, 1, [value]);
  writer.bytes(number, inner.finish());
};
const itemsItem: Encode = (writer, number, value) => {
  const inner = new ProtobufWriter();
  inner.bytes(1, encode(schema, value));
  writer.bytes(number, inner.finish());
};

const schema: Message = {
  members: {
    $ref: [1, text],
    format: [2, text],
    title: [3, text],
    description: [4, text],
    default: [5, any],
    uniqueItems: [16, flag],
    required: [19, texts],
    additionalProperties: [21, itemsItem],
    type: [22, typeItem],
    items: [23, itemsItem],
    properties: [25, sub(() => schemas)],
  },
  extensions: 31,
};

const bodyParameter: Message = {
  members: {
    description: [1, text],
    name: [2, text],
    in: [3, text],
    required: [4, flag],
    schema: [5, sub(() => schema)],
  },
  extensions: 6,
};
const queryParameter: Message = {
  members: {
    required: [1, flag],
    in: [2, text],
    description: [3, text],
    name: [4, text],
    type: [6, text],
    uniqueItems: [20, flag],
  },
  extensions: 23,
};
const pathParameter: Message = {
  members: {
    required: [1, flag],
    in: [2, text],
    description: [3, text],
    name: [4, text],
    type: [5, text],
    uniqueItems: [19, flag],
  },
  extensions: 22,
};

/** ParametersItem{parameter=1 -> Parameter{body=1 | nonBody=2 -> {query=3 | path=4}}}. */
const parameters: Encode = (writer, number, value) => {
  for (const parameter of value as Record<string, unknown>[]) {
    const where = parameter['in'];
    let bytes: Uint8Array;
    if (where === 'body') bytes = wrap(1, encode(bodyParameter, parameter));
    else if (where === 'query') bytes = wrap(2, wrap(3, encode(queryParameter, parameter)));
    else bytes = wrap(2, wrap(4, encode(pathParameter, parameter)));
    writer.bytes(number, wrap(1, bytes));
  }
};

function wrap(number: number, bytes: Uint8Array): Uint8Array {
  const writer = new ProtobufWriter();
  writer.bytes(number, bytes);
  return writer.finish();
}

const response: Message = {
  members: {
    description: [1, text],
    schema: [2, oneOf(() => [1, () => schema])],
  },
  extensions: 5,
};
const responses: Message = {
  members: {},
  extensions: 2,
  pairs: [
    1,
    oneOf((value) => (isObject(value) && '$ref' in value ? [2, () => reference] : [1, () => response])),
  ],
};

const operation: Message = {
  members: {
    tags: [1, texts],
    summary: [2, text],
    description: [3, text],
    operationId: [5, text],
    produces: [6, texts],
    consumes: [7, texts],
    parameters: [8, parameters],
    responses: [9, sub(() => responses)],
    schemes: [10, texts],
  },
  extensions: 13,
};
const pathItem: Message = {
  members: {
    get: [2, sub(() => operation)],
    put: [3, sub(() => operation)],
    post: [4, sub(() => operation)],
    delete: [5, sub(() => operation)],
    patch: [8, sub(() => operation)],
    parameters: [9, parameters],
  },
  extensions: 10,
};
const paths: Message = { members: {}, extensions: 1, pairs: [2, sub(() => pathItem)] };
const info: Message = {
  members: { title: [1, text], version: [2, text], description: [3, text] },
  extensions: 7,
};
const document: Message = {
  members: {
    swagger: [1, text],
    info: [2, sub(() => info)],
    schemes: [5, texts],
    consumes: [6, texts],
    produces: [7, texts],
    paths: [8, sub(() => paths)],
    definitions: [9, sub(() => schemas)],
  },
  extensions: 16,
};

/** An OpenAPI 2.0 document as the message openapi.v2.Document. */
export function encodeDocument(json: Record<string, unknown>): Uint8Array {
  return encode(document, json);
}
