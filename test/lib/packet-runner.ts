/** BPF_PROG_TEST_RUN without allocating anything for a packet: millions of packets through a loaded program. */
import { viewOf } from '../../src/codec/index.ts';
import { Arena, NR, sys, sysInNetns } from '../../src/kernel/syscall/index.ts';
import { type Observed, VERDICT } from './lb-reference.ts';

/** include/uapi/linux/bpf.h: BPF_PROG_TEST_RUN, its flag, struct __sk_buff. */
const TEST_RUN = 10;
const CHECKSUM_COMPLETE = 1 << 2;
const SKB = { size: 192, mark: 8, ifindex: 40, gsoSize: 176 } as const;
const ROOM = 4096;
/** enum xdp_action. */
const XDP = { DROP: 1, PASS: 2, TX: 3, REDIRECT: 4 } as const;
/** The word in a packet's metadata: bpf/include/lb_said.h. */
const SAID = { bytes: 4, kind: 3, masquerade: 2 } as const;
/** What agents let packets be marked with for masquerading. */
const MASQUERADE_MARK = 0x20000;

/** Runs programs without allocating anything for a packet. */
export class PacketRunner {
  readonly input: Uint8Array;
  readonly observed: Observed;
  readonly #arena = new Arena(2 * 80 + 2 * SKB.size + 2 * ROOM + 64);
  readonly #attr: Uint8Array;
  readonly #at: number;
  readonly #context: number;
  readonly #contextOut: number;
  readonly #xdpAttr: Uint8Array;
  readonly #xdpAt: number;
  /** Undefined after a run in tc. */
  #xdpMark: number | undefined;

  readonly #netns: number | undefined;

  /** `netns`: a descriptor of the namespace where interfaces and routes are; default the own. */
  constructor(netns?: number) {
    this.#netns = netns;
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
    this.#xdpAt = arena.reserve(80);
    this.#xdpAttr = arena.from(this.#xdpAt, 80);
    view.setUint32(this.#xdpAt + 32, 1, true);
    arena.point(this.#xdpAt + 16, input);
    arena.point(this.#xdpAt + 24, output);
  }

  /** Returns 0 or -errno; fills `observed`. */
  run(fd: number, length: number, options: { gso: boolean; complete: boolean; ifindex?: number }): number {
    const { view } = this.#arena;
    const at = this.#at;
    view.setUint32(at, fd, true);
    view.setUint32(at + 8, length, true);
    view.setUint32(at + 12, ROOM, true);
    view.setUint32(at + 44, SKB.size, true);
    view.setUint32(at + 64, options.complete ? CHECKSUM_COMPLETE : 0, true);
    view.setUint32(this.#context + SKB.gsoSize, options.gso ? 1400 : 0, true);
    this.#xdpMark = undefined;
    view.setUint32(this.#context + SKB.ifindex, options.ifindex ?? 0, true);
    const result = this.#run(this.#attr);
    this.observed.verdict = view.getUint32(at + 4, true);
    this.observed.length = view.getUint32(at + 12, true);
    return result;
  }

  /**
   * The same for lb_xdp, in words of tc: `observed` and `mark` are what tc makes of what XDP told it. Undefined where XDP
   * passed the packet as it was and told nothing: then tc judges. Throws when such a packet was changed.
   */
  runXdp(fd: number, length: number): number | undefined {
    const { view } = this.#arena;
    const attr = this.#xdpAttr;
    const at = this.#xdpAt;
    const { observed } = this;
    view.setUint32(at, fd, true);
    view.setUint32(at + 8, length, true);
    view.setUint32(at + 12, ROOM, true);
    const result = this.#run(attr);
    if (result !== 0) return result;
    const action = view.getUint32(at + 4, true);
    observed.length = view.getUint32(at + 12, true);
    this.#xdpMark = 0;
    if (action === XDP.DROP) observed.verdict = VERDICT.DROP;
    else if (action === XDP.TX || action === XDP.REDIRECT) observed.verdict = VERDICT.REDIRECT;
    else if (action !== XDP.PASS) throw new Error(`XDP returned ${action}`);
    else {
      const told = observed.length === length + SAID.bytes;
      if (told) {
        const word = viewOf(observed.bytes).getUint32(0, true);
        observed.bytes.copyWithin(0, SAID.bytes, observed.length);
        observed.length = length;
        if (word !== 0) {
          observed.verdict = VERDICT.NEXT;
          this.#xdpMark = (word & SAID.kind) === SAID.masquerade ? MASQUERADE_MARK : 0;
          return 0;
        }
      }
      const same = observed.length === length;
      if (!same || Buffer.compare(observed.bytes.subarray(0, length), this.input.subarray(0, length)) !== 0)
        throw new Error('XDP changed a packet without a word');
      return undefined;
    }
    return 0;
  }

  #run(attr: Uint8Array): number {
    const ns = this.#netns;
    return ns === undefined ? sys(NR.bpf, TEST_RUN, attr, 80) : sysInNetns(ns, NR.bpf, TEST_RUN, attr, 80);
  }

  /** Of the last run. */
  get mark(): number {
    return this.#xdpMark ?? this.#arena.view.getUint32(this.#contextOut + SKB.mark, true);
  }
}
