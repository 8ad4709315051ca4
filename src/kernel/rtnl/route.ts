import { addressBits, Cidr, type Family, IpAddress } from '../../addr/index.ts';
import {
  type AttributeCodec,
  attributeTable,
  malformed,
  NLM_F,
  type NlWriter,
  nlBytes,
  nlIp,
  nlU32,
  viewOf,
} from '../netlink/index.ts';
import { ERRNO } from '../syscall/index.ts';
import { byNumber, type NameOf, type RtnlChange } from './change.ts';
import { afOf, familyOf, needBytes } from './family.ts';

export const RTM_ROUTE = { NEW: 24, DEL: 25, GET: 26 } as const;

/** Whose routes these are: Portolan's own number, so that only its own are ever pruned. */
export const RTPROT_PORTOLAN = 250;
export const RT_TABLE = { DEFAULT: 253, MAIN: 254, LOCAL: 255 } as const;
/** RT_SCOPE_*, rtnetlink.h */
export const RT_SCOPE = { UNIVERSE: 0, LINK: 253, HOST: 254, NOWHERE: 255 } as const;
const RTM_F_CLONED = 0x200;
const RTNH_F_DEAD = 1;
const RTNH_F_ONLINK = 4;
const RTNH_F_LINKDOWN = 16;
const RTAX_LOCK = 1;
const HEADER_BYTES = 12;

/** RTN_*, rtnetlink.h, by number. */
const TYPES = [
  'unspec',
  'unicast',
  'local',
  'broadcast',
  'anycast',
  'multicast',
  'blackhole',
  'unreachable',
  'prohibit',
  'throw',
] as const;
export type RouteType = (typeof TYPES)[number];

/** A gateway of the other family: struct rtvia. */
const nlVia: AttributeCodec<IpAddress> = {
  write: (w, v) => w.u16(afOf(v.family)).bytes(v.toBytes()),
  read: (b) => IpAddress.fromBytes(b.subarray(2)),
};

const metricsTable = attributeTable('metrics of a route', {
  lock: [RTAX_LOCK, 'RTAX_LOCK', nlU32],
  mtu: [2, 'RTAX_MTU', nlU32, 'bytes'],
  advMss: [8, 'RTAX_ADVMSS', nlU32],
});

/** Attributes of a route: rtnetlink.h, enum RTA_*. */
const routeTable = attributeTable('a route', {
  destination: [1, 'RTA_DST', nlIp],
  oif: [4, 'RTA_OIF', nlU32, 'link that packets leave by'],
  gateway: [5, 'RTA_GATEWAY', nlIp],
  metric: [6, 'RTA_PRIORITY', nlU32, 'lower wins'],
  source: [7, 'RTA_PREFSRC', nlIp, 'source address of packets that this host sends'],
  metrics: [8, 'RTA_METRICS', metricsTable],
  multipath: [9, 'RTA_MULTIPATH', nlBytes],
  table: [15, 'RTA_TABLE', nlU32],
  via: [18, 'RTA_VIA', nlVia, 'gateway of the other family'],
  nexthopId: [30, 'RTA_NH_ID', nlU32],
});

const nexthopTable = attributeTable('a nexthop', {
  gateway: [5, 'RTA_GATEWAY', nlIp],
  via: [18, 'RTA_VIA', nlVia],
});

/** One of several ways. */
export interface Nexthop {
  readonly ifindex: number;
  readonly gateway?: IpAddress | undefined;
  /** Share of the flows, 1 to 256. */
  readonly weight: number;
  readonly onlink: boolean;
}

/** A route as the kernel has it. */
export interface Route {
  readonly family: Family;
  readonly destination: Cidr;
  readonly type: RouteType;
  readonly table: number;
  /** RTPROT_*: who made it. */
  readonly protocol: number;
  readonly scope: number;
  readonly tos: number;
  readonly oif?: number | undefined;
  readonly gateway?: IpAddress | undefined;
  readonly onlink: boolean;
  readonly source?: IpAddress | undefined;
  /** 0 when none is given. */
  readonly metric: number;
  readonly mtu?: number | undefined;
  readonly nexthops?: readonly Nexthop[] | undefined;
  readonly nexthopId?: number | undefined;
  /** The link is down or has no carrier. */
  readonly dead: boolean;
}

/** A route to make; its family is that of the destination. */
export interface RouteSpec {
  readonly destination: Cidr;
  /** Default unicast. */
  readonly type?: RouteType | undefined;
  /** Default main (254). */
  readonly table?: number | undefined;
  /** Default RTPROT_PORTOLAN. */
  readonly protocol?: number | undefined;
  /** Default: link without a gateway, else universe. */
  readonly scope?: number | undefined;
  readonly oif?: number | undefined;
  readonly gateway?: IpAddress | undefined;
  /** Believe that the gateway is on the link although no address says so. */
  readonly onlink?: boolean | undefined;
  readonly source?: IpAddress | undefined;
  readonly metric?: number | undefined;
  /** Bytes. */
  readonly mtu?: number | undefined;
  readonly nexthops?: readonly Omit<Nexthop, 'weight' | 'onlink'>[] | undefined;
}

function defaultScope(spec: RouteSpec): number {
  if (spec.scope !== undefined) return spec.scope;
  if (spec.destination.family === 6) return RT_SCOPE.UNIVERSE;
  if (spec.type === 'local') return RT_SCOPE.HOST;
  if (spec.type !== undefined && spec.type !== 'unicast') return RT_SCOPE.UNIVERSE;
  return spec.gateway || spec.nexthops ? RT_SCOPE.UNIVERSE : RT_SCOPE.LINK;
}

function write(w: NlWriter, spec: RouteSpec, scope: number, type: RouteType): void {
  const { destination, gateway, table = RT_TABLE.MAIN } = spec;
  const family = destination.family;
  w.u8(afOf(family)).u8(destination.prefixLength).u8(0).u8(0);
  w.u8(table < 256 ? table : 0)
    .u8(spec.protocol ?? RTPROT_PORTOLAN)
    .u8(scope)
    .u8(TYPES.indexOf(type));
  w.u32(spec.onlink ? RTNH_F_ONLINK : 0);
  routeTable.write(w, {
    destination: destination.prefixLength === 0 ? undefined : destination.address,
    oif: spec.oif,
    ...gatewayOf(family, gateway),
    metric: spec.metric,
    source: spec.source,
    metrics: spec.mtu === undefined ? undefined : { mtu: spec.mtu },
    table,
  });
  if (spec.nexthops)
    w.attribute(9, () => {
      for (const hop of spec.nexthops!) writeNexthop(w, family, hop, spec);
    });
}

function gatewayOf(family: Family, gateway: IpAddress | undefined) {
  if (!gateway) return {};
  return gateway.family === family ? { gateway } : { via: gateway };
}

/** struct rtnexthop; its length counts the attributes behind it. */
function writeNexthop(
  w: NlWriter,
  family: Family,
  hop: Omit<Nexthop, 'weight' | 'onlink'>,
  spec: RouteSpec,
): void {
  const attributes = hop.gateway
    ? hop.gateway.family === family
      ? 4 + addressBits(family) / 8
      : 4 + 2 + addressBits(hop.gateway.family) / 8
    : 0;
  w.u16(8 + ((attributes + 3) & ~3))
    .u8(spec.onlink ? RTNH_F_ONLINK : 0)
    .u8(0)
    .u32(hop.ifindex);
  nexthopTable.write(w, gatewayOf(family, hop.gateway));
}

/** `10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink proto 250`, as ip(8) takes it. */
export function routeText(route: RouteSpec | Route, nameOf: NameOf = byNumber): string {
  const parts: string[] = [];
  if (route.type && route.type !== 'unicast') parts.push(route.type);
  parts.push(String(route.destination));
  const via = (gateway: IpAddress) =>
    gateway.family === route.destination.family
      ? `via ${gateway}`
      : `via inet${gateway.family === 6 ? '6' : ''} ${gateway}`;
  if (route.gateway) parts.push(via(route.gateway));
  if (route.oif) parts.push(`dev ${nameOf(route.oif)}`);
  if (route.onlink) parts.push('onlink');
  if (route.table !== undefined && route.table !== RT_TABLE.MAIN) parts.push(`table ${route.table}`);
  parts.push(`proto ${route.protocol ?? RTPROT_PORTOLAN}`);
  if (route.source) parts.push(`src ${route.source}`);
  if (route.metric) parts.push(`metric ${route.metric}`);
  if (route.mtu !== undefined) parts.push(`mtu ${route.mtu}`);
  for (const hop of route.nexthops ?? [])
    parts.push(`nexthop${hop.gateway ? ` ${via(hop.gateway)}` : ''} dev ${nameOf(hop.ifindex)}`);
  return parts.join(' ');
}

function change(verb: 'add' | 'replace', spec: RouteSpec): RtnlChange {
  return {
    request: {
      type: RTM_ROUTE.NEW,
      flags: NLM_F.CREATE | (verb === 'add' ? NLM_F.EXCL : NLM_F.REPLACE),
      write: (w) => write(w, spec, defaultScope(spec), spec.type ?? 'unicast'),
    },
    ignore: [],
    text: (nameOf) =>
      `ip${spec.destination.family === 6 ? ' -6' : ''} route ${verb} ${routeText(spec, nameOf)}`,
  };
}

/** Adds a route; fails when one to the same destination with the same metric is there. */
export function addRoute(spec: RouteSpec): RtnlChange {
  return change('add', spec);
}

/** Adds a route, in the place of one to the same destination with the same metric. */
export function replaceRoute(spec: RouteSpec): RtnlChange {
  return change('replace', spec);
}

/** Deletes the route that has all that is given (protocol included); absent is success. */
export function deleteRoute(spec: RouteSpec): RtnlChange {
  return {
    request: {
      type: RTM_ROUTE.DEL,
      flags: 0,
      // Scope "nowhere" and type "unspec" match any in IPv4; IPv6 looks at neither.
      write: (w) => write(w, spec, spec.scope ?? RT_SCOPE.NOWHERE, spec.type ?? 'unspec'),
    },
    ignore: [ERRNO.ESRCH, ERRNO.ENODEV],
    text: (nameOf) => `ip${spec.destination.family === 6 ? ' -6' : ''} route del ${routeText(spec, nameOf)}`,
  };
}

/** What to list; everything left out means any. The kernel filters where it can. */
export interface RouteFilter {
  readonly family: Family;
  readonly table?: number | undefined;
  readonly protocol?: number | undefined;
  readonly type?: RouteType | undefined;
  readonly oif?: number | undefined;
}

export function routeQuery(filter: RouteFilter) {
  return {
    type: RTM_ROUTE.GET,
    flags: 0,
    write(w: NlWriter) {
      const { table = 0 } = filter;
      w.u8(afOf(filter.family)).u8(0).u8(0).u8(0);
      w.u8(table < 256 ? table : 0)
        .u8(filter.protocol ?? 0)
        .u8(0)
        .u8(TYPES.indexOf(filter.type ?? 'unspec'));
      w.u32(0);
      routeTable.write(w, { table: filter.table, oif: filter.oif });
    },
  };
}

/** Asks which route a packet to this address would take. */
export function routeLookup(destination: IpAddress) {
  return {
    type: RTM_ROUTE.GET,
    flags: 0,
    write(w: NlWriter) {
      w.u8(afOf(destination.family)).u8(addressBits(destination.family)).u8(0).u8(0);
      w.u32(0).u32(0);
      routeTable.write(w, { destination });
    },
  };
}

/** Reads RTM_NEWROUTE or RTM_DELROUTE; undefined for other families and cache entries. Throws NETLINK_MALFORMED. */
export function readRoute(body: Uint8Array, options: { cloned?: boolean } = {}): Route | undefined {
  needBytes('a route', body, HEADER_BYTES);
  const family = familyOf(body[0]!);
  const flags = viewOf(body).getUint32(8, true);
  if (!family || (flags & RTM_F_CLONED && !options.cloned)) return undefined;
  const a = routeTable.readFrom(body, HEADER_BYTES);
  const zero = family === 4 ? IpAddress.v4(0) : IpAddress.v6(0n);
  if (a.destination && a.destination.family !== family) throw malformed('a route', 'its families differ');
  if (body[1]! > addressBits(family)) throw malformed('a route', `its prefix has ${body[1]} bits`);
  return {
    family,
    destination: Cidr.around(a.destination ?? zero, body[1]!),
    type: TYPES[body[7]!] ?? 'unspec',
    table: a.table ?? body[4]!,
    protocol: body[5]!,
    scope: body[6]!,
    tos: body[3]!,
    oif: a.oif,
    gateway: a.gateway ?? a.via,
    onlink: (flags & RTNH_F_ONLINK) !== 0,
    source: a.source,
    metric: a.metric ?? 0,
    mtu: a.metrics?.mtu,
    nexthops: a.multipath && readNexthops(a.multipath),
    nexthopId: a.nexthopId,
    dead: (flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN)) !== 0,
  };
}

function readNexthops(bytes: Uint8Array): Nexthop[] {
  const hops: Nexthop[] = [];
  const view = viewOf(bytes);
  for (let at = 0; bytes.length - at >= 8; ) {
    const length = view.getUint16(at, true);
    if (length < 8 || length > bytes.length - at)
      throw malformed('a nexthop', `it claims ${length} of ${bytes.length - at} bytes`);
    const a = nexthopTable.readFrom(bytes.subarray(at, at + length), 8);
    hops.push({
      ifindex: view.getInt32(at + 4, true),
      gateway: a.gateway ?? a.via,
      weight: bytes[at + 3]! + 1,
      onlink: (bytes[at + 2]! & RTNH_F_ONLINK) !== 0,
    });
    at += (length + 3) & ~3;
  }
  return hops;
}
