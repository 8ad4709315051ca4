/**
 * Network policy: what it costs to program, to change, to put right, and for each packet. Root; makes network
 * namespaces of its own.
 *
 *   npm run bench -- policy
 */
import { execFile, execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { createNetns, deleteNetns } from '../../src/kernel/netns/index.ts';
import { monitorNft, NftRuleset } from '../../src/kernel/nft/index.ts';
import {
  namespaceLabels,
  type PodFacts,
  PolicyController,
  type PolicyFacts,
  podFacts,
  policyFacts,
} from '../../src/policy/index.ts';
import { MemoryTable } from '../lib/policy-cluster.ts';
import { type AreaOptions, atMost, type Figure, median, quantile, type Unit } from './figure.ts';
import { benchPolicyApi } from './policy-api.ts';
import { benchPolicyPackets } from './policy-packets.ts';
import {
  attachment,
  LOCAL,
  NAMESPACES,
  NODE,
  namespaceObject,
  podObject,
  policyObject,
} from './policy-world.ts';

const run = promisify(execFile);

export async function benchPolicyArea({ quick }: AreaOptions): Promise<Figure[]> {
  const figures: Figure[] = [];
  figures.push(...(await benchPolicyApi(quick ? 15 : 60)));
  for (const [pods, policies] of [
    [5_000, 1_000],
    [10_000, 500],
  ] as const)
    figures.push(...(await benchProgramming(pods, policies, quick ? 11 : 41)));
  figures.push(...(await benchPolicyPackets(quick ? 5 : 21)));
  return figures;
}

/** Compiler, engine and kernel by themselves, fed from memory. */
export async function benchProgramming(
  podCount: number,
  policyCount: number,
  rounds: number,
): Promise<Figure[]> {
  const name = `pt-bp-${process.pid}-${podCount}`;
  const netns = createNetns(name);
  const label = `${podCount.toLocaleString('en')} pods, ${policyCount.toLocaleString('en')} policies, ${LOCAL} local pods`;
  const figures: Figure[] = [];
  const policies = new MemoryTable<PolicyFacts>();
  const pods = new MemoryTable<PodFacts>();
  const namespaces = new MemoryTable<Readonly<Record<string, string>>>();
  const setNamespace = (at: number, team?: number) => {
    const made = namespaceObject(at, team);
    namespaces.set(made.metadata.name, namespaceLabels(made));
  };
  const setPod = (at: number, labels?: Record<string, string>, node?: string) => {
    const made = { ...podFacts(podObject(at, labels, node)), uid: `${at}` };
    pods.set(`${made.namespace}/${made.name}`, made);
  };
  const setPolicy = (at: number, generation?: number) => {
    const made = policyFacts(policyObject(at, generation));
    policies.set(made.key, made);
  };
  for (let at = 0; at < NAMESPACES; at++) setNamespace(at);
  for (let at = 0; at < podCount; at++) setPod(at);
  for (let at = 0; at < policyCount; at++) setPolicy(at);
  const controller = new PolicyController({ nodeName: NODE, policies, pods, namespaces, netns });
  const timed = async (what: string, limitMs: number | undefined, work: (round: number) => unknown) => {
    const times: number[] = [];
    for (let round = -2; round < rounds; round++) {
      const began = performance.now();
      await work(round + 2);
      await controller.settled();
      if (round >= 0) times.push(performance.now() - began);
      await sleep(2);
    }
    figures.push(...spread(`${what}; ${label}`, times, limitMs));
  };
  try {
    const kernelBefore = kernelMiB();
    const before = process.memoryUsage.rss();
    const began = performance.now();
    await controller.start(Array.from({ length: LOCAL }, (_, at) => attachment(at)));
    const first = performance.now() - began;
    figures.push({
      name: `first programming; ${label}`,
      value: first,
      unit: 'ms',
      budget: atMost(first, 1000, 'ms'),
    });
    await sleep(200);
    figures.push(
      {
        name: `memory of the agent for it; ${label}`,
        value: Math.max(0, process.memoryUsage.rss() - before) / 2 ** 20,
        unit: 'MiB',
      },
      {
        name: `memory of the kernel for it; ${label}`,
        value: Math.max(0, kernelMiB() - kernelBefore),
        unit: 'MiB',
      },
    );
    await timed('a policy changes', 10, (round) => setPolicy(0, 2 + round));
    await timed('a pod elsewhere comes', 10, (round) => setPod(podCount + round));
    await timed('a label of a pod elsewhere changes', 10, (round) =>
      setPod(LOCAL + 1, { app: `a${round % 20}` }),
    );
    await timed('a local pod is isolated', 10, (round) => {
      const at = 20_000 + round * NAMESPACES;
      setPod(at, undefined, NODE);
      return controller.isolate(attachment(at));
    });
    await timed("a namespace's label changes", undefined, (round) => setNamespace(1, round % 5));
    await besideText(figures, name, label);
    figures.push(...(await repairs(controller, name, netns, label, rounds)));
    const { state } = controller.status();
    if (state.state !== 'done') throw new Error(`not programmed: ${JSON.stringify(state)}`);
    return figures;
  } finally {
    await controller.close();
    netns.close();
    deleteNetns(name);
  }
}

/** What nft(8) needs for the rules of one policy as text, in a namespace of its own with the same rules. */
async function besideText(figures: Figure[], name: string, label: string): Promise<void> {
  const beside = `${name}-t`;
  using _netns = createNetns(beside);
  try {
    const options = { maxBuffer: 256 << 20 };
    const { stdout: script } = await run('ip', ['netns', 'exec', name, 'nft', 'list', 'ruleset'], options);
    runNft(beside, script);
    const chain = 'policy_in/ns0/np0';
    const body = new RegExp(`chain ${chain} {\\n([^}]*)\\n\\t}`).exec(script)?.[1] ?? '';
    const rules = body.split('\n').map((rule) => `add rule ip portolan ${chain} ${rule.trim()}\n`);
    if (rules.length < 2) throw new Error(`no rules of ${chain} in the listing`);
    const times: number[] = [];
    for (let round = 0; round < 7; round++) {
      const start = performance.now();
      runNft(beside, `flush chain ip portolan ${chain}\n${rules.join('')}`);
      times.push(performance.now() - start);
    }
    const at = figures.findIndex((figure) => figure.name.startsWith(`a policy changes; ${label}`));
    const baseline = { name: "nft -f with one family's rules of it", value: median(times) };
    figures[at] = { ...figures[at]!, baseline };
  } finally {
    deleteNetns(beside);
  }
}

function runNft(name: string, input: string): void {
  execFileSync('ip', ['netns', 'exec', name, 'nft', '-f', '-'], { input });
}

/** Others delete or edit what is ours, by nft(8): from their transaction's end to the end of ours. */
async function repairs(
  controller: PolicyController,
  name: string,
  netns: { readonly fd: number },
  label: string,
  rounds: number,
): Promise<Figure[]> {
  using ruleset = NftRuleset.open({ netns });
  const chains = () => ruleset.chains({ family: 'ip', table: 'portolan' }).length;
  const all = chains();
  let ends: number[] = [];
  const monitor = monitorNft({
    netns,
    onEvent: () => {},
    onGeneration: () => ends.push(performance.now()),
    onResync: () => {},
  });
  const edits = {
    'a deleted table is back': ['delete', 'table', 'ip', 'portolan'],
    'an emptied chain is back': ['flush', 'chain', 'ip', 'portolan', 'policy_forward'],
    'a rule put before ours is gone': ['insert', 'rule', 'ip', 'portolan', 'policy_forward', 'accept'],
  };
  const figures: Figure[] = [];
  for (const [what, args] of Object.entries(edits)) {
    const times: number[] = [];
    for (let round = 0; round < Math.max(5, rounds >> 2); round++) {
      await sleep(20);
      ends = [];
      await run('ip', ['netns', 'exec', name, 'nft', ...args]);
      while (ends.length < 2) await sleep(1);
      await controller.settled();
      if (chains() !== all) throw new Error(`${what}: ${chains()} of ${all} chains`);
      times.push(ends[1]! - ends[0]!);
    }
    figures.push(...spread(`${what}; ${label}`, times, 200));
  }
  monitor.close();
  return figures;
}

/** Median with its budget, and the 99th percentile. */
export function spread(name: string, times: number[], limit?: number, unit: Unit = 'ms'): Figure[] {
  const p50 = median(times);
  return [
    {
      name: `${name}, p50`,
      value: p50,
      unit,
      ...(limit !== undefined && { budget: atMost(p50, limit, unit) }),
    },
    { name: `${name}, p99`, value: quantile(times, 0.99), unit },
  ];
}

/** What the kernel holds of its own, all of the machine: others' changes are in it, too. */
function kernelMiB(): number {
  const text = readFileSync('/proc/meminfo', 'utf8');
  const of = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0) / 1024;
  return of('SUnreclaim') + of('VmallocUsed') + of('Percpu');
}
