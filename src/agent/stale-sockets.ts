/** Ends UDP sockets that were connected through a Service to a backend which has gone: they would hear nothing again. */
import { parseIp } from '../addr/index.ts';
import type { Log } from '../client/index.ts';
import { viewOf } from '../codec/index.ts';
import { type Netns, openNetns } from '../kernel/netns/index.ts';
import { SocketDiag, type SocketInfo } from '../kernel/sockdiag/index.ts';
import type { StaleSockets } from '../service/index.ts';

/**
 * Looks through the node's own namespace and those of its pods. Called synchronously after the maps have changed,
 * so that a client that reconnects at once gets a living backend.
 */
export function destroyStaleSockets(stale: StaleSockets, podNetns: readonly string[], log: Log): number {
  const gone = stale.backends.filter(({ protocol }) => protocol === 'UDP');
  if (gone.length === 0) return 0;
  const wanted = new Set(gone.map(({ address, port }) => `${parseIp(address)} ${port}`));
  let destroyed = 0;
  for (const path of [undefined, ...podNetns]) {
    let netns: Netns | undefined;
    try {
      netns = path === undefined ? undefined : openNetns(path);
      using sockets = SocketDiag.open({ netns });
      const found = sockets
        .list({ protocol: 'udp', states: ['established'] })
        .filter(
          (socket) =>
            wanted.has(`${socket.remote} ${socket.remotePort}`) &&
            stale.wasTranslated(cookieOf(socket), String(socket.remote), socket.remotePort),
        );
      if (found.length > 0) destroyed += sockets.destroy(found);
    } catch (error) {
      log.warn(
        { netns: path ?? 'own', error: (error as Error).message },
        'stale UDP sockets were not looked for',
      );
    } finally {
      netns?.close();
    }
  }
  return destroyed;
}

/** Offset of idiag_cookie in struct inet_diag_sockid, include/uapi/linux/inet_diag.h. */
const COOKIE_OFFSET = 40;

/** The number by which BPF programs know a socket too: bpf_get_socket_cookie. */
function cookieOf({ handle }: SocketInfo): bigint {
  return viewOf(handle.id).getBigUint64(COOKIE_OFFSET, true);
}
