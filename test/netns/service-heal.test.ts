/** A foreign hand (bpftool, ip) changes what serves Services: it is told, and put right. */
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import test, { after, before, describe } from 'node:test';
import type { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import { encodeEndpoint } from '../../src/service/engines/ebpf/layout.ts';
import { serviceFacts, sliceFacts } from '../../src/service/facts.ts';
import { ServicePlanner } from '../../src/service/planner.ts';
import { aNode, aService, aSlice } from '../../src/service/testing.ts';
import type { ServiceFacts, SliceFacts } from '../../src/service/types.ts';
import { bpftool } from '../lib/bpf.ts';
import { openEngine } from '../lib/service-engine.ts';
import { ServiceNode, type TestPod } from '../lib/services.ts';

const VIP = '10.96.0.10';

describe('what others change', () => {
  let node: ServiceNode;
  let engine: EbpfEngine;
  let client: TestPod;
  const services = new Map<string, ServiceFacts>();
  const slices = new Map<string, SliceFacts>();
  const planner = new ServicePlanner({ services, slices }, aNode({ nodePortAddresses: ['192.168.77.1'] }));
  const folder = () => `${node.bpffs}/lb-v1`;
  /** Id of a map in a map of maps, as bpftool sees it. */
  const inner = (name: string, at = 0): number => {
    const all = bpftool('map', 'dump', 'pinned', `${folder()}/${name}`) as {
      key: string[];
      value: string[];
    }[];
    return all[at]!.value.reduceRight((sum, byte) => sum * 256 + Number(byte), 0);
  };
  const diff = () => engine.diff(planner.plans.values());
  const reached = async () => {
    const results: string[] = [];
    for (const cgroup of [true, false])
      for (const seen of await node.attempt('tcp', { netns: client.netns, cgroup }, VIP, 80, {
        timeout: 4,
      }))
        results.push(seen.result);
    return results.join();
  };
  /** Something is changed: it is shown, put right, told once, and Services work. */
  const healed = async (...what: RegExp[]) => {
    const shown = diff().altered ?? [];
    for (const pattern of what)
      assert.ok(
        shown.some((line) => pattern.test(line)),
        `${pattern}: ${shown.join('\n')}`,
      );
    const before = engine.repairs.count;
    const told = await engine.heal();
    assert.deepEqual([...told].sort(), [...shown].sort());
    assert.equal(engine.repairs.count, before + told.length);
    assert.deepEqual(engine.repairs.last!.what, told);
    assert.deepEqual(diff(), { missing: [], unwanted: [] });
    assert.deepEqual(await engine.heal(), []);
    assert.equal(await reached(), 'ok,ok');
  };
  const bytes = (data: Uint8Array) => [...data].map(String);

  before(async () => {
    node = ServiceNode.create('h');
    client = node.addPod('client');
    const server = node.addPod('server');
    await node.serve('server', server.netns, server.ip4, 8080);
    engine = openEngine(node);
    engine.setServiceRanges(['10.96.0.0/16']);
    for (const pod of node.pods) engine.attachPodLink(pod.ifindex);
    const facts = serviceFacts(
      aService(
        {
          clusterIPs: [VIP],
          type: 'LoadBalancer',
          loadBalancerSourceRanges: ['10.0.0.0/8', '192.0.2.0/24'],
          ports: [{ port: 80, nodePort: 30_080 }],
        },
        {},
        { loadBalancer: { ingress: [{ ip: '203.0.113.9' }] } },
      ),
    );
    services.set(facts.key, facts);
    const slice = sliceFacts(aSlice([`${server.ip4} node-a`]));
    slices.set(slice.key, slice);
    engine.apply(planner.planAll());
  });

  after(async () => {
    engine?.remove();
    await node?.[Symbol.asyncDispose]();
  });

  test('while nobody does anything, nothing is found', async () => {
    assert.deepEqual(diff(), { missing: [], unwanted: [] });
    assert.deepEqual(await engine.heal(), []);
    assert.equal(await reached(), 'ok,ok');
  });

  test('a frontend that was deleted, one that was changed, one that nobody wants', async () => {
    const id = inner('lb_frontends');
    const key = bytes(encodeEndpoint(VIP, 80, 6));
    bpftool('map', 'delete', 'id', id, 'key', ...key);
    assert.equal(await reached(), 'ECONNREFUSED,ECONNREFUSED');
    await healed(/^lb_frontends\[10\.96\.0\.10:80\/TCP\] is absent$/);
    bpftool('map', 'update', 'id', id, 'key', ...key, 'value', ...new Array(32).fill('0'));
    bpftool(
      'map',
      'update',
      'id',
      id,
      'key',
      ...bytes(encodeEndpoint('192.0.2.1', 443, 6)),
      'value',
      ...new Array(32).fill('1'),
    );
    await healed(/10\.96\.0\.10:80\/TCP\] was changed$/, /192\.0\.2\.1:443\/TCP\] belongs to nobody$/);
  });

  test('a backend and a line of a table that were overwritten', async () => {
    const zero = (length: number) => new Array<string>(length).fill('0');
    const [plan] = engine.observe(planner.plans.values()).values();
    const backend = plan!.backends[0]!.id;
    bpftool('map', 'update', 'id', inner('lb_backends'), 'key', backend, 0, 0, 0, 'value', ...zero(32));
    await healed(
      new RegExp(`^lb_backends\\[${backend}\\] is absent, want lb_backends\\[${backend}\\] = 10\\.`),
    );
    bpftool(
      'map',
      'update',
      'id',
      inner('lb_tables'),
      'key',
      0,
      0,
      0,
      0,
      'value',
      ...new Array(64).fill('9'),
    );
    await healed(/^lb_tables\[0\] was changed$/);
  });

  test('whole maps that were taken out of their place', async () => {
    for (const [name, pattern] of [
      ['lb_backends', /chunk of id 0 is not in its place/],
      ['lb_tables', /chunk of line 0 is not in its place/],
      ['lb_frontends', /lb_frontends\[0\] is not the map/],
    ] as const) {
      bpftool('map', 'delete', 'pinned', `${folder()}/${name}`, 'key', 0, 0, 0, 0);
      await healed(pattern);
    }
  });

  test('source ranges and Service ranges', async () => {
    const keys = [...engine.maps.lb_source_ranges.keys()];
    bpftool('map', 'delete', 'pinned', `${folder()}/lb_source_ranges`, 'key', ...bytes(keys[0]!));
    await healed(/1 entries are absent, 0 belong to nobody/);
    bpftool(
      'map',
      'update',
      'pinned',
      `${folder()}/lb_config`,
      'key',
      0,
      0,
      0,
      0,
      'value',
      ...new Array(264).fill('0'),
    );
    await healed(/^lb_config was changed$/);
  });

  test('programs that were detached: a socket hook, a pod link, a pin', async () => {
    bpftool('link', 'detach', 'pinned', `${folder()}/link_connect4`);
    assert.equal(await reached(), 'ok,ok', 'the pod link serves meanwhile');
    await healed(/^lb_connect4 is not attached$/);
    rmSync(`${folder()}/link_sendmsg6`);
    await healed(/^lb_sendmsg6 is not attached$/);
    bpftool('link', 'detach', 'pinned', `${folder()}/pod_${client.ifindex}_from`);
    await healed(new RegExp(`^lb_from_pod is not attached to interface ${client.ifindex}$`));
    const link = bpftool('link', 'show', 'pinned', `${folder()}/pod_${client.ifindex}_from`);
    assert.equal((link as { prog_id: number }).prog_id, engine.programs.get('lb_from_pod')!.info().id);
  });

  test('maps that were unpinned are there for the next process', async () => {
    const before = engine.maps.lb_flows.info().id;
    rmSync(`${folder()}/lb_flows`);
    await healed(/^lb_flows is not pinned$/);
    const pinned = bpftool('map', 'show', 'pinned', `${folder()}/lb_flows`) as { id: number };
    assert.equal(pinned.id, before);
  });

  test('an interface that goes is no change by others', async () => {
    const gone = node.addPod('gone');
    engine.attachPodLink(gone.ifindex);
    node.ip('link del po4');
    assert.deepEqual(await engine.heal(), []);
  });

  test('a tour that pauses tells what it found at once, and goes on behind it', async () => {
    const pauses: number[] = [];
    const pause = async (costMs: number) => {
      pauses.push(costMs);
      return true;
    };
    const id = inner('lb_frontends');
    bpftool('map', 'delete', 'id', id, 'key', ...bytes(encodeEndpoint(VIP, 80, 6)));
    bpftool('link', 'detach', 'pinned', `${folder()}/link_connect6`);
    const found: string[] = [];
    for (let call = 0; call < 20 && found.length < 2; call++) found.push(...(await engine.heal(pause)));
    assert.deepEqual(found, ['lb_connect6 is not attached', 'lb_frontends[10.96.0.10:80/TCP] is absent']);
    assert.deepEqual(diff(), { missing: [], unwanted: [] });
    assert.equal(await reached(), 'ok,ok');
  });
});
