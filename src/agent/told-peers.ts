/**
 * Whose word this node takes about a client's packet: the other nodes' (bpf/include/lb_tell.h). The programs compare the
 * sender's MAC address with that of the node's neighbour, so those neighbours are kept known while some Service needs it.
 */
import { type IpAddress, parseIp } from '../addr/index.ts';
import type { Log } from '../client/index.ts';
import { Rtnl, useNeigh } from '../kernel/rtnl/index.ts';
import type { Node } from '../model/kubernetes.ts';
import type { NodeServiceEngine, ServicePlan } from '../service/index.ts';
import { peerLeases } from './peers.ts';

/** The kernel forgets a neighbour that nobody used for 60 s (gc_stale_time) where there are many. */
const NEIGHBOURS_MS = 20_000;
/** Changes of Nodes are gathered: a thousand of them come at a start, and routes to peers are more urgent. */
const GATHER_MS = 10;

export interface ToldPeersOptions {
  readonly nodes: {
    readonly items: ReadonlyMap<string, Node>;
    onChange(listener: (keys: ReadonlySet<string>) => void): void;
  };
  readonly nodeName: string;
  readonly engine: Pick<NodeServiceEngine, 'setPeers'>;
  readonly plans: () => Iterable<ServicePlan>;
  readonly log: Log;
}

export class ToldPeers {
  readonly #options: ToldPeersOptions;
  readonly #timer: NodeJS.Timeout;
  #gather: NodeJS.Timeout | undefined;
  #addresses: readonly string[] = [];
  #needed = false;

  constructor(options: ToldPeersOptions) {
    this.#options = options;
    options.nodes.onChange(() => {
      this.#gather ??= setTimeout(() => this.#look(), GATHER_MS).unref();
    });
    this.#timer = setInterval(() => this.keepNeighbours(), NEIGHBOURS_MS).unref();
  }

  close(): void {
    clearInterval(this.#timer);
    clearTimeout(this.#gather);
  }

  /** Services were programmed: one of them may be the first that needs peers. */
  planned(plans: Iterable<ServicePlan>): void {
    if (!this.#needed && needsPeers(plans)) this.keepNeighbours();
  }

  /** Makes sure of the MAC addresses of nodes on this node's links, if some Service needs them. */
  keepNeighbours(): void {
    const { plans, log } = this.#options;
    this.#needed = needsPeers(plans());
    if (!this.#needed) return;
    try {
      using rtnl = Rtnl.open();
      rtnl.apply(
        this.#addresses.flatMap((text) => {
          const destination = parseIp(text);
          const ifindex = onLink(rtnl, destination);
          return ifindex === undefined ? [] : [useNeigh({ ifindex, destination })];
        }),
      );
    } catch (error) {
      log.warn({ error: (error as Error).message }, 'neighbours of other nodes');
    }
  }

  #look(): void {
    this.#gather = undefined;
    const { nodes, nodeName, engine } = this.#options;
    const { leases } = peerLeases(nodes.items.values(), nodeName);
    const addresses = leases
      .flatMap(({ endpoints }) => Object.values(endpoints).map((end) => end && String(end.publicIp)))
      .filter((address) => address !== undefined)
      .sort();
    if (addresses.join() === this.#addresses.join()) return;
    this.#addresses = addresses;
    engine.setPeers?.(addresses);
    this.keepNeighbours();
  }
}

function needsPeers(plans: Iterable<ServicePlan>): boolean {
  for (const { ports } of plans) if (ports.some(({ forwarding }) => forwarding === 'dsr-option')) return true;
  return false;
}

/** The link that an address is on; undefined behind a router. */
function onLink(rtnl: Rtnl, address: IpAddress): number | undefined {
  const route = rtnl.lookup(address);
  return route?.type === 'unicast' && !route.gateway ? route.oif : undefined;
}
