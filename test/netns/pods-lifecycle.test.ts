import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { emptyNode, MemoryPods, startManager } from '../lib/pod-manager.ts';
import { logLines, testNode } from '../lib/pods.ts';
import { eventually } from '../lib/until.ts';

const sh = (script: string) => ['sh', '-c', script];
const PATH = { name: 'PATH', value: process.env['PATH']! };

test('hooks run after the start and before the stop, and a failing one has its effect', async () => {
  await using node = testNode();
  const runner = await node.open();
  const pods = new MemoryPods();
  const manager = await startManager(node, runner, pods);
  const volumes = [{ name: 'h', hostPath: { path: node.stateDir } }];
  const volumeMounts = [{ name: 'h', mountPath: '/host-pt' }];
  const good = pods.create('good', {
    volumes,
    containers: [
      {
        name: 'c',
        image: 'x',
        command: ['sleep', '60'],
        volumeMounts,
        lifecycle: {
          postStart: { exec: { command: sh('echo started >> /host-pt/hooks') } },
          preStop: { exec: { command: sh('echo stopping >> /host-pt/hooks') } },
        },
      },
    ],
  });
  const bad = pods.create('bad', {
    containers: [
      {
        name: 'c',
        image: 'x',
        command: ['sleep', '60'],
        lifecycle: { postStart: { exec: { command: sh('echo no luck; exit 1') } } },
      },
    ],
  });
  const slow = pods.create('slow', {
    terminationGracePeriodSeconds: 60,
    containers: [
      { name: 'c', image: 'x', command: ['sleep', '60'], lifecycle: { preStop: { sleep: { seconds: 50 } } } },
    ],
  });
  await eventually(
    'ready',
    () => pods.condition(good, 'Ready') === 'True' && pods.condition(slow, 'Ready') === 'True',
  );
  await eventually('restarted', () => (pods.status(bad)?.containerStatuses?.[0]?.restartCount ?? 0) > 0);
  assert.ok(
    pods.events.some((event) => event.reason === 'FailedPostStartHook' && /no luck/.test(event.message)),
  );
  pods.delete(good);
  pods.delete(slow);
  await eventually('good is gone', () => !pods.items.has(good));
  assert.equal(readFileSync(join(node.stateDir, 'hooks'), 'utf8'), 'started\nstopping\n');
  assert.ok(pods.items.has(slow), 'its hook sleeps');
  pods.delete(slow, 0);
  await eventually('slow is gone', () => !pods.items.has(slow), 3_000);
  await emptyNode(pods, runner);
  await manager.close();
  assert.deepEqual(await node.leftovers(runner), []);
});

test('a changed ConfigMap reaches the files of a running pod, never half of it', async () => {
  await using node = testNode();
  const runner = await node.open();
  const pods = new MemoryPods();
  const set = (data: Record<string, string>) =>
    pods.configMaps.set('default/conf', {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'conf' },
      data,
    });
  set({ a: '1\n', b: '1\n' });
  const manager = await startManager(node, runner, pods, { resyncMs: 50 });
  const key = pods.create('reader', {
    volumes: [{ name: 'c', configMap: { name: 'conf' } }],
    containers: [
      {
        name: 'c',
        image: 'x',
        // ..data is read once, so both files are of one version.
        command: sh(
          'while :; do d=$(readlink /conf-pt/..data); echo $(cat /conf-pt/$d/a /conf-pt/$d/b) $(ls /conf-pt); sleep 0.01; done',
        ),
        volumeMounts: [{ name: 'c', mountPath: '/conf-pt' }],
      },
    ],
  });
  await eventually('ready', () => pods.condition(key, 'Ready') === 'True');
  const log = manager.findContainer('default', 'reader')!.logPath;
  await eventually('first', () => logLines(log).includes('1 1 a b'));
  set({ a: '2\n', b: '2\n', c: '3' });
  await eventually('second', () => logLines(log).at(-1) === '2 2 a b c');
  assert.ok(!logLines(log).some((line) => /^(1 2|2 1)/.test(line)));
  await emptyNode(pods, runner);
  await manager.close();
  assert.deepEqual(await node.leftovers(runner), []);
});

test('sidecars run beside, deadlines end a pod, and a failed init container of a Never pod fails it', async () => {
  await using node = testNode();
  const runner = await node.open();
  const pods = new MemoryPods();
  const manager = await startManager(node, runner, pods);
  const beside = pods.create('beside', {
    restartPolicy: 'Never',
    initContainers: [{ name: 'side', image: 'x', restartPolicy: 'Always', command: ['sleep', '60'] }],
    containers: [{ name: 'c', image: 'x', command: sh('sleep 0.2') }],
  });
  const overdue = pods.create('overdue', {
    activeDeadlineSeconds: 1,
    terminationGracePeriodSeconds: 1,
    containers: [{ name: 'c', image: 'x', command: ['sleep', '60'] }],
  });
  const failed = pods.create('failed', {
    restartPolicy: 'Never',
    initContainers: [{ name: 'i', image: 'x', command: ['false'] }],
    containers: [{ name: 'c', image: 'x', command: ['true'] }],
  });
  await eventually('sidecar pod is done', () => pods.status(beside)?.phase === 'Succeeded');
  await eventually('init failed', () => pods.status(failed)?.phase === 'Failed');
  assert.equal(pods.status(failed)!.initContainerStatuses![0]!.state!.terminated!.exitCode, 1);
  await eventually('deadline', () => pods.status(overdue)?.phase === 'Failed');
  assert.equal(pods.status(overdue)!.reason, 'DeadlineExceeded');
  await eventually('nothing runs', () => runner.containers().every((one) => one.state === 'exited'));
  assert.equal(node.network.attached.size, 0);
  await emptyNode(pods, runner);
  await manager.close();
  assert.deepEqual(await node.leftovers(runner), []);
});

test('a gRPC health check decides readiness', async () => {
  await using node = testNode();
  const runner = await node.open();
  const pods = new MemoryPods();
  const manager = await startManager(node, runner, pods);
  const port = 40_000 + (process.pid % 20_000);
  const server = `const h = require('http2').createServer();
    h.on('stream', (s, q) => { s.respond({ 'content-type': 'application/grpc' }, { waitForTrailers: true });
      let body = Buffer.alloc(0); s.on('data', (d) => { body = Buffer.concat([body, d]); });
      s.on('end', () => { const up = body.subarray(7).toString() === 'web';
        s.on('wantTrailers', () => s.sendTrailers({ 'grpc-status': '0' }));
        s.end(Buffer.from([0, 0, 0, 0, 2, 8, up ? 1 : 2])); }); });
    h.listen(${port}, '127.0.0.1');`;
  const pod = (name: string, service: string, more: object = {}) =>
    pods.create(name, {
      hostNetwork: true,
      containers: [
        {
          name: 'c',
          image: 'x',
          env: [PATH],
          readinessProbe: { grpc: { port, service }, periodSeconds: 1 },
          command: ['sleep', '60'],
          ...more,
        },
      ],
    });
  const serving = pod('serving', 'web', { command: ['node', '-e', server] });
  await eventually('ready', () => pods.condition(serving, 'Ready') === 'True');
  const other = pod('other', 'db');
  await eventually('told', () =>
    pods.events.some((event) => event.pod === other && /service unhealthy/.test(event.message)),
  );
  assert.equal(pods.condition(other, 'Ready'), 'False');
  await emptyNode(pods, runner);
  await manager.close();
  assert.deepEqual(await node.leftovers(runner), []);
});
