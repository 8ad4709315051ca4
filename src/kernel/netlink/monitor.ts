import { closeSync } from 'node:fs';
import { ERRNO, FdPoll, POLL } from '../syscall/index.ts';
import { ignorePorts } from './port-filter.ts';
import { type NlMessage, readMessages } from './reader.ts';
import { type NetlinkOptions, openNetlinkFd, readDatagrams } from './socket.ts';

/** Wait before a subscription that broke is made anew, in milliseconds. */
const REOPEN_MS = 100;

export interface MonitorOptions extends NetlinkOptions {
  /** Multicast groups by number. */
  readonly groups: readonly number[];
  /** Ports of sockets whose own changes are not told (see `NetlinkSocket.port`); default none. */
  readonly ignore?: readonly number[] | undefined;
  /** A notification; `message.body` is valid during the call only. */
  readonly onMessage: (message: NlMessage) => void;
  /** Notifications were lost: whatever is known from them must be read anew. */
  readonly onResync: (reason: string) => void;
}

/**
 * Subscribes to notifications of the kernel. When the kernel had to drop some (ENOBUFS), or the socket fails, the
 * backlog is thrown away, a new socket subscribed, and only then `onResync` called, so that nothing can fall
 * between a list that the owner reads and the first notification.
 */
export class NetlinkMonitor {
  readonly #options: MonitorOptions;
  #fd = -1;
  #poll: FdPoll | undefined;
  #retry: NodeJS.Timeout | undefined;
  #closed = false;

  /** Throws KERNEL_SYSCALL when the first subscription fails. */
  constructor(options: MonitorOptions) {
    this.#options = options;
    this.#subscribe();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#retry);
    this.#unsubscribe();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #subscribe(): void {
    const { groups, ignore = [] } = this.#options;
    this.#fd = openNetlinkFd(this.#options, groups);
    if (ignore.length > 0) ignorePorts(this.#fd, ignore);
    this.#poll = new FdPoll(this.#fd, POLL.readable, () => this.#drain());
  }

  #unsubscribe(): void {
    this.#poll?.stop();
    this.#poll = undefined;
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }

  #drain(): void {
    const failure = readDatagrams(this.#fd, (datagram) => {
      try {
        for (const message of readMessages(datagram)) this.#options.onMessage(message);
      } catch {
        this.#reopen('a notification could not be read');
        return false;
      }
      return !this.#closed;
    });
    if (failure !== 0)
      this.#reopen(failure === -ERRNO.ENOBUFS ? 'the kernel dropped notifications' : 'the socket failed');
  }

  #reopen(reason: string): void {
    this.#unsubscribe();
    if (this.#closed) return;
    try {
      this.#subscribe();
    } catch {
      this.#retry = setTimeout(() => this.#reopen(reason), REOPEN_MS);
      return;
    }
    this.#options.onResync(reason);
  }
}
