/**
 * A tiny Kubernetes API in memory for tests of clients: any kind, lists in pages, watches with bookmarks, merge
 * patches, optimistic concurrency, and the failures that a test asks for (compaction, connections cut, restart).
 * It checks nothing and defaults nothing; the real server is src/apiserver.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { KubeObject } from '../../src/model/kubernetes.ts';

interface Change {
  revision: number;
  type: 'ADDED' | 'MODIFIED' | 'DELETED';
  key: string;
  object: KubeObject;
}

interface Watcher {
  collection: string;
  namespace: string | undefined;
  answer: ServerResponse;
}

type Json = Record<string, unknown>;

class Gone extends Error {
  override name = 'Expired';
}

export class MemoryApi {
  readonly objects = new Map<string, KubeObject>();
  /** Every request line, e.g. `GET /api/v1/pods?limit=500`. */
  readonly requests: string[] = [];
  /** Answer the next requests with this status instead. */
  failNext: { status: number; times: number; reason?: string } | undefined;
  /** Nothing older than this revision can be watched or continued. */
  compacted = 0;
  revision = 100;
  readonly #log: Change[] = [];
  readonly #watchers = new Set<Watcher>();
  #server: Server | undefined;
  #port = 0;

  static async start(): Promise<MemoryApi> {
    const api = new MemoryApi();
    await api.listen();
    return api;
  }

  /** Listens, on the same port as before when it was stopped. */
  async listen(): Promise<void> {
    const server = createServer((request, answer) => {
      this.#answer(request, answer).catch((error: Error) =>
        status(answer, error instanceof Gone ? 410 : 500, error.name, error.message),
      );
    });
    this.#server = server;
    await new Promise<void>((resolve) => server.listen(this.#port, '127.0.0.1', resolve));
    this.#port = (server.address() as AddressInfo).port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  get watchers(): number {
    return this.#watchers.size;
  }

  /** Cuts all connections and stops listening; objects stay. */
  async stop(): Promise<void> {
    const server = this.#server!;
    const closed = new Promise((resolve) => server.close(resolve));
    server.closeAllConnections();
    await closed;
  }

  /** Cuts all watches, as a broken connection would. */
  cutWatches(): void {
    for (const { answer } of this.#watchers) answer.destroy();
  }

  /** Ends all watches with an ERROR event of code 410. */
  expireWatches(): void {
    const status = { kind: 'Status', code: 410, reason: 'Expired', message: 'too old resource version' };
    const watchers = [...this.#watchers];
    this.#watchers.clear();
    for (const { answer } of watchers) answer.end(`${JSON.stringify({ type: 'ERROR', object: status })}\n`);
  }

  /** Sends a bookmark to all watches. */
  bookmark(): void {
    const object = { metadata: { resourceVersion: String(this.revision) } };
    for (const { answer } of this.#watchers)
      answer.write(`${JSON.stringify({ type: 'BOOKMARK', object })}\n`);
  }

  /** Writes raw bytes to all watches. */
  writeRaw(text: string): void {
    for (const { answer } of this.#watchers) answer.write(text);
  }

  /** Creates or replaces; `collection` is the path without namespace, e.g. `/api/v1/pods`. */
  put(collection: string, object: KubeObject): KubeObject {
    const key = keyIn(collection, object.metadata.namespace, object.metadata.name);
    const old = this.objects.get(key);
    this.revision++;
    const kept = structuredClone(object);
    kept.metadata.resourceVersion = String(this.revision);
    kept.metadata.uid ??= old?.metadata.uid ?? `uid-${this.revision}`;
    kept.metadata.creationTimestamp ??= new Date().toISOString();
    this.objects.set(key, kept);
    this.#change({ revision: this.revision, type: old ? 'MODIFIED' : 'ADDED', key, object: kept });
    return kept;
  }

  remove(collection: string, namespace: string | undefined, name: string): KubeObject | undefined {
    const key = keyIn(collection, namespace, name);
    const old = this.objects.get(key);
    if (!old) return undefined;
    this.objects.delete(key);
    this.revision++;
    const object = { ...old, metadata: { ...old.metadata, resourceVersion: String(this.revision) } };
    this.#change({ revision: this.revision, type: 'DELETED', key, object });
    return object;
  }

  list(collection: string, namespace?: string): KubeObject[] {
    const prefix = namespace === undefined ? `${collection}|` : `${collection}|${namespace}/`;
    return [...this.objects].filter(([key]) => key.startsWith(prefix)).map(([, object]) => object);
  }

  #change(change: Change): void {
    this.#log.push(change);
    for (const watcher of this.#watchers) this.#send(watcher, change);
  }

  #send(watcher: Watcher, change: Change): void {
    const prefix =
      watcher.namespace === undefined
        ? `${watcher.collection}|`
        : `${watcher.collection}|${watcher.namespace}/`;
    if (change.key.startsWith(prefix))
      watcher.answer.write(`${JSON.stringify({ type: change.type, object: change.object })}\n`);
  }

  async #answer(request: IncomingMessage, answer: ServerResponse): Promise<unknown> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const text = Buffer.concat(chunks).toString('utf8');
    this.requests.push(`${request.method} ${request.url}`);
    const url = new URL(request.url ?? '/', 'http://x');
    const at = locate(url.pathname);
    if (this.failNext && this.failNext.times-- > 0)
      return status(answer, this.failNext.status, this.failNext.reason ?? 'Failed', 'asked to fail');
    if (!at) return status(answer, 404, 'NotFound', `no such path ${url.pathname}`);
    const { collection, namespace, name, subresource } = at;
    if (name === undefined && request.method === 'GET')
      return url.searchParams.get('watch') === 'true'
        ? this.#watch(url, collection, namespace, answer)
        : this.#list(url, collection, namespace, answer);
    if (name === undefined && request.method === 'POST') {
      const object = JSON.parse(text) as KubeObject;
      if (namespace !== undefined) object.metadata.namespace = namespace;
      if (this.objects.has(keyIn(collection, namespace, object.metadata.name)))
        return status(answer, 409, 'AlreadyExists', `"${object.metadata.name}" already exists`);
      return json(answer, 201, this.put(collection, object));
    }
    const old = name === undefined ? undefined : this.objects.get(keyIn(collection, namespace, name));
    if (!old || name === undefined) return status(answer, 404, 'NotFound', `"${name}" not found`);
    switch (request.method) {
      case 'GET':
        return json(answer, 200, old);
      case 'DELETE':
        return json(answer, 200, this.remove(collection, namespace, name));
      case 'PATCH': {
        const patch = JSON.parse(text) as Json;
        const wanted = (patch['metadata'] as Json | undefined)?.['resourceVersion'];
        if (wanted !== undefined && wanted !== old.metadata.resourceVersion)
          return status(answer, 409, 'Conflict', 'the object has been modified');
        return json(answer, 200, this.put(collection, mergePatch(old, patch) as unknown as KubeObject));
      }
      case 'PUT': {
        const next = JSON.parse(text) as KubeObject;
        const wanted = next.metadata.resourceVersion;
        if (wanted !== undefined && wanted !== old.metadata.resourceVersion)
          return status(answer, 409, 'Conflict', 'the object has been modified');
        return json(answer, 200, this.put(collection, next));
      }
      case 'POST': {
        if (subresource !== 'binding') return status(answer, 405, 'MethodNotAllowed', 'not allowed');
        const target = (JSON.parse(text) as { target: { name: string } }).target.name;
        const pod = old as KubeObject & { spec: { nodeName?: string } };
        if (pod.spec.nodeName) return status(answer, 409, 'Conflict', 'already bound');
        this.put(collection, { ...pod, spec: { ...pod.spec, nodeName: target } } as KubeObject);
        return status(answer, 201, 'Created', '');
      }
      default:
        return status(answer, 405, 'MethodNotAllowed', 'not allowed');
    }
  }

  #list(url: URL, collection: string, namespace: string | undefined, answer: ServerResponse): void {
    const limit = Number(url.searchParams.get('limit') ?? 0);
    const token = url.searchParams.get('continue');
    if (token && Number(token.split('/', 1)[0]) < this.compacted)
      throw new Gone('the continue token is too old');
    const from = token ? Number(token.split('/')[1]) : 0;
    const all = this.list(collection, namespace);
    const items = limit > 0 ? all.slice(from, from + limit) : all;
    const more = from + items.length < all.length;
    json(answer, 200, {
      kind: 'List',
      apiVersion: 'v1',
      metadata: {
        resourceVersion: String(this.revision),
        ...(more && { continue: `${this.revision}/${from + items.length}` }),
      },
      items,
    });
  }

  #watch(url: URL, collection: string, namespace: string | undefined, answer: ServerResponse): void {
    const since = Number(url.searchParams.get('resourceVersion') ?? 0);
    if (since < this.compacted) throw new Gone(`too old resource version: ${since}`);
    answer.writeHead(200, { 'content-type': 'application/json' });
    answer.flushHeaders();
    const watcher: Watcher = { collection, namespace, answer };
    for (const change of this.#log) if (change.revision > since) this.#send(watcher, change);
    this.#watchers.add(watcher);
    answer.on('close', () => this.#watchers.delete(watcher));
  }
}

function keyIn(collection: string, namespace: string | undefined, name: string): string {
  return `${collection}|${namespace === undefined ? '' : `${namespace}/`}${name}`;
}

function locate(path: string) {
  const match =
    /^(\/api\/v1|\/apis\/[^/]+\/[^/]+)(?:\/namespaces\/([^/]+)(?=\/))?\/([^/]+)(?:\/([^/]+))?(?:\/([^/]+))?$/.exec(
      path,
    );
  if (!match) return undefined;
  const [, root, namespace, plural, name, subresource] = match;
  return { collection: `${root}/${plural}`, namespace, name, subresource };
}

function mergePatch(target: unknown, patch: unknown): Json {
  const result: Json = { ...(target as Json) };
  for (const [key, value] of Object.entries(patch as Json)) {
    if (value === null) delete result[key];
    else if (typeof value === 'object' && !Array.isArray(value))
      result[key] = mergePatch(result[key] ?? {}, value);
    else result[key] = value;
  }
  return result;
}

function json(answer: ServerResponse, code: number, body: unknown): void {
  answer.writeHead(code, { 'content-type': 'application/json' });
  answer.end(JSON.stringify(body));
}

function status(answer: ServerResponse, code: number, reason: string, message: string): void {
  json(answer, code, { kind: 'Status', apiVersion: 'v1', status: 'Failure', code, reason, message });
}
