/** The wire between the nodes of a lab: a bridge in a namespace of its own, one veth pair a node. */
import { type IpAddress, parseCidr, parseIp } from '../addr/index.ts';
import { createNetns, deleteNetns, openNetns } from '../kernel/netns/index.ts';
import { addRoute, changeLink, Rtnl, replaceAddr } from '../kernel/rtnl/index.ts';
import { ensureSysctl } from '../kernel/sysctl/index.ts';
import type { LabNode, LabPlan } from './plan.ts';

/** RTPROT_STATIC: routes that the administrator of these "machines" made, not Portolan. */
const RTPROT_STATIC = 4;
const UPLINK = 'eth0';

/** Makes the underlay's namespace, its bridge and gateways; this is where the "outside" of the lab is. */
export function createUnderlay(plan: LabPlan): void {
  const { netns: name, bridge, gateways, prefixLengths, mtuBytes } = plan.underlay;
  using netns = createNetns(name);
  using rtnl = Rtnl.open({ netns });
  rtnl.mustApply(changeLink(rtnl.needLink('lo', 'bring up "lo"').ifindex, { up: true }));
  const link = rtnl.createLink({ kind: 'bridge', name: bridge, mtu: mtuBytes, up: true });
  gateways.forEach((gateway, at) => {
    rtnl.mustApply(
      replaceAddr({ ifindex: link.ifindex, address: parseIp(gateway), prefixLength: prefixLengths[at]! }),
    );
  });
}

/** Makes a node's namespace and plugs it in: eth0 with its addresses and a default route to the gateway. */
export function createNode(plan: LabPlan, node: LabNode): void {
  const { netns: underlayName, bridge, gateways, prefixLengths, mtuBytes } = plan.underlay;
  using underlay = openNetns(underlayName);
  using netns = createNetns(node.netns);
  using outer = Rtnl.open({ netns: underlay });
  using inner = Rtnl.open({ netns });
  inner.mustApply(changeLink(inner.needLink('lo', 'bring up "lo"').ifindex, { up: true }));
  outer.createLink({
    kind: 'veth',
    name: node.name,
    mtu: mtuBytes,
    up: true,
    master: outer.needLink(bridge, `plug in "${node.name}"`).ifindex,
    peer: { name: UPLINK, mtu: mtuBytes, netns: netns.fd },
  });
  // A node is a router, and would ignore its gateway's advertisements anyway; nobody advertises here.
  ensureSysctl(`net/ipv6/conf/${UPLINK}/accept_ra`, 0, { netns });
  const { ifindex } = inner.needLink(UPLINK, `plug in "${node.name}"`);
  inner.mustApply(changeLink(ifindex, { up: true }));
  node.addresses.forEach((text, at) => {
    const address = parseIp(text);
    inner.mustApply(replaceAddr({ ifindex, address, prefixLength: prefixLengths[at]! }));
    inner.mustApply(
      addRoute({
        destination: defaultRoute(address),
        gateway: parseIp(gateways[at]!),
        oif: ifindex,
        protocol: RTPROT_STATIC,
      }),
    );
  });
}

function defaultRoute({ family }: IpAddress) {
  return parseCidr(family === 4 ? '0.0.0.0/0' : '::/0');
}

/** Names of the namespaces that a lab made, its nodes' pods among them: what follows the lab's name decides. */
export function labNetns(name: string, all: readonly string[]): string[] {
  return all.filter(
    (one) => one.startsWith(`${name}-`) && /^(underlay|node\d+(-.+)?)$/.test(one.slice(name.length + 1)),
  );
}

/** Deletes namespaces; their links go with them. */
export function deleteAll(names: readonly string[]): void {
  for (const name of names) deleteNetns(name);
}
