import assert from 'node:assert/strict';
import { test } from 'node:test';
import { until } from '../../test/lib/until.ts';
import { ADMIN, type Answer, nodeUser, type TestApi, testApi } from './testing/api.ts';

const configMaps = '/api/v1/namespaces/default/configmaps';
const pods = '/api/v1/namespaces/default/pods';
const services = '/api/v1/namespaces/default/services';
const merge = { headers: { 'content-type': 'application/merge-patch+json' } };
const told = ({ status, body }: Answer) => `${status} ${body.reason ?? ''} ${body.message ?? ''}`.trim();
const pod = (name: string, spec: object = {}) => ({
  metadata: { name },
  spec: { containers: [{ name: 'c', image: 'i' }], ...spec },
});

test('writes are optimistic: a stale resourceVersion or a wrong uid is a conflict', async () => {
  await using api = await testApi();
  const created = await api.call('POST', configMaps, { metadata: { name: 'a' } });
  assert.equal(created.status, 201);
  assert.equal(
    told(await api.call('POST', configMaps, { metadata: { name: 'a' } })),
    '409 AlreadyExists configmaps "a" already exists',
  );
  const next = await api.call('PUT', `${configMaps}/a`, { ...created.body, data: { x: '1' } });
  assert.equal(next.status, 200);
  const stale = await api.call('PUT', `${configMaps}/a`, { ...created.body, data: { x: '2' } });
  assert.match(
    told(stale),
    /^409 Conflict Operation cannot be fulfilled on configmaps "a": the object has been modified/,
  );
  const unconditional = await api.call('PUT', `${configMaps}/a`, {
    metadata: { name: 'a' },
    data: { x: '3' },
  });
  assert.equal(unconditional.body.metadata.uid, created.body.metadata.uid);
  const precondition = await api.call('DELETE', `${configMaps}/a`, { preconditions: { uid: 'other' } });
  assert.match(told(precondition), /^409 Conflict .*UID in precondition: other/);
  const gone = await api.call('DELETE', `${configMaps}/a`);
  assert.deepEqual(
    [gone.status, gone.body.status, gone.body.details.uid],
    [200, 'Success', created.body.metadata.uid],
  );
  assert.equal(told(await api.call('DELETE', `${configMaps}/a`)), '404 NotFound configmaps "a" not found');
});

test('a change that changes nothing keeps its revision', async () => {
  await using api = await testApi();
  const created = await api.call('POST', configMaps, { metadata: { name: 'a' }, data: { x: '1' } });
  api.advance(60_000);
  const same = await api.call('PATCH', `${configMaps}/a`, { data: { x: '1' } }, merge);
  assert.equal(same.body.metadata.resourceVersion, created.body.metadata.resourceVersion);
});

test('dryRun=All does everything but write, and gives addresses back', async () => {
  await using api = await testApi();
  const before = api.store.revision;
  const body = {
    metadata: { name: 's' },
    spec: { type: 'NodePort', clusterIP: '10.96.0.77', ports: [{ port: 80, nodePort: 30100 }] },
  };
  for (let i = 0; i < 2; i++) {
    const dry = await api.call('POST', `${services}?dryRun=All`, body);
    assert.deepEqual([dry.status, dry.body.spec.clusterIP], [201, '10.96.0.77']);
  }
  assert.equal(api.store.revision, before);
  assert.equal((await api.call('GET', `${services}/s`)).status, 404);
  assert.equal((await api.call('POST', `${services}?dryRun=Some`, body)).status, 400);
});

test('fieldValidation decides about unknown and duplicate fields', async () => {
  await using api = await testApi();
  const text = '{"metadata":{"name":"a","name":"a"},"dat":{},"data":{}}';
  const strict = await api.call('POST', `${configMaps}?fieldValidation=Strict`, text);
  assert.match(
    told(strict),
    /^400 BadRequest .*strict decoding error: unknown field "dat", duplicate field "metadata\.name"/,
  );
  const warned = await api.call('POST', `${configMaps}?dryRun=All`, text);
  assert.deepEqual(warned.headers['warning'], [
    '299 - "unknown field \\"dat\\""',
    '299 - "duplicate field \\"metadata.name\\""',
  ]);
  const ignored = await api.call('POST', `${configMaps}?fieldValidation=Ignore`, text);
  assert.deepEqual([ignored.status, ignored.headers['warning']], [201, undefined]);
  const broken = await api.call('POST', configMaps, '{"metadata":');
  assert.equal(broken.status, 400);
  const wrongKind = await api.call('POST', configMaps, {
    kind: 'Pod',
    apiVersion: 'v1',
    metadata: { name: 'x' },
  });
  assert.equal(wrongKind.status, 400);
  const wrongType = await api.call('POST', configMaps, { metadata: { name: 'x' }, data: 'text' });
  assert.equal(wrongType.status, 400);
  const elsewhere = await api.call('POST', configMaps, { metadata: { name: 'x', namespace: 'kube-system' } });
  assert.match(told(elsewhere), /namespace of the provided object does not match/);
});

test('generateName makes distinct names', async () => {
  await using api = await testApi();
  const answers = await Promise.all(
    Array.from({ length: 20 }, () => api.call('POST', configMaps, { metadata: { generateName: 'job-' } })),
  );
  const names = new Set(answers.map((a) => a.body.metadata.name));
  assert.equal(names.size, 20);
  for (const name of names) assert.match(name, /^job-[a-z0-9]{5}$/);
});

test('status and spec change through their own paths only; the generation counts spec changes', async () => {
  await using api = await testApi();
  const created = await api.call('POST', pods, { ...pod('p'), status: { phase: 'Running' } });
  assert.deepEqual([created.body.status.phase, created.body.metadata.generation], ['Pending', 1]);
  const status = await api.call(
    'PATCH',
    `${pods}/p/status`,
    { status: { phase: 'Running' }, spec: { nodeName: 'n9' } },
    merge,
  );
  assert.deepEqual(
    [status.body.status.phase, status.body.spec.nodeName, status.body.metadata.generation],
    ['Running', undefined, 1],
  );
  const main = await api.call(
    'PATCH',
    `${pods}/p`,
    { spec: { containers: [{ name: 'c', image: 'j' }] }, status: { phase: 'Failed' } },
    merge,
  );
  assert.deepEqual(
    [main.body.status.phase, main.body.metadata.generation, told(main)],
    ['Running', 2, '200'],
  );
  assert.equal((await api.call('GET', `${configMaps}/x/status`)).status, 404);
});

test('a pod is bound once, and leaves in two steps once it is bound', async () => {
  await using api = await testApi();
  await api.call('POST', pods, pod('p'));
  const bind = () => api.call('POST', `${pods}/p/binding`, { target: { kind: 'Node', name: 'n1' } });
  assert.equal((await bind()).status, 201);
  assert.match(told(await bind()), /^409 Conflict .*already assigned to node "n1"/);
  const bound = await api.call('GET', `${pods}/p`);
  assert.deepEqual(
    bound.body.status.conditions.map((c: { type: string }) => c.type),
    ['PodScheduled'],
  );
  const marked = await api.call('DELETE', `${pods}/p`);
  assert.deepEqual([marked.status, marked.body.metadata.deletionGracePeriodSeconds], [200, 30]);
  assert.equal(marked.body.metadata.deletionTimestamp, '2026-01-02T03:04:35Z');
  assert.equal(
    (await api.call('DELETE', `${pods}/p?gracePeriodSeconds=60`)).body.metadata.deletionGracePeriodSeconds,
    30,
  );
  await api.call('DELETE', `${pods}/p?gracePeriodSeconds=0`);
  assert.equal((await api.call('GET', `${pods}/p`)).status, 404);
  await api.call('POST', pods, pod('q'));
  await api.call('DELETE', `${pods}/q`);
  assert.equal((await api.call('GET', `${pods}/q`)).status, 404);
  assert.equal((await api.call('GET', `${pods}/q/log`)).status, 404);
});

test('a node changes what is its own and nothing else', async () => {
  await using api = await testApi();
  const user = nodeUser('n1');
  const as = async (method: string, path: string, body?: unknown, headers = merge.headers) =>
    (await api.call(method, path, body, { user, headers })).status;
  const json = { 'content-type': 'application/json' };
  for (const name of ['mine', 'theirs'])
    await api.call('POST', pods, pod(name, { nodeName: name === 'mine' ? 'n1' : 'n2' }));
  await api.call('POST', '/api/v1/nodes', { metadata: { name: 'n2' } });
  const lease = (name: string) => ({ metadata: { name }, spec: { holderIdentity: name } });
  const leases = '/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases';
  const event = (host: string) => ({
    metadata: { name: `e.${host}`, namespace: 'default' },
    involvedObject: { kind: 'Pod', name: 'mine', namespace: 'default' },
    source: { host },
  });
  const events = '/api/v1/namespaces/default/events';
  await api.call('POST', events, event('n2'));
  const cases: [string, number, Promise<number> | (() => Promise<number>)][] = [
    ['reads services', 200, () => as('GET', '/api/v1/services')],
    [
      'watches network policies',
      200,
      () => as('GET', '/apis/networking.k8s.io/v1/networkpolicies?watch=1&timeoutSeconds=1'),
    ],
    ['registers itself', 201, () => as('POST', '/api/v1/nodes', { metadata: { name: 'n1' } }, json)],
    ['does not register others', 403, () => as('POST', '/api/v1/nodes', { metadata: { name: 'n3' } }, json)],
    [
      'annotates itself',
      200,
      () => as('PATCH', '/api/v1/nodes/n1', { metadata: { annotations: { a: 'b' } } }),
    ],
    ['reports its status', 200, () => as('PATCH', '/api/v1/nodes/n1/status', { status: { phase: '' } })],
    [
      'does not touch other nodes',
      403,
      () => as('PATCH', '/api/v1/nodes/n2', { metadata: { annotations: { a: 'b' } } }),
    ],
    ['does not delete itself', 403, () => as('DELETE', '/api/v1/nodes/n1')],
    ['makes its lease', 201, () => as('POST', leases, lease('n1'), json)],
    ['makes no other lease', 403, () => as('POST', leases, lease('n2'), json)],
    [
      'renews its lease',
      200,
      () => as('PUT', `${leases}/n1`, { ...lease('n1'), spec: { leaseDurationSeconds: 40 } }, json),
    ],
    ['reports its pods', 200, () => as('PATCH', `${pods}/mine/status`, { status: { phase: 'Running' } })],
    [
      'reports no other pods',
      403,
      () => as('PATCH', `${pods}/theirs/status`, { status: { phase: 'Running' } }),
    ],
    ['changes no pod', 403, () => as('PATCH', `${pods}/mine`, { metadata: { labels: { a: 'b' } } })],
    ['deletes its pods with grace 0 only', 403, () => as('DELETE', `${pods}/mine`)],
    ['does not delete other pods', 403, () => as('DELETE', `${pods}/theirs?gracePeriodSeconds=0`)],
    ['deletes its pods with grace 0', 200, () => as('DELETE', `${pods}/mine?gracePeriodSeconds=0`)],
    ['creates events', 201, () => as('POST', events, event('n1'), json)],
    ['counts its events up', 200, () => as('PATCH', `${events}/e.n1`, { count: 2 })],
    ['leaves the events of others', 403, () => as('PATCH', `${events}/e.n2`, { count: 2 })],
    [
      'makes no services',
      403,
      () => as('POST', services, { metadata: { name: 'x' }, spec: { ports: [{ port: 1 }] } }, json),
    ],
    ['deletes no namespace', 403, () => as('DELETE', '/api/v1/namespaces/default')],
  ];
  for (const [what, status, act] of cases)
    assert.equal(await (typeof act === 'function' ? act() : act), status, what);
  const anonymous = { name: 'system:anonymous', groups: ['system:unauthenticated'] };
  assert.equal((await api.call('GET', '/api/v1/pods', undefined, { user: anonymous })).status, 401);
  assert.equal((await api.call('GET', '/healthz', undefined, { user: anonymous })).status, 200);
  const stranger = { name: 'eve', groups: ['system:authenticated'] };
  const refused = await api.call('GET', pods, undefined, { user: stranger });
  assert.equal(
    told(refused),
    '403 Forbidden pods is forbidden: User "eve" cannot list resource "pods" in API group "" in the namespace "default"',
  );
});

const uidOf = async (api: TestApi, name: string) =>
  (await api.call('GET', `${configMaps}/${name}`)).body.metadata.uid as string;
const exists = async (api: TestApi, name: string) =>
  (await api.call('GET', `${configMaps}/${name}`)).status === 200;

test('dependents go with their last owner, in the foreground, in the background, or stay as orphans', async () => {
  await using api = await testApi();
  const make = (name: string, owners: { name: string; uid: string }[] = []) =>
    api.call('POST', configMaps, {
      metadata: {
        name,
        ownerReferences: owners.map((o) => ({
          apiVersion: 'v1',
          kind: 'ConfigMap',
          blockOwnerDeletion: true,
          ...o,
        })),
      },
    });
  const owner = async (name: string) => ({ name, uid: await uidOf(api, name) });
  await make('a');
  await make('b');
  await make('both', [await owner('a'), await owner('b')]);
  await make('grandchild', [await owner('both')]);
  await api.call('DELETE', `${configMaps}/a`);
  await until(
    async () => (await api.call('GET', `${configMaps}/both`)).body.metadata.ownerReferences.length === 1,
  );
  const waiting = await api.call('DELETE', `${configMaps}/b?propagationPolicy=Foreground`);
  assert.deepEqual(waiting.body.metadata.finalizers, ['foregroundDeletion']);
  await until(async () => !(await exists(api, 'b')));
  assert.deepEqual([await exists(api, 'both'), await exists(api, 'grandchild')], [false, false]);

  await make('c');
  await make('orphan', [await owner('c')]);
  await api.call('DELETE', `${configMaps}/c`, { propagationPolicy: 'Orphan' });
  await until(async () => !(await exists(api, 'c')));
  const orphan = await api.call('GET', `${configMaps}/orphan`);
  assert.equal(orphan.body.metadata.ownerReferences, undefined);

  await make('foundling', [{ name: 'nobody', uid: 'no-such-uid' }]);
  await until(async () => !(await exists(api, 'foundling')));
});

test('a deleted namespace refuses new content, goes when it is empty, and default stays', async () => {
  await using api = await testApi();
  await api.call('POST', '/api/v1/namespaces', { metadata: { name: 'x' } });
  const inside = '/api/v1/namespaces/x/configmaps';
  await api.call('POST', inside, { metadata: { name: 'held', finalizers: ['example.com/f'] } });
  await api.call('POST', inside, { metadata: { name: 'free' } });
  const deleted = await api.call('DELETE', '/api/v1/namespaces/x');
  assert.equal(deleted.body.status.phase, 'Terminating');
  assert.match(
    told(await api.call('POST', inside, { metadata: { name: 'late' } })),
    /^403 Forbidden .*because it is being terminated/,
  );
  await until(async () => (await api.call('GET', inside)).body.items.length === 1);
  await api.call('PATCH', `${inside}/held`, { metadata: { finalizers: null } }, merge);
  await until(async () => (await api.call('GET', '/api/v1/namespaces/x')).status === 404);
  assert.match(
    told(await api.call('DELETE', '/api/v1/namespaces/default')),
    /^403 Forbidden .*may not be deleted/,
  );
  assert.match(
    told(await api.call('POST', inside, { metadata: { name: 'late' } })),
    /^404 NotFound namespaces "x" not found/,
  );
});

test('Services get addresses and ports that nobody else has, and give them back', async () => {
  await using api = await testApi(['10.96.0.0/28', 'fd00:10:96::/112']);
  const make = (name: string, spec: object = {}) =>
    api.call('POST', services, { metadata: { name }, spec: { ports: [{ name: 'a', port: 80 }], ...spec } });
  // A /28 has 14 addresses; kubernetes has the first.
  const made = await Promise.all(Array.from({ length: 14 }, (_, i) => make(`s${i}`)));
  const ips = made.filter((m) => m.status === 201).map((m) => m.body.spec.clusterIP as string);
  assert.equal(new Set(ips).size, 13);
  assert.match(told(made.find((m) => m.status !== 201)!), /range is full/);
  await api.call('DELETE', `${services}/s0`);
  assert.equal((await make('again')).status, 201);
  await api.call('DELETE', `${services}?labelSelector=`);
  await until(async () => (await api.call('GET', services)).body.items.length === 0);

  const dual = await make('dual', { ipFamilyPolicy: 'PreferDualStack' });
  assert.deepEqual(dual.body.spec.ipFamilies, ['IPv4', 'IPv6']);
  assert.match(dual.body.spec.clusterIPs[1], /^fd00:10:96::/);
  const single = await api.call(
    'PATCH',
    `${services}/dual`,
    { spec: { ipFamilyPolicy: 'SingleStack' } },
    merge,
  );
  assert.deepEqual([single.body.spec.clusterIPs.length, single.body.spec.ipFamilies], [1, ['IPv4']]);
  const six = await make('six', { ipFamilies: ['IPv6'] });
  assert.match(six.body.spec.clusterIP, /^fd00:10:96::/);
  const headless = await make('headless', { clusterIP: 'None', selector: { a: 'b' } });
  assert.deepEqual(headless.body.spec.clusterIPs, ['None']);

  const node = await make('node', {
    type: 'NodePort',
    ports: [
      { name: 'a', port: 80 },
      { name: 'b', port: 81, nodePort: 30500 },
    ],
  });
  const [first, second] = node.body.spec.ports;
  assert.ok(first.nodePort >= 30000 && first.nodePort !== 30500);
  assert.equal(second.nodePort, 30500);
  assert.match(
    told(await make('thief', { type: 'NodePort', ports: [{ port: 1, nodePort: 30500 }] })),
    /provided port is already allocated/,
  );
  // A PUT of the manifest keeps what was chosen.
  const put = await api.call('PUT', `${services}/node`, {
    metadata: { name: 'node' },
    spec: {
      type: 'NodePort',
      ports: [
        { name: 'a', port: 80 },
        { name: 'b', port: 81 },
      ],
    },
  });
  assert.deepEqual(
    put.body.spec.ports.map((p: { nodePort: number }) => p.nodePort),
    [first.nodePort, 30500],
  );
  assert.equal(put.body.spec.clusterIP, node.body.spec.clusterIP);
  const external = await api.call(
    'PATCH',
    `${services}/node`,
    { spec: { type: 'ExternalName', externalName: 'example.com', ports: null } },
    merge,
  );
  assert.deepEqual([told(external), external.body.spec.clusterIP], ['200', undefined]);
  assert.equal(
    (
      await make('heir', {
        type: 'NodePort',
        clusterIP: node.body.spec.clusterIP,
        ports: [{ port: 1, nodePort: 30500 }],
      })
    ).status,
    201,
  );
  const balancer = await make('lb', { type: 'LoadBalancer', externalTrafficPolicy: 'Local' });
  assert.ok(balancer.body.spec.healthCheckNodePort >= 30000);
});

test('an Event is one object under both of its versions', async () => {
  await using api = await testApi();
  const newer = '/apis/events.k8s.io/v1/namespaces/default/events';
  await api.call('POST', '/api/v1/namespaces/default/events', {
    metadata: { name: 'e', namespace: 'default' },
    involvedObject: { kind: 'Pod', name: 'p', namespace: 'default' },
    message: 'hello',
    source: { component: 'c' },
    count: 3,
  });
  const { body } = await api.call('GET', `${newer}/e`);
  assert.deepEqual(
    [body.apiVersion, body.note, body.regarding.name, body.deprecatedCount],
    ['events.k8s.io/v1', 'hello', 'p', 3],
  );
  const patched = await api.call(
    'PATCH',
    `${newer}/e`,
    { series: { count: 4, lastObservedTime: '2026-01-02T03:04:05.000000Z' } },
    merge,
  );
  assert.equal(told(patched), '200');
  const older = await api.call('GET', '/api/v1/namespaces/default/events/e');
  assert.deepEqual([older.body.series.count, older.body.message], [4, 'hello']);
  const selected = await api.call(
    'GET',
    '/api/v1/events?fieldSelector=involvedObject.name%3Dp,involvedObject.kind%3DPod',
    undefined,
    { user: ADMIN },
  );
  assert.equal(selected.body.items.length, 1);
});

test('a full disk answers 507, changes nothing and takes no address', async () => {
  await using api = await testApi();
  const body = {
    metadata: { name: 'big', annotations: { text: 'x'.repeat(60_000) } },
    spec: { clusterIP: '10.96.0.99', ports: [{ port: 80 }] },
  };
  const before = api.store.revision;
  api.store.limitPages(16);
  const full = await api.call('POST', services, body);
  assert.equal(full.status, 507);
  assert.match(told(full), /the disk is full; nothing of this change was kept/);
  assert.equal(api.store.revision, before);
  assert.equal((await api.call('GET', `${services}/big`)).status, 404);
  const small = { ...body, metadata: { name: 'small' } };
  assert.equal((await api.call('POST', services, small)).body.spec.clusterIP, '10.96.0.99');
});
