import assert from 'node:assert/strict';
import test from 'node:test';
import { parseIp } from '../../addr/index.ts';
import { changeText, type NftChange } from './change.ts';
import { ACCEPT, DROP, inSet, ruleOf } from './rule.ts';
import { inSteps } from './steps.ts';

const at = { family: 'ip', table: 'portolan' } as const;
const map = { name: 'policy_ingress', map: true, key: 'ipv4_addr' };
const group = { name: 'policy_g_1', map: false, key: 'ipv4_addr' };
const pod = parseIp('10.244.1.2');
const old: NftChange[] = [
  { ...at, change: 'flush chain', chain: 'policy_in_old' },
  { ...at, change: 'delete chain', chain: 'policy_in_old' },
];
const isolate: NftChange[] = [
  { ...at, change: 'add table' },
  { ...at, change: 'add set', set: group },
  { ...at, change: 'delete elements', set: map, elements: [{ key: [pod] }] },
  { ...at, change: 'add chain', chain: 'policy_in_new' },
  {
    ...at,
    change: 'add rule',
    chain: 'policy_in_new',
    rule: ruleOf([inSet(['ip saddr'], 'policy_g_1'), ACCEPT]),
  },
  { ...at, change: 'add rule', chain: 'policy_in_new', rule: ruleOf([DROP]) },
  { ...at, change: 'add elements', set: group, elements: [{ key: [pod] }] },
  {
    ...at,
    change: 'add elements',
    set: map,
    elements: [{ key: [pod], data: { verdict: 'goto', chain: 'policy_in_new' } }],
  },
];

test('a chain has its rules before anything leads to it', () => {
  const steps = inSteps([...isolate, ...old]);
  assert.deepEqual(
    steps.map((step) => step.map((change) => changeText(change).split(' ').slice(0, 2).join(' '))),
    [
      ['add table', 'add set', 'add chain', 'add rule', 'add rule', 'add element'],
      ['delete element', 'add element', 'flush chain', 'delete chain'],
    ],
  );
  assert.ok(steps[0]!.every((change) => !('set' in change) || change.set.name !== 'policy_ingress'));
});

test('without new chains, or when something is made anew under its name, it stays one transaction', () => {
  const plain = isolate.filter(({ change }) => change !== 'add chain' && change !== 'add rule');
  assert.deepEqual(inSteps(plain), [plain]);
  const anew: NftChange[] = [{ ...at, change: 'delete chain', chain: 'policy_in_new' }, ...isolate];
  assert.deepEqual(inSteps(anew), [anew]);
});
