/** Random policies of both kinds and random pods: what evaluate() says is what the kernel does, in both families and all three protocols. */
import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';
import fc from 'fast-check';
import type { Family } from '../../src/addr/index.ts';
import type { ClusterNetworkPolicy, PolicyAction } from '../../src/model/cluster-network-policy.ts';
import type { LabelSelector, NetworkPolicy, Protocol } from '../../src/model/kubernetes.ts';
import { NftPolicyEngine } from '../../src/policy/engine.ts';
import {
  clusterPolicyFacts,
  type Endpoint,
  evaluate,
  namespaceLabels,
  type PodFacts,
  PolicyCompiler,
  policyFacts,
  type Tier,
} from '../../src/policy/index.ts';
import { type Place, type PolicyNet, type ProbePacket, policyNet } from '../lib/policy-net.ts';

/** How many states, fewer when time runs out; PORTOLAN_POLICY_STATES raises it and lifts the limit of time. */
const STATES = Number(process.env['PORTOLAN_POLICY_STATES'] ?? 1000);
/** States between two looks at connection tracking: 180 probes each. */
const FORGET_EVERY = 150;
const PODS = 5;
const PORTS = [80, 81, 8080];
const PROTOCOLS = ['TCP', 'UDP', 'SCTP'] as const;
const NODE = 'node1';

let net: PolicyNet;
let engine: NftPolicyEngine;
before(() => {
  net = policyNet('ppp', 2, PODS, 'mixed');
  engine = new NftPolicyEngine({ netns: net.nodes[0]!.ns });
});
after(() => {
  engine?.close();
  net?.close();
});

const label = fc.record(
  { app: fc.constantFrom('a', 'b', 'c'), tier: fc.constantFrom('x', 'y') },
  { requiredKeys: ['app'] },
);
const selector: fc.Arbitrary<LabelSelector> = fc.oneof(
  fc.constant({}),
  fc.record({ matchLabels: fc.record({ app: fc.constantFrom('a', 'b', 'c') }) }),
  fc.record({
    matchExpressions: fc.array(
      fc.oneof(
        fc.record({
          key: fc.constantFrom('app', 'tier'),
          operator: fc.constantFrom('In' as const, 'NotIn' as const),
          values: fc.uniqueArray(fc.constantFrom('a', 'b', 'x', 'y'), { minLength: 1, maxLength: 2 }),
        }),
        fc.record({
          key: fc.constantFrom('app', 'tier'),
          operator: fc.constantFrom('Exists' as const, 'DoesNotExist' as const),
        }),
      ),
      { minLength: 1, maxLength: 2 },
    ),
  }),
);
const namespaceSelector: fc.Arbitrary<LabelSelector> = fc.oneof(
  fc.constant({}),
  fc.constantFrom('x', 'y').map((name) => ({ matchLabels: { 'kubernetes.io/metadata.name': name } })),
  fc.constantFrom('one', 'two').map((team) => ({ matchLabels: { team } })),
);
const block = fc.constantFrom(
  { cidr: '10.244.0.0/16' },
  { cidr: '10.244.1.0/24', except: ['10.244.1.10/31'] },
  { cidr: '0.0.0.0/0', except: ['10.244.0.0/16'] },
  { cidr: '192.168.0.2/32' },
  { cidr: 'fd00:10:244:1::/64', except: ['fd00:10:244:1::b/128', 'fd00:10:244:1::d/128'] },
  { cidr: '::/0', except: ['fd00:10:244::/48'] },
  { cidr: 'fd00:192::/64' },
);
const peer = fc.oneof(
  fc.record({ podSelector: selector }),
  fc.record({ namespaceSelector }),
  fc.record({ namespaceSelector, podSelector: selector }),
  block.map((ipBlock) => ({ ipBlock })),
);
const protocol: fc.Arbitrary<Protocol> = fc.constantFrom('TCP', 'UDP', 'SCTP');
const port = fc.oneof(
  fc.record({ protocol }),
  fc.record({ protocol, port: fc.constantFrom<number | string>(...PORTS, 'web', 'dns', 'none') }),
  fc.record({ port: fc.constantFrom(80, 81) }),
  fc.record({ protocol, port: fc.constant(80), endPort: fc.constantFrom(81, 8080, 9000) }),
);
const peers = fc.option(fc.array(peer, { maxLength: 3 }), { nil: undefined });
const ports = fc.option(fc.array(port, { maxLength: 3 }), { nil: undefined });
const spec = fc.record(
  {
    podSelector: selector,
    policyTypes: fc.constantFrom<('Ingress' | 'Egress')[]>(['Ingress'], ['Egress'], ['Ingress', 'Egress']),
    ingress: fc.array(fc.record({ from: peers, ports }), { maxLength: 2 }),
    egress: fc.array(fc.record({ to: peers, ports }), { maxLength: 2 }),
  },
  { requiredKeys: ['podSelector'] },
);
const anyPods = fc.oneof(
  fc.record({ namespaces: namespaceSelector }),
  fc.record({ pods: fc.record({ namespaceSelector, podSelector: selector }) }),
);
const network = fc.constantFrom(
  ...['10.244.0.0/16', '10.244.1.10/31', '0.0.0.0/0', '192.168.0.2/32', 'fd00:10:244:1::/64', '::/0'],
);
const portMatch = fc.oneof(
  fc.constantFrom(...PORTS).map((number) => ({ number })),
  fc.constantFrom(81, 8080, 9000).map((end) => ({ range: { start: 80, end } })),
);
const clusterProtocols = fc.option(
  fc.array(
    fc.oneof(
      fc
        .constantFrom('tcp', 'udp', 'sctp')
        .chain((name) => portMatch.map((destinationPort) => ({ [name]: { destinationPort } }))),
      fc.constantFrom('web', 'dns', 'none').map((destinationNamedPort) => ({ destinationNamedPort })),
    ),
    { minLength: 1, maxLength: 2 },
  ),
  { nil: undefined },
);
const action = fc.constantFrom<PolicyAction>('Accept', 'Deny', 'Pass');
const egressPeer = fc.oneof(
  anyPods,
  fc.constantFrom({}, { matchLabels: { 'kubernetes.io/hostname': 'node2' } }).map((nodes) => ({ nodes })),
  fc.uniqueArray(network, { minLength: 1, maxLength: 2 }).map((networks) => ({ networks })),
);
const list = <T>(of: fc.Arbitrary<T>, maxLength: number) => fc.array(of, { minLength: 1, maxLength });
const clusterSpec = fc.record({
  tier: fc.constantFrom<Tier>('Admin', 'Baseline'),
  subject: anyPods,
  ingress: fc.array(fc.record({ action, from: list(anyPods, 2), protocols: clusterProtocols }), {
    maxLength: 2,
  }),
  egress: fc.array(fc.record({ action, to: list(egressPeer, 2), protocols: clusterProtocols }), {
    maxLength: 2,
  }),
});
const pod = fc.record({
  namespace: fc.constantFrom('x', 'y'),
  labels: label,
  ports: fc.subarray([
    { name: 'web', protocol: 'TCP' as const, port: 80 },
    { name: 'web', protocol: 'UDP' as const, port: 81 },
    { name: 'dns', protocol: 'UDP' as const, port: 8080 },
    { name: 'web', protocol: 'TCP' as const, port: 8080 },
  ]),
});
const state = fc.record({
  pods: fc.array(pod, { minLength: 2 * PODS, maxLength: 2 * PODS }),
  policies: fc.array(fc.record({ namespace: fc.constantFrom('x', 'y'), spec }), { maxLength: 5 }),
  cluster: fc.array(clusterSpec, { maxLength: 4 }),
  teams: fc.record({ x: fc.constantFrom('one', 'two'), y: fc.constantFrom('one', 'two') }),
});

test('random states of pods and policies: evaluate() and the kernel agree on every probe', async (t) => {
  const places: Place[] = net.nodes.flatMap((node) => node.pods.map((each) => each));
  const world = new PolicyCompiler({ nodeName: NODE });
  const [node1, node2] = net.nodes as [PolicyNet['nodes'][number], PolicyNet['nodes'][number]];
  for (const node of [node1, node2])
    world.setNode(node.name, {
      labels: { 'kubernetes.io/hostname': node.name },
      addresses: [node.ip4, node.ip6],
    });
  for (let at = 0; at < PODS; at++) world.setLocal(`l${at}`, undefined);
  let probesSent = 0;
  let denied = 0;
  let generation = 0;
  await fc.assert(
    fc.asyncProperty(state, async ({ pods, policies, cluster, teams }) => {
      generation++;
      for (const name of ['x', 'y'] as const)
        world.setNamespace(name, namespaceLabels({ metadata: { name, labels: { team: teams[name] } } }));
      const facts = new Map<Place, PodFacts>();
      for (const key of [...world.pods.keys()]) world.setPod(key, undefined);
      pods.forEach((each, at) => {
        const place = places[at]!;
        const made: PodFacts = {
          namespace: each.namespace,
          name: `p${at}`,
          uid: `${generation}-${at}`,
          labels: each.labels as Record<string, string>,
          node: at < PODS ? NODE : 'node2',
          hostNetwork: false,
          ended: false,
          addresses: [place.ip4, place.ip6],
          ports: each.ports,
        };
        facts.set(place, made);
        world.setPod(`${each.namespace}/p${at}`, made);
        if (at < PODS)
          world.setLocal(`l${at}`, {
            id: `l${at}`,
            namespace: each.namespace,
            name: `p${at}`,
            uid: made.uid,
            addresses: made.addresses,
          });
      });
      for (const key of [...world.policies.keys()]) world.setPolicy(key, undefined);
      policies.forEach(({ namespace, spec: each }, at) => {
        const policy = policyFacts({
          apiVersion: 'networking.k8s.io/v1',
          kind: 'NetworkPolicy',
          metadata: { namespace, name: `np${at}` },
          spec: each as NonNullable<NetworkPolicy['spec']>,
        });
        world.setPolicy(policy.key, policy);
      });
      for (const name of [...world.clusterPolicies.keys()]) world.setClusterPolicy(name, undefined);
      cluster.forEach((each, at) => {
        const spec = { ...each, priority: (at * 7) % 5 } as ClusterNetworkPolicy['spec'];
        const metadata = { name: `cnp${at}` };
        world.setClusterPolicy(
          metadata.name,
          clusterPolicyFacts({
            apiVersion: 'policy.networking.k8s.io/v1alpha2',
            kind: 'ClusterNetworkPolicy',
            metadata,
            spec,
          }),
        );
      });
      world.compile();
      await engine.apply(world.tables);
      // Every probe has a source port of its own for 40,000 probes; then old connections would be met again.
      if (generation % FORGET_EVERY === 0) net.forgetConnections();
      const endpoint = (place: Place, family: Family): Endpoint => {
        const address = family === 4 ? place.ip4 : place.ip6;
        if (place === node1) return { address, node: NODE };
        return place === node2 ? { address, node: 'node2' } : { address, pod: facts.get(place) };
      };
      // Everything with an end on node 1, where policies are enforced.
      const probes: ProbePacket[] = [];
      const all: Place[] = [...places, node1, node2];
      for (const from of all)
        for (const to of all) {
          const local = (place: Place) => node1.pods.includes(place);
          if (from === to || (!local(from) && !local(to))) continue;
          for (const family of [4, 6] as const) {
            // Every pair in both families; protocols and ports take turns, from state to state.
            const turn = probes.length + generation;
            probes.push({
              from,
              to,
              family,
              protocol: PROTOCOLS[turn % PROTOCOLS.length]!,
              port: PORTS[Math.floor(turn / PROTOCOLS.length) % PORTS.length]!,
            });
          }
        }
      const want = probes.map(({ from, to, family, protocol: each, port: number }) => {
        const verdict = evaluate(
          { from: endpoint(from, family), to: endpoint(to, family), protocol: each, port: number },
          world,
        );
        // Node 2 enforces nothing here: only what concerns pods of node 1 is judged.
        const egress = !node1.pods.includes(from) || verdict.egress.allowed;
        const ingress = !node1.pods.includes(to) || verdict.ingress.allowed;
        return egress && ingress;
      });
      const got = net.send(probes);
      probesSent += probes.length;
      denied += want.filter((allowed) => !allowed).length;
      const wrong = probes.flatMap((probe, at) =>
        want[at] === got[at]
          ? []
          : [
              `${probe.from.name} -> ${probe.to.name} IPv${probe.family} ${probe.protocol} ${probe.port}: want ${want[at]}, got ${got[at]}`,
            ],
      );
      assert.deepEqual(wrong.slice(0, 10), []);
    }),
    {
      numRuns: STATES,
      endOnFailure: false,
      interruptAfterTimeLimit: STATES > 1000 ? 3_600_000 : 25_000,
      markInterruptAsFailure: false,
    },
  );
  t.diagnostic(`${generation} states, ${probesSent} probes, ${denied} of them denied`);
  assert.ok(generation >= Math.min(STATES, 50), `only ${generation} states in the time given`);
  assert.ok(probesSent > 1000 && denied > 100, `${probesSent} probes, ${denied} denied`);
});
