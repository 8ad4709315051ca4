import { checked, closeFd, ERRNO, NR, sys } from '../syscall/index.ts';
import { streamSocket } from './stream-socket.ts';

/** Between two looks at a connection under way. */
const LOOK_MS = 2;

/**
 * A TCP connection made inside another network namespace; the process stays where it is. Returns the descriptor, for
 * `new net.Socket({ fd })`. Throws KERNEL_SYSCALL (ECONNREFUSED, ETIMEDOUT after `timeoutMs`). connect(2).
 */
export async function connectInNetns(
  netns: { readonly fd: number },
  address: string,
  port: number,
  timeoutMs = 5_000,
): Promise<number> {
  const { fd, name, where } = streamSocket(netns, address, port);
  try {
    const until = performance.now() + timeoutMs;
    for (;;) {
      const result = sys(NR.connect, fd, name, name.length);
      if (result === 0 || result === -ERRNO.EISCONN) return fd;
      // A second call on a connection under way tells how it stands.
      if (result !== -ERRNO.EINPROGRESS && result !== -ERRNO.EALREADY) checked('connect to', where, result);
      if (performance.now() > until) checked('connect to', where, -ERRNO.ETIMEDOUT);
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
  } catch (error) {
    closeFd(fd);
    throw error;
  }
}
