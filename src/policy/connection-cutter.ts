/** Cuts established connections that policies forbid, soon after a change of them. */
import { Conntrack } from '../kernel/conntrack/index.ts';
import type { AddressBook } from './address-book.ts';
import type { PolicyCompiler } from './compiler.ts';
import { cutForbidden, type Judge } from './established.ts';
import type { PolicyLog } from './types.ts';

/** A burst of changes makes one look at connection tracking; a second look finds what was on its way meanwhile. */
const CUT_AFTER_MS = [5, 1000] as const;

export interface CutterOptions {
  readonly world: PolicyCompiler;
  readonly addresses: AddressBook;
  /** Addresses of this node's interfaces now. */
  readonly nodeAddresses: () => ReadonlySet<string>;
  readonly netns?: number | { readonly fd: number } | undefined;
  readonly log?: PolicyLog | undefined;
}

export class ConnectionCutter {
  readonly #options: CutterOptions;
  readonly #timers = new Set<NodeJS.Timeout>();
  #count = 0;
  #closed = false;

  constructor(options: CutterOptions) {
    this.#options = options;
  }

  /** Connections cut since the start. */
  get count(): number {
    return this.#count;
  }

  close(): void {
    this.#closed = true;
    this.#stop();
  }

  soon(): void {
    this.#stop();
    for (const ms of CUT_AFTER_MS) {
      const timer = setTimeout(() => {
        this.#timers.delete(timer);
        this.#cut();
      }, ms);
      timer.unref();
      this.#timers.add(timer);
    }
  }

  #stop(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
  }

  #cut(): void {
    if (this.#closed) return;
    const { world, addresses, nodeAddresses, netns, log } = this.#options;
    try {
      const own = nodeAddresses();
      const isolated = new Set(
        [...world.isolated.values()].flatMap(({ unknown, local }) =>
          unknown ? [] : local.addresses.map(String),
        ),
      );
      if (isolated.size === 0) return;
      const judge: Judge = {
        world,
        endpoint: (address) => addresses.endpoint(address, own),
        isIsolated: (address) => isolated.has(String(address)),
      };
      using conntrack = Conntrack.open({ netns });
      const count = cutForbidden(conntrack, judge);
      this.#count += count;
      if (count > 0) log?.info({ count }, 'connections that policies forbid were cut');
    } catch (error) {
      log?.warn({ error: (error as Error).message }, 'established connections were not checked');
    }
  }
}
