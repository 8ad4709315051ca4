import assert from 'node:assert/strict';
import test from 'node:test';
import { Cidr, parseCidr, parseIp } from '../addr/index.ts';
import type { Addr, Fdb, Link } from '../kernel/rtnl/index.ts';
import { isHostLinkWell, planHostEnd, planPodEnd } from './plan.ts';
import { bridgeSysctls, bridgeText, isBridgeWell, planBridge, portToChange } from './plan-bridge.ts';
import { BRIDGE_ALIAS, BRIDGE_MAC, BRIDGE_NAME, type HostEnd, hostLinkName, podLinkSpec } from './types.ts';

const networks = [parseCidr('10.244.1.0/24'), parseCidr('fd00:10:244:1::/64')];
const spec = podLinkSpec({
  containerId: 'c1',
  ifname: 'eth0',
  hostLink: hostLinkName('c1', 'eth0'),
  addresses: [parseIp('10.244.1.5'), parseIp('fd00:10:244:1::5')],
  mtuBytes: 1450,
  kind: 'bridge',
  networks,
});
const nameOf = (ifindex: number) =>
  ({ 2: 'eth0', 3: BRIDGE_NAME, 7: spec.hostLink })[ifindex] ?? `if${ifindex}`;
const PORT = 'hairpin on isolated on learning off flood off mcast_flood off bcast_flood off locked on';

const link = (fields: Partial<Link> = {}): Link => ({
  ifindex: 7,
  name: spec.hostLink,
  kind: 'veth',
  flags: 1,
  up: true,
  lowerUp: true,
  operState: 'up',
  loopback: false,
  mtu: 1450,
  mac: spec.hostMac,
  addrGenMode: 'none',
  ...fields,
});
const port = {
  hairpin: true,
  isolated: true,
  learning: false,
  flood: false,
  mcastFlood: false,
  bcastFlood: false,
  locked: true,
};
const known: Fdb = { ifindex: 7, mac: spec.podMac, master: 3, state: 0x40, permanent: false, self: false };
const end = (fields: Partial<HostEnd> = {}): HostEnd => ({
  link: link({ master: 3, bridgePort: port }),
  routes: spec.addresses.map((address) => ({
    family: address.family,
    destination: Cidr.host(address),
    type: 'unicast',
    table: 254,
    protocol: 250,
    scope: 253,
    tos: 0,
    oif: 7,
    onlink: false,
    metric: 0,
    dead: false,
  })),
  neighs: spec.addresses.map((destination) => ({
    family: destination.family,
    ifindex: 7,
    destination,
    mac: spec.podMac,
    state: 0x80,
    permanent: true,
  })),
  fdb: [known],
  bridge: 3,
  ...fields,
});
const texts = (host: HostEnd) => planHostEnd(spec, host).map((step) => step.change.text(nameOf));
const gateway = (address: string, prefixLength: number): Addr => ({
  family: parseIp(address).family,
  ifindex: 3,
  address: parseIp(address),
  prefixLength,
  scope: address.includes(':') ? 0 : 253,
  permanent: true,
  tentative: false,
  duplicate: false,
  noPrefixRoute: true,
  deprecated: address.includes(':'),
});
const bridge = link({ ifindex: 3, name: BRIDGE_NAME, kind: 'bridge', mac: BRIDGE_MAC, alias: BRIDGE_ALIAS });
const gateways = [gateway('10.244.1.1', 24), gateway('fd00:10:244:1::1', 64)];
const bridgeTexts = (...args: Parameters<typeof planBridge>) =>
  planBridge(...args).map((change) => change.text(nameOf));

test('a bare link becomes an isolated port before it goes up', () => {
  const bare = end({ link: link({ up: false, addrGenMode: 'eui64' }), routes: [], neighs: [], fdb: [] });
  assert.deepEqual(texts(bare), [
    `ip link set ${spec.hostLink} master ${BRIDGE_NAME} addrgenmode none`,
    `bridge link set dev ${spec.hostLink} ${PORT}`,
    `bridge fdb replace ${spec.podMac} dev ${spec.hostLink} master static`,
    `ip link set ${spec.hostLink} up`,
    `ip neigh replace 10.244.1.5 lladdr ${spec.podMac} dev ${spec.hostLink} nud permanent`,
    `ip route replace 10.244.1.5/32 dev ${spec.hostLink} proto 250`,
    `ip neigh replace fd00:10:244:1::5 lladdr ${spec.podMac} dev ${spec.hostLink} nud permanent`,
    `ip -6 route replace fd00:10:244:1::5/128 dev ${spec.hostLink} proto 250`,
  ]);
});

test('a bridged pod has the prefix of its network, and reaches everybody over the gateway on the bridge', () => {
  const bare = {
    link: link({ ifindex: 2, mac: spec.podMac }),
    loopbackUp: true,
    addrs: [],
    routes: [],
    neighs: [],
  };
  assert.deepEqual(
    planPodEnd(spec, 1, bare).map((step) => step.change.text(nameOf)),
    [
      'ip addr replace 10.244.1.5/24 dev eth0 noprefixroute',
      `ip neigh replace 10.244.1.1 lladdr ${BRIDGE_MAC} dev eth0 nud permanent`,
      'ip route replace 0.0.0.0/0 via 10.244.1.1 dev eth0 onlink proto 250',
      'ip addr replace fd00:10:244:1::5/64 dev eth0 noprefixroute',
      `ip neigh replace fd00:10:244:1::1 lladdr ${BRIDGE_MAC} dev eth0 nud permanent`,
      'ip -6 route replace ::/0 via fd00:10:244:1::1 dev eth0 onlink proto 250',
    ],
  );
});

test('a port that is as it must be needs nothing, and what somebody changed is named', () => {
  assert.deepEqual(texts(end()), []);
  assert.ok(isHostLinkWell(spec, link({ master: 3, bridgePort: port }), 3));
  const open = { ...port, isolated: false, hairpin: false };
  assert.ok(!isHostLinkWell(spec, link({ master: 3, bridgePort: open }), 3));
  assert.deepEqual(texts(end({ link: link({ master: 3, bridgePort: open }) })), [
    `bridge link set dev ${spec.hostLink} hairpin on isolated on`,
  ]);
  assert.deepEqual(texts(end({ fdb: [] })), [
    `bridge fdb replace ${spec.podMac} dev ${spec.hostLink} master static`,
  ]);
  assert.deepEqual(texts(end({ link: link() })), [
    `ip link set ${spec.hostLink} master ${BRIDGE_NAME}`,
    `bridge link set dev ${spec.hostLink} ${PORT}`,
    `bridge fdb replace ${spec.podMac} dev ${spec.hostLink} master static`,
  ]);
  for (const step of planHostEnd(spec, end({ link: link(), fdb: [] })))
    assert.match(step.missing(), /bridge|port/);
});

test('what a kernel does not have of a port is not asked for again and again', () => {
  const { locked: _, ...old } = port;
  assert.equal(portToChange(old), undefined);
  assert.deepEqual(portToChange({ ...old, learning: true }), { learning: false });
});

test('a routed link that somebody made a port is taken out of the bridge', () => {
  const routed = podLinkSpec({ ...spec, containerId: 'c1', kind: 'routed', networks: [] });
  assert.ok(!isHostLinkWell(routed, link({ master: 9 }), undefined));
  assert.deepEqual(
    planHostEnd(routed, end({ link: link({ master: 9 }), fdb: [], bridge: undefined })).map(({ change }) =>
      change.text(nameOf),
    ),
    [`ip link set ${spec.hostLink} nomaster`],
  );
});

test('the bridge gets the gateways of all its networks, and gives up others when asked', () => {
  assert.equal(
    bridgeText(),
    `ip link add ${BRIDGE_NAME} address ${BRIDGE_MAC} alias "${BRIDGE_ALIAS}" addrgenmode none up type bridge`,
  );
  assert.deepEqual(bridgeTexts(networks, { link: bridge, addrs: gateways }, true), []);
  assert.deepEqual(bridgeTexts(networks, { link: bridge, addrs: [] }, false), [
    `ip addr replace 10.244.1.1/24 dev ${BRIDGE_NAME} scope link noprefixroute`,
    `ip addr replace fd00:10:244:1::1/64 dev ${BRIDGE_NAME} noprefixroute preferred_lft 0`,
  ]);
  const stale = { link: bridge, addrs: [...gateways, gateway('10.244.9.1', 24)] };
  assert.deepEqual(bridgeTexts(networks, stale, false), []);
  assert.deepEqual(bridgeTexts(networks, stale, true), [
    `ip addr del 10.244.9.1/24 dev ${BRIDGE_NAME} scope link noprefixroute`,
  ]);
  // A route to the whole network would let a pod take any free address of it.
  const routes = [{ ...gateways[0]!, noPrefixRoute: false }, gateways[1]!];
  assert.deepEqual(bridgeTexts(networks, { link: bridge, addrs: routes }, true), [
    `ip addr del 10.244.1.1/24 dev ${BRIDGE_NAME} scope link`,
    `ip addr replace 10.244.1.1/24 dev ${BRIDGE_NAME} scope link noprefixroute`,
  ]);
});

test('a bridge that is down or has another MAC is put right, with the addresses that it lost', () => {
  const down = { ...bridge, up: false, mac: spec.podMac };
  assert.ok(isBridgeWell(bridge) && !isBridgeWell(down) && !isBridgeWell({ ...bridge, alias: undefined }));
  assert.deepEqual(bridgeTexts(networks, { link: down, addrs: gateways }, true), [
    `ip link set ${BRIDGE_NAME} address ${BRIDGE_MAC}`,
    `ip link set ${BRIDGE_NAME} up`,
    `ip addr replace fd00:10:244:1::1/64 dev ${BRIDGE_NAME} noprefixroute preferred_lft 0`,
  ]);
});

test('a bridge of IPv4 alone gets no IPv6 setting', () => {
  for (const [folder] of bridgeSysctls(new Set([4]))) assert.doesNotMatch(folder, /ipv6/);
});
