/** Who asks: a client certificate of our authority, or a bearer token. */
import type { IncomingMessage } from 'node:http';
import type { TLSSocket } from 'node:tls';
import { apiError } from '../../errors/api.ts';
import { MASTERS } from '../pki/credentials.ts';
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

/**
 * Who a request acts for: an admin may take the part of anyone (`kubectl --as`), to see what they may do.
 * @throws API_FORBIDDEN when another asks for it, API_BAD_REQUEST for groups without a user
 */
export function impersonated(user: User, headers: IncomingMessage['headers']): User {
  const name = asList(headers['impersonate-user'])[0];
  // Node joins repeated headers; no group of ours has a comma in its name.
  const groups = asList(headers['impersonate-group']).flatMap((line) => line.split(/,\s*/));
  if (name === undefined || name === '') {
    if (groups.length > 0)
      throw apiError('API_BAD_REQUEST', { message: 'requested groups without impersonating a user' });
    return user;
  }
  if (!user.groups.includes(MASTERS))
    throw apiError('API_FORBIDDEN', {
      group: '',
      resource: 'users',
      name,
      why: `User "${user.name}" cannot impersonate resource "users" in API group "" at the cluster scope`,
    });
  return { name, groups: [...new Set([...groups, AUTHENTICATED])] };
}
