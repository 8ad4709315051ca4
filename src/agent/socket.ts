/**
 * The agent's own door: HTTP with JSON over a unix socket that only root may open (0600). The command line asks
 * here; nothing on a network can.
 */
import { chmodSync, mkdirSync, rmSync } from 'node:fs';
import { createServer, request, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { dirname } from 'node:path';
import type { Duplex } from 'node:stream';
import { agentError, isNetError, NetError } from '../errors/index.ts';

/** Answers one question; its result becomes JSON. Throws NetErrors, which reach the caller whole. */
export type Answer = (query: URLSearchParams, body: unknown) => unknown | Promise<unknown>;

/** An answer that is no JSON. */
export class TextAnswer {
  readonly text: string;
  readonly type: string;

  constructor(text: string, type: string) {
    this.text = text;
    this.type = type;
  }
}

/** An answer without an end: values as lines of JSON until the asker goes. */
export class StreamAnswer {
  /** Begins; returns what ends it. */
  readonly begin: (send: (value: unknown) => void) => () => void;

  constructor(begin: (send: (value: unknown) => void) => () => void) {
    this.begin = begin;
  }
}

/** Takes over the connection of a request that asked for it; throws before `accept` is called when it does not. */
export type Upgrade = (query: URLSearchParams, accept: () => Duplex) => Promise<void>;

/** The protocol that a request names to get a connection of its own. */
const STREAM_PROTOCOL = 'portolan-stream';

/** Routes by "METHOD /path". */
export type Routes = Readonly<Record<string, Answer>>;

const LONGEST_BODY_BYTES = 1 << 20;
/** A reader that falls so far behind loses lines: the agent does not keep them for it. */
const STREAM_BACKLOG_BYTES = 1 << 20;

/** Serves routes at a socket path until closed. The folder is made 0700. */
export async function serveSocket(
  path: string,
  routes: Routes,
  upgrades: Readonly<Record<string, Upgrade>> = {},
): Promise<{ close(): Promise<void> }> {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  rmSync(path, { force: true });
  const server = createServer(async (incoming, outgoing) => {
    const [path = '', query = ''] = (incoming.url ?? '').split('?', 2);
    const send = (status: number, value: unknown) => {
      if (value instanceof StreamAnswer) return stream(outgoing, value);
      if (value instanceof TextAnswer) {
        outgoing.writeHead(status, { 'content-type': value.type }).end(value.text);
        return;
      }
      outgoing.writeHead(status, { 'content-type': 'application/json' });
      outgoing.end(
        JSON.stringify(value, (_key, item) => (typeof item === 'bigint' ? item.toString() : item)),
      );
    };
    const answer = routes[`${incoming.method} ${path}`];
    if (!answer) return send(404, { code: 'AGENT_REFUSED', message: `no such question: ${path}` });
    try {
      send(200, (await answer(new URLSearchParams(query), await readBody(incoming))) ?? null);
    } catch (error) {
      send(isNetError(error) ? 409 : 500, {
        code: isNetError(error) ? error.code : 'INTERNAL',
        message: (error as Error).message,
        remedy: isNetError(error) ? error.remedy : undefined,
      });
    }
  });
  const streams = new Set<Duplex>();
  server.on('upgrade', (incoming, socket) => {
    socket.on('error', () => socket.destroy());
    streams.add(socket);
    socket.on('close', () => streams.delete(socket));
    const [path = '', query = ''] = (incoming.url ?? '').split('?', 2);
    const upgrade = upgrades[path];
    const refuse = (status: number, value: object) => {
      const text = JSON.stringify(value);
      socket.end(
        `HTTP/1.1 ${status} No\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(text)}\r\nconnection: close\r\n\r\n${text}`,
      );
    };
    if (!upgrade) return refuse(404, { code: 'AGENT_REFUSED', message: `no such stream: ${path}` });
    const accept = () => {
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: ${STREAM_PROTOCOL}\r\n\r\n`,
      );
      return socket;
    };
    upgrade(new URLSearchParams(query), accept).catch((error: unknown) =>
      refuse(409, {
        code: isNetError(error) ? error.code : 'INTERNAL',
        message: (error as Error).message,
      }),
    );
  });
  await listen(server, path);
  return {
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
        for (const stream of streams) stream.destroy();
      }),
  };
}

/** Asks an agent for a connection of its own. Throws AGENT_NOT_RUNNING, AGENT_REFUSED. */
export function openAgentStream(socket: string, path: string, timeoutMs = 10_000): Promise<Duplex> {
  const { promise, resolve, reject } = Promise.withResolvers<Duplex>();
  const asking = request({
    socketPath: socket,
    path,
    timeout: timeoutMs,
    headers: { connection: 'Upgrade', upgrade: STREAM_PROTOCOL },
  });
  asking.on('upgrade', (_reply, stream: Socket, head: Buffer) => {
    stream.setTimeout(0);
    stream.removeAllListeners('timeout');
    if (head.length > 0) stream.unshift(head);
    resolve(stream);
  });
  asking.on('response', (reply) => {
    const parts: Buffer[] = [];
    reply.on('data', (part: Buffer) => parts.push(part));
    reply.on('error', () => {});
    reply.on('close', () => {
      const text = Buffer.concat(parts).toString('utf8');
      let message = text;
      try {
        message = (JSON.parse(text) as { message?: string }).message ?? text;
      } catch {
        // Told as it came.
      }
      reject(
        agentError('AGENT_REFUSED', { path: path.split('?', 1)[0]!, status: reply.statusCode ?? 0, message }),
      );
    });
  });
  asking.on('timeout', () => asking.destroy(new Error(`no answer within ${timeoutMs / 1000} s`)));
  asking.on('error', (cause: NodeJS.ErrnoException) => {
    const why =
      cause.code === 'ENOENT' || cause.code === 'ECONNREFUSED' ? 'no agent listens there' : cause.message;
    reject(agentError('AGENT_NOT_RUNNING', { socket, why }, cause));
  });
  asking.end();
  return promise;
}

function stream(outgoing: ServerResponse, { begin }: StreamAnswer): void {
  const end = begin((value) => {
    if (outgoing.writableLength < STREAM_BACKLOG_BYTES) outgoing.write(`${JSON.stringify(value)}\n`);
  });
  outgoing.on('close', end);
  outgoing.writeHead(200, { 'content-type': 'application/x-ndjson' });
  outgoing.flushHeaders();
}

/** The mask makes the socket 0600 from its first moment: chmod afterwards would leave a gap. */
function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const before = process.umask(0o177);
    server.once('error', reject);
    server.listen(path, () => {
      chmodSync(path, 0o600);
      resolve();
    });
    process.umask(before);
  });
}

async function readBody(incoming: AsyncIterable<Buffer>): Promise<unknown> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of incoming) {
    size += part.length;
    if (size > LONGEST_BODY_BYTES)
      throw agentError('AGENT_REFUSED', {
        path: 'request',
        status: 413,
        message: 'the body is longer than 1 MiB',
      });
    parts.push(part);
  }
  if (size === 0) return undefined;
  try {
    return JSON.parse(Buffer.concat(parts).toString('utf8'));
  } catch {
    throw agentError('AGENT_REFUSED', { path: 'request', status: 400, message: 'the body is not JSON' });
  }
}

/** Asks an agent. Throws AGENT_NOT_RUNNING when nobody listens, its own error, AGENT_REFUSED when it is none. */
export function askAgent<T>(
  socket: string,
  method: 'GET' | 'POST',
  path: string,
  body?: unknown,
  timeoutMs = 30_000,
): Promise<T> {
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  const asking = request({ socketPath: socket, method, path, timeout: timeoutMs }, (reply) => {
    const parts: Buffer[] = [];
    reply.on('data', (part: Buffer) => parts.push(part));
    // Without this an agent that ends in the middle of its answer would leave the asker waiting for ever.
    reply.on('error', (cause) =>
      reject(agentError('AGENT_NOT_RUNNING', { socket, why: 'it ended while it answered' }, cause)),
    );
    reply.on('end', () => {
      const text = Buffer.concat(parts).toString('utf8');
      try {
        const value = JSON.parse(text) as T;
        if (reply.statusCode === 200) resolve(value);
        else reject(refusal(path, reply.statusCode ?? 0, text));
      } catch (cause) {
        reject(
          agentError('AGENT_REFUSED', { path, status: reply.statusCode ?? 0, message: 'no JSON' }, cause),
        );
      }
    });
  });
  asking.on('timeout', () => asking.destroy(new Error(`no answer within ${timeoutMs / 1000} s`)));
  asking.on('error', (cause: NodeJS.ErrnoException) => {
    const why =
      cause.code === 'ENOENT' || cause.code === 'ECONNREFUSED' ? 'no agent listens there' : cause.message;
    reject(agentError('AGENT_NOT_RUNNING', { socket, why }, cause));
  });
  asking.end(body === undefined ? undefined : JSON.stringify(body));
  return promise;
}

/**
 * Follows an answer that has no end. Resolves when the signal ends it. Throws AGENT_NOT_RUNNING when nobody listens or
 * the agent ends, its own error, AGENT_REFUSED when it is none.
 */
export async function followAgent(
  socket: string,
  path: string,
  onValue: (value: unknown) => void,
  signal: AbortSignal,
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const gone = (why: string, cause?: unknown) => {
    if (signal.aborted) resolve();
    else reject(agentError('AGENT_NOT_RUNNING', { socket, why }, cause));
  };
  const asking = request({ socketPath: socket, path, signal }, (reply) => {
    reply.setEncoding('utf8');
    let rest = '';
    reply.on('data', (part: string) => {
      const lines = (rest + part).split('\n');
      rest = lines.pop() ?? '';
      if (reply.statusCode === 200) for (const line of lines) onValue(JSON.parse(line));
      else rest = lines.concat(rest).join('\n');
    });
    reply.on('error', (cause) => gone('it ended while it answered', cause));
    reply.on('end', () => {
      const status = reply.statusCode ?? 0;
      if (status === 200) return gone('it ended');
      reject(refusal(path, status, rest));
    });
  });
  asking.on('error', (cause: NodeJS.ErrnoException) =>
    gone(
      cause.code === 'ENOENT' || cause.code === 'ECONNREFUSED' ? 'no agent listens there' : cause.message,
      cause,
    ),
  );
  asking.end();
  return promise;
}

/** The agent's own error with its remedy; AGENT_REFUSED for what is none. */
function refusal(path: string, status: number, text: string): Error {
  let said: { code?: string; message?: string; remedy?: string } | undefined;
  try {
    said = JSON.parse(text) as typeof said;
  } catch {
    // Told as it came.
  }
  const { code, message = text, remedy } = said ?? {};
  if (code === undefined || remedy === undefined)
    return agentError('AGENT_REFUSED', { path, status, message });
  return new NetError(code, { message, remedy, context: { path, status } });
}
