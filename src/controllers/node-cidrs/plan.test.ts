import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { parseCidr } from '../../addr/index.ts';
import { isNetError } from '../../errors/net-error.ts';
import { nodeView } from '../views.ts';
import { cidrPools, planNodeCidrs } from './plan.ts';

const node = (name: string, podCIDRs: string[] = [], age = 0) =>
  nodeView({
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name, uid: name, creationTimestamp: new Date(1e12 + age).toISOString() },
    spec: { podCIDRs },
  });
const pools = (clusterCidrs: string[], nodeMaskV4 = 24, nodeMaskV6 = 64) =>
  cidrPools({ clusterCidrs, nodeMaskV4, nodeMaskV6 });
const told = (plan: ReturnType<typeof planNodeCidrs>) => [
  ...plan.assignments.map((one) => `${one.node.name} gets ${one.podCidrs.join(' ')}`),
  ...plan.problems.map((one) => `${one.node.name} ${one.reason}`),
];

test('each Node gets a network of each family, and what is taken stays taken', () => {
  const two = pools(['10.244.0.0/16', 'fd00:10:244::/56']);
  assert.deepEqual(
    told(planNodeCidrs([node('a'), node('b', ['10.244.0.0/24', 'fd00:10:244::/64'])], two, new Map())),
    ['a gets 10.244.1.0/24 fd00:10:244:1::/64'],
  );
});

test('a network that became free is given out again only after the others', () => {
  const one = pools(['10.0.0.0/22']);
  const cursors = new Map();
  assert.deepEqual(told(planNodeCidrs([node('a'), node('b')], one, cursors)), [
    'a gets 10.0.0.0/24',
    'b gets 10.0.1.0/24',
  ]);
  const left = [node('b', ['10.0.1.0/24'])];
  assert.deepEqual(told(planNodeCidrs([...left, node('c'), node('d'), node('e')], one, cursors)), [
    'c gets 10.0.2.0/24',
    'd gets 10.0.3.0/24',
    'e gets 10.0.0.0/24',
  ]);
});

test('wrong networks are told about, the younger Node of two is in the wrong', () => {
  const one = pools(['10.0.0.0/22']);
  const cases: [string, Parameters<typeof planNodeCidrs>[0], string[]][] = [
    [
      'duplicate',
      [node('young', ['10.0.1.0/24'], 2), node('old', ['10.0.1.0/24'], 1)],
      ['young CIDRDuplicate'],
    ],
    [
      'overlap',
      [node('old', ['10.0.0.0/23'], 1), node('young', ['10.0.1.0/24'], 2)],
      ['young CIDRDuplicate'],
    ],
    ['foreign', [node('a', ['192.168.0.0/24'])], ['a CIDROutOfRange']],
    ['garbage', [node('a', ['nonsense'])], ['a CIDRInvalid']],
    [
      'exhausted',
      [node('a', ['10.0.0.0/23']), node('b', ['10.0.2.0/23']), node('c')],
      ['c CIDRNotAvailable'],
    ],
    ['around the pool', [node('a', ['10.0.0.0/8']), node('c')], ['a CIDROutOfRange', 'c CIDRNotAvailable']],
  ];
  for (const [name, nodes, want] of cases)
    assert.deepEqual(told(planNodeCidrs(nodes, one, new Map())), want, name);
});

test('a younger Node in the wrong gets another network as soon as it is empty', () => {
  const two = pools(['10.0.0.0/22', 'fd00::/60']);
  const nodes = [
    node('old', ['10.0.1.0/24', 'fd00::/64'], 1),
    node('young', ['10.0.1.0/24', 'fd00:0:0:5::/64'], 2),
    node('odd', ['10.0.0.0/23'], 3),
    node('broken', ['nonsense'], 4),
  ];
  const plan = (empty: string[]) => planNodeCidrs(nodes, two, new Map(), ({ name }) => empty.includes(name));
  assert.deepEqual(told(plan([])), ['young CIDRDuplicate', 'odd CIDRDuplicate', 'broken CIDRInvalid']);
  const { assignments } = plan(['old', 'young', 'odd', 'broken']);
  assert.deepEqual(
    assignments.map(({ repair, node: { name } }) => `${name}: ${repair}`),
    [
      'young: podCIDR 10.0.1.0/24 overlaps that of Node "old"; no pod lives there, the Node has 10.0.0.0/24 and fd00:0:0:5::/64 now',
      'odd: podCIDR 10.0.0.0/23 overlaps that of Node "old"; no pod lives there, the Node has 10.0.2.0/24 and fd00:0:0:1::/64 now',
      'broken: podCIDR "nonsense" is no network; no pod lives there, the Node has 10.0.3.0/24 and fd00:0:0:2::/64 now',
    ],
  );
});

test('no two Nodes ever get overlapping networks', () => {
  fc.assert(
    fc.property(fc.array(fc.option(fc.nat(20)), { maxLength: 40 }), (presets) => {
      const two = pools(['10.0.0.0/19', 'fd00::/60']);
      const nodes = presets.map((preset, i) => node(`n${i}`, preset === null ? [] : [`10.0.${preset}.0/24`]));
      const plan = planNodeCidrs(nodes, two, new Map());
      const all = [
        ...new Set(nodes.flatMap((one) => [...one.podCidrs])),
        ...plan.assignments.flatMap((one) => one.podCidrs),
      ].map(parseCidr);
      for (const [i, a] of all.entries())
        for (const b of all.slice(i + 1)) assert.ok(!a.overlaps(b), `${a} ${b}`);
    }),
    { numRuns: 50 },
  );
});

test('cluster networks that overlap or cannot be cut are refused', () => {
  const cases: [() => unknown, string, RegExp][] = [
    [
      () => pools(['10.0.0.0/8', '10.1.0.0/16']),
      'CONTROLLER_CIDRS_OVERLAP',
      /"10.1.0.0\/16": it overlaps .*"10.0.0.0\/8"/,
    ],
    [
      () =>
        cidrPools({
          clusterCidrs: ['10.0.0.0/8'],
          serviceCidrs: ['10.96.0.0/16'],
          nodeMaskV4: 24,
          nodeMaskV6: 64,
        }),
      'CONTROLLER_CIDRS_OVERLAP',
      /--service-cidr/,
    ],
    [() => pools(['10.0.0.1/8']), 'CONTROLLER_BAD_CIDR', /10.0.0.1/],
    [() => pools(['x']), 'CONTROLLER_BAD_CIDR', /"x"/],
    [() => pools(['10.0.0.0/24'], 16), 'CONTROLLER_BAD_NODE_MASK', /ipv4|\/16/],
    [() => pools(['fd00::/64'], 24, 127), 'CONTROLLER_BAD_NODE_MASK', /\/127/],
  ];
  for (const [make, code, text] of cases)
    assert.throws(make, (error) => isNetError(error, code) && text.test(error.message), code);
});
