import { checked, closeFd, ERRNO, NR, sys, sysInNetns } from '../syscall/index.ts';

const AF_UNIX = 1;
const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000;
const SOL_SOCKET = 1;
/** include/uapi/asm-generic/socket.h; Linux >= 5.14. */
const SO_NETNS_COOKIE = 71;

/**
 * The number by which BPF programs know a network namespace (bpf_get_netns_cookie); undefined where the kernel does
 * not tell. Of the process's own without an argument.
 */
export function netnsCookie(netnsFd?: number): bigint | undefined {
  const words = [NR.socket, AF_UNIX, SOCK_DGRAM_CLOEXEC, 0] as const;
  const fd = checked(
    'open a socket in',
    'a namespace',
    netnsFd === undefined ? sys(...words) : sysInNetns(netnsFd, ...words),
  );
  try {
    const value = new BigUint64Array(1);
    const length = new Uint32Array([8]);
    const answer = sys(NR.getsockopt, fd, SOL_SOCKET, SO_NETNS_COOKIE, value, length);
    if (answer === -ERRNO.ENOPROTOOPT) return undefined;
    checked('ask the cookie of', 'a namespace', answer);
    return value[0];
  } finally {
    closeFd(fd);
  }
}
