import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DeleteOptions } from '../../client/index.ts';
import type { NodeView, PodView } from '../views.ts';
import { PodCollector, type PodCollectorOptions } from './pod-collector.ts';

function setup(options: Partial<PodCollectorOptions>, pods: Partial<PodView>[]) {
  const items = new Map(
    pods.map((pod) => [
      pod.name!,
      { namespace: 'default', key: pod.name!, uid: pod.name!, ...pod } as PodView,
    ]),
  );
  const nodes = new Map([['n1', {} as NodeView]]);
  const removed: string[] = [];
  let now = 0;
  const collector = new PodCollector({
    client: {
      delete: async (
        _resource: unknown,
        { name }: { name: string },
        { preconditions, gracePeriodSeconds }: DeleteOptions,
      ) => {
        assert.deepEqual([preconditions, gracePeriodSeconds], [{ uid: name }, 0]);
        removed.push(name);
        items.delete(name);
      },
    } as unknown as PodCollectorOptions['client'],
    nodes: { items: nodes },
    pods: { items },
    signal: new AbortController().signal,
    log: { debug() {}, info() {}, warn() {}, error() {} },
    monotonicMs: () => now,
    orphanGraceMs: 1000,
    finishedLimit: 0,
    ...options,
  });
  return { collector, removed, nodes, wait: (ms: number) => (now += ms) };
}

test('a pod is removed once its node has been gone for the grace time, unless the node comes back', async () => {
  const pods = [
    { name: 'here', nodeName: 'n1' },
    { name: 'gone', nodeName: 'n2' },
    { name: 'back', nodeName: 'n3' },
    { name: 'unbound', nodeName: '' },
  ];
  const { collector, removed, nodes, wait } = setup({}, pods);
  await collector.collect();
  wait(900);
  nodes.set('n3', {} as NodeView);
  await collector.collect();
  assert.deepEqual(removed, []);
  wait(200);
  await collector.collect();
  assert.deepEqual(removed, ['gone']);
  collector.forget();
  nodes.delete('n3');
  wait(10_000);
  await collector.collect();
  assert.deepEqual(removed, ['gone'], 'after a time without sight the grace time begins anew');
});

test('of finished pods the youngest are kept', async () => {
  const pods = ['2026-01-03', '2026-01-01', '2026-01-02'].map((day) => ({
    name: day,
    nodeName: 'n1',
    createdAt: `${day}T00:00:00Z`,
  }));
  const { collector, removed } = setup({ finishedLimit: 1 }, [...pods, { name: 'running', nodeName: 'n1' }]);
  await collector.collect();
  assert.deepEqual(removed, ['2026-01-01', '2026-01-02']);
});
