/**
 * A local copy of one collection, kept by list and watch:
 *
 *     list (pages of 500) ──► watch from the list's revision ──► watch ended: watch again from the last revision
 *          ▲                                                      410 Gone:    list again
 *          └───────────────────────────────────────────────────── other error: back off, watch again
 *
 * Objects are projected to what the consumer needs before they are kept, page by page, so that the copy of
 * 10,000 EndpointSlices costs what the projection costs. An error never takes items away: data that is minutes
 * old is better than none, and a new list is swapped in only when it is complete.
 */
import { isNetError } from '../errors/net-error.ts';
import type { KubeObject } from '../model/kubernetes.ts';
import type { ApiClient } from './api-client.ts';
import { Backoff, sleep } from './backoff.ts';
import { keyOf, type Resource } from './resources.ts';
import type { WatchEvent } from './watch-stream.ts';

/** Where a reflector tells what it does; pino loggers fit. */
export interface Log {
  debug(context: object, message: string): void;
  info(context: object, message: string): void;
  warn(context: object, message: string): void;
  error(context: object, message: string): void;
}

/** Options of a {@link Reflector}. */
export interface ReflectorOptions<T extends KubeObject, P> {
  client: ApiClient;
  resource: Resource<T>;
  /** All namespaces without it. */
  namespace?: string;
  labelSelector?: string;
  fieldSelector?: string;
  /** What to keep of an object; the object itself by default. `undefined` keeps nothing of it. */
  project?: (object: T) => P | undefined;
  /** Ends the reflector. */
  signal?: AbortSignal;
  log?: Log;
  /** The server may not have this kind: that counts as an empty list until it does. */
  mayBeAbsent?: boolean;
  /** Objects a page, 500 by default. */
  pageSize?: number;
  /** First and longest wait after a failure, 50 and 5000 ms by default. */
  backoff?: { firstMs?: number; maxMs?: number };
  random?: () => number;
}

/** Called with the keys that were added, changed or deleted since the last call. */
export type OnChange = (keys: ReadonlySet<string>) => void;

/** A watch ends itself after 5 to 10 minutes, as client-go's, so that watches spread over servers. */
const watchSecondsMin = 300;
/** How often a kind is looked for that the server does not have. */
const ABSENT_MS = 30_000;

export class Reflector<T extends KubeObject, P = T> {
  /** Resolves when the first list is complete, rejects never; stays pending while the server is away. */
  readonly synced: Promise<void>;
  readonly #options: ReflectorOptions<T, P>;
  readonly #project: (object: T) => P | undefined;
  readonly #random: () => number;
  readonly #items = new Map<string, P>();
  /** resourceVersion of each kept item: tells what a relist changed without comparing objects. */
  readonly #versions = new Map<string, string>();
  readonly #listeners: OnChange[] = [];
  readonly #dirty = new Set<string>();
  readonly #markSynced: () => void;
  #flushAsked = false;
  #hasSynced = false;
  #started = false;
  #revision: string | undefined;
  #lastError: Error | undefined;
  #connected = false;

  constructor(options: ReflectorOptions<T, P>) {
    this.#options = options;
    this.#project = options.project ?? ((object) => object as unknown as P);
    this.#random = options.random ?? Math.random;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.synced = promise;
    this.#markSynced = resolve;
  }

  /** The copy: `namespace/name` (or `name`) to projected object. The same map for the life of the reflector. */
  get items(): ReadonlyMap<string, P> {
    return this.#items;
  }

  /** Whether the first list is complete. */
  get hasSynced(): boolean {
    return this.#hasSynced;
  }

  /** Why the copy may be out of date; undefined while the watch is open. */
  get lastError(): Error | undefined {
    return this.#lastError;
  }

  /** Whether a watch is open now. */
  get connected(): boolean {
    return this.#connected;
  }

  /** Last revision seen. */
  get resourceVersion(): string | undefined {
    return this.#revision;
  }

  /**
   * Registers a listener. Keys are collected over everything that arrived in one go, and told in the microtask
   * after it; nothing is told before the first list is complete.
   */
  onChange(listener: OnChange): void {
    this.#listeners.push(listener);
  }

  /** Begins to list and watch in the background until the signal. Calling it twice does nothing. */
  start(): void {
    if (this.#started) return;
    this.#started = true;
    void this.#run();
  }

  async #run(): Promise<void> {
    const { signal, log, resource } = this.#options;
    const backoff = new Backoff({ ...this.#options.backoff, random: this.#random });
    while (!signal?.aborted) {
      try {
        if (this.#revision === undefined) await this.#list();
        const openedAt = performance.now();
        await this.#watch(backoff).finally(() => {
          this.#connected = false;
        });
        // A server that ends each watch at once must not be asked in a tight loop.
        if (performance.now() - openedAt < 1000) await sleep(backoff.nextMs(), signal);
      } catch (error) {
        if (signal?.aborted) break;
        this.#lastError = error as Error;
        if (isNetError(error, 'CLIENT_GONE')) {
          log?.debug({ resource: resource.plural, revision: this.#revision }, 'revision is gone, list again');
          this.#revision = undefined;
          // The first relist is due at once; only a server that answers 410 again and again is left in peace.
          if (backoff.failures === 0) {
            backoff.nextMs();
            continue;
          }
        } else if (isNetError(error, 'CLIENT_NOT_FOUND') && this.#options.mayBeAbsent) {
          // What was there once stays: a server that forgot a kind for a moment must not open what it closed.
          this.#markAsSynced();
          await sleep(ABSENT_MS, signal);
          continue;
        } else if (backoff.failures === 0) {
          log?.warn({ resource: resource.plural, error: (error as Error).message }, 'watch failed, retrying');
        }
        await sleep(backoff.nextMs(), signal);
      }
    }
  }

  async #list(): Promise<void> {
    const { client, resource, namespace, labelSelector, fieldSelector, signal } = this.#options;
    const seen = new Map<string, { version: string; item: P }>();
    let next: string | undefined;
    let revision = '';
    do {
      const page = await client.list(resource, {
        namespace,
        labelSelector,
        fieldSelector,
        limit: this.#options.pageSize ?? 500,
        continue: next,
        signal,
        retryForMs: 0,
      });
      for (const object of page.items) {
        const key = keyOf(object);
        const version = object.metadata.resourceVersion ?? '';
        const item = this.#versions.get(key) === version ? this.#items.get(key) : this.#keep(object);
        if (item !== undefined) seen.set(key, { version, item });
      }
      revision = page.metadata.resourceVersion;
      next = page.metadata.continue || undefined;
    } while (next !== undefined);
    for (const key of this.#items.keys())
      if (!seen.has(key)) {
        this.#items.delete(key);
        this.#versions.delete(key);
        this.#dirty.add(key);
      }
    for (const [key, { version, item }] of seen) {
      if (this.#versions.get(key) === version && this.#items.get(key) === item) continue;
      this.#items.set(key, item);
      this.#versions.set(key, version);
      this.#dirty.add(key);
    }
    this.#revision = revision;
    this.#markAsSynced();
  }

  #markAsSynced(): void {
    this.#hasSynced = true;
    // Listeners hear of the first list before those who await `synced` go on.
    this.#askFlush();
    this.#markSynced();
  }

  async #watch(backoff: Backoff): Promise<void> {
    const { client, resource, namespace, labelSelector, fieldSelector, signal } = this.#options;
    const request = {
      namespace,
      labelSelector,
      fieldSelector,
      resourceVersion: this.#revision ?? '',
      timeoutSeconds: Math.round(watchSecondsMin * (1 + this.#random())),
      signal,
      onOpen: () => {
        this.#connected = true;
        this.#lastError = undefined;
      },
    };
    await client.watch(resource, request, (events) => {
      backoff.reset();
      for (const event of events) this.#take(event);
      this.#askFlush();
    });
  }

  #take(event: WatchEvent<T>): void {
    const { object } = event;
    const version = object.metadata.resourceVersion!;
    this.#revision = version;
    if (event.type === 'BOOKMARK') return;
    const key = keyOf(object);
    const item = event.type === 'DELETED' ? undefined : this.#keep(object);
    if (item === undefined) {
      if (!this.#items.delete(key)) return;
      this.#versions.delete(key);
    } else {
      this.#items.set(key, item);
      this.#versions.set(key, version);
    }
    this.#dirty.add(key);
  }

  /** Projects; one object that the projection cannot take must not keep all others away. */
  #keep(object: T): P | undefined {
    try {
      return this.#project(object);
    } catch (error) {
      const { resource, log } = this.#options;
      log?.error(
        { resource: resource.plural, key: keyOf(object), error: (error as Error).stack },
        'bad object',
      );
      return undefined;
    }
  }

  #askFlush(): void {
    if (this.#flushAsked || this.#dirty.size === 0) return;
    this.#flushAsked = true;
    queueMicrotask(() => {
      this.#flushAsked = false;
      const keys = new Set(this.#dirty);
      this.#dirty.clear();
      for (const listener of this.#listeners) {
        try {
          listener(keys);
        } catch (error) {
          this.#options.log?.error(
            { resource: this.#options.resource.plural, error: (error as Error).stack },
            'a listener failed',
          );
        }
      }
    });
  }
}
