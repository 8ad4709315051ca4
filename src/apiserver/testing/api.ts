/** An API server without sockets, for unit tests: store in a temporary directory, requests as calls. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SqliteStore } from '../../store/index.ts';
import type { User } from '../auth/types.ts';
import { Core } from '../core.ts';
import { createHandler } from '../handler.ts';
import type { ApiResponse, StreamSink } from '../http/response.ts';
import { bootstrap, keepBootstrapped } from '../lifecycle/bootstrap.ts';
import { failureStatus } from '../status.ts';

export const ADMIN: User = { name: 'admin', groups: ['system:masters', 'system:authenticated'] };
export const nodeUser = (name: string): User => ({
  name: `system:node:${name}`,
  groups: ['system:nodes', 'system:authenticated'],
});

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | readonly string[]>>;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of every shape
  readonly body: any;
}

export interface CallOptions {
  readonly user?: User;
  readonly headers?: Record<string, string>;
}

export interface TestWatch {
  /** Every event so far, parsed. */
  // biome-ignore lint/suspicious/noExplicitAny: tests look into events of every shape
  readonly events: any[];
  readonly ended: () => boolean;
  close(): void;
}

export interface TestApi extends AsyncDisposable {
  readonly store: SqliteStore;
  call(method: string, path: string, body?: unknown, options?: CallOptions): Promise<Answer>;
  watch(path: string, options?: CallOptions): Promise<TestWatch>;
  /** Moves the clock of the server. */
  advance(ms: number): void;
}

export async function testApi(serviceCidrs: readonly string[] = ['10.96.0.0/16']): Promise<TestApi> {
  const directory = mkdtempSync(join(tmpdir(), 'portolan-api-'));
  const store = SqliteStore.open(join(directory, 'store.db'));
  let offsetMs = 0;
  const clock = () => new Date(Date.UTC(2026, 0, 2, 3, 4, 5) + offsetMs);
  const core = new Core({ store, clock, log: () => {} });
  const handler = createHandler({
    registry: core.registry,
    sourceOf: (resource) => core.sourceOf(resource),
    address: '127.0.0.1:6443',
    isReady: () => true,
    bookmarkIntervalMs: 20,
  });
  const kubernetesIps = serviceCidrs.map((cidr) => cidr.replace(/0?\/\d+$/, '1'));
  const cluster = { serviceCidrs, kubernetesIps, endpoints: [{ address: '192.0.2.1', port: 6443 }] };
  await bootstrap(core.registry, cluster);
  core.start(3_600_000);
  const keeper = keepBootstrapped(core.registry, cluster, () => {});
  const closing = new AbortController();

  async function respond(
    method: string,
    path: string,
    body: unknown,
    options: CallOptions,
    signal: AbortSignal,
  ): Promise<ApiResponse> {
    const url = new URL(path, 'https://server');
    const text = body === undefined ? '' : typeof body === 'string' ? body : JSON.stringify(body);
    try {
      return await handler({
        method,
        path: url.pathname,
        query: url.searchParams,
        headers: { 'user-agent': 'test/1', 'content-type': 'application/json', ...options.headers },
        body: Buffer.from(text),
        user: options.user ?? ADMIN,
        signal,
      });
    } catch (error) {
      const status = failureStatus(error);
      return { status: status.code, body: JSON.stringify(status) };
    }
  }

  return {
    store,
    advance: (ms) => {
      offsetMs += ms;
    },
    async call(method, path, body, options = {}) {
      const response = await respond(method, path, body, options, closing.signal);
      const text =
        typeof response.body === 'string'
          ? response.body
          : response.body instanceof Uint8Array
            ? Buffer.from(response.body).toString()
            : [...(response.body ?? [])].join('');
      let value: unknown = text;
      try {
        value = JSON.parse(text);
      } catch {
        // Plain text.
      }
      return { status: response.status, headers: response.headers ?? {}, body: value };
    },
    async watch(path, options = {}) {
      const stop = new AbortController();
      const signal = AbortSignal.any([stop.signal, closing.signal]);
      const response = await respond('GET', path, undefined, options, signal);
      const events: unknown[] = [];
      let ended = false;
      const sink: StreamSink = {
        signal,
        write: (text) => {
          events.push(JSON.parse(String(text)));
          return true;
        },
        // The client is still there: it reads the rest in its own time.
        end: () => {
          ended = true;
        },
      };
      if (!response.stream) events.push(JSON.parse(String(response.body)));
      else await response.stream(sink);
      return { events, ended: () => ended, close: () => stop.abort() };
    },
    async [Symbol.asyncDispose]() {
      closing.abort();
      await keeper.close();
      await core.close();
      store.close();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
