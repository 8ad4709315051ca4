/**
 * Whole Ethernet frames of one protocol on one link: packet(7). What such a socket says ends with its process, which
 * is why ARP for addresses that move between nodes is answered here and not by an entry in the kernel.
 */
import type { IpAddress } from '../../addr/index.ts';
import { Arena, checked, closeFd, ERRNO, FdPoll, NR, POLL, sys, sysInNetns } from '../syscall/index.ts';

const AF_PACKET = 17;
const AF_INET6 = 10;
const SOCK_RAW = 3;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const SOCK_NONBLOCK = 0o4000;
const SOL_SOCKET = 1;
const SO_ATTACH_FILTER = 26;
const IPPROTO_IPV6 = 41;
const IPV6_JOIN_GROUP = 20;
const FRAME_BYTES = 2048;
/** Frames taken in one turn of the event loop, so that a flood leaves time for everything else. */
const BATCH_FRAMES = 64;

/** One instruction of classic BPF: code, jump if true, jump if false, operand. linux/filter.h */
export type FilterStep = readonly [code: number, jt: number, jf: number, k: number];

export interface PacketSocketOptions {
  readonly ifindex: number;
  /** EtherType, e.g. 0x0806 for ARP. */
  readonly etherType: number;
  /** Lets through the frames for which it returns other than 0; all without it. */
  readonly filter?: readonly FilterStep[];
  /** Called with all frames that wait, oldest first. */
  readonly onFrames: (frames: readonly Uint8Array[]) => void;
  readonly netns?: { readonly fd: number };
}

/** Frames in and out of a link. */
export class PacketSocket {
  readonly #fd: number;
  readonly #poll: FdPoll;
  readonly #buffer = new Uint8Array(FRAME_BYTES);
  #open = true;

  /** Throws KERNEL_NEEDS_ROOT, KERNEL_SYSCALL (ENODEV, ENETDOWN). */
  constructor({ ifindex, etherType, filter, onFrames, netns }: PacketSocketOptions) {
    const what = `frames on link ${ifindex}`;
    const type = SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK;
    // Without a protocol it receives nothing until it is bound, so that no frame passes before the filter.
    const fd = checked(
      'open a socket for',
      what,
      netns ? sysInNetns(netns.fd, NR.socket, AF_PACKET, type, 0) : sys(NR.socket, AF_PACKET, type, 0),
    );
    try {
      if (filter) attachFilter(fd, what, filter);
      // struct sockaddr_ll: family, protocol in network order, ifindex, hatype, pkttype, halen, address.
      const name = new Uint8Array(20);
      const view = new DataView(name.buffer);
      view.setUint16(0, AF_PACKET, true);
      view.setUint16(2, etherType);
      view.setInt32(4, ifindex, true);
      checked('bind a socket for', what, sys(NR.bind, fd, name, name.length));
      this.#poll = new FdPoll(fd, POLL.readable, () => {
        const frames = this.#receive();
        if (frames.length > 0) onFrames(frames);
      }).unref();
    } catch (error) {
      closeFd(fd);
      throw error;
    }
    this.#fd = fd;
  }

  /** Sends a frame; false when the link does not take it now (down, queue full). */
  send(frame: Uint8Array): boolean {
    return this.#open && sys(NR.write, this.#fd, frame, frame.length) === frame.length;
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#poll.stop();
    closeFd(this.#fd);
  }

  #receive(): Uint8Array[] {
    const frames: Uint8Array[] = [];
    while (this.#open && frames.length < BATCH_FRAMES) {
      const size = sys(NR.read, this.#fd, this.#buffer, FRAME_BYTES);
      // A link that went down is told once as an error; the socket works on when it comes up again.
      if (size < 0 && size !== -ERRNO.EINTR) break;
      if (size > 0) frames.push(this.#buffer.slice(0, size));
    }
    return frames;
  }
}

/** struct sock_fprog points at the program, so both lie in one arena. */
function attachFilter(fd: number, what: string, filter: readonly FilterStep[]): void {
  const arena = new Arena(16 + filter.length * 8);
  const head = arena.reserve(16);
  const steps = arena.reserve(filter.length * 8);
  filter.forEach(([code, jt, jf, k], at) => {
    arena.view.setUint16(steps + at * 8, code, true);
    arena.view.setUint8(steps + at * 8 + 2, jt);
    arena.view.setUint8(steps + at * 8 + 3, jf);
    arena.view.setUint32(steps + at * 8 + 4, k, true);
  });
  arena.view.setUint16(head, filter.length, true);
  arena.point(head + 8, steps);
  checked('filter', what, sys(NR.setsockopt, fd, SOL_SOCKET, SO_ATTACH_FILTER, arena.from(head, 16), 16));
}

/**
 * Joins an IPv6 multicast group on a link until closed: the link's filter and switches that listen to MLD then let
 * its frames through. Throws KERNEL_SYSCALL.
 */
export function joinGroup6(
  ifindex: number,
  group: IpAddress,
  netns?: { readonly fd: number },
): { close(): void } {
  const what = `${group} on link ${ifindex}`;
  const type = SOCK_DGRAM | SOCK_CLOEXEC;
  const fd = checked(
    'open a socket to join',
    what,
    netns ? sysInNetns(netns.fd, NR.socket, AF_INET6, type, 0) : sys(NR.socket, AF_INET6, type, 0),
  );
  // struct ipv6_mreq: group, ifindex.
  const request = new Uint8Array(20);
  group.writeTo(request, 0);
  new DataView(request.buffer).setUint32(16, ifindex, true);
  const result = sys(NR.setsockopt, fd, IPPROTO_IPV6, IPV6_JOIN_GROUP, request, request.length);
  if (result < 0) closeFd(fd);
  checked('join', what, result);
  let open = true;
  return {
    close() {
      if (open) closeFd(fd);
      open = false;
    },
  };
}
