import assert from 'node:assert/strict';
import test from 'node:test';
import type { Pod } from '../model/kubernetes.ts';
import { podHostPorts } from './host-ports.ts';

const aPod = (phase: 'Running' | 'Succeeded', hostPort?: number): Pod => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name: 'web', namespace: 'default' },
  spec: {
    containers: [{ name: 'c', image: 'x', ports: [{ containerPort: 80, ...(hostPort && { hostPort }) }] }],
  },
  status: { phase, podIPs: [{ ip: '10.244.1.2' }] },
});

test('hostPorts follow their pods, and what changes besides them is not told', async () => {
  const items = new Map<string, Pod>([['default/web', aPod('Running', 8000)]]);
  let tell: (keys: ReadonlySet<string>) => void = () => {};
  const table = podHostPorts({ items, synced: Promise.resolve(), onChange: (listener) => (tell = listener) });
  const told: string[] = [];
  table.onChange((keys) => told.push([...keys].join()));
  await table.synced;
  assert.deepEqual([...table.items.keys()], ['pod/default/web']);
  assert.deepEqual(told, ['pod/default/web']);
  const changed = new Set(['default/web']);
  items.set('default/web', {
    ...aPod('Running', 8000),
    metadata: { name: 'web', namespace: 'default', labels: { a: 'b' } },
  });
  tell(changed);
  assert.equal(told.length, 1);
  items.set('default/web', aPod('Succeeded', 8000));
  tell(changed);
  assert.deepEqual([told.length, table.items.size], [2, 0]);
  items.set('default/web', aPod('Running'));
  tell(changed);
  items.delete('default/web');
  tell(changed);
  assert.equal(told.length, 2);
});
