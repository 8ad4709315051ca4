import assert from 'node:assert/strict';
import test from 'node:test';
import { serviceError } from '../errors/index.ts';
import type { EndpointSlice, Service } from '../model/kubernetes.ts';
import { backendReason, portText } from './describe.ts';
import { explainService, explanationText } from './explain.ts';
import { serviceFacts, sliceFacts } from './facts.ts';
import { planService } from './plan.ts';
import { aNode, aService, aSlice } from './testing.ts';

/** The plan as text, all ports one after the other. */
function planned(service: Service, slices: EndpointSlice[], node = aNode()): string[] {
  const plan = planService(serviceFacts(service, node.proxyName), slices.map(sliceFacts), node);
  return plan.ports.flatMap(portText);
}

const local = 'Local' as const;
const nodePort = { type: 'NodePort' as const, ports: [{ port: 80, nodePort: 30_080 }] };
const oneNodePort = aNode({ nodePortAddresses: ['192.168.0.1'] });

const cases: [story: string, service: Service, endpoints: string[], expected: string[]][] = [
  [
    'a ClusterIP forwards to ready endpoints, and masquerades only clients outside',
    aService(),
    ['10.244.1.2 node-a', '10.244.2.2 node-b', '10.244.2.3 node-b unready'],
    [
      'ClusterIP 10.96.0.10:80/TCP pod,node: forward cluster; outside: forward cluster masquerade',
      'cluster: 10.244.1.2:8080 10.244.2.2:8080',
      'local: -',
    ],
  ],
  [
    'without endpoints anywhere a ClusterIP is refused',
    aService(),
    [],
    ['ClusterIP 10.96.0.10:80/TCP pod,node,outside: reject', 'cluster: -', 'local: -'],
  ],
  [
    'endpoints that terminate serve on only while none is ready',
    aService(),
    ['10.244.1.2 node-a terminating', '10.244.2.2 node-b gone'],
    [
      'ClusterIP 10.96.0.10:80/TCP pod,node: forward cluster; outside: forward cluster masquerade',
      'cluster: 10.244.1.2:8080 terminating',
      'local: -',
    ],
  ],
  [
    'internal policy Local drops when all endpoints are elsewhere',
    aService({ internalTrafficPolicy: local }),
    ['10.244.2.2 node-b'],
    ['ClusterIP 10.96.0.10:80/TCP pod,node,outside: drop', 'cluster: -', 'local: -'],
  ],
  [
    'internal policy Local refuses when there is no endpoint at all',
    aService({ internalTrafficPolicy: local }),
    [],
    ['ClusterIP 10.96.0.10:80/TCP pod,node,outside: reject', 'cluster: -', 'local: -'],
  ],
  [
    'internal policy Local takes the endpoints of this node and ignores hints',
    aService({ internalTrafficPolicy: local }),
    ['10.244.1.2 node-a zone:b', '10.244.2.2 node-b zone:a'],
    [
      'ClusterIP 10.96.0.10:80/TCP pod,node: forward local; outside: forward local masquerade',
      'cluster: -',
      'local: 10.244.1.2:8080',
    ],
  ],
  [
    'a nodePort with policy Cluster masquerades every client',
    aService(nodePort),
    ['10.244.1.2 node-a'],
    [
      'ClusterIP 10.96.0.10:80/TCP pod,node: forward cluster; outside: forward cluster masquerade',
      'NodePort 192.168.0.1:30080/TCP pod,node,outside: forward cluster masquerade',
      'cluster: 10.244.1.2:8080',
      'local: -',
    ],
  ],
  [
    'external policy Local keeps the client of outside, and lets pods and the node take the short cut',
    aService({ ...nodePort, externalTrafficPolicy: local }),
    ['10.244.1.2 node-a', '10.244.2.2 node-b'],
    [
      'ClusterIP 10.96.0.10:80/TCP pod,node: forward cluster; outside: forward cluster masquerade',
      'NodePort 192.168.0.1:30080/TCP pod: forward cluster; node: forward cluster masquerade; outside: forward local',
      'cluster: 10.244.1.2:8080 10.244.2.2:8080',
      'local: 10.244.1.2:8080',
    ],
  ],
  [
    'external policy Local with endpoints elsewhere only drops clients of outside',
    aService({ ...nodePort, externalTrafficPolicy: local }),
    ['10.244.2.2 node-b'],
    [
      'ClusterIP 10.96.0.10:80/TCP pod,node: forward cluster; outside: forward cluster masquerade',
      'NodePort 192.168.0.1:30080/TCP pod: forward cluster; node: forward cluster masquerade; outside: drop',
      'cluster: 10.244.2.2:8080',
      'local: -',
    ],
  ],
  [
    'the two sets fall back to terminating endpoints each on its own',
    aService({ ...nodePort, externalTrafficPolicy: local }),
    ['10.244.1.2 node-a terminating', '10.244.2.2 node-b'],
    [
      'ClusterIP 10.96.0.10:80/TCP pod,node: forward cluster; outside: forward cluster masquerade',
      'NodePort 192.168.0.1:30080/TCP pod: forward cluster; node: forward cluster masquerade; outside: forward local',
      'cluster: 10.244.2.2:8080',
      'local: 10.244.1.2:8080 terminating',
    ],
  ],
  [
    'zone hints narrow the cluster set when every ready endpoint has one',
    aService(),
    ['10.244.1.2 node-a zone:a', '10.244.2.2 node-b zone:b'],
    [
      'ClusterIP 10.96.0.10:80/TCP pod,node: forward cluster; outside: forward cluster masquerade',
      'cluster: 10.244.1.2:8080 by zone',
      'local: -',
    ],
  ],
  [
    'one endpoint without a hint switches hints off',
    aService(),
    ['10.244.1.2 node-a zone:a', '10.244.2.2 node-b'],
    [
      'ClusterIP 10.96.0.10:80/TCP pod,node: forward cluster; outside: forward cluster masquerade',
      'cluster: 10.244.1.2:8080 10.244.2.2:8080',
      'local: -',
    ],
  ],
  [
    'hints that name nobody here are ignored',
    aService(),
    ['10.244.1.2 node-a zone:c', '10.244.2.2 node-b zone:b'],
    [
      'ClusterIP 10.96.0.10:80/TCP pod,node: forward cluster; outside: forward cluster masquerade',
      'cluster: 10.244.1.2:8080 10.244.2.2:8080',
      'local: -',
    ],
  ],
  [
    'node hints win over zone hints',
    aService(),
    ['10.244.1.2 node-a zone:a node:node-a', '10.244.1.3 node-a zone:a node:node-c'],
    [
      'ClusterIP 10.96.0.10:80/TCP pod,node: forward cluster; outside: forward cluster masquerade',
      'cluster: 10.244.1.2:8080 by node',
      'local: -',
    ],
  ],
  [
    'weights come by address or by node',
    aService({}, { annotations: { 'portolan.dev/weights': '10.244.1.2=3, node-b=0' } }),
    ['10.244.1.2 node-a', '10.244.1.3 node-a', '10.244.2.2 node-b'],
    [
      'ClusterIP 10.96.0.10:80/TCP pod,node: forward cluster; outside: forward cluster masquerade',
      'cluster: 10.244.1.2:8080*3 10.244.1.3:8080',
      'local: -',
    ],
  ],
  [
    'nobody serves when all endpoints have weight 0: refused, as if there were none',
    aService({}, { annotations: { 'portolan.dev/weights': 'node-a=0, node-b=0' } }),
    ['10.244.1.2 node-a', '10.244.2.2 node-b'],
    ['ClusterIP 10.96.0.10:80/TCP pod,node,outside: reject', 'cluster: -', 'local: -'],
  ],
];

for (const [story, service, endpoints, expected] of cases)
  test(story, () => assert.deepEqual(planned(service, [aSlice(endpoints)], oneNodePort), expected));

test('nil conditions mean ready, serving as ready, not terminating', () => {
  const slice = aSlice(['10.244.1.2 node-a', '10.244.1.3 node-a', '10.244.1.4 node-a']);
  slice.endpoints![0]!.conditions = {};
  slice.endpoints![1]!.conditions = { ready: null, serving: null, terminating: null };
  delete slice.endpoints![2]!.conditions;
  assert.equal(planned(aService(), [slice])[1], 'cluster: 10.244.1.2:8080 10.244.1.3:8080 10.244.1.4:8080');
});

test('slices of one Service are merged, and an endpoint in two of them counts once in its better state', () => {
  const one = aSlice(['10.244.1.2 node-a unready', '10.244.1.3 node-a'], { name: 'web-1' });
  const two = aSlice(['10.244.1.2 node-a', '10.244.1.3 node-a terminating'], { name: 'web-2' });
  for (const slices of [
    [one, two],
    [two, one],
  ])
    assert.equal(planned(aService(), slices)[1], 'cluster: 10.244.1.2:8080 10.244.1.3:8080');
});

test('a Service port meets slice ports by name and protocol, and endpoints may differ in port number', () => {
  const service = aService({
    ports: [
      { name: 'dns', port: 53, protocol: 'UDP' },
      { name: 'dns-tcp', port: 53, protocol: 'TCP' },
    ],
  });
  const slices = [
    aSlice(['10.244.1.2 node-a'], { name: 'a', portName: 'dns', port: 5353, protocol: 'UDP' }),
    aSlice(['10.244.1.3 node-a'], { name: 'b', portName: 'dns', port: 53, protocol: 'UDP' }),
    aSlice(['10.244.1.4 node-a'], { name: 'c', portName: 'dns', port: 53, protocol: 'TCP' }),
    aSlice(['10.244.1.5 node-a'], { name: 'd', portName: 'dns-tcp', port: 53, protocol: 'TCP' }),
  ];
  const text = planned(service, slices);
  assert.equal(text[1], 'cluster: 10.244.1.2:5353 10.244.1.3:53');
  assert.equal(text[4], 'cluster: 10.244.1.5:53');
});

test('families are planned apart, and a slice without a ClusterIP of its family is ignored', () => {
  const six = aSlice(['fd00:10:244::2 node-a'], { name: 'web-6' });
  const four = aSlice(['10.244.1.2 node-a'], { name: 'web-4' });
  const dual = aService({ ...nodePort, clusterIPs: ['10.96.0.10', 'FD00:10:96::a'] });
  assert.deepEqual(planned(dual, [four, six], aNode({ nodePortAddresses: ['192.168.0.1', '::1'] })), [
    'ClusterIP 10.96.0.10:80/TCP pod,node: forward cluster; outside: forward cluster masquerade',
    'NodePort 192.168.0.1:30080/TCP pod,node,outside: forward cluster masquerade',
    'cluster: 10.244.1.2:8080',
    'local: -',
    'ClusterIP [fd00:10:96::a]:80/TCP pod,node: forward cluster; outside: forward cluster masquerade',
    'NodePort [::1]:30080/TCP pod,node,outside: forward cluster masquerade',
    'cluster: [fd00:10:244::2]:8080',
    'local: -',
  ]);
  assert.equal(planned(aService(), [six])[1], 'cluster: -');
});

test('load balancer addresses are captured in mode VIP and left alone in mode Proxy', () => {
  const status = {
    loadBalancer: {
      ingress: [
        { ip: '203.0.113.1' },
        { ip: '203.0.113.2', ipMode: 'Proxy' as const },
        { hostname: 'lb.example' },
      ],
    },
  };
  const service = aService({ type: 'LoadBalancer', externalIPs: ['203.0.113.9', '203.0.113.1'] }, {}, status);
  assert.deepEqual(
    planned(service, [aSlice(['10.244.1.2 node-a'])]).filter((line) => line.includes('203.')),
    [
      'LoadBalancer 203.0.113.1:80/TCP pod,node,outside: forward cluster masquerade',
      'ExternalIP 203.0.113.9:80/TCP pod,node,outside: forward cluster masquerade',
    ],
  );
  const off = planned(service, [], aNode({ externalIPs: false })).filter((line) =>
    line.startsWith('ExternalIP'),
  );
  assert.deepEqual(off, []);
});

test('source ranges are kept by family, trimmed, bits after the prefix cleared, and a broken one is told', () => {
  const facts = serviceFacts(
    aService({
      type: 'LoadBalancer',
      clusterIPs: ['10.96.0.10', 'fd00::a'],
      loadBalancerSourceRanges: [' 10.9.9.9/8 ', 'fd00::/8', 'nonsense'],
    }),
  );
  const plan = planService(facts, [], aNode());
  assert.deepEqual(
    plan.ports.map((port) => port.sourceRanges),
    [['10.0.0.0/8'], ['fd00::/8']],
  );
  assert.match(plan.problems[0]!.message, /loadBalancerSourceRanges of Service "default\/web": "nonsense"/);
});

for (const [story, service] of [
  ['an ExternalName', aService({ type: 'ExternalName', externalName: 'example.com' })],
  ['a headless Service', aService({ clusterIP: 'None', clusterIPs: ['None'] })],
  [
    'a Service of another proxy',
    aService({}, { labels: { 'service.kubernetes.io/service-proxy-name': 'other' } }),
  ],
  ['a Service labelled headless', aService({}, { labels: { 'service.kubernetes.io/headless': '' } })],
  ['a Service without ClusterIP', aService({ clusterIP: '', clusterIPs: [] })],
] as const)
  test(`${story} has nothing in the data path`, () => {
    const plan = planService(serviceFacts(service), [sliceFacts(aSlice(['10.244.1.2 node-a']))], aNode());
    assert.deepEqual(plan.ports, []);
    assert.notEqual(plan.ignored, undefined);
  });

test('the ClusterIPs of a Service that another proxy serves are told, so that nothing of ours is in its way', () => {
  const label = { 'service.kubernetes.io/service-proxy-name': 'other' };
  const clusterIPs = ['10.96.0.10', 'fd00::a'];
  const notOurs = (service: Parameters<typeof serviceFacts>[0]) =>
    planService(serviceFacts(service), [], aNode()).notOurs;
  assert.deepEqual(notOurs(aService({ clusterIPs }, { labels: label })), clusterIPs);
  assert.equal(notOurs(aService({ clusterIPs })), undefined);
  assert.equal(notOurs(aService({ clusterIP: 'None', clusterIPs: ['None'] })), undefined);
});

test('slices labelled headless or of type FQDN are ignored', () => {
  const headless = aSlice(['10.244.1.2 node-a']);
  headless.metadata.labels!['service.kubernetes.io/headless'] = '';
  const names = { ...aSlice(['10.244.1.2 node-a']), addressType: 'FQDN' as const };
  assert.equal(planned(aService(), [headless, names])[1], 'cluster: -');
});

test('the health check of policy Local counts ready endpoints of this node, terminating ones not', () => {
  const service = aService({
    type: 'LoadBalancer',
    externalTrafficPolicy: local,
    healthCheckNodePort: 32_000,
  });
  const plan = (endpoints: string[]) =>
    planService(serviceFacts(service), [sliceFacts(aSlice(endpoints))], aNode()).healthCheck;
  assert.deepEqual(plan(['10.244.1.2 node-a', '10.244.2.2 node-b']), { port: 32_000, localReady: 1 });
  assert.deepEqual(plan(['10.244.1.2 node-a terminating']), { port: 32_000, localReady: 0 });
});

test('affinity has three hours by default', () => {
  assert.equal(serviceFacts(aService({ sessionAffinity: 'ClientIP' })).affinitySeconds, 10_800);
  const short = { clientIP: { timeoutSeconds: 5 } };
  assert.equal(
    serviceFacts(aService({ sessionAffinity: 'ClientIP', sessionAffinityConfig: short })).affinitySeconds,
    5,
  );
  assert.equal(serviceFacts(aService()).affinitySeconds, 0);
});

test('each backend can say why it is not chosen', () => {
  const service = aService({ ...nodePort, externalTrafficPolicy: local });
  const endpoints = [
    '10.244.1.2 node-a zone:a',
    '10.244.1.3 node-a zone:b',
    '10.244.1.4 node-a terminating',
    '10.244.2.2 node-b zone:a',
  ];
  const node = aNode();
  const port = planService(serviceFacts(service), [sliceFacts(aSlice(endpoints))], node).ports[0]!;
  const reasons = (set: 'cluster' | 'local') => port.backends.map((b) => backendReason(b, port, set, node));
  assert.deepEqual(reasons('cluster'), [
    'ready',
    'hinted for zone b, this node is in a',
    'terminating while others are ready',
    'ready',
  ]);
  assert.deepEqual(reasons('local'), [
    'ready',
    'ready',
    'terminating while others are ready',
    'on node node-b, policy Local wants node-a',
  ]);
});

test('an explanation says of each backend why it serves or not', () => {
  const node = oneNodePort;
  const service = aService({ ...nodePort, externalTrafficPolicy: local });
  const endpoints = [
    '10.244.1.2 node-a',
    '10.244.2.2 node-b',
    '10.244.2.3 node-b unready',
    '10.244.2.4 node-b gone',
  ];
  const slices = [sliceFacts(aSlice(endpoints))];
  const plan = planService(serviceFacts(service), slices, node);
  assert.deepEqual(explanationText(explainService(plan, node, { slices })), [
    'Service default/web',
    '  default/web/TCP/ip4: forwarded',
    '    ClusterIP 10.96.0.10:80/TCP pod,node: forward cluster; outside: forward cluster masquerade',
    '    NodePort 192.168.0.1:30080/TCP pod: forward cluster; node: forward cluster masquerade; outside: forward local',
    '    + 10.244.1.2:8080 on node-a: ready',
    '    + 10.244.2.2:8080 on node-b: ready; from outside: on node node-b, policy Local wants node-a',
    '    - 10.244.2.3:8080 on node-b: not ready',
    '    - 10.244.2.4:8080 on node-b: terminating and not serving',
  ]);
  const weightless = planService(
    serviceFacts(aService({}, { annotations: { 'portolan.dev/weights': 'node-a=0' } })),
    [sliceFacts(aSlice(['10.244.1.2 node-a']))],
    node,
  );
  assert.deepEqual(explanationText(explainService(weightless, node)), [
    'Service default/web',
    '  default/web/TCP/ip4: refused: all endpoints have weight 0',
    '    ClusterIP 10.96.0.10:80/TCP pod,node,outside: reject',
    '    - 10.244.1.2:8080 on node-a weight 0: weight 0',
  ]);
  const sctp = planService(
    serviceFacts(aService({ ports: [{ name: 's', port: 7, protocol: 'SCTP' }] })),
    [sliceFacts(aSlice(['10.244.1.2 node-a'], { portName: 's', protocol: 'SCTP' }))],
    node,
  );
  const engine = { service: 'default/web', protocol: 'SCTP', engine: 'ebpf' };
  const failure = serviceError('SERVICE_PROTOCOL_UNSUPPORTED', engine);
  assert.deepEqual(explanationText(explainService(sctp, node, { failure })), [
    'Service default/web',
    '  default/web:s/SCTP/ip4: not served: the engine "ebpf" carries no SCTP',
    '    ClusterIP 10.96.0.10:7/SCTP not served',
    '    - 10.244.1.2:8080 on node-a: the engine "ebpf" carries no SCTP',
    `  problem: ${failure.message}`,
  ]);
  const claimed = serviceFacts(aService({ externalIPs: ['198.51.100.7'] }));
  const off = explanationText(explainService(planService(claimed, [], aNode({ externalIPs: false })), node));
  assert.match(off.at(-1)!, /problem: Cannot serve externalIPs 198\.51\.100\.7 .* switched off/);
  const on = planService(claimed, [], aNode());
  assert.deepEqual(on.problems, []);
  const empty = planService(serviceFacts(aService({ clusterIP: 'None' })), [], node);
  assert.deepEqual(explanationText(explainService(empty, node)), [
    'Service default/web',
    '  not in the data path: it is headless: DNS names its endpoints',
  ]);
});
