import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ClusterNetworkPolicy } from '../../../model/cluster-network-policy.ts';
import { decodeObject, kinds, validateCreate } from '../index.ts';
import { validateClusterNetworkPolicy } from './cluster-network-policy.ts';

type Spec = ClusterNetworkPolicy['spec'];

function faults(spec: Partial<Spec>): string[] {
  const whole: Spec = { tier: 'Admin', priority: 10, subject: { namespaces: {} }, ...spec };
  const policy = { metadata: { name: 'a' }, spec: whole } as ClusterNetworkPolicy;
  return validateClusterNetworkPolicy(policy).map(({ field, message }) => `${field}: ${message}`);
}

const peers = { from: [{ namespaces: {} }] };
const many = <T>(value: T, count = 26) => Array.from({ length: count }, () => value);

test('a policy with every kind of peer and protocol is accepted', () => {
  assert.deepEqual(
    faults({
      subject: { pods: { namespaceSelector: {}, podSelector: { matchLabels: { app: 'web' } } } },
      ingress: [{ name: 'x', action: 'Pass', ...peers, protocols: [{ destinationNamedPort: 'http' }] }],
      egress: [
        {
          action: 'Deny',
          to: [{ nodes: {} }, { networks: ['10.0.0.0/8', '::/0'] }],
          protocols: [
            { tcp: { destinationPort: { number: 80 } } },
            { sctp: { destinationPort: { range: { start: 1, end: 2 } } } },
          ],
        },
      ],
    }),
    [],
  );
});

const refused: readonly [what: string, spec: Partial<Spec>, field: string][] = [
  ['another tier', { tier: 'Middle' as 'Admin' }, 'spec.tier'],
  ['a priority above 1000', { priority: 1001 }, 'spec.priority'],
  ['a negative priority', { priority: -1 }, 'spec.priority'],
  ['a subject that says nothing', { subject: {} }, 'spec.subject'],
  ['a subject that says two things', { subject: { namespaces: {}, pods: {} } }, 'spec.subject'],
  ['a rule without peers', { ingress: [{ action: 'Deny', from: [] }] }, 'spec.ingress[0].from'],
  ['a peer that says nothing', { ingress: [{ action: 'Deny', from: [{}] }] }, 'spec.ingress[0].from[0]'],
  [
    'networks as a source',
    { ingress: [{ action: 'Deny', from: [{ networks: ['10.0.0.0/8'] }] }] },
    'spec.ingress[0].from[0]',
  ],
  ['another action', { ingress: [{ action: 'Allow' as 'Deny', ...peers }] }, 'spec.ingress[0].action'],
  ['26 rules', { ingress: many({ action: 'Deny' as const, ...peers }) }, 'spec.ingress'],
  ['a long name', { ingress: [{ action: 'Deny', ...peers, name: 'x'.repeat(101) }] }, 'spec.ingress[0].name'],
  [
    'an empty list of protocols',
    { ingress: [{ action: 'Deny', ...peers, protocols: [] }] },
    'spec.ingress[0].protocols',
  ],
  [
    'a range that ends where it starts',
    {
      ingress: [
        {
          action: 'Deny',
          ...peers,
          protocols: [{ udp: { destinationPort: { range: { start: 5, end: 5 } } } }],
        },
      ],
    },
    'spec.ingress[0].protocols[0].udp.destinationPort.range',
  ],
  [
    'a network that is none',
    { egress: [{ action: 'Deny', to: [{ networks: ['10.0.0.0/33'] }] }] },
    'spec.egress[0].to[0].networks[0]',
  ],
  [
    'a network twice',
    { egress: [{ action: 'Deny', to: [{ networks: ['10.0.0.0/8', '10.0.0.0/8'] }] }] },
    'spec.egress[0].to[0].networks[1]',
  ],
  [
    'a named port of a network',
    {
      egress: [
        { action: 'Deny', to: [{ networks: ['::/0'] }], protocols: [{ destinationNamedPort: 'http' }] },
      ],
    },
    'spec.egress[0]',
  ],
];
for (const [what, spec, field] of refused)
  test(`${what} is refused at ${field}`, () => {
    assert.deepEqual(
      faults(spec).map((fault) => fault.split(': ')[0]),
      [field],
    );
  });

test('an empty list of protocols is refused as it comes from a client, and not taken for none', () => {
  const schema = kinds.find(({ kind }) => kind === 'ClusterNetworkPolicy')!;
  const decoded = (rule: object) => {
    const spec = { tier: 'Admin', priority: 1, subject: { namespaces: {} }, ingress: [rule] };
    const json = {
      apiVersion: `${schema.group}/${schema.version}`,
      kind: schema.kind,
      metadata: { name: 'a' },
      spec,
    };
    return validateCreate(schema, decodeObject(schema, json).object).map(({ field }) => field);
  };
  const deny = { action: 'Deny', ...peers };
  assert.deepEqual(decoded({ ...deny, protocols: [] }), ['spec.ingress[0].protocols']);
  assert.deepEqual(decoded(deny), []);
});
