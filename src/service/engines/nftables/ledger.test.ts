import assert from 'node:assert/strict';
import test, { describe } from 'node:test';
import fc from 'fast-check';
import { parseCidr, withoutCovered } from '../../../addr/index.ts';
import type { Service } from '../../../model/kubernetes.ts';
import { serviceFacts, sliceFacts } from '../../facts.ts';
import { ServicePlanner } from '../../planner.ts';
import { aNode, aService, aSlice } from '../../testing.ts';
import type { ServiceFacts, SliceFacts } from '../../types.ts';
import { idOf, Ledger, sameData } from './ledger.ts';
import { leftoversOf } from './leftovers.ts';
import { elementText } from './observe.ts';
import { affineName, parseAffine, parseEndpointName, parseTarget, targetName } from './target-chains.ts';

const ports = [{ name: 'http', port: 80, nodePort: 30_080, protocol: 'TCP' as const }];

/** Tables with one Service, `default/web`. */
function tables() {
  const services = new Map<string, ServiceFacts>();
  const slices = new Map<string, SliceFacts>();
  const node = aNode({ nodePortAddresses: ['192.168.0.1', '127.0.0.1'] });
  const planner = new ServicePlanner({ services, slices }, node);
  const put = (spec: Partial<Service['spec']>, endpoints: readonly string[], name = 'web') => {
    const facts = serviceFacts(aService({ ports, ...spec }, { name }));
    services.set(facts.key, facts);
    const slice = sliceFacts(aSlice(endpoints, { name: `${name}-1`, service: name, portName: 'http' }));
    slices.set(slice.key, slice);
    return planner.plan([facts.key], [slice.key]);
  };
  return { services, planner, put };
}

function put(ledger: Ledger, delta: ReturnType<ReturnType<typeof tables>['put']>): void {
  for (const plan of delta.upsert) ledger.put(plan);
  for (const key of delta.remove) ledger.drop(key);
}

/** Elements as nft would name them, without those that affinity numbers are in. */
function texts(ledger: Ledger, family: 4 | 6 = 4): string[] {
  return [...ledger.entries(family)].map(({ set, element }) => elementText(set, element)).sort();
}

describe('Ledger', () => {
  test('a Service is a frontend, its slots, and its ClusterIP', () => {
    const ledger = new Ledger('node-a');
    put(ledger, tables().put({}, ['10.244.1.2 node-a', '10.244.2.2 node-b']));
    assert.deepEqual(texts(ledger), [
      'cluster-ips 10.96.0.10',
      'hairpins 10.244.1.2 . 10.244.1.2',
      'slots 10.96.0.10 . 6 . 80 . 0 : 10.244.1.2 . 8080',
      'slots 10.96.0.10 . 6 . 80 . 1 : 10.244.2.2 . 8080',
      'vips 10.96.0.10 . 6 . 80 : goto vip-2',
    ]);
  });

  test('a nodePort with policy Local sends each kind of client its own way', () => {
    const ledger = new Ledger('node-a');
    const spec = { type: 'NodePort' as const, externalTrafficPolicy: 'Local' as const };
    put(ledger, tables().put(spec, ['10.244.1.2 node-a', '10.244.2.2 node-b']));
    assert.deepEqual(
      texts(ledger).filter((text) => text.startsWith('nodeport') || text.startsWith('node-')),
      [
        'node-addresses 127.0.0.1',
        'node-addresses 192.168.0.1',
        'nodeport-slots 6 . 30080 . 0 : 10.244.1.2 . 8080',
        'nodeport-slots 6 . 30080 . 1 : 10.244.2.2 . 8080',
        'nodeport-slots 6 . 30080 . 65536 : 10.244.1.2 . 8080',
        'nodeports 6 . 30080 : goto nodeport-2',
        'nodeports-node 6 . 30080 : goto nodeport-2-masquerade',
        'nodeports-outside 6 . 30080 : goto nodeport-1-local',
      ],
    );
  });

  test('without endpoints a frontend is refused, and with some elsewhere only, policy Local drops', () => {
    const ledger = new Ledger('node-a');
    const { put: change } = tables();
    put(ledger, change({}, []));
    assert.ok(texts(ledger).includes('refused 10.96.0.10 . 6 . 80 : goto rejected'));
    const spec = { type: 'NodePort' as const, externalTrafficPolicy: 'Local' as const };
    put(ledger, change(spec, ['10.244.2.2 node-b']));
    assert.ok(texts(ledger).includes('nodeports-outside 6 . 30080 : goto dropped'));
  });

  test('an endpoint in the place of another changes one slot', () => {
    const ledger = new Ledger('node-a');
    const { put: change } = tables();
    put(ledger, change({}, ['10.244.2.2 b', '10.244.2.3 b', '10.244.2.4 b']));
    ledger.settle();
    ledger.stage();
    put(ledger, change({}, ['10.244.2.1 b', '10.244.2.2 b', '10.244.2.4 b']));
    const { deletes, adds, chains } = ledger.take(4);
    assert.deepEqual(
      deletes.map(({ set, element }) => elementText(set, element)),
      ['slots 10.96.0.10 . 6 . 80 . 1 : 10.244.2.3 . 8080'],
    );
    assert.deepEqual(
      adds.map(({ set, element }) => elementText(set, element)),
      ['slots 10.96.0.10 . 6 . 80 . 1 : 10.244.2.1 . 8080'],
    );
    assert.equal(chains.size, 0);
  });

  test('a frontend that passes from one Service to another is deleted and added once', () => {
    const ledger = new Ledger('node-a');
    const { put: change, services, planner } = tables();
    put(ledger, change({ clusterIP: '10.96.0.10' }, ['10.244.2.2 b'], 'first'));
    put(ledger, change({ clusterIP: '10.96.0.10' }, ['10.244.2.3 b', '10.244.2.4 b'], 'second'));
    ledger.stage();
    services.delete('default/first');
    put(ledger, planner.plan(['default/first'], []));
    const { deletes, adds } = ledger.take(4);
    const keys = (list: typeof adds) => list.map(idOf).sort();
    assert.deepEqual(keys(deletes), ['slots 10.96.0.10 6 80 0', 'vips 10.96.0.10 6 80']);
    assert.deepEqual(keys(adds), [
      'slots 10.96.0.10 6 80 0',
      'slots 10.96.0.10 6 80 1',
      'vips 10.96.0.10 6 80',
    ]);
  });

  test('differences add up to what is wanted, whatever happens', () => {
    const endpoint = fc
      .integer({ min: 1, max: 6 })
      .map((at) => `10.244.2.${at} ${at % 2 ? 'node-a' : 'node-b'}`);
    const step = fc.record({
      name: fc.constantFrom('web', 'api', 'db'),
      gone: fc.boolean(),
      ip: fc.constantFrom('10.96.0.10', '10.96.0.11', '10.96.0.12'),
      type: fc.constantFrom('ClusterIP' as const, 'NodePort' as const),
      policy: fc.constantFrom('Local' as const, 'Cluster' as const),
      affinity: fc.constantFrom('ClientIP' as const, 'None' as const),
      endpoints: fc.uniqueArray(endpoint, { maxLength: 5 }),
    });
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 12 }), (steps) => {
        const ledger = new Ledger('node-a');
        ledger.stage();
        const { put: change, services, planner } = tables();
        const kernel = new Map<string, string>();
        for (const { name, gone, ip, type, policy, affinity, endpoints } of steps) {
          if (gone) {
            services.delete(`default/${name}`);
            put(ledger, planner.plan([`default/${name}`], []));
          } else {
            const external = type === 'NodePort' ? { externalTrafficPolicy: policy } : {};
            put(
              ledger,
              change({ clusterIP: ip, type, sessionAffinity: affinity, ...external }, endpoints, name),
            );
          }
          const { deletes, adds } = ledger.take(4);
          for (const entry of deletes) assert.ok(kernel.delete(idOf(entry)), `${idOf(entry)} is not there`);
          for (const entry of adds) {
            assert.ok(!kernel.has(idOf(entry)), `${idOf(entry)} is there`);
            kernel.set(idOf(entry), elementText(entry.set, entry.element));
          }
          assert.deepEqual([...kernel.values()].sort(), texts(ledger));
          // What maps send to is there.
          const chains = ledger.chains(4);
          for (const { element } of ledger.entries(4))
            if (element.data && 'verdict' in element.data && 'chain' in element.data) {
              const { chain } = element.data;
              assert.ok(chain === 'rejected' || chain === 'dropped' || chains.has(chain), chain);
            }
        }
      }),
      { numRuns: 150 },
    );
  });

  test('endpoints with affinity keep their numbers, and one that comes back gets another', () => {
    const ledger = new Ledger('node-a');
    const { put: change } = tables();
    const affine = { sessionAffinity: 'ClientIP' as const };
    const ids = () => Object.fromEntries([...ledger.ports.values()][0]!.affinity!.ids);
    put(ledger, change(affine, ['10.244.2.1 b', '10.244.2.2 b']));
    assert.deepEqual(ids(), { '10.244.2.1|8080': 1, '10.244.2.2|8080': 2 });
    put(ledger, change(affine, ['10.244.2.2 b']));
    put(ledger, change(affine, ['10.244.2.1 b', '10.244.2.2 b']));
    assert.deepEqual(ids(), { '10.244.2.2|8080': 2, '10.244.2.1|8080': 3 });
  });

  test('what an earlier process left is taken over: slots and numbers', () => {
    const first = new Ledger('node-a');
    const { put: change, planner } = tables();
    put(first, change({ sessionAffinity: 'ClientIP' }, ['10.244.2.1 b', '10.244.2.2 b', '10.244.2.3 b']));
    put(first, change({ sessionAffinity: 'ClientIP' }, ['10.244.2.0 b', '10.244.2.2 b', '10.244.2.3 b']));
    const sets = Object.groupBy([...first.entries(4)], ({ set }) => set);
    const elements = Object.fromEntries(
      Object.entries(sets).map(([set, entries]) => [set, entries!.map(({ element }) => element)]),
    );
    const chains = new Map([...first.chains(4)].map(([name, { looks }]) => [name, looks]));
    const left = leftoversOf(elements, chains);
    const second = new Ledger('node-a');
    second.reserve(left.lastPort, left.lastEndpoint);
    for (const plan of planner.everything().upsert) second.put(plan, (front) => left.fronts.get(front));
    assert.deepEqual(texts(second), texts(first));
  });
});

describe('names of chains', () => {
  test('say what the chain does', () => {
    for (const space of ['vip', 'nodeport'] as const)
      for (const set of ['cluster', 'local'] as const)
        for (const masquerade of [true, false]) {
          const target = { space, set, size: 12, masquerade };
          assert.deepEqual(parseTarget(targetName(target)), target);
          const affine = { number: 4, set, masquerade };
          assert.deepEqual(parseAffine(affineName(affine)), affine);
        }
    for (const other of ['services', 'vip-', 'vip-x', 'endpoint-', 'endpoint-1x', 'affinity-1-far'])
      assert.deepEqual(
        [parseTarget(other), parseAffine(other), parseEndpointName(other)],
        [undefined, undefined, undefined],
      );
  });
});

test('networks inside others are left out, and of equal ones all but one', () => {
  const kept = withoutCovered(['10.0.0.0/8', '10.1.0.0/16', '192.0.2.0/24', '192.0.2.0/24'].map(parseCidr));
  assert.deepEqual(kept.map(String), ['10.0.0.0/8', '192.0.2.0/24']);
});

test('a verdict differs by its chain, data by its parts', () => {
  const to = (chain: string) => ({ key: [1], data: { verdict: 'goto', chain } as const });
  assert.ok(sameData(to('a'), to('a')));
  assert.ok(!sameData(to('a'), to('b')));
  assert.ok(!sameData(to('a'), { key: [1], data: [1] }));
  assert.ok(!sameData({ key: [1] }, { key: [1], data: [1] }));
});
