import { addressBits, type Cidr, FAMILIES, type Family } from '../addr/index.ts';
import { type NetError, overlayError } from '../errors/index.ts';
import { type Backend, backends } from './backend.ts';
import { DEFAULT_PORT, DEFAULT_VNI, deviceName, MIN_MTU_BYTES, vtepMac } from './names.ts';
import type {
  Desired,
  DesiredDevice,
  DesiredFdb,
  DesiredNeigh,
  DesiredRoute,
  DesiredSysctl,
  Lease,
  LeaseEndpoint,
  Observed,
  OverlayConfig,
  PeerState,
  Underlay,
} from './types.ts';
import { ForeignRoutes, findUnderlay } from './underlay.ts';

/** Lowest priority there is: any other route to the same network wins. */
const LAST_METRIC = 0xffff_ffff;

/** What the overlay wants of the kernel, for these peers and this underlay. Pure. */
export function desiredOverlay(config: OverlayConfig, peers: readonly Lease[], observed: Observed): Desired {
  const backend = backends[config.backend];
  const routes = new ForeignRoutes(observed.routes);
  const problems: NetError[] = [];
  const underlays: Underlay[] = [];
  const devices: DesiredDevice[] = [];
  const { usable, conflicts } = withoutConflicts(config, peers);
  for (const family of FAMILIES) {
    const own = config.podCidrs.filter((cidr) => cidr.family === family);
    if (own.length === 0) continue;
    const found = findUnderlay(config, observed, routes, family);
    if (!found) {
      const wanted = config.interface
        ? `address on "${config.interface}"`
        : `address ${config.addresses?.find((address) => address.family === family) ?? 'on the link of the default route'}`;
      problems.push(overlayError('OVERLAY_NO_UNDERLAY', { family, wanted }));
      continue;
    }
    const mtuBytes = underlayMtu(found.link.mtu, family, usable, routes);
    underlays.push({ ...found, family, mtuBytes });
    if (!backend.hasDevice) continue;
    const device = desiredDevice(config, family, { ...found, family, mtuBytes }, backend);
    const { mtu, link } = { mtu: device.mtu, link: found.link.name };
    const foreign = observed.links.find((one) => one.name === device.name && one.kind !== 'vxlan');
    if (foreign)
      problems.push(
        overlayError('OVERLAY_FOREIGN_LINK', { name: device.name, kind: foreign.kind || 'device' }),
      );
    else if (mtu < MIN_MTU_BYTES[family]) {
      const want = MIN_MTU_BYTES[family] + backend.overheadBytes(family);
      problems.push(overlayError('OVERLAY_MTU_TOO_SMALL', { link, mtu: mtuBytes, want }));
    } else devices.push(device);
  }
  const entries = peerEntries(config, usable, observed, routes, devices, backend);
  return {
    config,
    devices,
    underlays,
    problems,
    addresses: devices.flatMap((device) =>
      config.podCidrs
        .filter((cidr) => cidr.family === device.family)
        .map(({ address }) => ({ dev: device.name, address, prefixLength: addressBits(device.family) })),
    ),
    ...entries,
    peers: [...entries.peers, ...conflicts],
    routes: [...entries.routes, ...config.podCidrs.map(ownSubnetRoute)],
    sysctls: desiredSysctls(config, underlays, devices, observed),
    lease: ownLease(config, underlays),
    podMtuBytes: podMtu(config, underlays, backend),
  };
}

/** An overlay that nobody wants: planning it removes all that is Portolan's. */
export function emptyOverlay(config: OverlayConfig): Desired {
  return {
    config,
    devices: [],
    addresses: [],
    neighs: [],
    fdb: [],
    routes: [],
    sysctls: [],
    underlays: [],
    peers: [],
    lease: undefined,
    podMtuBytes: undefined,
    problems: [],
  };
}

/** What this node tells the others; undefined while it has no address to be reached at. */
export function ownLease(config: OverlayConfig, underlays: readonly Underlay[]): Lease | undefined {
  const endpoints: { [F in Family]?: LeaseEndpoint } = {};
  for (const { family, address } of underlays) {
    const publicIp = config.publicIps?.find((one) => one.family === family) ?? address;
    const podCidrs = config.podCidrs.filter((cidr) => cidr.family === family);
    endpoints[family] = {
      publicIp,
      podCidrs,
      ...(config.backend === 'vxlan'
        ? {
            vtep: {
              vni: config.vni ?? DEFAULT_VNI,
              mac: vtepMac(config.node, family),
              port: config.port ?? DEFAULT_PORT,
            },
          }
        : {}),
    };
  }
  return underlays.length > 0 ? { node: config.node, backend: config.backend, endpoints } : undefined;
}

function desiredDevice(
  config: OverlayConfig,
  family: Family,
  { address, link, mtuBytes }: Underlay,
  backend: Backend,
): DesiredDevice {
  const vni = config.vni ?? DEFAULT_VNI;
  return {
    family,
    name: deviceName(family, vni),
    mac: vtepMac(config.node, family),
    mtu: Math.min(mtuBytes - backend.overheadBytes(family), config.mtuBytes ?? Number.POSITIVE_INFINITY),
    vni,
    port: config.port ?? DEFAULT_PORT,
    local: address,
    lower: link,
  };
}

/** The smallest of the link's MTU and those that routes to the peers give. */
function underlayMtu(
  linkMtu: number,
  family: Family,
  peers: readonly Lease[],
  routes: ForeignRoutes,
): number {
  let mtu = linkMtu;
  for (const peer of peers) {
    const endpoint = peer.endpoints[family];
    const of = endpoint && routes.to(endpoint.publicIp)?.mtu;
    if (of !== undefined && of > 0 && of < mtu) mtu = of;
  }
  return mtu;
}

/** One MTU for pods: the smallest over the families in use, because a pod's link has one. */
function podMtu(config: OverlayConfig, underlays: readonly Underlay[], backend: Backend): number | undefined {
  if (underlays.length === 0) return undefined;
  const sizes = underlays.map(({ mtuBytes, family }) => mtuBytes - backend.overheadBytes(family));
  return Math.min(...sizes, config.mtuBytes ?? Number.POSITIVE_INFINITY);
}

/**
 * Packets to pod addresses of this node that no pod has get an answer instead of leaving by the default route and
 * coming back. Every route to a pod wins over it.
 */
function ownSubnetRoute(destination: Cidr): DesiredRoute {
  return { destination, type: 'unreachable', onlink: false, metric: LAST_METRIC };
}

/** Two nodes that claim one pod network or address: this node wins, then the lesser name; the other is an error. */
function withoutConflicts(
  config: OverlayConfig,
  peers: readonly Lease[],
): { usable: Lease[]; conflicts: PeerState[] } {
  const usable: Lease[] = [];
  const conflicts: PeerState[] = [];
  const owners = new Map<string, string>();
  const taken: Record<Family, { cidr: Cidr; node: string }[]> = { 4: [], 6: [] };
  for (const cidr of config.podCidrs) taken[cidr.family].push({ cidr, node: config.node });
  for (const address of [...(config.addresses ?? []), ...(config.publicIps ?? [])])
    owners.set(String(address), config.node);
  const sorted = peers
    .filter((lease) => lease.node !== config.node)
    .sort((a, b) => (a.node < b.node ? -1 : 1));
  for (const lease of sorted) {
    const kept: { [F in Family]?: LeaseEndpoint } = {};
    for (const family of FAMILIES) {
      const endpoint = lease.endpoints[family];
      if (!endpoint) continue;
      const address = String(endpoint.publicIp);
      const sameAddress = owners.get(address);
      const sameCidr = overlapping(taken[family], endpoint.podCidrs);
      const other = sameAddress ?? sameCidr?.node;
      if (other === undefined) {
        owners.set(address, lease.node);
        for (const cidr of endpoint.podCidrs) insert(taken[family], { cidr, node: lease.node });
        kept[family] = endpoint;
        continue;
      }
      const what = sameAddress ? `address ${address}` : `a part of pod CIDR ${sameCidr!.mine}`;
      const error = overlayError('OVERLAY_LEASE_CONFLICT', { node: lease.node, other, what });
      const { publicIp, podCidrs } = endpoint;
      conflicts.push({ node: lease.node, family, publicIp, podCidrs, via: 'none', error });
    }
    if (kept[4] || kept[6]) usable.push({ ...lease, endpoints: kept });
  }
  return { usable, conflicts };
}

/** `taken` is sorted and free of overlaps, so only the neighbours of a network can overlap it. */
function overlapping(taken: readonly { cidr: Cidr; node: string }[], cidrs: readonly Cidr[]) {
  for (const mine of cidrs) {
    const at = position(taken, mine);
    for (const other of [taken[at - 1], taken[at]])
      if (other?.cidr.overlaps(mine)) return { node: other.node, mine };
  }
  return undefined;
}

function insert(taken: { cidr: Cidr; node: string }[], row: { cidr: Cidr; node: string }): void {
  taken.splice(position(taken, row.cidr), 0, row);
}

function position(taken: readonly { cidr: Cidr }[], cidr: Cidr): number {
  let low = 0;
  let high = taken.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (taken[middle]!.cidr.compare(cidr) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

function peerEntries(
  config: OverlayConfig,
  leases: readonly Lease[],
  observed: Observed,
  routes: ForeignRoutes,
  devices: readonly DesiredDevice[],
  backend: Backend,
) {
  const names = new Map(observed.links.map((link) => [link.ifindex, link.name]));
  const own = new Map(config.podCidrs.map((cidr) => [cidr.family, true]));
  const out = {
    routes: [] as DesiredRoute[],
    neighs: [] as DesiredNeigh[],
    fdb: [] as DesiredFdb[],
    peers: [] as PeerState[],
  };
  for (const lease of leases)
    for (const family of FAMILIES) {
      const endpoint = lease.endpoints[family];
      if (!endpoint || !own.has(family)) continue;
      const ifindex = routes.onLink(endpoint.publicIp);
      const made = backend.peer({
        lease,
        endpoint,
        family,
        onLink: ifindex === undefined ? undefined : names.get(ifindex),
        device: devices.find((device) => device.family === family),
        directRouting: config.directRouting ?? true,
      });
      out.routes.push(...made.routes);
      out.neighs.push(...made.neighs);
      out.fdb.push(...made.fdb);
      const { publicIp, podCidrs } = endpoint;
      out.peers.push({ node: lease.node, family, publicIp, podCidrs, via: made.via, error: made.error });
    }
  return out;
}

/**
 * How long conntrack keeps a connection of which one side has ended. The kernel's minute is for hosts that translate
 * nobody: where an answer takes longer, or a stream pauses, its packets would no longer be translated. kube-proxy sets
 * the same hour (--conntrack-tcp-timeout-close-wait); another value than the kernel's is somebody's choice.
 */
const CLOSE_WAIT = { path: 'net/netfilter/nf_conntrack_tcp_timeout_close_wait', value: '3600', onlyIf: '60' };

/**
 * Settings that forwarding between pods and nodes needs. Reverse path filtering becomes loose where it is strict:
 * one direction may run direct and the other through the tunnel while two nodes change their minds.
 */
function desiredSysctls(
  config: OverlayConfig,
  underlays: readonly Underlay[],
  devices: readonly DesiredDevice[],
  observed: Observed,
): DesiredSysctl[] {
  const out: DesiredSysctl[] = [CLOSE_WAIT];
  const families = new Set(config.podCidrs.map((cidr) => cidr.family));
  if (families.has(6))
    // A host that forwards ignores router advertisements unless told otherwise, and would lose its default route.
    for (const { link, family } of underlays)
      if (family === 6 && observed.sysctl('net/ipv6/conf/all/forwarding') === '0')
        out.push({ path: `net/ipv6/conf/${link.name}/accept_ra`, value: '2', onlyIf: '1' });
  if (families.has(4)) out.push({ path: 'net/ipv4/ip_forward', value: '1' });
  if (families.has(6)) out.push({ path: 'net/ipv6/conf/all/forwarding', value: '1' });
  for (const device of devices) {
    if (device.family === 4) out.push({ path: `net/ipv4/conf/${device.name}/rp_filter`, value: '2' });
    out.push({ path: `net/ipv6/conf/${device.name}/accept_ra`, value: '0' });
  }
  const strict = observed.sysctl('net/ipv4/conf/all/rp_filter') === '1';
  for (const { link, family } of underlays)
    if (family === 4)
      for (const onlyIf of strict ? ['0', '1'] : ['1'])
        out.push({ path: `net/ipv4/conf/${link.name}/rp_filter`, value: '2', onlyIf });
  return out;
}
