/**
 * A node agent reduced to its pods, to be killed by tests: runs COUNT pods over an API in memory until it reads
 * "drop" on stdin, then deletes them and ends. Usage: pod-agent.ts JSON
 */
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { PodManager } from '../../src/pods/manager.ts';
import { ProcessRunner } from '../../src/pods/process/runner.ts';
import type { NetworkRequest, PodNetwork } from '../../src/pods/types.ts';
import { MemoryPods } from './pod-manager.ts';
import { eventually } from './until.ts';

export interface PodAgentConfig {
  stateDir: string;
  cgroupRoot: string;
  netnsPrefix: string;
  count: number;
}

/** Addresses as files, so that one that is never given back stays to be seen. */
function fileNetwork(folder: string): PodNetwork {
  mkdirSync(folder, { recursive: true });
  const path = (request: NetworkRequest) => join(folder, request.sandboxId);
  return {
    async add(request) {
      writeFileSync(path(request), '');
      return { ips: ['10.99.0.1'] };
    },
    async del(request) {
      if (existsSync(path(request))) rmSync(path(request));
    },
  };
}

const config = JSON.parse(process.argv[2]!) as PodAgentConfig;
const runner = await ProcessRunner.open({
  stateDir: config.stateDir,
  cgroupRoot: config.cgroupRoot,
  netnsPrefix: config.netnsPrefix,
  network: fileNetwork(join(config.stateDir, 'addresses')),
  log: (message, error) => console.error(message, error),
});
const pods = new MemoryPods();
for (let i = 0; i < config.count; i++) {
  const key = pods.create(`p${i}`, {
    restartPolicy: 'Always',
    volumes: [{ name: 'mem', emptyDir: { medium: 'Memory' } }],
    containers: [
      {
        name: 'c',
        image: 'x',
        // A child of its own, to see that nothing of a container outlives it.
        command: ['sh', '-c', 'sleep 3600 & while :; do echo tick; sleep 0.05; done'],
        volumeMounts: [{ name: 'mem', mountPath: '/mem-pt' }],
      },
    ],
  });
  // The same pod for each life of this process.
  pods.items.get(key)!.metadata.uid = `uid-${i}`;
}
const manager = new PodManager({
  nodeName: 'n1',
  runner,
  source: pods,
  api: pods,
  events: { record: () => {} },
  configMap: async () => undefined,
  hostIps: () => ['127.0.0.1'],
  stateDir: config.stateDir,
  backoff: { baseMs: 20, maxMs: 100 },
  log: (message, error) => console.error(message, error),
});
await manager.start();
process.stdout.write('started\n');
for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'ready?') {
    const all = () => [...pods.items.keys()].every((key) => pods.condition(key, 'Ready') === 'True');
    await eventually('all pods ready', all, 20_000);
    process.stdout.write('ready\n');
  }
  if (line === 'drop') {
    for (const key of [...pods.items.keys()]) pods.delete(key, 1);
    await eventually('all pods gone', () => pods.items.size === 0 && runner.sandboxes().length === 0, 20_000);
    break;
  }
}
await manager.close();
await runner.close();
process.exit(0);
