/**
 * Programs at links by traffic control, for kernels without tcx (< 6.6): a filter in the qdisc `clsact`. Unlike a BPF
 * link it needs no pin: it lives with its link, and whoever comes later finds it by its name and place.
 */
import { bpfError } from '../../errors/bpf.ts';
import { isNetError, kernelCause } from '../../errors/index.ts';
import {
  type BpfFilter,
  deleteBpfFilter,
  deleteClsact,
  ensureClsact,
  type FilterDirection,
  isClsact,
  Rtnl,
  replaceBpfFilter,
} from '../rtnl/index.ts';
import type { NetnsLike } from './call.ts';
import type { BpfProgram } from './prog.ts';

/**
 * Where our filters stand in each direction. Filters that somebody adds without a priority get 49152 or less,
 * counting down, and so come after them.
 */
const PRIORITY = 100;
/** "po" */
const HANDLE = 0x706f;
const NAME_PREFIX = 'portolan:';

/** A filter of ours as the kernel has it. */
export interface AttachedFilter {
  readonly ifindex: number;
  readonly direction: FilterDirection;
  /** The name that it was attached with. */
  readonly name: string;
  readonly programId: number;
}

/** Filters of ours in one network namespace: one for each direction of a link. */
export class TcFilters {
  readonly #rtnl: Rtnl;

  private constructor(rtnl: Rtnl) {
    this.#rtnl = rtnl;
  }

  static open({ netns }: { readonly netns?: NetnsLike | undefined } = {}): TcFilters {
    return new TcFilters(Rtnl.open({ netns }));
  }

  /** Links that may have filters: those with a clsact qdisc. */
  interfaces(): ReadonlySet<number> {
    return new Set(
      this.#rtnl
        .qdiscs()
        .filter(isClsact)
        .map(({ ifindex }) => ifindex),
    );
  }

  /** All filters of ours, by link. */
  list(): AttachedFilter[] {
    return [...this.interfaces()].flatMap((ifindex) =>
      (['ingress', 'egress'] as const).flatMap((direction) => this.at(ifindex, direction) ?? []),
    );
  }

  /** Our filter at one direction of a link. */
  at(ifindex: number, direction: FilterDirection): AttachedFilter | undefined {
    const filter = this.#occupant(ifindex, direction);
    if (!filter?.name.startsWith(NAME_PREFIX)) return undefined;
    return { ifindex, direction, name: filter.name.slice(NAME_PREFIX.length), programId: filter.programId };
  }

  /**
   * Attaches a program, or puts it in the place of our filter that is there, which no packet notices. Throws
   * BPF_ATTACH_FAILED (ENODEV: no such link), BPF_FILTER_TAKEN, RTNL_TC_KIND_MISSING.
   */
  attach(program: BpfProgram, ifindex: number, direction: FilterDirection): void {
    const target = `interface ${ifindex} (clsact ${direction})`;
    const occupant = this.#occupant(ifindex, direction);
    if (occupant && !occupant.name.startsWith(NAME_PREFIX))
      throw bpfError('BPF_FILTER_TAKEN', {
        program: program.name,
        target,
        owner: occupant.name || 'without a name',
      });
    if (occupant?.directAction && occupant.programId === program.info().id) return;
    const name = `${NAME_PREFIX}${program.name}`;
    const place = { ifindex, direction, priority: PRIORITY, handle: HANDLE };
    try {
      this.#rtnl.mustApply(...(occupant ? [] : [ensureClsact(ifindex)]));
      this.#rtnl.mustApply(replaceBpfFilter(place, { fd: program.fd, name }));
    } catch (error) {
      if (isNetError(error, 'RTNL_TC_KIND_MISSING') || isNetError(error, 'KERNEL_NEEDS_ROOT')) throw error;
      throw bpfError('BPF_ATTACH_FAILED', { program: program.name, target }, kernelCause(error) ?? error);
    }
  }

  /** Takes our filter away, and the qdisc with it when it holds no filter of anybody. Absent is success. */
  detach(ifindex: number, direction: FilterDirection): void {
    if (!this.at(ifindex, direction)) return;
    this.#rtnl.mustApply(deleteBpfFilter({ ifindex, direction, priority: PRIORITY, handle: HANDLE }));
    if (this.#rtnl.filterCount(ifindex) === 0) this.#rtnl.mustApply(deleteClsact(ifindex));
  }

  close(): void {
    this.#rtnl.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #occupant(ifindex: number, direction: FilterDirection): BpfFilter | undefined {
    return this.#rtnl
      .bpfFilters(ifindex, direction)
      .find((filter) => filter.priority === PRIORITY && filter.handle === HANDLE);
  }
}
