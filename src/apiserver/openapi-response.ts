/** Which OpenAPI document a path and an Accept header ask for. */
import { apiError } from '../errors/api.ts';
import { type ApiResponse, textResponse } from './http/response.ts';
import {
  openapiV2Json,
  openapiV2Protobuf,
  openapiV2ProtobufContentType,
  openapiV2ProtobufTypes,
  openapiV3,
  openapiV3Index,
} from './openapi/index.ts';
import { acceptsJson, parseAccept } from './rest/formats.ts';

/** The document of an OpenAPI path; undefined for every other path. */
export function openapiResponse(path: string, accept: string | undefined): ApiResponse | undefined {
  if (path === '/openapi/v2') return v2Response(accept);
  const v3 = /^\/openapi\/v3(?:\/(.*))?$/.exec(path);
  if (!v3) return undefined;
  const below = (v3[1] ?? '').replace(/\/+$/, '');
  if (below === '') return textResponse(200, openapiV3Index());
  const [root, ...rest] = below.split('/');
  const [group, version] = root === 'api' ? ['', rest[0]] : [rest[0] ?? '', rest[1]];
  const document = version === undefined ? undefined : openapiV3(group, version);
  return document === undefined ? undefined : textResponse(200, document);
}

function v2Response(accept: string | undefined): ApiResponse {
  for (const { type } of parseAccept(accept)) {
    if ((openapiV2ProtobufTypes as readonly string[]).includes(type))
      return {
        status: 200,
        headers: { 'content-type': openapiV2ProtobufContentType },
        body: openapiV2Protobuf(),
      };
    if (acceptsJson(type)) return textResponse(200, openapiV2Json());
  }
  throw apiError('API_NOT_ACCEPTABLE', { accept: accept ?? '', offered: 'application/json' });
}
