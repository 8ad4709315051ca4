/** Who asks: a client certificate of our authority, or a bearer token. */
import type { IncomingMessage } from 'node:http';
import type { TLSSocket } from 'node:tls';
import { apiError } from '../../errors/api.ts';
import { ANONYMOUS, type User } from './types.ts';

const AUTHENTICATED = 'system:authenticated';
const asList = (value: string | string[] | undefined): string[] =>
  value === undefined ? [] : Array.isArray(value) ? value : [value];

/** A connection keeps its certificate, so it is read once. */
const bySocket = new WeakMap<object, User>();

function certificateUser(socket: TLSSocket): User | undefined {
  const known = bySocket.get(socket);
  if (known) return known;
  if (!socket.authorized) return undefined;
  const subject = socket.getPeerCertificate()?.subject as unknown as
    | Record<string, string | string[]>
    | undefined;
  const name = asList(subject?.['CN'])[0];
  if (!name) return undefined;
  const user = { name, groups: [...asList(subject?.['O']), AUTHENTICATED] };
  bySocket.set(socket, user);
  return user;
}

/**
 * The user of a request, anonymous when it shows no credentials at all.
 * @throws API_UNAUTHORIZED when it shows some that are not ours
 */
export function authenticate(message: IncomingMessage, tokenUser: (token: string) => User | undefined): User {
  const socket = message.socket as TLSSocket;
  const byCertificate = certificateUser(socket);
  if (byCertificate) return byCertificate;
  const bearer = /^Bearer\s+(\S+)$/i.exec(message.headers.authorization ?? '')?.[1];
  if (bearer !== undefined) {
    const user = tokenUser(bearer);
    if (!user) throw apiError('API_UNAUTHORIZED', {});
    return { name: user.name, groups: [...user.groups, AUTHENTICATED] };
  }
  const foreign = Object.keys(socket.getPeerCertificate?.() ?? {}).length > 0;
  if (foreign || message.headers.authorization !== undefined) throw apiError('API_UNAUTHORIZED', {});
  return ANONYMOUS;
}
