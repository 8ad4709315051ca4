/**
 * The OpenAPI documents that the server publishes, made once from the kinds' tables:
 *
 *   /openapi/v2                     openapiV2Json(), or openapiV2Protobuf() for the types in openapiV2ProtobufTypes
 *   /openapi/v3                     openapiV3Index()
 *   /openapi/v3/api/v1?hash=..      openapiV3('', 'v1')
 *   /openapi/v3/apis/G/V?hash=..    openapiV3(G, V)
 */
import { documentedKinds } from '../schema/absent-kinds.ts';
import { encodeDocument } from './gnostic.ts';
import { apiPrefix } from './operations.ts';
import { openapiV2Document } from './v2.ts';
import { openapiV3Document, openapiV3Paths } from './v3.ts';

/** Version of the Kubernetes API that the documents describe. */
const apiVersion = 'v1.32.0';

/** What clients put into Accept when they want the protobuf form; kubectl changed its spelling at 1.27. */
export const openapiV2ProtobufTypes = [
  'application/com.github.proto-openapi.spec.v2@v1.0+protobuf',
  'application/com.github.proto-openapi.spec.v2.v1.0+protobuf',
] as const;

/**
 * The Content-Type of the protobuf form, whatever the request asked for: Go's mime parser refuses the older
 * spelling ("unexpected content after media subtype").
 */
export const openapiV2ProtobufContentType = openapiV2ProtobufTypes[1];

const made = new Map<string, unknown>();

/** Documents never change while the server runs. */
function once<T>(key: string, make: () => T): T {
  if (!made.has(key)) made.set(key, make());
  return made.get(key) as T;
}

/** The OpenAPI 2.0 document as JSON text. */
export function openapiV2Json(): string {
  return once('v2 json', () => JSON.stringify(openapiV2Document(apiVersion)));
}

/** The OpenAPI 2.0 document in gnostic's protobuf messages. */
export function openapiV2Protobuf(): Uint8Array {
  return once('v2 protobuf', () => encodeDocument(openapiV2Document(apiVersion)));
}

/** The list of OpenAPI 3.0 documents as JSON text. */
export function openapiV3Index(): string {
  return once('v3 index', () => JSON.stringify(openapiV3Paths(documentOfPath)));
}

/** The OpenAPI 3.0 document of one group and version as JSON text; undefined when nothing of it is served. */
export function openapiV3(group: string, version: string): string | undefined {
  const served = documentedKinds.filter((kind) => kind.group === group && kind.version === version);
  if (served.length === 0) return undefined;
  return once(`v3 ${group}/${version}`, () => JSON.stringify(openapiV3Document(served, apiVersion)));
}

function documentOfPath(path: string): string {
  const kind = documentedKinds.find((k) => apiPrefix(k) === `/${path}`);
  return (kind && openapiV3(kind.group, kind.version)) ?? '';
}
