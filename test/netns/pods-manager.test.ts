import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { emptyNode, MemoryPods, startManager } from '../lib/pod-manager.ts';
import { logLines, testNode } from '../lib/pods.ts';
import { eventually } from '../lib/until.ts';

const sh = (script: string) => ['sh', '-c', script];

test('a pod runs, is ready, and its status says so with all that kubectl shows', async () => {
  await using node = testNode();
  const runner = await node.open();
  const pods = new MemoryPods();
  const manager = await startManager(node, runner, pods);
  pods.configMaps.set('default/settings', {
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { name: 'settings', namespace: 'default' },
    data: { color: 'blue', 'app.conf': 'a=1\n' },
  });
  const startedMs = performance.now();
  const key = pods.create('web', {
    volumes: [
      { name: 'conf', configMap: { name: 'settings', items: [{ key: 'app.conf', path: 'app.conf' }] } },
      { name: 'data', emptyDir: {} },
      { name: 'mem', emptyDir: { medium: 'Memory' } },
    ],
    initContainers: [
      {
        name: 'first',
        image: 'busybox',
        command: sh('echo from-init > /data/f'),
        volumeMounts: [{ name: 'data', mountPath: '/data' }],
      },
    ],
    containers: [
      {
        name: 'main',
        image: 'nginx:1.25',
        command: sh('cat /etc/app-pt/app.conf /data/f; echo $COLOR $MY_IP $(GREETING) $0 $1; exec sleep 60'),
        args: ['$(GREETING)', '$$(GREETING)'],
        env: [
          { name: 'COLOR', valueFrom: { configMapKeyRef: { name: 'settings', key: 'color' } } },
          { name: 'MY_IP', valueFrom: { fieldRef: { fieldPath: 'status.podIP' } } },
          { name: 'GREETING', value: 'hello $(COLOR)' },
        ],
        volumeMounts: [
          { name: 'conf', mountPath: '/etc/app-pt' },
          { name: 'data', mountPath: '/data' },
          { name: 'mem', mountPath: '/mem-pt' },
        ],
      },
    ],
  });
  await eventually('ready', () => pods.condition(key, 'Ready') === 'True');
  const tookMs = performance.now() - startedMs;
  const status = pods.status(key)!;
  assert.equal(status.phase, 'Running');
  assert.equal(status.podIP, '10.99.0.1');
  assert.deepEqual(status.podIPs, [{ ip: '10.99.0.1' }]);
  assert.equal(status.hostIP, '127.0.0.1');
  assert.equal(status.qosClass, 'BestEffort');
  assert.deepEqual(
    status.conditions!.map((one) => [one.type, one.status]),
    [
      ['PodReadyToStartContainers', 'True'],
      ['Initialized', 'True'],
      ['Ready', 'True'],
      ['ContainersReady', 'True'],
      ['PodScheduled', 'True'],
    ],
  );
  const [main] = status.containerStatuses!;
  assert.match(main!.containerID!, /^portolan:\/\/[0-9a-f]{64}$/);
  assert.ok(main!.state!.running!.startedAt);
  assert.equal(status.initContainerStatuses![0]!.state!.terminated!.reason, 'Completed');
  const log = manager.findContainer('default', 'web', 'main')!.logPath;
  assert.deepEqual(await eventually('log', () => logLines(log).length >= 3 && logLines(log)), [
    'a=1',
    'from-init',
    'blue 10.99.0.1 hello blue hello blue $(GREETING)',
  ]);
  assert.deepEqual(pods.reasons(key), ['ImageNotUsed', 'Started', 'Started']);
  assert.ok(tookMs < 2_000, `${tookMs} ms`);

  pods.delete(key);
  await eventually('gone', () => !pods.items.has(key));
  assert.ok(pods.reasons(key).includes('Killing'));
  const last = pods.written.filter((one) => one.key === key).at(-1)!.status;
  assert.equal(last.containerStatuses![0]!.state!.terminated!.exitCode, 143);
  assert.equal(last.conditions!.find((one) => one.type === 'Ready')!.status, 'False');
  await manager.close();
  assert.deepEqual(await node.leftovers(runner), []);
});

test('restart policies: Always backs off, OnFailure until it succeeds, Never fails or completes', async () => {
  await using node = testNode();
  const runner = await node.open();
  const pods = new MemoryPods();
  const manager = await startManager(node, runner, pods);
  const one = (script: string) => [{ name: 'c', image: 'x', command: sh(script) }];
  const crash = pods.create('crash', { containers: one('echo no >/dev/termination-log; exit 3') });
  const complete = pods.create('complete', { restartPolicy: 'Never', containers: one('exit 0') });
  const fail = pods.create('fail', { restartPolicy: 'Never', containers: one('kill -9 $$$$') });
  const retry = pods.create('retry', {
    restartPolicy: 'OnFailure',
    volumes: [{ name: 'd', emptyDir: {} }],
    containers: [
      {
        name: 'c',
        image: 'x',
        command: sh('echo x >> /d/n; test $(wc -l </d/n) -ge 3'),
        volumeMounts: [{ name: 'd', mountPath: '/d' }],
      },
    ],
  });
  const noCommand = pods.create('nocommand', { containers: [{ name: 'c', image: 'nginx' }] });
  const missing = pods.create('missing', {
    containers: [
      { name: 'c', image: 'x', command: ['true'], envFrom: [{ configMapRef: { name: 'later' } }] },
    ],
  });
  await eventually('crash loop', () => {
    const c = pods.status(crash)?.containerStatuses?.[0];
    return c?.state?.waiting?.reason === 'CrashLoopBackOff' && c.restartCount >= 3;
  });
  const looping = pods.status(crash)!;
  assert.equal(looping.phase, 'Running');
  const terminated = looping.containerStatuses![0]!.lastState!.terminated!;
  assert.deepEqual([terminated.exitCode, terminated.reason, terminated.message], [3, 'Error', 'no\n']);
  assert.match(
    looping.containerStatuses![0]!.state!.waiting!.message!,
    /back-off \d+ms restarting failed container=c/,
  );
  assert.ok(pods.reasons(crash).includes('BackOff'));
  await eventually('completed', () => pods.status(complete)?.phase === 'Succeeded');
  await eventually('failed', () => pods.status(fail)?.phase === 'Failed');
  assert.deepEqual(
    [
      pods.status(fail)!.containerStatuses![0]!.state!.terminated!.exitCode,
      pods.status(fail)!.containerStatuses![0]!.state!.terminated!.signal,
    ],
    [137, 9],
  );
  await eventually('retried', () => pods.status(retry)?.phase === 'Succeeded');
  assert.equal(pods.status(retry)!.containerStatuses![0]!.restartCount, 2);
  await eventually(
    'explained',
    () => pods.status(noCommand)?.containerStatuses?.[0]?.state?.waiting?.reason === 'NoCommand',
  );
  assert.match(
    pods.status(noCommand)!.containerStatuses![0]!.state!.waiting!.message!,
    /spec.containers\[\].command/,
  );
  await eventually(
    'config error',
    () =>
      pods.status(missing)?.containerStatuses?.[0]?.state?.waiting?.reason === 'CreateContainerConfigError',
  );
  pods.configMaps.set('default/later', {
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { name: 'later' },
    data: {},
  });
  await eventually(
    'configmap found',
    () => (pods.status(missing)?.containerStatuses?.[0]?.restartCount ?? 0) > 0,
  );
  await eventually('addresses of finished pods are back', () => node.network.attached.size === 3);
  await emptyNode(pods, runner);
  await manager.close();
  assert.deepEqual(await node.leftovers(runner), []);
});

test('probes: exec, http and tcp decide readiness, liveness restarts, startup holds the others back', async () => {
  await using node = testNode();
  const runner = await node.open();
  const pods = new MemoryPods();
  const manager = await startManager(node, runner, pods);
  const server = (port: number) => [
    'node',
    '-e',
    `let ok=true; const h=require('http').createServer((q,r)=>{ if(q.url==='/break')ok=false; r.statusCode=ok?200:503; r.end() }); h.listen(${port},'127.0.0.1')`,
  ];
  const base = 20_000 + (process.pid % 20_000);
  const http = pods.create('http', {
    hostNetwork: true,
    containers: [
      {
        name: 'c',
        image: 'x',
        command: server(base),
        env: [{ name: 'PATH', value: process.env['PATH']! }],
        ports: [{ name: 'web', containerPort: base }],
        readinessProbe: { httpGet: { path: '/', port: 'web' }, periodSeconds: 1, failureThreshold: 1 },
      },
    ],
  });
  const tcp = pods.create('tcp', {
    hostNetwork: true,
    containers: [
      {
        name: 'c',
        image: 'x',
        command: server(base + 1),
        env: [{ name: 'PATH', value: process.env['PATH']! }],
        readinessProbe: { tcpSocket: { port: base + 1 } },
      },
    ],
  });
  const flag = join(node.stateDir, 'flag');
  writeFileSync(flag, 'ready');
  const exec = pods.create('exec', {
    volumes: [{ name: 'h', hostPath: { path: node.stateDir } }],
    containers: [
      {
        name: 'c',
        image: 'x',
        command: ['sleep', '60'],
        volumeMounts: [{ name: 'h', mountPath: '/flags-pt' }],
        startupProbe: { exec: { command: sh('test -s /flags-pt/flag') }, periodSeconds: 1 },
        readinessProbe: {
          exec: { command: sh('grep -q ready /flags-pt/flag') },
          periodSeconds: 1,
          failureThreshold: 1,
        },
        livenessProbe: {
          exec: { command: sh('! grep -q dead /flags-pt/flag') },
          periodSeconds: 1,
          failureThreshold: 1,
        },
      },
    ],
  });
  for (const key of [http, tcp, exec])
    await eventually(`${key} ready`, () => pods.condition(key, 'Ready') === 'True');

  const response = await fetch(`http://127.0.0.1:${base}/break`);
  assert.equal(response.status, 503);
  writeFileSync(flag, 'waiting');
  await eventually('http not ready', () => pods.condition(http, 'Ready') === 'False');
  await eventually('exec not ready', () => pods.condition(exec, 'Ready') === 'False');
  assert.ok(
    pods.events.some((event) => event.pod === http && /Readiness probe failed: .*503/.test(event.message)),
  );
  assert.equal(pods.status(exec)!.containerStatuses![0]!.restartCount, 0);
  writeFileSync(flag, 'dead');
  await eventually('restarted', () => pods.status(exec)!.containerStatuses![0]!.restartCount === 1);
  assert.ok(pods.events.some((event) => /failed liveness probe, will be restarted/.test(event.message)));
  writeFileSync(flag, 'ready');
  await eventually('ready again', () => pods.condition(exec, 'Ready') === 'True');
  await emptyNode(pods, runner);
  await manager.close();
  assert.deepEqual(await node.leftovers(runner), []);
});

test('a manager that starts again goes on where the last one stopped, without a flap of readiness', async () => {
  await using node = testNode();
  const runner = await node.open();
  const pods = new MemoryPods();
  const manager = await startManager(node, runner, pods);
  const key = pods.create('stay', {
    containers: [
      {
        name: 'c',
        image: 'x',
        command: ['sleep', '60'],
        readinessProbe: { exec: { command: ['true'] }, initialDelaySeconds: 1, periodSeconds: 1 },
      },
    ],
  });
  const orphan = pods.create('orphan', { containers: [{ name: 'c', image: 'x', command: ['sleep', '60'] }] });
  await eventually(
    'ready',
    () => pods.condition(key, 'Ready') === 'True' && pods.condition(orphan, 'Ready') === 'True',
  );
  const before = pods.status(key)!.containerStatuses![0]!.containerID;
  await manager.close();
  await runner.close();
  pods.forgetListeners();
  pods.items.delete(orphan);
  const count = pods.written.length;

  const nextRunner = await node.open();
  const next = await startManager(node, nextRunner, pods);
  await eventually('orphan removed', () => nextRunner.sandboxes().length === 1);
  await sleep(300);
  assert.equal(pods.status(key)!.containerStatuses![0]!.containerID, before);
  assert.equal(pods.condition(key, 'Ready'), 'True');
  assert.equal(pods.written.length, count, 'nothing changed, so nothing was written');
  process.kill(next.findContainer('default', 'stay')!.pid!, 'SIGKILL');
  await eventually('restarted', () => pods.status(key)!.containerStatuses![0]!.restartCount === 1);
  pods.failWrites = 3;
  process.kill(nextRunner.sandboxes()[0]!.pid!, 'SIGKILL');
  await eventually('new sandbox', () => {
    const status = pods.status(key)!;
    return status.containerStatuses![0]!.restartCount === 2 && pods.condition(key, 'Ready') === 'True';
  });
  assert.ok(pods.reasons(key).includes('SandboxChanged'));
  await emptyNode(pods, nextRunner);
  await next.close();
  assert.deepEqual(await node.leftovers(nextRunner), []);
});

test('a hundred pods start at once, take less than 1 GiB in all, and are gone again', async (t) => {
  await using node = testNode();
  const runner = await node.open();
  const pods = new MemoryPods();
  const manager = await startManager(node, runner, pods);
  const startedMs = performance.now();
  for (let i = 0; i < 100; i++)
    pods.create(`p${i}`, { containers: [{ name: 'c', image: 'x', command: ['sleep', '600'] }] });
  await eventually(
    'all ready',
    () => [...pods.items.keys()].every((key) => pods.condition(key, 'Ready') === 'True'),
    30_000,
  );
  const tookMs = performance.now() - startedMs;
  let kb = 0;
  let processes = 0;
  for (const sandbox of runner.sandboxes()) {
    const pids = [sandbox.pid!];
    for (const container of runner.containers(sandbox.id)) {
      pids.push(container.pid!);
      const [, , monitor] = readFileSync(
        join(node.stateDir, 'pods/containers', container.id, 'pid'),
        'utf8',
      ).split(' ');
      pids.push(Number(monitor));
    }
    for (const pid of pids) {
      kb += Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))![1]);
      processes++;
    }
  }
  t.diagnostic(
    `100 pods ready in ${tookMs.toFixed(0)} ms; ${processes} processes, ${(kb / 1024).toFixed(1)} MiB PSS`,
  );
  assert.equal(processes, 300);
  assert.ok(kb < 1 << 20, `${kb} kB`);
  await emptyNode(pods, runner);
  await manager.close();
  assert.deepEqual(await node.leftovers(runner), []);
});
