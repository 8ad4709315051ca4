/**
 * BPF links: a program attached to something, for as long as the link is open or pinned. Replacing the program of a
 * link is atomic, so no packet passes without one. BPF_LINK_CREATE (>= 5.7, XDP 5.9, netfilter 6.4, tcx 6.6).
 */
import { closeSync, openSync } from 'node:fs';
import { bpfError } from '../../errors/bpf.ts';
import { Arena, closeFd, ERRNO, errnoName, kernelFailure, NR, sys } from '../syscall/index.ts';
import { bpf, type NetnsLike, netnsFdOf, objectInfo } from './call.ts';
import { ATTACH, CMD, LINK_TYPE, PROG_TYPE } from './constants.ts';
import { openPinned, pinObject } from './pin.ts';
import type { BpfProgram } from './prog.ts';

/** What the kernel says about a link: struct bpf_link_info. */
export interface LinkInfo {
  readonly id: number;
  /** LINK_TYPE.*. */
  readonly type: number;
  /** Id of the program now attached. */
  readonly programId: number;
  /** XDP and tcx: the interface, 0 once it is gone. */
  readonly ifindex?: number;
  /** tcx and cgroup: ATTACH.*. */
  readonly attachType?: number;
  /** cgroup: its id, which is the inode number of its folder. 0 once it is gone. */
  readonly cgroupId?: bigint;
}

export type XdpMode = 'native' | 'generic';

const INFO_SIZE = 64;
const ATTR = 48;
/** if_link.h: XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE. */
const XDP_FLAGS = { generic: 2, native: 4 } as const;

export class BpfLink {
  readonly fd: number;
  /** Of an XDP link made here: how the driver runs it. */
  readonly xdpMode: XdpMode | undefined;
  readonly #label: string;
  #open = true;

  constructor(fd: number, label: string, xdpMode?: XdpMode) {
    this.fd = fd;
    this.#label = label;
    this.xdpMode = xdpMode;
  }

  info(): LinkInfo {
    const view = objectInfo(this.fd, INFO_SIZE);
    if (typeof view === 'number') return this.#fail('describe', view);
    const type = view.getUint32(0, true);
    const info = { type, id: view.getUint32(4, true), programId: view.getUint32(8, true) };
    if (type === LINK_TYPE.XDP) return { ...info, ifindex: view.getUint32(16, true) };
    if (type === LINK_TYPE.TCX)
      return { ...info, ifindex: view.getUint32(16, true), attachType: view.getUint32(20, true) };
    if (type === LINK_TYPE.CGROUP)
      return { ...info, cgroupId: view.getBigUint64(16, true), attachType: view.getUint32(24, true) };
    return info;
  }

  /** Puts another program in place of the present one, atomically; it must have the same type. */
  update(program: BpfProgram): void {
    const arena = new Arena(32);
    arena.view.setUint32(0, this.fd, true);
    arena.view.setUint32(4, program.fd, true);
    const result = bpf(CMD.LINK_UPDATE, arena.from(0, 16));
    if (result < 0) this.#fail(`put program "${program.name}" into`, result);
  }

  /** Detaches now, whoever else holds or pins the link (>= 5.10). */
  detach(): void {
    const arena = new Arena(16);
    arena.view.setUint32(0, this.fd, true);
    const result = bpf(CMD.LINK_DETACH, arena.from(0, 4));
    if (result < 0) this.#fail('detach', result);
  }

  /** Keeps the program attached under a path in a bpffs. */
  pin(path: string): void {
    pinObject(this.fd, path, `link ${this.#label}`);
  }

  /** Detaches unless the link is pinned. */
  close(): void {
    if (this.#open) closeFd(this.fd);
    this.#open = false;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #fail(action: string, result: number): never {
    throw bpfError('BPF_LINK_CALL', { action, link: this.#label }, kernelFailure(result));
  }
}

/** Opens a pinned link; undefined when nothing is pinned there. Throws BPF_PIN_MISMATCH when it is no link. */
export function adoptLink(path: string): BpfLink | undefined {
  const fd = openPinned(path, 'link');
  return fd === undefined ? undefined : new BpfLink(fd, path);
}

interface Target {
  /** A descriptor, an ifindex, or 0. */
  readonly target: number;
  readonly attachType: number;
  readonly flags?: number;
  readonly netns?: NetnsLike | undefined;
  /** Writes what follows the common 16 bytes of attr.link_create. */
  readonly extra?: (view: DataView, arena: Arena) => void;
  readonly label: string;
}

function createLink(program: BpfProgram, wanted: Target): number {
  const arena = new Arena(ATTR + 64);
  const at = arena.reserve(ATTR);
  const { view } = arena;
  view.setUint32(at, program.fd, true);
  view.setUint32(at + 4, wanted.target, true);
  view.setUint32(at + 8, wanted.attachType, true);
  view.setUint32(at + 12, wanted.flags ?? 0, true);
  wanted.extra?.(view, arena);
  return bpf(CMD.LINK_CREATE, arena.from(at, ATTR), netnsFdOf(wanted.netns));
}

function mustLink(program: BpfProgram, wanted: Target, mode?: XdpMode): BpfLink {
  const fd = createLink(program, wanted);
  if (fd < 0) failAttach(program, wanted.label, fd);
  return new BpfLink(fd, `of "${program.name}" at ${wanted.label}`, mode);
}

function failAttach(program: BpfProgram, target: string, result: number): never {
  throw bpfError('BPF_ATTACH_FAILED', { program: program.name, target }, kernelFailure(result));
}

export interface InterfaceTarget {
  /** Index of the interface in its namespace. */
  readonly ifindex: number;
  /** The namespace of the interface; default the process's own. */
  readonly netns?: NetnsLike;
}

/**
 * Attaches an XDP program. Mode `auto` (default) tries the driver first and falls back to generic mode where the
 * driver has no XDP; the link tells which it became. Throws BPF_ATTACH_FAILED (EBUSY: a program is there).
 */
export function attachXdp(
  program: BpfProgram,
  { ifindex, netns, mode = 'auto' }: InterfaceTarget & { readonly mode?: XdpMode | 'auto' },
): BpfLink {
  const target = (flags: number): Target => ({
    target: ifindex,
    attachType: ATTACH.XDP,
    flags,
    netns,
    label: `interface ${ifindex} (XDP)`,
  });
  if (mode !== 'auto') return mustLink(program, target(XDP_FLAGS[mode]), mode);
  const fd = createLink(program, target(XDP_FLAGS.native));
  if (fd >= 0) return new BpfLink(fd, `of "${program.name}" at interface ${ifindex} (XDP)`, 'native');
  const refusedByDriver = [ERRNO.EOPNOTSUPP, ERRNO.ENOTSUPP, ERRNO.EINVAL, ERRNO.E2BIG, ERRNO.ERANGE];
  if (!refusedByDriver.some((errno) => fd === -errno)) failAttach(program, target(0).label, fd);
  return mustLink(program, target(XDP_FLAGS.generic), 'generic');
}

/**
 * Attaches a program to the packets of an interface: tcx, which keeps a list of programs an interface. The direction
 * is that of the program's section, or `direction` for one in section `tc`.
 */
export function attachTcx(
  program: BpfProgram,
  options: InterfaceTarget & {
    readonly direction?: 'ingress' | 'egress';
    /** Place in the list; default last. */
    readonly position?: 'first' | 'last';
  },
): BpfLink {
  const { ifindex, netns, position = 'last' } = options;
  const { attachType } = program.kind;
  const own = attachType === ATTACH.TCX_EGRESS ? 'egress' : 'ingress';
  const direction = options.direction ?? own;
  const BPF_F_BEFORE = 8;
  return mustLink(program, {
    target: ifindex,
    attachType: direction === 'ingress' ? ATTACH.TCX_INGRESS : ATTACH.TCX_EGRESS,
    flags: position === 'first' ? BPF_F_BEFORE : 0,
    netns,
    label: `interface ${ifindex} (tcx ${direction})`,
  });
}

/** Attaches a program to all processes of a cgroup and its children; `cgroup` is a folder of a cgroup2 mount. */
export function attachCgroup(program: BpfProgram, { cgroup }: { readonly cgroup: string }): BpfLink {
  const label = `cgroup "${cgroup}"`;
  let fd: number;
  try {
    fd = openSync(cgroup, 'r');
  } catch (cause) {
    throw bpfError('BPF_ATTACH_FAILED', { program: program.name, target: label }, cause);
  }
  try {
    return mustLink(program, { target: fd, attachType: program.kind.attachType, label });
  } finally {
    closeSync(fd);
  }
}

/** Attaches a netfilter program in one namespace (>= 6.4). `hook` is NF_INET_*, 0 prerouting .. 4 postrouting. */
export function attachNetfilter(
  program: BpfProgram,
  options: {
    readonly family: 'ip4' | 'ip6';
    readonly hook: number;
    readonly priority: number;
    /** Reassemble fragments before the program; default false. */
    readonly defragment?: boolean;
    readonly netns?: NetnsLike;
  },
): BpfLink {
  const NFPROTO = { ip4: 2, ip6: 10 } as const;
  return mustLink(program, {
    target: 0,
    attachType: ATTACH.NETFILTER,
    netns: options.netns,
    label: `netfilter hook ${options.hook} of ${options.family}`,
    extra: (view) => {
      view.setUint32(16, NFPROTO[options.family], true);
      view.setUint32(20, options.hook, true);
      view.setInt32(24, options.priority, true);
      view.setUint32(28, options.defragment ? 1 : 0, true);
    },
  });
}

/** Attaches a program of section `raw_tp/NAME` or `tp_btf/NAME` to its tracepoint. */
export function attachRawTracepoint(program: BpfProgram): BpfLink {
  const ATTR_SIZE = 16;
  const { type, target } = program.kind;
  const arena = new Arena(ATTR_SIZE + target.length + 32);
  const at = arena.reserve(ATTR_SIZE);
  if (type === PROG_TYPE.RAW_TRACEPOINT) arena.point(at, arena.putString(target));
  arena.view.setUint32(at + 8, program.fd, true);
  const fd = bpf(CMD.RAW_TRACEPOINT_OPEN, arena.from(at, ATTR_SIZE));
  if (fd < 0) failAttach(program, `tracepoint "${target}"`, fd);
  return new BpfLink(fd, `of "${program.name}" at tracepoint "${target}"`);
}

/**
 * Runs a program of section `iter/...` over what it iterates, in one namespace, and returns what it printed. The
 * iterators of sockets see the namespace of their opener.
 */
export function runIterator(program: BpfProgram, options: { readonly netns?: NetnsLike } = {}): Uint8Array {
  using link = mustLink(program, { target: 0, attachType: ATTACH.TRACE_ITER, label: 'its iterator' });
  const arena = new Arena(16);
  arena.view.setUint32(0, link.fd, true);
  const fd = bpf(CMD.ITER_CREATE, arena.from(0, 8), netnsFdOf(options.netns));
  if (fd < 0) failAttach(program, 'its iterator', fd);
  try {
    const chunks: Uint8Array[] = [];
    const buffer = new Uint8Array(64 << 10);
    for (;;) {
      const length = sys(NR.read, fd, buffer, buffer.length);
      if (length === -ERRNO.EAGAIN || length === -ERRNO.EINTR) continue;
      if (length < 0) failAttach(program, `its iterator: read: ${errnoName(-length)}`, length);
      if (length === 0) return Buffer.concat(chunks);
      chunks.push(buffer.slice(0, length));
    }
  } finally {
    closeFd(fd);
  }
}
