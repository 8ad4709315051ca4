import type { Cidr, IpAddress } from '../addr/index.ts';
import type { Log } from '../client/index.ts';
import { Rtnl, RtnlMonitor } from '../kernel/rtnl/index.ts';

/** Each pod's link brings two addresses: those of many pods at once are looked at together. */
const PAUSE_MS = 100;

/** Follows the addresses of all links of this node. */
export class LocalAddresses {
  readonly #except: readonly Cidr[];
  readonly #log: Log;
  #now: readonly IpAddress[];
  #monitor: RtnlMonitor | undefined;
  #timer: NodeJS.Timeout | undefined;

  /** `except`: networks of pods, whose addresses are the overlay's own. */
  constructor(options: { except: readonly Cidr[]; log: Log }) {
    this.#except = options.except;
    this.#log = options.log;
    this.#now = this.#read();
  }

  get now(): readonly IpAddress[] {
    return this.#now;
  }

  /** Calls the listener after each change. */
  follow(onChange: () => void): void {
    const look = () => {
      this.#timer ??= setTimeout(() => {
        this.#timer = undefined;
        try {
          const before = this.#now.map(String).join();
          this.#now = this.#read();
          if (this.#now.map(String).join() !== before) onChange();
        } catch (error) {
          this.#log.warn({ error: (error as Error).message }, 'addresses of this node');
        }
      }, PAUSE_MS);
    };
    this.#monitor = new RtnlMonitor({ topics: ['addr'], onEvent: look, onResync: look });
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#monitor?.close();
  }

  #read(): IpAddress[] {
    using rtnl = Rtnl.open();
    return rtnl
      .addrs()
      .map(({ address }) => address)
      .filter((address) => !this.#except.some((cidr) => cidr.contains(address)));
  }
}
