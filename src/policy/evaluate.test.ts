import assert from 'node:assert/strict';
import test from 'node:test';
import { parseCidr, parseIp } from '../addr/index.ts';
import type { NetworkPolicy, Protocol } from '../model/kubernetes.ts';
import { PolicyCompiler } from './compiler.ts';
import { type Endpoint, evaluate } from './evaluate.ts';
import { explain } from './explain.ts';
import { joinRanges, namespaceLabels, podFacts, policyFacts, subtract } from './facts.ts';
import type { NodeVerdict } from './host/index.ts';
import type { PodFacts } from './types.ts';

type Spec = NonNullable<NetworkPolicy['spec']>;

function pod(
  key: string,
  ip: string,
  labels: Record<string, string> = {},
  more: Partial<PodFacts> = {},
): PodFacts {
  const [namespace, name] = key.split('/') as [string, string];
  return {
    namespace,
    name,
    uid: key,
    labels,
    node: 'n1',
    hostNetwork: false,
    ended: false,
    addresses: [parseIp(ip)],
    ports: [{ name: 'web', protocol: 'TCP', port: 8080 }],
    ...more,
  };
}

const WEB = pod('x/web', '10.244.1.2', { app: 'web' });
const CLIENT = pod('x/client', '10.244.1.3', { app: 'client' });
const OTHER = pod('y/client', '10.244.2.3', { app: 'client' }, { node: 'n2' });
const OUTSIDE = { address: parseIp('192.0.2.7') };

function end(of: PodFacts | Endpoint): Endpoint {
  return 'address' in of ? of : { address: of.addresses[0]!, pod: of };
}

function world(...policies: [string, Spec][]): PolicyCompiler {
  const made = new PolicyCompiler({ nodeName: 'n1' });
  made.setNamespace('x', namespaceLabels({ metadata: { name: 'x', labels: { team: 'one' } } }));
  made.setNamespace('y', namespaceLabels({ metadata: { name: 'y', labels: { team: 'two' } } }));
  for (const [key, spec] of policies) {
    const [namespace, name] = key.split('/') as [string, string];
    const policy = policyFacts({
      apiVersion: 'networking.k8s.io/v1',
      kind: 'NetworkPolicy',
      metadata: { namespace, name },
      spec,
    });
    made.setPolicy(key, policy);
  }
  return made;
}

function says(
  policies: [string, Spec][],
  from: PodFacts | Endpoint,
  to: PodFacts | Endpoint,
  port = 80,
  protocol: Protocol = 'TCP',
): boolean {
  return evaluate({ from: end(from), to: end(to), protocol, port }, world(...policies)).allowed;
}

const ONLY_CLIENT: Spec = {
  podSelector: { matchLabels: { app: 'web' } },
  ingress: [{ from: [{ podSelector: { matchLabels: { app: 'client' } } }] }],
};

const cases: [
  string,
  [string, Spec][],
  PodFacts | Endpoint,
  PodFacts | Endpoint,
  boolean,
  (number | Protocol)[]?,
][] = [
  ['no policy: everything', [], OUTSIDE, WEB, true],
  ['an empty rule list denies all', [['x/deny', { podSelector: {} }]], CLIENT, WEB, false],
  [
    'one empty rule allows all, outside too',
    [['x/all', { podSelector: {}, ingress: [{}] }]],
    OUTSIDE,
    WEB,
    true,
  ],
  [
    'empty from is all sources',
    [['x/all', { podSelector: {}, ingress: [{ from: [] }] }]],
    OUTSIDE,
    WEB,
    true,
  ],
  ['a bare podSelector means the own namespace: same', [['x/p', ONLY_CLIENT]], CLIENT, WEB, true],
  ['a bare podSelector means the own namespace: other', [['x/p', ONLY_CLIENT]], OTHER, WEB, false],
  ['policies of another namespace select nothing here', [['y/deny', { podSelector: {} }]], CLIENT, WEB, true],
  [
    'a namespaceSelector alone does not imply the own namespace',
    [
      [
        'x/p',
        { podSelector: {}, ingress: [{ from: [{ namespaceSelector: { matchLabels: { team: 'two' } } }] }] },
      ],
    ],
    CLIENT,
    WEB,
    false,
  ],
  [
    'policies are united',
    [
      ['x/deny', { podSelector: {} }],
      ['x/p', ONLY_CLIENT],
    ],
    CLIENT,
    WEB,
    true,
  ],
  ['policyTypes default to Ingress without egress rules', [['x/p', { podSelector: {} }]], WEB, OUTSIDE, true],
  [
    'policyTypes default to both with egress rules',
    [['x/p', { podSelector: {}, egress: [{ to: [{ podSelector: {} }] }] }]],
    WEB,
    OUTSIDE,
    false,
  ],
  [
    'both ends must allow',
    [
      ['x/in', ONLY_CLIENT],
      ['x/out', { podSelector: { matchLabels: { app: 'client' } }, policyTypes: ['Egress'] }],
    ],
    CLIENT,
    WEB,
    false,
  ],
  [
    'a port without protocol is TCP',
    [['x/p', { podSelector: {}, ingress: [{ ports: [{ port: 80 }] }] }]],
    CLIENT,
    WEB,
    false,
    [80, 'UDP'],
  ],
  [
    'SCTP does not open TCP',
    [['x/p', { podSelector: {}, ingress: [{ ports: [{ protocol: 'SCTP', port: 80 }] }] }]],
    CLIENT,
    WEB,
    false,
  ],
  [
    'a named port is that of the destination',
    [['x/p', { podSelector: {}, ingress: [{ ports: [{ port: 'web' }] }] }]],
    CLIENT,
    WEB,
    true,
    [8080, 'TCP'],
  ],
  [
    'an unknown name matches nothing',
    [['x/p', { podSelector: {}, ingress: [{ ports: [{ port: 'nope' }] }] }]],
    CLIENT,
    WEB,
    false,
    [8080, 'TCP'],
  ],
  [
    'endPort is included',
    [['x/p', { podSelector: {}, ingress: [{ ports: [{ port: 80, endPort: 90 }] }] }]],
    CLIENT,
    WEB,
    true,
    [90, 'TCP'],
  ],
  [
    'ipBlock without its exceptions, pods too',
    [
      [
        'x/p',
        {
          podSelector: {},
          ingress: [{ from: [{ ipBlock: { cidr: '10.244.0.0/16', except: ['10.244.2.0/24'] } }] }],
        },
      ],
    ],
    OTHER,
    WEB,
    false,
  ],
  [
    'an ipBlock written as an address of its network is that network, its exceptions too',
    [
      [
        'x/p',
        {
          podSelector: {},
          ingress: [{ from: [{ ipBlock: { cidr: '10.244.9.9/16', except: ['10.244.2.200/24'] } }] }],
        },
      ],
    ],
    CLIENT,
    WEB,
    true,
  ],
  [
    'host-network pods are not selected',
    [['x/deny', { podSelector: {} }]],
    CLIENT,
    { ...WEB, hostNetwork: true },
    true,
  ],
  [
    'host-network pods are no peers',
    [['x/p', { podSelector: { matchLabels: { app: 'web' } }, ingress: [{ from: [{ podSelector: {} }] }] }]],
    { ...CLIENT, hostNetwork: true },
    WEB,
    false,
  ],
  [
    'a node reaches its own pods',
    [['x/deny', { podSelector: {} }]],
    { address: parseIp('192.0.2.1'), node: 'n1' },
    WEB,
    true,
  ],
  [
    'another node does not',
    [['x/deny', { podSelector: {} }]],
    { address: parseIp('192.0.2.2'), node: 'n2' },
    WEB,
    false,
  ],
  ['a pod reaches itself', [['x/deny', { podSelector: {} }]], WEB, WEB, true],
];

for (const [name, policies, from, to, allowed, [port = 80, protocol = 'TCP'] = []] of cases)
  test(name, () => assert.equal(says(policies, from, to, port as number, protocol as Protocol), allowed));

test('explain() names the deciding rule, and for default denies who isolates', () => {
  const text = (from: PodFacts, to: PodFacts, ...policies: [string, Spec][]) => {
    const flow = { from: end(from), to: end(to), protocol: 'TCP' as const, port: 80 };
    return explain(flow, evaluate(flow, world(...policies))).reasons;
  };
  assert.deepEqual(text(CLIENT, WEB, ['x/deny', { podSelector: {} }], ['x/p', ONLY_CLIENT]), [
    'egress: x/client (10.244.1.3) is not isolated, no policy selects it',
    'ingress: allowed by x/p ingress[0]',
  ]);
  assert.deepEqual(text(OTHER, WEB, ['x/deny-all', { podSelector: {} }]), [
    'egress: y/client (10.244.2.3) is not isolated, no policy selects it',
    'ingress: x/web (10.244.1.2) is isolated by x/deny-all, no policy allows from y/client (10.244.2.3) on 80/tcp',
  ]);
});

test('explain() tells what the policies of a node itself decide of what begins or ends there', () => {
  const flow = {
    from: end(CLIENT),
    to: { address: parseIp('192.0.2.1'), node: 'n1' },
    protocol: 'TCP' as const,
    port: 22,
  };
  const told = (ingress: NodeVerdict) => explain(flow, evaluate(flow, world()), { ingress });
  const denied = told({ allowed: false, by: ['edge'], rule: undefined });
  assert.equal(denied.allowed, false);
  assert.equal(
    denied.reasons[1],
    'ingress: node n1 (192.0.2.1): denied by default by NodeNetworkPolicy edge, no rule matches',
  );
  const allowed = told({ allowed: true, by: ['edge'], rule: 1 });
  assert.equal(allowed.allowed, true);
  assert.equal(
    allowed.reasons[1],
    'ingress: node n1 (192.0.2.1): allowed by NodeNetworkPolicy edge ingress[1]',
  );
});

test('subtract() leaves what is in no exception, joinRanges() joins what touches', () => {
  const text = (ranges: readonly { first: unknown; last: unknown }[]) =>
    ranges.map(({ first, last }) => `${first}-${last}`);
  const cut = subtract(parseCidr('10.0.0.0/24'), [parseCidr('10.0.0.128/25'), parseCidr('10.0.0.0/30')]);
  assert.deepEqual(text(cut), ['10.0.0.4-10.0.0.127']);
  assert.deepEqual(subtract(parseCidr('10.0.0.0/24'), [parseCidr('10.0.0.0/8')]), []);
  const all = subtract(parseCidr('::/0'), [parseCidr('8000::/1')]);
  assert.deepEqual(text(all), ['::-7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff']);
  assert.deepEqual(text(joinRanges([...cut, ...subtract(parseCidr('10.0.0.128/25'), [])])), [
    '10.0.0.4-10.0.0.255',
  ]);
});

test('a policy that cannot be read allows nothing by its broken parts, and says so', () => {
  const policy = policyFacts({
    apiVersion: 'networking.k8s.io/v1',
    kind: 'NetworkPolicy',
    metadata: { namespace: 'x', name: 'broken' },
    spec: { podSelector: {}, ingress: [{ from: [{ ipBlock: { cidr: 'nonsense' } }, {}] }] },
  });
  assert.equal(policy.problems.length, 2);
  assert.deepEqual(policy.ingress, [{ peers: [], ports: undefined }]);
});

test('ports of sidecars count, those of init containers that end do not', () => {
  const port = (name: string, containerPort: number) => [{ name, containerPort }];
  const { ports } = podFacts({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { namespace: 'x', name: 'a' },
    spec: {
      initContainers: [
        { name: 'ends', image: 'i', ports: port('web', 81) },
        { name: 'stays', image: 'i', restartPolicy: 'Always', ports: port('metrics', 82) },
      ],
      containers: [{ name: 'c', image: 'i', ports: port('web', 80) }],
    },
  });
  assert.deepEqual(
    ports.map(({ name, port: number }) => `${name} ${number}`),
    ['metrics 82', 'web 80'],
  );
});
