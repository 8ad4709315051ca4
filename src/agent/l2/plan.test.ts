import assert from 'node:assert/strict';
import test from 'node:test';
import { parseCidr, parseIp } from '../../addr/index.ts';
import type { ServicePlan } from '../../service/index.ts';
import { leaseName, planAnnouncements } from './plan.ts';

const links = [
  { ifindex: 2, network: parseCidr('172.31.0.0/24') },
  { ifindex: 2, network: parseCidr('fd00::/64') },
];
const service = (key: string, ips: string[], externalLocal = false) => ({
  key,
  pooledIPs: ips,
  externalLocal,
});
const plan = (family: 4 | 6, members: number[]) =>
  ({ ports: [{ family, local: { members } }] }) as unknown as Pick<ServicePlan, 'ports'>;

test('a node stands for addresses that it can answer for', () => {
  const v4 = '172.31.0.200';
  const cases: [
    string,
    ReturnType<typeof service>[],
    [string, Pick<ServicePlan, 'ports'>][],
    Record<string, string>,
  ][] = [
    ['nothing to announce', [service('a', [])], [], {}],
    ['on its link, both families', [service('a', [v4, 'fd00::200'])], [], { [v4]: 'a', 'fd00::200': 'a' }],
    ['on no link of it', [service('a', ['10.9.0.1'])], [], {}],
    [
      'client addresses are kept, a pod is here',
      [service('a', [v4], true)],
      [['a', plan(4, [0])]],
      { [v4]: 'a' },
    ],
    ['client addresses are kept, no pod is here', [service('a', [v4], true)], [['a', plan(4, [])]], {}],
    ['a pod of the other family only', [service('a', [v4], true)], [['a', plan(6, [0])]], {}],
    ['shared', [service('a', [v4]), service('b', [v4])], [], { [v4]: 'a b' }],
    [
      'shared, one of the two has no pod here',
      [service('a', [v4], true), service('b', [v4], true)],
      [['a', plan(4, [0])]],
      {},
    ],
  ];
  for (const [name, services, plans, want] of cases) {
    const { candidacies } = planAnnouncements(services, new Map(plans), links);
    assert.deepEqual(
      Object.fromEntries([...candidacies].map(([address, one]) => [address, one.services.join(' ')])),
      want,
      name,
    );
  }
});

test('a Lease is named after its address', () => {
  assert.equal(leaseName(parseIp('172.31.0.200')), 'portolan-l2-172.31.0.200');
  assert.equal(leaseName(parseIp('fd00::')), 'portolan-l2-fd00-0-0-0-0-0-0-0');
});
