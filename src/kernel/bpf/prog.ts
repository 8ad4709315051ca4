/** A loaded BPF program: what the kernel says about it, and running it on test data. */
import { bpfError } from '../../errors/bpf.ts';
import { Arena, closeFd, ERRNO, kernelFailure } from '../syscall/index.ts';
import { bpf, objectInfo, textOf } from './call.ts';
import { CMD } from './constants.ts';
import { pinObject } from './pin.ts';
import type { ProgramKind } from './sections.ts';

/** What the kernel says about a program: struct bpf_prog_info. */
export interface ProgramInfo {
  readonly id: number;
  /** PROG_TYPE.*. */
  readonly type: number;
  readonly name: string;
  /** 16 hex digits over the instructions; equal programs have equal tags. */
  readonly tag: string;
  /** Bytes of the program after the verifier's rewriting, and of machine code. */
  readonly translatedBytes: number;
  readonly jitedBytes: number;
  /** Instructions that the verifier walked through, all paths together (>= 5.16, else 0). */
  readonly verifiedInstructions: number;
  /** Totals while statistics are enabled, see `enableRunStats`. */
  readonly runTimeNs: bigint;
  readonly runCount: bigint;
}

/** A test run: BPF_PROG_TEST_RUN. */
export interface TestRun {
  /** Packet from the Ethernet header on, at least 14 bytes; for types without packets leave it out. */
  readonly data?: Uint8Array;
  /** The context structure, e.g. a __sk_buff or xdp_md. */
  readonly context?: Uint8Array;
  /** How often; default 1. */
  readonly repeat?: number;
  /** Room for the packet afterwards, in bytes; default 4096 more than `data`. 0: neither it nor the context comes back. */
  readonly outputBytes?: number;
  readonly flags?: number;
  readonly cpu?: number;
}

export interface TestResult {
  readonly returned: number;
  /** The packet afterwards. */
  readonly data: Uint8Array;
  readonly context: Uint8Array;
  /** Mean time of one run in nanoseconds. */
  readonly durationNs: number;
}

const INFO_SIZE = 232;
const RUN_ATTR = 80;

export class BpfProgram {
  readonly fd: number;
  readonly name: string;
  /** From the section's name; of an adopted program only its type is known. */
  readonly kind: ProgramKind;
  #open = true;

  constructor(fd: number, name: string, kind: ProgramKind) {
    this.fd = fd;
    this.name = name;
    this.kind = kind;
  }

  /** Wraps the descriptor of an existing program. */
  static fromFd(fd: number): BpfProgram {
    const info = readInfo(fd);
    if (typeof info === 'number') {
      closeFd(fd);
      throw bpfError('BPF_RUN_FAILED', { program: `fd ${fd}` }, kernelFailure(info));
    }
    return new BpfProgram(fd, info.name, { type: info.type, attachType: 0, flags: 0, target: '' });
  }

  info(): ProgramInfo {
    const info = readInfo(this.fd);
    if (typeof info === 'number')
      throw bpfError('BPF_RUN_FAILED', { program: this.name }, kernelFailure(info));
    return info;
  }

  /** Runs the program on given data without any interface. Throws BPF_RUN_FAILED. */
  run(test: TestRun = {}): TestResult {
    const input = test.data ?? new Uint8Array(0);
    const context = test.context ?? new Uint8Array(0);
    const room = test.data ? (test.outputBytes ?? input.length + 4096) : 0;
    const arena = new Arena(RUN_ATTR + input.length + context.length * 2 + room + 64);
    const attr = arena.reserve(RUN_ATTR);
    const { view } = arena;
    view.setUint32(attr, this.fd, true);
    // Programs without packets refuse a count.
    view.setUint32(attr + 32, test.repeat ?? (test.data ? 1 : 0), true);
    view.setUint32(attr + 64, test.flags ?? 0, true);
    view.setUint32(attr + 68, test.cpu ?? 0, true);
    let outAt = 0;
    let contextAt = 0;
    if (test.data) {
      view.setUint32(attr + 8, input.length, true);
      view.setUint32(attr + 12, room, true);
      arena.point(attr + 16, arena.put(input));
      outAt = arena.reserve(room);
      // Frames that go their own way come back to nobody: the kernel refuses even an empty buffer for them.
      if (room > 0) arena.point(attr + 24, outAt);
    }
    if (test.context) {
      view.setUint32(attr + 40, context.length, true);
      contextAt = arena.put(context);
      arena.point(attr + 48, contextAt);
      // Programs of type syscall write into their input and refuse an output buffer.
      if (test.data && room > 0) {
        contextAt = arena.reserve(context.length);
        view.setUint32(attr + 44, context.length, true);
        arena.point(attr + 56, contextAt);
      }
    }
    let result: number;
    do result = bpf(CMD.PROG_TEST_RUN, arena.from(attr, RUN_ATTR));
    while (result === -ERRNO.EINTR);
    if (result < 0) throw bpfError('BPF_RUN_FAILED', { program: this.name }, kernelFailure(result));
    return {
      returned: view.getUint32(attr + 4, true),
      data: arena.from(outAt, room > 0 ? view.getUint32(attr + 12, true) : 0).slice(),
      context: arena
        .from(
          contextAt,
          test.data && test.context && room > 0 ? view.getUint32(attr + 44, true) : context.length,
        )
        .slice(),
      durationNs: view.getUint32(attr + 36, true),
    };
  }

  /** Keeps the program alive under a path in a bpffs. */
  pin(path: string): void {
    pinObject(this.fd, path, `program "${this.name}"`);
  }

  close(): void {
    if (this.#open) closeFd(this.fd);
    this.#open = false;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Counts runs and run time of all programs while the returned descriptor is open: BPF_ENABLE_STATS (>= 5.8). */
export function enableRunStats(): { close(): void } {
  const attr = new Uint8Array(4);
  const fd = bpf(CMD.ENABLE_STATS, attr);
  if (fd < 0) throw bpfError('BPF_RUN_FAILED', { program: 'statistics' }, kernelFailure(fd));
  return { close: () => closeFd(fd) };
}

function readInfo(fd: number): ProgramInfo | number {
  const view = objectInfo(fd, INFO_SIZE);
  if (typeof view === 'number') return view;
  const bytes = new Uint8Array(view.buffer, view.byteOffset, INFO_SIZE);
  return {
    type: view.getUint32(0, true),
    id: view.getUint32(4, true),
    tag: Buffer.from(bytes.subarray(8, 16)).toString('hex'),
    jitedBytes: view.getUint32(16, true),
    translatedBytes: view.getUint32(20, true),
    name: textOf(bytes.subarray(64, 80)),
    runTimeNs: view.getBigUint64(192, true),
    runCount: view.getBigUint64(200, true),
    verifiedInstructions: view.getUint32(216, true),
  };
}
