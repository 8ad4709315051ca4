/** TCP sockets and their names: include/linux/socket.h, include/uapi/linux/in.h. */
import { addressBits, parseIp } from '../../addr/index.ts';
import { checked, NR, sysInNetns } from '../syscall/index.ts';

const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;
const SOCK_NONBLOCK = 0o4000;

export interface StreamSocket {
  readonly fd: number;
  /** Of the address and port that it is for. */
  readonly name: Uint8Array;
  /** The same for people. */
  readonly where: string;
}

/** A TCP socket of another network namespace that does not block, and does nothing yet. Throws KERNEL_SYSCALL. */
export function streamSocket(netns: { readonly fd: number }, address: string, port: number): StreamSocket {
  const ip = parseIp(address);
  const where = `${address} port ${port}`;
  const family = addressBits(ip.family) === 32 ? AF_INET : AF_INET6;
  const fd = checked(
    'open a socket for',
    where,
    sysInNetns(netns.fd, NR.socket, family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0),
  );
  return { fd, name: socketName(family, ip.toBytes(), port), where };
}

/** struct sockaddr_in and sockaddr_in6: family in host order, port in network order. */
function socketName(family: number, address: Uint8Array, port: number): Uint8Array {
  const bytes = new Uint8Array(family === AF_INET ? 16 : 28);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, family, true);
  view.setUint16(2, port);
  bytes.set(address, family === AF_INET ? 4 : 8);
  return bytes;
}
