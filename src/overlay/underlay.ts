import type { Family, IpAddress } from '../addr/index.ts';
import { type Addr, isLone, type Link, type Route, RTPROT_PORTOLAN } from '../kernel/rtnl/index.ts';
import { isDeviceName } from './names.ts';
import type { Observed, OverlayConfig } from './types.ts';

/** The routes of others, longest prefix first: what decides where packets between nodes go. */
export class ForeignRoutes {
  readonly #routes: Record<Family, readonly Route[]>;

  constructor(routes: readonly Route[]) {
    const sorted = routes
      .filter((route) => route.protocol !== RTPROT_PORTOLAN && !route.dead && route.tos === 0)
      .sort((a, b) => b.destination.prefixLength - a.destination.prefixLength || a.metric - b.metric);
    this.#routes = {
      4: sorted.filter((route) => route.family === 4),
      6: sorted.filter((route) => route.family === 6),
    };
  }

  /** The route that packets to this address take, as table main has it. */
  to(address: IpAddress): Route | undefined {
    return this.#routes[address.family].find((route) => route.destination.contains(address));
  }

  /** The link that an address is on, without a router between; undefined when there is one. */
  onLink(address: IpAddress): number | undefined {
    const route = this.to(address);
    if (route?.type !== 'unicast' || route.gateway || route.nexthops || route.nexthopId) return undefined;
    return route.oif;
  }

  /** The default route of a family. */
  default(family: Family): Route | undefined {
    return this.#routes[family].find(
      (route) => route.destination.prefixLength === 0 && route.type === 'unicast',
    );
  }
}

/** This node's link and address towards the others. */
export function findUnderlay(
  config: OverlayConfig,
  observed: Observed,
  routes: ForeignRoutes,
  family: Family,
): { address: IpAddress; link: Link } | undefined {
  const byIndex = new Map(observed.links.map((link) => [link.ifindex, link]));
  const usable = observed.addrs.filter((addr) => {
    const link = byIndex.get(addr.ifindex);
    return addr.family === family && link !== undefined && isUsable(addr, link);
  });
  const pick = (test: (addr: Addr) => boolean) => {
    const addr = usable.find((each) => !isLone(each) && test(each)) ?? usable.find(test);
    const link = addr && byIndex.get(addr.ifindex);
    return addr && link ? { address: addr.address, link } : undefined;
  };
  const wanted = config.addresses?.find((address) => address.family === family);
  if (wanted) return pick((addr) => addr.address.equals(wanted));
  if (config.interface) return pick((addr) => byIndex.get(addr.ifindex)?.name === config.interface);
  const published = config.publicIps?.find((address) => address.family === family);
  const own = published && pick((addr) => addr.address.equals(published));
  if (own) return own;
  const route = routes.default(family);
  const oif = route?.oif ?? route?.nexthops?.[0]?.ifindex;
  return pick((addr) => addr.ifindex === oif);
}

/** Global, lasting and not ours: temporary IPv6 addresses change, so they are no place to be found at. */
function isUsable(addr: Addr, link: Link): boolean {
  return (
    addr.scope === 0 &&
    !addr.tentative &&
    !addr.duplicate &&
    !addr.address.isLinkLocal &&
    !link.loopback &&
    !isDeviceName(link.name) &&
    (addr.family === 4 || addr.prefixLength <= 128)
  );
}
