/** The engine's process is killed and started again and again while connections are made through a Service. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import test, { after, before, describe } from 'node:test';
import { isNetError } from '../../src/errors/index.ts';
import { writeNftParts } from '../../src/kernel/nft/index.ts';
import { masqueradeParts } from '../../src/service/engines/ebpf/index.ts';
import { Writer } from '../../src/service/engines/ebpf/writer.ts';
import { serviceFacts, sliceFacts } from '../../src/service/facts.ts';
import { aService, aSlice } from '../../src/service/testing.ts';
import type { AgentInput } from '../lib/service-agent.ts';
import { agentInput, ServiceAgentProcess } from '../lib/service-agent-process.ts';
import { openEngine, plannerOf } from '../lib/service-engine.ts';
import { type Seen, ServiceNode, type Talker, type TestPod } from '../lib/services.ts';

const VIP = '10.96.0.10';

describe('restart of the engine', () => {
  let node: ServiceNode;
  let client: TestPod;
  let packets: TestPod;
  let input: AgentInput;
  const agent = new ServiceAgentProcess();

  before(async () => {
    node = ServiceNode.create('r');
    client = node.addPod('client');
    // Another pod: one address with connections both by socket and by packet could use one port for both.
    packets = node.addPod('packets');
    input = await agentInput(node, { vip: VIP, others: 500 });
  });

  after(async () => {
    await agent.kill();
    await node?.[Symbol.asyncDispose]();
  });

  test('kill -9 and start under load break no connection and refuse none', async () => {
    await agent.start(input);
    const ways = [
      { netns: client.netns, cgroup: true },
      { netns: packets.netns, cgroup: false },
    ];
    const held: Talker[] = [];
    for (const from of ways)
      for (let at = 0; at < 4; at++) {
        const talker = node.hold(from, VIP, 80);
        await talker.ask();
        held.push(talker);
      }
    let going = true;
    const seen: Seen[] = [];
    const load = ways.map(async (from) => {
      while (going) seen.push(...(await node.attempt('tcp', from, VIP, 80, { times: 200, timeout: 3 })));
    });
    for (let round = 0; round < 5; round++) {
      // Somewhere among the changes that it makes all the time.
      await new Promise((resolve) => setTimeout(resolve, 100 + round * 37));
      await agent.kill();
      for (const talker of held) assert.equal(await talker.ask(`down ${round}`), `echo down ${round}`);
      const changes = await agent.start(input);
      assert.ok(changes < 10, `${changes} changes at start ${round}`);
      for (const talker of held) assert.equal(await talker.ask(`up ${round}`), `echo up ${round}`);
    }
    going = false;
    await Promise.all(load);
    assert.ok(seen.length > 400);
    const failed = seen.filter((s) => s.result !== 'ok');
    assert.deepEqual(failed, [], `${failed.length} of ${seen.length} failed`);
    await agent.kill();
  });

  test('while the kernel refuses writes, an agent that starts takes nothing away; then it goes on', async (t) => {
    const endpoints = [
      aSlice(
        input.endpoints.map((address) => `${address} node-a`),
        { name: 'web-1', service: 'web' },
      ),
    ];
    const service = serviceFacts(aService({ clusterIPs: [VIP] }, { name: 'web' }));
    const others = Array.from({ length: 300 }, (_, n) =>
      serviceFacts(aService({ clusterIPs: [`10.96.${8 + (n >> 8)}.${n & 255}`] }, { name: `after-${n}` })),
    );
    const facts = [service, ...others];
    const slices = endpoints.map(sliceFacts);
    const plans = () => plannerOf(facts, slices).planAll();
    const served = async () =>
      (await node.attempt('tcp', { netns: client.netns, cgroup: false }, VIP, 80, { timeout: 0.5 }))[0]!
        .result;
    {
      const first = openEngine(node);
      assert.equal(first.apply(plans()).failed.size, 0);
      first.close();
    }
    assert.equal(await served(), 'ok');
    const second = openEngine(node);
    // The first piece of a first sync, and with it whatever it staged.
    const flush = t.mock.method(Writer.prototype, 'flush');
    flush.mock.mockImplementationOnce(() => {
      throw new Error('no memory for a moment');
    }, 0);
    const report = second.apply(plans());
    assert.ok(report.failed.size > 0 && report.failed.size < facts.length, `${report.failed.size} failed`);
    for (const error of report.failed.values()) assert.ok(isNetError(error, 'SERVICE_PROGRAM_FAILED'));
    assert.equal(await served(), 'ok');
    assert.equal(second.apply(plans()).failed.size, 0);
    assert.equal(await served(), 'ok');
    assert.equal(second.diff(plans().upsert).missing.length, 0);
    second.close();
  });

  test('an engine that ends in order leaves everything at work, remove() takes everything away', async () => {
    const first = openEngine(node);
    assert.deepEqual(
      first.status().podLinks,
      [...input.podLinks].sort((a, b) => a - b),
    );
    first.close();
    const [seen] = await node.attempt('tcp', { netns: client.netns, cgroup: false }, VIP, 80);
    assert.equal(seen!.result, 'ok');

    // A pod's link that vanished while nobody looked is forgotten.
    node.ip('link del po6');
    const second = openEngine(node);
    assert.equal(second.status().podLinks.length, input.podLinks.length - 1);
    second.remove();
    assert.deepEqual(
      readdirSync(node.bpffs).filter((name) => !name.endsWith('.debug')),
      [],
    );
    const [after] = await node.attempt('tcp', { netns: client.netns, cgroup: true }, VIP, 80, {
      timeout: 0.3,
    });
    assert.notEqual(after!.result, 'ok');
  });
});

describe('restart of an engine that has XDP at the links of its node', () => {
  const NODE_ADDRESS = '192.168.77.1';
  let node: ServiceNode;
  let outside: TestPod;
  let remote: TestPod;
  const agent = new ServiceAgentProcess();

  before(async () => {
    node = ServiceNode.create('rx');
    outside = node.addHost('out', 20);
    remote = node.addHost('rem', 30);
    await node.serve(remote.name, remote.netns, remote.ip4, 8080);
    // Whole checksums, as a network card hands packets over.
    for (const { netns } of [outside, remote])
      node.exec(['ethtool', '-K', 'eth0', 'gro', 'on', 'tx', 'off'], netns);
    writeNftParts(masqueradeParts(), { netns: node.netns });
  });

  after(async () => {
    await agent.kill();
    await node?.[Symbol.asyncDispose]();
  });

  /** Programs that ip(8) sees at a link. */
  const xdpAt = (link: string) => {
    const shown = JSON.parse(node.exec(['ip', '-j', 'link', 'show', link])) as {
      xdp?: { mode: number; prog: { id: number } };
    }[];
    return shown[0]!.xdp;
  };

  test('kill -9 and start: clients outside lose no connection, and none is refused, by neither kind of backend', async () => {
    const links = [
      { ifindex: outside.ifindex, ip4: '172.20.7.1' },
      { ifindex: remote.ifindex, ip4: '172.30.7.1' },
    ];
    const input = await agentInput(node, {
      ...{ vip: VIP, others: 20 },
      outside: {
        ...{ nodeHook: 'native', links, nodeAddress: NODE_ADDRESS, nodePort: 30_001 },
        elsewhere: [remote.ip4],
      },
    });
    await agent.start(input);
    const from = { netns: outside.netns, cgroup: false };
    const held: Talker[] = [];
    const servers = new Set<string>();
    for (let at = 0; at < 8 || !(servers.has('rem') && servers.size > 1); at++) {
      assert.ok(at < 60, `only ${[...servers].join()} in 60 connections`);
      const talker = node.hold(from, NODE_ADDRESS, 30_001);
      servers.add((await talker.ask()).split(' ')[0]!);
      held.push(talker);
    }
    let going = true;
    const seen: Seen[] = [];
    const load = [0, 1].map(async () => {
      while (going)
        seen.push(...(await node.attempt('tcp', from, NODE_ADDRESS, 30_001, { times: 100, timeout: 5 })));
    });
    const programs = new Set<number>();
    for (let round = 0; round < 3; round++) {
      await agent.kill();
      // What serves without any process, and is replaced by what comes.
      const attached = xdpAt('up20');
      const NATIVE = 1;
      assert.equal(attached?.mode, NATIVE);
      programs.add(attached.prog.id);
      for (const talker of held) assert.equal(await talker.ask(`down ${round}`), `echo down ${round}`);
      await agent.start(input);
      for (const talker of held) assert.equal(await talker.ask(`up ${round}`), `echo up ${round}`);
      // Somewhere among the changes that it makes all the time.
      await new Promise((resolve) => setTimeout(resolve, round * 37));
    }
    going = false;
    await Promise.all(load);
    assert.equal(programs.size, 3, 'each agent brought its own program');
    const failed = seen.filter(({ result }) => result !== 'ok');
    assert.deepEqual(failed, [], `${failed.length} of ${seen.length} failed`);
    const reached = new Set(seen.map(({ server }) => server));
    assert.ok(reached.has('rem') && reached.has('one'), [...reached].join());
    await agent.kill();
  });
});
