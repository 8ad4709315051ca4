import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { Cidr, parseIp } from '../addr/index.ts';
import type { Addr, Link, Neigh, Route } from '../kernel/rtnl/index.ts';
import { hostSysctls, planHostEnd, planPodEnd, podSysctls, vethText } from './plan.ts';
import {
  type HostEnd,
  hostLinkName,
  isHostLinkName,
  POD_GATEWAYS,
  type PodEnd,
  podLinkSpec,
} from './types.ts';

const attachment = {
  containerId: 'c1',
  ifname: 'eth0',
  hostLink: hostLinkName('c1', 'eth0'),
  addresses: [parseIp('10.244.1.5'), parseIp('fd00::5')],
  mtuBytes: 1450,
  kind: 'routed',
  networks: [],
};
const spec = podLinkSpec(attachment);
const nameOf = (ifindex: number) => ({ 1: 'lo', 2: 'eth0', 7: spec.hostLink })[ifindex] ?? `if${ifindex}`;

const link: Link = {
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
};
const neigh = (ifindex: number, address: string, mac: typeof spec.podMac): Neigh => {
  const destination = parseIp(address);
  return { family: destination.family, ifindex, destination, mac, state: 0x80, permanent: true };
};
const route = (destination: Cidr, oif: number, gateway?: string): Route => ({
  family: destination.family,
  destination,
  type: 'unicast',
  table: 254,
  protocol: 250,
  scope: 253,
  tos: 0,
  oif,
  gateway: gateway === undefined ? undefined : parseIp(gateway),
  onlink: gateway !== undefined,
  metric: 0,
  dead: false,
});
const host: HostEnd = {
  link,
  routes: spec.addresses.map((address) => route(Cidr.host(address), 7)),
  neighs: spec.addresses.map((address) => neigh(7, String(address), spec.podMac)),
  fdb: [],
  bridge: undefined,
};
const addr = (text: string, prefixLength: number): Addr => {
  const address = parseIp(text);
  return {
    family: address.family,
    ifindex: 2,
    address,
    prefixLength,
    scope: 0,
    permanent: true,
    tentative: false,
    duplicate: false,
    noPrefixRoute: false,
    deprecated: false,
  };
};
const pod: PodEnd = {
  link: { ...link, ifindex: 2, name: 'eth0', mac: spec.podMac },
  loopbackUp: true,
  addrs: [addr('10.244.1.5', 32), addr('fd00::5', 128)],
  routes: [
    route(Cidr.around(parseIp('0.0.0.0'), 0), 2, '169.254.1.1'),
    route(Cidr.around(parseIp('::'), 0), 2, 'fe80::1'),
  ],
  neighs: [neigh(2, '169.254.1.1', spec.hostMac), neigh(2, 'fe80::1', spec.hostMac)],
};
const texts = (steps: ReturnType<typeof planHostEnd>) => steps.map((step) => step.change.text(nameOf));

test('a bare link is made in one batch: up, neighbours before routes, then the pod the same way', () => {
  assert.equal(
    vethText(spec),
    `ip link add ${spec.hostLink} address ${spec.hostMac} mtu 1450 netns /proc/self/fd/0 numtxqueues 1 numrxqueues 1 type veth peer name eth0 address ${spec.podMac}`.replace(
      ' netns /proc/self/fd/0',
      '',
    ),
  );
  const bare = { ...link, up: false, addrGenMode: 'eui64' as const };
  assert.deepEqual(texts(planHostEnd(spec, { ...host, link: bare, routes: [], neighs: [] })), [
    `ip link set ${spec.hostLink} addrgenmode none`,
    `ip link set ${spec.hostLink} up`,
    `ip neigh replace 10.244.1.5 lladdr ${spec.podMac} dev ${spec.hostLink} nud permanent`,
    `ip route replace 10.244.1.5/32 dev ${spec.hostLink} proto 250`,
    `ip neigh replace fd00::5 lladdr ${spec.podMac} dev ${spec.hostLink} nud permanent`,
    `ip -6 route replace fd00::5/128 dev ${spec.hostLink} proto 250`,
  ]);
  const empty = {
    link: { ...pod.link, up: false, addrGenMode: 'eui64' as const },
    loopbackUp: false,
    addrs: [],
    routes: [],
    neighs: [],
  };
  assert.deepEqual(texts(planPodEnd(spec, 1, empty)), [
    'ip link set lo up',
    'ip link set eth0 addrgenmode none',
    'ip link set eth0 up',
    'ip addr replace 10.244.1.5/32 dev eth0',
    `ip neigh replace 169.254.1.1 lladdr ${spec.hostMac} dev eth0 nud permanent`,
    'ip route replace 0.0.0.0/0 via 169.254.1.1 dev eth0 onlink proto 250',
    'ip addr replace fd00::5/128 dev eth0',
    `ip neigh replace fe80::1 lladdr ${spec.hostMac} dev eth0 nud permanent`,
    'ip -6 route replace ::/0 via fe80::1 dev eth0 onlink proto 250',
  ]);
});

test('a link that is as it must be needs nothing', () => {
  assert.deepEqual(texts(planHostEnd(spec, host)), []);
  assert.deepEqual(texts(planPodEnd(spec, 1, pod)), []);
});

test('whatever subset is missing, the plan makes exactly that', () => {
  const keep = fc.tuple(...Array.from({ length: 4 }, () => fc.boolean()));
  fc.assert(
    fc.property(keep, ([a, b, c, d]) => {
      const steps = planHostEnd(spec, {
        ...host,
        routes: host.routes.filter((_, index) => [a, b][index]),
        neighs: host.neighs.filter((_, index) => [c, d][index]),
      });
      assert.equal(steps.length, [a, b, c, d].filter((kept) => !kept).length);
      for (const step of steps) assert.match(step.missing(), /is missing/);
    }),
  );
});

test('a link that is down has lost what hangs on it: all is made again', () => {
  assert.equal(planHostEnd(spec, { ...host, link: { ...link, up: false } }).length, 5);
  const steps = planPodEnd(spec, 1, { ...pod, link: { ...pod.link, up: false } });
  assert.deepEqual(
    steps.map((step) => step.missing()),
    [
      'pod interface eth0 is down',
      'neighbour 169.254.1.1 (the gateway) is missing on pod interface eth0',
      'default route over 169.254.1.1 is missing on pod interface eth0',
      'address fd00::5/128 is missing on pod interface eth0',
      'neighbour fe80::1 (the gateway) is missing on pod interface eth0',
      'default route over fe80::1 is missing on pod interface eth0',
    ],
  );
});

test('stale routes and neighbours of ours on the link go, those of others stay', () => {
  const old = parseIp('10.244.1.9');
  const foreign = { ...route(Cidr.host(old), 7), protocol: 3 };
  const stale = route(Cidr.host(old), 7);
  assert.deepEqual(
    texts(
      planHostEnd(spec, {
        ...host,
        routes: [...host.routes, stale, foreign],
        neighs: [...host.neighs, neigh(7, '10.244.1.9', spec.podMac)],
      }),
    ),
    [
      `ip route del 10.244.1.9/32 dev ${spec.hostLink} proto 250`,
      `ip neigh del 10.244.1.9 dev ${spec.hostLink}`,
    ],
  );
  const added = [...pod.addrs, addr('192.0.2.1', 24)];
  assert.deepEqual(texts(planPodEnd(spec, 1, { ...pod, addrs: added })), []);
});

test('an IPv4 pod gets no IPv6 setting, and no pod a link-local address', () => {
  const only4 = podLinkSpec({ ...attachment, addresses: [parseIp('10.244.1.5')] });
  for (const [folder] of [...hostSysctls(only4), ...podSysctls(only4)]) assert.doesNotMatch(folder, /ipv6/);
  const steps = planPodEnd(only4, 1, { ...pod, link: { ...pod.link, addrGenMode: 'eui64' } });
  assert.deepEqual(texts(steps), ['ip link set eth0 addrgenmode none']);
});

test('names and MACs are stable, differ by container and interface, and fit the kernel', () => {
  const seen = new Set<string>();
  for (let index = 0; index < 2000; index++) {
    const name = hostLinkName(`c${index >> 1}`, `eth${index & 1}`);
    assert.ok(isHostLinkName(name) && name.length === 13);
    seen.add(name);
    const { hostMac, podMac } = podLinkSpec({ ...attachment, containerId: `c${index}` });
    assert.ok(hostMac !== podMac && (Number.parseInt(hostMac.slice(0, 2), 16) & 3) === 2);
  }
  assert.equal(seen.size, 2000);
  assert.equal(hostLinkName('c1', 'eth0'), attachment.hostLink);
  for (const name of ['po', 'port0', 'po0123456789g', 'pod-1', 'po0123456789ab'])
    assert.ok(!isHostLinkName(name));
  assert.ok(POD_GATEWAYS[4].isLinkLocal && POD_GATEWAYS[6].isLinkLocal);
});
