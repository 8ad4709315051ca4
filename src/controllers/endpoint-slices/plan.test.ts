import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { EndpointSliceEndpoint, Pod, Service } from '../../model/kubernetes.ts';
import { podView, type ServiceView, serviceView } from '../views.ts';
import { planEndpointSlices } from './plan.ts';
import { type EndpointText, endpointIdentity, type SliceView, type SliceWrite, sliceView } from './types.ts';

const service = (spec: Partial<Service['spec']> = {}, labels: Record<string, string> = {}): ServiceView =>
  serviceView({
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name: 'web', namespace: 'default', uid: 'svc-1', labels },
    spec: {
      clusterIP: '10.96.0.10',
      ipFamilies: ['IPv4'],
      selector: { app: 'web' },
      ports: [{ port: 80, targetPort: 8080 }],
      ...spec,
    },
  });

const pod = (name: string, ip: string, patch: { spec?: object; status?: object; metadata?: object } = {}) =>
  podView({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace: 'default', uid: `uid-${name}`, labels: { app: 'web' }, ...patch.metadata },
    spec: { nodeName: 'n1', containers: [{ name: 'c' }], ...patch.spec },
    status: {
      phase: 'Running',
      podIP: ip,
      podIPs: ip.split(',').map((one) => ({ ip: one })),
      conditions: [{ type: 'Ready', status: 'True' }],
      ...patch.status,
    },
  } as Pod);

const notReady = { status: { conditions: [{ type: 'Ready', status: 'False' }] } };
const deleting = { metadata: { deletionTimestamp: '2026-01-01T00:00:00Z' } };
const zoneOf = (node: string) => (({ n1: 'z1', n2: 'z2', n3: '' }) as Record<string, string>)[node];

/** An endpoint in words: `10.244.0.1 ready serving on n1 in z1`. */
function words(text: EndpointText): string {
  const endpoint = JSON.parse(text) as EndpointSliceEndpoint;
  const { ready, serving, terminating } = endpoint.conditions ?? {};
  const hints = [
    ...(endpoint.hints?.forZones ?? []).map(({ name }) => `zone:${name}`),
    ...(endpoint.hints?.forNodes ?? []).map(({ name }) => `node:${name}`),
  ];
  return [
    ...endpoint.addresses,
    ready && 'ready',
    serving && 'serving',
    terminating && 'terminating',
    endpoint.hostname && `as ${endpoint.hostname}`,
    endpoint.nodeName && `on ${endpoint.nodeName}`,
    endpoint.zone && `in ${endpoint.zone}`,
    hints.length > 0 && `hints ${hints.join()}`,
  ]
    .filter(Boolean)
    .join(' ');
}

/** Writes in words. */
function told(writes: SliceWrite[]): string[] {
  return writes.map((write) => {
    if (write.verb === 'delete') return `delete ${write.slice.name}`;
    const { content } = write;
    const name = write.verb === 'create' ? '' : ` ${write.slice.name}`;
    const ports = content.ports.map(
      ({ name: port, protocol, port: number }) => `${port}:${number}/${protocol}`,
    );
    return `${write.verb}${name} ${content.addressType} [${ports}] ${content.endpoints.map(words).join('; ')}`;
  });
}

let born = 0;

/** Writes carried out on the slices, as the API server would. */
function carriedOut(writes: SliceWrite[], existing: readonly SliceView[]): SliceView[] {
  const slices = new Map(existing.map((slice) => [slice.name, slice]));
  for (const write of writes) {
    if (write.verb === 'delete') slices.delete(write.slice.name);
    else {
      const name = write.verb === 'create' ? `s${born++}` : write.slice.name;
      slices.set(
        name,
        sliceView({
          apiVersion: 'discovery.k8s.io/v1',
          kind: 'EndpointSlice',
          metadata: {
            name,
            namespace: 'default',
            uid: name,
            labels: { ...write.content.labels },
            ownerReferences: [{ apiVersion: 'v1', kind: 'Service', name: 'web', uid: 'svc-1' }],
          },
          addressType: write.content.addressType,
          ports: [...write.content.ports],
          endpoints: write.content.endpoints.map((text) => JSON.parse(text)),
        }),
      );
    }
  }
  return [...slices.values()];
}

const plan = (svc: ServiceView | undefined, pods: ReturnType<typeof pod>[], existing: SliceView[] = []) =>
  planEndpointSlices({ service: svc, pods, zoneOf, existing });

test('endpoints carry the conditions of their pods', () => {
  const cases: [string, ReturnType<typeof service>, ReturnType<typeof pod>, string][] = [
    ['a ready pod', service(), pod('a', '10.244.0.1'), '10.244.0.1 ready serving on n1 in z1'],
    ['a pod that is not ready', service(), pod('a', '10.244.0.1', notReady), '10.244.0.1 on n1 in z1'],
    [
      'a ready pod that terminates still serves',
      service(),
      pod('a', '10.244.0.1', deleting),
      '10.244.0.1 serving terminating on n1 in z1',
    ],
    [
      'publishNotReadyAddresses says ready for all',
      service({ publishNotReadyAddresses: true }),
      pod('a', '10.244.0.1', { ...notReady, ...deleting }),
      '10.244.0.1 ready terminating on n1 in z1',
    ],
    [
      'publishNotReadyAddresses takes pods whose Node does not exist',
      service({ publishNotReadyAddresses: true }),
      pod('a', '10.244.0.1', { spec: { nodeName: 'gone' } }),
      '10.244.0.1 ready serving on gone',
    ],
    [
      'a Node without a zone',
      service(),
      pod('a', '10.244.0.1', { spec: { nodeName: 'n3' } }),
      '10.244.0.1 ready serving on n3',
    ],
    [
      'hostname and subdomain of the Service',
      service({ clusterIP: 'None' }),
      pod('a', '10.244.0.1', { spec: { hostname: 'db-0', subdomain: 'web' } }),
      '10.244.0.1 ready serving as db-0 on n1 in z1',
    ],
    [
      'hostname with another subdomain',
      service({ clusterIP: 'None' }),
      pod('a', '10.244.0.1', { spec: { hostname: 'db-0', subdomain: 'other' } }),
      '10.244.0.1 ready serving on n1 in z1',
    ],
    [
      'PreferClose hints at the zone',
      service({ trafficDistribution: 'PreferClose' }),
      pod('a', '10.244.0.1'),
      '10.244.0.1 ready serving on n1 in z1 hints zone:z1',
    ],
    [
      'PreferSameNode hints at node and zone',
      service({ trafficDistribution: 'PreferSameNode' }),
      pod('a', '10.244.0.1'),
      '10.244.0.1 ready serving on n1 in z1 hints zone:z1,node:n1',
    ],
    [
      'no hints for what is not ready',
      service({ trafficDistribution: 'PreferSameZone' }),
      pod('a', '10.244.0.1', notReady),
      '10.244.0.1 on n1 in z1',
    ],
  ];
  for (const [name, svc, one, want] of cases)
    assert.deepEqual(
      told(plan(svc, [one])).map((line) => line.replace(/^.*\] /, '')),
      [want],
      name,
    );
});

test('finished pods, pods without an address and pods of a missing Node are no endpoints', () => {
  const none = [
    pod('done', '10.244.0.1', { status: { phase: 'Succeeded' } }),
    pod('failed', '10.244.0.2', { status: { phase: 'Failed' } }),
    podView({ ...({} as Pod), metadata: { name: 'x' }, spec: { containers: [], nodeName: 'n1' } } as Pod),
    pod('lost', '10.244.0.3', { spec: { nodeName: 'gone' } }),
    pod('unbound', '10.244.0.4', { spec: { nodeName: undefined } }),
  ];
  assert.deepEqual(told(plan(service(), none)), ['create IPv4 [] ']);
});

test('a dual-stack Service has slices of both families', () => {
  const svc = service({ ipFamilies: ['IPv6', 'IPv4'] });
  assert.deepEqual(told(plan(svc, [pod('a', '10.244.0.1,fd00::1'), pod('b', '10.244.0.2')])), [
    'create IPv6 [:8080/TCP] fd00::1 ready serving on n1 in z1',
    'create IPv4 [:8080/TCP] 10.244.0.1 ready serving on n1 in z1; 10.244.0.2 ready serving on n1 in z1',
  ]);
});

test('named ports are looked up in each pod, and differing port sets are different slices', () => {
  const named = (number: number, protocol = 'TCP') => ({
    spec: { containers: [{ name: 'c', ports: [{ name: 'http', containerPort: number, protocol }] }] },
  });
  const svc = service({ ports: [{ name: 'web', port: 80, targetPort: 'http' }] });
  const pods = [
    pod('a', '10.244.0.1', named(8080)),
    pod('b', '10.244.0.2', named(9090)),
    pod('c', '10.244.0.3', named(8080)),
    pod('d', '10.244.0.4', named(8080, 'UDP')),
  ];
  assert.deepEqual(told(plan(svc, pods)), [
    'create IPv4 [web:8080/TCP] 10.244.0.1 ready serving on n1 in z1; 10.244.0.3 ready serving on n1 in z1',
    'create IPv4 [web:9090/TCP] 10.244.0.2 ready serving on n1 in z1',
    'create IPv4 [] 10.244.0.4 ready serving on n1 in z1',
  ]);
});

test('a Service without pods has a placeholder, which the first pod takes over', () => {
  const svc = service();
  const empty = carriedOut(plan(svc, []), []);
  assert.deepEqual(told(plan(svc, [], empty)), []);
  const full = carriedOut(plan(svc, [pod('a', '10.244.0.1')], empty), empty);
  assert.equal(full.length, 1);
  assert.equal(full[0]!.name, empty[0]!.name);
  const again = carriedOut(plan(svc, [], full), full);
  assert.deepEqual([again.length, again[0]!.name, again[0]!.endpoints.length], [1, empty[0]!.name, 0]);
});

test('labels of the Service are copied, ours win, and headless is marked', () => {
  const labels = { team: 'a', 'kubernetes.io/service-name': 'lie' };
  const [write] = plan(service({ clusterIP: 'None' }, labels), [pod('a', '10.244.0.1')]);
  assert.deepEqual(write?.verb === 'create' && write.content.labels, {
    team: 'a',
    'service.kubernetes.io/headless': '',
    'endpointslice.kubernetes.io/managed-by': 'endpointslice-controller.k8s.io',
    'kubernetes.io/service-name': 'web',
  });
  const slices = carriedOut([write!], []);
  const changed = plan(service({ clusterIP: 'None' }, { team: 'b' }), [pod('a', '10.244.0.1')], slices);
  assert.equal(changed.length, 1);
  assert.equal(changed[0]!.verb, 'update');
});

test('slices go with the Service, with ExternalName, and when they belong to a former Service', () => {
  const slices = carriedOut(plan(service(), [pod('a', '10.244.0.1')]), []);
  assert.deepEqual(told(plan(undefined, [], slices)), [`delete ${slices[0]!.name}`]);
  assert.deepEqual(told(plan(service({ type: 'ExternalName' }), [], slices)), [`delete ${slices[0]!.name}`]);
  const former = slices.map((slice) => ({ ...slice, ownerUid: 'svc-0' }));
  assert.deepEqual(told(plan(service(), [pod('a', '10.244.0.1')], former)), [
    'create IPv4 [:8080/TCP] 10.244.0.1 ready serving on n1 in z1',
    `delete ${slices[0]!.name}`,
  ]);
});

test('topology-mode Auto shares ready endpoints out among zones, in each family by itself', () => {
  const auto = { ...service({ trafficDistribution: 'PreferClose' }), topologyAuto: true as const };
  const pods = [
    pod('a', '10.244.0.1'),
    pod('b', '10.244.0.2'),
    pod('c', '10.244.0.3'),
    pod('d', '10.244.0.4', { spec: { nodeName: 'n2' } }),
    pod('e', '10.244.0.5', notReady),
  ];
  const hintsOf = (cpu: Record<string, number> | undefined) => {
    const [write] = planEndpointSlices({
      service: auto,
      pods,
      zoneOf,
      existing: [],
      cpu: cpu && new Map(Object.entries(cpu)),
    });
    assert.equal(write?.verb, 'create');
    return (write as Extract<SliceWrite, { verb: 'create' }>).content.endpoints.map(
      (text) => / hints (\S+)/.exec(words(text))?.[1] ?? '-',
    );
  };
  assert.deepEqual(hintsOf({ z1: 2000, z2: 2000 }), ['zone:z1', 'zone:z1', 'zone:z2', 'zone:z2', '-']);
  // The annotation goes before trafficDistribution, also where it has to give up.
  assert.deepEqual(hintsOf({ z1: 2000 }), ['-', '-', '-', '-', '-']);
  assert.deepEqual(hintsOf(undefined), ['-', '-', '-', '-', '-']);
  for (const [name, value, want] of [
    ['service.kubernetes.io/topology-mode', 'Auto', true],
    ['service.kubernetes.io/topology-mode', 'Disabled', undefined],
    ['service.kubernetes.io/topology-aware-hints', 'auto', true],
  ] as const)
    assert.equal(
      serviceView({
        apiVersion: 'v1',
        kind: 'Service',
        metadata: { name: 'web', annotations: { [name]: value } },
        spec: {},
      } as Service).topologyAuto,
      want,
    );
});

test('a Service that lost its selector keeps its slices', () => {
  const slices = carriedOut(plan(service(), [pod('a', '10.244.0.1')]), []);
  const { selector: _, ...spec } = service().spec;
  assert.deepEqual(plan({ ...service(), spec }, [], slices), []);
});

const many = (count: number, from = 0) =>
  Array.from({ length: count }, (_, i) =>
    pod(`p${String(from + i).padStart(4, '0')}`, `10.${(from + i) >> 8}.${(from + i) & 255}.1`),
  );

test('250 pods are three slices, and one change writes one slice', () => {
  const pods = many(250);
  const slices = carriedOut(plan(service(), pods), []);
  assert.deepEqual(slices.map((slice) => slice.endpoints.length).sort(), [100, 100, 50].sort());
  const one = plan(service(), [...pods.slice(1), pod('p0000', '10.0.0.1', notReady)], slices);
  assert.equal(one.length, 1);
  const more = plan(service(), [...pods, ...many(10, 250)], slices);
  assert.deepEqual(
    more.map((write) => write.verb),
    ['update'],
  );
  const rolled = plan(service(), [...pods.slice(10), ...many(10, 250)], slices);
  assert.deepEqual(
    rolled.map((write) => write.verb),
    ['update'],
  );
});

test('whatever happens to the pods, the slices hold each endpoint once, none is over full, and a second plan is empty', () => {
  const step = fc.array(fc.tuple(fc.nat(40), fc.boolean(), fc.integer({ min: 0, max: 2 })), {
    maxLength: 40,
  });
  fc.assert(
    fc.property(fc.array(step, { minLength: 1, maxLength: 6 }), (steps) => {
      let slices: SliceView[] = [];
      for (const choice of steps) {
        const pods = [...new Map(choice.map((one) => [one[0], one])).values()].map(([id, ready, port]) =>
          pod(`p${id}`, `10.244.0.${id}`, {
            spec: { containers: [{ name: 'c', ports: [{ name: 'http', containerPort: 8000 + port }] }] },
            ...(ready ? {} : notReady),
          }),
        );
        const svc = service({ ports: [{ port: 80, targetPort: 'http' }] });
        const state = { service: svc, pods, zoneOf, maxEndpoints: 5 };
        slices = carriedOut(planEndpointSlices({ ...state, existing: slices }), slices);
        const held = slices.flatMap((slice) => slice.endpoints.map(endpointIdentity));
        assert.equal(held.length, pods.length);
        assert.equal(new Set(held).size, pods.length);
        assert.ok(slices.every((slice) => slice.endpoints.length <= 5));
        assert.deepEqual(planEndpointSlices({ ...state, existing: slices }), []);
      }
    }),
    { numRuns: 60 },
  );
});
