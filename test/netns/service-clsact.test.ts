/**
 * Services on a kernel without tcx and without errors of socket hooks: the same programs as filters of traffic control. The whole of
 * service-cluster-ip.test.ts passes so too: `PORTOLAN_FAKE_MISSING=tcx node --test test/netns/service-cluster-ip.test.ts`.
 */
import assert from 'node:assert/strict';
import test, { after, before, describe } from 'node:test';
import type { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import { serviceFacts } from '../../src/service/facts.ts';
import { ServicePlanner } from '../../src/service/planner.ts';
import { aNode, aService } from '../../src/service/testing.ts';
import type { ServiceFacts, SliceFacts } from '../../src/service/types.ts';
import { applyAll, openEngine, slicesOf } from '../lib/service-engine.ts';
import { ServiceNode, type TestPod } from '../lib/services.ts';

const VIP4 = '10.96.0.10';
const VIP6 = 'fd00:10:96::10';
const NODE_PORT = 30_080;
const ports = [
  { name: 'tcp', port: 80, protocol: 'TCP' as const, nodePort: NODE_PORT },
  { name: 'udp', port: 53, protocol: 'UDP' as const, nodePort: 30_053 },
];

describe('Services without tcx', () => {
  let node: ServiceNode;
  let engine: EbpfEngine;
  let client: TestPod;
  let one: TestPod;
  let two: TestPod;
  let outside: TestPod;
  const services = new Map<string, ServiceFacts>();
  const slices = new Map<string, SliceFacts>();
  const planner = new ServicePlanner({ services, slices }, aNode({ nodePortAddresses: ['192.168.77.1'] }));

  function endpoints(pods: TestPod[]): void {
    slices.clear();
    for (const slice of slicesOf(pods, ports)) slices.set(slice.key, slice);
    applyAll(engine, planner);
  }

  function open(): EbpfEngine {
    const opened = openEngine(node);
    opened.setServiceRanges(['10.96.0.0/16', 'fd00:10:96::/112']);
    return opened;
  }

  /** Ids of programs at an interface, as tc(8) sees them. */
  function programsAt(link: string): Record<'ingress' | 'egress', number[]> {
    const at = (direction: string) =>
      (
        JSON.parse(node.exec(['tc', '-j', 'filter', 'show', 'dev', link, direction]) || '[]') as {
          options?: { prog: { id: number } };
        }[]
      ).flatMap(({ options }) => options?.prog.id ?? []);
    return { ingress: at('ingress'), egress: at('egress') };
  }

  function expected(kind: 'pod' | 'outside'): Record<'ingress' | 'egress', number[]> {
    const id = (name: string) => engine.status().programs.find((program) => program.name === name)!.id;
    return { ingress: [id(`lb_from_${kind}`)], egress: [id(`lb_to_${kind}`)] };
  }

  const packets = () => ({ netns: client.netns, cgroup: false });

  before(async () => {
    process.env.PORTOLAN_FAKE_MISSING = 'tcx,socketErrors';
    node = ServiceNode.create('t');
    client = node.addPod('client');
    one = node.addPod('one');
    two = node.addPod('two');
    outside = node.addHost('outside');
    for (const pod of [one, two])
      for (const address of [pod.ip4, pod.ip6]) await node.serve(pod.name, pod.netns, address, 8080);
    engine = open();
    for (const pod of node.pods) engine.attachPodLink(pod.ifindex);
    engine.attachNodeInterface(outside.ifindex);
    const facts = serviceFacts(aService({ type: 'NodePort', clusterIPs: [VIP4, VIP6], ports }));
    services.set(facts.key, facts);
    endpoints([one, two]);
  });

  after(async () => {
    delete process.env.PORTOLAN_FAKE_MISSING;
    engine?.remove();
    await node?.[Symbol.asyncDispose]();
  });

  test('programs stand in clsact at pod links and node interfaces, and status says so', () => {
    for (const link of ['po2', 'po3', 'po4']) assert.deepEqual(programsAt(link), expected('pod'));
    assert.deepEqual(programsAt('up20'), expected('outside'));
    const { programs, podLinks, nodeInterfaces } = engine.status();
    assert.deepEqual(
      programs.filter(({ attachedTo }) => attachedTo.endsWith('(clsact)')).map(({ name }) => name),
      ['lb_to_pod', 'lb_from_pod', 'lb_to_outside', 'lb_from_outside', 'lb_from_overlay'],
    );
    assert.deepEqual(
      podLinks,
      node.pods.map((pod) => pod.ifindex).sort((a, b) => a - b),
    );
    assert.deepEqual(nodeInterfaces, [outside.ifindex]);
  });

  for (const [family, vip] of [
    ['IPv4', VIP4],
    ['IPv6', VIP6],
  ] as const)
    test(`packets of a pod reach every endpoint over ${family}, and the VIP answers`, async () => {
      for (const [kind, port] of [
        ['tcp', 80],
        ['udp', 53],
      ] as const) {
        const seen = await node.attempt(kind, packets(), vip, port, { times: 24 });
        assert.deepEqual(new Set(seen.map((s) => s.result)), new Set(['ok']));
        assert.deepEqual([...new Set(seen.map((s) => s.server))].sort(), ['one', 'two']);
        const shown = family === 'IPv4' ? `${vip}:${port}` : `[${vip}]:${port}`;
        assert.deepEqual([...new Set(seen.map((s) => s.peer))], [shown]);
      }
    });

  test('a client outside reaches the node port', async () => {
    const from = { netns: outside.netns, cgroup: false };
    const seen = await node.attempt('tcp', from, '192.168.77.1', NODE_PORT, { times: 12 });
    assert.deepEqual(new Set(seen.map((s) => s.result)), new Set(['ok']));
    assert.equal(seen[0]!.client!.split(':')[0], outside.ip4);
  });

  test('a pod reaches itself, and without endpoints it is refused at once', async () => {
    try {
      endpoints([one]);
      const from = { netns: one.netns, cgroup: false };
      const [self] = await node.attempt('tcp', from, VIP4, 80, { size: 100_000, timeout: 3 });
      assert.equal(self!.result, 'ok');
      endpoints([]);
      for (const [kind, port] of [
        ['tcp', 80],
        ['udp-connected', 53],
      ] as const)
        for (const vip of [VIP4, VIP6]) {
          const [refused] = await node.attempt(kind, packets(), vip, port);
          assert.equal(refused!.result, 'ECONNREFUSED');
          const [denied] = await node.attempt(kind, { netns: client.netns, cgroup: true }, vip, port);
          assert.equal(denied!.result, 'EPERM');
        }
    } finally {
      endpoints([one, two]);
    }
  });

  test('the next process finds the filters, its programs take over, and open connections go on', async () => {
    const talker = node.hold(packets(), VIP4, 80);
    await talker.ask();
    const former = programsAt('po2');
    engine.close();
    assert.equal(await talker.ask('between'), 'echo between');
    // A pod that goes while nobody looks takes its filters along.
    const gone = node.addPod('gone');
    engine = open();
    engine.attachPodLink(gone.ifindex);
    engine.close();
    node.ip('link del po5');
    engine = open();
    assert.deepEqual(
      engine.status().podLinks,
      [client, one, two].map((pod) => pod.ifindex).sort((a, b) => a - b),
    );
    assert.deepEqual(engine.status().nodeInterfaces, [outside.ifindex]);
    assert.notDeepEqual(programsAt('po2'), former);
    assert.deepEqual(programsAt('po2'), expected('pod'));
    assert.deepEqual(programsAt('up20'), expected('outside'));
    assert.equal(await talker.ask('after'), 'echo after');
    endpoints([one, two]);
  });

  test('an interface that goes is forgotten, one that is detached is as before, and an absent one is told', () => {
    engine.attachPodLink(client.ifindex);
    const extra = node.addHost('extra', 21);
    engine.attachNodeInterface(extra.ifindex);
    assert.deepEqual(programsAt('up21'), expected('outside'));
    engine.detachNodeInterface(extra.ifindex);
    assert.doesNotMatch(node.exec(['tc', 'qdisc', 'show', 'dev', 'up21']), /clsact/);
    engine.attachNodeInterface(extra.ifindex);
    node.ip('link del up21');
    engine.dropGoneInterfaces();
    assert.deepEqual(engine.status().nodeInterfaces, [outside.ifindex]);
    assert.throws(() => engine.attachPodLink(9999), { code: 'SERVICE_LINK_MISSING' });
  });

  test('remove() leaves no filter and no qdisc', () => {
    engine.remove();
    for (const link of ['po2', 'po3', 'po4', 'up20'])
      assert.doesNotMatch(node.exec(['tc', 'qdisc', 'show', 'dev', link]), /clsact/);
    engine = open();
  });
});
