/**
 * Programming network policies: first time, a pod, a label, a policy. Root; makes its own network namespace.
 *
 *   node test/bench/policy.ts
 */
import { execFileSync } from 'node:child_process';
import { IpAddress, parseIp } from '../../src/addr/index.ts';
import type { Attachment } from '../../src/ipam/index.ts';
import { createNetns, deleteNetns } from '../../src/kernel/netns/index.ts';
import {
  namespaceLabels,
  type PodFacts,
  PolicyController,
  type PolicyFacts,
  policyFacts,
} from '../../src/policy/index.ts';
import { attachmentOf, MemoryTable } from '../lib/policy-cluster.ts';

export interface PolicyBenchRow {
  readonly what: string;
  readonly ms: number;
}

const NAMESPACES = 50;
const APPS = 20;
const LOCAL = 250;
const ROUNDS = 21;

export async function benchPolicies(podCount: number, policyCount: number): Promise<PolicyBenchRow[]> {
  const name = `pt-bp-${process.pid}-${podCount}`;
  const netns = createNetns(name);
  const rows: PolicyBenchRow[] = [];
  const policies = new MemoryTable<PolicyFacts>();
  const pods = new MemoryTable<PodFacts>();
  const namespaces = new MemoryTable<Readonly<Record<string, string>>>();
  for (let at = 0; at < NAMESPACES; at++)
    namespaces.set(
      `ns${at}`,
      namespaceLabels({ metadata: { name: `ns${at}`, labels: { team: `t${at % 5}` } } }),
    );
  const v6 = BigInt(parseIp('fd00:10:244::').value);
  const facts = (at: number, labels: Record<string, string> = {}): PodFacts => ({
    namespace: `ns${at % NAMESPACES}`,
    name: `p${at}`,
    uid: `${at}`,
    labels: { app: `a${Math.floor(at / NAMESPACES) % APPS}`, ...labels },
    node: at < LOCAL ? 'local' : `n${Math.floor(at / 250)}`,
    hostNetwork: false,
    ended: false,
    addresses: [IpAddress.v4(0x0af4_0000 + at), IpAddress.v6(v6 + BigInt(at))],
    ports: [{ name: 'http', protocol: 'TCP', port: 8080 }],
  });
  const set = (at: number, labels?: Record<string, string>) => {
    const made = facts(at, labels);
    pods.set(`${made.namespace}/${made.name}`, made);
  };
  const attachment = (at: number): Attachment => {
    const made = facts(at);
    const [ip4, ip6] = made.addresses;
    return {
      ...attachmentOf({ name: '', netns: `c${at}`, ip4: ip4!, ip6: ip6! }, `${made.namespace}/${made.name}`),
      pod: { namespace: made.namespace, name: made.name, uid: made.uid },
    };
  };
  const policy = (at: number, generation = 1): PolicyFacts =>
    policyFacts({
      apiVersion: 'networking.k8s.io/v1',
      kind: 'NetworkPolicy',
      metadata: { namespace: `ns${at % NAMESPACES}`, name: `np${at}`, generation },
      spec: {
        podSelector: { matchLabels: { app: `a${Math.floor(at / NAMESPACES) % APPS}` } },
        ingress: [
          {
            from: [
              { podSelector: { matchLabels: { app: `a${(at + generation) % APPS}` } } },
              { namespaceSelector: { matchLabels: { team: `t${at % 5}` } } },
            ],
            ports: [{ port: 'http' }, { port: 9000, endPort: 9100 }],
          },
        ],
      },
    });
  for (let at = 0; at < podCount; at++) set(at);
  for (let at = 0; at < policyCount; at++) policies.set(`ns${at % NAMESPACES}/np${at}`, policy(at));
  const controller = new PolicyController({ nodeName: 'local', policies, pods, namespaces, netns });
  const timed = async (what: string, work: (round: number) => unknown, rounds = ROUNDS) => {
    const times: number[] = [];
    for (let round = 0; round < rounds; round++) {
      const began = performance.now();
      await work(round);
      await controller.settled();
      times.push(performance.now() - began);
    }
    times.sort((a, b) => a - b);
    rows.push({ what, ms: times[times.length >> 1]! });
  };
  try {
    const before = process.memoryUsage.rss();
    await timed(
      'first programming',
      () => controller.start(Array.from({ length: LOCAL }, (_, at) => attachment(at))),
      1,
    );
    const memory = Math.round((process.memoryUsage.rss() - before) / 2 ** 20);
    await timed('a pod elsewhere added', (round) => set(podCount + round));
    await timed('a label of a pod elsewhere', (round) => set(LOCAL + 1, { app: `a${round % APPS}` }));
    await timed('a local pod added (isolate)', (round) => {
      const at = 20 * podCount + round * NAMESPACES;
      const made = { ...facts(at), node: 'local' };
      pods.set(`${made.namespace}/${made.name}`, made);
      return controller.isolate(attachment(at));
    });
    await timed('a policy changed', (round) => policies.set('ns0/np0', policy(0, 2 + round)));
    await timed('a namespace label changed', (round) =>
      namespaces.set(
        'ns1',
        namespaceLabels({ metadata: { name: 'ns1', labels: { team: `t${round % 5}` } } }),
      ),
    );
    await timed(
      'table deleted, back',
      async () => {
        execFileSync('ip', ['netns', 'exec', name, 'nft', 'delete', 'table', 'ip', 'portolan']);
        const began = performance.now();
        for (;;) {
          await new Promise((resolve) => setTimeout(resolve, 2));
          await controller.settled();
          const text = execFileSync('ip', ['netns', 'exec', name, 'nft', '-t', 'list', 'tables'], {
            encoding: 'utf8',
          });
          if (text.includes('ip portolan')) break;
          if (performance.now() - began > 10_000) throw new Error('not back');
        }
      },
      3,
    );
    const status = controller.status();
    if (status.state.state !== 'done') throw new Error('not programmed');
    rows.push({
      what: `active policies ${status.active}, isolated pods ${status.isolatedPods}, memory of it MiB`,
      ms: memory,
    });
    return rows;
  } finally {
    await controller.close();
    netns.close();
    deleteNetns(name);
  }
}

if (import.meta.main)
  for (const [podCount, policyCount] of [
    [5_000, 1_000],
    [10_000, 500],
  ] as const) {
    console.log(`${podCount} pods, ${policyCount} policies, ${LOCAL} local pods`);
    for (const { what, ms } of await benchPolicies(podCount, policyCount))
      console.log(`  ${what.padEnd(40)} ${ms.toFixed(2)}${what.includes('MiB') ? '' : ' ms'}`);
  }
