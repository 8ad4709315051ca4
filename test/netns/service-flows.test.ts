/**
 * The table of translated flows: it grows under the packets of very many clients, whose answers all come from the VIP;
 * at its limit new flows are refused and no other notices; flows of the map that came before it are carried over.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { join } from 'node:path';
import test, { after, afterEach, before, describe } from 'node:test';
import { type BpfMap, loadObject, unpin } from '../../src/kernel/bpf/index.ts';
import type { Flow } from '../../src/service/engines/ebpf/flow-table.ts';
import { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import { encodeEndpoint, FLOW, flowStruct, readAddress } from '../../src/service/engines/ebpf/layout.ts';
import type { EngineSizes } from '../../src/service/engines/ebpf/objects.ts';
import { serviceFacts, sliceFacts } from '../../src/service/facts.ts';
import { ServicePlanner } from '../../src/service/planner.ts';
import { aNode, aService, aSlice } from '../../src/service/testing.ts';
import { testObject } from '../lib/bpf.ts';
import { ServiceNode, type Talker, type TestPod } from '../lib/services.ts';
import { compiled, firstLine } from '../lib/soak.ts';

const VIP = '10.96.0.10';
const PORT = 8080;
const SLOW = 9002;
const SMALLEST = 8192;

/** What askers.c prints. */
interface Asked {
  readonly asked: number;
  readonly repeated: number;
  readonly right: number;
  readonly wrong: number;
  readonly firstWrong: string;
  readonly ms: number;
}

describe('the table of flows', () => {
  let node: ServiceNode;
  let server: TestPod;
  let client: TestPod;
  let crowd: TestPod;
  let mac: string;
  let engine: EbpfEngine | undefined;
  const stops: (() => void)[] = [];

  before(async () => {
    node = ServiceNode.create('g');
    server = node.addPod('server');
    client = node.addPod('client');
    crowd = node.addPod('crowd');
    node.ip(`route add 198.18.0.0/15 via ${crowd.ip4} dev po4 onlink`);
    // Who has none of these addresses sends nothing back.
    node.exec(['sysctl', '-qw', 'net.ipv4.ip_forward=0'], crowd.netns);
    const [link] = JSON.parse(
      execFileSync('ip', ['-j', '-n', node.prefix, 'link', 'show', 'po4'], { encoding: 'utf8' }),
    ) as { address: string }[];
    mac = link!.address;
    await node.serve('one', server.netns, server.ip4, PORT);
    const slow = spawn('ip', [
      ...['netns', 'exec', server.netns, compiled('askers'), 'serve', String(SLOW), '2'],
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

  function open(sizes: EngineSizes): EbpfEngine {
    const { bpffs, cgroup, netns } = node;
    const opened = EbpfEngine.open({ bpffsDir: bpffs, cgroupPath: cgroup, netns, nodeName: 'node-a', sizes });
    engine = opened;
    // As an agent does.
    opened.keepRoom({ onError: (error) => console.error(error) });
    for (const { ifindex } of node.pods) opened.attachPodLink(ifindex);
    const ports = [
      { name: 'tcp', port: 80, protocol: 'TCP' as const },
      { name: 'udp', port: 80, protocol: 'UDP' as const },
    ];
    const service = serviceFacts(aService({ clusterIPs: [VIP], ports }));
    const slices = ports.map(({ name, protocol }) => {
      const port = protocol === 'UDP' ? SLOW : PORT;
      return sliceFacts(
        aSlice([`${server.ip4} node-a`], { name: `web-${name}`, portName: name, protocol, port }),
      );
    });
    const tables = {
      services: new Map([[service.key, service]]),
      slices: new Map(slices.map((slice) => [slice.key, slice])),
    };
    opened.apply(new ServicePlanner(tables, aNode({ nodePortAddresses: [] })).planAll());
    return opened;
  }

  const hold = async (): Promise<Talker> => {
    const talker = node.hold({ netns: client.netns, cgroup: false }, VIP, 80);
    assert.match(await talker.ask(), /^one /);
    // It goes on after an answer.
    assert.equal(await talker.ask('first'), 'echo first');
    return talker;
  };

  /** Clients ask. */
  async function ask(count: number, rate: number, seconds: number): Promise<Asked> {
    const words = ['eth0', mac, VIP, 80, count, rate, seconds].map(String);
    const child = spawn('ip', ['netns', 'exec', crowd.netns, compiled('askers'), ...words]);
    stops.push(() => child.kill('SIGKILL'));
    return JSON.parse(await firstLine(child)) as Asked;
  }

  const store = () => engine!.status().stores.find(({ name }) => name === 'lb_flows')!;

  test('120,000 clients that wait for their answers at once get them from the VIP, and the table grows', async () => {
    const opened = performance.now();
    open({ flows: SMALLEST });
    const held = [await hold(), await hold(), await hold()];
    const before = store();
    // A few flows wake nobody; between the first look and the next are ten seconds.
    const began = performance.now();
    const { looks } = engine!;
    assert.ok(looks <= 1 + (began - opened) / 10_000, `${looks} looks`);
    const seen = await ask(120_000, 40_000, 25);
    const refused = engine!.counters()['drop-flows-full'];
    console.log(JSON.stringify({ ...seen, refused, looks: engine!.looks }));
    assert.equal(seen.wrong, 0, seen.firstWrong);
    assert.equal(seen.right, 120_000);
    const grown = store();
    assert.ok(grown.bytes > before.bytes * 8, `${before.bytes} bytes, then ${grown.bytes}`);
    assert.ok(grown.entries > 100_000, `${grown.entries} flows`);
    assert.ok(engine!.flows.capacity >= 262_144, `${engine!.flows.capacity} places`);
    // They lie where they were when the table was smallest.
    for (const talker of held) assert.equal(await talker.ask('grown'), 'echo grown');
    // An engine that comes now finds all of it.
    const { capacity } = engine!.flows;
    engine!.close();
    open({ flows: SMALLEST });
    assert.equal(engine!.flows.capacity, capacity);
    for (const talker of held) assert.equal(await talker.ask('restarted'), 'echo restarted');
  });

  test('at its limit new flows are refused and counted, answers stay right, and open connections go on', async () => {
    open({ flows: SMALLEST, flowsLimit: SMALLEST });
    const held = [await hold(), await hold(), await hold()];
    const bytes = store().bytes;
    const seen = await ask(20_000, 20_000, 4);
    assert.equal(seen.wrong, 0, seen.firstWrong);
    assert.ok(seen.right > SMALLEST * 0.9 && seen.right <= SMALLEST, `${seen.right} answers`);
    const refused = engine!.counters()['drop-flows-full']!;
    assert.ok(refused >= 20_000 - SMALLEST, `${refused} refused`);
    const plan = [...engine!.portCounts()].find(([key]) => key.includes('udp'));
    assert.ok(plan![1].refused >= 20_000 - SMALLEST, 'the Service says so, too');
    assert.equal(store().limit, SMALLEST);
    assert.equal(store().bytes, bytes);
    for (const talker of held) assert.equal(await talker.ask('full'), 'echo full');
    // Handshakes that are complete are not in anybody's way: a new connection takes the place of an answered datagram.
    await new Promise((resolve) => setTimeout(resolve, 3500));
    held.push(await hold());
  });

  test('places are given back when flows are over', async () => {
    open({ flows: SMALLEST });
    const talker = await hold();
    const { used } = engine!.flows.count();
    assert.equal(used, 1);
    const [first] = engine!.flows.all();
    assert.equal(first!.flow.flags, FLOW.USED | FLOW.REPLIED | FLOW.CONFIRMED);
    process.kill(talker.pid, 'SIGKILL');
    await new Promise((resolve) => setTimeout(resolve, 200));
    const [{ flow: over }] = [...engine!.flows.all()] as [{ flow: Flow; bytes: Uint8Array }];
    assert.ok(over.flags & (FLOW.RESET | FLOW.FIN_CLIENT), `flags ${over.flags.toString(16)}`);
    // As if it had been so for hours.
    const { vip, vip_port: vipPort, client: address, client_port: clientPort } = over;
    const name = { vip: vip.slice(), vipPort, client: address.slice(), clientPort, udp: false };
    engine!.flows.cut(name);
    engine!.flows.put(flowStruct.encode({ ...over, seen: (over.seen - 3_000_000) >>> 0 }));
    assert.deepEqual(
      { freed: engine!.flows.count().freed, left: [...engine!.flows.all()].length },
      { freed: 1, left: 0 },
    );
  });

  test('what is remembered of sockets goes with them; a datagram socket that finds no room is refused', async () => {
    const opened = open({ flows: SMALLEST, sockets: 8, socketPlaces: 1, datagrams: 8 });
    const from = { netns: client.netns, cgroup: true };
    const count = (name: 'lb_sockets' | 'lb_datagrams') =>
      opened.status().stores.find((store) => store.name === name)!.entries;
    const talker = node.hold(from, VIP, 80);
    await talker.ask();
    assert.equal(count('lb_sockets'), 1);
    // More sockets than there is room for, one after the other. The datagrams' server takes its time.
    for (const kind of ['tcp', 'udp', 'udp-connected'] as const)
      for (const seen of await node.attempt(kind, from, VIP, 80, {
        times: 12,
        timeout: kind === 'tcp' ? 3 : 0.01,
      }))
        assert.equal(seen.result, kind === 'tcp' ? 'ok' : 'timeout');
    assert.deepEqual([count('lb_sockets'), count('lb_datagrams')], [1, 0]);
    for (let at = 0; at < 10; at++) node.holdUdp(from, VIP, 80, true);
    const deadline = Date.now() + 10_000;
    while (opened.counters()['drop-sockets-full']! < 2 && Date.now() < deadline)
      await new Promise((resolve) => setTimeout(resolve, 50));
    assert.equal(opened.counters()['drop-sockets-full'], 2);
    assert.equal(count('lb_sockets'), 9);
    assert.equal(await talker.ask('still'), 'echo still');
  });

  test('flows of the LRU map that was there before the table are carried over', async () => {
    const first = open({ flows: SMALLEST });
    const talker = await hold();
    const flows = [...first.flows.all()].map(({ bytes }) => bytes.slice());
    assert.equal(flows.length, 1);
    first.close();
    // The folder as the earlier version left it.
    const folder = join(node.bpffs, 'lb-v1');
    using before = loadObject(testObject('lb_flows_before'));
    const map = before.maps.get('lb_flows') as BpfMap;
    const { client: address, client_port: port } = flowStruct.decode(flows[0]!);
    const value = new Uint8Array(4 * flowStruct.size);
    // Bits that had another meaning then.
    const OTHER = 0x5600;
    const old = flowStruct.decode(flows[0]!);
    value.set(flowStruct.encode({ ...old, flags: (old.flags & 0x1ff) | OTHER }), flowStruct.size);
    map.set(encodeEndpoint(readAddress(address), port, 6), value);
    for (const name of ['lb_flows', 'lb_flow_table', 'lb_flow_use']) unpin(join(folder, name));
    map.pin(join(folder, 'lb_flows'));
    const second = open({ flows: SMALLEST });
    const [moved] = [...second.flows.all()];
    assert.equal(moved!.flow.flags, FLOW.USED | FLOW.REPLIED | FLOW.CONFIRMED);
    assert.equal(await talker.ask('moved'), 'echo moved');
    assert.equal(second.flows.count().used, 1);
  });
});
