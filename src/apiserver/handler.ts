/**
 * From a request to its answer: who, may they, which resource, which verb. Nothing here knows sockets, so tests call
 * `handle` directly.
 */
import { apiError } from '../errors/api.ts';
import type { KubeObject } from '../model/kubernetes.ts';
import { METRICS_TYPE } from '../reconcile/index.ts';
import { isAllowed, isPathAllowed, refusalText } from './auth/authorize.ts';
import { nodeNameOf, nodeRefusal } from './auth/node.ts';
import type { Attributes, User } from './auth/types.ts';
import { discoveryResponse, reviews, rootPaths, VERSION } from './discovery.ts';
import { parseObjectBody } from './http/body.ts';
import { type ApiRequest, flag, parseResourcePath, type ResourcePath } from './http/request.ts';
import { type ApiResponse, jsonResponse, textResponse } from './http/response.ts';
import { ApiMetrics } from './metrics.ts';
import { openapiResponse } from './openapi-response.ts';
import { MASTERS, NODES } from './pki/credentials.ts';
import { objectOf } from './registry/objects.ts';
import type { Registry } from './registry/registry.ts';
import { findResource, keyOf, type Resource } from './resources.ts';
import { objectFormat } from './rest/formats.ts';
import { listEntries } from './rest/list.ts';
import { finalizeNamespace } from './rest/namespaces.ts';
import { bindPod, evictPod, type PodLogs, podLog } from './rest/pods.ts';
import { Presenter } from './rest/present.ts';
import { reviewResponse } from './rest/reviews.ts';
import type { Source } from './rest/source.ts';
import { watchResponse } from './rest/watch.ts';
import {
  createResponse,
  deleteCollectionResponse,
  deleteResponse,
  patchResponse,
  updateResponse,
  type WriteCheck,
  type WriteContext,
} from './rest/write.ts';
import { badRequest, failureStatus } from './status.ts';
import { isStreamed } from './stream/handler.ts';
import type { IncludeObject } from './table/table.ts';

export interface HandlerOptions {
  readonly registry: Registry;
  readonly sourceOf: (resource: Resource) => Source;
  /** `host:port` under which clients reach the server. */
  readonly address: string;
  /** False until the server has its namespaces and services, and when it stops. */
  readonly isReady: () => boolean;
  readonly podLogs?: PodLogs;
  readonly bookmarkIntervalMs?: number;
}

export type Handler = (request: ApiRequest) => Promise<ApiResponse>;

const VERBS: Readonly<Record<string, string>> = { POST: 'create', PUT: 'update', PATCH: 'patch' };

/** The verb of RBAC for a request. @throws API_METHOD_NOT_ALLOWED */
function verbOf(request: ApiRequest, path: ResourcePath): string {
  const named = path.name !== undefined;
  switch (request.method) {
    case 'GET':
    case 'HEAD':
      if (flag(request.query, 'watch')) return 'watch';
      return named ? 'get' : 'list';
    case 'DELETE':
      return named ? 'delete' : 'deletecollection';
    default: {
      const verb = VERBS[request.method];
      if (verb === undefined) throw apiError('API_METHOD_NOT_ALLOWED', { method: request.method });
      return verb;
    }
  }
}

export function createHandler(options: HandlerOptions): Handler {
  const { registry } = options;
  const metrics = new ApiMetrics();

  async function resourceRequest(request: ApiRequest, path: ResourcePath): Promise<ApiResponse> {
    const verb = verbOf(request, path);
    const attributes: Attributes = {
      verb,
      group: path.group,
      resource: path.resource,
      subresource: path.subresource ?? '',
      namespace: path.namespace ?? '',
      name: path.name ?? '',
    };
    if (!isAllowed(request.user, attributes)) {
      if (request.user.groups.includes('system:unauthenticated')) throw apiError('API_UNAUTHORIZED', {});
      throw forbidden(attributes, refusalText(request.user, attributes));
    }
    const groupVersion = path.group === '' ? path.version : `${path.group}/${path.version}`;
    const review = reviews.find(
      (r) => r.plural === path.resource && `${r.group}/${r.version}` === groupVersion,
    );
    if (review) {
      if (verb !== 'create') throw apiError('API_METHOD_NOT_ALLOWED', { method: request.method });
      return reviewResponse(
        review,
        parseObjectBody(request.body, request.headers['content-type']),
        request.user,
      );
    }
    const resource = findResource(groupVersion, path.resource);
    if (!resource) throw apiError('API_NO_SUCH_PATH', { path: request.path });
    if (path.namespace !== undefined && !resource.schema.namespaced)
      throw apiError('API_NO_SUCH_PATH', { path: request.path });
    if (path.name !== undefined && resource.schema.namespaced && path.namespace === undefined)
      throw apiError('API_NO_SUCH_PATH', { path: request.path });
    return dispatch(request, path, resource, attributes);
  }

  function dispatch(
    request: ApiRequest,
    path: ResourcePath,
    resource: Resource,
    attributes: Attributes,
  ): Promise<ApiResponse> | ApiResponse {
    const { verb } = attributes;
    const include = (request.query.get('includeObject') || 'Metadata') as IncludeObject;
    if (include !== 'Metadata' && include !== 'Object' && include !== 'None')
      throw badRequest(`unrecognized includeObject value: "${String(include)}"`);
    const presenter = new Presenter(resource, objectFormat(request.headers.accept), include, registry.clock);
    const source = options.sourceOf(resource);
    const context: WriteContext = { registry, resource, source, path, request, presenter };
    if (resource.schema.absent !== undefined) checkAbsent(resource.schema.absent, resource, path, verb);
    if (path.subresource !== undefined && path.subresource !== 'status')
      return subresourceRequest(context, verb);
    if (path.subresource === 'status' && !resource.schema.hasStatus)
      throw apiError('API_NO_SUCH_PATH', { path: request.path });
    const served = path.subresource === 'status' ? ['get', 'patch', 'update'] : resource.verbs;
    const empty = resource.schema.absent !== undefined;
    if (!served.includes(verb) && !empty)
      throw apiError('API_METHOD_NOT_ALLOWED', {
        method: request.method,
      });
    const check = nodeCheck(request, resource, path, attributes) ?? endpointsCheck(context, verb);
    switch (verb) {
      case 'get': {
        const entry = source.get(path.namespace, path.name!);
        if (!entry)
          throw apiError('API_NOT_FOUND', {
            group: resource.schema.group,
            resource: resource.schema.plural,
            name: path.name!,
          });
        return textResponse(200, presenter.one(entry), presenter.contentType);
      }
      case 'list': {
        const { entries, meta } = listEntries(resource, source, path.namespace, request.query);
        return textResponse(200, presenter.list(entries, meta), presenter.contentType);
      }
      case 'watch': {
        const query = new URLSearchParams(request.query);
        // `GET .../name?watch` watches that one object.
        if (path.name !== undefined) query.set('fieldSelector', `metadata.name=${path.name}`);
        return watchResponse({
          resource,
          source,
          namespace: path.namespace,
          query,
          presenter,
          ...(options.bookmarkIntervalMs !== undefined && { bookmarkIntervalMs: options.bookmarkIntervalMs }),
        });
      }
      case 'create':
        return createResponse(context, check);
      case 'update':
        return updateResponse(context, check);
      case 'patch':
        return patchResponse(context, check);
      case 'delete':
        return deleteResponse(context, check);
      default:
        return deleteCollectionResponse(context);
    }
  }

  async function subresourceRequest(context: WriteContext, verb: string): Promise<ApiResponse> {
    const { resource, path, request } = context;
    const subresource = resource.subresources.find((sub) => sub.name === path.subresource);
    if (!subresource) {
      if (resource.stored.kind === 'Pod' && ['proxy', 'ephemeralcontainers'].includes(path.subresource!))
        throw apiError('API_NOT_IMPLEMENTED', { what: `pods/${path.subresource}` });
      throw apiError('API_NO_SUCH_PATH', { path: request.path });
    }
    if (!subresource.verbs.includes(verb))
      throw apiError('API_METHOD_NOT_ALLOWED', { method: request.method });
    if (isStreamed(path)) throw badRequest('Upgrade request required');
    switch (`${resource.stored.kind}/${subresource.name}`) {
      case 'Pod/binding':
        return bindPod(context);
      case 'Pod/eviction':
        return evictPod(context);
      case 'Pod/log':
        return podLog(context, options.podLogs);
      default:
        return finalizeNamespace(context);
    }
  }

  /** What a node's request must still pass once the object is known. */
  function nodeCheck(request: ApiRequest, resource: Resource, path: ResourcePath, attributes: Attributes) {
    if (!request.user.groups.includes(NODES)) return undefined;
    const node = nodeNameOf(request.user)!;
    return (object: KubeObject, gracePeriodSeconds?: number) => {
      const stored =
        path.name === undefined
          ? undefined
          : registry.store.latest(keyOf(resource, path.namespace, path.name));
      const why = nodeRefusal(node, {
        attributes,
        ...(stored ? { current: objectOf(stored) } : { incoming: object }),
        ...(gracePeriodSeconds !== undefined && { gracePeriodSeconds }),
      });
      if (why !== undefined)
        throw forbidden({ ...attributes, name: attributes.name || object.metadata.name }, why);
    };
  }

  function pathRequest(request: ApiRequest): ApiResponse {
    const { path, user, method } = request;
    if (!isPathAllowed(user, path)) throw unauthorizedPath(user, path, method);
    if (method !== 'GET' && method !== 'HEAD') throw apiError('API_METHOD_NOT_ALLOWED', { method });
    const trimmed = path.replace(/\/+$/, '');
    if (trimmed === '') return jsonResponse(200, { paths: rootPaths() });
    if (trimmed === '/version') return jsonResponse(200, VERSION);
    if (/^\/(livez|healthz|readyz)(\/|$)/.test(trimmed)) {
      const ready = !trimmed.startsWith('/readyz') || options.isReady();
      return {
        status: ready ? 200 : 500,
        headers: { 'content-type': 'text/plain; charset=utf-8' },
        body: ready ? 'ok' : 'not ready',
      };
    }
    const found =
      discoveryResponse(path, request.headers.accept, options.address) ??
      openapiResponse(path, request.headers.accept);
    if (!found) throw apiError('API_NO_SUCH_PATH', { path });
    return found;
  }

  /** For admins alone: how much happens on which kind tells about users. */
  async function metricsRequest({ user, path, method }: ApiRequest): Promise<ApiResponse> {
    if (!user.groups.includes(MASTERS)) throw unauthorizedPath(user, path, method);
    if (method !== 'GET' && method !== 'HEAD') throw apiError('API_METHOD_NOT_ALLOWED', { method });
    const state = { revision: registry.store.revision, version: VERSION.gitVersion };
    return textResponse(200, await metrics.text(state), METRICS_TYPE);
  }

  /** Counts the request by what it asked for, under the names of the API only: paths are anybody's to invent. */
  async function counted(request: ApiRequest, path: ResourcePath): Promise<ApiResponse> {
    const began = performance.now();
    let code = 500;
    let verb = 'other';
    let known = 'other';
    try {
      const groupVersion = path.group === '' ? path.version : `${path.group}/${path.version}`;
      known = findResource(groupVersion, path.resource)?.schema.plural ?? known;
      verb = verbOf(request, path);
      const answer = await resourceRequest(request, path);
      code = answer.status;
      return verb === 'watch' ? metrics.watch(known, answer) : answer;
    } catch (error) {
      code = failureStatus(error).code;
      throw error;
    } finally {
      metrics.request(verb, known, code, (performance.now() - began) / 1000);
    }
  }

  return async (request) => {
    const path = parseResourcePath(request.path);
    if (path) return counted(request, path);
    return /^\/metrics\/*$/.test(request.path) ? metricsRequest(request) : pathRequest(request);
  };
}

/**
 * Endpoints that the cluster computes from EndpointSlices are read only; those that somebody wrote are not.
 * @throws API_METHOD_NOT_ALLOWED, and the check API_ALREADY_EXISTS
 */
function endpointsCheck(context: WriteContext, verb: string): WriteCheck | undefined {
  const { registry, resource, source, path, request } = context;
  if (resource.schema.kind !== 'Endpoints') return undefined;
  const isComputed = (name: string) => {
    const key = keyOf(resource, path.namespace, name);
    // One that is just being deleted is in the store still, and is the latest no more.
    const written = registry.store.latest(key) ?? registry.store.get(key);
    return !written && source.get(path.namespace, name) !== undefined;
  };
  if (verb === 'create')
    return ({ metadata: { name } }) => {
      if (name && isComputed(name))
        throw apiError('API_ALREADY_EXISTS', { group: '', resource: 'endpoints', name });
    };
  if ((verb === 'update' || verb === 'patch' || verb === 'delete') && isComputed(path.name!))
    throw apiError('API_METHOD_NOT_ALLOWED', {
      method: request.method,
      why: 'these Endpoints are computed from EndpointSlices of this Service; write those instead',
    });
  return undefined;
}

/**
 * Of an absent kind there is nothing to find, and nothing that could not be deleted; what would make or change an
 * object learns why not. @throws API_KIND_NOT_SERVED, API_NOT_FOUND
 */
function checkAbsent(why: string, { schema }: Resource, path: ResourcePath, verb: string): void {
  if (verb === 'create' || verb === 'update' || verb === 'patch')
    throw apiError('API_KIND_NOT_SERVED', { why });
  if (path.subresource !== undefined)
    throw apiError('API_NOT_FOUND', { group: schema.group, resource: schema.plural, name: path.name ?? '' });
}

function forbidden(a: Attributes, why: string) {
  return apiError('API_FORBIDDEN', { group: a.group, resource: a.resource, name: a.name, why });
}

function unauthorizedPath(user: User, path: string, method: string) {
  if (user.groups.includes('system:unauthenticated')) return apiError('API_UNAUTHORIZED', {});
  return apiError('API_FORBIDDEN_PATH', { path, user: user.name, verb: method.toLowerCase() });
}
