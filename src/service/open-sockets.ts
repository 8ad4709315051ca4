/**
 * Connected sockets by the backend that a Service gave them. Programs see connections begin, not end; the kernel's
 * own list of sockets tells which are there.
 */
import { SocketDiag } from '../kernel/sockdiag/index.ts';
import { cookieOf } from './stale-sockets.ts';

/** The part of an engine that knows what sockets were given. */
export interface SocketBackends {
  backendOfSocket(cookie: bigint, address: string, port: number): number | undefined;
}

/** Backends looked for, as `address|port`, so that sockets to others cost nothing but being listed. */
export function countOpenSockets(
  engine: SocketBackends,
  backends: ReadonlySet<string>,
  namespaces: Iterable<{ readonly fd: number }>,
): Map<number, number> {
  const counts = new Map<number, number>();
  for (const netns of namespaces) {
    using diag = SocketDiag.open({ netns: netns.fd });
    for (const protocol of ['tcp', 'udp'] as const)
      for (const socket of diag.list({ protocol, states: ['established'] })) {
        const address = socket.remote.toString();
        if (!backends.has(`${address}|${socket.remotePort}`)) continue;
        const id = engine.backendOfSocket(cookieOf(socket), address, socket.remotePort);
        if (id !== undefined) counts.set(id, (counts.get(id) ?? 0) + 1);
      }
  }
  return counts;
}
