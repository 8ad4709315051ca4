/**
 * The links of this node at which Services are served: those with its addresses, by which clients outside come in,
 * and tunnels to other nodes, by which backends there answer.
 */
import { parseIp } from '../addr/index.ts';
import type { Log } from '../client/index.ts';
import { isNetError } from '../errors/index.ts';
import { type Addr, type Link, Rtnl, RtnlMonitor } from '../kernel/rtnl/index.ts';
import { isDeviceName } from '../overlay/index.ts';
import { BRIDGE_NAME } from '../podlink/index.ts';
import type { NodeAddresses } from '../service/index.ts';

/** One link to serve. */
export interface WantedInterface {
  readonly ifindex: number;
  readonly kind: 'node' | 'overlay';
  /** What backends on other nodes answer to when packets go to them by this link. */
  readonly addresses: NodeAddresses;
}

const LOOPBACK = 1;
/** Addresses of a link come in groups. */
const PAUSE_MS = 100;

/** `own`: addresses of this node that clients may use; those are preferred as sources, too. */
export function wantedInterfaces(
  links: readonly Pick<Link, 'ifindex' | 'name'>[],
  addresses: readonly Pick<Addr, 'ifindex' | 'address' | 'tentative'>[],
  own: ReadonlySet<string>,
): WantedInterface[] {
  return links.flatMap(({ ifindex, name }) => {
    // By the bridge of pods nobody outside comes in.
    if (ifindex === LOOPBACK || name === BRIDGE_NAME) return [];
    const here = addresses.filter((one) => one.ifindex === ifindex && !one.tentative);
    const isOverlay = isDeviceName(name);
    if (!isOverlay && !here.some(({ address }) => own.has(String(address)))) return [];
    const pick = (family: 4 | 6) => {
      const usable = here
        .map(({ address }) => address)
        .filter((address) => address.family === family && !isLinkLocal(String(address)));
      const chosen = usable.find((address) => own.has(String(address))) ?? usable[0];
      return chosen && String(chosen);
    };
    return [{ ifindex, kind: isOverlay ? 'overlay' : 'node', addresses: { ip4: pick(4), ip6: pick(6) } }];
  });
}

function isLinkLocal(address: string): boolean {
  const { family } = parseIp(address);
  return family === 4 ? address.startsWith('169.254.') : /^fe[89ab]/.test(address);
}

/** What is told about links; the engine. */
export interface InterfaceEngine {
  attachNodeInterface(ifindex: number, addresses: NodeAddresses): void;
  attachOverlay(ifindex: number, addresses: NodeAddresses): void;
}

/** Keeps the engine at the right links. */
export class NodeInterfaces {
  readonly #engine: InterfaceEngine;
  readonly #log: Log;
  #own: ReadonlySet<string> = new Set();
  #told = '';
  #monitor: RtnlMonitor | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: { engine: InterfaceEngine; log: Log }) {
    this.#engine = options.engine;
    this.#log = options.log;
  }

  /** Attaches at once what is there. Throws SERVICE_ENGINE_OPEN, BPF_ATTACH_FAILED. */
  attach(own: readonly string[]): void {
    this.#own = new Set(own);
    this.#attach();
  }

  /** Looks again whenever a link gets or loses an address. */
  follow(): void {
    const look = () => {
      this.#timer ??= setTimeout(() => {
        this.#timer = undefined;
        try {
          this.#attach();
        } catch (error) {
          this.#log.warn(
            { error: (error as Error).message },
            'clients outside may not reach Services by a link',
          );
        }
      }, PAUSE_MS);
    };
    this.#monitor = new RtnlMonitor({ topics: ['addr'], onEvent: look, onResync: look });
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#monitor?.close();
  }

  #attach(): void {
    using rtnl = Rtnl.open();
    const wanted = wantedInterfaces(rtnl.links(), rtnl.addrs(), this.#own);
    const now = JSON.stringify(wanted);
    if (now === this.#told) return;
    for (const { ifindex, kind, addresses } of wanted)
      try {
        if (kind === 'node') this.#engine.attachNodeInterface(ifindex, addresses);
        else this.#engine.attachOverlay(ifindex, addresses);
      } catch (error) {
        // It has gone since it was listed.
        if (!isNetError(error, 'SERVICE_LINK_MISSING')) throw error;
      }
    this.#told = now;
  }
}
