import { AF, NETLINK, NetlinkMonitor, type NlMessage } from '../netlink/index.ts';
import { type Addr, RTM_ADDR, readAddr } from './addr.ts';
import { type BridgePort, type Link, linkFamily, RTM_LINK, readBridgePort, readLink } from './link.ts';
import { type Fdb, isFdb, type Neigh, RTM_NEIGH, readFdb, readNeigh } from './neigh.ts';
import { type Route, RTM_ROUTE, readRoute } from './route.ts';
import { RTM_RULE, type Rule, readRule } from './rule.ts';

/** Multicast groups of rtnetlink.h by what they tell. */
const GROUPS = {
  link: [1],
  port: [1],
  neigh: [3],
  addr: [5, 9],
  route: [7, 11],
  rule: [8, 19],
} as const;

export type RtnlTopic = keyof typeof GROUPS;

/** One change that somebody made, this process included (see `RtnlMonitorOptions.ignore`). */
export type RtnlEvent = { readonly deleted: boolean } & (
  | { readonly topic: 'link'; readonly link: Link }
  /** A port of a bridge changed, or left it (`deleted`; the link itself lives on). */
  | { readonly topic: 'port'; readonly port: BridgePort }
  | { readonly topic: 'addr'; readonly addr: Addr }
  | { readonly topic: 'route'; readonly route: Route }
  | { readonly topic: 'neigh'; readonly neigh: Neigh }
  | { readonly topic: 'fdb'; readonly fdb: Fdb }
  | { readonly topic: 'rule'; readonly rule: Rule }
);

export interface RtnlMonitorOptions {
  readonly netns?: number | { readonly fd: number } | undefined;
  /** Default all; FDB entries come with `neigh`. */
  readonly topics?: readonly RtnlTopic[] | undefined;
  /** Changes made through these (`Rtnl.port`) are not told; what the kernel does in consequence still is. */
  readonly ignore?: readonly number[] | undefined;
  readonly onEvent: (event: RtnlEvent) => void;
  /** Events were lost: read everything anew. */
  readonly onResync: (reason: string) => void;
}

/** Tells every change of the tables of a namespace, in both families. */
export class RtnlMonitor {
  readonly #monitor: NetlinkMonitor;

  constructor({ netns, topics, ignore, onEvent, onResync }: RtnlMonitorOptions) {
    const wanted = topics ?? (Object.keys(GROUPS) as RtnlTopic[]);
    // Links and ports come in one group, which is where the kernel's filter ends.
    const isWanted = ({ topic }: RtnlEvent) =>
      (topic !== 'link' && topic !== 'port') || wanted.includes(topic);
    this.#monitor = new NetlinkMonitor({
      netns,
      protocol: NETLINK.ROUTE,
      groups: [...new Set(wanted.flatMap((topic) => [...GROUPS[topic]]))],
      ignore,
      onMessage(message) {
        const event = readEvent(message);
        if (event && isWanted(event)) onEvent(event);
      },
      onResync,
    });
  }

  close(): void {
    this.#monitor.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** The event in a notification; undefined for one that says nothing about the tables. */
export function readEvent({ type, body }: Pick<NlMessage, 'type' | 'body'>): RtnlEvent | undefined {
  switch (type) {
    case RTM_LINK.NEW:
    case RTM_LINK.DEL:
      if (linkFamily(body) === AF.BRIDGE)
        return { topic: 'port', deleted: type === RTM_LINK.DEL, port: readBridgePort(body) };
      if (linkFamily(body) !== AF.UNSPEC) return undefined;
      return { topic: 'link', deleted: type === RTM_LINK.DEL, link: readLink(body) };
    case RTM_ADDR.NEW:
    case RTM_ADDR.DEL: {
      const addr = readAddr(body);
      return addr && { topic: 'addr', deleted: type === RTM_ADDR.DEL, addr };
    }
    case RTM_ROUTE.NEW:
    case RTM_ROUTE.DEL: {
      const route = readRoute(body);
      return route && { topic: 'route', deleted: type === RTM_ROUTE.DEL, route };
    }
    case RTM_NEIGH.NEW:
    case RTM_NEIGH.DEL: {
      const deleted = type === RTM_NEIGH.DEL;
      if (isFdb(body)) {
        const fdb = readFdb(body);
        return fdb && { topic: 'fdb', deleted, fdb };
      }
      const neigh = readNeigh(body);
      return neigh && { topic: 'neigh', deleted, neigh };
    }
    case RTM_RULE.NEW:
    case RTM_RULE.DEL: {
      const rule = readRule(body);
      return rule && { topic: 'rule', deleted: type === RTM_RULE.DEL, rule };
    }
    default:
      return undefined;
  }
}
