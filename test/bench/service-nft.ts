/**
 * The nftables engine beside `nft -f` of rules in kube-proxy's shape (a chain a Service port, one an endpoint, two
 * endpoints): everything at once, and one change. CPU time, because the other side is another process.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createNetns, deleteNetns, type Netns } from '../../src/kernel/netns/index.ts';
import { NftablesEngine } from '../../src/service/engines/nftables/index.ts';
import { serviceFacts, sliceFacts } from '../../src/service/facts.ts';
import { ServicePlanner } from '../../src/service/planner.ts';
import { aNode, aService, aSlice } from '../../src/service/testing.ts';
import type { ServiceFacts, SliceFacts } from '../../src/service/types.ts';
import { type AreaOptions, atMost, type Figure, median } from './figure.ts';

const ENDPOINTS = 10;
const ROUNDS = 60;

const address = (first: number, at: number) => `10.${first + (at >> 16)}.${(at >> 8) & 255}.${at & 255}`;

interface Spent {
  readonly cpuMs: number;
  readonly wallMs: number;
}

/** This process's CPU, the kernel's part of it included. */
function spend(act: () => void): Spent {
  const before = process.cpuUsage();
  const began = performance.now();
  act();
  const { user, system } = process.cpuUsage(before);
  return { cpuMs: (user + system) / 1000, wallMs: performance.now() - began };
}

/** CPU of one nft process. */
function spendNft(netns: string, file: string): number {
  const said = execFileSync('ip', ['netns', 'exec', netns, 'sh', '-ec', `nft -f ${file}; times`], {
    encoding: 'utf8',
  });
  // The second line is that of children: user and system as 0m0.000s.
  const ms = [
    ...said
      .trim()
      .split('\n')[1]!
      .matchAll(/(\d+)m([\d.]+)s/g),
  ];
  return ms.reduce((sum, [, minutes, seconds]) => sum + (Number(minutes) * 60 + Number(seconds)) * 1000, 0);
}

function proxyService(at: number): string[] {
  const name = `s${at}-default/s${at}/tcp/80`;
  const ends = [0, 1].map((k) => `e${at}-${k}-default/s${at}/tcp/80`);
  return [
    ...ends.map(
      (end, k) =>
        `add chain ip proxy ${end}\nadd rule ip proxy ${end} meta l4proto tcp dnat to ${address(128, at * 2 + k)}:8080`,
    ),
    `add chain ip proxy ${name}`,
    `add rule ip proxy ${name} numgen random mod 2 vmap { 0 : goto ${ends[0]}, 1 : goto ${ends[1]} }`,
    `add element ip proxy services { ${address(96, at + 1)} . tcp . 80 : goto ${name} }`,
  ];
}

function proxyScript(count: number): string {
  return [
    'add table ip proxy',
    'add map ip proxy services { type ipv4_addr . inet_proto . inet_service : verdict ; }',
    ...['prerouting', 'output'].flatMap((hook) => [
      `add chain ip proxy nat-${hook} { type nat hook ${hook} priority -100 ; }`,
      `add rule ip proxy nat-${hook} ip daddr . meta l4proto . th dport vmap @services`,
    ]),
    ...Array.from({ length: count }, (_, at) => proxyService(at)).flat(),
    '',
  ].join('\n');
}

class World {
  readonly services = new Map<string, ServiceFacts>();
  readonly slices = new Map<string, SliceFacts>();
  readonly planner = new ServicePlanner(this, aNode());

  constructor(count: number) {
    for (let at = 0; at < count; at++) this.put(at);
  }

  /** A Service with endpoints from a number on. Returns its key and that of its slice. */
  put(at: number, from = at * ENDPOINTS, endpoints = ENDPOINTS): [service: string, slice: string] {
    const name = `s${at}`;
    const facts = serviceFacts(aService({ clusterIP: address(96, at + 1) }, { name }));
    if (!this.services.has(facts.key)) this.services.set(facts.key, facts);
    const words = Array.from({ length: endpoints }, (_, k) => `${address(128, from + k)} node-b`);
    const slice = sliceFacts(aSlice(words, { name: `${name}-1`, service: name }));
    this.slices.set(slice.key, slice);
    return [facts.key, slice.key];
  }
}

export async function benchServiceNft({ quick }: AreaOptions): Promise<Figure[]> {
  const count = quick ? 1000 : 10_000;
  const label = count.toLocaleString('en');
  const name = `bsn${process.pid}`;
  const folder = mkdtempSync(join(tmpdir(), 'service-nft-'));
  const script = (text: string) => {
    const file = join(folder, 'rules.nft');
    writeFileSync(file, text);
    return file;
  };
  const made: Netns[] = [];
  try {
    made.push(createNetns(name), createNetns(`${name}p`));
    const world = new World(count);
    const { planner } = world;
    const delta = planner.planAll();
    const netns = made[0]!;
    let told = () => {};
    let engine = NftablesEngine.open({
      netns,
      nodeName: 'node-a',
      onRepaired: (error) => {
        if (error) throw error;
        told();
      },
    });
    /** Milliseconds from the end of somebody's nft until what it did is undone. */
    const repairs = async (damage: string, rounds: number): Promise<number[]> => {
      const times: number[] = [];
      for (let round = 0; round < rounds; round++) {
        const done = new Promise<void>((resolve) => {
          told = resolve;
        });
        execFileSync('ip', ['netns', 'exec', name, 'nft', damage]);
        const began = performance.now();
        await done;
        times.push(performance.now() - began);
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      return times;
    };
    const all = spend(() => {
      const { failed } = engine.apply(delta);
      if (failed.size > 0) throw [...failed.values()][0];
    });
    const one: Record<'endpoint' | 'scaled' | 'added', { cpu: number[]; wall: number[] }> = {
      endpoint: { cpu: [], wall: [] },
      scaled: { cpu: [], wall: [] },
      added: { cpu: [], wall: [] },
    };
    const measure = (kind: keyof typeof one, change: [string, string], isNew = false) => {
      const { cpuMs, wallMs } = spend(() =>
        engine.apply(planner.plan(isNew ? [change[0]] : [], [change[1]])),
      );
      one[kind].cpu.push(cpuMs);
      one[kind].wall.push(wallMs);
    };
    for (let round = 0; round < ROUNDS; round++) {
      const at = (round * 7919) % count;
      measure('endpoint', world.put(at, at * ENDPOINTS + 1 + round));
      measure('scaled', world.put(at, at * ENDPOINTS, ENDPOINTS - 1));
      measure('added', world.put(count + round), true);
    }
    const rounds = quick ? 3 : 5;
    const element = await repairs(
      `delete element ip portolan-services vips { ${address(96, 1)} . tcp . 80 }`,
      rounds,
    );
    const slot = await repairs(
      `delete element ip portolan-services slots { ${address(96, 2)} . tcp . 80 . 0x1 }`,
      rounds,
    );
    const rule = await repairs('flush chain ip portolan-services postrouting', rounds);
    const map = await repairs('flush map ip portolan-services vips', rounds);
    engine.close();
    const again = spend(() => {
      engine = NftablesEngine.open({ netns, nodeName: 'node-a' });
      engine.apply(planner.everything());
    });
    if (engine.transactions > 0) throw new Error('a restart without a change wrote something');
    engine.remove();

    const proxy = spendNft(`${name}p`, script(proxyScript(count)));
    const proxyOne = spendNft(`${name}p`, script(`${proxyService(count).join('\n')}\n`));
    const beside = (value: number) => ({ name: 'nft -f, a chain a Service and endpoint', value });
    const figure = (title: string, list: number[], baseline?: number): Figure => ({
      name: title,
      value: median(list),
      unit: 'ms',
      ...(baseline === undefined ? {} : { baseline: beside(baseline) }),
    });
    const budget = (value: number) => atMost(value, 5, 'ms');
    return [
      {
        ...figure(`${label} Services x ${ENDPOINTS} programmed, CPU`, [all.cpuMs], proxy),
        budget: atMost(all.cpuMs, 1000, 'ms'),
      },
      figure('an endpoint takes the place of another, CPU', one.endpoint.cpu),
      {
        ...figure('the same until the kernel has it', one.endpoint.wall),
        budget: budget(median(one.endpoint.wall)),
      },
      figure('an endpoint fewer, until the kernel has it', one.scaled.wall),
      figure('a new Service, CPU', one.added.cpu, proxyOne),
      {
        ...figure('the same until the kernel has it', one.added.wall),
        budget: budget(median(one.added.wall)),
      },
      figure('a restart without a change, CPU', [again.cpuMs]),
      {
        ...figure('a deleted element is back', element),
        budget: atMost(median(element), 200, 'ms'),
      },
      {
        ...figure('a deleted slot of an endpoint is back', slot),
        budget: atMost(median(slot), 200, 'ms'),
      },
      { ...figure('a flushed chain is back', rule), budget: atMost(median(rule), 200, 'ms') },
      figure('a flushed map of all frontends is back', map),
    ];
  } finally {
    for (const netns of made) netns.close();
    for (const each of [name, `${name}p`]) {
      try {
        deleteNetns(each);
      } catch {
        // It was not made.
      }
    }
    rmSync(folder, { recursive: true, force: true });
  }
}
