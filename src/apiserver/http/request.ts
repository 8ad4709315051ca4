/** What a request asks for: its path and query taken apart, before anything is looked up. */
import type { IncomingHttpHeaders } from 'node:http';
import type { User } from '../auth/types.ts';
import { badRequest } from '../status.ts';

export interface ResourcePath {
  readonly group: string;
  readonly version: string;
  /** Plural as in the URL. */
  readonly resource: string;
  readonly namespace?: string;
  readonly name?: string;
  readonly subresource?: string;
  /** What follows the subresource, for proxies. */
  readonly rest?: string;
}

export interface ApiRequest {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
  readonly user: User;
  /** Aborts when the client went away or the server stops. */
  readonly signal: AbortSignal;
}

/** Below `namespaces/NAME` these are subresources of the namespace; any other word is a resource inside it. */
const NAMESPACE_SUBRESOURCES = new Set(['status', 'finalize']);

/** The parts of `/api/v1/...` and `/apis/GROUP/VERSION/...`; undefined for every other path. */
export function parseResourcePath(path: string): ResourcePath | undefined {
  const segments = path.split('/').filter((segment) => segment !== '');
  const core = segments[0] === 'api';
  if (!core && segments[0] !== 'apis') return undefined;
  const head = core ? 2 : 3;
  if (segments.length <= head) return undefined;
  const [group, version] = core ? ['', segments[1]!] : [segments[1]!, segments[2]!];
  const rest = segments.slice(head).map(decode);
  const inside = rest[0] === 'namespaces' && rest.length >= 3 && !NAMESPACE_SUBRESOURCES.has(rest[2]!);
  const [resource, name, subresource, ...more] = inside ? rest.slice(2) : rest;
  return {
    group,
    version,
    resource: resource!,
    ...(inside && { namespace: rest[1]! }),
    ...(name !== undefined && { name }),
    ...(subresource !== undefined && { subresource }),
    ...(more.length > 0 && { rest: more.join('/') }),
  };
}

function decode(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    throw badRequest(`the path segment "${segment}" is not valid percent encoding`);
  }
}

/** A boolean query parameter; `?watch` alone means true, as in Kubernetes. */
export function flag(query: URLSearchParams, name: string): boolean {
  const value = query.get(name);
  return value !== null && value !== 'false' && value !== '0';
}

/** A query parameter that has to be a whole number, if it is there. */
export function wholeNumber(query: URLSearchParams, name: string): number | undefined {
  const value = query.get(name);
  if (value === null || value === '') return undefined;
  if (!/^\d{1,15}$/.test(value))
    throw badRequest(`${name}: Invalid value: "${value}": must be a whole number`);
  return Number(value);
}
