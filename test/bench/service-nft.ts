/**
 * The nftables engine beside `nft -f` of rules in kube-proxy's shape: programming everything, and one change.
 *
 *   node test/bench/service-nft.ts [services]
 */
import { createNetns, deleteNetns } from '../../src/kernel/netns/index.ts';
import { NftablesEngine } from '../../src/service/engines/nftables/index.ts';
import { serviceFacts, sliceFacts } from '../../src/service/facts.ts';
import { ServicePlanner } from '../../src/service/planner.ts';
import { aNode, aService, aSlice } from '../../src/service/testing.ts';
import type { ServiceFacts, SliceFacts } from '../../src/service/types.ts';

const count = Number(process.argv[2] ?? 10_000);
const ENDPOINTS = 10;
const ROUNDS = 50;
const name = `bsn${process.pid}`;
const services = new Map<string, ServiceFacts>();
const slices = new Map<string, SliceFacts>();

function address(first: number, at: number): string {
  return `10.${first + (at >> 16)}.${(at >> 8) & 255}.${at & 255}`;
}

/** Service number `at` with endpoints from number `from` on. */
function put(at: number, from: number, endpoints = ENDPOINTS): string {
  const service = `s${at}`;
  const words = Array.from({ length: endpoints }, (_, k) => `${address(128, from + k)} node-b`);
  const slice = sliceFacts(aSlice(words, { name: `${service}-1`, service }));
  slices.set(slice.key, slice);
  return slice.key;
}

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[values.length >> 1]!;
}

/** CPU of this process, the kernel's part of it included, and wall time, both in milliseconds. */
function timed(act: () => void): { cpu: number; wall: number } {
  const before = process.cpuUsage();
  const began = performance.now();
  act();
  const { user, system } = process.cpuUsage(before);
  return { cpu: (user + system) / 1000, wall: performance.now() - began };
}

for (let at = 0; at < count; at++) {
  const facts = serviceFacts(aService({ clusterIP: address(96, at + 1) }, { name: `s${at}` }));
  services.set(facts.key, facts);
  put(at, at * ENDPOINTS);
}
const planner = new ServicePlanner({ services, slices }, aNode());
const delta = planner.planAll();
const netns = createNetns(name);
try {
  let engine = NftablesEngine.open({ netns, nodeName: 'node-a' });
  const first = timed(() => {
    const { failed } = engine.apply(delta);
    if (failed.size > 0) throw [...failed.values()][0];
  });
  console.log(
    `program ${count} Services x ${ENDPOINTS}: ${first.cpu.toFixed(0)} ms CPU, ${first.wall.toFixed(0)} ms`,
  );
  const changes = { endpoint: [] as number[], scaled: [] as number[], service: [] as number[] };
  const cpu = { endpoint: [] as number[], scaled: [] as number[], service: [] as number[] };
  const measure = (kind: keyof typeof changes, act: () => void) => {
    const { cpu: used, wall } = timed(act);
    changes[kind].push(wall);
    cpu[kind].push(used);
  };
  for (let round = 0; round < ROUNDS; round++) {
    const at = (round * 7919) % count;
    measure('endpoint', () => engine.apply(planner.plan([], [put(at, at * ENDPOINTS + 1 + round)])));
    measure('scaled', () => engine.apply(planner.plan([], [put(at, at * ENDPOINTS, ENDPOINTS - 1)])));
    const facts = serviceFacts(aService({ clusterIP: address(97, round + 1) }, { name: `new${round}` }));
    measure('service', () => {
      services.set(facts.key, facts);
      engine.apply(planner.plan([facts.key], []));
    });
  }
  for (const kind of ['endpoint', 'scaled', 'service'] as const)
    console.log(
      `one ${kind}: ${median(changes[kind]).toFixed(2)} ms (p50), ${median(cpu[kind]).toFixed(2)} ms CPU`,
    );
  engine.close();
  const restart = timed(() => {
    engine = NftablesEngine.open({ netns, nodeName: 'node-a' });
    engine.apply(planner.everything());
  });
  console.log(
    `restart without a change: ${restart.cpu.toFixed(0)} ms CPU, ${engine.transactions} transactions`,
  );
  engine.remove();
} finally {
  netns.close();
  deleteNetns(name);
}
