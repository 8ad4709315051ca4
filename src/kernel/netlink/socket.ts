import { closeSync } from 'node:fs';
import { isNetError, type KernelCause, kernelError, rtnlError } from '../../errors/index.ts';
import { checked, ERRNO, FdPoll, kernelFailure, NR, POLL, sys, sysInNetns } from '../syscall/index.ts';
import { AF, NETLINK_OPTION, NLM_F, NLMSG } from './constants.ts';
import { type Ack, type NlMessage, readAck, readMessages, viewOf } from './reader.ts';
import { NlWriter } from './writer.ts';

const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const SO_RCVTIMEO = 20;
const SO_SNDBUFFORCE = 32;
const SO_RCVBUFFORCE = 33;
const SOL_NETLINK = 270;
const MSG_TRUNC = 0x20;
const MSG_DONTWAIT = 0x40;

/** Netlink answers inside the send; waiting longer than this means that the answer is lost. */
const ANSWER_TIMEOUT_MS = 5_000;
/** Enough for the errors of a whole batch: an empty ack costs the receive queue about 800 bytes. */
const RECEIVE_BUFFER_BYTES = 8 << 20;
const SEND_BUFFER_BYTES = 1 << 20;
/** Messages and bytes of one send. More gains nothing, and the kernel copies a send into one block. */
const BATCH_MESSAGES = 1_000;
const BATCH_BYTES = 256 << 10;
const DUMP_TRIES = 20;
/**
 * The kernel fills at most 32 KiB of a dump into a datagram (netlink_recvmsg(): SKB_WITH_OVERHEAD(32768)), and a
 * single message is as long as the one object that it tells of. Longer ones are refused, never cut.
 */
const DATAGRAM_BYTES = 256 << 10;

const WRITER_BYTES = 1024;
/** Less than any kernel's net.core.wmem_default: a larger request is tried, and refused before the buffer grows. */
const DEFAULT_BUFFER_BYTES = 64 << 10;
/** struct timeval */
const ANSWER_TIMEOUT = new Uint8Array(new BigInt64Array([BigInt(ANSWER_TIMEOUT_MS / 1000), 0n]).buffer);

/** One message to send. */
export interface NlRequest {
  readonly type: number;
  /** NLM_F bits besides REQUEST and ACK. */
  readonly flags: number;
  /** Writes the family's header and the attributes. */
  readonly write: (writer: NlWriter) => void;
}

export interface NetlinkOptions {
  /** Descriptor of the network namespace to open it in; default the process's own. */
  readonly netns?: number | { readonly fd: number } | undefined;
  /** NETLINK.ROUTE, NETLINK.NETFILTER, ... */
  readonly protocol: number;
  /** For a few messages and then closed: the kernel's own buffers, which take no calls to set. Default false. */
  readonly brief?: boolean | undefined;
}

/**
 * A netlink socket for requests. Calls are synchronous: the kernel carries a request out during the send, so there
 * is nothing to wait for.
 */
export class NetlinkSocket {
  readonly #fd: number;
  readonly #writer = new NlWriter(WRITER_BYTES);
  #sequence = 1;
  #sendBufferBytes: number;
  #poll: FdPoll | undefined;
  #open = true;

  private constructor(fd: number, sendBufferBytes: number) {
    this.#fd = fd;
    this.#sendBufferBytes = sendBufferBytes;
  }

  /** Throws KERNEL_SYSCALL, KERNEL_NEEDS_ROOT. */
  static open(options: NetlinkOptions): NetlinkSocket {
    const fd = openNetlinkFd(options, []);
    sys(NR.setsockopt, fd, SOL_SOCKET, SO_RCVTIMEO, ANSWER_TIMEOUT, ANSWER_TIMEOUT.length);
    return new NetlinkSocket(fd, options.brief ? DEFAULT_BUFFER_BYTES : SEND_BUFFER_BYTES);
  }

  /**
   * What notifications of changes made over this socket bear in `nlmsg_pid`: netlink(7), nl_pid. 0 before the first
   * request of a brief socket.
   */
  get port(): number {
    const address = new Uint8Array(12);
    const length = Uint8Array.of(address.length, 0, 0, 0);
    checked('read the port of', 'netlink socket', sys(NR.getsockname, this.#fd, address, length));
    return viewOf(address).getUint32(4, true);
  }

  /** Sends one message and returns its verdict; answers other than the ack go to `onMessage`. */
  request(
    what: string,
    request: NlRequest,
    onMessage?: (message: NlMessage) => void,
  ): KernelCause | undefined {
    const sequence = this.#sequence++;
    this.#writer.reset().begin(request.type, request.flags | NLM_F.REQUEST | NLM_F.ACK, sequence);
    request.write(this.#writer);
    this.#writer.end();
    this.#send(what);
    let verdict: KernelCause | undefined;
    this.#collect(what, (message) => {
      if (message.sequence !== sequence) return false;
      if (message.type !== NLMSG.ERROR) {
        onMessage?.(message);
        return false;
      }
      verdict = causeOf(readAck(message));
      return true;
    });
    return verdict;
  }

  /**
   * Sends many messages, up to 1,000 in one call of the kernel, and returns one verdict for each; a failed one does
   * not stop those behind it. Only the last message of a send asks for an ack: errors come anyway.
   */
  batch(what: string, requests: readonly NlRequest[]): (KernelCause | undefined)[] {
    const verdicts = new Array<KernelCause | undefined>(requests.length).fill(undefined);
    let next = 0;
    while (next < requests.length) {
      const first = next;
      const firstSequence = this.#sequence;
      this.#writer.reset();
      while (next < requests.length && next - first < BATCH_MESSAGES && this.#writer.length < BATCH_BYTES) {
        const request = requests[next++]!;
        this.#writer.begin(request.type, request.flags | NLM_F.REQUEST, this.#sequence++);
        request.write(this.#writer);
        this.#writer.end();
      }
      this.#writer.addFlags(NLM_F.ACK);
      const lastSequence = this.#sequence - 1;
      this.#send(what);
      this.#collect(what, (message) => {
        const at = first + message.sequence - firstSequence;
        if (message.type !== NLMSG.ERROR || at < first || at >= next) return false;
        verdicts[at] = causeOf(readAck(message));
        return message.sequence === lastSequence;
      });
    }
    return verdicts;
  }

  /**
   * Sends messages in one datagram: a transaction of nfnetlink, carried out as a whole or not at all. The first
   * message begins it and the last one ends it. Returns what the kernel dislikes, by the index of the message;
   * an entry for message 0 means the transaction as a whole. Nothing means success.
   */
  transaction(what: string, requests: readonly NlRequest[]): ReadonlyMap<number, Ack> {
    const failures = new Map<number, Ack>();
    const firstSequence = this.#sequence;
    // The end of a transaction is acknowledged by new kernels only, so the message before it asks.
    const asks = requests.length - 2;
    this.#writer.reset();
    requests.forEach((request, index) => {
      const flags = request.flags | NLM_F.REQUEST | (index === asks ? NLM_F.ACK : 0);
      this.#writer.begin(request.type, flags, this.#sequence++);
      request.write(this.#writer);
      this.#writer.end();
    });
    this.#send(what);
    this.#collect(what, (message) => {
      const at = message.sequence - firstSequence;
      if (message.type !== NLMSG.ERROR || at < 0 || at >= requests.length) return false;
      const ack = readAck(message);
      if (ack.errno !== 0) failures.set(at, ack);
      return at === asks || (at === 0 && ack.errno !== 0);
    });
    return failures;
  }

  /**
   * Asks for a whole table. A table that changed meanwhile (NLM_F_DUMP_INTR) is asked for again, so `onMessage`
   * may see entries of a first try: collect into what `onStart` makes. Returns the verdict of the kernel.
   */
  dump(
    what: string,
    request: NlRequest,
    onStart: () => void,
    onMessage: (message: NlMessage) => void,
  ): KernelCause | undefined {
    for (let tries = 0; tries < DUMP_TRIES; tries++) {
      onStart();
      const sequence = this.#sequence++;
      this.#writer.reset().begin(request.type, request.flags | NLM_F.REQUEST | NLM_F.DUMP, sequence);
      request.write(this.#writer);
      this.#writer.end();
      this.#send(what);
      let interrupted = false;
      let verdict: KernelCause | undefined;
      this.#collect(what, (message) => {
        if (message.sequence !== sequence) return false;
        if (message.flags & NLM_F.DUMP_INTR && message.type !== NLMSG.ERROR) interrupted = true;
        if (message.type !== NLMSG.DONE && message.type !== NLMSG.ERROR) {
          onMessage(message);
          return false;
        }
        verdict = causeOf(readAck(message));
        return true;
      });
      if (verdict || !interrupted) return verdict;
    }
    throw rtnlError('NETLINK_DUMP_INTERRUPTED', { what, tries: DUMP_TRIES });
  }

  close(): void {
    this.#poll?.stop();
    if (this.#open) closeSync(this.#fd);
    this.#open = false;
  }

  /**
   * Calls back for messages that come unasked, until closed; no request may follow. `onLost`: the kernel dropped some,
   * or one could not be read.
   */
  listen(onMessage: (message: NlMessage) => void, onLost: () => void): void {
    this.#poll = new FdPoll(this.#fd, POLL.readable, () => {
      const failure = readDatagrams(this.#fd, (datagram) => {
        try {
          for (const message of readMessages(datagram)) onMessage(message);
        } catch (error) {
          if (!isNetError(error, 'NETLINK_MALFORMED')) throw error;
          onLost();
          return false;
        }
        return this.#open;
      });
      if (failure !== 0) onLost();
    });
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #send(what: string): void {
    if (!this.#open) throw rtnlError('NETLINK_CLOSED', { what });
    const data = this.#writer.written;
    for (;;) {
      const sent = sys(NR.sendto, this.#fd, data, data.length, 0, 0, 0);
      if (sent === -ERRNO.EINTR) continue;
      if (sent === data.length) return;
      if (sent === -ERRNO.EMSGSIZE && this.#growSendBuffer(data.length)) continue;
      throw kernelError(
        'KERNEL_SYSCALL',
        { call: 'send', object: `request to ${what}` },
        kernelFailure(sent),
      );
    }
  }

  /** One send must fit the send buffer. False when it was large enough already. */
  #growSendBuffer(bytes: number): boolean {
    if (bytes <= this.#sendBufferBytes) return false;
    this.#sendBufferBytes = bytes + 1024;
    const value = new Uint8Array(4);
    viewOf(value).setInt32(0, this.#sendBufferBytes, true);
    return sys(NR.setsockopt, this.#fd, SOL_SOCKET, SO_SNDBUFFORCE, value, 4) === 0;
  }

  /** Receives until `onMessage` returns true. Whole datagrams are handled even then: nothing may be left behind. */
  #collect(what: string, onMessage: (message: NlMessage) => boolean): void {
    const buffer = borrowBuffer();
    try {
      for (let done = false; !done; ) {
        const datagram = receiveDatagram(this.#fd, buffer, 0);
        if (typeof datagram === 'number') {
          if (datagram === -ERRNO.EINTR) continue;
          if (datagram === -ERRNO.EAGAIN)
            throw rtnlError('NETLINK_NO_ANSWER', { what, timeoutMs: ANSWER_TIMEOUT_MS });
          throw kernelError(
            'KERNEL_SYSCALL',
            { call: 'receive', object: `answer to ${what}` },
            kernelFailure(datagram),
          );
        }
        for (const message of readMessages(datagram)) if (onMessage(message)) done = true;
      }
    } finally {
      returnBuffer(buffer);
    }
  }
}

/** Receive buffers that nobody uses: sockets come and go with each pod, and 256 KiB take longer than their answers. */
const idleBuffers: Uint8Array[] = [];

/** A buffer of DATAGRAM_BYTES, the caller's own until `returnBuffer`: callbacks may ask other sockets meanwhile. */
export function borrowBuffer(): Uint8Array {
  return idleBuffers.pop() ?? new Uint8Array(DATAGRAM_BYTES);
}

export function returnBuffer(buffer: Uint8Array): void {
  if (idleBuffers.length < 2) idleBuffers.push(buffer);
}

/** Undefined for success. */
function causeOf({ errno, message }: Ack): KernelCause | undefined {
  return errno === 0 ? undefined : kernelFailure(-errno, message);
}

/** A netlink descriptor in a namespace, subscribed to multicast groups by number, with large buffers. */
export function openNetlinkFd(
  { netns, protocol, brief = false }: NetlinkOptions,
  groups: readonly number[],
): number {
  const nsFd = typeof netns === 'object' ? netns.fd : netns;
  const type = SOCK_RAW | SOCK_CLOEXEC;
  const fd = checked(
    'open',
    'netlink socket',
    nsFd === undefined
      ? sys(NR.socket, AF.NETLINK, type, protocol)
      : sysInNetns(nsFd, NR.socket, AF.NETLINK, type, protocol),
  );
  const value = new Int32Array(1);
  const set = (level: number, option: number, to: number) => {
    value[0] = to;
    return sys(NR.setsockopt, fd, level, option, value, 4);
  };
  // All three need Linux 4.20 at most; on failure messages are poorer and dumps unfiltered, nothing else.
  set(SOL_NETLINK, NETLINK_OPTION.EXT_ACK, 1);
  set(SOL_NETLINK, NETLINK_OPTION.CAP_ACK, 1);
  set(SOL_NETLINK, NETLINK_OPTION.GET_STRICT_CHK, 1);
  // The first request binds it.
  if (brief) return fd;
  if (set(SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES) < 0)
    set(SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER_BYTES);
  if (set(SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER_BYTES) < 0) set(SOL_SOCKET, SO_SNDBUF, SEND_BUFFER_BYTES);
  try {
    // A socket without a port number counts as the kernel's own and is left out of what the kernel tells.
    const address = new Uint8Array(12);
    viewOf(address).setUint16(0, AF.NETLINK, true);
    checked('bind', 'netlink socket', sys(NR.bind, fd, address, address.length));
    for (const group of groups)
      checked(
        'subscribe to',
        `netlink group ${group}`,
        set(SOL_NETLINK, NETLINK_OPTION.ADD_MEMBERSHIP, group),
      );
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  return fd;
}

/** One datagram as a view of `buffer`, or -errno; -EMSGSIZE when it is longer, never a part of it. */
export function receiveDatagram(fd: number, buffer: Uint8Array, flags: number): Uint8Array | number {
  // MSG_TRUNC: the result is the length of the datagram, not of what was copied.
  const size = sys(NR.recvfrom, fd, buffer, buffer.length, flags | MSG_TRUNC, 0, 0);
  if (size < 0) return size;
  return size > buffer.length ? -ERRNO.EMSGSIZE : buffer.subarray(0, size);
}

/** Datagrams handled before others get a turn on the event loop. */
const DATAGRAMS_A_TURN = 256;

/**
 * Calls back for the datagrams that are there now, as many as a turn may take, while the callback says to go on.
 * Returns 0, or the -errno that ended it: -ENOBUFS when the kernel dropped some.
 */
export function readDatagrams(fd: number, onDatagram: (datagram: Uint8Array) => boolean): number {
  const buffer = borrowBuffer();
  try {
    for (let count = 0; count < DATAGRAMS_A_TURN; count++) {
      const datagram = receiveDatagram(fd, buffer, MSG_DONTWAIT);
      if (datagram === -ERRNO.EAGAIN) return 0;
      if (datagram === -ERRNO.EINTR) continue;
      if (typeof datagram === 'number') return datagram;
      if (!onDatagram(datagram)) return 0;
    }
    return 0;
  } finally {
    returnBuffer(buffer);
  }
}

export { MSG_DONTWAIT };
