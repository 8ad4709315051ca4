/** Bodies of requests: their size, their media type, JSON or YAML. */
import type { IncomingMessage } from 'node:http';
import { parse as parseYaml } from 'yaml';
import { apiError } from '../../errors/api.ts';
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

/** The value in a body of type application/json or application/yaml. @throws API_UNSUPPORTED_MEDIA_TYPE, API_BAD_REQUEST */
export function parseObjectBody(body: Buffer, contentType: string | undefined): unknown {
  const type = mediaTypeOf(contentType);
  if (!JSON_TYPES.has(type) && !YAML_TYPES.has(type))
    throw apiError('API_UNSUPPORTED_MEDIA_TYPE', {
      sent: type,
      accepted: 'application/json, application/yaml',
    });
  return parseText(body.toString('utf8'), YAML_TYPES.has(type));
}

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
