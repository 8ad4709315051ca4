import { Cidr, type Family, parseCidr } from '../addr/index.ts';
import {
  changeLink,
  createLink,
  deleteNeigh,
  deleteRoute,
  type Link,
  type LinkSettings,
  type LinkSpec,
  type Route,
  RT_TABLE,
  RTPROT_PORTOLAN,
  replaceAddr,
  replaceNeigh,
  replaceRoute,
} from '../kernel/rtnl/index.ts';
import { planPort, portToChange } from './plan-bridge.ts';
import { BRIDGE_NAME, type HostEnd, type PodEnd, type PodLinkSpec, type Step } from './types.ts';

/**
 * Pod link `routed`:
 *
 *     pod                                        host
 *     eth0 10.244.1.5/32 fd00::5/128             po0a1b2c3d4e5 (no address)
 *       default via 169.254.1.1, fe80::1   ────    10.244.1.5, fd00::5 dev po0a1b2c3d4e5 proto 250
 *       169.254.1.1, fe80::1 = MAC of host end     10.244.1.5, fd00::5 = MAC of eth0
 *
 * One route a pod and one permanent neighbour an address: no bridge, no ARP, no ND, no broadcast. What is planned
 * here compares with what is there, so making, repairing and checking a link are the same functions.
 */
const EVERYWHERE: Readonly<Record<Family, Cidr>> = { 4: parseCidr('0.0.0.0/0'), 6: parseCidr('::/0') };

/**
 * The veth pair, its far end put straight into the pod's namespace under its final name. It has one queue, as a veth
 * has unless somebody asks for more; said at once, or the kernel would make one for each CPU, take the others away
 * again, and wait for all CPUs each time (veth_init_queues(), netif_set_real_num_tx_queues()).
 */
export function vethSpec(spec: PodLinkSpec, netnsFd: number): LinkSpec {
  return {
    kind: 'veth',
    name: spec.hostLink,
    mac: spec.hostMac,
    mtu: spec.mtuBytes,
    queues: 1,
    peer: { name: spec.ifname, mac: spec.podMac, mtu: spec.mtuBytes, netns: netnsFd, queues: 1 },
  };
}

/** How a person would make the pair: for `--dry-run`. */
export function vethText(spec: PodLinkSpec): string {
  return createLink({
    ...vethSpec(spec, 0),
    peer: { name: spec.ifname, mac: spec.podMac },
  } as LinkSpec).text();
}

/** The settings of a link that differ from what they must be, undefined when none does. Pure. */
function settingsToChange(link: Link, want: LinkSettings): LinkSettings | undefined {
  const changed = {
    ...(want.mac !== undefined && link.mac !== want.mac ? { mac: want.mac } : {}),
    ...(want.mtu !== undefined && link.mtu !== want.mtu ? { mtu: want.mtu } : {}),
    ...(want.addrGenMode !== undefined && link.addrGenMode !== want.addrGenMode
      ? { addrGenMode: want.addrGenMode }
      : {}),
    ...(want.master !== undefined && (link.master ?? 0) !== want.master ? { master: want.master } : {}),
  };
  return Object.keys(changed).length > 0 ? changed : undefined;
}

/** Setting a MAC, and going down, flushes the neighbours of a link, permanent ones too: neigh_changeaddr(). */
function losesNeighs(link: Link, change: LinkSettings | undefined): boolean {
  return !link.up || change?.mac !== undefined;
}

const hostSettings = (spec: PodLinkSpec, bridge: number | undefined) =>
  ({
    mac: spec.hostMac,
    mtu: spec.mtuBytes,
    addrGenMode: 'none',
    master: spec.kind === 'bridge' ? bridge : 0,
  }) as const;

/** True when the link itself is as it must be; its routes and neighbours are other tables. Pure. */
export function isHostLinkWell(spec: PodLinkSpec, link: Link, bridge: number | undefined): boolean {
  if (spec.kind === 'bridge' && (bridge === undefined || portToChange(link.bridgePort))) return false;
  return link.up && settingsToChange(link, hostSettings(spec, bridge)) === undefined;
}

/** What the host's end lacks. Neighbours come before routes, so that no packet starts a resolution. Pure. */
export function planHostEnd(spec: PodLinkSpec, end: HostEnd): Step[] {
  const { link } = end;
  const ifindex = link.ifindex;
  const steps: Step[] = [];
  const name = `host link ${spec.hostLink}`;
  const change = settingsToChange(link, hostSettings(spec, end.bridge));
  if (change)
    steps.push({
      change: changeLink(ifindex, change),
      missing: () =>
        change.master === undefined
          ? `${name} has mtu ${link.mtu} and MAC ${link.mac}, want ${spec.mtuBytes} and ${spec.hostMac}`
          : `${name} is ${change.master === 0 ? 'a port of a bridge' : `no port of ${BRIDGE_NAME}`}`,
    });
  steps.push(...planPort(spec, end));
  const neighs = losesNeighs(link, change) ? [] : end.neighs;
  const routes = link.up ? end.routes : [];
  if (!link.up) steps.push({ change: changeLink(ifindex, { up: true }), missing: () => `${name} is down` });
  for (const address of spec.addresses) {
    const neigh = neighs.find((each) => each.destination.equals(address));
    if (!neigh?.permanent || neigh.mac !== spec.podMac)
      steps.push({
        change: replaceNeigh({ ifindex, destination: address, mac: spec.podMac }),
        missing: () => `neighbour ${address} is missing on ${name}`,
      });
    const destination = Cidr.host(address);
    if (!routes.some((route) => isHostRoute(route, ifindex) && route.destination.equals(destination)))
      steps.push({
        change: replaceRoute({ destination, oif: ifindex }),
        missing: () => `route ${destination} to ${name} is missing`,
      });
  }
  const isOurs = (address: Cidr) => spec.addresses.some((each) => Cidr.host(each).equals(address));
  for (const route of routes)
    if (isHostRoute(route, ifindex) && !isOurs(route.destination))
      steps.push({
        change: deleteRoute({ destination: route.destination, oif: ifindex, protocol: RTPROT_PORTOLAN }),
        missing: () => `stale route ${route.destination} leads to ${name}`,
      });
  for (const neigh of neighs)
    if (neigh.permanent && !isOurs(Cidr.host(neigh.destination)))
      steps.push({
        change: deleteNeigh({ ifindex, destination: neigh.destination }),
        missing: () => `stale neighbour ${neigh.destination} is on ${name}`,
      });
  return steps;
}

function isHostRoute(route: Route, ifindex: number): boolean {
  return route.oif === ifindex && route.protocol === RTPROT_PORTOLAN && route.table === RT_TABLE.MAIN;
}

/**
 * What the pod's end lacks. What others put there (a second plugin, the pod itself) is left alone. The kernel makes
 * no link-local address: nobody on this link would talk to it, and its detection of duplicates, router solicitations
 * and multicast reports would cost each pod start some packets. Pure.
 */
export function planPodEnd(spec: PodLinkSpec, loopback: number | undefined, end: PodEnd): Step[] {
  const { link } = end;
  const ifindex = link.ifindex;
  const steps: Step[] = [];
  const name = `pod interface ${spec.ifname}`;
  if (loopback !== undefined && !end.loopbackUp)
    steps.push({ change: changeLink(loopback, { up: true }), missing: () => 'pod interface lo is down' });
  const change = settingsToChange(link, {
    mac: spec.podMac,
    mtu: spec.mtuBytes,
    ...(link.addrGenMode === 'eui64' ? { addrGenMode: 'none' as const } : {}),
  });
  if (change)
    steps.push({
      change: changeLink(ifindex, change),
      missing: () =>
        `${name} has mtu ${link.mtu} and MAC ${link.mac}, want ${spec.mtuBytes} and ${spec.podMac}`,
    });
  const neighs = losesNeighs(link, change) ? [] : end.neighs;
  const routes = link.up ? end.routes : [];
  // IPv6 addresses go when a link goes down.
  const addrs = end.addrs.filter((addr) => link.up || addr.family === 4);
  if (!link.up) steps.push({ change: changeLink(ifindex, { up: true }), missing: () => `${name} is down` });
  for (const address of spec.addresses) {
    const { family } = address;
    const gateway = spec.gateways[family];
    const prefixLength = spec.prefixLengths[family];
    // All ways lead over the gateway: on a bridge too, pods are reached by the node alone.
    const noPrefixRoute = spec.kind === 'bridge';
    if (!addrs.some((each) => each.address.equals(address) && each.prefixLength === prefixLength))
      steps.push({
        change: replaceAddr({ ifindex, address, prefixLength, noPrefixRoute }),
        missing: () => `address ${address}/${prefixLength} is missing on ${name}`,
      });
    const neigh = neighs.find((each) => each.destination.equals(gateway));
    if (!neigh?.permanent || neigh.mac !== spec.gatewayMac)
      steps.push({
        change: replaceNeigh({ ifindex, destination: gateway, mac: spec.gatewayMac }),
        missing: () => `neighbour ${gateway} (the gateway) is missing on ${name}`,
      });
    const isDefault = (route: Route) =>
      route.family === family && route.destination.prefixLength === 0 && route.oif === ifindex;
    if (!routes.some((route) => isDefault(route) && route.gateway?.equals(gateway)))
      steps.push({
        change: replaceRoute({ destination: EVERYWHERE[family], gateway, oif: ifindex, onlink: true }),
        missing: () => `default route over ${gateway} is missing on ${name}`,
      });
  }
  return steps;
}

/**
 * Settings of the host's end, as [folder below net/, setting, value]. A new link has what `conf/default` has, which
 * nearly always is this already. Redirects need none: the only packet that leaves by the link it came from is a pod's
 * to itself, and a pod refuses itself as a gateway; over IPv6 the host's end has no address to redirect from.
 */
export function hostSysctls(spec: PodLinkSpec): [folder: string, setting: string, value: number][] {
  const hasV6 = spec.addresses.some((address) => address.family === 6);
  return [
    ['ipv4/conf', 'forwarding', 1],
    // Services rewrite a source before the reverse-path check when a pod talks to itself; lb_source.h and source-part.ts refuse spoofing.
    ['ipv4/conf', 'rp_filter', 0],
    ['ipv4/conf', 'proxy_arp', 0],
    ...(hasV6
      ? ([
          ['ipv6/conf', 'disable_ipv6', 0],
          ['ipv6/conf', 'forwarding', 1],
        ] as [string, string, number][])
      : []),
  ];
}

/** Settings of the pod's end, in the same form: some runtimes switch IPv6 off in new namespaces. */
export function podSysctls(spec: PodLinkSpec): [folder: string, setting: string, value: number][] {
  const hasV6 = spec.addresses.some((address) => address.family === 6);
  return hasV6 ? [['ipv6/conf', 'disable_ipv6', 0]] : [];
}
