/** The HTTPS side: sockets, TLS, and answers as bytes. */
import { type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { apiError } from '../../errors/api.ts';
import { authenticate, impersonated } from '../auth/authenticate.ts';
import type { User } from '../auth/types.ts';
import type { Handler } from '../handler.ts';
import { failureStatus, isExpectedFailure } from '../status.ts';
import { isStreamed, type StreamHandler } from '../stream/handler.ts';
import { readBody } from './body.ts';
import { parseResourcePath } from './request.ts';
import { type ApiResponse, jsonResponse, type StreamSink } from './response.ts';

/** A watcher with this much unsent is cut off; it resumes from its last revision. */
const MAX_UNSENT_BYTES = 32 << 20;

/** When a connection has as much unsent, its writers wait. */
const HIGH_WATER_BYTES = 1 << 18;

/**
 * How much of a large answer waits until the rest of it is sent. Node stops reading from a client while it has
 * HIGH_WATER_BYTES unsent, and takes what arrives nevertheless for a broken request (HPE_PAUSED). So no client may have
 * the whole answer, and send its next request, before Node knows that it is sent.
 */
const LAST_BYTES = 1024;

/** Every request ends with its signal, and a reason of its own would be an error with a stack each time. */
const CLOSED = new DOMException('The request is over', 'AbortError');

export interface ListenAddress {
  readonly host: string;
  readonly port: number;
}

export interface HttpOptions {
  readonly handler: Handler;
  /** Answers requests that take over their connection. */
  readonly streams: StreamHandler;
  readonly tokenUser: (token: string) => User | undefined;
  readonly authority: string;
  readonly certificate: string;
  readonly key: string;
  readonly log: (level: 'debug' | 'warn' | 'error', fields: object, message: string) => void;
}

export class HttpServer {
  readonly #options: HttpOptions;
  readonly #servers: Server[] = [];
  readonly #stopping = new AbortController();
  readonly #streams = new Set<ServerResponse>();
  readonly #upgraded = new Set<Duplex>();

  constructor(options: HttpOptions) {
    this.#options = options;
  }

  /** Starts to listen on an address, or on a socket that listens already. @throws API_PORT_IN_USE, API_LISTEN_FAILED */
  async listen(at: ListenAddress | { readonly fd: number }): Promise<ListenAddress> {
    const { authority, certificate, key } = this.#options;
    const server = createServer(
      {
        ca: authority,
        cert: certificate,
        key,
        minVersion: 'TLSv1.2',
        requestCert: true,
        // Decided for each request: there are tokens, too, and a few paths for everyone.
        rejectUnauthorized: false,
        keepAliveTimeout: 120_000,
        // Watches last; slow loris is cut by headersTimeout.
        requestTimeout: 0,
        highWaterMark: HIGH_WATER_BYTES,
        // Any other request that offers an upgrade is answered as if it did not.
        shouldUpgradeCallback: (message) =>
          isStreamed(parseResourcePath((message.url ?? '/').split('?', 1)[0]!)),
      },
      (message, response) => void this.#serve(message, response),
    );
    server.on('upgrade', (message, socket, head) => void this.#upgrade(message, socket, head));
    server.on('tlsClientError', (error, socket) => {
      this.#options.log('debug', { error: error.message }, 'TLS handshake failed');
      socket.destroy();
    });
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error: NodeJS.ErrnoException) => reject(listenFailure(error, at)));
      server.listen('fd' in at ? { fd: at.fd } : { host: at.host, port: at.port }, resolve);
    });
    server.removeAllListeners('error');
    server.on('error', (error) =>
      this.#options.log('error', { error: error.message }, 'server socket failed'),
    );
    this.#servers.push(server);
    const address = server.address();
    return typeof address === 'object' && address !== null
      ? { host: address.address, port: address.port }
      : { host: '127.0.0.1', port: 0 };
  }

  /** Ends watches in good order, waits for running requests a moment, then cuts what is left. */
  async close(): Promise<void> {
    this.#stopping.abort();
    for (const stream of this.#streams) stream.end();
    for (const socket of this.#upgraded) socket.destroy();
    const closed = this.#servers.map(
      (server) => new Promise<void>((resolve) => server.close(() => resolve())),
    );
    for (const server of this.#servers) server.closeIdleConnections();
    const cut = setTimeout(() => {
      for (const server of this.#servers) server.closeAllConnections();
    }, 2000);
    await Promise.all(closed);
    clearTimeout(cut);
  }

  async #upgrade(message: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    const gone = new AbortController();
    socket.on('error', () => socket.destroy());
    socket.once('close', () => gone.abort(CLOSED));
    try {
      const url = new URL(message.url ?? '/', 'https://server');
      const user = impersonated(authenticate(message, this.#options.tokenUser), message.headers);
      const take = await this.#options.streams({
        method: message.method ?? 'GET',
        path: url.pathname,
        query: url.searchParams,
        headers: message.headers,
        body: Buffer.alloc(0),
        user,
        signal: AbortSignal.any([gone.signal, this.#stopping.signal]),
      });
      if (this.#stopping.signal.aborted) return void socket.destroy();
      this.#upgraded.add(socket);
      socket.once('close', () => this.#upgraded.delete(socket));
      (socket as Socket).setNoDelay?.(true);
      (socket as Socket).setKeepAlive?.(true, 30_000);
      take(socket, head);
      this.#options.log('debug', { method: message.method, url: message.url }, 'connection taken over');
    } catch (error) {
      const { status, headers, body } = this.#failure(error, message);
      const text = String(body ?? '');
      const lines = Object.entries({ ...headers, 'content-length': String(Buffer.byteLength(text)) });
      socket.end(
        `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\n${lines.map(([name, value]) => `${name}: ${String(value)}\r\n`).join('')}connection: close\r\n\r\n${text}`,
      );
    }
  }

  async #serve(message: IncomingMessage, response: ServerResponse): Promise<void> {
    const signal = this.#signalOf(response);
    const started = performance.now();
    let answer: ApiResponse;
    try {
      const url = new URL(message.url ?? '/', 'https://server');
      const user = impersonated(authenticate(message, this.#options.tokenUser), message.headers);
      const body =
        message.method === 'GET' || message.method === 'HEAD' ? Buffer.alloc(0) : await readBody(message);
      answer = await this.#options.handler({
        method: message.method ?? 'GET',
        path: url.pathname,
        query: url.searchParams,
        headers: message.headers,
        body,
        user,
        get signal() {
          return signal();
        },
      });
    } catch (error) {
      answer = this.#failure(error, message);
    }
    try {
      await this.#answer(message, response, answer, signal);
    } catch (error) {
      this.#options.log('error', { error: String(error), url: message.url }, 'answer failed');
      response.destroy();
    }
    const ms = Math.round((performance.now() - started) * 10) / 10;
    this.#options.log(
      'debug',
      { method: message.method, url: message.url, status: answer.status, ms },
      'request',
    );
  }

  /** The signal of a request, made when somebody asks for it: a change of an object is over without. */
  #signalOf(response: ServerResponse): () => AbortSignal {
    let signal: AbortSignal | undefined;
    return () => {
      if (signal) return signal;
      const gone = new AbortController();
      if (response.destroyed || response.closed) gone.abort(CLOSED);
      else response.once('close', () => gone.abort(CLOSED));
      signal = AbortSignal.any([gone.signal, this.#stopping.signal]);
      return signal;
    };
  }

  #failure(error: unknown, message: IncomingMessage): ApiResponse {
    if (!isExpectedFailure(error) && !this.#stopping.signal.aborted) {
      const told = error instanceof Error ? (error.stack ?? error.message) : String(error);
      this.#options.log('error', { method: message.method, url: message.url, error: told }, 'request failed');
    }
    const status = failureStatus(error);
    const retry = status.details?.retryAfterSeconds;
    return jsonResponse(status.code, status, {
      ...(retry !== undefined && { 'retry-after': String(retry) }),
      ...(status.code === 413 && { connection: 'close' }),
    });
  }

  async #answer(
    message: IncomingMessage,
    response: ServerResponse,
    answer: ApiResponse,
    signal: () => AbortSignal,
  ): Promise<void> {
    for (const [name, value] of Object.entries(answer.headers ?? {}))
      response.setHeader(name, typeof value === 'string' ? value : [...value]);
    response.setHeader('cache-control', 'no-cache, private');
    response.statusCode = answer.status;
    if (answer.stream) {
      response.flushHeaders();
      this.#streams.add(response);
      response.on('close', () => this.#streams.delete(response));
      await answer.stream(sinkOf(response, signal()));
      return;
    }
    const { body } = answer;
    if (body === undefined || message.method === 'HEAD') response.end();
    else if (typeof body === 'string' || body instanceof Uint8Array) {
      const size = Buffer.byteLength(body);
      response.setHeader('content-length', size);
      if (size < HIGH_WATER_BYTES / 2) response.end(body);
      else {
        const bytes = typeof body === 'string' ? Buffer.from(body) : body;
        await sent(response, bytes.subarray(0, -LAST_BYTES));
        response.end(bytes.subarray(-LAST_BYTES));
      }
    } else {
      const over = signal();
      for (const piece of body) {
        if (over.aborted) return;
        if (!response.write(piece)) await drained(response);
      }
      response.end();
    }
  }
}

/** Resolves when all of it has left, or nobody wants it any more. */
function sent(response: ServerResponse, bytes: Uint8Array): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      response.off('close', done);
      resolve();
    };
    response.on('close', done);
    response.write(bytes, done);
  });
}

/** Resolves when what was written is on its way, or nobody wants it any more. */
function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      response.off('drain', done);
      response.off('close', done);
      resolve();
    };
    response.on('drain', done);
    response.on('close', done);
  });
}

function sinkOf(response: ServerResponse, signal: AbortSignal): StreamSink {
  return {
    signal,
    write: (text) => {
      // A write after the end would be an error that nobody catches, of the whole server.
      if (signal.aborted || response.destroyed || response.writableEnded) return false;
      response.write(text);
      if (response.writableLength <= MAX_UNSENT_BYTES) return true;
      response.destroy();
      return false;
    },
    end: () => {
      if (!response.destroyed) response.end();
    },
  };
}

function listenFailure(error: NodeJS.ErrnoException, at: ListenAddress | { readonly fd: number }) {
  const { host, port } = 'fd' in at ? { host: `descriptor ${at.fd}`, port: 0 } : at;
  if (error.code === 'EADDRINUSE') return apiError('API_PORT_IN_USE', { host, port }, error);
  return apiError('API_LISTEN_FAILED', { host, port, detail: error.code ?? error.message }, error);
}
