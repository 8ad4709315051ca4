import assert from 'node:assert/strict';
import test from 'node:test';
import type { Node } from '../model/kubernetes.ts';
import { nodeRecord, peerLeases } from './peers.ts';

const nodeOf = (name: string, annotations: Record<string, string>, podCIDRs?: string[]): Node => ({
  apiVersion: 'v1',
  kind: 'Node',
  metadata: { name, annotations },
  ...(podCIDRs && { spec: { podCIDRs } }),
});
const ready = {
  'flannel.alpha.coreos.com/backend-type': 'host-gw',
  'flannel.alpha.coreos.com/public-ip': '172.31.0.12',
};

test('peerLeases() reads all others, waits for those that are starting, and tells those that are wrong', () => {
  const { leases, unreadable } = peerLeases(
    [
      nodeOf('self', ready, ['10.244.0.0/24']),
      nodeOf('good', ready, ['10.244.1.0/24']),
      nodeOf('starting', {}, ['10.244.2.0/24']),
      nodeOf('no-cidr', ready),
      nodeOf('wrong', { ...ready, 'flannel.alpha.coreos.com/public-ip': 'x' }, ['10.244.3.0/24']),
    ],
    'self',
  );
  assert.deepEqual(
    leases.map(({ node }) => node),
    ['good'],
  );
  assert.deepEqual(
    unreadable.map(({ node }) => node),
    ['wrong'],
  );
  assert.match(unreadable[0]!.error.message, /wrong/);
});

test('the lease of a Node object is read once', () => {
  const node = nodeOf('good', ready, ['10.244.1.0/24']);
  const [first] = peerLeases([node], 'self').leases;
  assert.equal(peerLeases([node], 'self').leases[0], first);
  assert.notEqual(peerLeases([{ ...node }], 'self').leases[0], first);
});

test('nodeRecord() keeps only what leads to its pods', () => {
  assert.deepEqual(nodeRecord(nodeOf('n', { ...ready, 'example.com/secret': 'x' }, ['10.244.1.0/24'])), {
    name: 'n',
    annotations: ready,
    podCidrs: ['10.244.1.0/24'],
  });
});
