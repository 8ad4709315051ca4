/** Bodies of requests: their size, their media type, JSON or YAML. */
import type { IncomingMessage } from 'node:http';
import { parse as parseYaml } from 'yaml';
import { apiError } from '../../errors/api.ts';
import { PROTOBUF_TYPE, protobufToJson } from '../schema/index.ts';
import { badRequest } from '../status.ts';

/** Kubernetes takes 3 MiB (apiserver --max-request-body-bytes is etcd's 1.5 MiB, doubled for patches). */
export const MAX_BODY_BYTES = 3 << 20;

/** @throws API_BODY_TOO_LARGE */
export async function readBody(message: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of message) {
    size += (chunk as Buffer).length;
    if (size > MAX_BODY_BYTES) throw apiError('API_BODY_TOO_LARGE', { limitBytes: MAX_BODY_BYTES });
    chunks.push(chunk as Buffer);
  }
  return Buffer.concat(chunks);
}

export const mediaTypeOf = (header: string | undefined) =>
  (header ?? '').split(';', 1)[0]!.trim().toLowerCase();

const YAML_TYPES = new Set([
  'application/yaml',
  'application/apply-patch+yaml',
  'application/x-yaml',
  'text/yaml',
]);
const JSON_TYPES = new Set(['', 'application/json', '*/*']);

export interface ParsedBody {
  readonly json: unknown;
  /** The JSON text, when it was JSON. */
  readonly text?: string;
}

/** What a body says, whether as JSON, YAML or protobuf. @throws API_UNSUPPORTED_MEDIA_TYPE, API_BAD_REQUEST, API_BODY_PROTOBUF */
export function parseBody(body: Buffer, contentType: string | undefined): ParsedBody {
  const type = mediaTypeOf(contentType);
  if (type === PROTOBUF_TYPE) return { json: protobufToJson(body) };
  const yaml = YAML_TYPES.has(type);
  if (!JSON_TYPES.has(type) && !yaml)
    throw apiError('API_UNSUPPORTED_MEDIA_TYPE', {
      sent: type,
      accepted: `application/json, application/yaml, ${PROTOBUF_TYPE}`,
    });
  const text = body.toString('utf8');
  return { json: parseText(text, yaml), ...(!yaml && { text }) };
}

/** The same for bodies whose text nobody needs. */
export const parseObjectBody = (body: Buffer, contentType: string | undefined): unknown =>
  parseBody(body, contentType).json;

/** @throws API_BAD_REQUEST */
export function parseText(text: string, yaml: boolean): unknown {
  try {
    if (!yaml) return JSON.parse(text) as unknown;
    return parseYaml(text, { schema: 'core', version: '1.2', maxAliasCount: 100 }) as unknown;
  } catch (error) {
    const detail = error instanceof Error ? error.message.split('\n', 1)[0] : String(error);
    throw badRequest(`couldn't get version/kind; ${yaml ? 'yaml' : 'json'} parse error: ${detail}`);
  }
}
