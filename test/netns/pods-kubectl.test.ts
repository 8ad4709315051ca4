/** Pods of a real API server, run by the manager with a node's own credentials, and seen through real kubectls. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import test from 'node:test';
import { issueNodeKubeconfig, kubeconfigText, startApiServer } from '../../src/apiserver/index.ts';
import { ApiClient, EventRecorder, parseKubeconfig, Reflector, resources } from '../../src/client/index.ts';
import type { Pod } from '../../src/model/kubernetes.ts';
import { PodManager, podApi, readPodLog } from '../../src/pods/index.ts';
import { kubectls, runKubectl } from '../lib/kubectl.ts';
import { testNode } from '../lib/pods.ts';
import { eventually } from '../lib/until.ts';

test('kubectl creates, reads, waits for and deletes pods that really run', async (t) => {
  await using node = testNode();
  const dataDir = join(node.stateDir, 'api');
  const server = await startApiServer({
    dataDir,
    listen: [{ host: '127.0.0.1', port: 0 }],
    podLogs: async (pod, query, signal) => readPodLog(node.stateDir, pod, query, signal),
  });
  node.closers.push(() => server.close());
  const access = parseKubeconfig(
    kubeconfigText(await issueNodeKubeconfig(dataDir, 'n1', server.url)),
    'node',
  );
  const client = new ApiClient(access);
  node.closers.push(async () => client.close());
  const stop = new AbortController();
  node.closers.unshift(async () => stop.abort());
  const runner = await node.open();
  const source = new Reflector<Pod>({
    client,
    resource: resources.pods,
    fieldSelector: 'spec.nodeName=n1',
    signal: stop.signal,
  });
  source.start();
  const failures: string[] = [];
  const manager = new PodManager({
    nodeName: 'n1',
    runner,
    source,
    api: podApi(client),
    events: new EventRecorder({ client, component: 'portolan-agent', host: 'n1' }),
    configMap: (namespace, name) =>
      client.get(resources.configMaps, { namespace, name }).catch(() => undefined),
    hostIps: () => ['192.0.2.1'],
    stateDir: node.stateDir,
    backoff: { baseMs: 100, maxMs: 400 },
    log: (message, error) => failures.push(`${message} ${error}`),
  });
  node.closers.unshift(() => manager.close());
  await manager.start();

  for (const kubectl of kubectls())
    await t.test(`kubectl ${kubectl.version}`, async () => {
      const options = { kubeconfig: join(dataDir, 'admin.kubeconfig'), home: join(node.stateDir, 'home') };
      const ok = async (line: string, input?: string) => {
        const args = line.split(' ').map((word) => word.replaceAll('~', ' '));
        const { status, stdout, stderr } = await runKubectl(
          kubectl,
          { ...options, ...(input === undefined ? {} : { input }) },
          args,
        );
        assert.deepEqual({ line, status, stderr }, { line, status: 0, stderr: '' });
        return stdout.trimEnd();
      };
      const pod = (name: string, container: object, spec: object = {}) =>
        JSON.stringify({
          apiVersion: 'v1',
          kind: 'Pod',
          metadata: { name, labels: { app: 'web' } },
          spec: {
            nodeName: 'n1',
            containers: [{ name: 'main', image: 'nginx:1.25', ...container }],
            ...spec,
          },
        });
      await ok(
        'apply -f -',
        JSON.stringify({
          apiVersion: 'v1',
          kind: 'ConfigMap',
          metadata: { name: 'conf' },
          data: { key: 'value' },
        }),
      );
      await ok(
        'apply -f -',
        pod('web', {
          command: ['sh', '-c', 'echo from $KEY on $(hostname); echo oops >&2; exec sleep 600'],
          env: [{ name: 'KEY', valueFrom: { configMapKeyRef: { name: 'conf', key: 'key' } } }],
          readinessProbe: { exec: { command: ['true'] } },
        }),
      );
      await ok('wait --for=condition=Ready pod/web --timeout=20s');
      assert.match(await ok('get pods web --no-headers'), /^web +1\/1 +Running +0 /);
      assert.match(await ok('get pod web -o wide --no-headers'), /10\.99\.\d+\.\d+ +n1/);
      assert.deepEqual((await ok('logs web')).split('\n').sort(), ['from value on web', 'oops']);
      assert.equal(await ok('logs web --tail=0'), '');
      const described = await ok('describe pod web');
      for (const part of [
        /Status: +Running/,
        /Container ID: +portolan:\/\//,
        /Ready +True/,
        /ImageNotUsed/,
        /Started container main/,
      ])
        assert.match(described, part);

      await ok('apply -f -', pod('job', { command: ['sh', '-c', 'echo done'] }, { restartPolicy: 'Never' }));
      await eventually('completed', async () =>
        /^job +0\/1 +Completed +0 /.test(await ok('get pod job --no-headers')),
      );
      assert.equal(await ok('logs -f job'), 'done');
      await ok('apply -f -', pod('crash', { command: ['sh', '-c', 'echo run; exit 3'] }));
      await eventually('crash loop', async () =>
        /CrashLoopBackOff +[2-9]/.test(await ok('get pod crash --no-headers')),
      );
      assert.equal(await ok('logs crash --previous'), 'run');
      await ok('apply -f -', pod('imageonly', {}));
      await eventually('no command', async () =>
        /NoCommand/.test(await ok('get pod imageonly --no-headers')),
      );

      for (const [line, said] of [
        ['logs imageonly', /BadRequest.* container "main" in pod "imageonly" is waiting to start: NoCommand/],
        ['logs web --previous', /BadRequest.* previous terminated container "main" in pod "web" not found/],
      ] as const) {
        const { status, stderr } = await runKubectl(kubectl, options, line.split(' '));
        assert.deepEqual([status, said.test(stderr)], [1, true], stderr);
      }
      const raw = '/api/v1/namespaces/default/pods/web/log?tailLines=some';
      assert.match(
        (await runKubectl(kubectl, options, ['get', '--raw', raw])).stderr,
        /"some" is not a whole number/,
      );

      await ok('delete pod web job imageonly --wait');
      await ok('delete pod crash --grace-period=1');
      assert.equal(await ok('get pods -o name'), '');
      await eventually('node empty', () => runner.sandboxes().length === 0);
      assert.deepEqual(failures, []);
    });
  await manager.close();
  stop.abort();
  assert.deepEqual(await node.leftovers(runner), []);
});
