/** Typed verbs of the Kubernetes API over one {@link Transport}. */

import { clientError } from '../errors/client.ts';
import { isNetError } from '../errors/net-error.ts';
import type { KubeObject } from '../model/kubernetes.ts';
import { Backoff, sleep } from './backoff.ts';
import type { ClusterAccess } from './kubeconfig.ts';
import { apiVersionOf, collectionPath, type ObjectName, objectPath, type Resource } from './resources.ts';
import { statusObjectError, transportError } from './status.ts';
import { Transport, type TransportRequest, told } from './transport.ts';
import { LineSplitter, parseWatchLine, type WatchEvent } from './watch-stream.ts';

/** Options of every call. */
export interface CallOptions {
  /** Cancels the call, which then fails with CLIENT_CLOSED. */
  signal?: AbortSignal | undefined;
  /** Longest wait for one answer, 30 s by default. */
  timeoutMs?: number;
  /**
   * How long to repeat a call that failed for want of a connection or because of overload, 5000 ms by default,
   * 0 for not at all. What may have reached the server is repeated only when that is harmless (GET).
   */
  retryForMs?: number;
}

/** Options of a write. */
export interface WriteOptions extends CallOptions {
  /** Name under which managedFields record the change, `portolan` by default. */
  fieldManager?: string;
  dryRun?: boolean;
}

/** Options of a list. */
export interface ListOptions extends CallOptions {
  /** All namespaces without it. */
  namespace?: string | undefined;
  labelSelector?: string | undefined;
  fieldSelector?: string | undefined;
  limit?: number;
  continue?: string | undefined;
  resourceVersion?: string | undefined;
  resourceVersionMatch?: 'Exact' | 'NotOlderThan';
}

/** One page of a list; items lack apiVersion and kind on a real API server, here they are filled in. */
export interface ObjectList<T> {
  items: T[];
  metadata: { resourceVersion: string; continue?: string; remainingItemCount?: number };
}

/** Options of a patch. */
export interface PatchOptions extends WriteOptions {
  /** `merge` by default. */
  type?: 'merge' | 'json' | 'strategic' | 'apply';
  /** Only for `apply`: take over fields of other managers. */
  force?: boolean;
}

/** Options of a delete. */
export interface DeleteOptions extends CallOptions {
  propagationPolicy?: 'Orphan' | 'Background' | 'Foreground';
  gracePeriodSeconds?: number;
  preconditions?: { uid?: string; resourceVersion?: string };
}

/** Options of a watch. */
export interface WatchOptions {
  namespace?: string | undefined;
  labelSelector?: string | undefined;
  fieldSelector?: string | undefined;
  resourceVersion: string;
  /** After this the server ends the watch by itself. */
  timeoutSeconds: number;
  signal?: AbortSignal | undefined;
  /** Called once when the server has accepted the watch. */
  onOpen?: () => void;
}

const patchTypes = {
  merge: 'application/merge-patch+json',
  json: 'application/json-patch+json',
  strategic: 'application/strategic-merge-patch+json',
  apply: 'application/apply-patch+yaml',
} as const;

const defaultRetryForMs = 5_000;

/** A connection pool to one API server with the verbs of its REST API. Errors are the CLIENT_* of the catalogue. */
export class ApiClient {
  readonly #transport: Transport;

  constructor(access: ClusterAccess) {
    this.#transport = new Transport(access);
  }

  /** Base URL of the server. */
  get server(): string {
    return this.#transport.server;
  }

  /** Goes on with other credentials or another server. */
  setAccess(access: ClusterAccess): void {
    this.#transport.setAccess(access);
  }

  /** Makes all connections anew, because those there are may lead nowhere. Calls and watches go on by themselves. */
  reconnect(): void {
    this.#transport.reconnect();
  }

  /** Reads one object. CLIENT_NOT_FOUND if it is absent. */
  get<T extends KubeObject>(of: Resource<T>, named: ObjectName, options: CallOptions = {}): Promise<T> {
    return this.#json({ method: 'GET', path: objectPath(of, named) }, options);
  }

  /** One page of a collection. */
  async list<T extends KubeObject>(of: Resource<T>, options: ListOptions = {}): Promise<ObjectList<T>> {
    const query = queryOf({
      labelSelector: options.labelSelector,
      fieldSelector: options.fieldSelector,
      limit: options.limit,
      continue: options.continue,
      resourceVersion: options.resourceVersion,
      resourceVersionMatch: options.resourceVersionMatch,
    });
    const path = `${collectionPath(of, options.namespace)}${query}`;
    const list = await this.#json<ObjectList<T>>({ method: 'GET', path }, options);
    if (!Array.isArray(list.items) || typeof list.metadata?.resourceVersion !== 'string')
      throw clientError('CLIENT_BAD_RESPONSE', {
        request: told({ method: 'GET', path }),
        why: 'it is not a list with items and metadata.resourceVersion',
      });
    const apiVersion = apiVersionOf(of);
    for (const item of list.items) {
      item.apiVersion ??= apiVersion;
      item.kind ??= of.kind;
    }
    return list;
  }

  /** The whole collection, read in pages of 500. */
  async listAll<T extends KubeObject>(of: Resource<T>, options: ListOptions = {}): Promise<T[]> {
    const items: T[] = [];
    let next: string | undefined;
    do {
      const page: ObjectList<T> = await this.list(of, { ...options, limit: 500, continue: next });
      items.push(...page.items);
      next = page.metadata.continue || undefined;
    } while (next !== undefined);
    return items;
  }

  /** Creates an object; CLIENT_ALREADY_EXISTS if the name is taken. */
  create<T extends KubeObject>(of: Resource<T>, object: T, options: WriteOptions = {}): Promise<T> {
    const path = collectionPath(of, of.namespaced ? (object.metadata.namespace ?? 'default') : undefined);
    return this.#write('POST', path, object, options);
  }

  /** Replaces an object; with metadata.resourceVersion set, CLIENT_CONFLICT if it has changed since. */
  update<T extends KubeObject>(of: Resource<T>, object: T, options: WriteOptions = {}): Promise<T> {
    return this.#write('PUT', objectPath(of, object.metadata), object, options);
  }

  /** Replaces only the status. */
  updateStatus<T extends KubeObject>(of: Resource<T>, object: T, options: WriteOptions = {}): Promise<T> {
    return this.#write('PUT', objectPath(of, object.metadata, 'status'), object, options);
  }

  /** Changes an object by a patch, a merge patch unless `type` says otherwise. */
  patch<T extends KubeObject>(
    of: Resource<T>,
    named: ObjectName,
    patch: unknown,
    options: PatchOptions = {},
  ): Promise<T> {
    return this.#write('PATCH', objectPath(of, named), patch, options);
  }

  /** Changes only the status by a patch. */
  patchStatus<T extends KubeObject>(
    of: Resource<T>,
    named: ObjectName,
    patch: unknown,
    options: PatchOptions = {},
  ): Promise<T> {
    return this.#write('PATCH', objectPath(of, named, 'status'), patch, options);
  }

  /** POST to a subresource, e.g. a Binding to `pods/NAME/binding`. */
  createSubresource<Answer = unknown>(
    of: Resource<KubeObject>,
    named: ObjectName & { subresource: string },
    body: unknown,
    options: WriteOptions = {},
  ): Promise<Answer> {
    return this.#write('POST', objectPath(of, named, named.subresource), body, options);
  }

  /** Deletes an object; CLIENT_NOT_FOUND if it is absent, CLIENT_CONFLICT if a precondition fails. */
  async delete(of: Resource<KubeObject>, named: ObjectName, options: DeleteOptions = {}): Promise<void> {
    const body = {
      kind: 'DeleteOptions',
      apiVersion: 'v1',
      ...(options.propagationPolicy && { propagationPolicy: options.propagationPolicy }),
      ...(options.gracePeriodSeconds !== undefined && { gracePeriodSeconds: options.gracePeriodSeconds }),
      ...(options.preconditions && { preconditions: options.preconditions }),
    };
    await this.#json({ method: 'DELETE', path: objectPath(of, named), body: JSON.stringify(body) }, options);
  }

  /** Any other path; `body` is sent as JSON. The answer is parsed when it is JSON, else returned as text. */
  async raw(method: TransportRequest['method'], path: string, body?: unknown, options: CallOptions = {}) {
    const text = await this.#text(
      { method, path, ...(body !== undefined && { body: JSON.stringify(body) }) },
      options,
    );
    try {
      return JSON.parse(text) as unknown;
    } catch {
      return text;
    }
  }

  /**
   * Watches a collection until the server ends it (then resolves) or it fails (then rejects; CLIENT_GONE when
   * `resourceVersion` is too old). `onEvents` gets what one chunk of the connection completed, without ERRORs.
   */
  async watch<T extends KubeObject>(
    of: Resource<T>,
    options: WatchOptions,
    onEvents: (events: WatchEvent<T>[]) => void,
  ): Promise<void> {
    const query = queryOf({
      watch: 'true',
      allowWatchBookmarks: 'true',
      resourceVersion: options.resourceVersion,
      labelSelector: options.labelSelector,
      fieldSelector: options.fieldSelector,
      timeoutSeconds: options.timeoutSeconds,
    });
    const request: TransportRequest = {
      method: 'GET',
      path: `${collectionPath(of, options.namespace)}${query}`,
      signal: options.signal,
    };
    const name = `${told(request)}?watch`;
    const response = await this.#transport.stream(request);
    options.onOpen?.();
    const splitter = new LineSplitter(name);
    // The server ends a watch in time; a connection that outlives it by far is dead in some new way.
    const deadline = setTimeout(() => response.destroy(), (options.timeoutSeconds + 30) * 1000);
    const ended = Promise.withResolvers<void>();
    response.on('data', (chunk: Buffer) => {
      try {
        const events: WatchEvent<T>[] = [];
        let failure: unknown;
        for (const line of splitter.push(chunk)) {
          if (line.trim() === '') continue;
          const event = parseWatchLine(name, line);
          if (event.type === 'ERROR') {
            failure = statusObjectError(name, event.object as never);
            break;
          }
          events.push(event as WatchEvent<T>);
        }
        if (events.length > 0) onEvents(events);
        if (failure !== undefined) throw failure;
      } catch (error) {
        ended.reject(error);
        response.destroy();
      }
    });
    response.on('end', () => ended.resolve());
    response.on('close', () => ended.resolve());
    response.on('error', (cause) =>
      ended.reject(
        options.signal?.aborted
          ? clientError('CLIENT_CLOSED', { request: name })
          : transportError(this.server, name, cause),
      ),
    );
    try {
      await ended.promise;
    } finally {
      clearTimeout(deadline);
      response.destroy();
    }
  }

  /** Ends all connections; calls and watches under way fail. */
  close(): void {
    this.#transport.close();
  }

  #write<T>(
    method: 'POST' | 'PUT' | 'PATCH',
    path: string,
    body: unknown,
    options: WriteOptions & PatchOptions,
  ): Promise<T> {
    const query = queryOf({
      fieldManager: options.fieldManager ?? 'portolan',
      dryRun: options.dryRun ? 'All' : undefined,
      force: options.force ? 'true' : undefined,
    });
    const request: TransportRequest = { method, path: `${path}${query}`, body: JSON.stringify(body) };
    if (method === 'PATCH') request.contentType = patchTypes[options.type ?? 'merge'];
    return this.#json(request, options);
  }

  async #json<T>(request: TransportRequest, options: CallOptions): Promise<T> {
    const text = await this.#text(request, options);
    try {
      return JSON.parse(text) as T;
    } catch (cause) {
      throw clientError(
        'CLIENT_BAD_RESPONSE',
        { request: told(request), why: `it is not JSON: ${text.slice(0, 80)}` },
        cause,
      );
    }
  }

  async #text(request: TransportRequest, options: CallOptions): Promise<string> {
    const full: TransportRequest = { ...request, signal: options.signal };
    if (options.timeoutMs !== undefined) full.timeoutMs = options.timeoutMs;
    const until = performance.now() + (options.retryForMs ?? defaultRetryForMs);
    const backoff = new Backoff({ firstMs: 50, maxMs: 1_000 });
    for (;;) {
      try {
        return await this.#transport.text(full);
      } catch (error) {
        const waitMs = retryWaitMs(request.method, error, backoff);
        if (waitMs === undefined || performance.now() + waitMs > until) throw error;
        await sleep(waitMs, options.signal);
      }
    }
  }
}

/** How long to wait before repeating, or undefined when repeating would be wrong or useless. */
function retryWaitMs(method: string, error: unknown, backoff: Backoff): number | undefined {
  if (isNetError(error, 'CLIENT_THROTTLED')) {
    const asked = error.context['retryAfterSeconds'];
    return typeof asked === 'number' ? Math.max(asked * 1000, backoff.nextMs()) : backoff.nextMs();
  }
  if (!isNetError(error, 'CLIENT_UNREACHABLE')) return undefined;
  const cause = error.cause as NodeJS.ErrnoException | undefined;
  const nothingSent = cause?.code === 'ECONNREFUSED' || cause?.syscall === 'connect';
  return method === 'GET' || nothingSent ? backoff.nextMs() : undefined;
}

function queryOf(fields: Record<string, string | number | undefined>): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(fields))
    if (value !== undefined && value !== '') query.set(name, String(value));
  const text = query.toString();
  return text === '' ? '' : `?${text}`;
}
