import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Node, Pod, PodSpec, Taint } from '../../model/kubernetes.ts';
import { nodeView, podView } from '../views.ts';
import { planBindings } from './plan.ts';

const node = (
  name: string,
  patch: {
    labels?: Record<string, string>;
    taints?: Taint[];
    ready?: string;
    spec?: object;
    pods?: string;
  } = {},
) =>
  nodeView({
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name, labels: { 'kubernetes.io/hostname': name, ...patch.labels } },
    spec: { taints: patch.taints ?? [], ...patch.spec },
    status: {
      conditions: [{ type: 'Ready', status: patch.ready ?? 'True' }],
      ...(patch.pods && { allocatable: { pods: patch.pods } }),
    },
  } as Node);
const pod = (name: string, spec: Partial<PodSpec> = {}, labels: Record<string, string> = { app: 'web' }) =>
  podView({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace: 'default', uid: name, labels },
    spec: { containers: [{ name: 'c' }], ...spec },
  } as Pod);
const told = (pods: ReturnType<typeof pod>[], nodes: ReturnType<typeof node>[]) => {
  const plan = planBindings(pods, nodes);
  return [
    ...plan.bindings.map((one) => `${one.pod.name} -> ${one.nodeName}`),
    ...plan.failures.map((one) => `${one.pod.name}: ${one.message}`),
  ];
};

const required = (key: string, operator: string, values?: string[]) =>
  ({
    nodeAffinity: {
      requiredDuringSchedulingIgnoredDuringExecution: {
        nodeSelectorTerms: [{ matchExpressions: [{ key, operator, ...(values && { values }) }] }],
      },
    },
  }) as PodSpec['affinity'] & object;
const apart = {
  podAntiAffinity: {
    requiredDuringSchedulingIgnoredDuringExecution: [
      { labelSelector: { matchLabels: { app: 'web' } }, topologyKey: 'kubernetes.io/hostname' },
    ],
  },
};
const gpu: Taint = { key: 'gpu', value: 'yes', effect: 'NoSchedule' };
const web = { labelSelector: { matchLabels: { app: 'web' } } };

test('pods go where they may, apart from their copies, and where there are fewest', () => {
  const cases: [string, ReturnType<typeof pod>[], ReturnType<typeof node>[], string[]][] = [
    [
      'copies are spread',
      [pod('a'), pod('b'), pod('c')],
      [node('n1'), node('n2')],
      ['a -> n1', 'b -> n2', 'c -> n1'],
    ],
    [
      'copies count more than the number of pods',
      [
        pod('x', { nodeName: 'n1' }, {}),
        pod('y', { nodeName: 'n1' }, {}),
        pod('a', { nodeName: 'n2' }),
        pod('b'),
      ],
      [node('n1'), node('n2')],
      ['b -> n1'],
    ],
    [
      'else the emptier one',
      [pod('x', { nodeName: 'n1' }, {}), pod('b')],
      [node('n1'), node('n2')],
      ['b -> n2'],
    ],
    [
      'nodeSelector',
      [pod('a', { nodeSelector: { disk: 'ssd' } })],
      [node('n1'), node('n2', { labels: { disk: 'ssd' } })],
      ['a -> n2'],
    ],
    [
      'affinity In',
      [pod('a', { affinity: required('zone', 'In', ['z2']) })],
      [node('n1'), node('n2', { labels: { zone: 'z2' } })],
      ['a -> n2'],
    ],
    [
      'affinity Gt',
      [pod('a', { affinity: required('cores', 'Gt', ['4']) })],
      [node('n1', { labels: { cores: '4' } }), node('n2', { labels: { cores: '16' } })],
      ['a -> n2'],
    ],
    ['a taint', [pod('a')], [node('n1', { taints: [gpu] }), node('n2')], ['a -> n2']],
    [
      'a toleration',
      [pod('a', { tolerations: [{ key: 'gpu', operator: 'Exists' }] })],
      [node('n1', { taints: [gpu] })],
      ['a -> n1'],
    ],
    [
      'a toleration of another value',
      [pod('a', { tolerations: [{ key: 'gpu', value: 'no' }] })],
      [node('n1', { taints: [gpu] })],
      ['a: 0/1 nodes are available: 1 node(s) had untolerated taint {gpu: yes}.'],
    ],
    [
      'PreferNoSchedule is avoided',
      [pod('a')],
      [node('n1', { taints: [{ key: 'x', effect: 'PreferNoSchedule' }] }), node('n2')],
      ['a -> n2'],
    ],
    [
      'reasons are counted',
      [pod('a', { nodeSelector: { disk: 'ssd' } })],
      [
        node('n1'),
        node('n2'),
        node('n3', { spec: { unschedulable: true } }),
        node('n4', { ready: 'Unknown' }),
      ],
      [
        "a: 0/4 nodes are available: 1 node(s) were not ready, 1 node(s) were unschedulable, 2 node(s) didn't match Pod's node affinity/selector.",
      ],
    ],
    ['no nodes', [pod('a')], [], ['a: no nodes available to schedule pods']],
    [
      'a full node',
      [pod('x', { nodeName: 'n1' }), pod('a')],
      [node('n1', { pods: '1' })],
      ['a: 0/1 nodes are available: 1 Too many pods.'],
    ],
    [
      'a gated pod and one of another scheduler wait',
      [pod('a', { schedulingGates: [{ name: 'g' }] }), pod('b', { schedulerName: 'other' })],
      [node('n1')],
      [],
    ],
    [
      'host ports',
      [
        pod('x', {
          nodeName: 'n1',
          containers: [{ name: 'c', ports: [{ containerPort: 80, hostPort: 80 }] }],
        }),
        pod('a', { containers: [{ name: 'c', ports: [{ containerPort: 8080, hostPort: 80 }] }] }),
      ],
      [node('n1'), node('n2', { labels: {} })],
      ['a -> n2'],
    ],
    [
      'anti-affinity',
      [pod('a', { affinity: apart }), pod('b', { affinity: apart })],
      [node('n1')],
      ['a -> n1', "b: 0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."],
    ],
    [
      'anti-affinity of those who are there',
      [pod('x', { affinity: apart, nodeName: 'n1' }, { app: 'db' }), pod('a')],
      [node('n1'), node('n2')],
      ['a -> n2'],
    ],
    [
      'pod affinity, the first one included',
      [
        pod('a', {
          affinity: {
            podAffinity: {
              requiredDuringSchedulingIgnoredDuringExecution: [{ ...web, topologyKey: 'zone' }],
            },
          },
        }),
        pod('b', {
          affinity: {
            podAffinity: {
              requiredDuringSchedulingIgnoredDuringExecution: [{ ...web, topologyKey: 'zone' }],
            },
          },
        }),
      ],
      [node('n1', { labels: { zone: 'z1' } }), node('n2', { labels: { zone: 'z2' } })],
      ['a -> n1', 'b -> n1'],
    ],
    [
      'topology spread',
      [
        pod('x', { nodeName: 'n1' }),
        pod('a', {
          nodeSelector: {},
          topologySpreadConstraints: [
            { ...web, maxSkew: 1, topologyKey: 'zone', whenUnsatisfiable: 'DoNotSchedule' },
          ],
        }),
      ],
      [
        node('n1', { labels: { zone: 'z1' } }),
        node('n2', { labels: { zone: 'z2' }, spec: { unschedulable: true } }),
      ],
      [
        "a: 0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) were unschedulable.",
      ],
    ],
  ];
  for (const [name, pods, nodes, want] of cases) assert.deepEqual(told(pods, nodes), want, name);
});
