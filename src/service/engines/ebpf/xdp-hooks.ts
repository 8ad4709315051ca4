/**
 * lb_xdp at node interfaces: in the driver where that takes it and can send, too. Elsewhere the programs of tc do all
 * the work: generic XDP makes every packet linear and copies it, which costs more than tc does, so it is only used
 * where somebody asks for it.
 */
import { join } from 'node:path';
import { isNetError, kernelCause } from '../../../errors/index.ts';
import {
  adoptLink,
  attachXdp,
  type BpfProgram,
  bpfFeatures,
  listPins,
  type NetnsLike,
  unpin,
  type XdpMode,
} from '../../../kernel/bpf/index.ts';
import { XDP_ACT, xdpFeatures } from '../../../kernel/netdev/index.ts';
import { Rtnl } from '../../../kernel/rtnl/index.ts';
import { ERRNO, errnoName } from '../../../kernel/syscall/index.ts';
import { putLink } from './pinned-link.ts';

/** What is asked for: `auto` is native where it works, else tc. */
export type NodeHook = 'auto' | 'native' | 'generic' | 'tc';

export const NODE_HOOKS: readonly NodeHook[] = ['auto', 'native', 'generic', 'tc'];

/** How one interface is served. */
export interface ChosenHook {
  readonly hook: 'native' | 'generic' | 'tc';
  /** Why not native; undefined when it is, or when something else was asked for. */
  readonly why: string | undefined;
  /** Whether what XDP redirects to this interface is sent. */
  readonly sends: boolean;
  /**
   * Whether what XDP_TX turns back is sent. On a veth it lies in the peer's queue until something else wakes that,
   * unless the peer has an XDP program itself (veth_xdp_flush() asks for that, veth_xdp_xmit() only for NAPI).
   */
  readonly turns: boolean;
}

const PIN = /^xdp_(native|generic)_(\d+)$/;

export class XdpHooks {
  readonly #folder: string;
  readonly #netns: NetnsLike | undefined;
  readonly #wanted: NodeHook;

  constructor(options: { folder: string; netns?: NetnsLike | undefined; wanted: NodeHook }) {
    this.#folder = options.folder;
    this.#netns = options.netns;
    this.#wanted = options.wanted;
  }

  /** Attaches, or gives what is there this program. Never fails for want of XDP: tc serves, and `why` tells. */
  attach(ifindex: number, program: BpfProgram | undefined): ChosenHook {
    const wanted = this.#wanted;
    const features = xdpFeatures(ifindex, this.#netns);
    const sends = wanted === 'generic' || ((features ?? 0n) & XDP_ACT.NDO_XMIT) !== 0n;
    const tc = (why: string | undefined): ChosenHook => {
      this.detach(ifindex);
      return { hook: 'tc', why, sends, turns: false };
    };
    if (wanted === 'tc') return tc(undefined);
    if (!program || bpfFeatures.xdpLinks.available() === false) return tc('this kernel has no XDP links');
    if (wanted !== 'generic' && !sends)
      return tc(
        features === undefined
          ? 'the kernel does not tell whether its driver sends from XDP (Linux >= 6.3)'
          : 'its driver does not send from XDP (a veth: its peer needs "ethtool -K PEER gro on")',
      );
    const mode: XdpMode = wanted === 'generic' ? 'generic' : 'native';
    this.#detachOther(ifindex, mode);
    try {
      this.#put(ifindex, mode, program);
      return { hook: mode, why: undefined, sends, turns: mode === 'generic' || !this.#isVeth(ifindex) };
    } catch (error) {
      if (!isNetError(error, 'BPF_ATTACH_FAILED')) throw error;
      const errno = kernelCause(error)?.errno;
      if (errno === ERRNO.EBUSY) return tc('another XDP program is there');
      return tc(`its driver refuses: ${errno === undefined ? error.message : errnoName(errno)}`);
    }
  }

  /** Id of the program at the interface; undefined where there is none of ours. */
  programAt(ifindex: number): number | undefined {
    for (const { name, ifindex: at } of this.#pinned())
      if (at === ifindex) {
        using link = adoptLink(join(this.#folder, name));
        const info = link?.info();
        return info?.ifindex === ifindex ? info.programId : undefined;
      }
    return undefined;
  }

  /** Detached or absent is success. */
  detach(ifindex: number): void {
    this.#detachOther(ifindex, undefined);
  }

  detachAll(): void {
    for (const { ifindex } of this.#pinned()) this.detach(ifindex);
  }

  /** A pin outlives its interface. */
  dropGone(): void {
    for (const { name, ifindex } of this.#pinned()) {
      const path = join(this.#folder, name);
      using link = adoptLink(path);
      if (link?.info().ifindex !== ifindex) unpin(path);
    }
  }

  #isVeth(ifindex: number): boolean {
    using rtnl = Rtnl.open({ netns: this.#netns });
    return rtnl.link(ifindex)?.kind === 'veth';
  }

  #put(ifindex: number, mode: XdpMode, program: BpfProgram): void {
    const path = join(this.#folder, `xdp_${mode}_${ifindex}`);
    const netns = this.#netns;
    putLink(
      path,
      program,
      (info) => info.ifindex === ifindex,
      () => attachXdp(program, { ifindex, mode, ...(netns === undefined ? {} : { netns }) }),
    );
  }

  #detachOther(ifindex: number, kept: XdpMode | undefined): void {
    for (const { name, ifindex: at, mode } of this.#pinned()) {
      if (at !== ifindex || mode === kept) continue;
      const path = join(this.#folder, name);
      using _link = adoptLink(path);
      unpin(path);
    }
  }

  #pinned(): { name: string; ifindex: number; mode: XdpMode }[] {
    return listPins(this.#folder).flatMap((name) => {
      const [, mode, ifindex] = PIN.exec(name) ?? [];
      return ifindex === undefined ? [] : { name, ifindex: Number(ifindex), mode: mode as XdpMode };
    });
  }
}
