/**
 * What a packet to an isolated pod costs beside one to an open pod of the same node, at ever more policies. Datagrams
 * of one connection (the established way), and datagrams that each begin one (sets, verdict map and chains are asked).
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openNetns } from '../../src/kernel/netns/index.ts';
import { checked, closeFd, NR, sys, sysInNetns } from '../../src/kernel/syscall/index.ts';
import { PolicyCluster } from '../lib/policy-cluster.ts';
import { type Place, policyNet } from '../lib/policy-net.ts';
import { type Figure, median } from './figure.ts';

const COUNTS = [10, 100, 1000];
const ESTABLISHED = 20_000;
const NEW = 2000;
export const PORT = 9000;
const AF_INET = 2;
/** Isolated pods may cost so much more at the most policies than at the fewest. */
const FLAT = 1.1;

export async function benchPolicyPackets(rounds: number): Promise<Figure[]> {
  const folder = mkdtempSync(join(tmpdir(), 'pt-bench-pp-'));
  const net = policyNet('pbp', 1, 4);
  const cluster = new PolicyCluster(net);
  const sinks: { close(): void }[] = [];
  try {
    const flood = join(folder, 'flood');
    execFileSync('gcc', ['-O2', '-o', flood, join(import.meta.dirname, 'flood.c')]);
    const [node] = net.nodes;
    const [sender, open, isolated] = node!.pods as [Place, Place, Place];
    await cluster.start();
    for (const [key, place] of [
      ['a/sender', sender],
      ['b/open', open],
      ['c/isolated', isolated],
    ] as const)
      await cluster.pod(key, place, { labels: { app: key.slice(2) } });
    // Pods that the policies select beside the one that is measured, so that all policies are in the kernel.
    for (const { netns } of [open, isolated]) sinks.push(sink(netns));
    const once = (to: Place, count: number, sockets: number) =>
      Number(
        execFileSync(
          'ip',
          [
            'netns',
            'exec',
            sender.netns,
            flood,
            String(to.ip4),
            String(PORT),
            String(count),
            String(sockets),
          ],
          { encoding: 'utf8' },
        ),
      );
    const figures: Figure[] = [];
    const flat: Record<string, number[]> = { established: [], new: [] };
    let policies = 0;
    for (const count of COUNTS) {
      for (; policies < count; policies++)
        cluster.apply('c', `np${policies}`, {
          podSelector: { matchLabels: { app: policies === 0 ? 'isolated' : `p${policies}` } },
          ingress: [
            {
              from: [{ namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': 'a' } } }],
              ports: [{ protocol: 'UDP', port: PORT }],
            },
          ],
        });
      // One attached pod for each policy: it has no link, only addresses.
      await selectedPods(cluster, node!.pods[3]!, count);
      await cluster.settled();
      for (const [kind, packets, sockets] of [
        ['established', ESTABLISHED, 1],
        ['new', NEW, NEW],
      ] as const) {
        const times = { open: [] as number[], isolated: [] as number[] };
        for (let round = -1; round < rounds; round++)
          for (const [name, place] of [
            ['open', open],
            ['isolated', isolated],
          ] as const) {
            if (sockets > 1) net.forgetConnections();
            const ns = once(place, packets, sockets);
            if (round >= 0) times[name].push(ns / 1000);
          }
        const [value, baseline] = [median(times.isolated), median(times.open)];
        flat[kind]!.push(value / baseline);
        figures.push({
          name: `${kind === 'new' ? 'first packet' : 'packet'} to an isolated pod, ${count} policies`,
          value,
          unit: 'us',
          baseline: { name: 'to an open pod', value: baseline },
        });
      }
    }
    for (const [kind, ratios] of Object.entries(flat)) {
      const value = ratios.at(-1)! / ratios[0]!;
      const last = figures.findLastIndex(({ name }) => name.startsWith(kind === 'new' ? 'first' : 'packet'));
      figures[last] = {
        ...figures[last]!,
        budget: { text: `${value.toFixed(2)} times that at 10 policies, < ${FLAT}`, met: value < FLAT },
      };
    }
    return figures;
  } finally {
    await cluster.close();
    for (const each of sinks) each.close();
    net.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function selectedPods(cluster: PolicyCluster, near: Place, count: number): Promise<void> {
  for (let at = 1; at < count; at++) {
    const key = `c/p${at}`;
    if (cluster.places.has(key)) continue;
    const place = {
      ...near,
      netns: `none${at}`,
      ip4: near.ip4.plus(1000 + at),
      ip6: near.ip6.plus(1000 + at),
    };
    await cluster.pod(key, place, { labels: { app: `p${at}` } });
  }
}

/** A UDP socket that nobody reads: its buffer overflows, which costs the same for all. */
export function sink(netns: string): { close(): void } {
  const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000;
  using space = openNetns(netns);
  const fd = checked('open', netns, sysInNetns(space.fd, NR.socket, AF_INET, SOCK_DGRAM_CLOEXEC, 0));
  const name = new Uint8Array(16);
  const view = new DataView(name.buffer);
  view.setUint16(0, AF_INET, true);
  view.setUint16(2, PORT);
  checked('bind', netns, sys(NR.bind, fd, name, name.length));
  return { close: () => closeFd(fd) };
}
