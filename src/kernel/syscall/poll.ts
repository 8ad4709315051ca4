import { addon, type PollHandle } from './addon.ts';

/** Events of a polled descriptor, as libuv numbers them. */
export const POLL = { readable: 1, writable: 2 } as const;

/** Watches a descriptor that Node did not open. Stop it before closing the descriptor. */
export class FdPoll {
  #handle: PollHandle | undefined;

  constructor(fd: number, events: number, onEvent: (status: number, events: number) => void) {
    this.#handle = addon().pollStart(fd, events, onEvent);
  }

  /** Lets the process end although this is still watched. */
  unref(): this {
    if (this.#handle) addon().pollUnref(this.#handle);
    return this;
  }

  stop(): void {
    if (!this.#handle) return;
    addon().pollStop(this.#handle);
    this.#handle = undefined;
  }
}
