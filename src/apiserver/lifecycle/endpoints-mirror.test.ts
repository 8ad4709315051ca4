/** Endpoints that people write become EndpointSlices, which is what nodes read. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { EndpointSlice, Endpoints, Service } from '../../model/kubernetes.ts';
import { testApi } from '../testing/api.ts';
import { MIRRORING, mirroredSlices } from './mirrored-slices.ts';

const SERVICES = '/api/v1/namespaces/default/services';
const ENDPOINTS = '/api/v1/namespaces/default/endpoints';
const SLICES = '/apis/discovery.k8s.io/v1/namespaces/default/endpointslices';
const PORTS = [{ name: 'http', port: 80, protocol: 'TCP' }];
const patch = { headers: { 'content-type': 'application/merge-patch+json' } };

/** One line a slice: `IPv4 http:80 10.0.0.1 10.0.0.2(not ready)`. */
function lineOf({ addressType, ports, endpoints }: EndpointSlice): string {
  const shownPorts = (ports ?? []).map(({ name, port }) => `${name}:${port}`).join(',');
  const addresses = endpoints!.map(
    (endpoint) => `${endpoint.addresses[0]}${endpoint.conditions?.ready ? '' : '(not ready)'}`,
  );
  return [addressType, shownPorts, ...addresses].join(' ');
}

async function world() {
  const api = await testApi();
  const slices = async (): Promise<EndpointSlice[]> => {
    const { body } = await api.call('GET', `${SLICES}?labelSelector=kubernetes.io/service-name%3Ddb`);
    return body.items;
  };
  /** Waits until the mirrored slices are these. */
  const become = async (...wanted: string[]) => {
    const deadline = performance.now() + 10_000;
    for (;;) {
      const lines = (await slices()).map(lineOf).sort();
      if (lines.join('|') === wanted.join('|') || performance.now() > deadline)
        return assert.deepEqual(lines, wanted);
      await sleep(5);
    }
  };
  const service = (spec: object = {}) => ({
    metadata: { name: 'db' },
    spec: { ports: [{ port: 80 }], ...spec },
  });
  const written = (...subsets: object[]) => ({ metadata: { name: 'db' }, subsets });
  return { api, slices, become, service, written, [Symbol.asyncDispose]: () => api[Symbol.asyncDispose]() };
}

test('a Service without a selector gets the slices of its Endpoints, in whatever order they come', async () => {
  await using w = await world();
  await w.api.call('POST', ENDPOINTS, w.written({ addresses: [{ ip: '10.0.0.1' }], ports: PORTS }));
  assert.deepEqual(await w.slices(), []);
  await w.api.call('POST', SERVICES, w.service());
  await w.become('IPv4 http:80 10.0.0.1');
  const [slice] = await w.slices();
  assert.equal(slice!.metadata.labels!['endpointslice.kubernetes.io/managed-by'], MIRRORING);
  assert.match(slice!.metadata.name, /^db-/);

  await w.api.call('PUT', `${ENDPOINTS}/db`, w.written({ addresses: [{ ip: '10.0.0.2' }], ports: PORTS }));
  await w.become('IPv4 http:80 10.0.0.2');
  assert.equal((await w.slices())[0]!.metadata.name, slice!.metadata.name, 'the same slice goes on');
  await w.api.call('DELETE', `${ENDPOINTS}/db`);
  await w.become();
});

test('subsets with equal ports are one slice a family, others slices of their own', async () => {
  await using w = await world();
  await w.api.call('POST', SERVICES, w.service());
  const other = [{ name: 'http', port: 8080, protocol: 'TCP' }];
  const { status } = await w.api.call(
    'POST',
    ENDPOINTS,
    w.written(
      { addresses: [{ ip: '10.0.0.1' }, { ip: 'fd00::1' }], ports: PORTS },
      { notReadyAddresses: [{ ip: '10.0.0.2' }], ports: PORTS },
      { addresses: [{ ip: '10.0.0.1' }], ports: other },
    ),
  );
  assert.equal(status, 201);
  await w.become(
    'IPv4 http:80 10.0.0.1 10.0.0.2(not ready)',
    'IPv4 http:8080 10.0.0.1',
    'IPv6 http:80 fd00::1',
  );
});

test('a mirrored slice that somebody changes or deletes comes back', async () => {
  await using w = await world();
  await w.api.call('POST', SERVICES, w.service());
  await w.api.call('POST', ENDPOINTS, w.written({ addresses: [{ ip: '10.0.0.1' }], ports: PORTS }));
  await w.become('IPv4 http:80 10.0.0.1');
  const { name } = (await w.slices())[0]!.metadata;
  await w.api.call('PATCH', `${SLICES}/${name}`, { endpoints: [{ addresses: ['10.0.0.9'] }] }, patch);
  await w.become('IPv4 http:80 10.0.0.1');
  await w.api.call('DELETE', `${SLICES}/${name}`);
  await w.become('IPv4 http:80 10.0.0.1');
});

test('Endpoints go with their Service, and when the cluster finds the endpoints by a selector', async () => {
  await using w = await world();
  await w.api.call('POST', SERVICES, w.service());
  await w.api.call('POST', ENDPOINTS, w.written({ addresses: [{ ip: '10.0.0.1' }], ports: PORTS }));
  await w.become('IPv4 http:80 10.0.0.1');
  await w.api.call('DELETE', `${SERVICES}/db`);
  await w.become();
  const gone = async () => {
    const deadline = performance.now() + 10_000;
    while ((await w.api.call('GET', `${ENDPOINTS}/db`)).status !== 404) {
      assert.ok(performance.now() < deadline, 'the Endpoints are still there');
      await sleep(5);
    }
  };
  await gone();

  await w.api.call('POST', SERVICES, w.service());
  await w.api.call('POST', ENDPOINTS, w.written({ addresses: [{ ip: '10.0.0.1' }], ports: PORTS }));
  await w.become('IPv4 http:80 10.0.0.1');
  await w.api.call('PATCH', `${SERVICES}/db`, { spec: { selector: { app: 'db' } } }, patch);
  await w.become();
  await gone();
});

test('who deletes a Service and its Endpoints at once, as kubectl delete -f, finds both', async () => {
  await using w = await world();
  for (let times = 0; times < 20; times++) {
    await w.api.call('POST', SERVICES, w.service());
    await w.api.call('POST', ENDPOINTS, w.written({ addresses: [{ ip: '10.0.0.1' }], ports: PORTS }));
    await w.become('IPv4 http:80 10.0.0.1');
    assert.equal((await w.api.call('DELETE', `${SERVICES}/db`)).status, 200);
    // A few turns later the mirror is at work on the same.
    for (let turns = times % 5; turns > 0; turns--) await new Promise((resolve) => setImmediate(resolve));
    const { status, body } = await w.api.call('DELETE', `${ENDPOINTS}/db`);
    assert.equal(status, 200, body.message);
    await w.become();
  }
});

const service = { metadata: { name: 'db' }, spec: {} } as Service;
const endpoints = (metadata: object): Endpoints =>
  ({ metadata: { name: 'db', ...metadata }, subsets: [{ addresses: [{ ip: '10.0.0.1' }] }] }) as Endpoints;

test('Endpoints that are a lock, or say so, or have no Service are not mirrored', () => {
  assert.equal(mirroredSlices(endpoints({}), service).length, 1);
  const skipped = { 'endpointslice.kubernetes.io/skip-mirror': 'true' };
  assert.deepEqual(mirroredSlices(endpoints({ labels: skipped }), service), []);
  const lock = { 'control-plane.alpha.kubernetes.io/leader': '{}' };
  assert.deepEqual(mirroredSlices(endpoints({ annotations: lock }), service), []);
  assert.deepEqual(mirroredSlices(endpoints({}), undefined), []);
  assert.deepEqual(mirroredSlices(undefined, service), []);
});

test('labels and annotations go along, what kubectl notes for itself does not', () => {
  const annotations = { note: 'x', 'kubectl.kubernetes.io/last-applied-configuration': '{}' };
  const [slice] = mirroredSlices(endpoints({ labels: { app: 'db' }, annotations }), service);
  assert.deepEqual(slice!.annotations, { note: 'x' });
  assert.equal(slice!.labels['app'], 'db');
  assert.equal(slice!.labels['kubernetes.io/service-name'], 'db');
});
