import assert from 'node:assert/strict';
import test from 'node:test';
import { serviceError } from '../errors/service.ts';
import { ServiceController, type TableSource } from './controller.ts';
import type { ApplyReport, RoomListener, ServiceEngine } from './engine.ts';
import { serviceFacts, sliceFacts } from './facts.ts';
import { aNode, aService, aSlice } from './testing.ts';
import type { PlanDelta, ServiceFacts, SliceFacts } from './types.ts';

/** A table that a test fills. */
class Table<P> implements TableSource<P> {
  readonly items = new Map<string, P>();
  readonly #gate = Promise.withResolvers<void>();
  readonly synced = this.#gate.promise;
  #listeners: ((keys: ReadonlySet<string>) => void)[] = [];

  onChange(listener: (keys: ReadonlySet<string>) => void): void {
    this.#listeners.push(listener);
  }
  fill(): void {
    this.#gate.resolve();
  }
  put(key: string, item: P): void {
    this.items.set(key, item);
    for (const listener of this.#listeners) listener(new Set([key]));
  }
}

/** An engine that remembers what it was given. */
class FakeEngine implements ServiceEngine {
  readonly name = 'fake';
  readonly deltas: PlanDelta[] = [];
  failures = new Map<string, Error>();
  ranges: readonly string[] = [];
  apply(delta: PlanDelta): ApplyReport {
    this.deltas.push(delta);
    return { changes: 0, failed: this.failures };
  }
  room: RoomListener | undefined;
  keepRoom(tell: RoomListener): void {
    this.room = tell;
  }
  setServiceRanges(cidrs: readonly string[]): void {
    this.ranges = cidrs;
  }
  attachPodLink(): void {}
  detachPodLink(): void {}
  attachNodeInterface(): void {}
  detachNodeInterface(): void {}
  dump(): string[] {
    return [];
  }
  diff() {
    return { missing: [], unwanted: [] };
  }
  status() {
    return {
      engine: 'fake',
      programs: [],
      stores: [],
      caches: [],
      podLinks: [],
      nodeInterfaces: [],
      counters: {},
    };
  }
  close(): void {}
  remove(): void {}
}

function parts() {
  const services = new Table<ServiceFacts>();
  const slices = new Table<SliceFacts>();
  const engine = new FakeEngine();
  const results: string[] = [];
  const refused: string[] = [];
  const clock = { ms: 0 };
  const controller = new ServiceController({
    services,
    slices,
    engine,
    node: aNode(),
    serviceRanges: ['10.96.0.0/16'],
    onResult: (service, error) => results.push(`${service} ${error ? 'failed' : 'works'}`),
    onRefused: (service, error) => refused.push(`${service}: ${(error as { code?: string }).code}`),
    now: () => clock.ms,
    retry: { firstMs: 5 },
  });
  const service = (name: string, ip: string) => {
    const facts = serviceFacts(aService({ clusterIPs: [ip] }, { name }));
    services.put(facts.key, facts);
  };
  const slice = (name: string, endpoints: string[]) => {
    const facts = sliceFacts(aSlice(endpoints, { service: name }));
    slices.put(facts.key, facts);
  };
  return { services, slices, engine, controller, results, refused, clock, service, slice };
}

test('nothing is programmed before both tables are filled, then everything at once', async () => {
  const { services, slices, engine, controller, service, slice } = parts();
  const started = controller.start();
  service('a', '10.96.0.1');
  services.fill();
  await new Promise(setImmediate);
  assert.equal(engine.deltas.length, 0);
  slice('a', ['10.244.0.1 node-a']);
  slices.fill();
  await started;
  assert.equal(engine.deltas.length, 1);
  assert.equal(engine.deltas[0]!.full, true);
  assert.deepEqual(engine.ranges, ['10.96.0.0/16']);
  controller.close();
});

test('changes of one moment are one step, and touch only their Services', async () => {
  const { services, slices, engine, controller, service, slice } = parts();
  services.fill();
  slices.fill();
  service('a', '10.96.0.1');
  service('b', '10.96.0.2');
  await controller.start();
  engine.deltas.length = 0;
  slice('a', ['10.244.0.1 node-a']);
  slice('a', ['10.244.0.2 node-a']);
  service('a', '10.96.0.1');
  await controller.settled();
  assert.equal(engine.deltas.length, 1);
  assert.deepEqual(
    engine.deltas[0]!.upsert.map(({ key }) => key),
    ['default/a'],
  );
  assert.equal(controller.timing.count > 0, true);
  controller.close();
});

test('an engine that fails as a whole is given everything again, at the start and later', async () => {
  const { services, slices, engine, controller, service } = parts();
  services.fill();
  slices.fill();
  service('a', '10.96.0.1');
  const apply = engine.apply.bind(engine);
  let fails = 2;
  engine.apply = (delta) => {
    if (fails-- > 0) throw new Error('no memory for a moment');
    return apply(delta);
  };
  const tries = async (count: number) => {
    while (engine.deltas.length < count) await new Promise((resolve) => setTimeout(resolve, 1));
  };
  await controller.start();
  await tries(1);
  assert.equal(engine.deltas[0]!.full, true);
  fails = 1;
  service('b', '10.96.0.2');
  await tries(2);
  assert.equal(engine.deltas[1]!.full, true);
  assert.deepEqual(engine.deltas[1]!.upsert.map(({ key }) => key).sort(), ['default/a', 'default/b']);
  controller.close();
});

test('a Service that fails is told once, tried again, and told when it works', async () => {
  const { services, slices, engine, controller, service, results } = parts();
  services.fill();
  slices.fill();
  await controller.start();
  const full = { service: 'default/a', map: 'lb_tables', used: 1, limit: 1, wanted: 1 };
  engine.failures.set('default/a', serviceError('SERVICE_MAP_FULL', full));
  service('a', '10.96.0.1');
  await controller.settled();
  assert.deepEqual(results, ['default/a failed']);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(results, ['default/a failed']);
  engine.failures.clear();
  await new Promise((resolve) => setTimeout(resolve, 60));
  assert.deepEqual(results, ['default/a failed', 'default/a works']);
  assert.equal(controller.failed.size, 0);
  controller.close();
});

test('tried() resolves although more is told all the time, and after what was told before', async () => {
  const { services, slices, engine, controller } = parts();
  const facts = (name: string) => serviceFacts(aService({}, { name }));
  let applied = 0;
  const slow = Object.assign(engine, {
    apply: async (delta: PlanDelta) => {
      await new Promise((resolve) => setTimeout(resolve, 1));
      engine.deltas.push(delta);
      // Each change brings the next one: it does not settle for long.
      if (++applied < 50) services.put(`default/other-${applied}`, facts(`other-${applied}`));
      return { changes: 0, failed: new Map<string, Error>() };
    },
  });
  services.fill();
  slices.fill();
  await controller.start();
  services.put('default/mine', facts('mine'));
  await controller.tried();
  assert.ok(slow.deltas.some(({ upsert }) => upsert.some(({ key }) => key === 'default/mine')));
  assert.ok(applied < 10, String(applied));
  await controller.settled();
  assert.equal(applied, 50);
  controller.close();
});

test('a Service whose new connections found no place is told once a minute, and is known for ten', async () => {
  const { services, slices, controller, engine, refused, clock } = parts();
  services.fill();
  slices.fill();
  await controller.start();
  const flow = { service: 'default/a', store: 'lb_nat_flows', used: 8, limit: 9 } as const;
  engine.room!.onRefused!(flow);
  clock.ms = 59_000;
  engine.room!.onRefused!(flow);
  assert.deepEqual(refused, ['default/a: SERVICE_FLOWS_REFUSED']);
  clock.ms = 60_000;
  engine.room!.onRefused!(flow);
  engine.room!.onRefused!({ ...flow, service: 'default/b', store: 'lb_flows' });
  assert.equal(refused.length, 3);
  assert.deepEqual([...controller.refused.keys()], ['default/a', 'default/b']);
  assert.match(controller.refused.get('default/a')!.error.message, /"lb_nat_flows", which holds 8 of 9/);
  clock.ms = 661_000;
  assert.deepEqual([...controller.refused.keys()], []);
  controller.close();
});
