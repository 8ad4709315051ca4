import assert from 'node:assert/strict';
import test from 'node:test';
import { parseIp } from '../addr/index.ts';
import type { ClusterNetworkPolicy, ClusterPolicyRule } from '../model/cluster-network-policy.ts';
import { clusterPolicyFacts, nodeFacts } from './cluster-facts.ts';
import { PolicyCompiler } from './compiler.ts';
import { type Endpoint, evaluate } from './evaluate.ts';
import { explain } from './explain.ts';
import { namespaceLabels, policyFacts } from './facts.ts';
import type { PodFacts } from './types.ts';

type Spec = ClusterNetworkPolicy['spec'];

function pod(key: string, ip: string, more: Partial<PodFacts> = {}): PodFacts {
  const [namespace, name] = key.split('/') as [string, string];
  return {
    ...{ namespace, name, uid: key, labels: { app: name }, node: 'n1', hostNetwork: false, ended: false },
    addresses: [parseIp(ip)],
    ports: [{ name: 'web', protocol: 'TCP', port: 8080 }],
    ...more,
  };
}
const WEB = pod('x/web', '10.244.1.2');
const CLIENT = pod('x/client', '10.244.1.3');
const OTHER = pod('y/client', '10.244.2.3', { node: 'n2' });
const HOST = pod('x/host', '192.168.0.1', { hostNetwork: true });
const N2: Endpoint = { address: parseIp('192.168.0.2'), node: 'n2' };
const OUTSIDE: Endpoint = { address: parseIp('192.0.2.7') };
const end = (of: PodFacts | Endpoint): Endpoint =>
  'address' in of ? of : { address: of.addresses[0]!, pod: of };

const X = { matchLabels: { 'kubernetes.io/metadata.name': 'x' } };
const Y = { matchLabels: { 'kubernetes.io/metadata.name': 'y' } };
const ALL = [{ namespaces: {} }];

function policy(
  tier: Spec['tier'],
  priority: number,
  ingress: ClusterPolicyRule[],
  more: Partial<Spec> = {},
): Spec {
  return { tier, priority, subject: { namespaces: X }, ingress, ...more };
}

function world(specs: readonly Spec[], isolateX: boolean): PolicyCompiler {
  const made = new PolicyCompiler({ nodeName: 'n1' });
  for (const name of ['x', 'y']) made.setNamespace(name, namespaceLabels({ metadata: { name } }));
  const metadata = { name: 'n2', labels: { zone: 'b' } };
  const status = { addresses: [{ type: 'InternalIP' as const, address: '192.168.0.2' }] };
  made.setNode('n2', nodeFacts({ apiVersion: 'v1', kind: 'Node', metadata, status }));
  for (const [at, spec] of specs.entries()) {
    const object = {
      apiVersion: 'policy.networking.k8s.io/v1alpha2',
      kind: 'ClusterNetworkPolicy',
      metadata: { name: `p${at}` },
      spec,
    };
    made.setClusterPolicy(`p${at}`, clusterPolicyFacts(object));
  }
  if (isolateX)
    made.setPolicy(
      'x/deny',
      policyFacts({
        apiVersion: 'networking.k8s.io/v1',
        kind: 'NetworkPolicy',
        metadata: { namespace: 'x', name: 'deny' },
        spec: { podSelector: {} },
      }),
    );
  return made;
}

const accept = (more: Partial<ClusterPolicyRule> = {}): ClusterPolicyRule => ({
  action: 'Accept',
  from: ALL,
  ...more,
});
const deny = (more: Partial<ClusterPolicyRule> = {}): ClusterPolicyRule => ({
  action: 'Deny',
  from: ALL,
  ...more,
});
const pass = (more: Partial<ClusterPolicyRule> = {}): ClusterPolicyRule => ({
  action: 'Pass',
  from: ALL,
  ...more,
});
const tcp = (number: number) => [{ tcp: { destinationPort: { number } } }];

interface Case {
  readonly says: string;
  readonly specs: readonly Spec[];
  /** A NetworkPolicy that isolates all pods of namespace x stands beside them. */
  readonly isolated?: true;
  readonly from?: PodFacts | Endpoint;
  readonly to?: PodFacts | Endpoint;
  readonly port?: number;
  readonly allowed: boolean;
}

const cases: readonly Case[] = [
  {
    says: 'no rule matches: everything goes',
    specs: [policy('Admin', 1, [deny({ from: [{ namespaces: Y }] })])],
    allowed: true,
  },
  { says: 'Admin denies what nobody isolates', specs: [policy('Admin', 1, [deny()])], allowed: false },
  {
    says: 'Admin accepts before a NetworkPolicy denies',
    specs: [policy('Admin', 1, [accept()])],
    isolated: true,
    allowed: true,
  },
  {
    says: 'Admin passes to the NetworkPolicy',
    specs: [policy('Admin', 1, [pass(), accept()])],
    isolated: true,
    allowed: false,
  },
  {
    says: 'Pass skips the rest of the tier, other policies too',
    specs: [policy('Admin', 1, [pass()]), policy('Admin', 2, [deny()])],
    allowed: true,
  },
  {
    says: 'Pass of Admin leaves it to Baseline',
    specs: [policy('Admin', 1, [pass()]), policy('Baseline', 1, [deny()])],
    allowed: false,
  },
  {
    says: 'the lower priority number is asked first',
    specs: [policy('Admin', 7, [deny()]), policy('Admin', 3, [accept()])],
    allowed: true,
  },
  {
    says: 'rules are asked in their order',
    specs: [policy('Admin', 1, [deny({ protocols: tcp(80) }), accept()])],
    allowed: false,
  },
  {
    says: 'a rule for another port does not match',
    specs: [policy('Admin', 1, [deny({ protocols: tcp(81) })])],
    allowed: true,
  },
  {
    says: 'Baseline denies what no NetworkPolicy isolates',
    specs: [policy('Baseline', 1, [deny()])],
    allowed: false,
  },
  {
    says: 'a NetworkPolicy is final: Baseline is not asked',
    specs: [policy('Baseline', 1, [accept()])],
    isolated: true,
    allowed: false,
  },
  { says: 'Pass of Baseline allows', specs: [policy('Baseline', 1, [pass(), deny()])], allowed: true },
  {
    says: 'pods of other namespaces are no subject',
    specs: [policy('Admin', 1, [deny()])],
    to: OTHER,
    allowed: true,
  },
  {
    says: 'peers outside the cluster are in no namespace',
    specs: [policy('Admin', 1, [deny()])],
    from: OUTSIDE,
    allowed: true,
  },
  {
    says: 'host-network pods are no subject',
    specs: [policy('Admin', 1, [deny()])],
    to: HOST,
    allowed: true,
  },
  {
    says: 'a named port is that of the destination',
    specs: [policy('Admin', 1, [deny({ protocols: [{ destinationNamedPort: 'web' }] })])],
    port: 8080,
    allowed: false,
  },
  {
    says: 'egress to a network',
    specs: [policy('Admin', 1, [], { egress: [{ action: 'Deny', to: [{ networks: ['192.0.2.0/24'] }] }] })],
    to: OUTSIDE,
    allowed: false,
  },
  {
    says: 'egress to nodes by their labels',
    specs: [
      policy('Admin', 1, [], {
        egress: [{ action: 'Deny', to: [{ nodes: { matchLabels: { zone: 'b' } } }] }],
      }),
    ],
    to: N2,
    allowed: false,
  },
  {
    says: 'egress to other nodes is another matter',
    specs: [
      policy('Admin', 1, [], {
        egress: [{ action: 'Deny', to: [{ nodes: { matchLabels: { zone: 'a' } } }] }],
      }),
    ],
    to: N2,
    allowed: true,
  },
  {
    says: 'an Accept for a peer that is not known matches nothing',
    specs: [policy('Admin', 1, [{ action: 'Accept', from: [{ planets: {} } as object] }, deny()])],
    allowed: false,
  },
  {
    says: 'a Pass for a peer that is not known denies everything',
    specs: [policy('Admin', 1, [{ action: 'Pass', from: [{ planets: {} } as object] }, accept()])],
    allowed: false,
  },
];
for (const { says, specs, isolated, from = CLIENT, to = WEB, port = 80, allowed } of cases)
  test(`cluster policies: ${says}`, () => {
    const flow = { from: end(from), to: end(to), protocol: 'TCP' as const, port };
    assert.equal(evaluate(flow, world(specs, isolated ?? false)).allowed, allowed);
  });

test('explain() names the tier, the policy, the rule and who passed it on', () => {
  const flow = { from: end(CLIENT), to: end(WEB), protocol: 'TCP' as const, port: 80 };
  const ingress = (specs: readonly Spec[], isolated: boolean) => {
    const made = world(specs, isolated);
    return explain(flow, evaluate(flow, made)).reasons[1];
  };
  assert.equal(
    ingress([policy('Admin', 1, [deny({ name: 'no clients' })])], false),
    'ingress: denied by ClusterNetworkPolicy p0 ingress[0] "no clients" (Admin tier)',
  );
  assert.equal(
    ingress([policy('Admin', 1, [pass()])], true),
    'ingress: x/web (10.244.1.2) is isolated by x/deny, no policy allows from x/client (10.244.1.3) on 80/tcp' +
      ', after ClusterNetworkPolicy p0 ingress[0] (Admin tier) passed it on',
  );
  assert.equal(
    ingress([policy('Admin', 1, [pass()]), policy('Baseline', 1, [deny()])], false),
    'ingress: denied by ClusterNetworkPolicy p1 ingress[0] (Baseline tier)' +
      ', after ClusterNetworkPolicy p0 ingress[0] (Admin tier) passed it on',
  );
});

test('a network written as an address in it is that network, and no reason to deny everything', () => {
  const { egress, problems } = clusterPolicyFacts({
    apiVersion: 'policy.networking.k8s.io/v1alpha2',
    kind: 'ClusterNetworkPolicy',
    metadata: { name: 'p' },
    spec: policy('Admin', 1, [], { egress: [{ action: 'Deny', to: [{ networks: ['192.0.2.7/24'] }] }] }),
  });
  assert.deepEqual(problems, []);
  const peers = egress[0]!.peers!.map((peer) => (peer.kind === 'block' ? peer.text : peer.kind));
  assert.deepEqual(peers, ['192.0.2.0/24']);
});

test('what is not known is told', () => {
  const facts = clusterPolicyFacts({
    apiVersion: 'policy.networking.k8s.io/v1alpha2',
    kind: 'ClusterNetworkPolicy',
    metadata: { name: 'p' },
    spec: policy('Admin', 1, [deny({ from: [{}] })], { subject: {} }),
  });
  assert.deepEqual(facts.problems, [
    'subject: it is not known to this version; the policy selects nothing',
    'ingress[0]: a peer or protocol of it is not known to this version; the rule denies everything',
  ]);
});
