import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { MemoryApi } from '../../test/lib/memory-api.ts';
import { isNetError } from '../errors/net-error.ts';
import type { ConfigMap } from '../model/kubernetes.ts';
import { ApiClient } from './api-client.ts';
import { EventRecorder } from './event-recorder.ts';
import { LeaderElector } from './leader-elector.ts';
import { keepNodeLease } from './node-lease.ts';
import { resources } from './resources.ts';
import { statusError } from './status.ts';

async function setup(t: TestContext) {
  const api = await MemoryApi.start();
  const client = new ApiClient({ server: api.url });
  t.after(async () => {
    client.close();
    await api.stop();
  });
  return { api, client };
}

const map = (name: string, data: Record<string, string> = {}): ConfigMap => ({
  apiVersion: 'v1',
  kind: 'ConfigMap',
  metadata: { name, namespace: 'default' },
  data,
});
const of = resources.configMaps;

test('verbs reach the right path, and a conflict is told as CLIENT_CONFLICT', async (t) => {
  const { client } = await setup(t);
  const made = await client.create(of, map('a', { x: '1' }));
  await assert.rejects(client.create(of, map('a')), (error) => isNetError(error, 'CLIENT_ALREADY_EXISTS'));
  const patched = await client.patch(of, made.metadata, { data: { y: '2' } });
  assert.deepEqual(patched.data, { x: '1', y: '2' });
  await assert.rejects(client.update(of, made), (error) => isNetError(error, 'CLIENT_CONFLICT'));
  assert.equal((await client.update(of, { ...patched, data: {} })).metadata.name, 'a');
  assert.equal((await client.listAll(of, { namespace: 'default' })).length, 1);
  await client.delete(of, made.metadata);
  await assert.rejects(client.get(of, made.metadata), (error) => isNetError(error, 'CLIENT_NOT_FOUND'));
});

test('overload is waited for, within the time the caller gives', async (t) => {
  const { api, client } = await setup(t);
  api.failNext = { status: 429, times: 2 };
  await client.create(of, map('a'));
  api.failNext = { status: 503, times: 1 };
  await assert.rejects(client.create(of, map('b'), { retryForMs: 0 }), (error) =>
    isNetError(error, 'CLIENT_THROTTLED'),
  );
});

test('nobody listening is CLIENT_UNREACHABLE, a cancelled call CLIENT_CLOSED', async (t) => {
  const { api, client } = await setup(t);
  const stop = new AbortController();
  stop.abort();
  await assert.rejects(client.list(of, { signal: stop.signal }), (error) =>
    isNetError(error, 'CLIENT_CLOSED'),
  );
  await api.stop();
  await assert.rejects(
    client.list(of, { retryForMs: 100 }),
    (error) => isNetError(error, 'CLIENT_UNREACHABLE') && error.message.includes(api.url),
  );
  await api.listen();
});

test('each status has its code and keeps the message of the API', () => {
  const cases: [number, string, string][] = [
    [400, 'BadRequest', 'CLIENT_BAD_REQUEST'],
    [401, 'Unauthorized', 'CLIENT_UNAUTHORIZED'],
    [403, 'Forbidden', 'CLIENT_FORBIDDEN'],
    [404, 'NotFound', 'CLIENT_NOT_FOUND'],
    [409, 'Conflict', 'CLIENT_CONFLICT'],
    [409, 'AlreadyExists', 'CLIENT_ALREADY_EXISTS'],
    [410, 'Expired', 'CLIENT_GONE'],
    [415, 'UnsupportedMediaType', 'CLIENT_BAD_REQUEST'],
    [422, 'Invalid', 'CLIENT_INVALID'],
    [429, 'TooManyRequests', 'CLIENT_THROTTLED'],
    [500, 'InternalError', 'CLIENT_SERVER_ERROR'],
    [503, 'ServiceUnavailable', 'CLIENT_THROTTLED'],
  ];
  for (const [status, reason, code] of cases) {
    const error = statusError('GET /x', status, JSON.stringify({ code: status, reason, message: 'why' }));
    assert.equal(error.code, code);
    assert.match(error.message, /why/);
  }
  assert.match(statusError('GET /x', 502, '<html>bad gateway').message, /<html>bad gateway/);
});

test('the same event again raises the count, and a flood is cut off', async (t) => {
  const { api, client } = await setup(t);
  const recorder = new EventRecorder({ client, component: 'test', burst: 5 });
  const about = { apiVersion: 'v1', kind: 'Pod', namespace: 'default', name: 'a', uid: '1' };
  for (let i = 0; i < 3; i++) recorder.record(about, { type: 'Warning', reason: 'Same', message: 'm' });
  for (let i = 0; i < 20; i++) recorder.record(about, { type: 'Normal', reason: 'Flood', message: `m${i}` });
  recorder.record({ ...about, name: 'b' }, { type: 'Normal', reason: 'Other', message: 'm' });
  await recorder.flush();
  const events = api.list('/api/v1/events') as unknown as { reason: string; count: number }[];
  assert.deepEqual(
    events.map((event) => `${event.reason} x${event.count}`),
    ['Same x3', 'Flood x1', 'Flood x1', 'Other x1'],
  );
});

test('an Event about an object that is known by name only has its uid, as kubectl describe looks for it', async (t) => {
  const { api, client } = await setup(t);
  const recorder = new EventRecorder({ client, component: 'test' });
  const made = await client.create(of, map('a'));
  const tell = (name: string) =>
    recorder.record(
      { apiVersion: 'v1', kind: 'ConfigMap', namespace: 'default', name },
      { type: 'Normal', reason: 'Told', message: 'm' },
    );
  tell('a');
  tell('gone');
  await recorder.flush();
  // Another object of the same name has Events of its own.
  await client.delete(of, made.metadata as { name: string; namespace: string });
  const again = await client.create(of, map('a'));
  tell('a');
  await recorder.flush();
  const events = api.list('/api/v1/events') as unknown as {
    involvedObject: { name: string; uid?: string };
  }[];
  assert.notEqual(made.metadata.uid, again.metadata.uid);
  assert.deepEqual(
    events.map(({ involvedObject: { name, uid } }) => [name, uid]),
    [
      ['a', made.metadata.uid],
      ['gone', undefined],
      ['a', again.metadata.uid],
    ],
  );
});

test('of two candidates one leads, and the other takes over when it ends', async (t) => {
  const { client } = await setup(t);
  const said: string[] = [];
  const stops = [new AbortController(), new AbortController()];
  const runs = ['a', 'b'].map((identity, i) =>
    new LeaderElector({
      client,
      namespace: 'kube-system',
      name: 'l',
      identity,
      signal: stops[i]!.signal,
      leaseDurationMs: 3_000,
      renewDeadlineMs: 2_000,
      retryPeriodMs: 10,
    }).run(async (signal) => {
      said.push(`${identity} leads`);
      await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
      said.push(`${identity} ends`);
    }),
  );
  while (said.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  const first = said[0]!.slice(0, 1);
  const firstIndex = first === 'a' ? 0 : 1;
  await new Promise((resolve) => setTimeout(resolve, 60));
  stops[firstIndex]!.abort();
  await runs[firstIndex];
  while (said.length < 3) await new Promise((resolve) => setTimeout(resolve, 5));
  stops[1 - firstIndex]!.abort();
  await Promise.all(runs);
  const second = first === 'a' ? 'b' : 'a';
  assert.deepEqual(said, [`${first} leads`, `${first} ends`, `${second} leads`, `${second} ends`]);
});

test('a leader whose lease was stolen stops and says so', async (t) => {
  const { client } = await setup(t);
  const named = { namespace: 'kube-system', name: 'l' };
  const elector = new LeaderElector({
    client,
    ...named,
    identity: 'a',
    signal: new AbortController().signal,
    leaseDurationMs: 3_000,
    renewDeadlineMs: 2_000,
    retryPeriodMs: 5,
  });
  await assert.rejects(
    elector.run(async (signal) => {
      const lease = await client.get(resources.leases, named);
      await client.patch(resources.leases, named, {
        spec: { ...lease.spec, holderIdentity: 'thief', leaseTransitions: 9 },
      });
      await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
    }),
    (error) => isNetError(error, 'CLIENT_LEASE_LOST') && error.message.includes('thief'),
  );
});

test('a node lease is created, renewed, and taken over after a conflict', async (t) => {
  const { api, client } = await setup(t);
  const stop = new AbortController();
  let renewals = 0;
  const done = keepNodeLease({
    client,
    nodeName: 'n1',
    durationSeconds: 0.02,
    signal: stop.signal,
    onRenew: () => {
      renewals++;
      if (renewals === 3)
        api.put('/apis/coordination.k8s.io/v1/leases', {
          apiVersion: 'coordination.k8s.io/v1',
          kind: 'Lease',
          metadata: { name: 'n1', namespace: 'kube-node-lease' },
        });
      if (renewals === 6) stop.abort();
    },
  });
  await done;
  const lease = await client.get(resources.leases, { namespace: 'kube-node-lease', name: 'n1' });
  assert.equal(lease.spec?.holderIdentity, 'n1');
  assert.match(lease.spec?.renewTime ?? '', /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
});
