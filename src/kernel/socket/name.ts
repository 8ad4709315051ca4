/** Values of socket(2) and the names of TCP sockets: include/linux/socket.h, include/uapi/linux/in.h. */
export const AF_INET = 2;
export const AF_INET6 = 10;
export const SOCK_STREAM = 1;
export const SOCK_CLOEXEC = 0o2000000;
export const SOCK_NONBLOCK = 0o4000;

/** struct sockaddr_in and sockaddr_in6: family in host order, port in network order. */
export function socketName(family: number, address: Uint8Array, port: number): Uint8Array {
  const bytes = new Uint8Array(family === AF_INET ? 16 : 28);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, family, true);
  view.setUint16(2, port);
  bytes.set(address, family === AF_INET ? 4 : 8);
  return bytes;
}
