/**
 * The table of flows to backends on other nodes grows while clients come: further ports when one backend has many of
 * them, more places at each port when many backends have. Nobody notices, and it gets small again. At its limit new
 * clients are refused, and the Service is named.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import test, { after, afterEach, before, describe } from 'node:test';
import { viewOf } from '../../src/codec/index.ts';
import { type BpfMap, jiffiesPerSecond, mapById } from '../../src/kernel/bpf/index.ts';
import type { RefusedFlow } from '../../src/service/engine.ts';
import type { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import {
  encodeEndpoint,
  frontendStruct,
  NAT_SLOTS,
  natFlowStruct,
  natSetStruct,
  natTableStruct,
  readAddress,
} from '../../src/service/engines/ebpf/layout.ts';
import type { EngineSizes } from '../../src/service/engines/ebpf/objects.ts';
import { serviceFacts, sliceFacts } from '../../src/service/facts.ts';
import { aService, aSlice } from '../../src/service/testing.ts';
import { u32 } from '../lib/lb-map-contents.ts';
import { applyAll, openEngine, plannerOf } from '../lib/service-engine.ts';
import { ServiceNode, type Talker, type TestPod } from '../lib/services.ts';
import { compiled, firstLine } from '../lib/soak.ts';

const NODE = '192.168.77.1';
const SERVER = 9002;
/** Small, so that not many clients are many. */
const PORTS = 256;
const BACKENDS = 32;
const SEEN_AT = natFlowStruct.members.find(({ name }) => name === 'seen')!.offset;
/** LB_NAT_FIN_CLIENT, LB_NAT_FIN_BACKEND, LB_NAT_RESET. */
const OVER = 0x1c;
const FLOWS_AT = natSetStruct.size - NAT_SLOTS * natFlowStruct.size;

interface Asked {
  readonly repeated: number;
  readonly right: number;
  readonly wrong: number;
  readonly firstWrong: string;
}

describe('the table of flows to backends on other nodes', () => {
  let node: ServiceNode;
  let outside: TestPod;
  let remote: TestPod;
  let mac: string;
  let engine: EbpfEngine | undefined;
  let skewMs = 0;
  const stops: (() => void)[] = [];
  const backends = Array.from({ length: BACKENDS }, (_, at) => `10.244.99.${at + 1}`);

  before(async () => {
    node = ServiceNode.create('ng');
    outside = node.addHost('out', 20);
    remote = node.addHost('rem', 30);
    node.ip(
      `route add 198.18.0.0/15 via ${outside.ip4} dev up20`,
      `route add 10.244.99.0/24 via ${remote.ip4} dev up30`,
    );
    // Who has none of these addresses sends nothing back.
    node.exec(['sysctl', '-qw', 'net.ipv4.ip_forward=0'], outside.netns);
    node.ipAt(remote.netns, ...backends.map((address) => `addr add ${address}/32 dev lo`));
    const [link] = JSON.parse(
      execFileSync('ip', ['-j', '-n', node.prefix, 'link', 'show', 'up20'], { encoding: 'utf8' }),
    ) as { address: string }[];
    mac = link!.address;
    await node.serve('one', remote.netns, backends[0]!, 8080);
    const slow = spawn('ip', [
      'netns',
      'exec',
      remote.netns,
      compiled('askers'),
      'serve',
      String(SERVER),
      '1',
    ]);
    stops.push(() => slow.kill('SIGKILL'));
    await firstLine(slow);
  });

  afterEach(() => {
    engine?.remove();
    engine = undefined;
  });

  after(async () => {
    for (const stop of stops) stop();
    await node?.[Symbol.asyncDispose]();
  });

  interface Opened {
    readonly opened: EbpfEngine;
    readonly refused: RefusedFlow[];
  }

  function open(sizes: EngineSizes = {}, udpBackends = 1): Opened {
    const opened = openEngine(node, {
      nodeHook: 'tc',
      now: () => performance.now() + skewMs,
      sizes: { natPorts: PORTS, ...sizes },
    });
    engine = opened;
    opened.attachNodeInterface(outside.ifindex, { ip4: '172.20.7.1' });
    opened.attachNodeInterface(remote.ifindex, { ip4: '172.30.7.1' });
    const ports = [
      { name: 'tcp', port: 80, nodePort: 30_080, protocol: 'TCP' as const },
      { name: 'udp', port: 53, nodePort: 30_053, protocol: 'UDP' as const },
    ];
    const slice = (name: 'tcp' | 'udp', addresses: readonly string[], port: number) =>
      sliceFacts(
        aSlice(
          addresses.map((address) => `${address} node-b`),
          { name: `web-${name}`, portName: name, protocol: name === 'tcp' ? 'TCP' : 'UDP', port },
        ),
      );
    applyAll(
      opened,
      plannerOf(
        [serviceFacts(aService({ type: 'NodePort', clusterIPs: ['10.96.0.10'], ports }))],
        [slice('tcp', [backends[0]!], 8080), slice('udp', backends.slice(0, udpBackends), SERVER)],
        { nodePortAddresses: [NODE] },
      ),
    );
    const refused: RefusedFlow[] = [];
    opened.keepRoom({ onError: (error) => console.error(error), onRefused: (flow) => refused.push(flow) });
    return { opened, refused };
  }

  const hold = async (): Promise<Talker> => {
    const talker = node.hold({ netns: outside.netns, cgroup: false }, NODE, 30_080);
    assert.match(await talker.ask(), /^one /);
    return talker;
  };

  async function ask(count: number, rate: number, seconds: number): Promise<Asked> {
    const words = ['eth0', mac, NODE, 30_053, count, rate, seconds].map(String);
    const child = spawn('ip', ['netns', 'exec', outside.netns, compiled('askers'), ...words]);
    stops.push(() => child.kill('SIGKILL'));
    return JSON.parse(await firstLine(child)) as Asked;
  }

  const store = () => engine!.status().stores.find(({ name }) => name === 'lb_nat_flows')!;

  /** Each port of this node is one flow's towards a backend, as the backend sees it. */
  function compareFlows(opened: EbpfEngine, datagrams: number): Set<number> {
    const seen = new Set<string>();
    const ports = new Set<number>();
    let count = 0;
    for (const flow of opened.nat.all()) {
      const name = `${flow.protocol} ${readAddress(flow.source)}:${flow.nat_port} ${readAddress(flow.backend)}:${flow.backend_port}`;
      assert.ok(!seen.has(name), name);
      seen.add(name);
      if (flow.protocol !== 17) continue;
      count++;
      ports.add(flow.nat_port);
    }
    assert.equal(count, datagrams);
    return ports;
  }

  /** Places in use of the table as it began. */
  function basePlaces(opened: EbpfEngine): number {
    let used = 0;
    for (const [, head] of opened.maps.lb_nat_heads.entries())
      for (let slot = 0; slot < NAT_SLOTS; slot++) if (viewOf(head).getUint32(slot * 4, true) !== 0) used++;
    return used;
  }

  /** As if nobody had sent in datagram flows, and in those that are over, for so long. */
  function age(opened: EbpfEngine, seconds: number): void {
    const back = seconds * jiffiesPerSecond();
    const older = (map: BpfMap, key: Uint8Array, value: Uint8Array, first: number, flows: number) => {
      const view = viewOf(value);
      let changed = false;
      for (let at = first; at < first + flows * natFlowStruct.size; at += natFlowStruct.size) {
        const { protocol, flags } = natFlowStruct.decode(value.subarray(at, at + natFlowStruct.size));
        if (protocol !== 17 && (flags & OVER) === 0) continue;
        view.setUint32(at + SEEN_AT, (view.getUint32(at + SEEN_AT, true) - back) >>> 0, true);
        changed = true;
      }
      if (changed) map.set(key, value);
    };
    for (const [key, value] of opened.maps.lb_nat_flows.entries())
      older(opened.maps.lb_nat_flows, key, value, 0, 1);
    for (const [, id] of opened.maps.lb_nat_more.entries()) {
      if (viewOf(id).getUint32(0, true) === 0) continue;
      using chunk = mapById(viewOf(id).getUint32(0, true), 'lb_nat_more');
      for (const [key, value] of chunk.entries()) older(chunk, key, value.slice(), FLOWS_AT, NAT_SLOTS);
    }
  }

  /** Looks until the table is as small as it began; the time between two looks is not waited for. */
  function shrink(opened: EbpfEngine): void {
    for (let looks = 0; opened.nat.steps.held > 0 && looks < 200; looks++) {
      skewMs += 11_000;
      opened.nat.tend();
    }
  }

  test('one backend with more clients than there are ports gets further ports, and they go again', async () => {
    const { opened, refused } = open();
    const before = store();
    assert.equal(before.bytes, opened.nat.bytes);
    const held = [await hold(), await hold()];
    const seen = await ask(300, 150, 15);
    const dropped = opened.counters()['drop-nat-full']!;
    console.log(JSON.stringify({ ...seen, dropped, refused: refused.length }));
    assert.equal(seen.wrong, 0, seen.firstWrong);
    assert.equal(seen.right, 300);
    assert.equal(opened.nat.steps.open, 1);
    const ports = compareFlows(opened, 300);
    assert.equal(ports.size, 300);
    assert.ok(store().bytes > before.bytes);
    // Of those that had to try often a few may have come before there were more ports.
    assert.ok(dropped <= 8, `${dropped} refused`);
    for (const talker of held) assert.equal(await talker.ask('grown'), 'echo grown');
    // Further ports lie right below the others, and none is a nodePort or a socket's.
    const first = Math.min(...ports);
    assert.ok(first >= 30_000 - PORTS - PORTS / 2 && Math.max(...ports) < 30_000, `${first}`);

    age(opened, 200);
    shrink(opened);
    assert.deepEqual(opened.nat.steps, { open: 0, held: 0 });
    assert.equal(store().bytes, before.bytes);
    for (const talker of held) assert.equal(await talker.ask('small'), 'echo small');
    const again = await ask(100, 400, 8);
    assert.deepEqual([again.right, again.wrong], [100, 0]);
  });

  test('6,000 clients of 32 backends grow the table of 2,048 places; an agent that comes later goes on with it', async () => {
    const { opened } = open({}, BACKENDS);
    const before = store();
    assert.equal(before.entries, 0);
    const held = [await hold()];
    const asking = ask(6_000, 2_000, 20);
    const meanwhile = [await hold(), await hold()];
    const seen = await asking;
    const dropped = opened.counters()['drop-nat-full']!;
    console.log(JSON.stringify({ ...seen, dropped, ...opened.nat.steps }));
    assert.equal(seen.wrong, 0, seen.firstWrong);
    assert.equal(seen.right, 6_000);
    assert.ok(opened.nat.capacity >= 12_000, `${opened.nat.capacity} places`);
    compareFlows(opened, 6_000);
    held.push(...meanwhile, await hold());
    for (const talker of held) assert.equal(await talker.ask('grown'), 'echo grown');
    const { steps, limit } = opened.nat;
    assert.equal(store().limit, limit);
    assert.ok(store().entries >= 6_004);

    opened.close();
    const { opened: later } = open({}, BACKENDS);
    assert.deepEqual(later.nat.steps, steps);
    compareFlows(later, 6_000);
    for (const talker of held) assert.equal(await talker.ask('restarted'), 'echo restarted');

    // Most go, and what the rest needs stays until its clients have gone, too.
    age(later, 200);
    shrink(later);
    compareFlows(later, 0);
    for (const talker of held) assert.equal(await talker.ask('fewer'), 'echo fewer');
    for (const { pid } of held.splice(1)) process.kill(pid, 'SIGKILL');
    await new Promise((resolve) => setTimeout(resolve, 300));
    age(later, 200);
    shrink(later);
    assert.deepEqual(later.nat.steps, { open: 0, held: 0 });
    assert.equal(store().bytes, before.bytes);
    for (const talker of held) assert.equal(await talker.ask('small'), 'echo small');
  });

  test('what is about to go takes no new flows, and who has one there goes on', async () => {
    const { opened } = open({ natPorts: 64 }, BACKENDS);
    const clients = 1_500;
    const seen = await ask(clients, 1_000, 15);
    assert.deepEqual([seen.right, seen.wrong], [clients, 0], seen.firstWrong);
    assert.ok(opened.nat.steps.open >= 2, 'further ports, and more than one level');
    const { lb_nat_table } = opened.maps;
    const beyond = () => store().entries - basePlaces(opened);
    const before = beyond();
    assert.ok(before > 500);
    // As the agent says it before it takes a step away, here of all steps at once.
    const table = natTableStruct.decode(lb_nat_table.get(u32(0))!);
    lb_nat_table.set(u32(0), natTableStruct.encode({ ...table, open: 0 }));
    const dropped = opened.counters()['drop-nat-full']!;
    const again = await ask(clients + 500, 1_000, 3);
    assert.equal(again.wrong, 0, again.firstWrong);
    assert.ok(again.right >= clients && again.right < clients + 500, `${again.right} answers`);
    assert.ok(opened.counters()['drop-nat-full']! > dropped);
    assert.equal(natTableStruct.decode(lb_nat_table.get(u32(0))!).open, 0);
    assert.equal(beyond(), before);
  });

  test('a further port that is a Service port at an address of this node is nobody else’s', async () => {
    const { opened } = open();
    opened.nat.grow(1);
    // Of the further ports all but these are frontends at the node's address towards the backend.
    const first = 30_000 - PORTS - PORTS / 2;
    const FREE = [first + 5, first + 77];
    const id = viewOf(opened.maps.lb_frontends.get(new Uint8Array(4))!).getUint32(0, true);
    {
      using frontends = mapById(id, 'lb_frontends');
      const value = new Uint8Array(frontendStruct.size);
      for (let port = first; port < first + PORTS / 2; port++)
        if (!FREE.includes(port)) frontends.set(encodeEndpoint('172.30.7.1', port, 17), value);
    }
    await ask(400, 800, 2);
    const ports = [...opened.nat.all()]
      .filter(({ protocol }) => protocol === 17)
      .map((flow) => flow.nat_port);
    assert.ok(ports.length > PORTS * 0.9, `${ports.length} flows`);
    for (const port of ports) assert.ok(port >= 30_000 - PORTS || FREE.includes(port), `port ${port}`);
  });

  test('at the limit new clients are refused, counted at the Service, and it is named', async () => {
    const { opened, refused } = open({ natLimit: PORTS * NAT_SLOTS });
    const held = await hold();
    const seen = await ask(500, 500, 2);
    assert.equal(seen.wrong, 0, seen.firstWrong);
    assert.ok(seen.right > PORTS * 0.9 && seen.right <= PORTS, `${seen.right} answers`);
    const dropped = opened.counters()['drop-nat-full']!;
    assert.ok(dropped >= 500 - PORTS, `${dropped} refused`);
    const [, count] = [...opened.portCounts()].find(([key]) => key.includes('udp'))!;
    assert.equal(count.refused, dropped);
    assert.equal(store().limit, PORTS * NAT_SLOTS);
    const until = performance.now() + 5_000;
    while (refused.length === 0 && performance.now() < until)
      await new Promise((resolve) => setTimeout(resolve, 50));
    // Some words a second, whatever the number of those who are refused.
    assert.ok(refused.length >= 1 && refused.length < 20, `${refused.length} words`);
    assert.deepEqual(refused.map(({ service, store: name, limit }) => ({ service, name, limit }))[0], {
      service: 'default/web',
      name: 'lb_nat_flows',
      limit: PORTS * NAT_SLOTS,
    });
    assert.equal(await held.ask('full'), 'echo full');
  });
});
