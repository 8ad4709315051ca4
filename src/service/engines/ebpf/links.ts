/**
 * Where programs are attached. Links are pinned, so that programs work on without this process; a later process
 * finds them by their names and puts its own programs in their place, which is atomic.
 */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { isNetError, kernelCause, serviceError } from '../../../errors/index.ts';
import {
  adoptLink,
  attachCgroup,
  attachTcx,
  type BpfLink,
  type BpfProgram,
  listPins,
  type NetnsLike,
  unpin,
} from '../../../kernel/bpf/index.ts';
import { ERRNO } from '../../../kernel/syscall/index.ts';

/** Programs of sockets, by the hook in the pin's name. */
export const SOCKET_HOOKS = [
  'connect4',
  'connect6',
  'sendmsg4',
  'sendmsg6',
  'recvmsg4',
  'recvmsg6',
  'getpeername4',
  'getpeername6',
] as const;

/**
 * Interfaces whose packets the programs see. Pins are named `pod_4_from`; programs `lb_from_pod`: what a program
 * translates comes from the pod, or from outside.
 */
export type InterfaceKind = 'pod' | 'node';

const INTERFACE_PIN = /^(pod|node)_(\d+)_(from|to)$/;
const PROGRAMS = {
  pod: { from: 'lb_from_pod', to: 'lb_to_pod' },
  node: { from: 'lb_from_outside', to: 'lb_to_outside' },
} as const;
type Direction = 'from' | 'to';

export interface LinkOptions {
  readonly folder: string;
  readonly cgroupPath: string;
  readonly netns?: NetnsLike | undefined;
  readonly programs: ReadonlyMap<string, BpfProgram>;
}

/** The links of one engine. */
export class Links {
  readonly #options: LinkOptions;
  readonly #attached = { pod: new Set<number>(), node: new Set<number>() };

  constructor(options: LinkOptions) {
    this.#options = options;
  }

  /** Interfaces of a kind that are attached, sorted. */
  list(kind: InterfaceKind): number[] {
    return [...this.#attached[kind]].sort((a, b) => a - b);
  }

  /** Attaches to the cgroup what is not attached, and gives everything that is pinned the present programs. */
  open(): void {
    const { folder, cgroupPath } = this.#options;
    const cgroup = statSync(cgroupPath, { bigint: true }).ino;
    for (const hook of SOCKET_HOOKS) {
      const program = this.#program(`lb_${hook}`);
      this.#ensure(
        join(folder, `link_${hook}`),
        program,
        (link) => link.info().cgroupId === cgroup,
        () => attachCgroup(program, { cgroup: cgroupPath }),
      );
    }
    for (const name of listPins(folder)) {
      const match = INTERFACE_PIN.exec(name);
      if (match)
        this.#adopt(match[1] as InterfaceKind, Number(match[2]), match[3] as Direction, join(folder, name));
    }
  }

  /** Attaches both directions of an interface. Throws SERVICE_LINK_MISSING. */
  attach(kind: InterfaceKind, ifindex: number): void {
    const { folder, netns } = this.#options;
    for (const direction of ['to', 'from'] as const) {
      const program = this.#program(PROGRAMS[kind][direction]);
      const path = join(folder, `${kind}_${ifindex}_${direction}`);
      try {
        this.#ensure(
          path,
          program,
          (link) => link.info().ifindex === ifindex,
          () => attachTcx(program, { ifindex, ...(netns === undefined ? {} : { netns }) }),
        );
      } catch (error) {
        const errno = isNetError(error, 'BPF_ATTACH_FAILED') ? kernelCause(error)?.errno : undefined;
        if (errno === ERRNO.ENODEV || errno === ERRNO.EINVAL)
          throw serviceError('SERVICE_LINK_MISSING', { ifindex }, error);
        throw error;
      }
    }
    this.#attached[kind].add(ifindex);
  }

  detach(kind: InterfaceKind, ifindex: number): void {
    for (const direction of ['from', 'to'])
      this.#release(join(this.#options.folder, `${kind}_${ifindex}_${direction}`));
    this.#attached[kind].delete(ifindex);
  }

  /** Forgets interfaces that have gone; the kernel has detached their programs, but a pin keeps what is pinned. */
  dropGone(): void {
    for (const name of listPins(this.#options.folder)) {
      const match = INTERFACE_PIN.exec(name);
      const path = join(this.#options.folder, name);
      const link = match ? adoptLink(path) : undefined;
      if (!match || !link) continue;
      try {
        if (link.info().ifindex === Number(match[2])) continue;
        unpin(path);
        this.#attached[match[1] as InterfaceKind].delete(Number(match[2]));
      } finally {
        link.close();
      }
    }
  }

  /** Detaches everything. */
  remove(): void {
    for (const name of listPins(this.#options.folder))
      if (INTERFACE_PIN.test(name) || name.startsWith('link_'))
        this.#release(join(this.#options.folder, name));
    this.#attached.pod.clear();
    this.#attached.node.clear();
  }

  /** What is attached where, for `status`. */
  *describe(): Generator<{ program: BpfProgram; attachedTo: string }> {
    const { cgroupPath, folder } = this.#options;
    const pins = new Set(listPins(folder));
    for (const hook of SOCKET_HOOKS)
      if (pins.has(`link_${hook}`))
        yield { program: this.#program(`lb_${hook}`), attachedTo: `cgroup ${cgroupPath}` };
    for (const kind of ['pod', 'node'] as const)
      for (const direction of ['from', 'to'] as const)
        yield {
          program: this.#program(PROGRAMS[kind][direction]),
          attachedTo: `${kind} interfaces ${this.list(kind).join(', ') || 'none'}`,
        };
  }

  /** A link of an earlier process: updated, or forgotten when its interface is gone. */
  #adopt(kind: InterfaceKind, ifindex: number, direction: Direction, path: string): void {
    const link = adoptLink(path);
    if (!link) return;
    try {
      if (link.info().ifindex !== ifindex) unpin(path);
      else {
        link.update(this.#program(PROGRAMS[kind][direction]));
        this.#attached[kind].add(ifindex);
      }
    } finally {
      link.close();
    }
  }

  /** A pinned link that fits gets the program; one that does not is replaced by a new one. */
  #ensure(path: string, program: BpfProgram, fits: (link: BpfLink) => boolean, attach: () => BpfLink): void {
    const present = adoptLink(path);
    if (present) {
      try {
        if (fits(present)) {
          present.update(program);
          return;
        }
        unpin(path);
      } finally {
        present.close();
      }
    }
    const link = attach();
    try {
      link.pin(path);
    } finally {
      link.close();
    }
  }

  #release(path: string): void {
    const link = adoptLink(path);
    unpin(path);
    link?.close();
  }

  #program(name: string): BpfProgram {
    const program = this.#options.programs.get(name);
    if (!program) throw new Error(`program "${name}" is not in the objects`);
    return program;
  }
}
