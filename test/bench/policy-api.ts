/**
 * From a write of a NetworkPolicy to the API until the kernel has its rules: real API server, the agent's policy as a
 * process of its own, and the kernel's notification as the end.
 */
import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { monitorNft } from '../../src/kernel/nft/index.ts';
import { BenchCluster, cpuMs, memoryMiB } from './cluster.ts';
import { atMost, type Figure, median, quantile } from './figure.ts';
import { LOCAL, NAMESPACES, namespaceObject, podObject, policyObject } from './policy-world.ts';

const PODS = 5000;
const POLICIES = 1000;
const policiesPath = (namespace: string) =>
  `/apis/networking.k8s.io/v1/namespaces/${namespace}/networkpolicies`;

export async function benchPolicyApi(rounds: number): Promise<Figure[]> {
  const cluster = new BenchCluster();
  let agent: ReturnType<typeof spawn> | undefined;
  let monitor: { close(): void } | undefined;
  try {
    await cluster.start();
    for (let at = 0; at < NAMESPACES; at++) await cluster.post('/api/v1/namespaces', namespaceObject(at));
    // Pods of nodes that do not exist are collected.
    for (let n = 1; n < PODS / LOCAL; n++)
      await cluster.post('/api/v1/nodes', { metadata: { name: `n${n}` } });
    const uids: string[] = [];
    await cluster.inParallel(0, PODS, async (at) => {
      const { status, ...pod } = podObject(at);
      const path = `/api/v1/namespaces/${pod.metadata.namespace}/pods`;
      const made = await cluster.post(path, pod);
      uids[at] = (made['metadata'] as { uid: string }).uid;
      await cluster.request('PATCH', `${path}/${pod.metadata.name}/status`, { status });
    });
    await cluster.inParallel(0, POLICIES, (at) =>
      cluster.post(policiesPath(`ns${at % NAMESPACES}`), policyObject(at)),
    );
    const uidFile = join(cluster.folder, 'uids.json');
    writeFileSync(uidFile, JSON.stringify(uids.slice(0, LOCAL)));
    const began = performance.now();
    agent = spawn(
      process.execPath,
      [
        join(import.meta.dirname, 'policy-agent.ts'),
        join(cluster.folder, 'node.kubeconfig'),
        String(LOCAL),
        uidFile,
      ],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    await new Promise((resolve, reject) => {
      agent!.stdout!.once('data', resolve);
      agent!.once('exit', (code) => reject(new Error(`the agent ended with ${code}`)));
    });
    const readyMs = performance.now() - began;
    let seen: (chain: string) => void = () => {};
    monitor = monitorNft({
      onEvent: ({ subject, deleted, family, name }) => {
        if (subject === 'rule' && !deleted && family === 'ip6' && name) seen(name);
      },
      onResync: () => {},
    });
    const label = `${PODS.toLocaleString('en')} pods, ${POLICIES.toLocaleString('en')} policies`;
    const changed: number[] = [];
    const cpu = () => ({ agent: cpuMs(agent!.pid!), server: cpuMs(cluster.serverPid) });
    await sleep(2500);
    const before = cpu();
    const relabelled: number[] = [];
    for (let round = -3; round < rounds; round++) {
      const at = (round + 3) % 5;
      const chain = `policy_in/ns${at}/np${at}`;
      const shown = new Promise<number>((resolve) => {
        seen = (name) => name === chain && resolve(performance.now());
      });
      const start = performance.now();
      const { spec } = policyObject(at, round + 10);
      await cluster.request('PATCH', `${policiesPath(`ns${at}`)}/np${at}`, { spec });
      const ms = (await shown) - start;
      if (round >= 0) changed.push(ms);
      await sleep(20);
    }
    const after = cpu();
    monitor.close();
    let told: () => void = () => {};
    monitor = monitorNft({
      onEvent: ({ subject, family }) => {
        if (subject === 'element' && family === 'ip6') told();
      },
      onResync: () => {},
    });
    const watched = policyObject(1).spec!;
    await cluster.request('PATCH', `${policiesPath('ns1')}/np1`, {
      spec: { ...watched, ingress: [{ from: [{ podSelector: { matchLabels: { app: 'guest' } } }] }] },
    });
    await sleep(200);
    for (let round = -3; round < rounds; round++) {
      const shown = new Promise<number>((resolve) => {
        told = () => resolve(performance.now());
      });
      const start = performance.now();
      await cluster.request('PATCH', '/api/v1/namespaces/ns1/pods/p301', {
        metadata: { labels: { app: round % 2 ? 'guest' : 'nobody' } },
      });
      const ms = (await shown) - start;
      if (round >= 0) relabelled.push(ms);
      await sleep(20);
    }
    const memory = memoryMiB(agent.pid!);
    const p50 = median(changed);
    const label50 = median(relabelled);
    return [
      {
        name: `NetworkPolicy write to kernel; ${label}, p50`,
        value: p50,
        unit: 'ms',
        budget: atMost(p50, 10, 'ms'),
      },
      { name: `NetworkPolicy write to kernel; ${label}, p99`, value: quantile(changed, 0.99), unit: 'ms' },
      ...(['agent', 'server'] as const).map(
        (who): Figure => ({
          name: `CPU of the ${who === 'agent' ? 'agent' : 'API server'} for one; ${label}`,
          value: (after[who] - before[who]) / (rounds + 3),
          unit: 'ms',
        }),
      ),
      {
        name: `label of a pod to kernel; ${label}, p50`,
        value: label50,
        unit: 'ms',
        budget: atMost(label50, 10, 'ms'),
      },
      { name: `label of a pod to kernel; ${label}, p99`, value: quantile(relabelled, 0.99), unit: 'ms' },
      { name: `agent's policy started to in force; ${label}`, value: readyMs, unit: 'ms' },
      { name: `agent's policy alone, RSS; ${label}`, value: memory.now, unit: 'MiB' },
      { name: `agent's policy alone, RSS, highest; ${label}`, value: memory.peak, unit: 'MiB' },
    ];
  } finally {
    monitor?.close();
    if (agent) {
      agent.removeAllListeners('exit');
      agent.kill('SIGKILL');
    }
    await cluster.close();
  }
}
