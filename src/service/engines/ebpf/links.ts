/**
 * Where programs are attached. What is attached works on without this process; a later process finds it and puts its
 * own programs in their place, which is atomic.
 */
import { renameSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { isNetError, kernelCause, serviceError } from '../../../errors/index.ts';
import {
  adoptLink,
  attachCgroup,
  type BpfProgram,
  listPins,
  type NetnsLike,
  unpin,
} from '../../../kernel/bpf/index.ts';
import { ERRNO } from '../../../kernel/syscall/index.ts';
import {
  type InterfaceHooks,
  type InterfaceKind,
  KINDS_OF_INTERFACE,
  openInterfaceHooks,
  type Place,
  PROGRAMS,
  sidesOf,
} from './interface-hooks.ts';
import { putLink } from './pinned-link.ts';
import { type ChosenHook, type NodeHook, XdpHooks } from './xdp-hooks.ts';

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
  'sock_release',
] as const;

/** Hooks that read what the others wrote. */
const READERS: ReadonlySet<string> = new Set(['recvmsg4', 'recvmsg6', 'getpeername4', 'getpeername6']);

/** End of the names of pins that are there while programs change. A bpffs takes no dots in names. */
const BESIDE = '_beside';

export interface LinkOptions {
  readonly folder: string;
  readonly cgroupPath: string;
  readonly netns?: NetnsLike | undefined;
  readonly programs: ReadonlyMap<string, BpfProgram>;
  /** How node interfaces are to be served; default `auto`. */
  readonly nodeHook?: NodeHook | undefined;
}

/** The attachments of one engine. */
export class Links {
  readonly #options: LinkOptions;
  readonly #hooks: InterfaceHooks;
  readonly #xdp: XdpHooks;
  /** How node interfaces and tunnels are served. */
  readonly #chosen = new Map<number, ChosenHook>();
  readonly #attached: Record<InterfaceKind, Set<number>> = {
    pod: new Set(),
    node: new Set(),
    overlay: new Set(),
  };

  constructor(options: LinkOptions) {
    this.#options = options;
    this.#hooks = openInterfaceHooks(options);
    this.#xdp = new XdpHooks({ ...options, wanted: options.nodeHook ?? 'auto' });
  }

  /** Interfaces of a kind that are attached, sorted. */
  list(kind: InterfaceKind): number[] {
    return [...this.#attached[kind]].sort((a, b) => a - b);
  }

  /** Attaches to the cgroup what is not attached, and gives everything that an earlier process left the present programs. */
  open(which: 'all' | 'writers' = 'all'): void {
    const { cgroupPath } = this.#options;
    const cgroup = statSync(cgroupPath, { bigint: true }).ino;
    for (const hook of SOCKET_HOOKS)
      if (which === 'all' || !READERS.has(hook)) this.#attachSocketHook(hook, cgroup);
    for (const place of this.#hooks.list()) {
      if (which === 'writers' && place.direction === 'to') continue;
      try {
        this.#put(place);
        this.#attached[place.kind].add(place.ifindex);
        if (place.kind === 'node' && place.direction === 'from') this.attach('node', place.ifindex);
      } catch (error) {
        // Its interface has gone since it was listed.
        if (!isNetError(error, 'SERVICE_LINK_MISSING')) throw error;
      }
    }
  }

  /**
   * Attaches the present programs beside those of an earlier version wherever flows are only read: each finds the
   * flows of its own maps, and lets pass what it does not know. Where the kernel has no tcx nothing is attached.
   */
  openBeside(): void {
    const { folder, cgroupPath } = this.#options;
    this.closeBeside();
    const pins = new Set(listPins(folder));
    for (const hook of READERS) {
      if (!pins.has(`link_${hook}`)) continue;
      using link = attachCgroup(this.#program(`lb_${hook}`), { cgroup: cgroupPath });
      link.pin(`${this.#socketPin(hook)}${BESIDE}`);
    }
    for (const place of this.#hooks.list())
      if (place.direction === 'to')
        this.#hooks.attachBeside(place, this.#program(PROGRAMS[place.kind].to!), BESIDE);
  }

  /** What openBeside() attached gets the places of what it stands beside, which goes by that. */
  keepBeside(): void {
    const { folder } = this.#options;
    for (const name of listPins(folder))
      if (name.endsWith(BESIDE)) renameSync(join(folder, name), join(folder, name.slice(0, -BESIDE.length)));
  }

  /** Takes away what openBeside() attached, of this process or an earlier one. */
  closeBeside(): void {
    const { folder } = this.#options;
    for (const name of listPins(folder)) if (name.endsWith(BESIDE)) unpin(join(folder, name));
  }

  /** Attaches both directions of an interface. Throws SERVICE_LINK_MISSING. */
  attach(kind: InterfaceKind, ifindex: number): void {
    for (const { direction } of sidesOf(kind)) this.#put({ kind, ifindex, direction });
    this.#attached[kind].add(ifindex);
    // After tc, which serves what XDP passes.
    if (kind === 'node') this.#chosen.set(ifindex, this.#xdp.attach(ifindex, this.#xdpProgram()));
  }

  /** How a node interface is served. */
  chosen(ifindex: number): ChosenHook | undefined {
    return this.#chosen.get(ifindex);
  }

  detach(kind: InterfaceKind, ifindex: number): void {
    if (kind === 'node') this.#xdp.detach(ifindex);
    this.#chosen.delete(ifindex);
    for (const { direction } of sidesOf(kind).reverse()) this.#hooks.detach({ kind, ifindex, direction });
    this.#attached[kind].delete(ifindex);
  }

  /**
   * Attachments that somebody else took away or gave another program, as text. With `repair` they are made again.
   */
  foreign(repair: boolean): string[] {
    const found: string[] = [];
    const cgroup = statSync(this.#options.cgroupPath, { bigint: true }).ino;
    for (const hook of SOCKET_HOOKS) {
      const program = this.#program(`lb_${hook}`);
      using present = adoptLink(this.#socketPin(hook));
      const info = present?.info();
      if (info?.cgroupId === cgroup && info.programId === program.info().id) continue;
      found.push(`${program.name} is ${info?.cgroupId === cgroup ? 'another program' : 'not attached'}`);
      if (repair) this.#attachSocketHook(hook, cgroup);
    }
    for (const kind of KINDS_OF_INTERFACE)
      for (const ifindex of this.list(kind))
        for (const { direction, program: name } of sidesOf(kind)) {
          const place = { kind, ifindex, direction };
          const program = this.#program(name);
          if (this.#hooks.programAt(place) === program.info().id) continue;
          if (this.#hooks.isGone(ifindex)) continue;
          found.push(`${program.name} is not attached to interface ${ifindex}`);
          if (repair) this.attach(kind, ifindex);
        }
    const xdp = this.#xdpProgram();
    for (const [ifindex, { hook }] of this.#chosen) {
      if (!xdp || hook === 'tc' || this.#xdp.programAt(ifindex) === xdp.info().id) continue;
      if (this.#hooks.isGone(ifindex)) continue;
      found.push(`${xdp.name} is not attached to interface ${ifindex}`);
      if (repair) this.attach('node', ifindex);
    }
    return found;
  }

  /** Forgets interfaces that have gone; returns which. */
  dropGone(): number[] {
    const present = this.#hooks.dropGone();
    this.#xdp.dropGone();
    const gone: number[] = [];
    for (const attached of Object.values(this.#attached))
      for (const ifindex of attached)
        if (!present.has(ifindex)) {
          attached.delete(ifindex);
          this.#chosen.delete(ifindex);
          gone.push(ifindex);
        }
    return gone;
  }

  /** Detaches everything. */
  remove(): void {
    this.#xdp.detachAll();
    for (const place of this.#hooks.list()) this.#hooks.detach(place);
    for (const hook of SOCKET_HOOKS) {
      const path = this.#socketPin(hook);
      using _link = adoptLink(path);
      unpin(path);
    }
    for (const attached of Object.values(this.#attached)) attached.clear();
  }

  /** What is attached stays. */
  close(): void {
    this.#hooks.close();
  }

  /** What is attached where, for `status`. */
  *describe(): Generator<{ program: BpfProgram; attachedTo: string }> {
    const { cgroupPath, folder } = this.#options;
    const pins = new Set(listPins(folder));
    for (const hook of SOCKET_HOOKS)
      if (pins.has(`link_${hook}`))
        yield { program: this.#program(`lb_${hook}`), attachedTo: `cgroup ${cgroupPath}` };
    const xdp = this.#xdpProgram();
    if (xdp) yield { program: xdp, attachedTo: this.#describeXdp() };
    for (const kind of KINDS_OF_INTERFACE)
      for (const { program } of sidesOf(kind))
        yield {
          program: this.#program(program),
          attachedTo: `${kind} interfaces ${this.list(kind).join(', ') || 'none'} (${this.#hooks.via})`,
        };
  }

  #xdpProgram(): BpfProgram | undefined {
    const { programs } = this.#options;
    return programs.get('lb_xdp') ?? programs.get('lb_xdp_generic');
  }

  #describeXdp(): string {
    const said = [...this.#chosen]
      .sort(([a], [b]) => a - b)
      .map(([ifindex, { hook, why }]) => `${ifindex} (${hook}${why ? `: ${why}` : ''})`);
    return `node interfaces ${said.join(', ') || 'none'}`;
  }

  /** Attaches one side of an interface. Throws SERVICE_LINK_MISSING. */
  #put(place: Place): void {
    try {
      this.#hooks.attach(place, this.#program(PROGRAMS[place.kind][place.direction]!));
    } catch (error) {
      const errno = isNetError(error, 'BPF_ATTACH_FAILED') ? kernelCause(error)?.errno : undefined;
      if (errno === ERRNO.ENODEV || errno === ERRNO.EINVAL)
        throw serviceError('SERVICE_LINK_MISSING', { ifindex: place.ifindex }, error);
      throw error;
    }
  }

  /** A pinned link of this cgroup gets the program; one of another cgroup is replaced by a new one. */
  #attachSocketHook(hook: (typeof SOCKET_HOOKS)[number], cgroup: bigint): void {
    const program = this.#program(`lb_${hook}`);
    putLink(
      this.#socketPin(hook),
      program,
      (info) => info.cgroupId === cgroup,
      () => attachCgroup(program, { cgroup: this.#options.cgroupPath }),
    );
  }

  #socketPin(hook: string): string {
    return join(this.#options.folder, `link_${hook}`);
  }

  #program(name: string): BpfProgram {
    const program = this.#options.programs.get(name);
    if (!program) throw new Error(`program "${name}" is not in the objects`);
    return program;
  }
}
