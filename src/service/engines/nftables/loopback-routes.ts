/**
 * NodePorts at ::1. A packet to one leaves as an address of this node, because it is masqueraded; its answer becomes
 * one to ::1 before it is routed, and the kernel wants the route of such an address to name the interface by which the
 * packet came (rt6_need_strict(), net/ipv6/route.c). So each interface by which answers come has such a route.
 *
 *     local ::1 dev po7 table local proto 250 metric 36871
 *
 * Nobody outside reaches ::1 by them: what has that address in its header when it comes by a link is dropped before
 * any hook (ipv6_rcv(), RFC 4291 section 2.5.3).
 */
import { parseCidr } from '../../../addr/index.ts';
import {
  deleteRoute,
  type RouteSpec,
  RTPROT_PORTOLAN,
  Rtnl,
  replaceRoute,
} from '../../../kernel/rtnl/index.ts';

/** rtnetlink(7): RT_TABLE_LOCAL. */
const LOCAL_TABLE = 255;
/** Behind the route by lo. Each interface has a metric of its own, or one route would take another one's place. */
const METRIC = 0x9000;
const DESTINATION = parseCidr('::1/128');

type Place = { readonly netns?: number | { readonly fd: number } | undefined };

function route(oif: number): RouteSpec {
  return {
    destination: DESTINATION,
    type: 'local',
    table: LOCAL_TABLE,
    protocol: RTPROT_PORTOLAN,
    oif,
    metric: METRIC + oif,
  };
}

export class LoopbackRoutes {
  readonly #place: Place;
  readonly #interfaces = new Set<number>();
  #serving = false;

  constructor(place: Place) {
    this.#place = place;
  }

  /** Answers may come by this interface. Also when it was down since: the kernel forgets routes then. Idempotent. */
  add(ifindex: number): void {
    this.#interfaces.add(ifindex);
    if (this.#serving) this.#write([ifindex]);
  }

  delete(ifindex: number): void {
    this.#interfaces.delete(ifindex);
  }

  /** Forgets interfaces that are not among these. */
  keep(there: ReadonlySet<number>): void {
    for (const ifindex of this.#interfaces) if (!there.has(ifindex)) this.#interfaces.delete(ifindex);
  }

  /** There is something at ::1. Throws KERNEL_SYSCALL; then it may be asked again. */
  serve(): void {
    if (this.#serving) return;
    this.#write([...this.#interfaces]);
    this.#serving = true;
  }

  /** An interface that has gone or is down is no failure: it has no answers to bring. */
  #write(interfaces: readonly number[]): void {
    if (interfaces.length === 0) return;
    using rtnl = Rtnl.open(this.#place);
    rtnl.apply(interfaces.map((ifindex) => replaceRoute(route(ifindex))));
  }
}

/** Takes them away, of this process or an earlier one. Throws RTNL_FAILED. */
export function removeLoopbackRoutes(place: Place): void {
  using rtnl = Rtnl.open(place);
  const ours = rtnl
    .routes({ family: 6, table: LOCAL_TABLE, protocol: RTPROT_PORTOLAN, type: 'local' })
    .filter(({ destination, oif }) => oif !== undefined && String(destination) === '::1/128');
  rtnl.mustApply(...ours.map(({ oif }) => deleteRoute(route(oif!))));
}
