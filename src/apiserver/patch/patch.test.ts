import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { KubeObject } from '../../model/kubernetes.ts';
import { decodeObject, findKind } from '../schema/index.ts';
import { applyPatch, type PatchType } from './index.ts';
import { mergePatch } from './merge.ts';

const pod = findKind('v1', 'Pod')!;
const service = findKind('v1', 'Service')!;

function patch(type: PatchType, current: object, change: unknown, schema = pod): unknown {
  const { object } = applyPatch({
    schema,
    type,
    patch: change,
    current: current as KubeObject,
    fieldManager: 'test',
    force: false,
    subresource: '',
    now: new Date(0),
  });
  return decodeObject(schema, object).object;
}

const meta = { metadata: { name: 'web' } };
const withContainers = (...containers: object[]) => ({ ...meta, spec: { containers } });

test('a strategic merge patch merges containers by name and keeps the order of the object', () => {
  const current = withContainers({ name: 'a', image: '1' }, { name: 'b', image: '1', tty: true });
  const change = {
    spec: {
      containers: [
        { name: 'b', image: '2' },
        { name: 'c', image: '3' },
      ],
    },
  };
  assert.deepEqual(
    patch('strategic', current, change),
    withContainers(
      { name: 'a', image: '1' },
      { name: 'b', image: '2', tty: true },
      { name: 'c', image: '3' },
    ),
  );
});

test('strategic directives delete, replace and order', () => {
  const current = withContainers(
    { name: 'a', image: '1' },
    { name: 'b', image: '1' },
    { name: 'c', image: '1' },
  );
  const cases: [object, object][] = [
    [
      { spec: { containers: [{ $patch: 'delete', name: 'b' }] } },
      withContainers({ name: 'a', image: '1' }, { name: 'c', image: '1' }),
    ],
    [
      { spec: { containers: [{ name: 'x', image: '9' }, { $patch: 'replace' }] } },
      withContainers({ name: 'x', image: '9' }),
    ],
    [
      { spec: { '$setElementOrder/containers': [{ name: 'c' }, { name: 'a' }, { name: 'b' }] } },
      withContainers({ name: 'c', image: '1' }, { name: 'a', image: '1' }, { name: 'b', image: '1' }),
    ],
    [
      { spec: { $patch: 'replace', hostname: 'h', containers: [{ name: 'y', image: '1' }] } },
      { ...meta, spec: { hostname: 'h', containers: [{ name: 'y', image: '1' }] } },
    ],
  ];
  for (const [change, want] of cases) assert.deepEqual(patch('strategic', current, change), want);
});

test('strategic merge: scalars of a merging list are added and deleted, others are replaced', () => {
  const current = {
    metadata: { name: 'web', finalizers: ['x/a', 'x/b'] },
    spec: { externalIPs: ['192.0.2.1'] },
  };
  const change = {
    metadata: { finalizers: ['x/c'], '$deleteFromPrimitiveList/finalizers': ['x/a'] },
    spec: { externalIPs: ['192.0.2.2'] },
  };
  const want = {
    metadata: { name: 'web', finalizers: ['x/b', 'x/c'] },
    spec: { externalIPs: ['192.0.2.2'] },
  };
  const got = patch('strategic', current, change, service) as typeof want;
  assert.deepEqual(
    { ...got, metadata: { ...got.metadata, finalizers: got.metadata.finalizers.toSorted() } },
    want,
  );
});

test('$retainKeys switches the source of a volume', () => {
  const volumes = (volume: object) => ({ ...meta, spec: { containers: [], volumes: [volume] } });
  const change = {
    spec: { volumes: [{ $retainKeys: ['name', 'emptyDir'], name: 'v', emptyDir: {} }] },
  };
  assert.deepEqual(
    patch('strategic', volumes({ name: 'v', hostPath: { path: '/x' } }), change),
    volumes({ name: 'v', emptyDir: {} }),
  );
});

test('null in a strategic merge patch removes, also in a new object', () => {
  const current = { metadata: { name: 'web', labels: { a: '1', b: '2' } }, spec: { containers: [] } };
  const change = { metadata: { labels: { a: null }, annotations: { x: null, y: '1' } } };
  assert.deepEqual(patch('strategic', current, change), {
    metadata: { name: 'web', labels: { b: '2' }, annotations: { y: '1' } },
    spec: { containers: [] },
  });
});

test('a JSON patch that does not fit is refused, and says where', () => {
  const current = withContainers({ name: 'a', image: '1' });
  const cases: [unknown, string][] = [
    [{}, 'API_PATCH_MALFORMED'],
    [[{ op: 'jump', path: '/x' }], 'API_PATCH_MALFORMED'],
    [[{ op: 'add', path: 'x', value: 1 }], 'API_PATCH_MALFORMED'],
    [[{ op: 'add', path: '/__proto__/x', value: 1 }], 'API_PATCH_MALFORMED'],
    [[{ op: 'remove', path: '/spec/nothing' }], 'API_PATCH_NOT_APPLICABLE'],
    [[{ op: 'test', path: '/metadata/name', value: 'other' }], 'API_PATCH_NOT_APPLICABLE'],
  ];
  for (const [change, code] of cases) assert.throws(() => patch('json', current, change), { code });
  assert.deepEqual(
    patch('json', current, [{ op: 'replace', path: '/spec/containers/0/image', value: '2' }]),
    withContainers({ name: 'a', image: '2' }),
  );
});

/** RFC 7386 section 2, word for word on a copy. */
function reference(target: unknown, change: unknown): unknown {
  if (typeof change !== 'object' || change === null || Array.isArray(change)) return change;
  const into =
    typeof target !== 'object' || target === null || Array.isArray(target)
      ? new Map<string, unknown>()
      : new Map(Object.entries(target));
  for (const [name, value] of Object.entries(change))
    if (value === null) into.delete(name);
    else into.set(name, reference(into.get(name), value));
  return Object.fromEntries(into);
}

test('merge patch does what RFC 7386 says, whatever the values', () => {
  fc.assert(
    fc.property(fc.jsonValue(), fc.jsonValue(), (target, change) => {
      const before = JSON.stringify(target);
      assert.deepEqual(
        JSON.parse(JSON.stringify(mergePatch(target, change))),
        JSON.parse(JSON.stringify(reference(target, change))),
      );
      assert.equal(JSON.stringify(target), before);
    }),
    { numRuns: 300 },
  );
});

test('any JSON as a patch of any type ends in an object or in a clear error', () => {
  const current = withContainers({ name: 'a', image: '1' });
  fc.assert(
    fc.property(
      fc.constantFrom<PatchType>('json', 'merge', 'strategic', 'apply'),
      fc.jsonValue(),
      (type, change) => {
        try {
          assert.equal(typeof patch(type, current, change), 'object');
        } catch (error) {
          assert.match(String((error as { code?: unknown }).code), /^API_(PATCH|APPLY)_/);
        }
      },
    ),
    { numRuns: 300 },
  );
});
