/**
 * From a write to the API to the data path: real API server, controllers and agent; what counts is when connect() to
 * the ClusterIP begins to succeed or to be refused, as a process in the node's cgroup sees it.
 */
import { execFileSync, spawn } from 'node:child_process';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseCidr, parseIp } from '../../src/addr/index.ts';
import { Rtnl, RtnlMonitor } from '../../src/kernel/rtnl/index.ts';
import { leaseAnnotations, vtepMac } from '../../src/overlay/index.ts';
import {
  BenchCluster,
  cpuMs,
  memoryMiB,
  NODE,
  NODE_IP,
  type RunningAgent,
  serviceOf,
  sliceOf,
  slicesPath,
} from './cluster.ts';
import { type AreaOptions, atMost, type Figure, median, quantile } from './figure.ts';

const PEERS = 1000;
/** By then the agent has given back what the start took (src/kernel/process/heap.ts). */
const SETTLED_MS = 35_000;
const IDLE_MS = 60_000;
const namespace = '/api/v1/namespaces/bench';
const here = [{ addresses: [NODE_IP], conditions: { ready: true } }];

export async function benchEndpoints({ quick }: AreaOptions): Promise<Figure[]> {
  const cluster = new BenchCluster();
  const out: Figure[] = [];
  let server: Server | undefined;
  try {
    await cluster.start();
    server = createServer((socket) => socket.destroy()).listen(8080, NODE_IP);
    const tool = join(cluster.folder, 'reach');
    execFileSync('gcc', ['-O2', '-o', tool, join(import.meta.dirname, 'reach.c')]);
    const probe = await probeObjects(cluster);
    await cluster.inParallel(1, PEERS + 1, (n) => cluster.post('/api/v1/nodes', nodeOf(n)));
    for (const count of [1000, 10_000]) {
      await cluster.fill(count);
      const agent = await cluster.startAgent();
      const reach = reacher(tool, agent.cgroup);
      try {
        const rounds = quick ? 20 : count === 1000 ? 100 : 200;
        const label = `at ${count.toLocaleString('en')} Services`;
        if (count === 10_000) out.push(...(await startFigures(agent, cluster)));
        const slice = await changes(rounds, async (open) => {
          await sleep(5);
          return reach(probe.slice.ip, open, () =>
            cluster.request('PATCH', `${slicesPath}/slice-1`, { endpoints: open ? here : [] }),
          );
        });
        out.push(...latencies(`EndpointSlice write to data path, ${label}`, slice, [5, 25]));
        const pod = await changes(rounds, async (open) => {
          await sleep(5);
          return reach(probe.pod.ip, open, () => setReady(cluster, open));
        });
        out.push(...latencies(`Pod readiness write to data path, ${label}`, pod, [5, 25]));
        const made = await newServices(cluster, reach, count, quick ? 10 : 60);
        out.push(...latencies(`new Service and EndpointSlice to data path, ${label}`, made));
        if (count === 1000) out.push(...(await leaseFigures(cluster, quick ? 6 : 20)));
      } finally {
        reach.stop();
        await agent.stop();
      }
    }
    return out;
  } finally {
    server?.close();
    await cluster.close();
  }
}

/** Services that are probed: one whose slice is written by hand, one whose slice the controller writes. */
async function probeObjects(cluster: BenchCluster) {
  const ipOf = (service: Record<string, unknown>) => ({
    ip: (service['spec'] as { clusterIP: string }).clusterIP,
  });
  const slice = await cluster.post(`${namespace}/services`, serviceOf('slice'));
  await cluster.post(slicesPath, sliceOf('slice', []));
  const pod = await cluster.post(`${namespace}/services`, serviceOf('pod', { app: 'probe' }));
  await cluster.post(`${namespace}/pods`, {
    metadata: { name: 'probe', labels: { app: 'probe' } },
    spec: { nodeName: NODE, containers: [{ name: 'c', image: 'none' }] },
  });
  await setReady(cluster, false);
  return { slice: ipOf(slice), pod: ipOf(pod) };
}

function setReady(cluster: BenchCluster, ready: boolean) {
  const status = ready ? 'True' : 'False';
  return cluster.request('PATCH', `${namespace}/pods/probe/status`, {
    status: {
      phase: 'Running',
      podIP: NODE_IP,
      podIPs: [{ ip: NODE_IP }],
      conditions: ['Ready', 'ContainersReady'].map((type) => ({ type, status })),
    },
  });
}

type Reach = ((ip: string, open: boolean, write: () => Promise<unknown>) => Promise<number>) & {
  stop(): void;
};

/** Runs reach.c in a cgroup; answers the milliseconds from before a write until it shows. */
function reacher(tool: string, cgroup: string): Reach {
  const child = spawn('sh', ['-ec', `echo $$ > ${cgroup}/cgroup.procs; exec "$1"`, 'sh', tool], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
  const reach = async (ip: string, open: boolean, write: () => Promise<unknown>) => {
    child.stdin!.write(`${ip} 80 ${open ? 'open' : 'closed'}\n`);
    const began = process.hrtime.bigint();
    const written = write();
    const { value } = await lines.next();
    await written;
    if (!value || !/^\d+$/.test(value)) throw new Error(`${ip} does not become ${open ? 'open' : 'closed'}`);
    return Number(BigInt(value) - began) / 1e6;
  };
  return Object.assign(reach, { stop: () => child.kill('SIGKILL') });
}

/** Opens and closes in turn; the first two warm up. */
async function changes(rounds: number, once: (open: boolean) => Promise<number>): Promise<number[]> {
  const out: number[] = [];
  for (let round = -2; round < rounds; round++) {
    const ms = await once(round % 2 === 0);
    if (round >= 0) out.push(ms);
  }
  return out;
}

async function newServices(cluster: BenchCluster, reach: Reach, count: number, rounds: number) {
  const out: number[] = [];
  for (let n = 0; n < rounds; n++) {
    const name = `new-${count}-${n}`;
    const began = performance.now();
    const made = await cluster.post(`${namespace}/services`, serviceOf(name));
    const first = performance.now() - began;
    const { clusterIP } = made['spec'] as { clusterIP: string };
    out.push(first + (await reach(clusterIP, true, () => cluster.post(slicesPath, sliceOf(name, here)))));
  }
  return out;
}

function latencies(name: string, times: number[], limits?: [number, number]): Figure[] {
  const p50 = median(times);
  const p99 = quantile(times, 0.99);
  return [
    { name: `${name}, p50`, value: p50, unit: 'ms', ...(limits && { budget: atMost(p50, limits[0], 'ms') }) },
    { name: `${name}, p99`, value: p99, unit: 'ms', ...(limits && { budget: atMost(p99, limits[1], 'ms') }) },
  ];
}

async function startFigures(agent: RunningAgent, cluster: BenchCluster): Promise<Figure[]> {
  // What a start leaves behind is collected in the half minute after it: a figure of its own, not one of rest.
  const ready = cpuMs(agent.pid);
  await sleep(SETTLED_MS);
  const before = cpuMs(agent.pid);
  // Comparisons that nothing asked for come every 30 s: in less there may be several of them, or none.
  await sleep(IDLE_MS);
  const idle = ((cpuMs(agent.pid) - before) / IDLE_MS) * 100;
  const memory = memoryMiB(agent.pid);
  const count = '10,000 Services x 10 endpoints';
  return [
    {
      name: `${count}: API list to data path ready`,
      value: agent.syncMs,
      unit: 'ms',
      budget: atMost(agent.syncMs, 2000, 'ms'),
    },
    { name: `${count}: agent process started to data path ready`, value: agent.readyMs, unit: 'ms' },
    { name: `${count}: agent RSS`, value: memory.now, unit: 'MiB', budget: atMost(memory.now, 150, 'MiB') },
    { name: `${count}: agent RSS, highest`, value: memory.peak, unit: 'MiB' },
    { name: `${count}: API server RSS`, value: memoryMiB(cluster.serverPid).now, unit: 'MiB' },
    { name: `${count}: CPU of the agent in the 35 s from then on`, value: before - ready, unit: 'ms' },
    { name: 'idle agent, CPU', value: idle, unit: '%', budget: atMost(idle, 0.1, '%') },
  ];
}

/** A Node as a peer's agent has written it. */
function nodeOf(n: number): object {
  const name = `peer-${n}`;
  const cidr = parseCidr('10.0.0.0/10').subnet(24, n + 300);
  const vtep = { vni: 1, mac: vtepMac(name, 4), port: 8472 };
  const publicIp = parseIp('172.16.0.0').plus(n);
  const annotations = leaseAnnotations({
    node: name,
    backend: 'vxlan',
    endpoints: { 4: { publicIp, podCidrs: [cidr], vtep } },
  });
  return { metadata: { name, annotations }, spec: { podCIDR: String(cidr), podCIDRs: [String(cidr)] } };
}

/** A Node more and less, and when its route comes and goes. */
async function leaseFigures(cluster: BenchCluster, rounds: number): Promise<Figure[]> {
  const came: number[] = [];
  const went: number[] = [];
  let told: (event: { destination: string; deleted: boolean }) => void = () => {};
  using _monitor = new RtnlMonitor({
    topics: ['route'],
    onEvent: (event) => {
      if (event.topic === 'route')
        told({ destination: String(event.route.destination), deleted: event.deleted });
    },
    onResync: () => {},
  });
  // Until the first thousand are programmed.
  for (let tries = 0; routes() < PEERS; tries++) {
    if (tries > 200) throw new Error(`${routes()} of ${PEERS} peers have routes after 10 s`);
    await sleep(50);
  }
  for (let n = 0; n < rounds; n++) {
    const node = nodeOf(PEERS + 1 + n) as { metadata: { name: string }; spec: { podCIDR: string } };
    const until = (deleted: boolean) =>
      new Promise<number>((resolve, reject) => {
        const late = setTimeout(() => reject(new Error(`no route to ${node.spec.podCIDR}`)), 10_000);
        told = (event) => {
          if (event.destination !== node.spec.podCIDR || event.deleted !== deleted) return;
          clearTimeout(late);
          resolve(performance.now());
        };
      });
    for (const [deleted, times] of [
      [false, came],
      [true, went],
    ] as const) {
      const shown = until(deleted);
      const began = performance.now();
      if (deleted) await cluster.request('DELETE', `/api/v1/nodes/${node.metadata.name}`);
      else await cluster.post('/api/v1/nodes', node);
      times.push((await shown) - began);
      // Changes of a burst are slowed down on purpose; this is about single ones.
      await sleep(300);
    }
  }
  const p50 = median(came);
  const label = `among ${PEERS.toLocaleString('en')} peers`;
  return [
    {
      name: `lease written to the API to route in a peer, ${label}, p50`,
      value: p50,
      unit: 'ms',
      budget: atMost(p50, 10, 'ms'),
    },
    {
      name: `lease written to the API to route in a peer, ${label}, p90`,
      value: quantile(came, 0.9),
      unit: 'ms',
    },
    { name: `Node deleted to route gone, ${label}, p50`, value: median(went), unit: 'ms' },
  ];
}

function routes(): number {
  using rtnl = Rtnl.open();
  const device = rtnl.links().find((link) => link.name === 'flannel.1')?.ifindex;
  return rtnl.routes().filter((route) => route.oif === device && device !== undefined).length;
}
