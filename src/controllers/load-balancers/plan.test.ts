import assert from 'node:assert/strict';
import test from 'node:test';
import type { ConfigMap, Service } from '../../model/kubernetes.ts';
import { planLoadBalancers } from './plan.ts';
import { type AddressPool, readPool } from './pools.ts';
import { addressCondition, type LoadBalancerView, loadBalancerView } from './types.ts';

const configMap = (data: Record<string, string>, name = 'pool') =>
  ({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name, uid: 'u' }, data }) as ConfigMap;

function pool(data: Record<string, string>, name?: string): AddressPool {
  const read = readPool(configMap(data, name));
  if ('error' in read) throw read.error;
  return read;
}

interface Words {
  type?: Service['spec']['type'];
  class?: string;
  has?: string;
  /** Whose `has` is; ours unless told. */
  foreign?: boolean;
  request?: string;
  key?: string;
  port?: number;
  local?: boolean;
  app?: string;
  labels?: Record<string, string>;
  families?: ('IPv4' | 'IPv6')[];
  prefer?: boolean;
}

let serial = 0;
/** A Service younger than those before it; `has` are the addresses in its status. */
function service(name: string, words: Words = {}): LoadBalancerView {
  const ingress = words.has ? words.has.split(',').map((ip) => ({ ip, ipMode: 'VIP' as const })) : [];
  const view = loadBalancerView({
    apiVersion: 'v1',
    kind: 'Service',
    metadata: {
      name,
      namespace: 'default',
      creationTimestamp: `2026-01-01T00:00:${String(serial++ % 60).padStart(2, '0')}Z`,
      labels: words.labels ?? {},
      annotations: {
        ...(words.request && { 'portolan.dev/load-balancer-ips': words.request }),
        ...(words.key && { 'portolan.dev/sharing-key': words.key }),
      },
    },
    spec: {
      type: words.type ?? 'LoadBalancer',
      ...(words.class && { loadBalancerClass: words.class }),
      ipFamilies: words.families ?? ['IPv4'],
      ipFamilyPolicy: words.prefer
        ? 'PreferDualStack'
        : words.families?.length === 2
          ? 'RequireDualStack'
          : 'SingleStack',
      ports: [{ port: words.port ?? 80 }],
      externalTrafficPolicy: words.local ? 'Local' : 'Cluster',
      selector: { app: words.app ?? name },
    },
    status: {
      loadBalancer: { ingress },
      ...(ingress.length > 0 &&
        !words.foreign && {
          conditions: [
            {
              type: addressCondition,
              status: 'True' as const,
              reason: 'Assigned',
              message: `Addresses ${ingress.map(({ ip }) => ip).join(', ')}`,
              lastTransitionTime: 'then',
            },
          ],
        }),
    },
  });
  return view ?? assert.fail('it has nothing to do with load balancers');
}

/** `name addresses reason` of each write. */
const told = (services: LoadBalancerView[], pools: AddressPool[]) =>
  planLoadBalancers(services, pools, 'now').map(({ service, ingress, told }) =>
    [service.name, ingress.join('+') || '-', told?.reason ?? 'freed'].join(' '),
  );

const small = pool({ ranges: '10.0.0.1-10.0.0.2' });
const dual = pool({ ranges: '10.0.0.1-10.0.0.9 fd00::1-fd00::9' });

test('addresses go to the Services that want some, and stay with them', () => {
  const manual = pool({ ranges: '10.0.0.1-10.0.0.9', autoAssign: 'false' });
  const edge = pool({ ranges: '10.9.0.1-10.9.0.9', serviceSelector: 'tier in (edge)' }, 'edge');
  const cases: [string, () => LoadBalancerView[], AddressPool[], string[]][] = [
    ['no pools: nothing is touched', () => [service('a')], [], []],
    [
      'the lowest free one',
      () => [service('a'), service('b')],
      [small],
      ['a 10.0.0.1 Assigned', 'b 10.0.0.2 Assigned'],
    ],
    [
      'what one has is kept',
      () => [service('a'), service('b', { has: '10.0.0.1' })],
      [small],
      ['a 10.0.0.2 Assigned'],
    ],
    [
      'a pool that is empty',
      () => [service('a'), service('b'), service('c')],
      [small],
      ['a 10.0.0.1 Assigned', 'b 10.0.0.2 Assigned', 'c - PoolsExhausted'],
    ],
    [
      'of two with one address the younger gets another',
      () => [service('a', { has: '10.0.0.2' }), service('b', { has: '10.0.0.2' })],
      [small],
      ['b 10.0.0.1 Assigned'],
    ],
    ['another class is left alone', () => [service('a', { class: 'other/one' })], [small], []],
    ['our class', () => [service('a', { class: 'portolan.dev/l2' })], [small], ['a 10.0.0.1 Assigned']],
    [
      'what another load balancer gave is left alone and not given twice',
      () => [service('a', { has: '10.0.0.1', foreign: true }), service('b')],
      [small],
      ['b 10.0.0.2 Assigned'],
    ],
    [
      'a Service that is no load balancer any more',
      () => [service('a', { type: 'ClusterIP', has: '10.0.0.1' }), service('b')],
      [small],
      ['a - freed', 'b 10.0.0.1 Assigned'],
    ],
    ['all pools are gone', () => [service('a', { has: '10.0.0.1' })], [], ['a - freed']],
    [
      'an address that left its pool',
      () => [service('a', { has: '10.7.0.1' })],
      [small],
      ['a 10.0.0.1 Assigned'],
    ],
    ['a pool only for those who ask', () => [service('a')], [manual], ['a - NoPool']],
    ['one who asks', () => [service('a', { request: '10.0.0.7' })], [manual], ['a 10.0.0.7 Assigned']],
    [
      'asked for what others have',
      () => [service('a', { has: '10.0.0.7' }), service('b', { request: '10.0.0.7' })],
      [manual],
      ['b - RequestTaken'],
    ],
    [
      'asked for what is in no pool',
      () => [service('a', { request: '10.8.0.7' })],
      [manual],
      ['a - RequestNotInPool'],
    ],
    ['asked for nonsense', () => [service('a', { request: '10.8.0' })], [manual], ['a - BadRequest']],
    [
      'asked for nonsense: what it has stays',
      () => [service('a', { has: '10.0.0.1', request: 'x' })],
      [small],
      ['a 10.0.0.1 BadRequest'],
    ],
    [
      'asked for two of a family',
      () => [service('a', { request: '10.0.0.1,10.0.0.2' })],
      [manual],
      ['a - BadRequest'],
    ],
    [
      'asks for another than it has',
      () => [service('a', { has: '10.0.0.1', request: '10.0.0.2' })],
      [small],
      ['a 10.0.0.2 Assigned'],
    ],
    [
      'a pool for chosen Services',
      () => [service('a', { labels: { tier: 'edge' } }), service('b')],
      [edge],
      ['a 10.9.0.1 Assigned', 'b - NoPool'],
    ],
    [
      'both families',
      () => [service('a', { families: ['IPv6', 'IPv4'] })],
      [dual],
      ['a fd00::1+10.0.0.1 Assigned'],
    ],
    [
      'the second family need not be there',
      () => [service('a', { families: ['IPv4', 'IPv6'], prefer: true })],
      [small],
      ['a 10.0.0.1 Assigned'],
    ],
    [
      'the second family must be there',
      () => [service('a', { families: ['IPv4', 'IPv6'] })],
      [small],
      ['a 10.0.0.1 NoPool'],
    ],
    [
      'a sharing key with disjoint ports',
      () => [
        service('a', { key: 'k' }),
        service('b', { key: 'k', port: 443 }),
        service('c', { key: 'k', port: 443 }),
      ],
      [small],
      ['a 10.0.0.1 Assigned', 'b 10.0.0.1 Assigned', 'c 10.0.0.2 Assigned'],
    ],
    [
      'those who keep client addresses share only with the same pods',
      () => [
        service('a', { key: 'k', local: true, app: 'x' }),
        service('b', { key: 'k', port: 443, local: true, app: 'y' }),
        service('c', { key: 'k', port: 444, local: true, app: 'x' }),
      ],
      [small],
      ['a 10.0.0.1 Assigned', 'b 10.0.0.2 Assigned', 'c 10.0.0.1 Assigned'],
    ],
  ];
  for (const [name, services, pools, want] of cases) {
    serial = 0;
    // The order of arrival must not matter.
    assert.deepEqual(told(services().reverse(), pools).sort(), [...want].sort(), name);
  }
});

test('a second round writes nothing', () => {
  serial = 0;
  const services = [service('a'), service('b', { families: ['IPv4', 'IPv6'], prefer: true }), service('c')];
  const pools = [pool({ ranges: '10.0.0.1-10.0.0.2' })];
  const after = planLoadBalancers(services, pools, 'now').map(({ service, ingress, conditions }) => ({
    ...service,
    ingress,
    conditions,
    plain: true,
  }));
  assert.equal(after.length, 3);
  assert.deepEqual(planLoadBalancers(after, pools, 'later'), []);
});

test('10,000 Services are planned at once', () => {
  const services = Array.from({ length: 10_000 }, (_, at) => service(`s${at}`));
  const began = performance.now();
  const writes = planLoadBalancers(services, [pool({ cidrs: '10.0.0.0/16' })], 'now');
  assert.equal(new Set(writes.map(({ ingress }) => ingress[0])).size, 10_000);
  assert.ok(performance.now() - began < 2_000);
});

test('a pool is used as it is written or not at all', () => {
  const sizes = (data: Record<string, string>) =>
    pool(data).ranges.map(({ first, last }) => Number(last - first + 1n));
  assert.deepEqual(sizes({ cidrs: '10.0.0.0/24, 10.1.0.0/31\n10.2.0.9/32 fd00::/126' }), [254, 2, 1, 3]);
  assert.deepEqual(sizes({ ranges: '10.0.0.5-10.0.0.5' }), [1]);
  const refused: [Record<string, string>, RegExp][] = [
    [{}, /at least one/],
    [{ cidr: '10.0.0.0/24' }, /only the keys/],
    [{ cidrs: '10.0.0.1/24' }, /networks such as/],
    [{ ranges: '10.0.0.9-10.0.0.1' }, /lower address first/],
    [{ ranges: '10.0.0.9' }, /FIRST-LAST/],
    [{ ranges: '10.0.0.1-fd00::1' }, /FIRST-LAST/],
    [{ cidrs: '224.0.0.0/24' }, /reach/],
    [{ cidrs: '10.0.0.0/24', autoAssign: 'yes' }, /true or false/],
    [{ cidrs: '10.0.0.0/24', serviceSelector: 'a in b' }, /label selector/],
  ];
  for (const [data, want] of refused) {
    const read = readPool(configMap(data));
    assert.match('error' in read ? read.error.message : 'it is used', want, JSON.stringify(data));
  }
});
