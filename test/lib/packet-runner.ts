/** BPF_PROG_TEST_RUN without allocating anything for a packet: millions of packets through a loaded program. */
import { Arena, NR, sys } from '../../src/kernel/syscall/index.ts';
import type { Observed } from './lb-reference.ts';

/** include/uapi/linux/bpf.h: BPF_PROG_TEST_RUN, its flag, struct __sk_buff. */
const TEST_RUN = 10;
const CHECKSUM_COMPLETE = 1 << 2;
const SKB = { size: 192, mark: 8, gsoSize: 176 } as const;
const ROOM = 4096;

/** Runs programs without allocating anything for a packet. */
export class PacketRunner {
  readonly input: Uint8Array;
  readonly observed: Observed;
  readonly #arena = new Arena(80 + 2 * SKB.size + 2 * ROOM + 64);
  readonly #attr: Uint8Array;
  readonly #at: number;
  readonly #context: number;
  readonly #contextOut: number;

  constructor() {
    const arena = this.#arena;
    this.#at = arena.reserve(80);
    this.#context = arena.reserve(SKB.size);
    this.#contextOut = arena.reserve(SKB.size);
    const input = arena.reserve(ROOM);
    const output = arena.reserve(ROOM);
    this.#attr = arena.from(this.#at, 80);
    this.input = arena.from(input, ROOM);
    this.observed = { verdict: 0, bytes: arena.from(output, ROOM), length: 0 };
    const { view } = arena;
    view.setUint32(this.#at + 32, 1, true);
    arena.point(this.#at + 16, input);
    arena.point(this.#at + 24, output);
    view.setUint32(this.#at + 40, SKB.size, true);
    arena.point(this.#at + 48, this.#context);
    arena.point(this.#at + 56, this.#contextOut);
  }

  /** Returns 0 or -errno; fills `observed`. */
  run(fd: number, length: number, options: { gso: boolean; complete: boolean }): number {
    const { view } = this.#arena;
    const at = this.#at;
    view.setUint32(at, fd, true);
    view.setUint32(at + 8, length, true);
    view.setUint32(at + 12, ROOM, true);
    view.setUint32(at + 44, SKB.size, true);
    view.setUint32(at + 64, options.complete ? CHECKSUM_COMPLETE : 0, true);
    view.setUint32(this.#context + SKB.gsoSize, options.gso ? 1400 : 0, true);
    const result = sys(NR.bpf, TEST_RUN, this.#attr, 80);
    this.observed.verdict = view.getUint32(at + 4, true);
    this.observed.length = view.getUint32(at + 12, true);
    return result;
  }

  get mark(): number {
    return this.#arena.view.getUint32(this.#contextOut + SKB.mark, true);
  }
}
