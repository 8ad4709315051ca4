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

const POD_PIN = /^pod_(\d+)_(from|to)$/;

export interface LinkOptions {
  readonly folder: string;
  readonly cgroupPath: string;
  readonly netns?: NetnsLike | undefined;
  readonly programs: ReadonlyMap<string, BpfProgram>;
}

/** The links of one engine. */
export class Links {
  readonly #options: LinkOptions;
  readonly #pods = new Set<number>();

  constructor(options: LinkOptions) {
    this.#options = options;
  }

  /** Interfaces of pods that are attached, sorted. */
  get pods(): number[] {
    return [...this.#pods].sort((a, b) => a - b);
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
      const match = POD_PIN.exec(name);
      if (match) this.#adoptPod(Number(match[1]), match[2] as 'from' | 'to', join(folder, name));
    }
  }

  /** Attaches both directions of a pod's link. Throws SERVICE_LINK_MISSING. */
  attachPod(ifindex: number): void {
    const { folder, netns } = this.#options;
    for (const direction of ['to', 'from'] as const) {
      const program = this.#program(`lb_${direction}_pod`);
      const path = join(folder, `pod_${ifindex}_${direction}`);
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
    this.#pods.add(ifindex);
  }

  detachPod(ifindex: number): void {
    for (const direction of ['from', 'to'])
      this.#release(join(this.#options.folder, `pod_${ifindex}_${direction}`));
    this.#pods.delete(ifindex);
  }

  /** Detaches everything. */
  remove(): void {
    for (const name of listPins(this.#options.folder))
      if (POD_PIN.test(name) || name.startsWith('link_')) this.#release(join(this.#options.folder, name));
    this.#pods.clear();
  }

  /** What is attached where, for `status`. */
  *describe(): Generator<{ program: BpfProgram; attachedTo: string }> {
    const { cgroupPath, folder } = this.#options;
    const pins = new Set(listPins(folder));
    for (const hook of SOCKET_HOOKS)
      if (pins.has(`link_${hook}`))
        yield { program: this.#program(`lb_${hook}`), attachedTo: `cgroup ${cgroupPath}` };
    for (const direction of ['from', 'to'])
      yield { program: this.#program(`lb_${direction}_pod`), attachedTo: `${this.#pods.size} pod links` };
  }

  /** A pod's link of an earlier process: updated, or forgotten when its interface is gone. */
  #adoptPod(ifindex: number, direction: 'from' | 'to', path: string): void {
    const link = adoptLink(path);
    if (!link) return;
    try {
      if (link.info().ifindex !== ifindex) unpin(path);
      else {
        link.update(this.#program(`lb_${direction}_pod`));
        this.#pods.add(ifindex);
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
