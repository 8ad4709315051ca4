/** A version with other structures takes over, and the earlier one again, while connections are made and held. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import test, { after, before, describe } from 'node:test';
import { bpftool } from '../lib/bpf.ts';
import { otherLayout } from '../lib/other-layout.ts';
import type { AgentInput } from '../lib/service-agent.ts';
import { agentInput, ServiceAgentProcess } from '../lib/service-agent-process.ts';
import { type Seen, ServiceNode, type Talker, type TestPod } from '../lib/services.ts';

const VIP = '10.96.0.10';

describe('a version with other structures', () => {
  let node: ServiceNode;
  let clients: { name: string; pod: TestPod; cgroup: boolean }[];
  let input: AgentInput;
  const agent = new ServiceAgentProcess();

  before(async () => {
    node = ServiceNode.create('u');
    clients = [
      { name: 'sockets', cgroup: true },
      { name: 'packets', cgroup: false },
    ].map(({ name, cgroup }) => ({ name, cgroup, pod: node.addPod(name) }));
    input = await agentInput(node, { vip: VIP, others: 100, affinity: true });
  });

  after(async () => {
    await agent.kill();
    await node?.[Symbol.asyncDispose]();
  });

  /** Of a map, or of the first one in it. */
  const valueSize = (map: string) => {
    const pin = `${node.bpffs}/lb-v1/${map}`;
    const show = (...words: string[]) =>
      bpftool('map', 'show', ...words) as { type: string; bytes_value: number };
    const found = show('pinned', pin);
    if (found.type !== 'array_of_maps') return found.bytes_value;
    const { value } = bpftool('map', 'lookup', 'pinned', pin, 'key', '0', '0', '0', '0') as {
      value: string[];
    };
    const id = value.reduceRight((sum, byte) => sum * 256 + Number(byte), 0);
    return show('id', String(id)).bytes_value;
  };

  test('takes over flows, affinities and numbers; no connection breaks and none is refused', async () => {
    using other = otherLayout();
    await agent.start(input);
    const from = ({ pod, cgroup }: (typeof clients)[number]) => ({ netns: pod.netns, cgroup });
    const held: Talker[] = [];
    const chosen: string[] = [];
    for (const client of clients) {
      for (let at = 0; at < 4; at++) {
        const talker = node.hold(from(client), VIP, 80);
        chosen.push((await talker.ask()).split(' ')[0]!);
        held.push(talker);
      }
    }
    let going = true;
    const seen: Seen[] = [];
    const load = clients.map(async (client) => {
      while (going)
        seen.push(...(await node.attempt('tcp', from(client), VIP, 80, { times: 200, timeout: 10 })));
    });
    const sizes = { lb_flows: 576, lb_sockets: 40, lb_socket_places: 64, lb_affinities: 16 };
    // Killed at moments of its start, the next one goes on where it was.
    const next = other.file('test/lib/service-agent.ts');
    await agent.kill();
    for (const ms of [300, 500]) {
      const child = spawn(process.execPath, [next, JSON.stringify(input)], { stdio: 'ignore' });
      const ended = new Promise((resolve) => child.once('exit', resolve));
      await new Promise((resolve) => setTimeout(resolve, ms));
      child.kill('SIGKILL');
      await ended;
      for (const talker of held) assert.equal(await talker.ask(`after ${ms}`), `echo after ${ms}`);
    }
    const versions = [
      { script: next, more: { lb_flows: 128, lb_sockets: 8, lb_socket_places: 8, lb_affinities: 8 } },
      {
        script: ServiceAgentProcess.script,
        more: { lb_flows: 0, lb_sockets: 0, lb_socket_places: 0, lb_affinities: 0 },
      },
    ];
    for (const [round, { script, more }] of versions.entries()) {
      await new Promise((resolve) => setTimeout(resolve, 300));
      if (round > 0) await agent.kill();
      const changes = await agent.start(input, script);
      assert.ok(changes < 10, `${changes} changes at start ${round}: numbers were not found again`);
      for (const map of ['lb_flows', 'lb_sockets', 'lb_socket_places', 'lb_affinities'] as const)
        assert.equal(valueSize(map), sizes[map] + more[map], map);
      const left = readdirSync(join(node.bpffs, 'lb-v1')).filter((name) => /_(next|beside)$/.test(name));
      assert.deepEqual(left, []);
      for (const talker of held) assert.equal(await talker.ask(`round ${round}`), `echo round ${round}`);
      for (const [at, client] of clients.entries()) {
        const [now] = await node.attempt('tcp', from(client), VIP, 80);
        assert.equal(now!.result, 'ok');
        // The third comes and goes, and with it who had it.
        if (chosen[at * 4] !== 'three')
          assert.equal(now!.server, chosen[at * 4], `${client.name}: affinity went on`);
      }
    }
    going = false;
    await Promise.all(load);
    const failed = seen.filter((s) => s.result !== 'ok');
    assert.deepEqual(failed, [], `${failed.length} of ${seen.length} failed`);
    assert.ok(seen.length > 300);
    await agent.kill();
  });
});
