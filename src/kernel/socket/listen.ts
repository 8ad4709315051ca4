import { checked, closeFd, NR, sys } from '../syscall/index.ts';
import { streamSocket } from './stream-socket.ts';

const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const BACKLOG = 512;

/**
 * A TCP socket that listens inside another network namespace; the process stays where it is. Returns the descriptor,
 * for `server.listen({ fd })`. Throws KERNEL_SYSCALL (EADDRINUSE, EADDRNOTAVAIL). tcp(7), ip(7), ipv6(7).
 */
export function listenInNetns(netns: { readonly fd: number }, address: string, port: number): number {
  const { fd, name, where } = streamSocket(netns, address, port);
  try {
    checked('set up', where, sys(NR.setsockopt, fd, SOL_SOCKET, SO_REUSEADDR, new Int32Array([1]), 4));
    checked('listen on', where, sys(NR.bind, fd, name, name.length));
    checked('listen on', where, sys(NR.listen, fd, BACKLOG));
    return fd;
  } catch (error) {
    closeFd(fd);
    throw error;
  }
}
