/** Clients outside whose backend is on another node: translated in eBPF both ways, without netfilter. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import test, { after, before, describe } from 'node:test';
import { viewOf } from '../../src/codec/index.ts';
import { writeNftParts } from '../../src/kernel/nft/index.ts';
import { type EbpfEngine, masqueradeParts } from '../../src/service/engines/ebpf/index.ts';
import { natFlowStruct } from '../../src/service/engines/ebpf/layout.ts';
import { serviceFacts } from '../../src/service/facts.ts';
import { aService } from '../../src/service/testing.ts';
import { capture } from '../lib/capture.ts';
import { applyAll, openEngine, plannerOf, slicesOf } from '../lib/service-engine.ts';
import { host, ServiceNode, type TestPod } from '../lib/services.ts';

const ports = [
  { name: 'tcp', port: 80, nodePort: 30_080, protocol: 'TCP' as const },
  { name: 'udp', port: 53, nodePort: 30_053, protocol: 'UDP' as const },
];
const families = ['ip4', 'ip6'] as const;
const NODE = { ip4: '192.168.77.1', ip6: 'fd77::1' } as const;
const HERE = { ip4: '172.30.7.1', ip6: 'fd00:30:7::1' } as const;

describe('backends on other nodes, for clients outside', () => {
  let node: ServiceNode;
  let engine: EbpfEngine;
  let outside: TestPod;
  let remote: TestPod;

  before(async () => {
    node = ServiceNode.create('n');
    outside = node.addHost('out', 20);
    remote = node.addHost('rem', 30);
    for (const family of families) await node.serve(remote.name, remote.netns, remote[family], 8080);
    engine = openEngine(node, { sizes: { natPorts: 1024 } });
    engine.attachNodeInterface(outside.ifindex, { ip4: '172.20.7.1', ip6: 'fd00:20:7::1' });
    engine.attachNodeInterface(remote.ifindex, HERE);
    writeNftParts(masqueradeParts(), { netns: node.netns });
    const facts = serviceFacts(
      aService({ type: 'NodePort', clusterIPs: ['10.96.0.10', 'fd00:10:96::10'], ports }),
    );
    const slices = slicesOf([remote], ports, { nodeNameOf: () => 'node-b' });
    applyAll(engine, plannerOf([facts], slices, { nodePortAddresses: [NODE.ip4, NODE.ip6] }));
  });

  after(async () => {
    engine?.remove();
    await node?.[Symbol.asyncDispose]();
  });

  const from = () => ({ netns: outside.netns, cgroup: false });
  const portOf = (client = '') => Number(/:(\d+)$/.exec(client)?.[1]);
  const conntrack = () =>
    execFileSync('ip', ['netns', 'exec', node.prefix, 'conntrack', '-L'], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });

  for (const family of families) {
    for (const kind of ['tcp', 'udp', 'udp-connected'] as const)
      test(`${kind} ${family}: the backend sees this node, the client sees the VIP, conntrack sees nothing`, async () => {
        const port = kind === 'tcp' ? 30_080 : 30_053;
        const before = engine.counters()['forward-nat']!;
        const seen = await node.attempt(kind, from(), NODE[family], port, { times: 20 });
        assert.deepEqual([...new Set(seen.map((s) => s.result))], ['ok']);
        assert.deepEqual([...new Set(seen.map((s) => host(s.client)))], [HERE[family]]);
        assert.ok(seen.every((s) => s.peer!.includes(NODE[family])));
        // A client may get the port again that it had before.
        assert.ok(engine.counters()['forward-nat']! >= before + 15);
        assert.ok(!conntrack().includes('dport=8080'));
      });

    test(`${family}: a megabyte goes and comes back as it was`, async () => {
      const [large] = await node.attempt('tcp', from(), NODE[family], 30_080, { size: 1 << 20, timeout: 5 });
      assert.equal(large!.result, 'ok');
    });

    test(`${family}: datagrams of many fragments go and come back`, async () => {
      const seen = await node.attempt('udp', from(), NODE[family], 30_053, { size: 8000, times: 5 });
      assert.deepEqual([...new Set(seen.map((s) => s.result))], ['ok']);
    });

    test(`${family}: a port of the range is kept, another one is replaced by one of the range`, async () => {
      const { first, last } = range();
      // Earlier flows may have some of them. That a replaced one is the same by chance is one case in 16,384.
      let kept = 0;
      for (let port = first + 9; port < first + 14; port++) {
        const [seen] = await node.attempt('udp', from(), NODE[family], 30_053, { bind: port });
        if (portOf(seen!.client) === port) kept++;
      }
      assert.ok(kept >= 1, `${kept} of 5`);
      const [other] = await node.attempt('udp', from(), NODE[family], 30_053, { bind: 40_000 });
      const chosen = portOf(other!.client);
      assert.ok(chosen >= first && chosen <= last, `${chosen} is not in ${first}..${last}`);
    });

    test(`${family}: a smaller MTU on the way to the backend is told to the client, who sends less`, async () => {
      const forget = () =>
        execFileSync('ip', ['-n', outside.netns, family === 'ip4' ? '-4' : '-6', 'route', 'flush', 'cache']);
      node.ip(`link set up30 mtu 1400`);
      execFileSync('ip', ['-n', remote.netns, 'link', 'set', 'eth0', 'mtu', '1400']);
      // For so long a way is remembered.
      await new Promise((resolve) => setTimeout(resolve, 1100));
      try {
        const before = engine.counters()['reject-too-big']!;
        const big = await node.attempt('udp', from(), NODE[family], 30_053, {
          size: 1440,
          times: 4,
          timeout: 1,
        });
        assert.equal(big[0]!.result, 'timeout');
        assert.ok(
          big.slice(1).every((s) => s.result === 'ok'),
          JSON.stringify(big),
        );
        assert.ok(engine.counters()['reject-too-big']! > before);
        const [large] = await node.attempt('tcp', from(), NODE[family], 30_080, {
          size: 1 << 18,
          timeout: 5,
        });
        assert.equal(large!.result, 'ok');
        // IPv6 fragments are told as well: what is said names the ports behind their header, or the sender ignores it.
        forget();
        const fragments = await node.attempt('udp', from(), NODE[family], 30_053, {
          size: 4000,
          times: 3,
          timeout: 1,
        });
        assert.ok(
          fragments.slice(1).every((s) => s.result === 'ok'),
          JSON.stringify(fragments),
        );
      } finally {
        node.ip(`link set up30 mtu 1500`);
        execFileSync('ip', ['-n', remote.netns, 'link', 'set', 'eth0', 'mtu', '1500']);
        forget();
      }
    });

    test(`${family}: an error of the backend's network names the VIP to the client`, async () => {
      // A port where nobody listens: the backend answers "port unreachable", which connect() shows.
      execFileSync('ip', ['netns', 'exec', remote.netns, 'nft', '-f', '-'], {
        input:
          'table inet refuse {\n chain in {\n type filter hook input priority 0;\n udp dport 8080 reject\n }\n}\n',
      });
      try {
        const seen = await node.attempt('udp-connected', from(), NODE[family], 30_053, { times: 2 });
        assert.deepEqual(
          seen.map((s) => s.result),
          ['ECONNREFUSED', 'ECONNREFUSED'],
        );
      } finally {
        execFileSync('ip', ['netns', 'exec', remote.netns, 'nft', 'delete', 'table', 'inet', 'refuse']);
      }
    });

    test(`${family}: packets on the wire have right checksums, and no address of the client reaches the backend`, async () => {
      const wire = await capture(remote.netns, 'eth0', 'port 8080');
      await node.attempt('tcp', from(), NODE[family], 30_080, { size: 5000 });
      await node.attempt('udp', from(), NODE[family], 30_053, { size: 100 });
      const lines = await wire.stop();
      assert.ok(lines.length > 8);
      assert.ok(!lines.some((line) => line.includes(outside[family])));
      const received = lines.filter((line) => line.includes(`> ${remote[family]}.8080`));
      assert.ok(received.length > 4);
    });
  }

  test('two VIPs at once from one client port to one backend are two flows', async () => {
    const bind = 41_000;
    const a = node.hold(from(), NODE.ip4, 30_080);
    assert.match(await a.ask(), /^rem /);
    const seen = await node.attempt('udp', from(), NODE.ip4, 30_053, { bind, times: 2 });
    assert.ok(seen.every((s) => s.result === 'ok'));
    assert.equal(await a.ask('still'), 'echo still');
  });

  test('when all ports are taken, new flows are refused and counted, and established ones go on', async () => {
    const held = node.hold(from(), NODE.ip4, 30_080);
    await held.ask();
    const heads = engine.maps.lb_nat_heads;
    const u32 = (bytes: Uint8Array) => viewOf(bytes).getUint32(0, true);
    const saved = new Map([...heads.entries()].map(([key, value]) => [u32(key), value.slice()]));
    const flows = new Map(
      [...engine.maps.lb_nat_flows.entries()].map(([key, value]) => [u32(key), natFlowStruct.decode(value)]),
    );
    const ESTABLISHED = 3;
    // Every place but those of open connections is claimed, by nobody.
    const key = new Uint8Array(4);
    for (const [index, value] of saved) {
      const full = value.slice();
      for (let slot = 0; slot < 8; slot++)
        if (flows.get(index * 8 + slot)!.flags !== ESTABLISHED)
          viewOf(full).setUint32(slot * 4, 0x4000_0000, true);
      viewOf(key).setUint32(0, index, true);
      heads.set(key, full);
    }
    try {
      const before = engine.counters()['drop-nat-full']!;
      const [refused] = await node.attempt('udp', from(), NODE.ip4, 30_053, { timeout: 0.3, bind: 45_001 });
      assert.equal(refused!.result, 'timeout');
      assert.ok(engine.counters()['drop-nat-full']! > before);
      assert.equal(await held.ask('go on'), 'echo go on');
    } finally {
      for (const [index, value] of saved) {
        viewOf(key).setUint32(0, index, true);
        heads.set(key, value);
      }
    }
  });

  /** Above the ports that sockets get. */
  /** Below nodePorts and what netfilter masquerades with. */
  function range(): { first: number; last: number } {
    return { first: 30_000 - 1024, last: 29_999 };
  }
});
