import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ApiClient, loadKubeconfig, resources } from '../../src/client/index.ts';
import { identify, signal } from '../../src/kernel/process/identity.ts';
import { respawn, startAgain, stopProcess } from '../../src/lab/restart.ts';
import { type Lab, podOf, serviceOf, startLab } from '../lib/lab.ts';
import { leaks, podProcesses } from '../lib/lab-leaks.ts';
import { connecting, lost, pinging, type Stream } from '../lib/lab-traffic.ts';
import { until } from '../lib/until.ts';

/** How often each kind of process is killed. */
const KILLS = Number(process.env['PORTOLAN_KILLS'] ?? 50);
/** No more kills are begun after this; the machine may be slow. */
const LONGEST_MS = 150_000;
const NODES = ['node1', 'node2', 'node3'] as const;
const VIP = '10.96.0.210';
const WEB = ['busybox', 'httpd', '-f', '-p', '8080', '-h', '/usr/share'];

let lab: Lab;
before(async () => {
  lab = await startLab('--no-demo', ...(process.env['PORTOLAN_LAB'] ?? '--no-direct-routing').split(' '));
  await lab.apply([
    podOf('client', ['sleep', '10000'], { nodeName: 'node1' }),
    podOf('server-2', WEB, { nodeName: 'node2', labels: { app: 'server' }, port: 8080 }),
    podOf('server-3', WEB, { nodeName: 'node3', labels: { app: 'server' }, port: 8080 }),
    serviceOf('server', { app: 'server' }, [{ port: 80, targetPort: 'main' }], { clusterIP: VIP }),
  ]);
  await lab.waitReady('app in (client,server)');
  await until(
    async () =>
      (await lab.ask<string[]>('node1', 'service', 'maps')).some((line) =>
        /\.210:80.*:8080, .*:8080/.test(line),
      ),
    { what: 'both backends' },
  );
});
after(() => lab?.down());

/** Everything runs again, whatever a test left dead. */
async function revive(): Promise<void> {
  for (const what of ['apiserver', 'controllers', ...NODES]) await startAgain(lab.name, what, 60);
}

/** Pings across nodes, and connects through the ClusterIP by socket hook of a pod, of a node, and by tc. */
async function traffic(): Promise<Stream[]> {
  const netns = await lab.podNetns('node1', 'client');
  const pod = { netns, cgroup: lab.cgroup('node1', 'pods') };
  const node = { netns: lab.netns('node1'), cgroup: lab.cgroup('node1') };
  const nobody = { netns, cgroup: lab.outside };
  const [address] = (await lab.podLinks('node2')).find(
    ({ pod: name }) => name === 'default/server-2',
  )!.addresses;
  const streams = [
    pinging(lab, 'ping from pod to pod', pod, address!),
    pinging(lab, 'ping from node to pod', node, address!, 10),
    connecting(lab, 'connects from a pod', pod, VIP, 80),
    connecting(lab, 'connects from a node', node, VIP, 80, 20),
    connecting(lab, 'connects by packets', nobody, VIP, 80, 20),
  ];
  await sleep(500);
  return streams;
}

async function nothingLost(streams: readonly Stream[]): Promise<void> {
  const losses = await Promise.all(streams.map((stream) => stream.stop()));
  console.log(losses.map(({ name, tried }) => `${name}: ${tried}`).join('; '));
  assert.deepEqual(lost(losses), []);
}

for (const [how, kill] of [
  ['stopped', false],
  ['killed -9', true],
] as const)
  test(`agents ${how} and started under traffic lose no packet and no connection`, async (t) => {
    t.after(revive);
    const streams = await traffic();
    try {
      for (const node of ['node1', 'node2', 'node3']) {
        await stopProcess(lab.name, node, kill);
        await sleep(300);
        await startAgain(lab.name, node);
        await sleep(200);
      }
      await stopProcess(lab.name, 'apiserver', kill);
      await sleep(300);
      await startAgain(lab.name, 'apiserver');
    } finally {
      await nothingLost(streams);
    }
  });

test('an agent that starts while the API server is away keeps what is there, and catches up', async (t) => {
  t.after(revive);
  const streams = await traffic();
  try {
    await stopProcess(lab.name, 'apiserver', true);
    for (const node of ['node1', 'node2']) {
      await stopProcess(lab.name, node, true);
      await startAgain(lab.name, node);
    }
    // Longer than any first pass: nobody may take silence for "no peers and no Services".
    await sleep(3000);
    const routes = await lab.mustExec('node1', ['ip', 'route', 'show', 'proto', '250']);
    assert.equal(
      routes.split('\n').filter((line) => /via .* dev (flannel\.1|eth0)/.test(line)).length,
      2,
      routes,
    );
    const status = await lab.ask<{ api: { connected: boolean }; problems: { object: string }[] }>(
      'node1',
      'status',
    );
    assert.equal(status.api.connected, false);
    assert.ok(status.problems.some(({ object }) => object === 'API server'));
    await startAgain(lab.name, 'apiserver');
    await until(
      async () => (await lab.ask<{ problems: unknown[] }>('node1', 'status')).problems.length === 0,
      {
        what: 'no problem',
      },
    );
  } finally {
    await nothingLost(streams);
  }
});

test(`${KILLS} kills each of agents, API server and pod processes: state converges, nothing leaks, nothing acknowledged is lost`, async (t) => {
  t.after(revive);
  let seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
  console.log(`SEED=${seed}`);
  const random = () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return seed / 2 ** 32;
  };
  const pick = <T>(list: readonly T[]): T | undefined => list[Math.floor(random() * list.length)];
  const begun = performance.now();
  const goingOn = () => performance.now() - begun < LONGEST_MS;
  const counts = { agents: 0, apiserver: 0, pods: 0, acknowledged: 0, refused: 0, created: 0, deleted: 0 };
  const streams = await traffic();
  const client = new ApiClient(loadKubeconfig(lab.kubeconfig));
  t.after(() => client.close());
  let over = false;

  const killAgents = async () => {
    while (counts.agents < KILLS && goingOn()) {
      const node = pick(NODES)!;
      await stopProcess(lab.name, node, true);
      counts.agents++;
      await sleep(random() * 200);
      respawn(lab.name, node);
      if (random() < 0.2) {
        await stopProcess(lab.name, 'controllers', true);
        respawn(lab.name, 'controllers');
      }
      // Sometimes it dies before it has looked around, sometimes in full work.
      await sleep(random() * 2000);
    }
  };
  const killServer = async () => {
    while (counts.apiserver < KILLS && goingOn()) {
      await stopProcess(lab.name, 'apiserver', true);
      counts.apiserver++;
      await sleep(random() * 100);
      respawn(lab.name, 'apiserver');
      await sleep(random() * 1800);
    }
  };

  // Pods that come and go; each of their processes may die once.
  let next = 0;
  const victims = new Map<string, { killed: boolean }>();
  const attempt = async (work: () => Promise<unknown>): Promise<boolean> => {
    try {
      await work();
      return true;
    } catch {
      return false;
    }
  };
  const createVictim = async () => {
    const name = `victim-${next++}`;
    const pod = podOf(name, WEB, { labels: { app: 'victim' }, port: 8080 });
    const object = { ...pod, metadata: { ...pod.metadata, namespace: 'default' } };
    // Without an answer it may be there all the same, and is then nobody's victim.
    if (!(await attempt(() => client.create(resources.pods, object as never, { retryForMs: 0 })))) return;
    victims.set(name, { killed: false });
    counts.created++;
  };
  const killPods = async () => {
    while (counts.pods < KILLS && goingOn()) {
      while (victims.size < 9 && goingOn()) {
        await createVictim();
        await sleep(30);
      }
      await sleep(random() * 1500);
      const processes = NODES.flatMap((node) => podProcesses(lab, node)).filter(
        ({ pod }) => victims.get(pod)?.killed === false,
      );
      const target = pick(processes);
      const identity = target && identify(target.pid);
      if (target && identity && signal(identity, 'SIGKILL')) {
        victims.get(target.pod)!.killed = true;
        counts.pods++;
      }
      const old = pick([...victims].filter(([, { killed }]) => killed));
      if (!old || random() < 0.4) continue;
      const [name] = old;
      const gone = await attempt(() =>
        client.delete(resources.pods, { namespace: 'default', name }, { retryForMs: 0 }),
      );
      if (!gone) continue;
      victims.delete(name);
      counts.deleted++;
    }
  };

  // One writer: what was acknowledged must be there, and revisions only go up.
  const acknowledged = new Map<string, number>();
  let lastRevision = 0;
  const write = async () => {
    for (let value = 1; !over; value++) {
      const name = `written-${value % 40}`;
      const answer = acknowledged.has(name)
        ? client.patch(
            resources.configMaps,
            { namespace: 'default', name },
            { data: { value: String(value) } },
            { retryForMs: 0 },
          )
        : client.create(
            resources.configMaps,
            {
              apiVersion: 'v1',
              kind: 'ConfigMap',
              metadata: { namespace: 'default', name },
              data: { value: String(value) },
            } as never,
            { retryForMs: 0 },
          );
      try {
        const object = (await answer) as { metadata: { resourceVersion?: string } };
        const revision = Number(object.metadata.resourceVersion);
        assert.ok(revision > lastRevision, `revision ${revision} after ${lastRevision}`);
        lastRevision = revision;
        acknowledged.set(name, value);
        counts.acknowledged++;
      } catch (error) {
        if (error instanceof assert.AssertionError) throw error;
        counts.refused++;
        // An unanswered create may have been kept: look, so that the next one is a patch.
        if (/exists/i.test((error as Error).message)) acknowledged.set(name, 0);
      }
      await sleep(20);
    }
  };

  const writing = write();
  await Promise.all([killAgents(), killServer(), killPods()]);
  over = true;
  await startAgain(lab.name, 'apiserver');
  await writing;
  for (const node of NODES) await startAgain(lab.name, node);
  console.log(`${JSON.stringify(counts)} in ${((performance.now() - begun) / 1000).toFixed(0)} s`);
  await nothingLost(streams);

  const maps = await lab.get<{ items: { metadata: { name: string }; data: { value: string } }[] }>(
    'configmaps',
  );
  const kept = new Map(maps.items.map(({ metadata, data }) => [metadata.name, Number(data?.['value'])]));
  for (const [name, value] of acknowledged)
    assert.ok(kept.get(name)! >= value, `${name}: ${kept.get(name)}, acknowledged ${value}`);

  const converged = performance.now();
  let state = '';
  await until(
    async () => {
      const { items } = await lab.get<{
        items: {
          metadata: { name: string };
          status: {
            phase: string;
            conditions?: { type: string; status: string }[];
            containerStatuses?: { state: object }[];
          };
        }[];
      }>('pods');
      const unready = items.filter(
        ({ status }) => !status.conditions?.some(({ type, status: is }) => type === 'Ready' && is === 'True'),
      );
      state = `${items.length} pods, not Ready: ${JSON.stringify(unready.map(({ metadata, status }) => [metadata.name, status.phase, status.containerStatuses?.map((one) => one.state)]))}`;
      return unready.length === 0;
    },
    { seconds: 60, everyMs: 300, what: () => state },
  );
  await until(
    async () => {
      state = '';
      for (const node of NODES) {
        const plan = await lab.ask<{ changes: string[] }>(node, 'overlay', 'plan');
        const diff = await lab.ask<{ missing: string[]; unwanted: string[] }>(node, 'service', 'diff');
        const { problems } = await lab.ask<{ problems: unknown[] }>(node, 'status');
        const differs = [
          ...plan.changes,
          ...diff.missing,
          ...diff.unwanted,
          ...problems.map((one) => JSON.stringify(one)),
        ];
        if (differs.length > 0) state += `${node}: ${differs.join('; ')}\n`;
      }
      const found = await leaks(lab, NODES);
      state += found.join('\n');
      return state === '';
    },
    { seconds: 60, everyMs: 500, what: () => `converged: ${state}` },
  );
  console.log(`converged after ${((performance.now() - converged) / 1000).toFixed(1)} s`);
  await lab.kubectl(['delete', 'pod', '--all', '--timeout=60s']);
  await until(
    async () => {
      state = (await leaks(lab, NODES)).join('\n');
      return state === '';
    },
    { seconds: 30, what: () => `nothing left of deleted pods: ${state}` },
  );
});
