import assert from 'node:assert/strict';
import test from 'node:test';
import { parseCidr, parseIp } from '../addr/index.ts';
import type { Addr, Link, Route } from '../kernel/rtnl/index.ts';
import { leaseNews, planAhead } from './ahead.ts';
import { desiredOverlay } from './desired.ts';
import { vtepMac } from './names.ts';
import { planOverlay } from './plan.ts';
import { changeText } from './text.ts';
import type { Lease, Observed, OverlayConfig } from './types.ts';

const config: OverlayConfig = {
  node: 'node-1',
  backend: 'vxlan',
  podCidrs: [parseCidr('10.244.1.0/24')],
  clusterCidrs: [parseCidr('10.244.0.0/16')],
};

const up = { flags: 1, up: true, lowerUp: true, operState: 'up', loopback: false };
const link: Link = { ifindex: 2, name: 'eth0', kind: '', mtu: 1500, ...up };
const addr: Addr = {
  family: 4,
  ifindex: 2,
  address: parseIp('192.0.2.1'),
  prefixLength: 24,
  scope: 0,
  permanent: true,
  tentative: false,
  duplicate: false,
  noPrefixRoute: false,
  deprecated: false,
};
const route = (destination: string, more: Partial<Route>): Route => ({
  family: 4,
  destination: parseCidr(destination),
  type: 'unicast',
  table: 254,
  protocol: 2,
  scope: 0,
  tos: 0,
  onlink: false,
  metric: 0,
  dead: false,
  oif: 2,
  ...more,
});
const observed: Observed = {
  links: [link],
  addrs: [addr],
  routes: [route('192.0.2.0/24', {}), route('0.0.0.0/0', { gateway: parseIp('192.0.2.254') })],
  neighs: [],
  fdb: [],
  sysctl: () => undefined,
};

const lease = (n: number, publicIp = `198.51.100.${n}`, podCidr = `10.244.${n}.0/24`): Lease => ({
  node: `node-${n}`,
  backend: 'vxlan',
  endpoints: {
    4: {
      publicIp: parseIp(publicIp),
      podCidrs: [parseCidr(podCidr)],
      vtep: { vni: 1, mac: vtepMac(`node-${n}`, 4), port: 8472 },
    },
  },
});
const known = (leases: readonly Lease[]) => ({
  config,
  observed,
  peers: desiredOverlay(config, leases, observed).peers,
});
const texts = (news: readonly Lease[], old: readonly Lease[]) =>
  planAhead(news, known(old)).map((change) => changeText(change));

test('a new peer gets its own entries ahead of the whole comparison, what leads to it first', () => {
  assert.deepEqual(texts([lease(3)], [lease(2)]), [
    `ip neigh replace 10.244.3.0 lladdr ${vtepMac('node-3', 4)} dev flannel.1 nud permanent`,
    `bridge fdb replace ${vtepMac('node-3', 4)} dev flannel.1 dst 198.51.100.3 self permanent`,
    'ip route replace 10.244.3.0/24 via 10.244.3.0 dev flannel.1 onlink proto 250',
  ]);
});

test('a new peer on the shared link gets a route without encapsulation', () => {
  assert.deepEqual(texts([lease(3, '192.0.2.3')], []), [
    'ip route replace 10.244.3.0/24 via 192.0.2.3 dev eth0 proto 250',
  ]);
});

test('a peer that moved gets its new entries; the old ones are left to the whole comparison', () => {
  assert.deepEqual(texts([lease(2, '192.0.2.2')], [lease(2)]), [
    'ip route replace 10.244.2.0/24 via 192.0.2.2 dev eth0 proto 250',
  ]);
});

test('what is done ahead is what the whole comparison would do, too', () => {
  const whole = planOverlay(desiredOverlay(config, [lease(2), lease(3)], observed), observed).map(changeText);
  for (const text of texts([lease(3)], [lease(2)])) assert.ok(whole.includes(text), text);
});

test('a lease that claims what another peer has waits for the whole comparison', () => {
  assert.deepEqual(texts([lease(3, '198.51.100.2')], [lease(2)]), []);
  assert.deepEqual(texts([lease(3, '198.51.100.3', '10.244.2.128/25')], [lease(2)]), []);
  assert.deepEqual(texts([lease(3, '198.51.100.3', '10.244.1.0/25')], [lease(2)]), [], "this node's own");
});

test('many new leases at once are left to the whole comparison', () => {
  assert.deepEqual(
    texts(
      Array.from({ length: 60 }, (_, n) => lease(n + 2)),
      [],
    ),
    [],
  );
});

test('leaseNews() tells new and changed leases, and takes equal ones for the same', () => {
  const before = [lease(2), lease(3)];
  assert.deepEqual(leaseNews(before, [lease(2), lease(3)]), { news: [], gone: false });
  assert.deepEqual(leaseNews(before, [lease(3)]), { news: [], gone: true });
  const moved = lease(3, '192.0.2.3');
  const added = lease(4);
  assert.deepEqual(leaseNews(before, [before[0]!, moved, added]), { news: [moved, added], gone: false });
});
