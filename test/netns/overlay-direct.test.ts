import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import { parseCidr } from '../../src/addr/index.ts';
import {
  type BackendType,
  type Lease,
  leaseAnnotations,
  OverlayReconciler,
} from '../../src/overlay/index.ts';
import type { AgentArguments } from '../lib/overlay-agent.ts';
import {
  inside,
  pings,
  steadyPing,
  type TestNet,
  type TestNode,
  testNet,
  until,
} from '../lib/overlay-net.ts';

const clusterCidrs = ['10.244.0.0/16', 'fd00:10:244::/48'];

async function startAll(net: TestNet, backend: BackendType) {
  const leases = new Map<string, Lease>();
  const overlays = net.nodes.map(
    (node) =>
      new OverlayReconciler({
        config: {
          node: node.name,
          backend,
          podCidrs: [parseCidr(node.podCidr4), parseCidr(node.podCidr6)],
          clusterCidrs: clusterCidrs.map(parseCidr),
        },
        netns: node.ns,
        onLease: (lease) => leases.set(node.name, lease),
      }),
  );
  for (const overlay of overlays) overlay.start();
  await until(() => leases.size === net.nodes.length);
  for (const overlay of overlays) overlay.setLeases([...leases.values()]);
  await Promise.all(overlays.map((overlay) => overlay.settled()));
  return {
    overlays,
    leases,
    stop: async () => {
      for (const overlay of overlays) await overlay.stop();
    },
  };
}

const underlayBytes = (net: TestNet, n: number) =>
  Number((net.json(net.underlay, `-s link show u${n}`)[0]!['stats64'] as { tx: { bytes: number } }).tx.bytes);

test('nodes behind routers use the tunnel, and a shared link is used directly as soon as there is one', async () => {
  const net = testNet('ptd', 2, { routed: true });
  const { overlays, stop } = await startAll(net, 'vxlan');
  try {
    const [one, two] = net.nodes as [TestNode, TestNode];
    assert.deepEqual(
      overlays[0]!.status().peers.map((peer) => peer.via),
      ['vxlan', 'vxlan'],
    );
    assert.ok(pings(one.pod.netns, two.pod.ip4));
    assert.ok(pings(one.pod.netns, two.pod.ip6));

    // A cable between both nodes, and routes that say so: the peer's address is on a link now.
    const loss = steadyPing(one.pod.netns, two.pod.ip4);
    net.ip(one.netns, `link add cable type veth peer name cable netns ${two.netns}`);
    net.ip(one.netns, 'link set cable up');
    net.ip(two.netns, 'link set cable up');
    net.ip(one.netns, `route add ${two.ip4}/32 dev cable src ${one.ip4}`);
    net.ip(two.netns, `route add ${one.ip4}/32 dev cable src ${two.ip4}`);
    await until(
      () => overlays.every((overlay) => overlay.status().peers[0]!.via === 'direct'),
      1500,
      'direct',
    );
    await Promise.all(overlays.map((overlay) => overlay.settled()));
    assert.match(
      net.ip(one.netns, 'route show 10.244.2.0/24'),
      new RegExp(`via ${two.ip4} dev cable proto 250`),
    );
    assert.doesNotMatch(inside(one.netns, 'bridge', 'fdb', 'show', 'dev', 'flannel.1'), new RegExp(two.ip4));
    const before = underlayBytes(net, 1);
    assert.ok(pings(one.pod.netns, two.pod.ip4));
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert.ok(underlayBytes(net, 1) - before < 3_000, 'the old way is quiet');

    // The link goes: back into the tunnel.
    net.ip(one.netns, 'link del cable');
    await until(
      () => overlays.every((overlay) => overlay.status().peers[0]!.via === 'vxlan'),
      1500,
      'vxlan again',
    );
    await Promise.all(overlays.map((overlay) => overlay.settled()));
    const { sent, lost } = await loss.stop();
    assert.ok(sent > 10);
    assert.ok(lost <= 8, `${lost} of ${sent} pings lost at the moment when the cable was cut`);
    assert.ok(pings(one.pod.netns, two.pod.ip4));
  } finally {
    await stop();
    net.close();
  }
});

test('nodes on one link route directly from the start; host-gw the same, with the full MTU and no device', async () => {
  for (const backend of ['vxlan', 'host-gw'] as const) {
    const net = testNet(backend === 'vxlan' ? 'pte' : 'ptg', 2);
    const { overlays, stop } = await startAll(net, backend);
    try {
      const [one, two] = net.nodes as [TestNode, TestNode];
      assert.deepEqual(
        overlays[0]!.status().peers.map((peer) => peer.via),
        ['direct', 'direct'],
      );
      assert.equal(overlays[0]!.status().podMtuBytes, backend === 'vxlan' ? 1430 : 1500);
      assert.ok(pings(one.pod.netns, two.pod.ip4));
      assert.ok(pings(one.pod.netns, two.pod.ip6));
      assert.ok(pings(one.netns, two.pod.ip4));
      assert.match(
        net.ip(one.netns, 'route show 10.244.2.0/24'),
        new RegExp(`via ${two.ip4} dev eth0 proto 250`),
      );
      assert.match(
        net.ip(one.netns, '-6 route show fd00:10:244:2::/64'),
        new RegExp(`via ${two.ip6} dev eth0 proto 250`),
      );
      assert.equal(/flannel/.test(net.ip(one.netns, 'link show')), backend === 'vxlan');
      net.ip(one.netns, 'route del 10.244.2.0/24');
      await until(() => net.ip(one.netns, 'route show 10.244.2.0/24') !== '', 300, 'the route');
      // The link to the others down and up takes all IPv4 routes over it away, silently.
      net.ip(one.netns, 'link set eth0 down');
      net.ip(one.netns, 'link set eth0 up');
      await until(
        () => net.ip(one.netns, 'route show 10.244.2.0/24').includes('dev eth0'),
        1500,
        'the route',
      );
    } finally {
      await stop();
      net.close();
    }
  }
});

test('an IPv6-only overlay comes back whole, with its MAC, when its device is deleted (flannel: nothing)', async () => {
  const net = testNet('pt6', 2, { routed: true });
  const leases = new Map<string, Lease>();
  const overlays = net.nodes.map(
    (node) =>
      new OverlayReconciler({
        config: {
          node: node.name,
          backend: 'vxlan',
          podCidrs: [parseCidr(node.podCidr6)],
          clusterCidrs: [parseCidr('fd00:10:244::/48')],
        },
        netns: node.ns,
        onLease: (lease) => leases.set(node.name, lease),
      }),
  );
  try {
    for (const overlay of overlays) overlay.start();
    await until(() => leases.size === 2);
    for (const overlay of overlays) overlay.setLeases([...leases.values()]);
    await Promise.all(overlays.map((overlay) => overlay.settled()));
    const [one, two] = net.nodes as [TestNode, TestNode];
    assert.ok(pings(one.pod.netns, two.pod.ip6));
    const mac = net.json(one.netns, 'link show flannel-v6.1')[0]!['address'];
    net.ip(one.netns, 'link del flannel-v6.1');
    await until(
      () => net.ip(one.netns, '-6 route show fd00:10:244:2::/64').includes('flannel-v6.1'),
      500,
      'the route',
    );
    assert.equal(net.json(one.netns, 'link show flannel-v6.1')[0]!['address'], mac);
    assert.ok(pings(one.pod.netns, two.pod.ip6));
    assert.doesNotMatch(net.ip(one.netns, 'link show'), /flannel\.1/);
  } finally {
    for (const overlay of overlays) await overlay.stop();
    net.close();
  }
});

test('an address of the node that changes is followed: device, lease and peers', async () => {
  const net = testNet('pth', 2, { routed: true });
  const { overlays, leases, stop } = await startAll(net, 'vxlan');
  try {
    const [one, two] = net.nodes as [TestNode, TestNode];
    net.ip(one.netns, `addr del ${one.ip4}/24 dev eth0`);
    net.ip(one.netns, 'addr add 192.168.1.77/24 dev eth0');
    net.ip(one.netns, 'route replace default via 192.168.1.254');
    await until(
      () => String(leases.get(one.name)!.endpoints[4]?.publicIp) === '192.168.1.77',
      1500,
      'the new lease',
    );
    for (const overlay of overlays) overlay.setLeases([...leases.values()]);
    await Promise.all(overlays.map((overlay) => overlay.settled()));
    assert.ok(pings(one.pod.netns, two.pod.ip4));
    const fdb = inside(two.netns, 'bridge', 'fdb', 'show', 'dev', 'flannel.1');
    assert.match(fdb, /dst 192\.168\.1\.77/);
    assert.doesNotMatch(fdb, new RegExp(`dst ${one.ip4} `));
  } finally {
    await stop();
    net.close();
  }
});

test('killed with -9 at random moments and started again under traffic, no packet is lost', async () => {
  const net = testNet('ptk', 2);
  const { leases, stop } = await startAll(net, 'vxlan');
  const [one, two] = net.nodes as [TestNode, TestNode];
  try {
    // From here on node 1 is kept by processes that die; all traffic goes through the tunnel.
    await stop();
    const records = net.nodes.map((node) => ({
      name: node.name,
      annotations: leaseAnnotations(leases.get(node.name)!),
      podCidrs: [node.podCidr4, node.podCidr6],
    }));
    const agent = (node: TestNode) => {
      const argument: AgentArguments = {
        netns: node.netns,
        config: {
          node: node.name,
          backend: 'vxlan',
          podCidrs: [node.podCidr4, node.podCidr6],
          clusterCidrs,
          directRouting: false,
        },
        nodes: records,
      };
      const script = fileURLToPath(new URL('../lib/overlay-agent.ts', import.meta.url));
      return spawn(process.execPath, [script, JSON.stringify(argument)], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
    };
    for (const node of net.nodes) {
      const child = agent(node);
      await once(child.stdout, 'data');
      child.kill('SIGKILL');
      await once(child, 'close');
    }
    assert.ok(pings(one.pod.netns, two.pod.ip4));
    const loss4 = steadyPing(one.pod.netns, two.pod.ip4, 5);
    const loss6 = steadyPing(one.pod.netns, two.pod.ip6, 5);
    const rounds = Number(process.env['PORTOLAN_KILLS'] ?? 8);
    for (let round = 0; round < rounds; round++) {
      const child = agent(one);
      // Every other round dies while it works, the others shortly after.
      if (round % 2 === 0) await once(child.stdout, 'data');
      else await new Promise((resolve) => setTimeout(resolve, 80 + Math.random() * 300));
      child.kill('SIGKILL');
      await once(child, 'close');
    }
    for (const { sent, lost } of [await loss4.stop(), await loss6.stop()]) {
      assert.ok(sent > 100, `${sent} pings`);
      assert.ok(lost <= 1, `${lost} of ${sent} lost`);
    }
    assert.match(net.ip(one.netns, 'route show 10.244.2.0/24'), /dev flannel\.1/);
  } finally {
    net.close();
  }
});

test('a routed node whose peers vanished while it was down removes their entries at its start', async () => {
  const net = testNet('ptz', 3, { routed: true });
  const { overlays, leases, stop } = await startAll(net, 'vxlan');
  try {
    await overlays[0]!.stop();
    const again = new OverlayReconciler({
      config: {
        node: 'node-1',
        backend: 'vxlan',
        podCidrs: [parseCidr('10.244.1.0/24'), parseCidr('fd00:10:244:1::/64')],
        clusterCidrs: clusterCidrs.map(parseCidr),
      },
      netns: net.nodes[0]!.ns,
    });
    again.start();
    await again.settled();
    assert.match(
      net.ip(net.nodes[0]!.netns, 'route show 10.244.3.0/24'),
      /flannel\.1/,
      'nothing goes before the peers are known',
    );
    again.setLeases([leases.get('node-2')!]);
    await again.settled();
    assert.equal(net.ip(net.nodes[0]!.netns, 'route show 10.244.3.0/24'), '');
    assert.match(net.ip(net.nodes[0]!.netns, 'route show 10.244.2.0/24'), /flannel\.1/);
    await again.stop();
  } finally {
    await stop();
    net.close();
  }
});
