/** The runners against an API in memory over real HTTP; the planners have their own tables. */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { MemoryApi } from '../../test/lib/memory-api.ts';
import { eventually } from '../../test/lib/until.ts';
import { ApiClient, type Log } from '../client/index.ts';
import type { EndpointSlice, Event, KubeObject, Node, Pod } from '../model/kubernetes.ts';
import { type ControllersOptions, startControllers } from './index.ts';

const paths = {
  pods: '/api/v1/pods',
  services: '/api/v1/services',
  nodes: '/api/v1/nodes',
  events: '/api/v1/events',
  leases: '/apis/coordination.k8s.io/v1/leases',
  slices: '/apis/discovery.k8s.io/v1/endpointslices',
};

const quiet: Log = { debug() {}, info() {}, warn() {}, error: (context) => console.error(context) };

async function setup(t: TestContext, options: Partial<ControllersOptions> = {}) {
  const api = await MemoryApi.start();
  const stop = new AbortController();
  const client = new ApiClient({ server: api.url });
  const running = startControllers({
    client,
    clusterCidrs: ['10.244.0.0/16', 'fd00:10:244::/56'],
    signal: stop.signal,
    log: quiet,
    ...options,
  });
  t.after(async () => {
    stop.abort();
    await running.done;
    client.close();
    await api.stop();
  });
  await running.ready;
  return { api, client, running, stop };
}

const object = (kind: string, name: string, rest: object, metadata: object = {}): KubeObject =>
  ({ apiVersion: 'v1', kind, metadata: { name, ...metadata }, ...rest }) as KubeObject;
const node = (name: string, rest: object = {}) =>
  object('Node', name, { status: { conditions: [{ type: 'Ready', status: 'True' }] }, ...rest });
const pod = (name: string, rest: { spec?: object; status?: object } = {}) =>
  object(
    'Pod',
    name,
    { spec: { containers: [{ name: 'c' }], ...rest.spec }, status: rest.status ?? {} },
    { namespace: 'default', labels: { app: 'web' } },
  );
const readyAt = (ip: string) => ({
  phase: 'Running',
  podIPs: [{ ip }],
  conditions: [{ type: 'Ready', status: 'True' }],
});
const service = (name: string) =>
  object(
    'Service',
    name,
    {
      spec: {
        clusterIP: '10.96.0.9',
        ipFamilies: ['IPv4'],
        selector: { app: 'web' },
        ports: [{ port: 80 }],
      },
    },
    { namespace: 'default' },
  );
const addresses = (api: MemoryApi) =>
  (api.list(paths.slices) as EndpointSlice[])
    .flatMap((slice) => (slice.endpoints ?? []).map((endpoint) => endpoint.addresses[0]))
    .sort()
    .join();

test('a new Node gets its networks, a new Pod a Node, and a ready Pod is an endpoint', async (t) => {
  const { api } = await setup(t);
  api.put(paths.services, service('web'));
  await eventually('the placeholder', () => api.list(paths.slices).length === 1);
  api.put(paths.nodes, node('n1'));
  await eventually(
    'pod networks',
    () => (api.list(paths.nodes)[0] as Node).spec?.podCIDRs?.join() === '10.244.0.0/24,fd00:10:244::/64',
  );
  api.put(paths.pods, pod('a'));
  const bound = await eventually('the binding', () => {
    const made = api.list(paths.pods)[0] as Pod;
    return made.spec.nodeName === 'n1' && made;
  });
  api.put(paths.pods, { ...bound, status: readyAt('10.244.0.2') } as KubeObject);
  await eventually('the endpoint', () => addresses(api) === '10.244.0.2');
  assert.equal(api.list(paths.slices).length, 1);
  api.remove(paths.pods, 'default', 'a');
  await eventually('the endpoint goes', () => addresses(api) === '');
  api.remove(paths.services, 'default', 'web');
  await eventually('the slice goes', () => api.list(paths.slices).length === 0);
});

test('a pod that fits nowhere is told so, and is bound when a Node comes', async (t) => {
  const { api } = await setup(t, { only: ['scheduler'] });
  api.put(paths.pods, pod('a'));
  await eventually('the event', () =>
    (api.list(paths.events) as Event[]).some((event) => event.reason === 'FailedScheduling'),
  );
  api.put(paths.nodes, node('n1'));
  await eventually('the binding', () => (api.list(paths.pods)[0] as Pod).spec.nodeName === 'n1');
});

test('fast successive changes never leave a second slice or an old endpoint', async (t) => {
  const { api } = await setup(t, { only: ['endpoint-slices'] });
  api.put(paths.nodes, node('n1'));
  api.put(paths.services, service('web'));
  for (let round = 0; round < 40; round++) {
    for (let i = 0; i < 3; i++)
      api.put(
        paths.pods,
        pod(`p${i}`, {
          spec: { nodeName: 'n1' },
          status: readyAt(`10.244.0.${((round + i) % 7) + 1}`),
        }),
      );
    await delay(round % 4);
  }
  await eventually('the last state', () => addresses(api) === '10.244.0.5,10.244.0.6,10.244.0.7');
  await delay(20);
  assert.equal(api.list(paths.slices).length, 1);
});

test('a foreign hand on our slices is undone', async (t) => {
  const { api } = await setup(t, { only: ['endpoint-slices'] });
  api.put(paths.nodes, node('n1'));
  api.put(paths.services, service('web'));
  api.put(paths.pods, pod('a', { spec: { nodeName: 'n1' }, status: readyAt('10.244.0.1') }));
  await eventually('the endpoint', () => addresses(api) === '10.244.0.1');
  const [slice] = api.list(paths.slices) as EndpointSlice[];
  api.put(paths.slices, { ...slice!, endpoints: [{ addresses: ['6.6.6.6'] }] } as KubeObject);
  await eventually('the endpoint again', () => addresses(api) === '10.244.0.1');
  api.remove(paths.slices, 'default', slice!.metadata.name);
  await eventually('the slice again', () => addresses(api) === '10.244.0.1');
});

test('a silent Node is tainted and its pods leave the endpoints', async (t) => {
  const { api } = await setup(t, {
    only: ['node-lifecycle', 'endpoint-slices'],
    nodeGraceMs: 300,
    nodePeriodMs: 20,
    orphanGraceMs: 50,
  });
  const beat = (count: number) =>
    api.put(
      paths.leases,
      object('Lease', 'n1', { spec: { renewTime: String(count) } }, { namespace: 'kube-node-lease' }),
    );
  api.put(paths.nodes, node('n1'));
  api.put(paths.services, service('web'));
  api.put(paths.pods, pod('a', { spec: { nodeName: 'n1' }, status: readyAt('10.244.0.1') }));
  for (let i = 0; i < 12; i++) {
    beat(i);
    await delay(10);
  }
  assert.equal((api.list(paths.nodes)[0] as Node).spec?.taints?.length ?? 0, 0);
  const silent = await eventually('the taints', () => {
    const now = api.list(paths.nodes)[0] as Node;
    return now.spec?.taints?.length === 2 && now;
  });
  assert.equal(silent.status?.conditions?.[0]?.status, 'Unknown');
  await eventually('the endpoint is not ready', () => {
    const [slice] = api.list(paths.slices) as EndpointSlice[];
    return slice?.endpoints?.[0]?.conditions?.ready === false;
  });
  api.remove(paths.nodes, undefined, 'n1');
  await eventually('the orphan is removed', () => api.list(paths.pods).length === 0);
});

test('of two instances only the leader works', async (t) => {
  const leader = { leaseDurationMs: 3_000, renewDeadlineMs: 2_000, retryPeriodMs: 10 };
  const { api, client, stop, running } = await setup(t, { leaderElect: true, identity: 'a', leader });
  const second = new AbortController();
  const other = startControllers({
    client,
    clusterCidrs: ['10.244.0.0/16'],
    signal: second.signal,
    log: quiet,
    leaderElect: true,
    identity: 'b',
    leader,
  });
  api.put(paths.nodes, node('n1'));
  await eventually('networks', () => (api.list(paths.nodes)[0] as Node).spec?.podCIDRs?.length === 2);
  stop.abort();
  await running.done;
  await other.ready;
  api.put(paths.nodes, node('n2'));
  await eventually('networks', () => (api.list(paths.nodes)[1] as Node).spec?.podCIDRs?.length === 1);
  second.abort();
  await other.done;
});

test('an annotation that agents cannot use is told once, in an Event of the Service', async (t) => {
  const { api } = await setup(t);
  const annotated = (weights: string) =>
    object(
      'Service',
      'web',
      { spec: { ports: [{ port: 80 }] } },
      { annotations: { 'portolan.dev/weights': weights } },
    );
  api.put(paths.services, annotated('10.244.1.2=3'));
  api.put(paths.services, annotated('10.244.1.2=many'));
  const told = () => (api.list(paths.events) as Event[]).filter(({ reason }) => reason === 'BadField');
  const [event] = await eventually('an Event', () => told().length > 0 && told());
  assert.equal(event!.involvedObject.name, 'web');
  assert.match(event!.message ?? '', /"10\.244\.1\.2=many" is not "address-or-node=weight"/);
  api.put(paths.services, annotated('10.244.1.2=4'));
  await delay(20);
  assert.equal(told().length, 1);
});
