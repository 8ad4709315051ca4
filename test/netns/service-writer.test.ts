/** Any sequence of changes, with restarts in between, leaves in the maps exactly what the plans want. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import test, { after, before, describe, mock } from 'node:test';
import fc from 'fast-check';
import { isNetError } from '../../src/errors/index.ts';
import { Writer } from '../../src/service/engines/ebpf/writer.ts';
import { serviceFacts, sliceFacts } from '../../src/service/facts.ts';
import { ServicePlanner } from '../../src/service/planner.ts';
import { aNode, aService, aSlice } from '../../src/service/testing.ts';
import type { ServiceFacts, SliceFacts } from '../../src/service/types.ts';
import { openEngine } from '../lib/service-engine.ts';
import { ServiceNode } from '../lib/services.ts';

const name = fc.constantFrom('a', 'b', 'c');
const step = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('service' as const),
      name,
      ip: fc.constantFrom('10.96.0.1', '10.96.0.2', '10.96.0.3'),
      six: fc.boolean(),
      external: fc.constantFrom(undefined, '203.0.113.1', '10.96.0.2'),
      type: fc.constantFrom('ClusterIP' as const, 'NodePort' as const, 'LoadBalancer' as const),
      local: fc.boolean(),
      ranges: fc.subarray(['10.0.0.0/8', '192.0.2.0/24', 'fd00::/8']),
      ports: fc.uniqueArray(fc.constantFrom(80, 81, 82), { minLength: 1 }),
      age: fc.integer({ min: 1, max: 3 }),
      otherProxy: fc.integer({ min: 0, max: 3 }).map((number) => number === 0),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('slice' as const),
      name,
      slice: fc.constantFrom('x', 'y', 'z'),
      port: fc.constantFrom('p80', 'p81'),
      hosts: fc.uniqueArray(fc.integer({ min: 1, max: 40 }), { maxLength: 25 }),
      state: fc.constantFrom('', ' terminating', ' unready'),
    }),
  },
  fc.record({ do: fc.constant('drop' as const), name }),
  fc.record({ do: fc.constant('unslice' as const), slice: fc.constantFrom('x', 'y', 'z') }),
  fc.record({ do: fc.constant('restart' as const) }),
);

describe('writer', () => {
  let node: ServiceNode;
  before(() => {
    node = ServiceNode.create('w');
  });
  after(() => node[Symbol.asyncDispose]());

  test('a Service that cannot be taken away is told, so that somebody tries again', () => {
    const engine = openEngine(node, {});
    const facts = serviceFacts(aService({ clusterIPs: ['10.96.0.1'] }, { name: 'a' }));
    const services = new Map([[facts.key, facts]]);
    const planner = new ServicePlanner({ services, slices: new Map() }, aNode());
    const remove = { full: false, upsert: [], remove: [facts.key] };
    try {
      engine.apply(planner.planAll());
      assert.equal(engine.dump().length, 1);
      const refuses = mock.method(Writer.prototype, 'flush', () => {
        throw new Error('ENOMEM');
      });
      try {
        assert.throws(
          () => engine.apply(remove),
          (error) => isNetError(error, 'SERVICE_PROGRAM_FAILED') && error.message.includes(facts.key),
        );
      } finally {
        refuses.mock.restore();
      }
      // What is tried then, because nobody knows what was written.
      engine.apply({ full: true, upsert: [], remove: [] });
      assert.deepEqual(engine.dump(), []);
    } finally {
      engine.remove();
    }
  });

  test('maps are what the plans want after any changes and restarts, and nothing leaks', () => {
    let nowMs = 0;
    const open = () =>
      openEngine(node, {
        sizes: { frontends: 4, frontendsLimit: 4096 },
        now: () => nowMs,
      });
    const services = new Map<string, ServiceFacts>();
    const slices = new Map<string, SliceFacts>();
    const context = aNode({ nodePortAddresses: ['192.168.0.1', 'fd00::1'] });
    let engine = open();
    let planner = new ServicePlanner({ services, slices }, context);
    engine.apply(planner.planAll());

    const check = () => {
      assert.deepEqual(engine.diff(planner.plans.values()), { missing: [], unwanted: [] });
      const ports = [...planner.plans.values()]
        .flatMap((plan) => plan.ports)
        .filter((port) => port.frontends.some((frontend) => frontend.shadowedBy === undefined));
      const { stores } = engine.status();
      const used = (store: string) => stores.find((s) => s.name === store)!.entries;
      assert.equal(
        used('lb_backends'),
        ports.reduce((sum, port) => sum + port.backends.length, 0),
      );
      // Counted by bpftool, not by ourselves.
      const info = execFileSync('bpftool', [
        '-j',
        'map',
        'dump',
        'pinned',
        `${node.bpffs}/lb-v1/lb_frontends`,
      ]);
      const [outer] = JSON.parse(info.toString()) as { value: string[] }[];
      const id = outer!.value.reduceRight((sum, byte) => sum * 256 + Number(byte), 0);
      const kernel = JSON.parse(
        execFileSync('bpftool', ['-j', 'map', 'dump', 'id', String(id)], { maxBuffer: 1 << 26 }).toString(),
      ) as unknown[];
      assert.equal(used('lb_frontends'), kernel.length);
    };
    const restart = () => {
      engine.close();
      engine = open();
      planner = new ServicePlanner({ services, slices }, context);
      return engine.apply(planner.planAll());
    };

    try {
      fc.assert(
        fc.property(fc.array(step, { minLength: 1, maxLength: 25 }), (steps) => {
          for (const s of steps) {
            nowMs += 60;
            const changed: { services: string[]; slices: string[] } = { services: [], slices: [] };
            if (s.do === 'service') {
              const facts = serviceFacts(
                aService(
                  {
                    type: s.type,
                    clusterIPs: s.six ? [s.ip, s.ip.replace('10.96.0.', 'fd00:10:96::')] : [s.ip],
                    ...(s.external ? { externalIPs: [s.external] } : {}),
                    externalTrafficPolicy: s.local ? 'Local' : 'Cluster',
                    loadBalancerSourceRanges: s.ranges,
                    ports: s.ports.map((port) => ({
                      name: `p${port}`,
                      port,
                      // Two Services may want one nodePort here, which the API would not allow.
                      nodePort: 30_000 + port,
                    })),
                  },
                  {
                    name: s.name,
                    creationTimestamp: `2026-01-0${s.age}T00:00:00Z`,
                    ...(s.otherProxy
                      ? { labels: { 'service.kubernetes.io/service-proxy-name': 'other' } }
                      : {}),
                  },
                  { loadBalancer: { ingress: [{ ip: '203.0.113.9' }] } },
                ),
              );
              services.set(facts.key, facts);
              changed.services.push(facts.key);
            } else if (s.do === 'drop') {
              services.delete(`default/${s.name}`);
              changed.services.push(`default/${s.name}`);
            } else if (s.do === 'slice') {
              const facts = sliceFacts(
                aSlice(
                  s.hosts.map((h) => `10.244.0.${h} ${h % 2 ? 'node-a' : 'node-b'}${s.state}`),
                  { name: s.slice, service: s.name, portName: s.port },
                ),
              );
              slices.set(facts.key, facts);
              changed.slices.push(facts.key);
            } else if (s.do === 'unslice') {
              slices.delete(`default/${s.slice}`);
              changed.slices.push(`default/${s.slice}`);
            } else {
              const { changes } = restart();
              assert.equal(changes, 0, 'a restart without a change writes nothing');
            }
            const report = engine.apply(planner.plan(changed.services, changed.slices));
            assert.equal(report.failed.size, 0);
            assert.deepEqual(engine.diff(planner.plans.values()), { missing: [], unwanted: [] });
          }
          check();
          // What changed while nobody was there is put right at the next start.
          services.delete('default/a');
          restart();
          check();
        }),
        { numRuns: 12, endOnFailure: true },
      );
      services.clear();
      slices.clear();
      restart();
      const stores = engine
        .status()
        .stores.filter(({ name }) => /frontends|tables|backends|ranges/.test(name));
      assert.deepEqual(
        stores.map(({ name, entries }) => [name, entries]),
        [
          ['lb_frontends', 0],
          ['lb_tables', 0],
          ['lb_backends', 0],
          ['lb_source_ranges', 0],
        ],
      );
    } finally {
      engine.remove();
    }
  });
});
