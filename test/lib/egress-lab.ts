/**
 * A lab for egress addresses: a host outside says with which address it sees pods of three nodes, which reach each other
 * by the tunnel; tcpdump on the wire says with which ones packets left.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { capture } from './capture.ts';
import { type Lab, podOf, run, serviceOf, startLab } from './lab.ts';
import { until } from './until.ts';

export const NODES = ['node1', 'node2', 'node3'] as const;
export const OUTSIDE = { 4: '198.51.100.7', 6: '2001:db8::7' } as const;
export const MOVABLE = { 4: '172.31.0.240', 6: 'fd00:172:31::240' } as const;
export const BOTH = `${MOVABLE[4]},${MOVABLE[6]}`;
const ANNOTATION = 'portolan.dev/egress-address';
export const FAMILIES = [4, 6] as const;
type Family = (typeof FAMILIES)[number];

export let lab: Lab;
let server: ReturnType<typeof spawn>;

interface Row {
  namespace: string;
  family: string;
  address?: string;
  state: string;
  holder?: string;
  why?: string;
  pods: number;
  dropped: number;
}

const bracketed = (address: string) => (address.includes(':') ? `[${address}]` : address);
const netnsOf = new Map<string, string>();
/** Asked once of each pod: an agent that is asked again and again takes the machine from those that are tested. */
async function podNetns(node: string, pod: string): Promise<string> {
  const known = netnsOf.get(pod) ?? (await lab.podNetns(node, pod));
  netnsOf.set(pod, known);
  return known;
}
/** What somebody in a pod reads who sends a line to port 7000; '' when nobody answers within so many seconds. */
export async function ask(
  node: string,
  pod: string,
  target: string,
  { protocol = 'TCP', seconds = 5 }: { protocol?: 'TCP' | 'UDP'; seconds?: number } = {},
): Promise<string> {
  const family = target.includes(':') ? 6 : 4;
  const script =
    protocol === 'TCP'
      ? `echo x | socat -t${seconds} -T${seconds} - TCP${family}:${bracketed(target)}:7000,connect-timeout=${seconds}`
      : `exec 3<>/dev/udp/${target}/7000; echo x >&3; timeout ${seconds} dd bs=2048 count=1 status=none <&3`;
  const words = lab.inside(await podNetns(node, pod), lab.cgroup(node, 'pods'), ['bash', '-c', script]);
  return (await run(words[0]!, words.slice(1), { timeoutMs: 30_000 })).stdout;
}
interface Asking {
  family?: Family;
  protocol?: 'TCP' | 'UDP';
  seconds?: number;
}
/** The address that the host outside sees; '' when it sees nothing. */
export const seen = async (node: string, pod: string, { family = 4, ...how }: Asking = {}) =>
  (await ask(node, pod, OUTSIDE[family], how)).split(' ')[0]!.trim();
/** Nothing of a pod arrives outside. That takes the whole time: a watch on the wire says more, and this makes it send. */
export async function isClosed(node: string, pod: string, family: Family = 4) {
  assert.equal(await seen(node, pod, { family, seconds: 1 }), '', `${pod} is closed`);
}
export async function isSeenAs(
  address: Record<Family, string>,
  pods: readonly [string, string][],
  what: string,
) {
  await Promise.all(
    pods.flatMap(([node, pod]) =>
      FAMILIES.map((family) =>
        until(async () => (await seen(node, pod, { family, seconds: 2 })) === address[family], {
          seconds: 30,
          what: `${what}: ${pod} on ${node} as ${address[family]}`,
        }),
      ),
    ),
  );
}
export const annotate = (text: string | undefined, namespace = 'shop') =>
  lab.kubectl([
    'annotate',
    '--overwrite',
    'namespace',
    namespace,
    text === undefined ? `${ANNOTATION}-` : `${ANNOTATION}=${text}`,
  ]);
/** What a test begins with, whatever became of the one before. */
export async function held() {
  await annotate(BOTH);
  await isSeenAs(MOVABLE, ALL, 'annotated');
}
export const rows = (node: string) => lab.ask<Row[]>(node, 'egress', 'list');
export const rowOf = async (node: string, family: Family = 4) =>
  (await rows(node)).find((row) => row.namespace === 'shop' && row.family === `IPv${family}`);
export const agentOf = (node: string) => {
  const state = JSON.parse(readFileSync(`/run/${lab.name}/lab.json`, 'utf8')) as {
    processes: { title: string; pid: number }[];
  };
  return state.processes.find(({ title }) => title === `agent of ${node}`)!.pid;
};
const underlay = (...command: string[]) =>
  run('nsenter', [`--net=${lab.netns('underlay')}`, '--', ...command], { timeoutMs: 20_000 });
/** Sources of packets to the host outside, on the wire between nodes and their gateway. */
export async function watchSources(work: () => Promise<void>): Promise<Set<string>> {
  const wire = await capture(
    `${lab.name}-underlay`,
    'underlay',
    `dst port 7000 and (dst host ${OUTSIDE[4]} or dst host ${OUTSIDE[6]})`,
  );
  let lines: string[] = [];
  try {
    await work();
  } finally {
    lines = await wire.stop();
  }
  const sources = lines.flatMap((line) => /IP6? (\S+)\.\d+ > \S+\.7000:/.exec(line)?.[1] ?? []);
  return new Set(sources);
}
/** A command in a pod that goes on until it is stopped, at the latest with the test. */
export async function going(t: TestContext, node: string, pod: string, script: string) {
  const child = lab.start(await podNetns(node, pod), lab.cgroup(node, 'pods'), ['sh', '-c', script]);
  const ended = new Promise((resolve) => child.once('close', resolve));
  let said = '';
  child.stdout.on('data', (data: Buffer) => {
    said += data;
  });
  child.stderr.resume();
  const stop = async () => {
    child.kill('SIGKILL');
    child.stdout.destroy();
    child.stderr.destroy();
    await Promise.race([ended, new Promise((resolve) => child.once('exit', resolve))]);
  };
  t.after(stop);
  return { stop, said: () => said };
}
/** Addresses of a node's own, which the router knows the way to. */
export const OWN = { 4: '203.0.113.9', 6: '2001:db8:9::9' } as const;
export async function ownAddresses(node: string, verb: 'add' | 'del') {
  for (const family of FAMILIES) {
    const cidr = `${OWN[family]}/${family === 4 ? 32 : 128}`;
    await lab.mustExec(node, ['ip', 'addr', verb, cidr, 'dev', 'eth0']);
  }
}
export const ALL: [string, string][] = NODES.map((node) => [node, `shop/${node}`]);

/** A lab of three nodes, a host outside, and pods of the namespace `shop`. */
export async function openEgressLab(): Promise<void> {
  lab = await startLab('--dual-stack', '--no-direct-routing');
  for (const family of FAMILIES)
    await underlay('ip', 'addr', 'add', `${OUTSIDE[family]}/${family === 4 ? 32 : 128}`, 'dev', 'lo');
  const script = fileURLToPath(new URL('./outside.py', import.meta.url));
  await underlay('ip', 'route', 'add', OWN[4], 'via', '172.31.0.12');
  await underlay('ip', '-6', 'route', 'add', OWN[6], 'via', 'fd00:172:31::c');
  server = spawn(
    'nsenter',
    [`--net=${lab.netns('underlay')}`, '--', 'python3', script, ...Object.values(OUTSIDE)],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  await new Promise((resolve) => server.stdout!.once('data', resolve));
  const inShop = (object: ReturnType<typeof podOf>, namespace = 'shop') => ({
    ...object,
    metadata: { ...object.metadata, namespace },
  });
  await lab.apply([
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'shop' } },
    ...NODES.map((nodeName) =>
      inShop(podOf(nodeName, ['sleep', '10000'], { nodeName, labels: { app: 'shop' } })),
    ),
    inShop(podOf('host', ['sleep', '10000'], { nodeName: 'node1', spec: { hostNetwork: true } })),
    podOf('other', ['sleep', '10000'], { nodeName: 'node2' }),
    podOf('echo', ['python3', '-c', readFileSync(script, 'utf8')], { nodeName: 'node2', port: 7000 }),
    serviceOf('echo', { app: 'echo' }, [{ port: 7000 }]),
  ]);
  await lab.kubectl(['wait', '--for=condition=Ready', 'pod', '-A', '--all', '--timeout=60s']);
}

export async function closeEgressLab(): Promise<void> {
  server?.kill('SIGKILL');
  await lab?.down();
}
