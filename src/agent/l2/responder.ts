/**
 * Answers on one link for the addresses that this node leads. It lives in the agent and not in the kernel, so that
 * an agent that is killed or hangs is silent at once and never answers beside its successor.
 */
import type { IpAddress, Mac } from '../../addr/index.ts';
import { type FilterStep, joinGroup6, PacketSocket } from '../../kernel/packet/index.ts';
import { announcementFrames, answerFrame, ETHERTYPE, readFrame, solicitedNodeGroup } from './frames.ts';

/** ldh [12], jeq 0x86dd; ldb [20], jeq ICMPv6; ldb [54], jeq solicitation or advertisement: filter.h */
const ND_ONLY: readonly FilterStep[] = [
  [0x28, 0, 0, 12],
  [0x15, 0, 6, ETHERTYPE.ipv6],
  [0x30, 0, 0, 20],
  [0x15, 0, 4, 58],
  [0x30, 0, 0, 54],
  [0x15, 1, 0, 135],
  [0x15, 0, 1, 136],
  [0x06, 0, 0, 0xffff],
  [0x06, 0, 0, 0],
];

export interface ResponderOptions {
  readonly ifindex: number;
  readonly mac: Mac;
  /** Whether this node may answer for the address now; asked for each question. */
  readonly mayAnswer: (address: string) => boolean;
  /** Someone else says that it has the address. Told before any question of the same batch is answered. */
  readonly onClaim: (address: string, mac: Mac) => void;
}

interface Held {
  readonly address: IpAddress;
  readonly group: { close(): void } | undefined;
}

export class L2Responder {
  readonly ifindex: number;
  readonly mac: Mac;
  readonly #options: ResponderOptions;
  readonly #held = new Map<string, Held>();
  readonly #sockets = new Map<4 | 6, PacketSocket>();
  /** Questions answered since the start. */
  answers = 0;

  constructor(options: ResponderOptions) {
    this.#options = options;
    this.ifindex = options.ifindex;
    this.mac = options.mac;
  }

  get size(): number {
    return this.#held.size;
  }

  /** Begins to listen for questions about an address. Throws KERNEL_SYSCALL. */
  add(address: IpAddress): void {
    const key = String(address);
    if (this.#held.has(key)) return;
    const { family } = address;
    if (!this.#sockets.has(family))
      this.#sockets.set(
        family,
        new PacketSocket({
          ifindex: this.ifindex,
          etherType: family === 4 ? ETHERTYPE.arp : ETHERTYPE.ipv6,
          ...(family === 6 && { filter: ND_ONLY }),
          onFrames: (frames) => this.#take(family, frames),
        }),
      );
    const group = family === 6 ? joinGroup6(this.ifindex, solicitedNodeGroup(address)) : undefined;
    this.#held.set(key, { address, group });
  }

  remove(address: IpAddress): void {
    const key = String(address);
    this.#held.get(key)?.group?.close();
    this.#held.delete(key);
    const { family } = address;
    if ([...this.#held.values()].some((held) => held.address.family === family)) return;
    this.#sockets.get(family)?.close();
    this.#sockets.delete(family);
  }

  /** Tells the link where the address is. */
  announce(address: IpAddress): void {
    const socket = this.#sockets.get(address.family);
    for (const frame of announcementFrames(address, this.mac)) socket?.send(frame);
  }

  close(): void {
    for (const { address } of [...this.#held.values()]) this.remove(address);
  }

  #take(family: 4 | 6, frames: readonly Uint8Array[]): void {
    const read = frames.flatMap(readFrame).filter(({ target }) => this.#held.has(String(target)));
    for (const one of read)
      if (one.kind === 'claim' && one.mac !== this.mac) this.#options.onClaim(String(one.target), one.mac);
    for (const one of read) {
      if (one.kind !== 'question' || one.askerMac === this.mac) continue;
      if (!this.#options.mayAnswer(String(one.target))) continue;
      this.#sockets.get(family)?.send(answerFrame(one, this.mac));
      this.answers++;
    }
  }
}
