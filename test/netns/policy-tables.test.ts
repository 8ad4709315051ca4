/**
 * The truth tables of Kubernetes' NetworkPolicy tests, by packets between pods on two nodes, in both families, on both
 * kinds of pod links; of bridged pods, with br_netfilter on at one node and off at the other.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test, { after, before, describe } from 'node:test';
import type { Family } from '../../src/addr/index.ts';
import type { NetworkPolicy, Protocol } from '../../src/model/kubernetes.ts';
import { PolicyCluster } from '../lib/policy-cluster.ts';
import { type Place, type PolicyNet, type ProbePacket, policyNet } from '../lib/policy-net.ts';

interface Probe {
  port: number;
  protocol: Protocol;
  default: 'allow' | 'deny';
  rules: { from: string; to: string; allow: boolean }[];
}

interface Case {
  id: string;
  name: string;
  machine: {
    pods: string[];
    serve: { port: number; protocol: Protocol }[];
    steps: {
      labelNamespaces?: Record<string, Record<string, string>>;
      labelPods?: Record<string, Record<string, string>>;
      deleteAllPolicies?: boolean;
      apply?: { namespace: string; name: string; spec: unknown }[];
      probes: Probe[];
    }[];
  };
}

const { cases } = JSON.parse(
  readFileSync(new URL('../conformance/policy/network-policy.json', import.meta.url), 'utf8'),
) as { cases: Case[] };

const WIDE = { 4: '10.244.0.0/16', 6: 'fd00:10:244::/48' } as const;

function globbed(pattern: string, key: string): boolean {
  return pattern.split('/').every((part, at) => part === '*' || part === key.split('/')[at]);
}

for (const kind of ['routed', 'bridge'] as const)
  describe(`pod links: ${kind}`, () => {
    let net: PolicyNet;
    let cluster: PolicyCluster;
    before(async () => {
      net = policyNet(`ppt${kind[0]}`, 2, 3, kind);
      cluster = new PolicyCluster(net);
      await cluster.start();
    });
    after(async () => {
      await cluster?.close();
      net?.close();
    });
    for (const { id, name, machine } of cases)
      for (const family of [4, 6] as const)
        test(`${id} IPv${family}: ${name}`, async () => {
          try {
            await runCase({ net, cluster, machine, family });
          } finally {
            await cluster.clear();
          }
        });
  });

interface Run {
  net: PolicyNet;
  cluster: PolicyCluster;
  machine: Case['machine'];
  family: Family;
}

async function runCase({ net, cluster, machine, family }: Run): Promise<void> {
  const place = new Map<string, Place>();
  for (const [at, key] of machine.pods.entries()) {
    // Neighbours in the list are on different nodes, and those two apart on the same one.
    const where = net.nodes[at % 2]!.pods[at >> 1]!;
    place.set(key, where);
    await cluster.pod(key, where, {
      labels: { pod: key.split('/')[1]! },
      ports: machine.serve.map(({ port, protocol }) => ({
        name: `serve-${port}-${protocol.toLowerCase()}`,
        protocol,
        port,
      })),
    });
  }
  const filled = (spec: unknown): NonNullable<NetworkPolicy['spec']> =>
    JSON.parse(
      JSON.stringify(spec)
        .replace(/\$IP\(([^)]+)\)\/host/g, (_all, key: string) => {
          const pod = place.get(key)!;
          return family === 4 ? `${pod.ip4}/32` : `${pod.ip6}/128`;
        })
        .replace(/\$WIDE\([^)]+\)/g, WIDE[family]),
    ) as NonNullable<NetworkPolicy['spec']>;
  for (const [number, step] of machine.steps.entries()) {
    for (const [namespace, labels] of Object.entries(step.labelNamespaces ?? {}))
      cluster.namespace(namespace, labels);
    for (const [key, labels] of Object.entries(step.labelPods ?? {})) cluster.label(key, labels);
    if (step.deleteAllPolicies)
      for (const key of [...cluster.policies.items.keys()]) cluster.policies.delete(key);
    for (const { namespace, name, spec } of step.apply ?? []) cluster.apply(namespace, name, filled(spec));
    await cluster.settled();
    net.forgetConnections();
    for (const probe of step.probes) {
      const pairs = machine.pods.flatMap((from) =>
        machine.pods.filter((to) => to !== from).map((to) => ({ from, to })),
      );
      const want = pairs.map(({ from, to }) => {
        let allow = probe.default === 'allow';
        for (const rule of probe.rules)
          if (globbed(rule.from, from) && globbed(rule.to, to)) allow = rule.allow;
        return `${from} -> ${to} ${allow ? 'allowed' : 'denied'}`;
      });
      const packets = pairs.map(
        ({ from, to }): ProbePacket => ({
          from: place.get(from)!,
          to: place.get(to)!,
          family,
          protocol: probe.protocol,
          port: probe.port,
        }),
      );
      const arrived = net.send(packets);
      const got = pairs.map(({ from, to }, at) => `${from} -> ${to} ${arrived[at] ? 'allowed' : 'denied'}`);
      assert.deepEqual(got, want, `step ${number}, ${probe.protocol} ${probe.port}`);
    }
  }
}
