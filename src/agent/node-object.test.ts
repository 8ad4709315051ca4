import assert from 'node:assert/strict';
import test from 'node:test';
import type { Node } from '../model/kubernetes.ts';
import { type NodeFacts, planNode } from './node-object.ts';

const facts: NodeFacts = {
  name: 'node1',
  addresses: ['172.31.0.11'],
  labels: { 'kubernetes.io/hostname': 'node1' },
  annotations: { 'flannel.alpha.coreos.com/backend-type': 'vxlan' },
  notReady: undefined,
  networkUp: true,
  ownsStatus: true,
  version: 'v0.1.0',
};
const now = '2026-01-01T00:00:00Z';

/** Applies changes as the API server would: conditions merge by type. */
function applied(node: Node | undefined, given: NodeFacts): Node {
  let next = node;
  for (const change of planNode(given, node, now)) {
    if (change.kind === 'create') next = structuredClone(change.node);
    else if (change.kind === 'patch') {
      next!.metadata.labels = { ...next!.metadata.labels, ...change.patch.metadata.labels };
      next!.metadata.annotations = { ...next!.metadata.annotations, ...change.patch.metadata.annotations };
    } else {
      const { conditions = [], ...rest } = change.patch.status;
      const old = (next!.status?.conditions ?? []).filter(
        ({ type }) => !conditions.some((c) => c.type === type),
      );
      next!.status = { ...next!.status, ...rest, conditions: [...old, ...conditions] };
    }
  }
  return next!;
}

test('planNode() creates the Node, fills its status, and then wants nothing more', () => {
  const made = applied(undefined, facts);
  const filled = applied(made, facts);
  assert.equal(filled.status?.conditions?.find(({ type }) => type === 'Ready')?.status, 'True');
  assert.deepEqual(filled.status?.addresses?.[0], { type: 'InternalIP', address: '172.31.0.11' });
  assert.deepEqual(planNode(facts, filled, now), []);
});

test('planNode() puts back a label that was removed and leaves labels of others alone', () => {
  const node = applied(applied(undefined, facts), facts);
  node.metadata.labels = { 'example.com/rack': 'r1' };
  assert.deepEqual(planNode(facts, node, now), [
    { kind: 'patch', patch: { metadata: { labels: { 'kubernetes.io/hostname': 'node1' } } } },
  ]);
});

test('planNode() keeps the transition time while only the message of a condition changes', () => {
  const broken = { ...facts, notReady: { reason: 'NoPodCidr', message: 'no pod CIDR yet' } };
  const node = applied(applied(undefined, broken), broken);
  const later = planNode(
    { ...broken, notReady: { reason: 'NoPodCidr', message: 'still none' } },
    node,
    '2026-01-01T00:01:00Z',
  );
  const [change] = later;
  assert.ok(change?.kind === 'patchStatus');
  assert.equal(change.patch.status.conditions?.[0]?.lastTransitionTime, now);
});

test('planNode() beside a kubelet writes only the network condition and annotations', () => {
  const node: Node = {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name: 'node1' },
    status: { addresses: [{ type: 'InternalIP', address: '192.0.2.99' }] },
  };
  const changes = planNode({ ...facts, ownsStatus: false, labels: {} }, node, now);
  assert.deepEqual(
    changes.map(({ kind }) => kind),
    ['patch', 'patchStatus'],
  );
  const status = changes[1];
  assert.ok(status?.kind === 'patchStatus');
  assert.deepEqual(
    status.patch.status.conditions?.map(({ type }) => type),
    ['NetworkUnavailable'],
  );
  assert.equal(status.patch.status.addresses, undefined);
});

test('planNode() without pods and without a kubelet registers the Node with its addresses', () => {
  const [create] = planNode({ ...facts, ownsStatus: false }, undefined, now);
  assert.equal(create?.kind, 'create');
  const registered: Node = { apiVersion: 'v1', kind: 'Node', metadata: { name: 'node1' } };
  const status = planNode({ ...facts, ownsStatus: false }, registered, now).at(-1);
  assert.ok(status?.kind === 'patchStatus');
  assert.equal(status.patch.status.addresses?.[0]?.type, 'InternalIP');
});
