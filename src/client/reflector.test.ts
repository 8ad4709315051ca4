import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { MemoryApi } from '../../test/lib/memory-api.ts';
import { eventually } from '../../test/lib/until.ts';
import { isNetError } from '../errors/net-error.ts';
import type { Pod } from '../model/kubernetes.ts';
import { ApiClient } from './api-client.ts';
import { Reflector } from './reflector.ts';
import { resources } from './resources.ts';

const pods = '/api/v1/pods';
const pod = (name: string, ip = '') =>
  ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace: 'default' },
    spec: { containers: [] },
    status: { podIP: ip },
  }) as Pod;

async function setup(t: TestContext, pageSize = 500) {
  const api = await MemoryApi.start();
  const stop = new AbortController();
  const client = new ApiClient({ server: api.url });
  const reflector = new Reflector({
    client,
    resource: resources.pods,
    project: (object) => object.status?.podIP ?? '',
    signal: stop.signal,
    pageSize,
    backoff: { firstMs: 2, maxMs: 20 },
  });
  const told: string[][] = [];
  reflector.onChange((keys) => told.push([...keys].sort()));
  t.after(async () => {
    stop.abort();
    client.close();
    await api.stop();
  });
  return { api, reflector, told };
}

test('the copy follows list and watch, and one list is told as one change', async (t) => {
  const { api, reflector, told } = await setup(t, 2);
  for (const name of ['a', 'b', 'c', 'd', 'e']) api.put(pods, pod(name, `ip-${name}`));
  reflector.start();
  await reflector.synced;
  assert.equal(reflector.items.get('default/c'), 'ip-c');
  assert.deepEqual(told, [['default/a', 'default/b', 'default/c', 'default/d', 'default/e']]);
  assert.equal(api.requests.filter((line) => line.includes('limit=2')).length, 3);
  await eventually('a watch is open', () => api.watchers === 1);
  api.put(pods, pod('a', 'new'));
  api.remove(pods, 'default', 'b');
  await eventually(
    'both changes',
    () => reflector.items.get('default/a') === 'new' && reflector.items.size === 4,
  );
  assert.equal(reflector.connected, true);
});

test('a watch that breaks goes on from the last revision without a new list', async (t) => {
  const { api, reflector } = await setup(t);
  reflector.start();
  await reflector.synced;
  await eventually('a watch is open', () => api.watchers === 1);
  const lists = () => api.requests.filter((line) => line.includes('limit=')).length;
  api.bookmark();
  await eventually('the bookmark', () => reflector.resourceVersion === String(api.revision));
  api.cutWatches();
  api.put(pods, pod('late', 'x'));
  await eventually('the missed change', () => reflector.items.get('default/late') === 'x');
  assert.equal(lists(), 1);
});

test('after 410, in the answer or as an event, it lists again and tells only the difference', async (t) => {
  const { api, reflector, told } = await setup(t);
  api.put(pods, pod('same', '1'));
  api.put(pods, pod('gone', '1'));
  reflector.start();
  await eventually('a watch is open', () => api.watchers === 1);
  told.length = 0;
  api.cutWatches();
  api.remove(pods, 'default', 'gone');
  api.put(pods, pod('born', '2'));
  api.compacted = api.revision;
  await eventually('the relist', () => reflector.items.has('default/born'));
  assert.deepEqual(told, [['default/born', 'default/gone']]);
  await eventually('a watch is open again', () => api.watchers === 1);
  api.expireWatches();
  api.put(pods, pod('later', '3'));
  await eventually('the second relist', () => reflector.items.has('default/later'));
  assert.equal(reflector.items.size, 3);
});

test('errors and a server that is away take no item, and it resumes when the server is back', async (t) => {
  const { api, reflector } = await setup(t);
  api.put(pods, pod('a', '1'));
  reflector.start();
  await eventually('a watch is open', () => api.watchers === 1);
  await api.stop();
  await eventually('the error', () => isNetError(reflector.lastError, 'CLIENT_UNREACHABLE'));
  assert.equal(reflector.items.get('default/a'), '1');
  assert.equal(reflector.connected, false);
  await api.listen();
  api.failNext = { status: 500, times: 3 };
  api.put(pods, pod('a', '2'));
  await eventually('the change', () => reflector.items.get('default/a') === '2');
  assert.equal(reflector.lastError, undefined);
});

test('garbage in the watch ends the watch, not the copy', async (t) => {
  const { api, reflector } = await setup(t);
  api.put(pods, pod('a', '1'));
  reflector.start();
  await eventually('a watch is open', () => api.watchers === 1);
  api.writeRaw('this is no event\n');
  api.put(pods, pod('b', '2'));
  await eventually('the change', () => reflector.items.size === 2);
});

test('it waits for a server that is not there yet', async (t) => {
  const { api, reflector } = await setup(t);
  await api.stop();
  reflector.start();
  await eventually('the error', () => isNetError(reflector.lastError, 'CLIENT_UNREACHABLE'));
  assert.equal(reflector.hasSynced, false);
  await api.listen();
  await reflector.synced;
});

test('an object that the projection cannot take is left out, the others are there', async (t) => {
  const { api, reflector } = await setup(t);
  api.put(pods, { ...pod('bad'), status: null } as unknown as Pod);
  api.put(pods, pod('good', '1'));
  const strict = new Reflector({
    client: new ApiClient({ server: api.url }),
    resource: resources.pods,
    project: (object) => (object.status as { podIP: string }).podIP,
    signal: AbortSignal.timeout(500),
  });
  strict.start();
  reflector.start();
  await Promise.all([strict.synced, reflector.synced]);
  assert.deepEqual([...strict.items.keys()], ['default/good']);
});
