import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Condition, Taint } from '../../model/kubernetes.ts';
import { nodeView, type PodView } from '../views.ts';
import { planNodeLifecycle } from './plan.ts';

const node = (conditions: Partial<Condition>[], taints: Taint[] = [], unschedulable = false) =>
  nodeView({
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name: 'n1' },
    spec: { taints, unschedulable },
    status: { conditions: conditions as Condition[] },
  });
const ready = { type: 'Ready', status: 'True' } as const;
const unknown = { type: 'Ready', status: 'Unknown' } as const;
const unreachable: Taint[] = [
  { key: 'node.kubernetes.io/unreachable', effect: 'NoSchedule' },
  { key: 'node.kubernetes.io/unreachable', effect: 'NoExecute' },
];
const pods = [
  { name: 'up', ready: true, finished: false },
  { name: 'down', ready: false, finished: false },
] as PodView[];

function told(one: ReturnType<typeof node>, quietMs: number): string[] {
  return planNodeLifecycle(one, { quietMs, graceMs: 40_000 }, pods, '2026-01-01T00:00:00Z').map((write) => {
    if (write.verb === 'conditions')
      return `conditions ${write.conditions.map(({ type, status }) => `${type}=${status}`).join()}`;
    if (write.verb === 'taints')
      return `taints ${write.taints.map(({ key, effect }) => `${key.replace('node.kubernetes.io/', '')}:${effect}`).join()}`;
    return `not ready ${write.pod.name}`;
  });
}

test('what a Node says and how long it has been silent decide what is written', () => {
  const cases: [string, ReturnType<typeof node>, number, string[]][] = [
    ['a healthy Node is left alone', node([ready]), 1000, []],
    [
      'a silent Node is Unknown, tainted, and its ready pods are not ready',
      node([ready, { type: 'DiskPressure', status: 'False' }]),
      41_000,
      [
        'conditions Ready=Unknown,DiskPressure=Unknown',
        'taints unreachable:NoSchedule,unreachable:NoExecute',
        'not ready up',
      ],
    ],
    ['nothing is written twice but for pods', node([unknown], unreachable), 90_000, ['not ready up']],
    ['a Node that is back loses the taints', node([ready], unreachable), 0, ['taints ']],
    [
      'a Node that says it is not ready keeps its pods',
      node([{ type: 'Ready', status: 'False' }]),
      0,
      ['taints not-ready:NoSchedule,not-ready:NoExecute'],
    ],
    ['a new Node takes no pods before it is ready', node([]), 0, ['taints not-ready:NoSchedule']],
    [
      'a Node that never spoke is Unknown after the grace time',
      node([]),
      41_000,
      ['conditions Ready=Unknown', 'taints unreachable:NoSchedule,unreachable:NoExecute', 'not ready up'],
    ],
    ['cordoned', node([ready], [], true), 0, ['taints unschedulable:NoSchedule']],
    [
      'taints of others stay',
      node([ready], [{ key: 'gpu', effect: 'NoSchedule' }, ...unreachable]),
      0,
      ['taints gpu:NoSchedule'],
    ],
  ];
  for (const [name, one, quietMs, want] of cases) assert.deepEqual(told(one, quietMs), want, name);
});
