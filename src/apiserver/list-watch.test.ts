import assert from 'node:assert/strict';
import { test } from 'node:test';
import { until } from '../../test/lib/until.ts';
import { testApi } from './testing/api.ts';

const path = '/api/v1/namespaces/default/configmaps';
const configMap = (name: string, labels: Record<string, string> = {}) => ({
  metadata: { name, labels },
  data: { v: '1' },
});
const names = (body: { items: { metadata: { name: string } }[] }) =>
  body.items.map((item) => item.metadata.name).join(' ');
const shown = (events: { type: string; object: { metadata?: { name?: string }; code?: number } }[]) =>
  events.map((e) => `${e.type} ${e.object.metadata?.name ?? e.object.code ?? ''}`.trim());

test('pages of a list show one revision, whatever happens between them', async () => {
  await using api = await testApi();
  for (const name of ['a', 'b', 'c', 'd', 'e']) await api.call('POST', path, configMap(name));
  const first = await api.call('GET', `${path}?limit=2`);
  assert.equal(names(first.body), 'a b');
  assert.equal(first.body.metadata.remainingItemCount, 3);
  await api.call('DELETE', `${path}/c`);
  await api.call('POST', path, configMap('bb'));
  const second = await api.call('GET', `${path}?limit=2&continue=${first.body.metadata.continue}`);
  assert.equal(names(second.body), 'c d');
  assert.equal(second.body.metadata.resourceVersion, first.body.metadata.resourceVersion);
  const third = await api.call('GET', `${path}?limit=2&continue=${second.body.metadata.continue}`);
  assert.equal(names(third.body), 'e');
  assert.equal(third.body.metadata.continue, undefined);
});

test('a page of a compacted revision is Expired, with a token to go on from the newest state', async () => {
  await using api = await testApi();
  for (const name of ['a', 'b', 'c']) await api.call('POST', path, configMap(name));
  const first = await api.call('GET', `${path}?limit=1`);
  await api.call('DELETE', `${path}/b`);
  await api.store.compact(api.store.revision);
  const expired = await api.call('GET', `${path}?limit=1&continue=${first.body.metadata.continue}`);
  assert.deepEqual([expired.status, expired.body.reason], [410, 'Expired']);
  const inconsistent = await api.call('GET', `${path}?continue=${expired.body.metadata.continue}`);
  assert.equal(names(inconsistent.body), 'c');
  const old = await api.call('GET', `${path}?resourceVersion=3&resourceVersionMatch=Exact`);
  assert.deepEqual([old.status, old.body.reason], [410, 'Expired']);
});

test('resourceVersion and resourceVersionMatch choose the state', async () => {
  await using api = await testApi();
  const a = await api.call('POST', path, configMap('a'));
  const at = a.body.metadata.resourceVersion;
  await api.call('POST', path, configMap('b'));
  const list = async (query: string) => {
    const answer = await api.call('GET', `${path}?${query}`);
    return answer.status === 200 ? names(answer.body) : `${answer.status} ${answer.body.reason}`;
  };
  assert.equal(await list(`resourceVersion=${at}&resourceVersionMatch=Exact`), 'a');
  assert.equal(await list(`resourceVersion=${at}&resourceVersionMatch=NotOlderThan`), 'a b');
  assert.equal(await list('resourceVersion=0'), 'a b');
  assert.equal(await list('resourceVersion=999999'), '504 Timeout');
  assert.equal(await list('resourceVersion=abc'), '400 BadRequest');
  assert.equal(await list('resourceVersionMatch=Exact'), '422 Invalid');
  assert.equal(await list('resourceVersion=1&resourceVersionMatch=Newest'), '422 Invalid');
  assert.equal(await list('continue=nonsense'), '400 BadRequest');
});

test('selectors choose by labels and fields, in lists and in watches', async () => {
  await using api = await testApi();
  const watch = await api.watch(`${path}?watch=1&labelSelector=app%3Dx`);
  await api.call('POST', path, configMap('a', { app: 'x' }));
  await api.call('POST', path, configMap('b', { app: 'y' }));
  const patch = (name: string, app: string) =>
    api.call(
      'PATCH',
      `${path}/${name}`,
      { metadata: { labels: { app } } },
      { headers: { 'content-type': 'application/merge-patch+json' } },
    );
  await patch('b', 'x');
  await patch('a', 'z');
  await api.call('DELETE', `${path}/b`);
  assert.deepEqual(shown(watch.events), ['ADDED a', 'ADDED b', 'DELETED a', 'DELETED b']);
  const list = async (query: string) => names((await api.call('GET', `${path}?${query}`)).body);
  assert.equal(await list('labelSelector=app+in+(z,q)'), 'a');
  assert.equal(await list('labelSelector=!app'), '');
  assert.equal(await list('fieldSelector=metadata.name%3Da'), 'a');
  assert.equal(await list('fieldSelector=metadata.name!%3Da'), '');
  const unknown = await api.call('GET', `${path}?fieldSelector=data.v%3D1`);
  assert.equal(unknown.status, 400);
});

test('a watch from a revision replays what happened since; from a forgotten one it says 410', async () => {
  await using api = await testApi();
  const a = await api.call('POST', path, configMap('a'));
  await api.call('POST', path, configMap('b'));
  await api.call('DELETE', `${path}/a`);
  const from = a.body.metadata.resourceVersion;
  const watch = await api.watch(`${path}?watch=1&resourceVersion=${from}`);
  assert.deepEqual(shown(watch.events), ['ADDED b', 'DELETED a']);
  assert.equal(watch.events[1].object.metadata.resourceVersion, String(Number(from) + 2));
  await api.store.compact(api.store.revision);
  const late = await api.watch(`${path}?watch=1&resourceVersion=${from}`);
  assert.deepEqual(shown(late.events), ['ERROR 410']);
  assert.ok(late.ended());
  const future = await api.watch(`${path}?watch=1&resourceVersion=99999`);
  assert.deepEqual(shown(future.events), ['ERROR 410']);
});

test('a watch-list sends the state, a bookmark that ends it, and bookmarks later', async () => {
  await using api = await testApi();
  await api.call('POST', path, configMap('a'));
  const watch = await api.watch(
    `${path}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true`,
  );
  assert.deepEqual(shown(watch.events), ['ADDED a', 'BOOKMARK']);
  assert.equal(watch.events[1].object.metadata.annotations['k8s.io/initial-events-end'], 'true');
  await api.call('POST', '/api/v1/namespaces/default/services', {
    metadata: { name: 's' },
    spec: { ports: [{ port: 1 }] },
  });
  await until(() => watch.events.length > 2);
  assert.equal(watch.events[2].type, 'BOOKMARK');
  assert.equal(watch.events[2].object.metadata.resourceVersion, String(api.store.revision));
  watch.close();
  const refused = await api.watch(`${path}?watch=1&sendInitialEvents=true`);
  assert.equal(refused.events[0].reason, 'Invalid');
});

test('nothing follows the end of a watch, however long its client takes to read the rest', async () => {
  await using api = await testApi();
  const watch = await api.watch(`${path}?watch=1&allowWatchBookmarks=true&timeoutSeconds=1`);
  await until(watch.ended, { what: 'its time is over' });
  const told = watch.events.length;
  assert.equal(watch.events.at(-1)?.type, 'BOOKMARK');
  await api.call('POST', path, configMap('late'));
  // Several times the 20 ms between bookmarks here.
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.equal(watch.events.length, told);
});

test('tables and metadata come when a client prefers them, also in watches', async () => {
  await using api = await testApi();
  await api.call('POST', path, configMap('a'));
  api.advance(125_000);
  const headers = { accept: 'application/json;as=Table;v=v1;g=meta.k8s.io,application/json' };
  const { body } = await api.call('GET', path, undefined, { headers });
  assert.equal(body.kind, 'Table');
  assert.deepEqual(
    body.columnDefinitions.map((c: { name: string }) => c.name),
    ['Name', 'Data', 'Age'],
  );
  assert.deepEqual(body.rows[0].cells, ['a', 1, '2m5s']);
  assert.equal(body.rows[0].object.kind, 'PartialObjectMetadata');
  const watch = await api.watch(`${path}?watch=1`, { headers });
  await api.call('POST', path, configMap('b'));
  assert.equal(watch.events[0].object.columnDefinitions.length, 3);
  assert.equal(watch.events[1].object.columnDefinitions, null);
  const partial = await api.call('GET', path, undefined, {
    headers: { accept: 'application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io' },
  });
  assert.deepEqual([partial.body.kind, partial.body.items[0].data], ['PartialObjectMetadataList', undefined]);
  const binary = await api.call('GET', path, undefined, {
    headers: { accept: 'application/vnd.kubernetes.protobuf' },
  });
  assert.equal(binary.status, 406);
});

test('Endpoints follow their EndpointSlices in get, list and watch', async () => {
  await using api = await testApi();
  const slices = '/apis/discovery.k8s.io/v1/namespaces/default/endpointslices';
  const slice = (name: string, ips: string[], port = 80) => ({
    metadata: { name, labels: { 'kubernetes.io/service-name': 'web' } },
    addressType: 'IPv4',
    endpoints: ips.map((ip) => ({ addresses: [ip], conditions: { ready: !ip.endsWith('9') } })),
    ports: [{ name: 'http', port, protocol: 'TCP' }],
  });
  const endpoints = '/api/v1/namespaces/default/endpoints';
  const watch = await api.watch(`${endpoints}?watch=1&fieldSelector=metadata.name%3Dweb`);
  await api.call('POST', slices, slice('web-1', ['10.0.0.2', '10.0.0.9']));
  await api.call('POST', slices, slice('web-2', ['10.0.0.3']));
  const { body } = await api.call('GET', `${endpoints}/web`);
  assert.deepEqual(body.subsets, [
    {
      addresses: [{ ip: '10.0.0.2' }, { ip: '10.0.0.3' }],
      notReadyAddresses: [{ ip: '10.0.0.9' }],
      ports: [{ name: 'http', port: 80, protocol: 'TCP' }],
    },
  ]);
  await api.call('DELETE', `${slices}/web-1`);
  await api.call('DELETE', `${slices}/web-2`);
  assert.deepEqual(shown(watch.events), ['ADDED web', 'MODIFIED web', 'MODIFIED web', 'DELETED web']);
  assert.equal((await api.call('GET', `${endpoints}/web`)).status, 404);
});

test('Endpoints that somebody writes are kept beside those that are computed', async () => {
  await using api = await testApi();
  const slices = '/apis/discovery.k8s.io/v1/namespaces/default/endpointslices';
  const endpoints = '/api/v1/namespaces/default/endpoints';
  const subsets = [{ addresses: [{ ip: '10.0.0.7' }], ports: [{ name: 'http', port: 80, protocol: 'TCP' }] }];
  await api.call('POST', slices, {
    metadata: { name: 'web-1', labels: { 'kubernetes.io/service-name': 'web' } },
    addressType: 'IPv4',
    endpoints: [{ addresses: ['10.0.0.2'] }],
    ports: [{ name: 'http', port: 80, protocol: 'TCP' }],
  });
  const watch = await api.watch(`${endpoints}?watch=1`);
  const made = await api.call('POST', endpoints, { metadata: { name: 'own', labels: { a: 'b' } }, subsets });
  assert.equal(made.status, 201);
  assert.deepEqual((await api.call('GET', `${endpoints}/own`)).body, made.body);
  const names = (body: { items: { metadata: { name: string } }[] }) =>
    body.items.map((item) => item.metadata.name);
  assert.deepEqual(names((await api.call('GET', endpoints)).body), ['kubernetes', 'own', 'web']);
  assert.deepEqual(names((await api.call('GET', `${endpoints}?labelSelector=a%3Db`)).body), ['own']);
  const patched = await api.call(
    'PATCH',
    `${endpoints}/own`,
    { metadata: { labels: { a: 'c' } } },
    {
      headers: { 'content-type': 'application/strategic-merge-patch+json' },
    },
  );
  assert.deepEqual([patched.status, patched.body.metadata.labels], [200, { a: 'c' }]);

  // What is computed is there already, and whoever wants to change it learns how.
  assert.equal((await api.call('POST', endpoints, { metadata: { name: 'web' }, subsets })).status, 409);
  for (const [method, body] of [
    ['PUT', { metadata: { name: 'web' }, subsets }],
    ['DELETE', undefined],
  ] as const) {
    const refused = await api.call(method, `${endpoints}/web`, body);
    assert.equal(refused.status, 405);
    assert.match(refused.body.message, /computed from EndpointSlices .* write those instead/);
  }

  assert.equal((await api.call('DELETE', endpoints)).status, 200);
  assert.deepEqual(names((await api.call('GET', endpoints)).body), ['kubernetes', 'web']);
  assert.deepEqual(
    shown(watch.events).filter((line) => line.endsWith(' own')),
    ['ADDED own', 'MODIFIED own', 'DELETED own'],
  );
});

test('a kind that is known but absent is an empty collection; making one is refused with what to use instead', async () => {
  await using api = await testApi();
  const deployments = '/apis/apps/v1/namespaces/default/deployments';
  const { status, body } = await api.call('GET', `${deployments}?labelSelector=app%3Dx&limit=500`);
  assert.deepEqual([status, body.kind, body.items], [200, 'DeploymentList', []]);
  const table = await api.call('GET', '/apis/batch/v1beta1/cronjobs', undefined, {
    headers: { accept: 'application/json;as=Table;v=v1;g=meta.k8s.io,application/json' },
  });
  assert.deepEqual([table.body.kind, table.body.rows], ['Table', []]);
  const watch = await api.watch(`${deployments}?watch=1&allowWatchBookmarks=true`);
  await until(() => watch.events.length > 1);
  assert.deepEqual(watch.events[0].object.kind, 'Deployment');
  assert.deepEqual([shown(watch.events.slice(0, 2)), watch.ended()], [['BOOKMARK', 'BOOKMARK'], false]);
  watch.close();
  const answer = async (method: string, path: string, type = 'application/json') => {
    const call = await api.call(
      method,
      path,
      { metadata: { name: 'web' } },
      { headers: { 'content-type': type } },
    );
    return [call.status, call.body.reason ?? call.body.kind, call.body.message];
  };
  const why = 'Deployments are not served by this API server yet: create Pods instead';
  assert.deepEqual(await answer('POST', deployments), [405, 'MethodNotAllowed', why]);
  assert.deepEqual(await answer('PUT', `${deployments}/web`), [405, 'MethodNotAllowed', why]);
  assert.deepEqual(await answer('PATCH', `${deployments}/web`, 'application/apply-patch+yaml'), [
    405,
    'MethodNotAllowed',
    why,
  ]);
  const missing = 'deployments.apps "web" not found';
  for (const [method, path] of [
    ['GET', `${deployments}/web`],
    ['GET', `${deployments}/web/scale`],
    ['DELETE', `${deployments}/web`],
  ] as const)
    assert.deepEqual(await answer(method, path), [404, 'NotFound', missing]);
  assert.equal((await answer('DELETE', deployments))[0], 200);
  assert.equal((await answer('GET', '/apis/apps/v1beta1/deployments'))[0], 404);
});

test('a dependent of an absent kind stays: nobody knows whether its owner is elsewhere', async () => {
  await using api = await testApi();
  const owned = configMap('owned');
  const owner = { apiVersion: 'apps/v1', kind: 'Deployment', name: 'web', uid: 'some-uid' };
  Object.assign(owned.metadata, { ownerReferences: [owner] });
  assert.equal((await api.call('POST', path, owned)).status, 201);
  await new Promise((resolve) => setTimeout(resolve, 30));
  assert.equal((await api.call('GET', `${path}/owned`)).status, 200);
});
