import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { portText } from './describe.ts';
import { serviceFacts, sliceFacts } from './facts.ts';
import { ServicePlanner } from './planner.ts';
import { aNode, aService, aSlice } from './testing.ts';
import type { PlanDelta, ServiceFacts, SliceFacts } from './types.ts';

/** Tables as a reflector keeps them, with short verbs. */
function cluster() {
  const services = new Map<string, ServiceFacts>();
  const slices = new Map<string, SliceFacts>();
  const planner = new ServicePlanner({ services, slices }, aNode({ nodePortAddresses: ['192.168.0.1'] }));
  return {
    planner,
    services,
    slices,
    service(name: string, spec = {}, metadata = {}, status?: Parameters<typeof aService>[2]) {
      const facts = serviceFacts(aService(spec, { name, ...metadata }, status));
      services.set(facts.key, facts);
      return planner.plan([facts.key], []);
    },
    slice(name: string, service: string, endpoints: string[]) {
      const facts = sliceFacts(aSlice(endpoints, { name, service }));
      slices.set(facts.key, facts);
      return planner.plan([], [facts.key]);
    },
    dropSlice(name: string) {
      slices.delete(`default/${name}`);
      return planner.plan([], [`default/${name}`]);
    },
    dropService(name: string) {
      services.delete(`default/${name}`);
      return planner.plan([`default/${name}`], []);
    },
  };
}

const touched = (delta: PlanDelta) => delta.upsert.map(({ key }) => key).sort();
const text = (c: ReturnType<typeof cluster>, name: string) =>
  c.planner.plans.get(`default/${name}`)!.ports.flatMap(portText);

test('a change of one slice plans its Service again and no other', () => {
  const c = cluster();
  c.service('a', { clusterIPs: ['10.96.0.1'] });
  c.service('b', { clusterIPs: ['10.96.0.2'] });
  assert.deepEqual(touched(c.slice('a-1', 'a', ['10.244.0.1 node-a'])), ['default/a']);
  assert.equal(text(c, 'a')[1], 'cluster: 10.244.0.1:8080');
});

test('a slice that changes hands is taken from one Service and given to the other', () => {
  const c = cluster();
  c.service('a', { clusterIPs: ['10.96.0.1'] });
  c.service('b', { clusterIPs: ['10.96.0.2'] });
  c.slice('x', 'a', ['10.244.0.1 node-a']);
  assert.deepEqual(touched(c.slice('x', 'b', ['10.244.0.1 node-a'])), ['default/a', 'default/b']);
  assert.equal(text(c, 'a')[1], 'cluster: -');
  assert.equal(text(c, 'b')[1], 'cluster: 10.244.0.1:8080');
  assert.deepEqual(touched(c.dropSlice('x')), ['default/b']);
});

test('a deleted Service is removed once, and its slices wait for its return', () => {
  const c = cluster();
  c.service('a');
  c.slice('a-1', 'a', ['10.244.0.1 node-a']);
  assert.deepEqual(c.dropService('a').remove, ['default/a']);
  assert.deepEqual(c.dropService('a').remove, []);
  c.service('a');
  assert.equal(text(c, 'a')[1], 'cluster: 10.244.0.1:8080');
});

test('of two Services that claim one address and port the older wins, and the other inherits', () => {
  const c = cluster();
  const lb = (ip: string) => ({ loadBalancer: { ingress: [{ ip }] } });
  const spec = (ip: string) => ({ type: 'LoadBalancer', clusterIPs: [ip] });
  c.service('young', spec('10.96.0.1'), { creationTimestamp: '2026-02-01T00:00:00Z' }, lb('203.0.113.1'));
  const delta = c.service('old', spec('10.96.0.2'), {}, lb('203.0.113.1'));
  assert.deepEqual(touched(delta), ['default/old', 'default/young']);
  const shadow = 'LoadBalancer 203.0.113.1:80/TCP shadowed by default/old';
  assert.ok(text(c, 'young').includes(shadow));
  assert.ok(!text(c, 'old').join().includes('shadowed'));
  const after = c.dropService('old');
  assert.deepEqual(touched(after), ['default/young']);
  assert.ok(!text(c, 'young').join().includes('shadowed'));
});

test('an externalIP can not take the ClusterIP of an other Service, not even of a younger one', () => {
  const c = cluster();
  c.service('thief', { clusterIPs: ['10.96.0.1'], externalIPs: ['10.96.0.2'] });
  c.service('victim', { clusterIPs: ['10.96.0.2'] }, { creationTimestamp: '2026-03-01T00:00:00Z' });
  assert.ok(text(c, 'thief').includes('ExternalIP 10.96.0.2:80/TCP shadowed by default/victim'));
  assert.ok(!text(c, 'victim').join().includes('shadowed'));
});

test('a change of the zone plans everything again', () => {
  const c = cluster();
  c.service('a');
  c.slice('a-1', 'a', ['10.244.0.1 node-a zone:a', '10.244.0.2 node-b zone:b']);
  assert.equal(text(c, 'a')[1], 'cluster: 10.244.0.1:8080 by zone');
  c.planner.planAll(aNode({ zone: 'b' }));
  assert.equal(
    text(c, 'a').find((l) => l.startsWith('cluster')),
    'cluster: 10.244.0.2:8080 by zone',
  );
});

test('plans after any sequence of changes are those that a fresh planner makes', () => {
  const name = fc.constantFrom('a', 'b', 'c');
  const step = fc.oneof(
    fc.record({
      kind: fc.constant('service' as const),
      name,
      ip: fc.constantFrom('10.96.0.1', '10.96.0.2', '10.96.0.3'),
      external: fc.constantFrom(undefined, '203.0.113.1', '10.96.0.2'),
      age: fc.integer({ min: 1, max: 3 }),
    }),
    fc.record({ kind: fc.constant('drop' as const), name }),
    fc.record({
      kind: fc.constant('slice' as const),
      name,
      slice: fc.constantFrom('x', 'y'),
      hosts: fc.uniqueArray(fc.integer({ min: 1, max: 4 })),
    }),
    fc.record({ kind: fc.constant('unslice' as const), slice: fc.constantFrom('x', 'y') }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const c = cluster();
      for (const s of steps) {
        if (s.kind === 'service')
          c.service(
            s.name,
            { clusterIPs: [s.ip], ...(s.external ? { externalIPs: [s.external] } : {}) },
            { creationTimestamp: `2026-01-0${s.age}T00:00:00Z` },
          );
        else if (s.kind === 'drop') c.dropService(s.name);
        else if (s.kind === 'slice')
          c.slice(
            s.slice,
            s.name,
            s.hosts.map((h) => `10.244.0.${h} node-a`),
          );
        else c.dropSlice(s.slice);
      }
      const fresh = new ServicePlanner({ services: c.services, slices: c.slices }, c.planner.node);
      const delta = fresh.planAll();
      assert.equal(delta.full, true);
      const shown = (p: ServicePlanner) =>
        [...p.plans.values()].map((plan) => [plan.key, ...plan.ports.flatMap(portText)].join('\n')).sort();
      assert.deepEqual(shown(c.planner), shown(fresh));
    }),
    { numRuns: 300 },
  );
});
