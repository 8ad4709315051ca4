import { addressBits, parseIp } from '../../addr/index.ts';
import { checked, closeFd, NR, sys, sysInNetns } from '../syscall/index.ts';
import { AF_INET, AF_INET6, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, socketName } from './name.ts';

const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const BACKLOG = 512;

/**
 * A TCP socket that listens inside another network namespace; the process stays where it is. Returns the descriptor,
 * for `server.listen({ fd })`. Throws KERNEL_SYSCALL (EADDRINUSE, EADDRNOTAVAIL). tcp(7), ip(7), ipv6(7).
 */
export function listenInNetns(netns: { readonly fd: number }, address: string, port: number): number {
  const ip = parseIp(address);
  const where = `${address} port ${port}`;
  const family = addressBits(ip.family) === 32 ? AF_INET : AF_INET6;
  const fd = checked(
    'open a socket for',
    where,
    sysInNetns(netns.fd, NR.socket, family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0),
  );
  try {
    checked('set up', where, sys(NR.setsockopt, fd, SOL_SOCKET, SO_REUSEADDR, new Int32Array([1]), 4));
    const name = socketName(family, ip.toBytes(), port);
    checked('listen on', where, sys(NR.bind, fd, name, name.length));
    checked('listen on', where, sys(NR.listen, fd, BACKLOG));
    return fd;
  } catch (error) {
    closeFd(fd);
    throw error;
  }
}
