/**
 * 100,000 Services with a million endpoints in one engine: time to plan and to program, kernel memory, one change,
 * a look for changes by others, a restart. Beside 10,000 Services x 10 in the same run.
 */
import { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import { serviceFacts, sliceFacts } from '../../src/service/facts.ts';
import { ServicePlanner } from '../../src/service/planner.ts';
import { aNode, aService, aSlice } from '../../src/service/testing.ts';
import type { ServiceFacts, SliceFacts } from '../../src/service/types.ts';
import { ServiceNode } from '../lib/services.ts';
import type { AreaOptions, Figure } from './figure.ts';

const BASE_SERVICES = 10_000;
const BASE_ENDPOINTS = 10;

/** Most Services are small and a few are large: of 100, 90 have 3 endpoints, 9 have 20, one has 550. Mean 10. */
function spread(at: number): number {
  const of100 = at % 100;
  return of100 === 0 ? 550 : of100 < 10 ? 20 : 3;
}

const ip4 = (first: number, number: number) =>
  `${first + (number >> 24)}.${(number >> 16) & 255}.${(number >> 8) & 255}.${number & 255}`;

interface World {
  readonly services: Map<string, ServiceFacts>;
  readonly slices: Map<string, SliceFacts>;
  readonly endpoints: number;
  /** The slice of a small Service with its last endpoint there or not. */
  readonly change: (at: number, whole: boolean) => string;
}

function world(count: number, size: (at: number) => number): World {
  const services = new Map<string, ServiceFacts>();
  const slices = new Map<string, SliceFacts>();
  const first = new Uint32Array(count);
  let endpoints = 0;
  const put = (at: number, length: number) => {
    const list = Array.from(
      { length },
      (_, n) => `${ip4(20, first[at]! + n)} node-${(first[at]! + n) % 1000}`,
    );
    const facts = sliceFacts(aSlice(list, { name: `s${at}-1`, service: `s${at}` }));
    slices.set(facts.key, facts);
    return facts.key;
  };
  for (let at = 0; at < count; at++) {
    const facts = serviceFacts(aService({ clusterIPs: [ip4(10, at)] }, { name: `s${at}` }));
    services.set(facts.key, facts);
    first[at] = endpoints;
    endpoints += size(at);
    put(at, size(at));
  }
  return { services, slices, endpoints, change: (at, whole) => put(at, size(at) - (whole ? 0 : 1)) };
}

function timed<T>(work: () => T): [ms: number, T] {
  const began = performance.now();
  const result = work();
  return [performance.now() - began, result];
}

export async function benchServiceScale({ quick }: AreaOptions): Promise<Figure[]> {
  const figures: Figure[] = [];
  const count = quick ? 20_000 : 100_000;
  const label = (number: number) => number.toLocaleString('en');
  await using node = ServiceNode.create('x');
  const open = () =>
    EbpfEngine.open({ bpffsDir: node.bpffs, cgroupPath: node.cgroup, netns: node.netns, nodeName: 'node-a' });
  const kernelBytes = (engine: EbpfEngine) =>
    engine
      .status()
      .stores.filter(({ name }) => /frontends|tables|backends|_counts/.test(name))
      .reduce((sum, { bytes }) => sum + bytes, 0);
  const run = async (made: World) => {
    let engine = open();
    const empty = kernelBytes(engine);
    const planner = new ServicePlanner(made, aNode({ nodePortAddresses: [] }));
    const [planMs, delta] = timed(() => planner.planAll());
    const [programMs, report] = timed(() => engine.apply(delta));
    if (report.failed.size > 0) throw new Error(`${report.failed.size} Services were not programmed`);
    const bytes = kernelBytes(engine) - empty;
    const changes: number[] = [];
    for (let n = 0; n < 1000; n++) {
      const key = made.change(1 + ((n * 7919) % (made.services.size / 100)) * 100 + 50, n % 2 === 1);
      const [ms] = timed(() => engine.apply(planner.plan([], [key])));
      changes.push(ms);
    }
    changes.sort((a, b) => a - b);
    const cpu = process.cpuUsage();
    const found = await engine.heal();
    const { user, system } = process.cpuUsage(cpu);
    if (found.length > 0) throw new Error(`somebody changed ${found[0]}`);
    engine.close();
    const [openMs] = timed(() => {
      engine = open();
    });
    const [adoptMs, adopted] = timed(() => engine.apply(planner.everything()));
    engine.remove();
    return {
      planMs,
      programMs,
      bytes,
      changeMs: changes[500]!,
      change99Ms: changes[990]!,
      lookMs: (user + system) / 1000,
      restartMs: openMs + adoptMs,
      restartChanges: adopted.changes,
    };
  };
  const small = await run(world(BASE_SERVICES, () => BASE_ENDPOINTS));
  const made = world(count, spread);
  const large = await run(made);
  const what = `${label(count)} Services, ${label(made.endpoints)} endpoints`;
  const base = `${label(BASE_SERVICES)} x ${BASE_ENDPOINTS}`;
  const add = (
    name: string,
    unit: Figure['unit'],
    value: (of: typeof small) => number,
    budget?: Figure['budget'],
  ) =>
    figures.push({
      name,
      value: value(large),
      unit,
      baseline: { name: base, value: value(small) },
      ...(budget ? { budget } : {}),
    });
  add(`${what}: plan`, 's', ({ planMs }) => planMs / 1000);
  add(`${what}: program`, 's', ({ programMs }) => programMs / 1000);
  add(`${what}: kernel memory`, 'MiB', ({ bytes }) => bytes / (1 << 20));
  add(`${what}: one endpoint change, p50`, 'ms', ({ changeMs }) => changeMs);
  add(`${what}: one endpoint change, p99`, 'ms', ({ change99Ms }) => change99Ms);
  add(`${what}: a look for changes by others, CPU`, 'ms', ({ lookMs }) => lookMs);
  add(`${what}: restart`, 's', ({ restartMs }) => restartMs / 1000, {
    text: `0 changes (is ${large.restartChanges})`,
    met: large.restartChanges === 0,
  });
  return figures;
}
