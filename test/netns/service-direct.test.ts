/** Direct server return: the packet goes to the backend's node inside another one, and that node answers as the VIP. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import test, { after, before, describe } from 'node:test';
import type { EbpfEngine, NodeHook } from '../../src/service/engines/ebpf/index.ts';
import { FORWARDING_ANNOTATION, serviceFacts } from '../../src/service/facts.ts';
import { aService } from '../../src/service/testing.ts';
import { capture } from '../lib/capture.ts';
import { applyAll, openEngine, plannerOf, slicesOf } from '../lib/service-engine.ts';
import { host, ServiceNode, type TestPod } from '../lib/services.ts';
import { BETWEEN, EDGE, joinNodes } from '../lib/two-nodes.ts';

/** A link's members report to routers with a hop-by-hop header in front (RFC 3810 section 5): tcpdump's icmp6 does not see them. */
const NO_REPORTS = 'and not ip6 multicast';
const VIP = { ip4: '203.0.113.7', ip6: 'fd00:113::7' } as const;
const families = ['ip4', 'ip6'] as const;
const ports = [
  { name: 'tcp', port: 80, protocol: 'TCP' as const },
  { name: 'udp', port: 53, protocol: 'UDP' as const },
];

describe('direct server return', () => {
  let a: ServiceNode;
  let b: ServiceNode;
  let client: TestPod;
  let web: TestPod;
  let first: EbpfEngine;
  let second: EbpfEngine;

  function open(node: ServiceNode, nodeName: string, nodeHook: NodeHook = 'tc'): EbpfEngine {
    const engine = openEngine(node, { nodeName, sizes: { natPorts: 1024 }, nodeHook });
    const facts = serviceFacts(
      aService(
        { type: 'LoadBalancer', clusterIPs: ['10.96.0.10', 'fd00:10:96::10'], ports },
        { annotations: { [FORWARDING_ANNOTATION]: 'dsr' } },
        { loadBalancer: { ingress: [{ ip: VIP.ip4 }, { ip: VIP.ip6 }] } },
      ),
    );
    const slices = slicesOf([web], ports, { nodeNameOf: () => 'node-b' });
    applyAll(engine, plannerOf([facts], slices, { nodeName }));
    return engine;
  }

  before(async () => {
    a = ServiceNode.create('da', 7);
    b = ServiceNode.create('db', 8);
    client = a.addHost('out', 20);
    web = b.addPod('web');
    for (const family of families) await b.serve('web', web.netns, web[family], 8080);
    joinNodes(a, b, client);
    a.ipAt(
      client.netns,
      `route add ${VIP.ip4}/32 via ${EDGE.a.ip4}`,
      `route add ${VIP.ip6}/128 via ${EDGE.a.ip6}`,
    );
    first = open(a, 'node-a');
    first.attachNodeInterface(client.ifindex, EDGE.a);
    first.attachNodeInterface(a.link('ab').ifindex, BETWEEN.a);
    second = open(b, 'node-b');
    second.attachPodLink(web.ifindex);
    second.attachNodeInterface(b.link('ba').ifindex, BETWEEN.b);
    second.attachNodeInterface(b.link('cl').ifindex, EDGE.b);
  });

  after(async () => {
    first?.remove();
    second?.remove();
    await a?.[Symbol.asyncDispose]();
    await b?.[Symbol.asyncDispose]();
  });

  const from = () => ({ netns: client.netns, cgroup: false });

  for (const family of families) {
    for (const kind of ['tcp', 'udp', 'udp-connected'] as const)
      test(`${kind} ${family}: the backend sees the client, the client sees the VIP, and no answer passes the first node`, async () => {
        const wire = await capture(
          a.prefix,
          'ab',
          family === 'ip4' ? 'ip' : `ip6 and not icmp6 ${NO_REPORTS}`,
        );
        const seen = await a.attempt(kind, from(), VIP[family], kind === 'tcp' ? 80 : 53, { times: 5 });
        const lines = await wire.stop();
        assert.deepEqual([...new Set(seen.map((s) => s.result))], ['ok']);
        assert.deepEqual([...new Set(seen.map((s) => host(s.client)))], [client[family]]);
        assert.ok(seen.every((s) => s.peer!.includes(VIP[family])));
        assert.ok(lines.length >= 5);
        const there = family === 'ip4' ? `172.40.0.1 > ${web.ip4}` : `fd00:40::1 > ${web.ip6}`;
        assert.deepEqual(
          lines.filter((line) => !line.includes(there)),
          [],
        );
      });

    test(`${family}: a megabyte goes through: too large packets are answered with what fits`, async () => {
      const before = first.counters()['reject-too-big']!;
      const [large] = await a.attempt('tcp', from(), VIP[family], 80, { size: 1 << 20, timeout: 8 });
      assert.equal(large!.result, 'ok');
      assert.ok(first.counters()['reject-too-big']! > before);
      const [fragments] = await a.attempt('udp', from(), VIP[family], 53, { size: 4000 });
      assert.equal(fragments!.result, 'ok');
    });
  }

  test('a packet inside another one for a pod that is not its backend is dropped and counted; tunnels of others pass', async () => {
    const send = (outer: string, inner: string, port: number) =>
      execFileSync('ip', [
        'netns',
        'exec',
        a.prefix,
        'python3',
        '-c',
        `
import socket, struct
def ip(proto, src, dst, body):
    return struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(body), 7, 0, 64, proto, 0, socket.inet_aton(src), socket.inet_aton(dst)) + body
udp = struct.pack('!HHHH', 5555, ${port}, 12, 0) + b'evil'
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 4)
s.sendto(ip(17, '198.51.100.1', '${inner}', udp), ('${outer}', 0))
`,
      ]);
    const before = second.counters()['drop-direct']!;
    send('10.244.8.77', VIP.ip4, 53);
    assert.equal(second.counters()['drop-direct'], before + 1);
    const wire = await capture(web.netns, 'eth0', 'ip proto 4');
    send(web.ip4, '192.0.2.9', 53);
    assert.equal((await wire.stop()).length, 1);
    assert.equal(second.counters()['drop-direct'], before + 1);
  });

  describe('from XDP', () => {
    before(() => {
      // Whole checksums, and peers that take what XDP redirects to them.
      for (const [netns, link] of [
        [client.netns, 'eth0'],
        [b.prefix, 'ba'],
      ] as const)
        execFileSync('ip', ['netns', 'exec', netns, 'ethtool', '-K', link, 'gro', 'on', 'tx', 'off']);
      first.close();
      first = open(a, 'node-a', 'native');
      for (let twice = 0; twice < 2; twice++) {
        first.attachNodeInterface(client.ifindex, EDGE.a);
        first.attachNodeInterface(a.link('ab').ifindex, BETWEEN.a);
      }
      assert.deepEqual(
        first.status().nodeHooks!.map(({ hook }) => hook),
        ['native', 'native'],
      );
    });

    for (const family of families)
      for (const kind of ['tcp', 'udp'] as const)
        test(`${kind} ${family}: packets are wrapped before the first node's stack sees them`, async () => {
          // Neighbours are not known to begin with: the stack asks for them.
          const port = kind === 'tcp' ? 80 : 53;
          await a.attempt(kind, from(), VIP[family], port, {});
          const opened = first.counters()['forward-direct']!;
          const stack = await capture(a.prefix, 'up20', 'inbound and (tcp or udp)');
          const wire = await capture(b.prefix, 'ba', 'inbound and (ip proto 4 or ip6 proto 41)', ['-vv']);
          const seen = await a.attempt(kind, from(), VIP[family], port, { times: 5 });
          assert.deepEqual([...new Set(seen.map((s) => s.result))], ['ok']);
          assert.deepEqual([...new Set(seen.map((s) => host(s.client)))], [client[family]]);
          assert.deepEqual(await stack.stop(), []);
          const text = (await wire.stop()).join('\n');
          assert.ok(text.includes(`${VIP[family]}`), text);
          assert.ok(!/bad|wrong|incorrect/.test(text), text);
          assert.ok(first.counters()['forward-direct']! >= opened + 4);
        });

    for (const family of families)
      test(`${family}: a megabyte goes through; what is too large is answered by tc`, async () => {
        const before = first.counters()['reject-too-big']!;
        const [large] = await a.attempt('tcp', from(), VIP[family], 80, { size: 1 << 20, timeout: 8 });
        assert.equal(large!.result, 'ok');
        execFileSync('ip', ['-n', client.netns, 'route', 'flush', 'cache']);
        execFileSync('ip', ['-n', client.netns, '-6', 'route', 'flush', 'cache']);
        const [again] = await a.attempt('tcp', from(), VIP[family], 80, { size: 1 << 20, timeout: 8 });
        assert.equal(again!.result, 'ok');
        assert.ok(first.counters()['reject-too-big']! > before);
      });
  });
});
