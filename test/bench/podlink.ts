/**
 * What the kind of pod links costs: a datagram from pod to pod of one node, an ADD. Routed links are the baseline; a
 * bridge as Docker makes it, whose frames go from port to port, stands beside both.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseCidr, parseIp } from '../../src/addr/index.ts';
import { createNetns, deleteNetns } from '../../src/kernel/netns/index.ts';
import { hostLinkName, PodLinks, podLinkSpec } from '../../src/podlink/index.ts';
import { POD_LINK_KINDS, type PodLinkKind } from '../../src/podlink/kinds.ts';
import { cpuTimeMs } from '../../src/reconcile/index.ts';
import { PolicyCluster } from '../lib/policy-cluster.ts';
import { type Place, policyNet } from '../lib/policy-net.ts';
import { type AreaOptions, type Figure, median } from './figure.ts';
import { PORT, sink } from './policy-packets.ts';

const PACKETS = 20_000;
const ADDS = 50;

export async function benchPodLinks({ quick }: AreaOptions): Promise<Figure[]> {
  const rounds = quick ? 3 : 9;
  return [...(await packetFigures(rounds)), ...addFigures(rounds)];
}

async function packetFigures(rounds: number): Promise<Figure[]> {
  const folder = mkdtempSync(join(tmpdir(), 'pt-bench-pl-'));
  // Of each node pods 0 and 2 are routed, 1 and 3 are bridged; br_netfilter is on at the first node.
  const net = policyNet('pbl', 2, 4, 'mixed');
  const cluster = new PolicyCluster(net);
  const docker = dockerBridge();
  const sinks: { close(): void }[] = [];
  try {
    const flood = join(folder, 'flood');
    execFileSync('gcc', ['-O2', '-o', flood, join(import.meta.dirname, 'flood.c')]);
    await cluster.start();
    for (const node of net.nodes)
      for (const place of node.pods) await cluster.pod(`a/${place.netns}`, place, { labels: { app: 'a' } });
    // Isolated, as pods of a cluster with policies are: rules and connection tracking are in the way.
    cluster.apply('a', 'own', { podSelector: {}, ingress: [{ from: [{ podSelector: {} }] }] });
    await cluster.settled();
    const [on, off] = net.nodes.map(({ pods }) => pods as [Place, Place, Place, Place]);
    const ways: readonly (readonly [name: string, from: string, to: string, address: string])[] = [
      ['routed', off![0].netns, off![2].netns, String(off![2].ip4)],
      ['bridge, br_netfilter off', off![1].netns, off![3].netns, String(off![3].ip4)],
      ['bridge, br_netfilter on', on![1].netns, on![3].netns, String(on![3].ip4)],
      ['frames from port to port, no policy', docker.from, docker.to, docker.address],
    ];
    for (const [, , to] of ways) sinks.push(sink(to));
    const times = new Map(ways.map(([name]) => [name, [] as number[]]));
    for (let round = -1; round < rounds; round++)
      for (const [name, from, , address] of ways) {
        const words = [flood, address, String(PORT), String(PACKETS), '1'];
        const ns = Number(execFileSync('ip', ['netns', 'exec', from, ...words], { encoding: 'utf8' }));
        if (round >= 0) times.get(name)!.push(ns / 1000);
      }
    const baseline = { name: 'routed', value: median(times.get('routed')!) };
    return ways.slice(1).map(([name]): Figure => {
      const value = median(times.get(name)!);
      return { name: `datagram, pod to pod of a node: ${name}`, value, unit: 'us', baseline };
    });
  } finally {
    await cluster.close();
    for (const each of sinks) each.close();
    docker.close();
    net.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Two pods on a bridge as Docker makes it, without br_netfilter and rules: what layer 2 alone costs. */
function dockerBridge(): { from: string; to: string; address: string; close(): void } {
  const id = `pbd${process.pid}`;
  const names = ['n', 'a', 'b'].map((each) => `${id}${each}`) as [string, string, string];
  const [node, from, to] = names;
  for (const name of names) createNetns(name).close();
  const ip = (netns: string, ...lines: string[]) =>
    execFileSync('ip', ['-n', netns, '-batch', '-'], { input: lines.join('\n') });
  ip(node, 'link add docker0 type bridge', 'link set docker0 up');
  for (const name of ['iptables', 'ip6tables'])
    execFileSync('ip', ['netns', 'exec', node, 'sysctl', '-qw', `net.bridge.bridge-nf-call-${name}=0`]);
  for (const [at, pod] of [from, to].entries()) {
    ip(node, `link add v${at} type veth peer name eth0 netns ${pod}`, `link set v${at} master docker0 up`);
    ip(pod, 'link set lo up', 'link set eth0 up', `addr add 172.17.0.${at + 2}/16 dev eth0`);
  }
  const close = () => {
    for (const name of names) deleteNetns(name);
  };
  return { from, to, address: '172.17.0.3', close };
}

/** CPU of an ADD's link, this process's and the kernel's for it. */
function addFigures(rounds: number): Figure[] {
  const id = `pba${process.pid}`;
  const node = createNetns(`${id}n`);
  const pod = createNetns(`${id}p`);
  try {
    using links = new PodLinks({ netns: node });
    const times: Record<PodLinkKind, number[]> = { routed: [], bridge: [] };
    for (let round = -1; round < rounds; round++)
      for (const kind of POD_LINK_KINDS) {
        let spentMs = 0;
        for (let at = 0; at < ADDS; at++) {
          const containerId = `c${round}-${at}`;
          const spec = podLinkSpec({
            containerId,
            ifname: 'eth0',
            hostLink: hostLinkName(containerId, 'eth0'),
            addresses: [parseIp('10.244.1.9'), parseIp('fd00:10:244:1::9')],
            mtuBytes: 1450,
            kind,
            networks: [parseCidr('10.244.1.0/24'), parseCidr('fd00:10:244:1::/64')],
          });
          const before = cpuTimeMs();
          links.create(spec, pod.fd);
          spentMs += cpuTimeMs() - before;
          links.remove(spec.hostLink);
        }
        if (round >= 0) times[kind].push(spentMs / ADDS);
      }
    const baseline = { name: 'routed', value: median(times.routed) };
    return [{ name: 'CPU of making a link: bridge', value: median(times.bridge), unit: 'ms', baseline }];
  } finally {
    for (const each of [node, pod]) each.close();
    for (const letter of ['n', 'p']) deleteNetns(`${id}${letter}`);
  }
}
