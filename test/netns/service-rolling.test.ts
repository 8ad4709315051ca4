/** All of 1,000 endpoints are replaced at once, again and again, while connections are made as fast as they can be. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import test, { after, before, describe } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { writeNftParts } from '../../src/kernel/nft/index.ts';
import { type EbpfEngine, masqueradeParts } from '../../src/service/engines/ebpf/index.ts';
import { serviceFacts, sliceFacts } from '../../src/service/facts.ts';
import { ServicePlanner } from '../../src/service/planner.ts';
import { aNode, aService, aSlice } from '../../src/service/testing.ts';
import type { ServiceFacts, SliceFacts } from '../../src/service/types.ts';
import { openEngine } from '../lib/service-engine.ts';
import { ServiceNode, type TestPod } from '../lib/services.ts';
import { compiled, firstLine } from '../lib/soak.ts';

const ENDPOINTS = 1000;
const PER_SLICE = 100;
const CONNECTIONS = 8000;
const VIP = '10.96.0.10';
const NODE_PORT = 30_080;
const PORT = 9000;

describe('rolling change', () => {
  let node: ServiceNode;
  let engine: EbpfEngine;
  let client: TestPod;
  let outside: TestPod;
  const stops: (() => void)[] = [];
  const services = new Map<string, ServiceFacts>();
  const slices = new Map<string, SliceFacts>();
  const planner = new ServicePlanner({ services, slices }, aNode({ nodePortAddresses: ['192.168.77.1'] }));

  /** One slice with its part of a generation of endpoints: no two generations share an address. */
  const put = (slice: number, generation: number): string => {
    const endpoints = Array.from({ length: PER_SLICE }, (_, at) => {
      const number = slice * PER_SLICE + at;
      return `10.250.${(generation % 8) * 4 + (number >> 8)}.${number & 255} node-a`;
    });
    const facts = sliceFacts(aSlice(endpoints, { name: `web-${slice}`, portName: 'tcp', port: PORT }));
    slices.set(facts.key, facts);
    return facts.key;
  };
  const all = (generation: number) =>
    Array.from({ length: ENDPOINTS / PER_SLICE }, (_, slice) => put(slice, generation));

  before(async () => {
    node = ServiceNode.create('o');
    client = node.addPod('client');
    const server = node.addPod('server');
    outside = node.addHost('out');
    // Every address of this network is the server's own.
    node.ip(`route add 10.250.0.0/19 via ${server.ip4} dev po3 onlink`);
    node.exec(['ip', 'route', 'add', 'local', '10.250.0.0/19', 'dev', 'lo'], server.netns);
    const child = spawn('ip', ['netns', 'exec', server.netns, compiled('soak'), 'serve', String(PORT)]);
    stops.push(() => child.kill('SIGKILL'));
    await firstLine(child);
    engine = openEngine(node);
    engine.setServiceRanges(['10.96.0.0/16']);
    for (const pod of node.pods) engine.attachPodLink(pod.ifindex);
    engine.attachNodeInterface(outside.ifindex);
    writeNftParts(masqueradeParts(), { netns: node.netns });
    const port = { name: 'tcp', port: 80, nodePort: NODE_PORT, protocol: 'TCP' as const };
    const service = serviceFacts(aService({ type: 'NodePort', clusterIPs: [VIP], ports: [port] }));
    services.set(service.key, service);
    all(0);
    assert.deepEqual([...engine.apply(planner.planAll()).failed], []);
  });

  after(async () => {
    for (const stop of stops) stop();
    engine?.remove();
    await node?.[Symbol.asyncDispose]();
  });

  /** Connects one after the other; the tool ends at the first that fails. */
  const connecting = (netns: string, cgroup: boolean, address: string, port: number) => {
    const inside = ['ip', 'netns', 'exec', netns, compiled('../bench/connect')];
    const enter = cgroup ? `echo $$ > ${node.cgroup}/cgroup.procs; ` : '';
    const words = [...inside, address, String(port), String(CONNECTIONS)];
    const child = spawn('sh', ['-ec', `${enter}exec "$@"`, 'sh', ...words], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    stops.push(() => child.kill('SIGKILL'));
    return firstLine(child);
  };

  test(`${ENDPOINTS} endpoints replaced at once, and slice by slice, refuse no connection`, async () => {
    const clients = [
      connecting(client.netns, true, VIP, 80),
      connecting(client.netns, false, VIP, 80),
      connecting(outside.netns, false, '192.168.77.1', NODE_PORT),
    ];
    let going = clients.length;
    const results = Promise.all(clients.map((result) => result.finally(() => going--)));
    results.catch(() => {});
    let generation = 0;
    const end = performance.now() + 60_000;
    while (going > 0 && performance.now() < end) {
      generation++;
      if (generation % 2) engine.apply(planner.plan([], all(generation)));
      else
        for (let slice = 0; slice < ENDPOINTS / PER_SLICE; slice++) {
          engine.apply(planner.plan([], [put(slice, generation)]));
          await sleep(0);
        }
      await sleep(1);
    }
    await results;
    console.log(`${generation} changes of all endpoints under ${clients.length * CONNECTIONS} connections`);
    assert.ok(generation > 1);
    const counters = engine.counters();
    for (const name of ['reject-no-endpoint', 'reject-no-flow', 'drop-no-backend', 'drop-rewrite'])
      assert.equal(counters[name], 0, name);
    assert.ok(counters['forward-socket']! >= CONNECTIONS && counters['forward-flow']! >= 2 * CONNECTIONS);
    // Nothing of a thousand former endpoints stays.
    assert.deepEqual(engine.diff(planner.plans.values()), { missing: [], unwanted: [] });
  });
});
