/** Flows to backends on other nodes in XDP: what it takes over, what it leaves to tc, and how it is chosen. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import test, { after, before, describe } from 'node:test';
import { attachXdp, loadObject } from '../../src/kernel/bpf/index.ts';
import { distPath } from '../../src/kernel/paths.ts';
import type { EbpfEngine, NodeHook } from '../../src/service/engines/ebpf/index.ts';
import { serviceFacts } from '../../src/service/facts.ts';
import { aService } from '../../src/service/testing.ts';
import { bpftool } from '../lib/bpf.ts';
import { capture } from '../lib/capture.ts';
import { applyAll, openEngine, plannerOf, slicesOf } from '../lib/service-engine.ts';
import { ServiceNode, type TestPod } from '../lib/services.ts';

const ports = [
  { name: 'tcp', port: 80, nodePort: 30_080, protocol: 'TCP' as const },
  { name: 'udp', port: 53, nodePort: 30_053, protocol: 'UDP' as const },
];
const families = ['ip4', 'ip6'] as const;
const NODE = { ip4: '192.168.77.1', ip6: 'fd77::1' } as const;

describe('XDP at node interfaces', () => {
  let node: ServiceNode;
  let engine: EbpfEngine;
  let outside: TestPod;
  let remote: TestPod;

  const ethtool = (netns: string, link: string, ...settings: string[]) =>
    execFileSync('ip', ['netns', 'exec', netns, 'ethtool', '-K', link, ...settings]);

  function open(nodeHook: NodeHook): void {
    engine = openEngine(node, {
      sizes: { natPorts: 1024 },
      nodeHook,
    });
    engine.attachNodeInterface(outside.ifindex, { ip4: '172.20.7.1', ip6: 'fd00:20:7::1' });
    engine.attachNodeInterface(remote.ifindex, { ip4: '172.30.7.1', ip6: 'fd00:30:7::1' });
    // Once more: that the other one can send was not known at first.
    engine.attachNodeInterface(outside.ifindex, { ip4: '172.20.7.1', ip6: 'fd00:20:7::1' });
    const facts = serviceFacts(
      aService({ type: 'NodePort', clusterIPs: ['10.96.0.10', 'fd00:10:96::10'], ports }),
    );
    const slices = slicesOf([remote], ports, { nodeNameOf: () => 'node-b' });
    applyAll(engine, plannerOf([facts], slices, { nodePortAddresses: [NODE.ip4, NODE.ip6] }));
  }

  const hooks = () => engine.status().nodeHooks!.map(({ hook }) => hook);
  /** What the kernel says is attached to a link. */
  const attached = (link: string) =>
    (
      JSON.parse(
        execFileSync('ip', ['-j', '-d', '-n', node.prefix, 'link', 'show', link], { encoding: 'utf8' }),
      ) as { xdp?: { mode: number } }[]
    )[0]!.xdp?.mode;

  before(async () => {
    node = ServiceNode.create('x');
    outside = node.addHost('out', 20);
    remote = node.addHost('rem', 30);
    for (const family of families) await node.serve(remote.name, remote.netns, remote[family], 8080);
  });

  after(async () => {
    engine?.remove();
    await node?.[Symbol.asyncDispose]();
  });

  const from = () => ({ netns: outside.netns, cgroup: false });

  /** Packets that the stack of the node sees on the way to the client's link while this runs. */
  async function seenByStack(work: () => Promise<void>): Promise<number> {
    const wire = await capture(node.prefix, 'up20', 'tcp or udp');
    await work();
    return (await wire.stop()).length;
  }

  test('a veth whose peer can not take packets from XDP is served in tc, and status says why', () => {
    open('auto');
    assert.deepEqual(hooks(), ['tc', 'tc']);
    assert.match(engine.status().nodeHooks![0]!.why!, /gro on/);
    assert.equal(attached('up20'), undefined);
  });

  test('with GRO on at the peers the driver runs it', () => {
    ethtool(outside.netns, 'eth0', 'gro', 'on');
    ethtool(remote.netns, 'eth0', 'gro', 'on');
    engine.close();
    open('auto');
    assert.deepEqual(hooks(), ['native', 'native']);
    const DRIVER = 1;
    assert.equal(attached('up20'), DRIVER);
    const [program] = engine.status().programs.filter(({ name }) => name === 'lb_xdp');
    assert.match(program!.attachedTo, /^node interfaces \d+ \(native\), \d+ \(native\)$/);
    const { map_ids } = bpftool('prog', 'show', 'id', String(program!.id)) as { map_ids: number[] };
    const bytesOf = new Map(
      map_ids.map((id) => {
        const map = bpftool('map', 'show', 'id', String(id)) as { name: string; bytes_memlock: number };
        return [map.name, map.bytes_memlock] as const;
      }),
    );
    const { caches } = engine.status();
    assert.deepEqual(
      caches.map(({ name, bytes }) => [name, bytes]),
      ['lb_hot_lines', 'lb_hot_kinds'].map((name) => [name, bytesOf.get(name)]),
    );
    assert.ok(caches.every(({ bytes, limit }) => bytes > 4 * limit));
  });

  for (const family of families) {
    test(`${family}: checksums left to the network card go by tc and arrive right`, async () => {
      const [tcp] = await node.attempt('tcp', from(), NODE[family], 30_080, { size: 1 << 20, timeout: 5 });
      assert.equal(tcp!.result, 'ok');
      const udp = await node.attempt('udp', from(), NODE[family], 30_053, { size: 500, times: 5 });
      assert.ok(udp.every((s) => s.result === 'ok'));
    });

    test(`${family}: whole checksums go by XDP: the stack sees the opening of a connection and nothing more`, async () => {
      for (const netns of [outside.netns, remote.netns]) ethtool(netns, 'eth0', 'tx', 'off');
      try {
        let sent = 0;
        const seen = await seenByStack(async () => {
          const [tcp] = await node.attempt('tcp', from(), NODE[family], 30_080, {
            size: 1 << 18,
            timeout: 5,
          });
          assert.equal(tcp!.result, 'ok');
          sent += (1 << 18) / 1448;
          const udp = await node.attempt('udp-connected', from(), NODE[family], 30_053, {
            size: 501,
            times: 5,
          });
          assert.ok(udp.every((s) => s.result === 'ok'));
        });
        assert.ok(seen < 25, `${seen} packets of more than ${sent} were seen`);
        const big = await node.attempt('udp', from(), NODE[family], 30_053, { size: 6000, times: 3 });
        assert.ok(
          big.every((s) => s.result === 'ok'),
          'fragments',
        );
      } finally {
        for (const netns of [outside.netns, remote.netns]) ethtool(netns, 'eth0', 'tx', 'on');
      }
    });
  }

  test('an engine that starts again keeps connections, and generic mode works when asked for', async () => {
    const held = node.hold(from(), NODE.ip4, 30_080);
    await held.ask();
    engine.close();
    assert.equal(await held.ask('alone'), 'echo alone');
    open('auto');
    assert.equal(await held.ask('again'), 'echo again');
    engine.close();
    open('generic');
    assert.deepEqual(hooks(), ['generic', 'generic']);
    const GENERIC = 2;
    assert.equal(attached('up20'), GENERIC);
    assert.equal(await held.ask('generic'), 'echo generic');
    const [large] = await node.attempt('tcp', from(), NODE.ip6, 30_080, { size: 1 << 18, timeout: 5 });
    assert.equal(large!.result, 'ok');
    engine.close();
    open('tc');
    assert.deepEqual(hooks(), ['tc', 'tc']);
    assert.equal(attached('up20'), undefined);
    assert.equal(await held.ask('tc'), 'echo tc');
  });

  test('where another XDP program stands, tc serves', () => {
    engine.close();
    using object = loadObject(distPath('bpf/lb_xdp.bpf.o'), { programs: ['lb_xdp'] });
    using other = attachXdp(object.programs.get('lb_xdp')!, { ifindex: outside.ifindex, netns: node.netns });
    open('native');
    assert.deepEqual(hooks(), ['tc', 'native']);
    assert.match(engine.status().nodeHooks![0]!.why!, /another XDP program/);
    engine.remove();
    assert.equal(attached('up30'), undefined);
    other.close();
    open('tc');
  });
});
