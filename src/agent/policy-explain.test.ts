import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseIp } from '../addr/index.ts';
import { isNetError } from '../errors/index.ts';
import { type Endpoint, namespaceLabels, PolicyCompiler, policyFacts } from '../policy/index.ts';
import { serviceFacts, sliceFacts } from '../service/facts.ts';
import { aService, aSlice } from '../service/testing.ts';
import { explainTraffic } from './policy-explain.ts';

const NODES = { n1: '192.0.2.1', n2: '192.0.2.2' } as const;
const OUTSIDE = '198.51.100.9';

const HOST_PORTS = [
  { protocol: 'TCP', hostPort: 5080, hostIP: undefined, port: 8080 },
  { protocol: 'UDP', hostPort: 53, hostIP: parseIp('192.0.2.9'), port: 5353 },
] as const;

/** Pods `default/web` on n1 and `default/client` on n2, and Service `default/web` with the node port 30080. */
function world({ tunnelled = false, dual = false } = {}) {
  const compiler = new PolicyCompiler({ nodeName: 'n3' });
  compiler.setNamespace('default', namespaceLabels({ metadata: { name: 'default' } }));
  const pods = [
    ['web', 'n1', '10.244.1.2', 'fd00::1:2'],
    ['client', 'n2', '10.244.2.2', 'fd00::2:2'],
  ] as const;
  for (const [name, node, ...ips] of pods)
    compiler.setPod(`default/${name}`, {
      namespace: 'default',
      name,
      uid: name,
      labels: { app: name },
      node,
      hostNetwork: false,
      ended: false,
      addresses: ips.map(parseIp),
      ports: [],
      hostPorts: name === 'web' ? HOST_PORTS : [],
    });
  compiler.setPolicy(
    'default/strangers',
    policyFacts({
      apiVersion: 'networking.k8s.io/v1',
      kind: 'NetworkPolicy',
      metadata: { namespace: 'default', name: 'strangers' },
      spec: {
        podSelector: { matchLabels: { app: 'web' } },
        ingress: [{ from: [{ ipBlock: { cidr: `${OUTSIDE}/32` } }, { ipBlock: { cidr: 'fd00::/16' } }] }],
      },
    }),
  );
  for (const [name, address] of Object.entries(NODES))
    compiler.setNode(name, {
      labels: {},
      addresses: [parseIp(address)],
      tunnel: [parseIp(name === 'n1' ? '10.244.1.0' : '10.244.2.0')],
    });
  compiler.compile();
  const endpoint = (address: ReturnType<typeof parseIp>): Endpoint => {
    const pod = [...compiler.pods.values()].find((each) => each.addresses.some((own) => own.equals(address)));
    const node = Object.entries(NODES).find(([, text]) => text === String(address))?.[0];
    return { address, pod, node };
  };
  const service = serviceFacts(
    aService({ type: 'NodePort', ports: [{ port: 80, targetPort: 8080, protocol: 'TCP', nodePort: 30080 }] }),
  );
  const slice = sliceFacts(aSlice(['10.244.1.2 n1']));
  const slice6 = sliceFacts(aSlice(['fd00::1:2 n1'], { name: 'web-6' }));
  const sources = {
    controller: {
      compiler,
      endpoint,
      allKnown: async () => {},
      nodeAddresses: () => new Set<string>(),
      nodeVerdicts: () => ({}),
    },
    services: { items: new Map([[service.key, service]]) },
    slices: { items: new Map([slice, ...(dual ? [slice6] : [])].map((each) => [each.key, each])) },
    tunnelled: () => tunnelled,
  };
  return async (from: string, to: string, port = '80') =>
    (await explainTraffic(new URLSearchParams({ from, to, port }), sources)).map(
      (each) => `${each.from} -> ${each.to} ${each.port}: ${each.allowed ? 'allowed' : 'denied'}`,
    );
}

test('who asks a node port is seen as the node where it hands on, and as himself at the pod of the node', async () => {
  const ask = world();
  assert.deepEqual(await ask(OUTSIDE, NODES.n1, '30080'), [
    `${OUTSIDE} -> default/web (10.244.1.2) 8080/tcp: allowed`,
  ]);
  assert.deepEqual(await ask(OUTSIDE, NODES.n2, '30080'), [
    'node n2 (192.0.2.2) -> default/web (10.244.1.2) 8080/tcp: denied',
  ]);
  assert.deepEqual(await ask('default/client', NODES.n2, '30080'), [
    'default/client (10.244.2.2) -> default/web (10.244.1.2) 8080/tcp: denied',
  ]);
  // It leaves its node under that one's address, by which the backend's policy knows it.
  assert.deepEqual(await ask('default/client', NODES.n1, '30080'), [
    'default/client (10.244.2.2) -> default/web (10.244.1.2) 8080/tcp: denied',
  ]);
});

test('a hostPort is its pod, which sees who asks, and other pods as their node', async () => {
  const ask = world();
  assert.deepEqual(await ask(OUTSIDE, NODES.n1, '5080'), [
    `${OUTSIDE} -> default/web (10.244.1.2) 8080/tcp: allowed`,
  ]);
  assert.deepEqual(await ask('198.51.100.8', NODES.n1, '5080'), [
    '198.51.100.8 -> default/web (10.244.1.2) 8080/tcp: denied',
  ]);
  assert.deepEqual(await ask('default/client', NODES.n1, '5080'), [
    'default/client (10.244.2.2) -> default/web (10.244.1.2) 8080/tcp: denied',
  ]);
  for (const [node, port] of [
    [NODES.n2, '5080'],
    [NODES.n1, '5080/udp'],
    [NODES.n1, '53/udp'],
  ] as const)
    assert.match((await ask(OUTSIDE, node, port))[0]!, /-> node n\d .*: allowed$/, `${node} ${port}`);
});

test('what comes from a node through the tunnel has the address of its end', async () => {
  const ask = world({ tunnelled: true });
  assert.deepEqual(await ask(OUTSIDE, NODES.n2, '30080'), [
    'node n2 (10.244.2.0) -> default/web (10.244.1.2) 8080/tcp: denied',
  ]);
  assert.deepEqual(await ask(NODES.n2, NODES.n1, '5080'), [
    'node n2 (192.0.2.2) -> default/web (10.244.1.2) 8080/tcp: denied',
  ]);
  assert.deepEqual(await ask(NODES.n2, 'default/web'), [
    'node n2 (10.244.2.0) -> default/web (10.244.1.2) 80/tcp: denied',
  ]);
  assert.deepEqual(await ask(NODES.n1, 'default/web'), [
    'node n1 (192.0.2.1) -> default/web (10.244.1.2) 80/tcp: allowed',
  ]);
});

test('the second family is told where it is decided otherwise', async () => {
  const ask = world();
  assert.deepEqual(await ask('default/client', 'default/web', '8080/tcp'), [
    'default/client (10.244.2.2) -> default/web (10.244.1.2) 8080/tcp: denied',
    'default/client (fd00::2:2) -> default/web (fd00::1:2) 8080/tcp: allowed',
  ]);
  assert.equal((await ask('default/web', 'pod/default/client', 'icmp')).length, 1);
  const dual = world({ dual: true });
  assert.deepEqual(await dual('default/client', 'service/default/web'), [
    'default/client (10.244.2.2) -> default/web (10.244.1.2) 8080/tcp: denied',
    'default/client (fd00::2:2) -> default/web (fd00::1:2) 8080/tcp: allowed',
  ]);
  assert.equal((await dual('default/web', 'service/default/web')).length, 1, 'itself, in both');
});

test('a Service is known by name and address, and a port that it does not have is told with those it has', async () => {
  const ask = world();
  const backend = ['default/client (10.244.2.2) -> default/web (10.244.1.2) 8080/tcp: denied'];
  assert.deepEqual(await ask('default/client', 'service/default/web'), backend);
  assert.deepEqual(await ask('default/client', '10.96.0.10'), backend);
  await assert.rejects(
    ask('default/client', 'svc/default/web', '81'),
    (error) =>
      isNetError(error, 'POLICY_NO_SUCH_SERVICE_PORT') && /its ports are 80\/tcp$/.test(error.message),
  );
  for (const [to, port] of [
    ['service/default/nobody', '80'],
    ['default/nobody', '80'],
    ['', '80'],
  ] as const)
    await assert.rejects(ask('default/client', to, port), (error) =>
      isNetError(error, 'POLICY_NO_SUCH_ENDPOINT'),
    );
  for (const port of ['0', '65536', '80/', '80/icmp', '80/tcp/x', 'http', '-1', '8e1'])
    await assert.rejects(
      ask('default/client', 'default/web', port),
      (error) => isNetError(error, 'POLICY_BAD_PORT'),
      port,
    );
});
