import { constants } from 'node:os';
import { closeFd, ERRNO, FdPoll, NR, POLL, sys } from '../syscall/index.ts';
import { identify, type ProcessIdentity } from './identity.ts';

/**
 * A descriptor of one process, own child or not: signals reach nobody else, and its end wakes the event loop.
 * pidfd_open(2), Linux 5.3.
 */
export class Pidfd {
  readonly identity: ProcessIdentity;
  /** Resolves when the process has ended; stays open for ever if `close` comes first. */
  readonly exited: Promise<void>;
  #fd: number;
  #poll: FdPoll | undefined;

  private constructor(identity: ProcessIdentity, fd: number) {
    this.identity = identity;
    this.#fd = fd;
    this.exited = new Promise((resolve) => {
      this.#poll = new FdPoll(fd, POLL.readable, () => {
        this.close();
        resolve();
      }).unref();
    });
  }

  /** Opens exactly this process; undefined when it is gone, even if its pid belongs to another one by now. */
  static open(identity: ProcessIdentity): Pidfd | undefined {
    const fd = sys(NR.pidfd_open, identity.pid, 0);
    if (fd < 0) return undefined;
    if (identify(identity.pid)?.startTicks !== identity.startTicks) {
      closeFd(fd);
      return undefined;
    }
    return new Pidfd(identity, fd);
  }

  /** False when the process is gone. */
  signal(name: NodeJS.Signals): boolean {
    if (this.#fd < 0) return false;
    const result = sys(NR.pidfd_send_signal, this.#fd, constants.signals[name], 0, 0);
    return result >= 0 || result !== -ERRNO.ESRCH;
  }

  /** Stops watching; the process is left alone. */
  close(): void {
    if (this.#fd < 0) return;
    this.#poll?.stop();
    closeFd(this.#fd);
    this.#fd = -1;
  }
}
