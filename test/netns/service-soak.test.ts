/**
 * 500 sockets through Services of a lab, TCP and UDP, from pods, nodes and outside, while endpoints come and go and
 * agents are killed. Backends never die here, so that nothing may fail and no connection may break.
 *
 *   PORTOLAN_SOAK_SECONDS=600 node --test test/netns/service-soak.test.ts
 */
import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { askAgent } from '../../src/agent/socket.ts';
import type { AgentStatus } from '../../src/agent/status.ts';
import { ApiClient, loadKubeconfig, resources } from '../../src/client/index.ts';
import { respawn, stopProcess } from '../../src/lab/restart.ts';
import { type Lab, podOf, serviceOf, startLab } from '../lib/lab.ts';
import { compiled, firstLine, type Soaked } from '../lib/soak.ts';
import { until } from '../lib/until.ts';

const SECONDS = Number(process.env['PORTOLAN_SOAK_SECONDS'] ?? 10);
const NODES = ['node1', 'node2', 'node3'] as const;
const PORT = 9000;
const NODE_PORTS = { tcp: 30_900, udp: 30_901 };
const VIPS = ['10.96.0.220', 'fd00:10:96::220'];

let lab: Lab;
const children: ChildProcess[] = [];
const tool = compiled('soak');

before(async () => {
  lab = await startLab('--no-demo', '--dual-stack');
  const ports = (['tcp', 'udp'] as const).map((name, at) => ({
    ...{ name, port: 80 + at, targetPort: PORT, nodePort: NODE_PORTS[name], protocol: name.toUpperCase() },
  }));
  const dual = { type: 'NodePort', ipFamilyPolicy: 'RequireDualStack', clusterIPs: VIPS };
  await lab.apply([
    ...NODES.flatMap((nodeName) =>
      ['a', 'b'].map((letter) =>
        podOf(`server-${nodeName}-${letter}`, ['sleep', '10000'], {
          nodeName,
          labels: { app: 'server', serves: 'yes' },
        }),
      ),
    ),
    podOf('client', ['sleep', '10000'], { nodeName: 'node1' }),
    // Another pod: one address that uses a backend both by socket and by packets can use one port for both.
    podOf('packets', ['sleep', '10000'], { nodeName: 'node1' }),
    serviceOf('soak', { serves: 'yes' }, ports, dual),
  ]);
  await lab.waitReady('app in (client,packets,server)');
  for (const node of NODES)
    for (const letter of ['a', 'b']) {
      const netns = await lab.podNetns(node, `server-${node}-${letter}`);
      const child = lab.start(netns, lab.outside, [tool, 'serve', String(PORT)]);
      children.push(child);
      assert.equal(await firstLine(child), 'ready');
    }
  let seen: string[][] = [];
  const whole = (line: string) => /220\]?:8[01]\//.test(line) && line.split(`:${PORT}`).length === 7;
  await until(
    async () => {
      seen = await Promise.all(NODES.map((node) => lab.ask<string[]>(node, 'service', 'maps')));
      return seen.every((lines) => lines.filter(whole).length === 4);
    },
    { what: () => `all backends on all nodes: ${seen.flat().join('\n')}` },
  );
});

after(async () => {
  for (const child of children) child.kill('SIGKILL');
  await lab?.down();
});

test(`${SECONDS} s of churning endpoints and killed agents: 500 sockets lose nothing`, async () => {
  const pod = await lab.podNetns('node1', 'client');
  const inPod = { netns: pod, cgroup: lab.cgroup('node1', 'pods') };
  const onNode = { netns: lab.netns('node2'), cgroup: lab.cgroup('node2') };
  // Packets of a pod that no socket hook sees.
  const packets = { netns: await lab.podNetns('node1', 'packets'), cgroup: lab.outside };
  const outside = { netns: `/run/netns/${lab.name}-underlay`, cgroup: lab.outside };
  const [four, six] = VIPS as [string, string];
  const groups = [
    ['tcp', 'pod', inPod, four, 80, 70],
    ['tcp', 'pod', inPod, six, 80, 40],
    ['tcp', 'node', onNode, four, 80, 50],
    ['tcp', 'packets of a pod', packets, four, 80, 50],
    ['tcp', 'packets of a pod', packets, six, 80, 30],
    ['tcp', 'outside by nodePort', outside, '172.31.0.11', NODE_PORTS.tcp, 60],
    ['tcp', 'outside by nodePort', outside, 'fd00:172:31::c', NODE_PORTS.tcp, 40],
    ['udp', 'pod', inPod, four, 81, 40],
    ['udp-connected', 'pod', inPod, six, 81, 30],
    ['udp', 'packets of a pod', packets, four, 81, 30],
    ['udp-connected', 'node', onNode, four, 81, 20],
    ['udp', 'outside by nodePort', outside, '172.31.0.12', NODE_PORTS.udp, 20],
    ['udp', 'outside by nodePort', outside, 'fd00:172:31::b', NODE_PORTS.udp, 20],
  ] as const;
  assert.equal(
    groups.reduce((sum, group) => sum + group[5], 0),
    500,
  );
  const running = groups.map(([kind, from, where, address, port, count]) => {
    const words = [tool, 'load', SECONDS, kind, address, port, count].map(String);
    const child = lab.start(where.netns, where.cgroup, words);
    children.push(child);
    return { name: `${kind} from ${from} to ${address}`, result: firstLine(child) };
  });

  const client = new ApiClient(loadKubeconfig(lab.kubeconfig));
  const counts = { kills: 0, changes: 0 };
  const began = performance.now();
  const killedAtMs: number[] = [];
  let over = false;
  /** A server leaves the Service or comes back to it; two at least stay. */
  const churn = async () => {
    const serving = new Set(NODES.flatMap((node) => [`server-${node}-a`, `server-${node}-b`]));
    const all = [...serving];
    while (!over) {
      const name = all[Math.floor(Math.random() * all.length)]!;
      const leaves = serving.has(name);
      if (!leaves || serving.size > 2) {
        const patch = { metadata: { labels: { serves: leaves ? 'no' : 'yes' } } };
        await client.patch(resources.pods, { namespace: 'default', name }, patch);
        if (leaves) serving.delete(name);
        else serving.add(name);
        counts.changes++;
      }
      await sleep(100 + Math.random() * 200);
    }
  };
  /** Whether the agent has programmed Services since it was started. */
  const serves = async (node: string) => {
    try {
      const socket = join('/run', lab.name, node, 'agent.sock');
      return (await askAgent<AgentStatus>(socket, 'GET', '/status')).services.synced;
    } catch {
      return false;
    }
  };
  /** Kills since it served: an agent is killed while it starts, too, but one that never starts is a node that is lost. */
  const unserved = new Map<string, number>();
  const kill = async () => {
    for (let turn = 0; !over; turn++) {
      await sleep(1000 + Math.random() * 2000);
      const node = NODES[turn % NODES.length]!;
      const before = (await serves(node)) ? 0 : (unserved.get(node) ?? 0);
      unserved.set(node, before);
      if (before > 1) continue;
      unserved.set(node, before + 1);
      killedAtMs.push(Math.round(performance.now() - began));
      await stopProcess(lab.name, node, true);
      await sleep(Math.random() * 500);
      respawn(lab.name, node);
      counts.kills++;
    }
  };
  const work = [churn(), kill()];
  const results: [string, Soaked][] = [];
  try {
    for (const { name, result } of running) results.push([name, JSON.parse(await result) as Soaked]);
  } finally {
    over = true;
    await Promise.all(work);
    client.close();
  }
  const total = { opened: 0, echoed: 0, moved: 0, repeated: 0, slow: 0 };
  const failed: string[] = [];
  for (const [name, seen] of results) {
    for (const key of Object.keys(total) as (keyof typeof total)[]) total[key] += seen[key];
    console.log(`${name}: ${JSON.stringify(seen)}`);
    for (const at of seen.slowAtMs) {
      const near = killedAtMs.map((killed) => at - killed).filter((ms) => ms > 0 && ms < 6000);
      console.log(`  slow at ${at} ms, ${near.join(' and ') || 'more than 6000'} ms after a kill`);
    }
    for (const [what, times] of Object.entries(seen.failed)) failed.push(`${name}: ${what}, ${times} times`);
  }
  console.log(`${SECONDS} s: ${JSON.stringify({ ...total, ...counts })}`);
  assert.deepEqual(failed, []);
  assert.ok(total.echoed > SECONDS * 100 && counts.changes > SECONDS && counts.kills > SECONDS / 10);
});
