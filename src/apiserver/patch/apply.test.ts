import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isNetError } from '../../errors/net-error.ts';
import type { KubeObject } from '../../model/kubernetes.ts';
import { applyDefaults, findKind } from '../schema/index.ts';
import { applyPatch, trackManagedFields } from './index.ts';

const service = findKind('v1', 'Service')!;
const now = new Date('2030-01-02T03:04:05.678Z');
const later = new Date('2030-01-02T04:04:05.678Z');

function apply(
  patch: unknown,
  current: KubeObject | undefined,
  fieldManager = 'alice',
  more: { force?: boolean; now?: Date } = {},
): KubeObject {
  const { object } = applyPatch({
    schema: service,
    type: 'apply',
    patch,
    current,
    fieldManager,
    force: more.force ?? false,
    subresource: '',
    now: more.now ?? now,
  });
  return object;
}

const web = (spec: object, metadata: object = {}) => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { name: 'web', namespace: 'default', ...metadata },
  spec,
});
const fields = (object: KubeObject) =>
  (object.metadata.managedFields as { manager: string; fieldsV1: unknown }[]).map((m) => [
    m.manager,
    m.fieldsV1,
  ]);

test('apply creates an object and owns exactly what was applied', () => {
  const object = apply(
    web({ ports: [{ port: 80 }], selector: { app: 'web' } }, { labels: { a: 'b' } }),
    undefined,
  );
  assert.deepEqual(object.metadata.managedFields, [
    {
      manager: 'alice',
      operation: 'Apply',
      apiVersion: 'v1',
      time: '2030-01-02T03:04:05Z',
      fieldsType: 'FieldsV1',
      fieldsV1: {
        'f:metadata': { 'f:labels': { 'f:a': {} } },
        'f:spec': {
          'f:ports': { 'k:{"port":80,"protocol":"TCP"}': { '.': {}, 'f:port': {} } },
          'f:selector': {},
        },
      },
    },
  ]);
});

test('applying the same again changes nothing, not even the time', () => {
  const config = web({ ports: [{ port: 80, name: 'http' }], sessionAffinity: 'ClientIP' });
  const first = apply(config, undefined);
  assert.deepEqual(apply(config, first, 'alice', { now: later }), first);
});

test('a field that is left out is removed, unless another manager owns it', () => {
  const both = { selector: { app: 'web' }, sessionAffinity: 'ClientIP' };
  const first = apply(web({ ...both, externalIPs: ['192.0.2.1'] }), undefined);
  const shared = apply(web({ sessionAffinity: 'ClientIP' }), first, 'bob');
  const next = apply(web({}), shared);
  assert.deepEqual(next, {
    ...web({ sessionAffinity: 'ClientIP' }),
    metadata: { ...web({}).metadata, managedFields: next.metadata.managedFields },
  });
  assert.deepEqual(fields(next), [
    ['alice', { 'f:spec': {} }],
    ['bob', { 'f:spec': { 'f:sessionAffinity': {} } }],
  ]);
});

test('list elements are owned one by one', () => {
  const first = apply(web({ ports: [{ port: 80 }, { port: 443 }] }), undefined);
  const second = apply(web({ ports: [{ port: 53, protocol: 'UDP' }] }), first, 'bob');
  const third = apply(web({ ports: [{ port: 443 }] }), second);
  assert.deepEqual((third as unknown as { spec: unknown }).spec, {
    ports: [{ port: 53, protocol: 'UDP' }, { port: 443 }],
  });
});

test('another value for a field of another manager is a conflict, and force takes the field over', () => {
  const created = trackManagedFields({
    schema: service,
    old: undefined,
    next: web({ type: 'ClusterIP', sessionAffinity: 'None' }) as unknown as KubeObject,
    manager: 'kubectl-create',
    operation: 'Update',
    subresource: '',
    now,
  });
  const wanted = web({ type: 'NodePort', sessionAffinity: 'None' });
  assert.throws(
    () => apply(wanted, created),
    (error) =>
      isNetError(error, 'API_APPLY_CONFLICT') &&
      error.message === 'Apply failed with 1 conflict: conflict with "kubectl-create" using v1: .spec.type',
  );
  const forced = apply(wanted, created, 'alice', { force: true });
  assert.deepEqual(fields(forced), [
    ['alice', { 'f:spec': { 'f:sessionAffinity': {}, 'f:type': {} } }],
    ['kubectl-create', { 'f:spec': { 'f:sessionAffinity': {} } }],
  ]);
});

test('several conflicts are listed by manager', () => {
  const first = apply(web({ type: 'NodePort', ports: [{ port: 80, name: 'a' }] }), undefined);
  assert.throws(() => apply(web({ type: 'ClusterIP', ports: [{ port: 80, name: 'b' }] }), first, 'bob'), {
    message:
      'Apply failed with 2 conflicts: conflicts with "alice":\n- .spec.type\n- .spec.ports[port=80,protocol="TCP"].name',
  });
});

test('a value that means absent is a conflict only where another value was', () => {
  const empty = web({ publishNotReadyAddresses: false, externalIPs: [] }, { labels: {} });
  const shared = apply(empty, apply(empty, undefined), 'bob');
  assert.deepEqual(
    fields(shared).map(([manager]) => manager),
    ['alice', 'bob'],
  );
  const first = apply(web({ publishNotReadyAddresses: true }), undefined);
  assert.throws(() => apply(empty, first, 'bob'), { code: 'API_APPLY_CONFLICT' });
});

test('a list without the defaults that the server filled in is the same list', () => {
  const policy = findKind('networking.k8s.io/v1', 'NetworkPolicy')!;
  const config = {
    apiVersion: 'networking.k8s.io/v1',
    kind: 'NetworkPolicy',
    metadata: { name: 'p', namespace: 'default' },
    spec: { podSelector: {}, ingress: [{ ports: [{ port: 80 }] }] },
  };
  const applyPolicy = (current: KubeObject | undefined, fieldManager: string, at: Date) => {
    const options = { schema: policy, type: 'apply', patch: config, force: false, subresource: '' } as const;
    const { object } = applyPatch({ ...options, current, fieldManager, now: at });
    applyDefaults(policy, object);
    return object;
  };
  const first = applyPolicy(undefined, 'alice', now);
  assert.deepEqual(applyPolicy(first, 'alice', later), first);
  assert.deepEqual(
    fields(applyPolicy(first, 'bob', later)).map(([manager]) => manager),
    ['alice', 'bob'],
  );
});

test('kubectl takes over what the same kubectl applied on the client side', () => {
  const config = web({ type: 'ClusterIP', sessionAffinity: 'None' });
  const annotations = { 'kubectl.kubernetes.io/last-applied-configuration': JSON.stringify(config) };
  const created = trackManagedFields({
    schema: service,
    old: undefined,
    next: { ...config, metadata: { ...config.metadata, annotations } } as unknown as KubeObject,
    manager: 'kubectl-client-side-apply',
    operation: 'Update',
    subresource: '',
    now,
  });
  const next = web({ type: 'NodePort', sessionAffinity: 'None' });
  assert.throws(() => apply(next, created, 'someone'), { code: 'API_APPLY_CONFLICT' });
  const object = apply(next, created, 'kubectl');
  const annotation = object.metadata.annotations?.['kubectl.kubernetes.io/last-applied-configuration'];
  assert.equal(JSON.parse(annotation!).spec.type, 'NodePort');
});

test('apply refuses unknown fields, wrong types, managedFields and double keys', () => {
  const cases: [unknown, string][] = [
    [web({ typ: 'NodePort' }), 'API_PATCH_UNKNOWN_FIELDS'],
    [web({ ports: [{ port: 'http' }] }), 'API_PATCH_INVALID_FIELD'],
    [web({ ports: [{ port: 80 }, { port: 80 }] }), 'API_PATCH_INVALID_FIELD'],
    [web({}, { managedFields: [] }), 'API_PATCH_MANAGED_FIELDS'],
  ];
  for (const [config, code] of cases) assert.throws(() => apply(config, undefined), { code });
});

test('an update owns what it changed, and takes it from those who owned it', () => {
  const first = apply(
    web({ type: 'NodePort', ports: [{ port: 80 }] }, { labels: { a: '1', b: '2' } }),
    undefined,
  );
  const next = structuredClone(first);
  next.metadata.labels = { a: 'changed', c: 'new' };
  trackManagedFields({
    schema: service,
    old: first,
    next,
    manager: 'edit',
    operation: 'Update',
    subresource: '',
    now,
  });
  assert.deepEqual(fields(next), [
    [
      'alice',
      {
        'f:spec': {
          'f:ports': { 'k:{"port":80,"protocol":"TCP"}': { '.': {}, 'f:port': {} } },
          'f:type': {},
        },
      },
    ],
    ['edit', { 'f:metadata': { 'f:labels': { 'f:a': {}, 'f:c': {} } } }],
  ]);
});

test('an update that changes nothing leaves managedFields as they are', () => {
  const first = apply(web({ type: 'NodePort' }), undefined);
  const next = structuredClone(first);
  trackManagedFields({
    schema: service,
    old: first,
    next,
    manager: 'edit',
    operation: 'Update',
    subresource: '',
    now: later,
  });
  assert.deepEqual(next, first);
});

test('a status update is tracked apart, and owns nothing of the spec', () => {
  const first = apply(web({ type: 'LoadBalancer' }), undefined);
  const next = structuredClone(first) as KubeObject & { status?: object };
  next.status = { loadBalancer: { ingress: [{ ip: '192.0.2.1' }] } };
  trackManagedFields({
    schema: service,
    old: first,
    next,
    manager: 'lb',
    operation: 'Update',
    subresource: 'status',
    now,
  });
  const entry = next.metadata.managedFields?.at(-1) as Record<string, unknown>;
  assert.equal(entry['subresource'], 'status');
  assert.deepEqual(entry['fieldsV1'], {
    'f:status': { '.': {}, 'f:loadBalancer': { '.': {}, 'f:ingress': {} } },
  });
});

test('managedFields set to an empty list forget all managers', () => {
  const first = apply(web({ type: 'NodePort' }), undefined);
  const next = structuredClone(first);
  next.metadata.managedFields = [{}];
  trackManagedFields({
    schema: service,
    old: first,
    next,
    manager: 'edit',
    operation: 'Update',
    subresource: '',
    now,
  });
  assert.equal(next.metadata.managedFields, undefined);
});
