/** Cuts established connections that policies forbid, soon after a change of them. */
import { Conntrack } from '../kernel/conntrack/index.ts';
import type { AddressBook } from './address-book.ts';
import type { PolicyCompiler } from './compiler.ts';
import { cutForbidden, type Judge } from './established.ts';
import { Looks } from './looks.ts';
import type { PolicyLog } from './types.ts';

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
  readonly #looks = new Looks(() => this.#cut());
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
    this.#looks.close();
  }

  /** Policies, or what they select, have changed. */
  soon(): void {
    this.#looks.soon();
  }

  #cut(): void {
    if (this.#closed) return;
    const { world, addresses, nodeAddresses, netns, log } = this.#options;
    try {
      const own = nodeAddresses();
      const isolated = [...world.isolated.values()].flatMap(({ unknown, local }) =>
        unknown ? [] : local.addresses,
      );
      if (isolated.length === 0) return;
      const names = new Set(isolated.map(String));
      const judge: Judge = {
        world,
        endpoint: (address) => addresses.endpoint(address, own),
        isIsolated: (address) => names.has(String(address)),
      };
      using conntrack = Conntrack.open({ netns });
      const count = cutForbidden(conntrack, judge, isolated);
      this.#count += count;
      if (count > 0) log?.info({ count }, 'connections that policies forbid were cut');
    } catch (error) {
      log?.warn({ error: (error as Error).message }, 'established connections were not checked');
      this.#looks.again();
    }
  }
}
