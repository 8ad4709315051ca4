import type { Cidr, Family } from '../addr/index.ts';
import { poolGateway } from '../ipam/index.ts';
import {
  type Addr,
  type BridgePortAttributes,
  changeBridgePort,
  changeLink,
  createLink,
  deleteAddr,
  type Link,
  type LinkSpec,
  RT_SCOPE,
  type RtnlChange,
  replaceAddr,
  replaceBridgeFdb,
} from '../kernel/rtnl/index.ts';
import { BRIDGE_ALIAS, BRIDGE_MAC, BRIDGE_NAME, type HostEnd, type PodLinkSpec, type Step } from './types.ts';

/**
 * Pod link `bridge`:
 *
 *     pod                                        host
 *     eth0 10.244.1.5/24 noprefixroute           po0a1b2c3d4e5, an isolated port of ──► portolan0 10.244.1.1/24
 *       default via 10.244.1.1             ────    10.244.1.5 dev po0a1b2c3d4e5 proto 250     proxy_arp
 *       10.244.1.1 = MAC of portolan0              10.244.1.5 = MAC of eth0, permanent
 *
 * Ports are isolated, so that no frame goes from pod to pod inside the bridge: all that a pod sends comes up to the
 * node, which routes it. Policies and Services see every packet then, whatever br_netfilter does, and nothing that a
 * pod says on layer 2 reaches another pod. What goes to a pod is routed to its port, as for routed links; were it routed
 * to the bridge, br_netfilter would bridge what it translated from one port to another, which are isolated.
 */

/** What a port must be; a kernel that does not tell one of these does not have it. */
const PORT = {
  hairpin: true,
  isolated: true,
  // Where a MAC is, the agent says.
  learning: false,
  flood: false,
  mcastFlood: false,
  bcastFlood: false,
  locked: true,
} as const satisfies BridgePortAttributes;

/** Settings of a port that differ from what they must be, undefined when none does. Pure. */
export function portToChange(port: BridgePortAttributes | undefined): BridgePortAttributes | undefined {
  // A link that is about to become a port: settings that the kernel does not have it ignores.
  if (!port) return PORT;
  const keys = (Object.keys(PORT) as (keyof typeof PORT)[]).filter(
    (key) => port[key] !== undefined && port[key] !== PORT[key],
  );
  return keys.length === 0 ? undefined : Object.fromEntries(keys.map((key) => [key, PORT[key]]));
}

/** What a link lacks as a port of the bridge, once it is one. Pure. */
export function planPort(spec: PodLinkSpec, { link, fdb, bridge }: HostEnd): Step[] {
  if (spec.kind !== 'bridge' || bridge === undefined) return [];
  const { ifindex } = link;
  const name = `host link ${spec.hostLink}`;
  const isPort = link.master === bridge;
  const steps: Step[] = [];
  const change = portToChange(isPort ? link.bridgePort : undefined);
  if (change)
    steps.push({
      change: changeBridgePort(ifindex, change),
      missing: () =>
        `${name} is a port with other settings: want ${Object.keys(change).join(', ')} as ADD set`,
    });
  // Without the mark of the bridge's own addresses: those are where frames come up to the node.
  const isKnown = isPort && fdb.some((entry) => entry.mac === spec.podMac && !entry.permanent && !entry.self);
  if (!isKnown)
    steps.push({
      change: replaceBridgeFdb({ ifindex, mac: spec.podMac }),
      missing: () => `the bridge does not know ${spec.podMac} at ${name}`,
    });
  return steps;
}

/** What the kernel has of the bridge. */
export interface BridgeEnd {
  readonly link: Link;
  readonly addrs: readonly Addr[];
}

export const bridgeSpec: LinkSpec = {
  kind: 'bridge',
  name: BRIDGE_NAME,
  mac: BRIDGE_MAC,
  alias: BRIDGE_ALIAS,
  // It needs no link-local address: gateways are those of the pod networks.
  addrGenMode: 'none',
  // Multicast goes to the node alone: there is nothing to learn.
  bridge: { multicastSnooping: 0 },
  up: true,
};

/** How a person would make it. */
export function bridgeText(): string {
  return createLink(bridgeSpec).text();
}

/** True when the bridge itself is as it must be; its addresses are another table. Pure. */
export function isBridgeWell(link: Link): boolean {
  return link.up && link.mac === BRIDGE_MAC && link.alias === BRIDGE_ALIAS;
}

/**
 * The gateway's address on the bridge. It brings no route to its network: an address that no pod has must stay
 * unreachable, whoever on the bridge says that it is theirs. And it is no source of what the node sends or hides
 * clients behind: policies know a node by its own addresses.
 */
function gatewayOf(network: Cidr) {
  const { family, prefixLength } = network;
  const address = poolGateway(network);
  const place = { address, prefixLength, noPrefixRoute: true };
  return family === 4
    ? { ...place, scope: RT_SCOPE.LINK, deprecated: false }
    : { ...place, scope: RT_SCOPE.UNIVERSE, deprecated: true };
}

/**
 * What the bridge lacks to be the gateway of these networks. `prune` takes other addresses of it away. Pure.
 */
export function planBridge(
  networks: readonly Cidr[],
  { link, addrs }: BridgeEnd,
  prune: boolean,
): RtnlChange[] {
  const { ifindex } = link;
  const changes: RtnlChange[] = [];
  if (link.mac !== BRIDGE_MAC) changes.push(changeLink(ifindex, { mac: BRIDGE_MAC }));
  if (!link.up) changes.push(changeLink(ifindex, { up: true }));
  const wanted = networks.map(gatewayOf);
  const isAt = (addr: Addr, { address, prefixLength }: (typeof wanted)[number]) =>
    addr.address.equals(address) && addr.prefixLength === prefixLength;
  const isRight = (addr: Addr, want: (typeof wanted)[number]) =>
    isAt(addr, want) &&
    addr.scope === want.scope &&
    addr.noPrefixRoute &&
    addr.deprecated === want.deprecated;
  // IPv6 addresses go when a link goes down.
  const there = addrs.filter(({ family }) => link.up || family === 4);
  for (const addr of there) {
    const want = wanted.find((each) => isAt(addr, each));
    // What an address is like cannot be changed: it is put there again.
    if (want ? !isRight(addr, want) : prune) changes.push(deleteAddr(addr));
  }
  for (const want of wanted)
    if (!there.some((addr) => isRight(addr, want))) changes.push(replaceAddr({ ifindex, ...want }));
  return changes;
}

/** Settings of the bridge, as [folder below net/, setting, value]. */
export function bridgeSysctls(
  families: ReadonlySet<Family>,
): [folder: string, setting: string, value: number][] {
  return [
    ['ipv4/conf', 'forwarding', 1],
    // Packets of pods come in by the bridge and go out by ports: loose, also where net.ipv4.conf.all says strict (the
    // larger one counts).
    ['ipv4/conf', 'rp_filter', 2],
    // A pod that believes others to be on its link is answered by the node, at once.
    ['ipv4/conf', 'proxy_arp', 1],
    ['ipv4/neigh', 'proxy_delay', 0],
    ['ipv4/conf', 'send_redirects', 0],
    ['ipv4/conf', 'accept_redirects', 0],
    ...(families.has(6)
      ? ([
          ['ipv6/conf', 'disable_ipv6', 0],
          ['ipv6/conf', 'forwarding', 1],
          ['ipv6/conf', 'accept_ra', 0],
          ['ipv6/conf', 'accept_redirects', 0],
        ] as [string, string, number][])
      : []),
  ];
}
