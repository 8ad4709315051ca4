/** ClusterIPs through the eBPF engine, as real sockets see them. */
import assert from 'node:assert/strict';
import test, { after, before, describe } from 'node:test';
import { type Netns, openNetns } from '../../src/kernel/netns/index.ts';
import type { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import { serviceFacts, sliceFacts } from '../../src/service/facts.ts';
import { ServicePlanner } from '../../src/service/planner.ts';
import { destroyStaleSockets } from '../../src/service/stale-sockets.ts';
import { aNode, aService, aSlice } from '../../src/service/testing.ts';
import type { ServiceFacts, SliceFacts } from '../../src/service/types.ts';
import { applyAll, openEngine, slicesOf } from '../lib/service-engine.ts';
import { ServiceNode, type TestPod } from '../lib/services.ts';

const VIP4 = '10.96.0.10';
const VIP6 = 'fd00:10:96::10';
const ports = [
  { name: 'tcp', port: 80, protocol: 'TCP' as const },
  { name: 'udp', port: 53, protocol: 'UDP' as const },
];

describe('ClusterIP', () => {
  let node: ServiceNode;
  let engine: EbpfEngine;
  let client: TestPod;
  let one: TestPod;
  let two: TestPod;
  let destroyed = 0;
  const podNamespaces: Netns[] = [];
  const services = new Map<string, ServiceFacts>();
  const slices = new Map<string, SliceFacts>();
  const planner = new ServicePlanner({ services, slices }, aNode({ nodePortAddresses: [] }));

  /** Puts the endpoints of the Service, both ports and families. */
  function endpoints(pods: TestPod[]): void {
    slices.clear();
    for (const slice of slicesOf(pods, ports)) slices.set(slice.key, slice);
    applyAll(engine, planner);
  }

  const hostCgroup = () => ({ netns: node.prefix, cgroup: true });
  const podCgroup = () => ({ netns: client.netns, cgroup: true });
  const podPackets = () => ({ netns: client.netns, cgroup: false });

  before(async () => {
    node = ServiceNode.create('c');
    client = node.addPod('client');
    one = node.addPod('one');
    two = node.addPod('two');
    for (const pod of [one, two])
      for (const address of [pod.ip4, pod.ip6]) await node.serve(pod.name, pod.netns, address, 8080);
    engine = openEngine(node, {
      onStaleSockets: destroyStaleSockets({
        namespaces: () => [node.netns, ...podNamespaces],
        onDone: (count, error) => {
          destroyed += count;
          assert.equal(error, undefined);
        },
      }),
    });
    engine.setServiceRanges(['10.96.0.0/16', 'fd00:10:96::/112']);
    for (const pod of node.pods) {
      engine.attachPodLink(pod.ifindex);
      podNamespaces.push(openNetns(pod.netns));
    }
    const facts = serviceFacts(aService({ clusterIPs: [VIP4, VIP6], ports }));
    services.set(facts.key, facts);
    endpoints([one, two]);
  });

  after(async () => {
    engine?.remove();
    for (const netns of podNamespaces) netns.close();
    await node?.[Symbol.asyncDispose]();
  });

  for (const [where, from] of [
    ['a process of the node, at its socket', hostCgroup],
    ['a process of a pod, at its socket', podCgroup],
    ['packets of a pod', podPackets],
  ] as const)
    for (const [family, vip] of [
      ['IPv4', VIP4],
      ['IPv6', VIP6],
    ] as const) {
      test(`TCP over ${family} from ${where} reaches every endpoint and shows the VIP as its peer`, async () => {
        const seen = await node.attempt('tcp', from(), vip, 80, { times: 24 });
        assert.deepEqual(new Set(seen.map((s) => s.result)), new Set(['ok']));
        assert.deepEqual([...new Set(seen.map((s) => s.server))].sort(), ['one', 'two']);
        const shown = family === 'IPv4' ? `${vip}:80` : `[${vip}]:80`;
        assert.deepEqual([...new Set(seen.map((s) => s.peer))], [shown]);
      });
      for (const kind of ['udp', 'udp-connected'] as const)
        test(`${kind} over ${family} from ${where} is answered by the VIP`, async () => {
          const seen = await node.attempt(kind, from(), vip, 53, { times: 24 });
          assert.deepEqual(new Set(seen.map((s) => s.result)), new Set(['ok']));
          assert.deepEqual([...new Set(seen.map((s) => s.server))].sort(), ['one', 'two']);
          const shown = family === 'IPv4' ? `${vip}:53` : `[${vip}]:53`;
          assert.deepEqual([...new Set(seen.map((s) => s.peer))], [shown]);
        });
    }

  test('the endpoint sees the address of the client pod', async () => {
    for (const from of [podCgroup(), podPackets()]) {
      const [seen] = await node.attempt('tcp', from, VIP4, 80);
      assert.equal(seen!.client!.split(':')[0], client.ip4);
    }
  });

  test('an IPv6 socket may name an IPv4 VIP', async () => {
    for (const kind of ['tcp', 'udp', 'udp-connected'] as const)
      for (const from of [hostCgroup(), podCgroup(), podPackets()]) {
        const [seen] = await node.attempt(kind, from, VIP4, kind === 'tcp' ? 80 : 53, { mapped: true });
        assert.equal(seen!.result, 'ok', kind);
        assert.match(seen!.peer!, /^\[::ffff:10\.96\.0\.10\]:/);
      }
  });

  test('a megabyte goes through whole, in large segments too', async () => {
    for (const vip of [VIP4, VIP6])
      for (const from of [podCgroup(), podPackets()]) {
        const [seen] = await node.attempt('tcp', from, vip, 80, { size: 1 << 20, timeout: 5 });
        assert.equal(seen!.result, 'ok');
      }
  });

  test('a datagram larger than the MTU arrives in fragments', async () => {
    for (const vip of [VIP4, VIP6]) {
      const [seen] = await node.attempt('udp', podPackets(), vip, 53, { size: 5000 });
      assert.equal(seen!.result, 'ok');
    }
  });

  test('a pod that is the only endpoint reaches itself', async () => {
    endpoints([one]);
    try {
      for (const cgroup of [true, false])
        for (const vip of [VIP4, VIP6]) {
          const from = { netns: one.netns, cgroup };
          const [tcp] = await node.attempt('tcp', from, vip, 80, { size: 100_000, timeout: 3 });
          assert.equal(tcp!.result, 'ok');
          assert.equal(tcp!.server, 'one');
          const [udp] = await node.attempt('udp', from, vip, 53);
          assert.equal(udp!.result, 'ok');
        }
    } finally {
      endpoints([one, two]);
    }
  });

  test('without endpoints every connection is refused at once, 40 of 40', async () => {
    endpoints([]);
    try {
      for (const from of [hostCgroup(), podCgroup(), podPackets()])
        for (const vip of [VIP4, VIP6]) {
          const tcp = await node.attempt('tcp', from, vip, 80, { times: 40 });
          assert.equal(tcp.filter((s) => s.result === 'ECONNREFUSED' && s.ms < 1000).length, 40);
          const udp = await node.attempt('udp-connected', from, vip, 53, { times: 40 });
          assert.equal(udp.filter((s) => s.result === 'ECONNREFUSED' && s.ms < 1000).length, 40);
        }
    } finally {
      endpoints([one, two]);
    }
  });

  test('a port that a live ClusterIP does not have is refused, an address that no Service has is dropped', async () => {
    for (const vip of [VIP4, VIP6]) {
      for (const from of [hostCgroup(), podPackets()]) {
        const [seen] = await node.attempt('tcp', from, vip, 81);
        assert.equal(seen!.result, 'ECONNREFUSED');
      }
    }
    const before = engine.counters()['drop-unallocated']!;
    for (const address of ['10.96.0.99', 'fd00:10:96::99']) {
      const [seen] = await node.attempt('tcp', podPackets(), address, 80, { timeout: 0.3 });
      assert.equal(seen!.result, 'timeout');
    }
    assert.ok(engine.counters()['drop-unallocated']! >= before + 2);
  });

  test('a removed endpoint keeps its open connections and gets no new ones', async () => {
    for (const from of [podCgroup(), podPackets()]) {
      const held = [];
      // The choice is random: 64 connections to the same one of two would be no accident.
      const servers = new Set<string>();
      for (let at = 0; at < 64 && (at < 8 || servers.size < 2); at++) {
        const talker = node.hold(from, VIP4, 80);
        const server = (await talker.ask()).split(' ')[0]!;
        held.push({ talker, server });
        servers.add(server);
      }
      assert.deepEqual([...servers].sort(), ['one', 'two']);
      endpoints([two]);
      try {
        for (const { talker } of held) assert.equal(await talker.ask('still here'), 'echo still here');
        const seen = await node.attempt('tcp', from, VIP4, 80, { times: 10 });
        assert.deepEqual([...new Set(seen.map((s) => s.server))], ['two']);
      } finally {
        endpoints([one, two]);
      }
    }
  });

  test('datagrams leave a removed endpoint at once, also those of an old socket', async () => {
    for (const from of [podCgroup(), podPackets()]) {
      const talker = node.holdUdp(from, VIP4, 53, false);
      const first = (await talker.ask('')).split(' ')[0]!;
      for (let at = 0; at < 5; at++) assert.equal((await talker.ask('')).split(' ')[0], first);
      const other = first === 'one' ? two : one;
      endpoints([other]);
      try {
        assert.equal((await talker.ask('')).split(' ')[0], other.name);
      } finally {
        endpoints([one, two]);
      }
    }
  });

  test('a datagram socket connected to a removed endpoint is destroyed, and one that chose the endpoint itself is not', async () => {
    for (const [family, vip] of [
      ['ip4', VIP4],
      ['ip6', VIP6],
    ] as const) {
      const talker = node.holdUdp(podCgroup(), vip, 53, true);
      const first = (await talker.ask('')).split(' ')[0]!;
      const [stale, other] = first === 'one' ? [one, two] : [two, one];
      const own = node.holdUdp(podCgroup(), stale[family], 8080, true);
      assert.equal((await own.ask('')).split(' ')[0], first);
      const before = destroyed;
      endpoints([other]);
      try {
        await new Promise((resolve) => setTimeout(resolve, 20));
        // The kernel tells ECONNABORTED once; the socket then has no peer.
        assert.match(await talker.ask(''), /^error (ECONNABORTED|EDESTADDRREQ)$/);
        assert.equal((await own.ask('')).split(' ')[0], first);
        assert.ok(destroyed > before);
      } finally {
        endpoints([one, two]);
      }
    }
  });

  test('an ICMP port unreachable of an endpoint reaches the client as refused', async () => {
    const closed = sliceFacts(
      aSlice([`${one.ip4} node-a`], { name: 'web-closed', portName: 'udp', protocol: 'UDP', port: 9 }),
    );
    slices.clear();
    slices.set(closed.key, closed);
    engine.apply(planner.planAll());
    try {
      const [seen] = await node.attempt('udp-connected', podPackets(), VIP4, 53);
      assert.equal(seen!.result, 'ECONNREFUSED');
    } finally {
      endpoints([one, two]);
    }
  });

  test('the dump is what the plans want, and shows what somebody changed', () => {
    assert.deepEqual(engine.diff(planner.plans.values()), { missing: [], unwanted: [] });
    assert.match(
      engine.dump()[0]!,
      /^SVC 10\.96\.0\.10:53\/UDP id=\d+ -> 10\.244\.7\.3:8080, 10\.244\.7\.4:8080$/,
    );
  });
});
