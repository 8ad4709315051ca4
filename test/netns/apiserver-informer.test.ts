/** Informers of @kubernetes/client-node, the client most Node programs use, against the API server. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  AppsV1Api,
  CoreV1Api,
  type Informer,
  KubeConfig,
  makeInformer,
  type V1ConfigMap,
  type V1Deployment,
} from '@kubernetes/client-node';
import { startApiServer } from '../../src/apiserver/index.ts';
import { until } from '../lib/until.ts';

test('an informer lists, follows, survives a restart of the server and a compacted history', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'portolan-informer-'));
  const start = (port: number) =>
    startApiServer({ dataDir: directory, listen: [{ host: '127.0.0.1', port }] });
  let server = await start(0);
  const config = new KubeConfig();
  config.loadFromFile(join(directory, 'admin.kubeconfig'));
  const api = config.makeApiClient(CoreV1Api);
  const body = (name: string, value: string): V1ConfigMap => ({
    metadata: { name, labels: { app: 'x' } },
    data: { value },
  });
  const namespace = 'default';
  await api.createNamespacedConfigMap({ namespace, body: body('before', '1') });

  const seen: string[] = [];
  const informer: Informer<V1ConfigMap> & { get(name: string, namespace?: string): V1ConfigMap | undefined } =
    makeInformer(
      config,
      '/api/v1/namespaces/default/configmaps',
      () => api.listNamespacedConfigMap({ namespace, labelSelector: 'app=x' }),
      'app=x',
    );
  for (const verb of ['add', 'update', 'delete'] as const)
    informer.on(verb, (object) => seen.push(`${verb} ${object.metadata?.name}=${object.data?.['value']}`));
  let failures = 0;
  let running = true;
  // It stops at an error and wants to be started again: its documented use.
  informer.on('error', () => {
    failures++;
    setTimeout(() => running && void informer.start(), 50);
  });
  try {
    await informer.start();
    await until(() => seen.includes('add before=1'));
    await api.createNamespacedConfigMap({ namespace, body: body('live', '1') });
    await api.replaceNamespacedConfigMap({ namespace, name: 'live', body: body('live', '2') });
    await api.deleteNamespacedConfigMap({ namespace, name: 'before' });
    await until(() => seen.includes('delete before=1'));
    assert.deepEqual(seen, ['add before=1', 'add live=1', 'update live=2', 'delete before=1']);

    const { port } = server.addresses[0]!;
    await server.close();
    server = await start(port);
    await until(() => failures > 0 || informer.get('live', namespace) !== undefined);
    await api.createNamespacedConfigMap({ namespace, body: body('after', '1') });
    await server.store.compact(server.store.revision);
    await until(() => seen.includes('add after=1'));
    assert.equal(informer.get('live', namespace)?.data?.['value'], '2');
    assert.equal(informer.get('before', namespace), undefined);
  } finally {
    running = false;
    await informer.stop();
    await server.close();
    rmSync(directory, { recursive: true, force: true });
  }
});

test('an informer of a kind that is never here starts empty and stays open', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'portolan-informer-'));
  const server = await startApiServer({ dataDir: directory, listen: [{ host: '127.0.0.1', port: 0 }] });
  const config = new KubeConfig();
  config.loadFromFile(join(directory, 'admin.kubeconfig'));
  const api = config.makeApiClient(AppsV1Api);
  const informer: Informer<V1Deployment> = makeInformer(config, '/apis/apps/v1/deployments', () =>
    api.listDeploymentForAllNamespaces(),
  );
  const heard: string[] = [];
  for (const verb of ['add', 'update', 'delete'] as const) informer.on(verb, () => heard.push(verb));
  informer.on('error', () => heard.push('error'));
  let connected = 0;
  informer.on('connect', () => {
    connected++;
  });
  try {
    await informer.start();
    await until(() => connected > 0);
    await assert.rejects(
      api.createNamespacedDeployment({
        namespace: 'default',
        body: { spec: { selector: {}, template: {} } },
      }),
      /Deployments are not served by this API server yet: create Pods instead/,
    );
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.deepEqual([heard, connected], [[], 1]);
  } finally {
    await informer.stop();
    await server.close();
    rmSync(directory, { recursive: true, force: true });
  }
});
