/**
 * What the overlay's control plane costs, beside ip(8) doing the same in the same run:
 *
 *     node test/bench/overlay.ts [peers...]
 *
 * For each number of peers: time from known leases to programmed kernel (route, neighbour and FDB entry each), the
 * same by `ip -batch` and `bridge -batch`, the time of a run that finds nothing to do, and of one new lease.
 */
import { execFileSync } from 'node:child_process';
import { parseCidr, parseIp } from '../../src/addr/index.ts';
import { createNetns, deleteNetns, type Netns } from '../../src/kernel/netns/index.ts';
import { Rtnl } from '../../src/kernel/rtnl/index.ts';
import {
  changeText,
  cleanupOverlay,
  desiredOverlay,
  type Lease,
  type OverlayConfig,
  OverlayReconciler,
  openOverlayKernel,
  planOverlay,
  vtepMac,
} from '../../src/overlay/index.ts';

const ROUNDS = 5;
const median = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1]!;
const ms = (value: number) => `${value.toFixed(1)} ms`;

function leaseOf(n: number): Lease {
  const podCidr = parseCidr('10.64.0.0/10').subnet(24, n);
  const vtep = { vni: 1, mac: vtepMac(`node-${n}`, 4), port: 8472 };
  return {
    node: `node-${n}`,
    backend: 'vxlan',
    endpoints: { 4: { publicIp: parseIp('172.16.0.0').plus(n), podCidrs: [podCidr], vtep } },
  };
}

const config: OverlayConfig = {
  node: 'node-0',
  backend: 'vxlan',
  podCidrs: [parseCidr('10.64.0.0/24')],
  clusterCidrs: [parseCidr('10.64.0.0/10')],
};

function isRouted(ns: Netns, lease: Lease): boolean {
  using rtnl = Rtnl.open({ netns: ns });
  return rtnl.lookup(lease.endpoints[4]!.podCidrs[0]!.address.plus(1))?.gateway !== undefined;
}

export interface OverlayFigures {
  readonly peers: number;
  readonly programMs: number;
  readonly ipBatchMs: number;
  readonly idleRunMs: number;
  readonly oneLeaseMs: number;
}

export async function benchOverlay(peers: number): Promise<OverlayFigures> {
  const name = `pt-bench-ov${process.pid}`;
  const ns = createNetns(name);
  const ip = (...args: string[]) => execFileSync('ip', ['-n', name, ...args]);
  const batch = (program: string, lines: readonly string[]) =>
    execFileSync(program, ['-n', name, '-batch', '-'], { input: `${lines.join('\n')}\n` });
  try {
    ip('link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'far');
    ip('addr', 'add', '192.0.2.1/24', 'dev', 'eth0');
    ip('link', 'set', 'eth0', 'up');
    ip('link', 'set', 'far', 'up');
    ip('route', 'add', 'default', 'via', '192.0.2.254');
    const leases = Array.from({ length: peers }, (_, at) => leaseOf(at + 1));
    const programMs: number[] = [];
    const ipBatchMs: number[] = [];
    const idleRunMs: number[] = [];
    const oneLeaseMs: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      const overlay = new OverlayReconciler({ config: { ...config, masquerade: false }, netns: ns });
      overlay.setLeases([]);
      overlay.start();
      await overlay.settled();
      let start = performance.now();
      let last = start;
      overlay.setLeases(leases);
      await new Promise<void>((resolve) => {
        const wait = setInterval(() => {
          if (overlay.status().peers.length === peers) {
            clearInterval(wait);
            resolve();
          }
        }, 0);
      });
      last = performance.now();
      programMs.push(last - start);
      await overlay.settled();
      const kernel = openOverlayKernel(ns);
      start = performance.now();
      const observed = kernel.observe();
      const plan = planOverlay(desiredOverlay(config, leases, observed), observed);
      idleRunMs.push(performance.now() - start);
      if (plan.length > 0) throw new Error(`the second plan is not empty: ${changeText(plan[0]!)}`);
      kernel.close();
      start = performance.now();
      overlay.setLeases([...leases, leaseOf(peers + 1)]);
      while (!isRouted(ns, leaseOf(peers + 1))) await new Promise((resolve) => setImmediate(resolve));
      oneLeaseMs.push(performance.now() - start);
      await overlay.settled();
      await overlay.stop();

      ip('link', 'del', 'flannel.1');
      const [index] = JSON.parse(
        execFileSync('ip', ['-n', name, '-j', 'link', 'show', 'eth0'], { encoding: 'utf8' }),
      ) as { ifindex: number }[];
      if (!index) throw new Error('no eth0');
      ip(
        'link',
        'add',
        'flannel.1',
        'type',
        'vxlan',
        'id',
        '1',
        'local',
        '192.0.2.1',
        'dev',
        'eth0',
        'dstport',
        '8472',
        'nolearning',
      );
      ip('link', 'set', 'flannel.1', 'up');
      const ipLines: string[] = [];
      const bridgeLines: string[] = [];
      for (const { endpoints } of leases) {
        const { publicIp, podCidrs, vtep } = endpoints[4]!;
        const [cidr] = podCidrs;
        ipLines.push(`neigh replace ${cidr!.address} lladdr ${vtep!.mac} dev flannel.1 nud permanent`);
        ipLines.push(`route replace ${cidr} via ${cidr!.address} dev flannel.1 onlink proto 250`);
        bridgeLines.push(`fdb replace ${vtep!.mac} dev flannel.1 dst ${publicIp} self permanent`);
      }
      start = performance.now();
      batch('ip', ipLines);
      batch('bridge', bridgeLines);
      ipBatchMs.push(performance.now() - start);
      ip('link', 'del', 'flannel.1');
      await cleanupOverlay(config, ns);
    }
    return {
      peers,
      programMs: median(programMs),
      ipBatchMs: median(ipBatchMs),
      idleRunMs: median(idleRunMs),
      oneLeaseMs: median(oneLeaseMs),
    };
  } finally {
    ns.close();
    deleteNetns(name);
  }
}

if (import.meta.main) {
  const sizes = process.argv.slice(2).map(Number);
  for (const peers of sizes.length > 0 ? sizes : [100, 1000, 3000]) {
    const f = await benchOverlay(peers);
    const ratio = (f.ipBatchMs / f.programMs).toFixed(1);
    process.stdout.write(
      `${String(peers).padStart(5)} peers: programmed in ${ms(f.programMs)}, ip -batch ${ms(f.ipBatchMs)} (${ratio}x), a run without changes ${ms(f.idleRunMs)}, one more lease ${ms(f.oneLeaseMs)}\n`,
    );
  }
}
