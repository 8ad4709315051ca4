/** Laws of server-side apply that hold for any Services and any managers. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { isNetError } from '../../errors/net-error.ts';
import type { KubeObject } from '../../model/kubernetes.ts';
import { findKind } from '../schema/index.ts';
import { fromFieldsV1, toFieldsV1 } from './field-set.ts';
import { applyPatch, trackManagedFields } from './index.ts';

const schema = findKind('v1', 'Service')!;
const word = fc.constantFrom('a', 'b', 'c');

const config = fc.record(
  {
    labels: fc.dictionary(word, word),
    selector: fc.dictionary(word, word),
    type: fc.constantFrom('ClusterIP', 'NodePort'),
    sessionAffinity: fc.constantFrom('None', 'ClientIP'),
    publishNotReadyAddresses: fc.boolean(),
    externalIPs: fc.array(fc.constantFrom('192.0.2.1', '192.0.2.2'), { maxLength: 2 }),
    finalizers: fc.uniqueArray(fc.constantFrom('x/a', 'x/b', 'x/c')),
    ports: fc.uniqueArray(
      fc.record(
        { port: fc.constantFrom(80, 81, 82), protocol: fc.constantFrom('TCP', 'UDP'), name: word },
        { requiredKeys: ['port'] },
      ),
      { selector: (port) => `${port.port}/${port.protocol ?? 'TCP'}` },
    ),
  },
  { requiredKeys: [] },
);
type Config = Record<string, unknown>;

function manifest({ labels, finalizers, ...spec }: Config): object {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: {
      name: 'web',
      namespace: 'default',
      ...(labels !== undefined && { labels }),
      ...(finalizers !== undefined && { finalizers }),
    },
    spec,
  };
}

let clock = 0;
function apply(
  current: KubeObject | undefined,
  fieldManager: string,
  what: Config,
  force = true,
): KubeObject {
  clock += 1000;
  return applyPatch({
    schema,
    type: 'apply',
    patch: manifest(what),
    current,
    fieldManager,
    force,
    subresource: '',
    now: new Date(clock),
  }).object;
}
const without = (object: KubeObject) => {
  const { managedFields: _, ...metadata } = object.metadata;
  return { ...object, metadata };
};
const managers = (object: KubeObject) =>
  (object.metadata.managedFields ?? []) as { manager: string; fieldsV1: unknown; operation: string }[];

test('applying the same twice is the same as once', () => {
  fc.assert(
    fc.property(config, config, (one, other) => {
      const start = apply(apply(undefined, 'a', one), 'b', other);
      const once = apply(start, 'a', one);
      assert.deepEqual(apply(once, 'a', one), once);
    }),
    { numRuns: 150 },
  );
});

test('one manager that applies a second configuration ends where it would have started with it', () => {
  fc.assert(
    fc.property(config, config, (first, second) => {
      const changed = apply(apply(undefined, 'a', first), 'a', second);
      const fresh = apply(undefined, 'a', second);
      assert.deepEqual(normal(without(changed)), normal(without(fresh)));
      assert.deepEqual(managers(changed)[0]?.fieldsV1, managers(fresh)[0]?.fieldsV1);
    }),
    { numRuns: 150 },
  );
});

test('a manager that applies nothing any more leaves the fields of the others', () => {
  fc.assert(
    fc.property(config, config, (one, other) => {
      const both = apply(apply(undefined, 'a', one), 'b', other);
      const left = apply(both, 'a', {});
      const alone = apply(undefined, 'b', other);
      // What the others wrote is all there; order of list elements is theirs.
      assert.deepEqual(normal(without(apply(left, 'b', other))), normal(without(left)));
      assert.deepEqual(normal(without(left)), normal(without(alone)));
    }),
    { numRuns: 150 },
  );
});

test('without force, an apply either changes no value of another manager or is a conflict', () => {
  fc.assert(
    fc.property(config, config, (one, other) => {
      const start = apply(undefined, 'a', one);
      let next: KubeObject;
      try {
        next = apply(start, 'b', other, false);
      } catch (error) {
        assert(isNetError(error, 'API_APPLY_CONFLICT'));
        return;
      }
      const mine = managers(start).find((entry) => entry.manager === 'a');
      assert.deepEqual(managers(next).find((entry) => entry.manager === 'a')?.fieldsV1, mine?.fieldsV1);
    }),
    { numRuns: 150 },
  );
});

test('every field of an updated object is owned by someone', () => {
  fc.assert(
    fc.property(config, config, (one, other) => {
      const next = structuredClone(manifest(other)) as KubeObject;
      const old = apply(undefined, 'a', one);
      trackManagedFields({
        schema,
        old,
        next,
        manager: 'b',
        operation: 'Update',
        subresource: '',
        now: new Date(0),
      });
      const again = structuredClone(next);
      trackManagedFields({
        schema,
        old: next,
        next: again,
        manager: 'c',
        operation: 'Update',
        subresource: '',
        now: new Date(9e9),
      });
      assert.deepEqual(again, next);
      for (const entry of managers(next))
        assert.deepEqual(toFieldsV1(fromFieldsV1(entry.fieldsV1)!), entry.fieldsV1);
    }),
    { numRuns: 100 },
  );
});

test('fieldsV1 that is no such tree is refused', () => {
  for (const bad of [null, [], 'x', { 'x:a': {} }, { 'f:a': 1 }, { 'k:{': {} }, { 'i:x': {} }, { 'k:1': {} }])
    assert.equal(fromFieldsV1(bad), undefined);
});

/** Lists that are maps or sets have no order of their own, and an empty spec is no spec. */
function normal(value: unknown): unknown {
  if (Array.isArray(value))
    return value.map(normal).sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1));
  if (typeof value !== 'object' || value === null) return value;
  const members = Object.entries(value)
    .map(([key, member]) => [key, normal(member)] as const)
    .filter(([, member]) => JSON.stringify(member) !== '{}' && JSON.stringify(member) !== '[]')
    .sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(members);
}
