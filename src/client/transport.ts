/**
 * HTTP/1.1 to one API server over kept-alive TLS connections. Only here are sockets touched.
 *
 * The known race of keep-alive: the server closes an idle connection at the moment when we write the next
 * request on it. Such a request saw no byte of an answer on a reused socket; it is sent again at once when
 * sending twice does no harm (everything but POST).
 */
import { readFileSync } from 'node:fs';
import * as http from 'node:http';
import * as https from 'node:https';
import { clientError } from '../errors/client.ts';
import type { ClusterAccess } from './kubeconfig.ts';
import { statusError, transportError } from './status.ts';

/** One request as the transport sends it. */
export interface TransportRequest {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** Path with query. */
  path: string;
  body?: string;
  /** Media type of the body, `application/json` by default. */
  contentType?: string;
  signal?: AbortSignal | undefined;
  /** How long to wait for the whole answer (or for the head of a stream), 30 s by default. */
  timeoutMs?: number;
}

/** A dead peer is noticed after this idle time plus ten probes of a second each (libuv's TCP_KEEPINTVL and -CNT). */
const keepAliveProbeMs = 15_000;
const defaultTimeoutMs = 30_000;
/** More calls than this at once wait for a connection. */
const maxConnections = 32;
const tokenLifeMs = 60_000;
/** Larger than any page of 500 objects that etcd's own limit of 1.5 MiB an object makes likely. */
const maxBodyBytes = 256 * 1024 * 1024;

/** Connections by one access. */
interface Pool {
  readonly base: URL;
  /** For calls, few connections that many share; and for watches, one connection each. */
  readonly calls: http.Agent;
  readonly streams: http.Agent;
}

function openPool(access: ClusterAccess): Pool {
  const base = new URL(access.server);
  const tls: https.AgentOptions = {
    ...(access.ca !== undefined && { ca: access.ca }),
    ...(access.cert !== undefined && { cert: access.cert, key: access.key }),
    ...(access.serverName !== undefined && { servername: access.serverName }),
    rejectUnauthorized: access.insecure !== true,
  };
  const agent = (options: http.AgentOptions): http.Agent => {
    const made =
      base.protocol === 'http:' ? new http.Agent(options) : new https.Agent({ ...options, ...tls });
    // All its connections are alike: Node tells them apart by certificates and keys, 3 KB of text several times a call.
    made.getName = () => 'server';
    return made;
  };
  return {
    base,
    calls: agent({
      keepAlive: true,
      keepAliveMsecs: keepAliveProbeMs,
      maxSockets: maxConnections,
      maxFreeSockets: maxConnections,
    }),
    streams: agent({ keepAlive: false }),
  };
}

/** A pool of connections to one server. */
export class Transport {
  #access: ClusterAccess;
  #pool: Pool;
  readonly #inFlight = new Set<http.ClientRequest>();
  #token: { value: string; readAt: number } | undefined;
  #closed = false;

  constructor(access: ClusterAccess) {
    this.#access = access;
    this.#pool = openPool(access);
  }

  get server(): string {
    return this.#access.server;
  }

  /** Goes on with other credentials or another server; what is under way ends on its old connection. */
  setAccess(access: ClusterAccess): void {
    this.#access = access;
    this.#token = undefined;
    this.#replacePool();
  }

  /** Ends all connections; what was under way fails as if the server had closed them, and is sent anew by its caller. */
  reconnect(): void {
    this.#replacePool();
    for (const request of this.#inFlight)
      request.destroy(Object.assign(new Error('connections are made anew'), { code: 'ECONNRESET' }));
  }

  #replacePool(): void {
    const { calls } = this.#pool;
    this.#pool = openPool(this.#access);
    // Connections in use are closed when they become free.
    calls.maxFreeSockets = 0;
    for (const sockets of Object.values(calls.freeSockets))
      for (const socket of sockets ?? []) socket.destroy();
  }

  /** Sends a request and reads the whole answer. Throws a CLIENT_* error unless the answer is 2xx. */
  async text(request: TransportRequest): Promise<string> {
    const timeoutMs = request.timeoutMs ?? defaultTimeoutMs;
    const response = await this.#head(request, timeoutMs, 'calls');
    const chunks: Buffer[] = [];
    let size = 0;
    const timer = setTimeout(() => response.destroy(new Error('the answer did not end in time')), timeoutMs);
    try {
      for await (const chunk of response) {
        size += (chunk as Buffer).length;
        if (size > maxBodyBytes) {
          response.destroy();
          throw clientError('CLIENT_BAD_RESPONSE', {
            request: told(request),
            why: `it is longer than ${maxBodyBytes} bytes`,
          });
        }
        chunks.push(chunk as Buffer);
      }
    } catch (cause) {
      throw this.#failure(request, cause);
    } finally {
      clearTimeout(timer);
    }
    const text = Buffer.concat(chunks).toString('utf8');
    const status = response.statusCode ?? 0;
    if (status < 200 || status > 299)
      throw statusError(told(request), status, text, response.headers['retry-after']);
    return text;
  }

  /** Sends a GET and returns the open answer; the caller reads or destroys it. Throws unless 2xx. */
  async stream(request: TransportRequest): Promise<http.IncomingMessage> {
    const response = await this.#head(request, request.timeoutMs ?? defaultTimeoutMs, 'streams');
    const status = response.statusCode ?? 0;
    if (status >= 200 && status <= 299) return response;
    const chunks: Buffer[] = [];
    try {
      for await (const chunk of response) chunks.push(chunk as Buffer);
    } catch (cause) {
      throw this.#failure(request, cause);
    }
    const text = Buffer.concat(chunks).toString('utf8');
    throw statusError(told(request), status, text, response.headers['retry-after']);
  }

  /** Ends all connections; requests under way fail with CLIENT_CLOSED. */
  close(): void {
    this.#closed = true;
    for (const request of this.#inFlight) request.destroy();
    this.#pool.calls.destroy();
    this.#pool.streams.destroy();
  }

  async #head(
    request: TransportRequest,
    timeoutMs: number,
    agent: 'calls' | 'streams',
  ): Promise<http.IncomingMessage> {
    for (let attempt = 0; ; attempt++) {
      try {
        return await this.#send(request, timeoutMs, agent);
      } catch (error) {
        const stale = error instanceof StaleSocket;
        if (stale && request.method !== 'POST' && attempt < 3) continue;
        throw this.#failure(request, stale ? error.cause : error);
      }
    }
  }

  #send(
    request: TransportRequest,
    timeoutMs: number,
    agent: 'calls' | 'streams',
  ): Promise<http.IncomingMessage> {
    if (this.#closed || request.signal?.aborted)
      return Promise.reject(clientError('CLIENT_CLOSED', { request: told(request) }));
    return new Promise((resolve, reject) => {
      const headers: http.OutgoingHttpHeaders = { accept: 'application/json', 'user-agent': 'portolan' };
      const token = this.#bearer();
      if (token !== undefined) headers['authorization'] = `Bearer ${token}`;
      if (request.body !== undefined) {
        headers['content-type'] = request.contentType ?? 'application/json';
        headers['content-length'] = Buffer.byteLength(request.body);
      }
      const { base } = this.#pool;
      const secure = base.protocol === 'https:';
      const sent = (secure ? https : http).request({
        agent: this.#pool[agent],
        protocol: base.protocol,
        hostname: base.hostname.replace(/^\[|\]$/g, ''),
        port: base.port || (secure ? 443 : 80),
        method: request.method,
        path: `${base.pathname.replace(/\/$/, '')}${request.path}`,
        headers,
        ...(request.signal && { signal: request.signal }),
      });
      this.#inFlight.add(sent);
      sent.once('socket', (socket) => {
        const probe = () => socket.setKeepAlive(true, keepAliveProbeMs);
        if (socket.connecting) socket.once('connect', probe);
        else probe();
      });
      sent.once('close', () => this.#inFlight.delete(sent));
      const timer = setTimeout(
        () =>
          sent.destroy(
            clientError('CLIENT_TIMEOUT', { server: this.server, request: told(request), timeoutMs }),
          ),
        timeoutMs,
      );
      sent.once('response', (response) => {
        clearTimeout(timer);
        resolve(response);
      });
      // Stays for the life of the request: an error after the head goes to the reader of the response, too.
      sent.on('error', (cause: NodeJS.ErrnoException) => {
        clearTimeout(timer);
        const reset = cause.code === 'ECONNRESET' || cause.code === 'EPIPE';
        reject(sent.reusedSocket && reset ? new StaleSocket(cause) : cause);
      });
      sent.end(request.body);
    });
  }

  #bearer(): string | undefined {
    const { tokenFile, token } = this.#access;
    if (tokenFile === undefined) return token;
    const now = Date.now();
    if (this.#token === undefined || now - this.#token.readAt > tokenLifeMs) {
      try {
        this.#token = { value: readFileSync(tokenFile, 'utf8').trim(), readAt: now };
      } catch {
        // Between two rotations the file may be missing for a moment: the last token still counts.
        return this.#token?.value ?? token;
      }
    }
    return this.#token.value;
  }

  #failure(request: TransportRequest, cause: unknown): unknown {
    if (cause instanceof Error && cause.name === 'NetError') return cause;
    if (this.#closed || request.signal?.aborted)
      return clientError('CLIENT_CLOSED', { request: told(request) });
    return transportError(this.server, told(request), cause);
  }
}

/** The keep-alive race, see the top of this file. */
class StaleSocket extends Error {
  constructor(cause: unknown) {
    super('stale connection', { cause });
  }
}

/** How a request is called in messages: method and path without the query. */
export function told(request: { method: string; path: string }): string {
  return `${request.method} ${request.path.split('?', 1)[0]}`;
}
