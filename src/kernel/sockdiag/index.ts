/**
 * Lists and destroys sockets of a network namespace, whoever owns them: NETLINK_SOCK_DIAG.
 *
 * A UDP socket that is connected to a backend that went away would send there for ever. Destroyed, its owner gets
 * ECONNABORTED and connects anew. A socket that cgroup/connect translated has the backend as its remote address.
 */
import type { IpAddress } from '../../addr/index.ts';
import { nftError } from '../../errors/nft.ts';
import { AF, NETLINK, NetlinkSocket, NLM_F } from '../netlink/index.ts';
import { ERRNO } from '../syscall/index.ts';
import {
  readSocket,
  SOCK_DESTROY,
  SOCK_DIAG_BY_FAMILY,
  type SocketFilter,
  type SocketInfo,
  type SocketProtocol,
  type SocketState,
  writeDestroyRequest,
  writeListRequest,
} from './message.ts';

export type { SocketFilter, SocketInfo, SocketProtocol, SocketState };

export class SocketDiag {
  readonly #netlink: NetlinkSocket;

  private constructor(netlink: NetlinkSocket) {
    this.#netlink = netlink;
  }

  /** Throws KERNEL_SYSCALL, KERNEL_NEEDS_ROOT. */
  static open(options: { readonly netns?: number | { readonly fd: number } | undefined } = {}): SocketDiag {
    return new SocketDiag(NetlinkSocket.open({ netns: options.netns, protocol: NETLINK.SOCK_DIAG }));
  }

  /** Sockets of both families that match; the kernel filters. Throws SOCKDIAG_FAILED. */
  list(filter: SocketFilter): SocketInfo[] {
    const { protocol, remote, remotePort } = filter;
    // A socket of AF_INET6 may speak IPv4, one of AF_INET never IPv6.
    const families = remote?.family === 6 ? [AF.INET6] : [AF.INET, AF.INET6];
    return families.flatMap((family) => {
      let found: SocketInfo[] = [];
      const cause = this.#netlink.dump(
        `${protocol} sockets`,
        {
          type: SOCK_DIAG_BY_FAMILY,
          flags: 0,
          write: (writer) => writeListRequest(writer, family, filter),
        },
        () => {
          found = [];
        },
        (message) => {
          if (message.type === SOCK_DIAG_BY_FAMILY) found.push(readSocket(message.body, protocol));
        },
      );
      // A kernel without IPv6 has no such sockets.
      if (cause && !(family === AF.INET6 && cause.errno === ERRNO.ENOENT))
        throw nftError('SOCKDIAG_FAILED', { action: 'list', family: protocol }, cause);
      return remotePort === undefined ? found : found.filter((socket) => socket.remotePort === remotePort);
    });
  }

  /**
   * Destroys sockets; returns how many. Those that ended meanwhile do not count. Throws SOCKDIAG_FAILED
   * (EOPNOTSUPP: CONFIG_INET_DIAG_DESTROY is missing).
   */
  destroy(sockets: readonly SocketInfo[]): number {
    const verdicts = this.#netlink.batch(
      'destroy sockets',
      sockets.map((socket) => ({
        type: SOCK_DESTROY,
        flags: NLM_F.ACK,
        write: (writer) => writeDestroyRequest(writer, socket),
      })),
    );
    for (const cause of verdicts)
      if (cause && cause.errno !== ERRNO.ENOENT && cause.errno !== ERRNO.ESTALE)
        throw nftError('SOCKDIAG_FAILED', { action: 'destroy', family: sockets[0]!.protocol }, cause);
    return verdicts.filter((cause) => cause === undefined).length;
  }

  /** Destroys all sockets connected to a remote address and port; returns how many. */
  destroyConnected(protocol: SocketProtocol, remote: IpAddress, remotePort: number): number {
    return this.destroy(this.list({ protocol, states: ['established'], remote, remotePort }));
  }

  close(): void {
    this.#netlink.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
