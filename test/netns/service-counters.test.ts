/** Counters of Services and backends under real connections, with bpftool as the second opinion. */
import assert from 'node:assert/strict';
import test, { after, before, describe } from 'node:test';
import { openNetns } from '../../src/kernel/netns/index.ts';
import type { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import { serviceFacts, sliceFacts } from '../../src/service/facts.ts';
import { countOpenSockets } from '../../src/service/open-sockets.ts';
import { ServicePlanner } from '../../src/service/planner.ts';
import { showService } from '../../src/service/show.ts';
import { aNode, aService, aSlice } from '../../src/service/testing.ts';
import type { ServiceFacts, SliceFacts } from '../../src/service/types.ts';
import { bpftool, u32Bytes } from '../lib/bpf.ts';
import { openEngine } from '../lib/service-engine.ts';
import { ServiceNode, type TestPod } from '../lib/services.ts';

const WEB = '10.96.0.10';
const EMPTY = '10.96.0.11';

describe('counters of Services', () => {
  let node: ServiceNode;
  let engine: EbpfEngine;
  let client: TestPod;
  let servers: TestPod[];
  const services = new Map<string, ServiceFacts>();
  const slices = new Map<string, SliceFacts>();
  const planner = new ServicePlanner({ services, slices }, aNode({ nodePortAddresses: [] }));
  const put = (endpoints: readonly string[]) => {
    const slice = sliceFacts(aSlice(endpoints.map((ip) => `${ip} node-a`)));
    slices.set(slice.key, slice);
    return slice.key;
  };
  const look = () => engine.observe(planner.plans.values()).get('default/web/TCP/ip4')!;
  const shown = () =>
    showService({
      plan: planner.plans.get('default/web')!,
      node: planner.node,
      slices: [...slices.values()],
      failure: undefined,
      now: engine.observe(planner.plans.values()),
    });
  /** What bpftool sees in a map of maps of per-CPU counters: the sum of one 64-bit member. */
  const counted = (outer: string, id: number, member: number): number => {
    const [found] = bpftool('map', 'dump', 'pinned', `${node.bpffs}/lb-v1/${outer}`) as {
      key: string[];
      value: string[];
    }[];
    const inner = found!.value.reduceRight((sum, byte) => sum * 256 + Number(byte), 0);
    const { values } = bpftool('map', 'lookup', 'id', inner, 'key', ...u32Bytes(id % 1024)) as {
      values: { cpu: number; value: string[] }[];
    };
    return values.reduce(
      (sum, { value }) =>
        sum +
        value.slice(member * 8, member * 8 + 8).reduceRight((number, byte) => number * 256 + Number(byte), 0),
      0,
    );
  };

  before(async () => {
    node = ServiceNode.create('k');
    client = node.addPod('client');
    servers = ['one', 'two'].map((name) => node.addPod(name));
    for (const pod of servers) await node.serve(pod.name, pod.netns, pod.ip4, 8080);
    engine = openEngine(node);
    engine.setServiceRanges(['10.96.0.0/16']);
    for (const pod of node.pods) engine.attachPodLink(pod.ifindex);
    for (const [name, ip] of [
      ['web', WEB],
      ['empty', EMPTY],
    ] as const) {
      const facts = serviceFacts(aService({ clusterIPs: [ip] }, { name }));
      services.set(facts.key, facts);
    }
    put(servers.map(({ ip4 }) => ip4));
    engine.apply(planner.planAll());
  });

  after(async () => {
    engine?.remove();
    await node?.[Symbol.asyncDispose]();
  });

  test('connections at the socket are counted for the Service and for the backend that got them', async () => {
    const seen = await node.attempt('tcp', { netns: client.netns, cgroup: true }, WEB, 80, { times: 30 });
    const got = (name: string) => seen.filter(({ server }) => server === name).length;
    const port = look();
    assert.equal(port.count.connections, 30);
    assert.deepEqual(
      port.backends.map(({ count }) => count.connections),
      [got('one'), got('two')],
    );
    assert.equal(port.backends[0]!.count.packets, 0, 'nobody sees packets at a socket');
    assert.equal(counted('lb_service_counts', port.number, 0), 30);
    for (const { id, count } of port.backends)
      assert.equal(counted('lb_backend_counts', id, 0), count.connections);
  });

  test('connections at the pod link are counted with their packets, and those open now', async () => {
    const before = look();
    const from = { netns: client.netns, cgroup: false };
    await node.attempt('tcp', from, WEB, 80, { times: 10, size: 20_000 });
    const middle = look();
    assert.equal(middle.count.connections - before.count.connections, 10);
    const sum = (port: typeof before, what: 'packets' | 'bytes' | 'connections') =>
      port.backends.reduce((total, { count }) => total + count[what], 0);
    assert.equal(sum(middle, 'connections') - sum(before, 'connections'), 10);
    // There and back, at least: 10 x 20,000 bytes each way, SYN, SYN-ACK and FINs.
    assert.ok(sum(middle, 'bytes') > 400_000, `${sum(middle, 'bytes')} bytes`);
    assert.ok(sum(middle, 'packets') >= 80, `${sum(middle, 'packets')} packets`);
    for (const { id, count } of middle.backends)
      assert.equal(counted('lb_backend_counts', id, 2), count.packets);
    const flows = (port: typeof before) => port.backends.reduce((total, one) => total + one.flows, 0);
    assert.equal(flows(middle), 0, 'connections that ended are not open');
    const talker = node.hold(from, WEB, 80);
    const name = (await talker.ask()).split(' ')[0];
    assert.equal(look().backends[name === 'one' ? 0 : 1]!.flows, 1);
  });

  test('sockets that a Service connected are counted while they are open', async () => {
    const talker = node.hold({ netns: client.netns, cgroup: true }, WEB, 80);
    await talker.ask();
    using netns = openNetns(`/run/netns/${client.netns}`);
    const backends = new Set(servers.map(({ ip4 }) => `${ip4}|8080`));
    const open = countOpenSockets(engine, backends, [netns]);
    // The connection past the pod link, held by the test before, is no socket of a Service.
    assert.deepEqual([...open.values()], [1]);
  });

  test('refused connections are counted, at the socket and at the link', async () => {
    for (const cgroup of [true, false])
      await node.attempt('tcp', { netns: client.netns, cgroup }, EMPTY, 80, { times: 3 });
    const empty = engine.portCounts().get('default/empty/TCP/ip4')!;
    assert.deepEqual([empty.connections, empty.refused], [0, 6]);
    assert.equal(engine.portCounts().get('default/web/TCP/ip4')!.refused, 0);
  });

  test('a number that is used again begins at zero, and a Service keeps its count', async () => {
    const total = look().count.connections;
    const gone = look().backends[1]!;
    assert.ok(gone.count.connections > 0);
    engine.apply(planner.plan([], [put([servers[0]!.ip4])]));
    await new Promise((resolve) => setTimeout(resolve, 150));
    engine.apply(planner.plan([], [put([servers[0]!.ip4, '10.244.7.99'])]));
    const { backends, count } = look();
    assert.equal(backends[1]!.id, gone.id, 'the number rested and was given again');
    assert.equal(backends[1]!.count.connections, 0);
    assert.equal(count.connections, total);
  });

  test('everything of a Service is shown: why, where, and the map entries', () => {
    slices.set(
      'default/late',
      sliceFacts(aSlice(['10.244.7.50 node-b unready', '10.244.7.51 node-b terminating'], { name: 'late' })),
    );
    engine.apply(planner.plan([], ['default/late']));
    const [port] = shown().ports;
    assert.deepEqual(
      port!.backends.map(({ address, state, sets, because }) => [address, state, sets.join(), because]),
      [
        [`${servers[0]!.ip4}:8080`, 'ready', 'cluster', 'ready'],
        ['10.244.7.51:8080', 'terminating, serving', '', 'terminating while others are ready'],
        ['10.244.7.99:8080', 'ready', 'cluster', 'ready'],
        ['10.244.7.50:8080', 'not ready', '', 'not ready'],
      ],
    );
    const [frontend, table, ...backends] = port!.entries;
    const ids = port!.backends.flatMap(({ id }) => id ?? []);
    assert.match(
      frontend!,
      /^lb_frontends\[10\.96\.0\.10:80\/TCP\] = id \d+, service \d+, ClusterIP, 2 entries/,
    );
    assert.match(table!, new RegExp(`^lb_tables\\[\\d+\\] = ${ids[0]} ${ids[2]} \\(cluster\\)$`));
    assert.match(
      backends[1]!,
      /^lb_backends\[\d+\] = 10\.244\.7\.51:8080\/TCP, service \d+, .*open connections/,
    );
  });

  test('counts outlive the process', () => {
    const before = look();
    engine.close();
    engine = openEngine(node);
    engine.apply({ full: true, upsert: [...planner.plans.values()], remove: [] });
    assert.deepEqual(look(), before);
  });
});
