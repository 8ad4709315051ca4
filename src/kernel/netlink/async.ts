import { closeSync, write } from 'node:fs';
import { type KernelCause, rtnlError } from '../../errors/index.ts';
import { ERRNO, kernelFailure } from '../syscall/index.ts';
import { NLM_F, NLMSG } from './constants.ts';
import { readAck, readMessages } from './reader.ts';
import {
  borrowBuffer,
  MSG_DONTWAIT,
  type NetlinkOptions,
  type NlRequest,
  openNetlinkFd,
  receiveDatagram,
  returnBuffer,
} from './socket.ts';
import { NlWriter } from './writer.ts';

/**
 * A netlink socket for the few requests over which the kernel takes long: it carries a request out inside the send,
 * and removing a link waits for all CPUs (25 ms seen). The send is a write(2) from Node's thread pool, so the event
 * loop goes on meanwhile; the answers are there when it returns.
 */
export class AsyncNetlink {
  readonly #fd: number;
  #sequence = 1;
  #turn: Promise<unknown> = Promise.resolve();
  #open = true;

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /** Throws KERNEL_SYSCALL. */
  static open(options: NetlinkOptions): AsyncNetlink {
    return new AsyncNetlink(openNetlinkFd(options, []));
  }

  /** Sends messages in one write and returns one verdict for each; batches follow one another. */
  batch(what: string, requests: readonly NlRequest[]): Promise<(KernelCause | undefined)[]> {
    const result = this.#turn.then(() => this.#batch(what, requests));
    this.#turn = result.catch(() => {});
    return result;
  }

  /** Waits for what is under way, then closes. */
  async close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await this.#turn;
    closeSync(this.#fd);
  }

  async #batch(what: string, requests: readonly NlRequest[]): Promise<(KernelCause | undefined)[]> {
    if (!this.#open) throw rtnlError('NETLINK_CLOSED', { what });
    const writer = new NlWriter();
    const first = this.#sequence;
    for (const request of requests) {
      writer.begin(request.type, request.flags | NLM_F.REQUEST | NLM_F.ACK, this.#sequence++);
      request.write(writer);
      writer.end();
    }
    await this.#write(writer.written);
    const verdicts = new Array<KernelCause | undefined>(requests.length).fill(undefined);
    const buffer = borrowBuffer();
    try {
      for (let left = requests.length; left > 0; ) {
        const datagram = receiveDatagram(this.#fd, buffer, MSG_DONTWAIT);
        if (typeof datagram === 'number') {
          if (datagram === -ERRNO.EINTR) continue;
          throw rtnlError('RTNL_FAILED', { action: what }, kernelFailure(datagram));
        }
        for (const message of readMessages(datagram)) {
          const at = message.sequence - first;
          if (message.type !== NLMSG.ERROR || at < 0 || at >= requests.length) continue;
          const { errno, message: text } = readAck(message);
          verdicts[at] = errno === 0 ? undefined : kernelFailure(-errno, text);
          left--;
        }
      }
    } finally {
      returnBuffer(buffer);
    }
    return verdicts;
  }

  #write(data: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      write(this.#fd, data, (error) => (error ? reject(error) : resolve()));
    });
  }
}
