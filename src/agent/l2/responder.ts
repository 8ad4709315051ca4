/**
 * Answers on one link for the addresses that this node leads. It lives in the agent and not in the kernel, so that
 * an agent that is killed or hangs is silent at once and never answers beside its successor.
 */
import type { IpAddress, Mac } from '../../addr/index.ts';
import { sleep } from '../../client/index.ts';
import { type FilterStep, joinGroup6, PacketSocket } from '../../kernel/packet/index.ts';
import {
  announcementFrames,
  answerFrame,
  ETHERTYPE,
  probeFrame,
  readFrame,
  solicitedNodeGroup,
} from './frames.ts';

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

/** How often an address is asked for before it counts as free, and the wait for each answer. */
const PROBES = 3;
const PROBE_WAIT_MS = 120;

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
  /** Addresses that somebody is looked for, and who said that it has them. */
  readonly #asked = new Map<string, { readonly address: IpAddress; by: Mac | undefined }>();
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
    this.#listen(family);
    const group = family === 6 ? joinGroup6(this.ifindex, solicitedNodeGroup(address)) : undefined;
    this.#held.set(key, { address, group });
  }

  /** Whose the address is now, if anybody on the link says so. Throws KERNEL_SYSCALL. */
  async owner(address: IpAddress, signal: AbortSignal): Promise<Mac | undefined> {
    const asked: { readonly address: IpAddress; by: Mac | undefined } = { address, by: undefined };
    this.#asked.set(String(address), asked);
    try {
      this.#listen(address.family);
      for (let at = 0; at < PROBES && asked.by === undefined && !signal.aborted; at++) {
        this.#sockets.get(address.family)?.send(probeFrame(address, this.mac));
        await sleep(PROBE_WAIT_MS, signal);
      }
      return asked.by;
    } finally {
      this.#asked.delete(String(address));
      this.#unlisten(address.family);
    }
  }

  #listen(family: 4 | 6): void {
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
  }

  #unlisten(family: 4 | 6): void {
    for (const { address } of [...this.#held.values(), ...this.#asked.values()])
      if (address.family === family) return;
    this.#sockets.get(family)?.close();
    this.#sockets.delete(family);
  }

  remove(address: IpAddress): void {
    const key = String(address);
    this.#held.get(key)?.group?.close();
    this.#held.delete(key);
    this.#unlisten(address.family);
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
    const all = frames.flatMap(readFrame);
    for (const one of all) {
      const asked = this.#asked.get(String(one.target));
      if (asked && one.kind === 'claim' && one.mac !== this.mac) asked.by = one.mac;
    }
    const read = all.filter(({ target }) => this.#held.has(String(target)));
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
