import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { KubeObject } from '../../model/kubernetes.ts';
import { kinds } from '../schema/index.ts';
import { columnsOf } from './columns.ts';
import { humanDuration } from './duration.ts';

const now = new Date('2026-01-02T03:04:05Z');
const cells = (kind: string, object: object, group = '') => {
  const schema = kinds.find((k) => k.kind === kind && (group === '' || k.group === group))!;
  const base = { metadata: { name: 'x', creationTimestamp: '2026-01-02T03:00:00Z' } };
  return columnsOf(schema)
    .cells({ ...base, ...object } as unknown as KubeObject, now)
    .join(' | ');
};

test('ages read as in kubectl', () => {
  const s = 1000;
  const cases: [number, string][] = [
    [-5 * s, '<invalid>'],
    [-s, '0s'],
    [119 * s, '119s'],
    [120 * s, '2m'],
    [245 * s, '4m5s'],
    [600 * s, '10m'],
    [3 * 3600 * s, '3h'],
    [3.5 * 3600 * s, '3h30m'],
    [8 * 3600 * s, '8h'],
    [49 * 3600 * s, '2d1h'],
    [8 * 86400 * s, '8d'],
    [730 * 86400 * s, '2y'],
    [800 * 86400 * s, '2y70d'],
    [9 * 365 * 86400 * s, '9y'],
  ];
  for (const [ms, text] of cases) assert.equal(humanDuration(ms), text);
});

test('a pod in one line says what is the matter with it', () => {
  const running = { name: 'c', ready: true, restartCount: 0, state: { running: {} } };
  const pod = (status: object, more: object = {}) =>
    cells('Pod', { spec: { containers: [{ name: 'c' }], nodeName: 'n1' }, status, ...more });
  assert.equal(
    pod({ phase: 'Running', podIPs: [{ ip: '10.0.0.1' }], containerStatuses: [running] }),
    'x | 1/1 | Running | 0 | 4m5s | 10.0.0.1 | n1 | <none> | <none>',
  );
  const crashed = {
    name: 'c',
    ready: false,
    restartCount: 3,
    state: { waiting: { reason: 'CrashLoopBackOff' } },
    lastState: { terminated: { exitCode: 1, finishedAt: '2026-01-02T03:03:05Z' } },
  };
  assert.match(
    pod({ phase: 'Running', containerStatuses: [crashed] }),
    /0\/1 \| CrashLoopBackOff \| 3 \(60s ago\)/,
  );
  const ended = { ...running, ready: false, state: { terminated: { exitCode: 0, reason: 'Completed' } } };
  assert.match(pod({ phase: 'Succeeded', containerStatuses: [ended] }), /0\/1 \| Completed/);
  const killed = { ...running, ready: false, state: { terminated: { exitCode: 137, signal: 9 } } };
  assert.match(pod({ phase: 'Failed', containerStatuses: [killed] }), /Signal:9/);
  const deleted = {
    metadata: {
      name: 'x',
      deletionTimestamp: '2026-01-02T03:05:00Z',
      creationTimestamp: '2026-01-02T03:00:00Z',
    },
  };
  assert.match(pod({ phase: 'Running', containerStatuses: [running] }, deleted), /Terminating/);
  const init = { name: 'i', ready: false, restartCount: 0, state: { running: {} } };
  const withInit = { spec: { containers: [{ name: 'c' }], initContainers: [{ name: 'i' }] } };
  assert.match(pod({ phase: 'Pending', initContainerStatuses: [init] }, withInit), /Init:0\/1/);
});

test('services, nodes, slices and events print their columns', () => {
  assert.equal(
    cells('Service', {
      spec: {
        type: 'NodePort',
        clusterIP: '10.96.0.9',
        ports: [{ port: 80, nodePort: 30080, protocol: 'TCP' }],
        selector: { b: '2', a: '1' },
      },
    }),
    'x | NodePort | 10.96.0.9 | <none> | 80:30080/TCP | 4m5s | a=1,b=2',
  );
  assert.match(
    cells('Service', {
      spec: { type: 'LoadBalancer', clusterIP: '10.96.0.9' },
      status: { loadBalancer: {} },
    }),
    /<pending> \| <none>/,
  );
  const ingress = [{ ip: '192.0.2.20' }, { ip: 'fd00:1::20' }];
  assert.match(
    cells('Service', {
      spec: { type: 'LoadBalancer', clusterIP: '10.96.0.9' },
      status: { loadBalancer: { ingress } },
    }),
    /\| 192\.0\.2\.20,fd00:1::20 \|/,
  );
  assert.match(
    cells('Service', { spec: { type: 'ExternalName', externalName: 'example.com' } }),
    /ExternalName \| <none> \| example\.com/,
  );
  const node = {
    metadata: {
      name: 'x',
      creationTimestamp: '2026-01-02T03:00:00Z',
      labels: { 'node-role.kubernetes.io/control-plane': '' },
    },
    spec: { unschedulable: true },
    status: {
      conditions: [{ type: 'Ready', status: 'True' }],
      addresses: [{ type: 'InternalIP', address: '192.0.2.1' }],
      nodeInfo: {
        kubeletVersion: 'v1',
        osImage: 'Debian',
        kernelVersion: '6.1',
        containerRuntimeVersion: 'process',
      },
    },
  };
  assert.equal(
    cells('Node', node),
    'x | Ready,SchedulingDisabled | control-plane | 4m5s | v1 | 192.0.2.1 | <none> | Debian | 6.1 | process',
  );
  const slice = {
    addressType: 'IPv4',
    ports: [{ name: 'a', port: 80 }],
    endpoints: [1, 2, 3, 4].map((i) => ({ addresses: [`10.0.0.${i}`] })),
  };
  assert.equal(
    cells('EndpointSlice', slice),
    'x | IPv4 | 80 | 10.0.0.1,10.0.0.2,10.0.0.3 + 1 more... | 4m5s',
  );
  const event = {
    involvedObject: { kind: 'Pod', name: 'p' },
    type: 'Normal',
    reason: 'R',
    message: 'm ',
    lastTimestamp: '2026-01-02T03:03:05Z',
    source: { component: 'c', host: 'n' },
  };
  assert.equal(cells('Event', event), '60s | Normal | R | pod/p |  | c, n | m | <unknown> | 1 | x');
  assert.equal(cells('ConfigMap', { data: { a: '' }, binaryData: { b: '' } }), 'x | 2 | 4m5s');
  assert.equal(cells('NetworkPolicy', { spec: { podSelector: {} } }), 'x | <none> | 4m5s');
  assert.equal(cells('Lease', { spec: { holderIdentity: 'h' } }), 'x | h | 4m5s');
  assert.equal(cells('Namespace', { status: { phase: 'Active' } }), 'x | Active | 4m5s');
});
