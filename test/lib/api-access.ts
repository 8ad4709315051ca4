/** Raw HTTPS to an API server with the credentials of its kubeconfigs: an independent client for tests. */
import { readFileSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import { Agent, request } from 'node:https';
import { parse } from 'yaml';

export interface Access {
  readonly url: URL;
  readonly agent: Agent;
  readonly token?: string;
}

interface Config {
  clusters: { cluster: { server: string; 'certificate-authority-data': string } }[];
  users: { user: { 'client-certificate-data': string; 'client-key-data': string } }[];
}

/** From the file of a kubeconfig, or from one that was just issued. */
export function accessOf(config: string | object): Access {
  const { clusters, users } = (
    typeof config === 'string' ? parse(readFileSync(config, 'utf8')) : config
  ) as Config;
  const decode = (text: string) => Buffer.from(text, 'base64');
  const { server, 'certificate-authority-data': ca } = clusters[0]!.cluster;
  const { user } = users[0]!;
  const agent = new Agent({
    ca: decode(ca),
    cert: decode(user['client-certificate-data']),
    key: decode(user['client-key-data']),
    keepAlive: true,
    maxSockets: 16,
  });
  return { url: new URL(server), agent };
}

export interface Answer {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  /** Parsed JSON, or the text where it is none. */
  readonly body: unknown;
}

/** Sends one request; a refused or cut connection rejects. */
export function call(
  access: Access,
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const text = body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body);
    const sent = request(
      new URL(path, access.url),
      {
        method,
        agent: access.agent,
        headers: {
          ...(text !== undefined && { 'content-type': 'application/json' }),
          ...(access.token && { authorization: `Bearer ${access.token}` }),
          ...headers,
        },
      },
      (message) => {
        let received = '';
        message.setEncoding('utf8');
        message.on('data', (chunk: string) => {
          received += chunk;
        });
        message.on('error', reject);
        message.on('end', () => {
          let value: unknown = received;
          try {
            value = JSON.parse(received);
          } catch {
            // Plain text.
          }
          resolve({ status: message.statusCode ?? 0, headers: message.headers, body: value });
        });
      },
    );
    sent.on('error', reject);
    sent.end(text);
  });
}

export interface Stream {
  /** Each line of the answer, parsed. */
  readonly lines: AsyncIterableIterator<unknown>;
  readonly status: number;
  close(): void;
}

/** Opens a watch. */
export function openStream(
  access: Access,
  path: string,
  headers: Record<string, string> = {},
): Promise<Stream> {
  return new Promise((resolve, reject) => {
    const sent = request(new URL(path, access.url), { agent: access.agent, headers }, (message) => {
      resolve({ lines: linesOf(message), status: message.statusCode ?? 0, close: () => sent.destroy() });
    });
    sent.on('error', reject);
    sent.end();
  });
}

async function* linesOf(message: IncomingMessage): AsyncGenerator<unknown> {
  let rest = '';
  message.setEncoding('utf8');
  try {
    for await (const chunk of message) {
      const parts = (rest + String(chunk)).split('\n');
      rest = parts.pop()!;
      for (const part of parts) if (part !== '') yield JSON.parse(part) as unknown;
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ECONNRESET') throw error;
  }
}
