import assert from 'node:assert/strict';
import test from 'node:test';
import { Cidr, type Family, parseCidr, parseIp } from '../addr/index.ts';
import type { Addr, Fdb, Link, Neigh, Route } from '../kernel/rtnl/index.ts';
import { desiredOverlay, emptyOverlay } from './desired.ts';
import { DEVICE_ALIAS, vtepMac } from './names.ts';
import { planOverlay } from './plan.ts';
import { changeText } from './text.ts';
import type { Lease, Observed, OverlayChange, OverlayConfig } from './types.ts';

const config: OverlayConfig = {
  node: 'node-1',
  backend: 'vxlan',
  podCidrs: [parseCidr('10.244.1.0/24')],
  clusterCidrs: [parseCidr('10.244.0.0/16')],
};

/** A kernel that keeps state: applies changes to tables as the real one would. */
class FakeKernel {
  links: Link[] = [];
  addrs: Addr[] = [];
  routes: Route[] = [];
  neighs: Neigh[] = [];
  fdb: Fdb[] = [];
  sysctls = new Map<string, string>();

  constructor() {
    this.addLink('eth0', '', 1500);
    this.addAddr(2, '192.0.2.1', 24);
    this.addRoute('192.0.2.0/24', { oif: 2, protocol: 2 });
    this.addRoute('0.0.0.0/0', { oif: 2, gateway: parseIp('192.0.2.254'), protocol: 3 });
    this.sysctls
      .set('net/netfilter/nf_conntrack_tcp_timeout_close_wait', '60')
      .set('net/ipv4/ip_forward', '0')
      .set('net/ipv4/conf/eth0/rp_filter', '1');
  }

  addLink(name: string, kind: string, mtu: number, more: Partial<Link> = {}): number {
    const ifindex = this.links.length + 2;
    const up = { flags: 1, up: true, lowerUp: true, operState: 'up', loopback: false };
    this.links.push({ ifindex, name, kind, mtu, ...up, ...more });
    return ifindex;
  }

  addAddr(ifindex: number, address: string, prefixLength: number): void {
    const ip = parseIp(address);
    const flags = {
      permanent: true,
      tentative: false,
      duplicate: false,
      noPrefixRoute: false,
      deprecated: false,
    };
    this.addrs.push({ family: ip.family, ifindex, address: ip, prefixLength, scope: 0, ...flags });
  }

  addRoute(destination: string, more: Partial<Route>): void {
    const cidr = parseCidr(destination);
    const base = {
      type: 'unicast' as const,
      table: 254,
      protocol: 250,
      scope: 0,
      tos: 0,
      onlink: false,
      metric: 0,
      dead: false,
    };
    this.routes.push({ family: cidr.family, destination: cidr, ...base, ...more });
  }

  observed(): Observed {
    return { ...this, sysctl: (path) => this.sysctls.get(path) };
  }

  index(name: string): number {
    return this.links.find((link) => link.name === name)!.ifindex;
  }

  apply(changes: readonly OverlayChange[]): void {
    for (const change of changes)
      switch (change.do) {
        case 'create-device': {
          const d = change.device;
          this.addLink(d.name, 'vxlan', d.mtu, {
            mac: d.mac,
            alias: DEVICE_ALIAS,
            vxlan: {
              vni: d.vni,
              port: d.port,
              local4: d.local,
              lowerIfindex: d.lower.ifindex,
              learning: false,
              udpChecksum: true,
            },
          });
          this.sysctls
            .set(`net/ipv4/conf/${d.name}/rp_filter`, '0')
            .set(`net/ipv6/conf/${d.name}/accept_ra`, '1');
          break;
        }
        case 'delete-device': {
          const gone = change.ifindex;
          this.links = this.links.filter((link) => link.ifindex !== gone);
          this.routes = this.routes.filter((route) => route.oif !== gone);
          this.addrs = this.addrs.filter((addr) => addr.ifindex !== gone);
          this.neighs = this.neighs.filter((neigh) => neigh.ifindex !== gone);
          this.fdb = this.fdb.filter((entry) => entry.ifindex !== gone);
          break;
        }
        case 'set-device':
          this.links = this.links.map((link) =>
            link.name === change.dev ? ({ ...link, ...change.set } as Link) : link,
          );
          break;
        case 'set-address':
          this.addAddr(this.index(change.dev), String(change.address), change.prefixLength);
          break;
        case 'delete-address':
          this.addrs = this.addrs.filter((addr) => !addr.address.equals(change.address));
          break;
        case 'set-neigh': {
          this.neighs = this.neighs.filter((neigh) => !neigh.destination.equals(change.destination));
          const { destination, mac } = change;
          this.neighs.push({
            family: destination.family,
            ifindex: this.index(change.dev),
            destination,
            mac,
            state: 0x80,
            permanent: true,
          });
          break;
        }
        case 'delete-neigh':
          this.neighs = this.neighs.filter((neigh) => !neigh.destination.equals(change.destination));
          break;
        case 'set-fdb':
          this.fdb = this.fdb.filter((entry) => entry.mac !== change.mac);
          this.fdb.push({
            ifindex: this.index(change.dev),
            mac: change.mac,
            destination: change.destination,
            state: 0x80,
            permanent: true,
            self: true,
          });
          break;
        case 'delete-fdb':
          this.fdb = this.fdb.filter(
            (entry) => entry.mac !== change.mac || entry.destination?.equals(change.destination!) !== true,
          );
          break;
        case 'set-route': {
          const { destination, dev, gateway, onlink, type, metric } = change.route;
          this.routes = this.routes.filter(
            (route) => !route.destination.equals(destination) || route.metric !== metric,
          );
          this.addRoute(String(destination), {
            oif: dev === undefined ? undefined : this.index(dev),
            gateway,
            onlink,
            type,
            metric,
          });
          break;
        }
        case 'delete-route':
          this.routes = this.routes.filter((route) => route !== change.route);
          break;
        case 'set-sysctl':
          this.sysctls.set(change.path, change.value);
          break;
      }
  }
}

function peer(n: number, publicIp: string, more: Partial<Lease> = {}): Lease {
  const family: Family = 4;
  const vtep = { vni: 1, mac: vtepMac(`node-${n}`, family), port: 8472 };
  return {
    node: `node-${n}`,
    backend: 'vxlan',
    endpoints: { 4: { publicIp: parseIp(publicIp), podCidrs: [parseCidr(`10.244.${n}.0/24`)], vtep } },
    ...more,
  };
}

/** Peer 2 on the link, peer 3 behind the router. */
const peers = [peer(2, '192.0.2.2'), peer(3, '198.51.100.3')];
const lines = (changes: readonly OverlayChange[]) => changes.map(changeText);
const plan = (kernel: FakeKernel, leases: readonly Lease[] = peers, c: OverlayConfig = config) =>
  planOverlay(desiredOverlay(c, leases, kernel.observed()), kernel.observed());

test('a fresh node: device first, then what routes lead to, then routes; direct where the peer is on the link', () => {
  const kernel = new FakeKernel();
  assert.deepEqual(lines(plan(kernel)), [
    `ip link add flannel.1 address ${vtepMac('node-1', 4)} mtu 1450 type vxlan id 1 local 192.0.2.1 dev eth0 dstport 8472 nolearning udpcsum; ip link set flannel.1 alias "portolan overlay" addrgenmode none; ip link set flannel.1 up`,
    'sysctl -w net.netfilter.nf_conntrack_tcp_timeout_close_wait=3600',
    'sysctl -w net.ipv4.ip_forward=1',
    'sysctl -w net/ipv4/conf/flannel.1/rp_filter=2',
    'sysctl -w net/ipv6/conf/flannel.1/accept_ra=0',
    'sysctl -w net.ipv4.conf.eth0.rp_filter=2',
    'ip addr replace 10.244.1.0/32 dev flannel.1',
    `ip neigh replace 10.244.3.0 lladdr ${vtepMac('node-3', 4)} dev flannel.1 nud permanent`,
    `bridge fdb replace ${vtepMac('node-3', 4)} dev flannel.1 dst 198.51.100.3 self permanent`,
    'ip route replace 10.244.2.0/24 via 192.0.2.2 dev eth0 proto 250',
    'ip route replace 10.244.3.0/24 via 10.244.3.0 dev flannel.1 onlink proto 250',
    'ip route replace unreachable 10.244.1.0/24 proto 250 metric 4294967295',
  ]);
  kernel.apply(plan(kernel));
  assert.deepEqual(lines(plan(kernel)), [], 'the second plan is empty');
});

test('a peer that vanishes: route, then FDB entry, then neighbour, and nothing else', () => {
  const kernel = new FakeKernel();
  kernel.apply(plan(kernel));
  assert.deepEqual(lines(plan(kernel, peers.slice(0, 1))), [
    'ip route del 10.244.3.0/24 via 10.244.3.0 dev flannel.1 onlink proto 250',
    `bridge fdb del ${vtepMac('node-3', 4)} dev flannel.1 dst 198.51.100.3 self`,
    'ip neigh del 10.244.3.0 dev flannel.1',
  ]);
});

test('a peer that comes onto the link gets a direct route in the place of the other, before the tunnel entries go', () => {
  const kernel = new FakeKernel();
  kernel.apply(plan(kernel));
  kernel.addRoute('198.51.100.0/24', { oif: 2, protocol: 2 });
  assert.deepEqual(lines(plan(kernel)), [
    'ip route replace 10.244.3.0/24 via 198.51.100.3 dev eth0 proto 250',
    `bridge fdb del ${vtepMac('node-3', 4)} dev flannel.1 dst 198.51.100.3 self`,
    'ip neigh del 10.244.3.0 dev flannel.1',
  ]);
});

test('a link lost by a peer takes it back into the tunnel', () => {
  const kernel = new FakeKernel();
  kernel.apply(plan(kernel));
  kernel.routes = kernel.routes.map((route) =>
    String(route.destination) === '192.0.2.0/24' ? { ...route, gateway: parseIp('192.0.2.9') } : route,
  );
  assert.deepEqual(lines(plan(kernel)), [
    `ip neigh replace 10.244.2.0 lladdr ${vtepMac('node-2', 4)} dev flannel.1 nud permanent`,
    `bridge fdb replace ${vtepMac('node-2', 4)} dev flannel.1 dst 192.0.2.2 self permanent`,
    'ip route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink proto 250',
  ]);
});

test('the MTU follows the link and the route to a peer, whichever is smaller', () => {
  const kernel = new FakeKernel();
  kernel.apply(plan(kernel));
  kernel.links = kernel.links.map((link) => (link.name === 'eth0' ? { ...link, mtu: 1400 } : link));
  assert.deepEqual(lines(plan(kernel)), ['ip link set flannel.1 mtu 1350']);
  kernel.addRoute('198.51.100.3/32', { oif: 2, gateway: parseIp('192.0.2.254'), protocol: 3, mtu: 1380 });
  assert.deepEqual(lines(plan(kernel)), ['ip link set flannel.1 mtu 1330']);
  assert.equal(desiredOverlay(config, peers, kernel.observed()).podMtuBytes, 1330);
});

test('a device with another local address is made anew together with everything on it', () => {
  const kernel = new FakeKernel();
  kernel.apply(plan(kernel));
  kernel.addrs = kernel.addrs.filter((addr) => String(addr.address) !== '192.0.2.1');
  kernel.addAddr(2, '192.0.2.77', 24);
  const changes = plan(kernel);
  assert.deepEqual(changes.map((change) => change.do).slice(0, 2), ['delete-device', 'create-device']);
  kernel.apply(changes);
  assert.deepEqual(lines(plan(kernel)), []);
  assert.ok(kernel.routes.some((route) => String(route.destination) === '10.244.3.0/24'));
});

test('routes to own pods, routes of others and devices of others are never pruned', () => {
  const kernel = new FakeKernel();
  const pod = kernel.addLink('po1', 'veth', 1450);
  kernel.addRoute('10.244.1.5/32', { oif: pod, scope: 253 });
  kernel.addRoute('10.244.9.0/24', { oif: 2, gateway: parseIp('192.0.2.9'), protocol: 3 });
  kernel.addLink('flannel.7', 'vxlan', 1450, { alias: undefined });
  kernel.apply(plan(kernel));
  const cleaned = planOverlay(emptyOverlay(config), kernel.observed());
  assert.deepEqual(lines(cleaned), [
    'ip route del 10.244.2.0/24 via 192.0.2.2 dev eth0 proto 250',
    'ip route del unreachable 10.244.1.0/24 proto 250 metric 4294967295',
    'ip link del flannel.1',
  ]);
});

test('two nodes with one pod network or address: this node and the lesser name win, the other is an error', () => {
  const kernel = new FakeKernel();
  const desired = desiredOverlay(
    config,
    [
      peer(2, '192.0.2.2'),
      { ...peer(2, '192.0.2.5'), node: 'node-2b' },
      { ...peer(1, '192.0.2.6'), node: 'node-7' },
      { ...peer(8, '192.0.2.2'), node: 'node-8' },
    ],
    kernel.observed(),
  );
  assert.deepEqual(
    desired.peers.map((one) => `${one.node} ${one.via} ${one.error?.code ?? ''}`.trim()),
    [
      'node-2 direct',
      'node-2b none OVERLAY_LEASE_CONFLICT',
      'node-7 none OVERLAY_LEASE_CONFLICT',
      'node-8 none OVERLAY_LEASE_CONFLICT',
    ],
  );
});

test('host-gw takes no device and reports a peer that is behind a router', () => {
  const kernel = new FakeKernel();
  const desired = desiredOverlay({ ...config, backend: 'host-gw' }, peers, kernel.observed());
  assert.deepEqual(
    desired.peers.map((one) => `${one.node} ${one.via} ${one.error?.code ?? ''}`.trim()),
    ['node-2 direct', 'node-3 none OVERLAY_PEER_NOT_ON_LINK'],
  );
  assert.equal(desired.devices.length, 0);
  assert.equal(desired.podMtuBytes, 1500);
});

test('changing the backend to host-gw replaces routes first and removes the device last', () => {
  const kernel = new FakeKernel();
  const tunnels = { ...config, directRouting: false };
  kernel.apply(plan(kernel, peers, tunnels));
  const changes = lines(plan(kernel, peers, { ...config, backend: 'host-gw' }));
  assert.equal(changes[0], 'ip route replace 10.244.2.0/24 via 192.0.2.2 dev eth0 proto 250');
  assert.equal(changes.at(-1), 'ip link del flannel.1');
});

test('a node without an address of the family says what is missing', () => {
  const kernel = new FakeKernel();
  const desired = desiredOverlay(
    { ...config, podCidrs: [Cidr.around(parseIp('fd00:1::'), 64)] },
    [],
    kernel.observed(),
  );
  assert.deepEqual(
    desired.problems.map((error) => error.code),
    ['OVERLAY_NO_UNDERLAY'],
  );
  assert.equal(desired.lease, undefined);
});
