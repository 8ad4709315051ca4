/**
 * The overlay's data path between pods of two nodes: ours (VXLAN and direct) beside plain routing, beside a VXLAN
 * made by hand with nothing else, and beside one as flannel makes it, its iptables rules included.
 *
 * Real 1500-byte frames cross the underlay: segmentation offload is off there. CPU is that of a cgroup that holds
 * the generators, plus the kernel's ksoftirqd threads, so that other load on the machine hardly enters.
 */
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseCidr } from '../../src/addr/index.ts';
import { cgroupRoot } from '../../src/kernel/cgroup/index.ts';
import { type Lease, OverlayReconciler } from '../../src/overlay/index.ts';
import { inside, pings, type TestNet, testNet } from '../lib/overlay-net.ts';
import { type AreaOptions, type Figure, median } from './figure.ts';

/** Both ends of a round trip on one CPU: where the scheduler puts them makes more difference than what is measured. */
const ONE_CPU = ['taskset', '-c', '1'];

interface Lane {
  readonly name: string;
  /** Connects the pod networks of both nodes. */
  readonly connect: (net: TestNet) => Promise<() => Promise<void>> | (() => Promise<void>);
}

const nothing = async () => {};

/** Through our reconciler, both nodes in this process. */
const portolan =
  (directRouting: boolean) =>
  async ({ nodes }: TestNet) => {
    const leases = new Map<string, Lease>();
    const overlays: OverlayReconciler[] = [];
    for (const node of nodes) {
      const overlay = new OverlayReconciler({
        config: {
          node: node.name,
          backend: 'vxlan',
          podCidrs: [parseCidr(node.podCidr4)],
          clusterCidrs: [parseCidr('10.244.0.0/16')],
          directRouting,
        },
        netns: node.ns,
        onLease: (lease) => {
          leases.set(lease.node, lease);
          for (const each of overlays) each.setLeases([...leases.values()]);
        },
      });
      overlays.push(overlay);
    }
    for (const overlay of overlays) {
      overlay.setLeases([]);
      overlay.start();
    }
    for (const overlay of overlays) await overlay.settled();
    for (const overlay of overlays) await overlay.settled();
    return async () => {
      for (const overlay of overlays) await overlay.stop();
    };
  };

function forwarding({ nodes }: TestNet): void {
  for (const node of nodes) inside(node.netns, 'sysctl', '-qw', 'net.ipv4.ip_forward=1');
}

function routed(net: TestNet): () => Promise<void> {
  forwarding(net);
  const [a, b] = net.nodes as [TestNet['nodes'][0], TestNet['nodes'][0]];
  net.ip(a.netns, `route add ${b.podCidr4} via ${b.ip4}`);
  net.ip(b.netns, `route add ${a.podCidr4} via ${a.ip4}`);
  return nothing;
}

/** What flannel makes in the kernel: pkg/backend/vxlan. */
function vxlanByHand(net: TestNet): () => Promise<void> {
  forwarding(net);
  const mac = (n: number) => `02:00:00:00:ff:0${n}`;
  const base = (cidr: string) => cidr.split('/')[0]!;
  net.nodes.forEach((node, at) => {
    const peer = net.nodes[1 - at]!;
    net.ip(
      node.netns,
      `link add flannel.1 address ${mac(at)} mtu 1450 type vxlan id 1 dev eth0 local ${node.ip4} dstport 8472 nolearning`,
    );
    net.ip(node.netns, 'link set flannel.1 up');
    net.ip(node.netns, `addr add ${base(node.podCidr4)}/32 dev flannel.1`);
    net.ip(node.netns, `neigh add ${base(peer.podCidr4)} lladdr ${mac(1 - at)} dev flannel.1 nud permanent`);
    inside(
      node.netns,
      ...`bridge fdb add ${mac(1 - at)} dev flannel.1 dst ${peer.ip4} self permanent`.split(' '),
    );
    net.ip(node.netns, `route add ${peer.podCidr4} via ${base(peer.podCidr4)} dev flannel.1 onlink`);
  });
  return nothing;
}

/** Its iptables rules: pkg/trafficmngr/iptables. */
function flannelLike(net: TestNet): () => Promise<void> {
  vxlanByHand(net);
  const cluster = '10.244.0.0/16';
  for (const node of net.nodes) {
    const own = node.podCidr4;
    const input = `*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN
-A FLANNEL-POSTRTG -s ${own} -d ${cluster} -j RETURN
-A FLANNEL-POSTRTG -s ${cluster} -d ${own} -j RETURN
-A FLANNEL-POSTRTG ! -s ${cluster} -d ${own} -j RETURN
-A FLANNEL-POSTRTG -s ${cluster} ! -d 224.0.0.0/4 -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s ${cluster} -d ${cluster} -j MASQUERADE --random-fully
COMMIT
*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -j FLANNEL-FWD
-A FLANNEL-FWD -s ${cluster} -j ACCEPT
-A FLANNEL-FWD -d ${cluster} -j ACCEPT
COMMIT
`;
    execFileSync('ip', ['netns', 'exec', node.netns, 'iptables-legacy-restore'], { input });
  }
  return nothing;
}

const LANES: readonly Lane[] = [
  { name: 'plain routing', connect: routed },
  { name: 'kernel VXLAN by hand', connect: vxlanByHand },
  { name: 'flannel', connect: flannelLike },
  { name: 'vxlan', connect: portolan(false) },
  { name: 'direct', connect: portolan(true) },
];

/** Nanoseconds that the kernel's softirq threads ran, by /proc/PID/schedstat. */
function softirqNs(): number {
  let sum = 0;
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name)))
    try {
      if (readFileSync(`/proc/${pid}/comm`, 'utf8').startsWith('ksoftirqd/'))
        sum += Number(readFileSync(`/proc/${pid}/schedstat`, 'utf8').split(' ')[0]);
    } catch {
      // It ended meanwhile.
    }
  return sum;
}

export async function benchVxlan({ quick }: AreaOptions): Promise<Figure[]> {
  const rounds = quick ? 2 : 7;
  const folder = mkdtempSync(join(tmpdir(), 'pt-bench-vx-'));
  const tool = join(folder, 'pingpong');
  execFileSync('gcc', ['-O2', '-o', tool, join(import.meta.dirname, 'pingpong.c')]);
  const cgroup = join(cgroupRoot(), `pt-bench-vx${process.pid}`);
  mkdirSync(cgroup);
  const closing: (() => Promise<void> | void)[] = [];
  /** Started inside the cgroup, which ip-netns would hide. */
  const start = (netns: string, words: readonly string[]) => {
    const enter = `echo $$ > ${cgroup}/cgroup.procs; exec "$@"`;
    return spawn('sh', ['-ec', enter, 'sh', 'ip', 'netns', 'exec', netns, ...words], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
  };
  const textOf = async (child: ReturnType<typeof start>) => {
    let text = '';
    for await (const chunk of child.stdout!) text += String(chunk);
    return text;
  };
  const server = async (netns: string, words: readonly string[], isReady: RegExp) => {
    const child = start(netns, words);
    closing.push(() => {
      child.kill('SIGKILL');
    });
    for await (const chunk of child.stdout!) if (isReady.test(String(chunk))) break;
    child.stdout!.destroy();
  };
  const cpuNs = () =>
    Number(/usage_usec (\d+)/.exec(readFileSync(join(cgroup, 'cpu.stat'), 'utf8'))?.[1]) * 1000 + softirqNs();

  try {
    const lanes: {
      name: string;
      from: string;
      to: string;
      rates: number[];
      costs: number[];
      trips: number[];
    }[] = [];
    for (const [at, { name, connect }] of LANES.entries()) {
      const net = testNet(`pbv${at}`, 2);
      closing.push(() => net.close());
      for (const node of net.nodes)
        inside(node.netns, 'ethtool', '-K', 'eth0', 'tso', 'off', 'gso', 'off', 'gro', 'off');
      for (const n of [1, 2])
        inside(net.underlay, 'ethtool', '-K', `u${n}`, 'tso', 'off', 'gso', 'off', 'gro', 'off');
      closing.push(await connect(net));
      const [a, b] = net.nodes as [TestNet['nodes'][0], TestNet['nodes'][0]];
      const mtu = name === 'plain routing' || name === 'direct' ? 1500 : 1450;
      for (const { pod } of net.nodes) net.ip(pod.netns, `link set eth0 mtu ${mtu}`);
      if (!pings(a.pod.netns, b.pod.ip4)) throw new Error(`${name}: no packet passes`);
      await server(b.pod.netns, ['iperf3', '-s', '--forceflush'], /listening/);
      await server(b.pod.netns, [...ONE_CPU, tool, 'serve', b.pod.ip4, '5300'], /ready/);
      lanes.push({ name, from: a.pod.netns, to: b.pod.ip4, rates: [], costs: [], trips: [] });
    }
    for (let round = 0; round < rounds; round++)
      for (const { from, to, rates, costs, trips } of lanes) {
        const before = cpuNs();
        const report = await textOf(start(from, ['iperf3', '-c', to, '-J', '-t', quick ? '1' : '1.5']));
        const cpu = cpuNs() - before;
        const { bytes, bits_per_second: rate } = (
          JSON.parse(report) as { end: { sum_received: { bytes: number; bits_per_second: number } } }
        ).end.sum_received;
        rates.push(rate / 1e9);
        costs.push(cpu / bytes);
        const answer = await textOf(start(from, [...ONE_CPU, tool, to, '5300', '5000']));
        trips.push(Number(answer.split(' ')[0]) / 1000);
        await sleep(20);
      }
    return figures(
      new Map(
        lanes.map(({ name, rates, costs, trips }) => [
          name,
          { rate: median(rates), cost: median(costs), trip: median(trips) },
        ]),
      ),
    );
  } finally {
    for (const close of closing.reverse()) await close();
    await sleep(50);
    rmdirSync(cgroup);
    rmSync(folder, { recursive: true, force: true });
  }
}

function figures(of: ReadonlyMap<string, { rate: number; cost: number; trip: number }>): Figure[] {
  const out: Figure[] = [];
  const rows = [
    ['VXLAN', 'vxlan', 'plain routing'],
    ['VXLAN', 'vxlan', 'kernel VXLAN by hand'],
    ['VXLAN', 'vxlan', 'flannel'],
    ['direct (default on a shared link)', 'direct', 'plain routing'],
    ['direct (default on a shared link)', 'direct', 'flannel'],
  ] as const;
  const kinds = [
    ['TCP, 1 stream', 'rate', 'Gbit/s'],
    ['TCP, CPU', 'cost', 's/GB'],
    ['UDP round trip, p10', 'trip', 'us'],
  ] as const;
  for (const [what, kind, unit] of kinds)
    for (const [label, own, other] of rows) {
      const value = of.get(own)![kind];
      const base = of.get(other)![kind];
      const better = kind === 'rate' ? value / base : base / value;
      out.push({
        name: `${what}: ${label}`,
        value,
        unit,
        baseline: { name: other === 'flannel' ? "VXLAN with flannel's rules" : other, value: base },
        ...(own === 'vxlan' &&
          other === 'kernel VXLAN by hand' && { budget: { text: 'within 2 %', met: better >= 0.98 } }),
      });
    }
  return out;
}
