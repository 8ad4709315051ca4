/**
 * Connected datagram sockets whose backend has gone. They were connected once, at the socket, and would send to
 * nobody for ever: a resolver that keeps its socket, for example. Destroyed, their owner gets an error and connects
 * anew, to a backend that is there.
 */
import { parseIp } from '../addr/index.ts';
import { viewOf } from '../codec/index.ts';
import { SocketDiag, type SocketInfo } from '../kernel/sockdiag/index.ts';
import type { StaleSockets } from './engines/ebpf/index.ts';

export interface StaleSocketOptions {
  /** Namespaces of this node: its own and those of its pods, by descriptor. Asked at each removal. */
  readonly namespaces: () => Iterable<{ readonly fd: number }>;
  /** Called with what was destroyed, and with failures. */
  readonly onDone?: (destroyed: number, error?: unknown) => void;
}

/** More backends than this are looked for in a list of all sockets, fewer one by one. */
const ONE_BY_ONE = 4;

/** The event loop is not held up for longer. */
const TURN_MS = 2;

/** Makes the handler for `EbpfEngineOptions.onStaleSockets`. Many namespaces are visited in several turns. */
export function destroyStaleSockets(options: StaleSocketOptions): (stale: StaleSockets) => void {
  return (stale) => {
    const queue = [...options.namespaces()];
    let destroyed = 0;
    const step = () => {
      const until = performance.now() + TURN_MS;
      while (queue.length > 0 && performance.now() < until) {
        try {
          destroyed += destroyIn(queue.shift()!, stale);
        } catch (error) {
          // A pod's namespace may have gone meanwhile; the others still have to be visited.
          options.onDone?.(0, error);
        }
      }
      if (queue.length > 0) setImmediate(step);
      else options.onDone?.(destroyed);
    };
    step();
  };
}

function destroyIn(netns: { readonly fd: number }, stale: StaleSockets): number {
  using diag = SocketDiag.open({ netns: netns.fd });
  const found = findStale(diag, stale);
  return found.length > 0 ? diag.destroy(found) : 0;
}

function findStale(diag: SocketDiag, { backends, wasTranslated }: StaleSockets): SocketInfo[] {
  const common = { protocol: 'udp', states: ['established'] } as const;
  const gone = new Set(backends.map(({ address, port }) => `${address}|${port}`));
  const listed =
    backends.length > ONE_BY_ONE
      ? diag.list(common)
      : backends.flatMap(({ address, port }) =>
          diag.list({ ...common, remote: parseIp(address), remotePort: port }),
        );
  return listed.filter((socket) => {
    const address = socket.remote.toString();
    return (
      gone.has(`${address}|${socket.remotePort}`) &&
      wasTranslated(cookieOf(socket), address, socket.remotePort)
    );
  });
}

/** The last 8 bytes of struct inet_diag_sockid are what bpf_get_socket_cookie() returns. */
export function cookieOf({ handle }: SocketInfo): bigint {
  return viewOf(handle.id).getBigUint64(40, true);
}
