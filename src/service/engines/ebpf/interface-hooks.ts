/**
 * Two ways to put programs at the packets of an interface: tcx links (Linux >= 6.6), pinned in the engine's folder,
 * and filters of traffic control before that. Both outlive the process, are found by the next one, and change their
 * program without losing a packet.
 */
import { join } from 'node:path';
import {
  adoptLink,
  attachTcx,
  type BpfProgram,
  bpfFeatures,
  listPins,
  type NetnsLike,
  TcFilters,
  unpin,
} from '../../../kernel/bpf/index.ts';
import { Rtnl } from '../../../kernel/rtnl/index.ts';
import { putLink } from './pinned-link.ts';

/**
 * Interfaces whose packets the programs see. Pins are named `pod_4_from`; programs `lb_from_pod`: what a program
 * translates comes from the pod, from outside, or from other nodes by a tunnel.
 */
export type InterfaceKind = 'pod' | 'node' | 'overlay';
export type Direction = 'from' | 'to';

/** One side of an interface. */
export interface Place {
  readonly kind: InterfaceKind;
  readonly ifindex: number;
  readonly direction: Direction;
}

/** A direction before the one that makes flows for it. */
export const PROGRAMS: Readonly<Record<InterfaceKind, Readonly<Partial<Record<Direction, string>>>>> = {
  pod: { to: 'lb_to_pod', from: 'lb_from_pod' },
  node: { to: 'lb_to_outside', from: 'lb_from_outside' },
  overlay: { from: 'lb_from_overlay' },
};

export const KINDS_OF_INTERFACE: readonly InterfaceKind[] = ['pod', 'node', 'overlay'];

/** The sides of an interface that have a program, in the order in which to attach them. */
export function sidesOf(kind: InterfaceKind): { direction: Direction; program: string }[] {
  return Object.entries(PROGRAMS[kind]).map(([direction, program]) => ({
    direction: direction as Direction,
    program,
  }));
}

/** How programs stand at interfaces. */
export interface InterfaceHooks {
  /** For `status`. */
  readonly via: 'tcx' | 'clsact';
  /** Places that have a program of ours, put there by whichever process. */
  list(): Place[];
  /** Attaches, or puts the program in the place of the present one. Throws BPF_ATTACH_FAILED (no such interface: ENODEV, EINVAL). */
  attach(place: Place, program: BpfProgram): void;
  /** Attaches another program to the same packets, pinned under the place's name with this end. */
  attachBeside(place: Place, program: BpfProgram, end: string): void;
  /** Detached or absent is success. */
  detach(place: Place): void;
  /** Id of the program of ours that packets meet at this place; undefined when there is none. */
  programAt(place: Place): number | undefined;
  /** Whether the interface does not exist. */
  isGone(ifindex: number): boolean;
  /** Forgets interfaces that have gone; returns those of ours that are there, perhaps among others. */
  dropGone(): ReadonlySet<number>;
  close(): void;
}

export interface InterfaceHookOptions {
  /** Folder of the pins. */
  readonly folder: string;
  readonly netns?: NetnsLike | undefined;
}

function isGone({ netns }: InterfaceHookOptions, ifindex: number): boolean {
  using rtnl = Rtnl.open({ netns });
  return rtnl.link(ifindex) === undefined;
}

/** The hooks that this kernel has. */
export function openInterfaceHooks(options: InterfaceHookOptions): InterfaceHooks {
  return bpfFeatures.tcx.available() === false ? new ClsactHooks(options) : new TcxHooks(options);
}

const PIN = /^(pod|node|overlay)_(\d+)_(from|to)$/;

class TcxHooks implements InterfaceHooks {
  readonly via = 'tcx';
  readonly #options: InterfaceHookOptions;

  constructor(options: InterfaceHookOptions) {
    this.#options = options;
  }

  list(): Place[] {
    this.dropGone();
    return this.#pinned();
  }

  attach(place: Place, program: BpfProgram): void {
    const { ifindex } = place;
    const { netns } = this.#options;
    putLink(
      this.#path(place),
      program,
      (info) => info.ifindex === ifindex,
      () => attachTcx(program, { ifindex, ...(netns === undefined ? {} : { netns }) }),
    );
  }

  attachBeside(place: Place, program: BpfProgram, end: string): void {
    const { netns } = this.#options;
    const { ifindex } = place;
    using link = attachTcx(program, { ifindex, ...(netns === undefined ? {} : { netns }) });
    link.pin(`${this.#path(place)}${end}`);
  }

  detach(place: Place): void {
    const path = this.#path(place);
    using _link = adoptLink(path);
    unpin(path);
  }

  programAt(place: Place): number | undefined {
    using link = adoptLink(this.#path(place));
    const info = link?.info();
    return info?.ifindex === place.ifindex ? info.programId : undefined;
  }

  isGone(ifindex: number): boolean {
    return isGone(this.#options, ifindex);
  }

  /** The kernel has detached their programs, but a pin keeps what is pinned. */
  dropGone(): ReadonlySet<number> {
    const present = new Set<number>();
    for (const place of this.#pinned()) {
      const path = this.#path(place);
      using link = adoptLink(path);
      if (link?.info().ifindex === place.ifindex) present.add(place.ifindex);
      else unpin(path);
    }
    return present;
  }

  close(): void {}

  #pinned(): Place[] {
    return listPins(this.#options.folder).flatMap((name) => {
      const [, kind, ifindex, direction] = PIN.exec(name) ?? [];
      return ifindex === undefined
        ? []
        : { kind: kind as InterfaceKind, ifindex: Number(ifindex), direction: direction as Direction };
    });
  }

  #path({ kind, ifindex, direction }: Place): string {
    return join(this.#options.folder, `${kind}_${ifindex}_${direction}`);
  }
}

/** What a program translates comes in by its interface. */
const SIDE = { from: 'ingress', to: 'egress' } as const;

class ClsactHooks implements InterfaceHooks {
  readonly via = 'clsact';
  readonly #options: InterfaceHookOptions;
  readonly #filters: TcFilters;

  constructor(options: InterfaceHookOptions) {
    this.#options = options;
    this.#filters = TcFilters.open({ netns: options.netns });
  }

  list(): Place[] {
    return this.#filters.list().flatMap(({ ifindex, name }) => {
      for (const kind of KINDS_OF_INTERFACE)
        for (const { direction, program } of sidesOf(kind))
          if (name === program) return { kind, ifindex, direction };
      return [];
    });
  }

  attach({ ifindex, direction }: Place, program: BpfProgram): void {
    this.#filters.attach(program, ifindex, SIDE[direction]);
  }

  /** There is one filter of ours a direction: packets of the moment between two programs are repeated. */
  attachBeside(): void {}

  detach({ kind, ifindex, direction }: Place): void {
    const side = SIDE[direction];
    // The interface's number may have passed to one of the other kind meanwhile.
    if (this.#filters.at(ifindex, side)?.name === PROGRAMS[kind][direction])
      this.#filters.detach(ifindex, side);
  }

  programAt({ kind, ifindex, direction }: Place): number | undefined {
    const filter = this.#filters.at(ifindex, SIDE[direction]);
    return filter && filter.name === PROGRAMS[kind][direction] ? filter.programId : undefined;
  }

  isGone(ifindex: number): boolean {
    return isGone(this.#options, ifindex);
  }

  /** Filters go with their links. */
  dropGone(): ReadonlySet<number> {
    return this.#filters.interfaces();
  }

  close(): void {
    this.#filters.close();
  }
}
