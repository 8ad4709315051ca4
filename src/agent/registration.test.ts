import assert from 'node:assert/strict';
import test from 'node:test';
import type { ApiClient, Reflector } from '../client/index.ts';
import { NetError } from '../errors/index.ts';
import type { Node } from '../model/kubernetes.ts';
import type { NodeFacts } from './node-object.ts';
import { Registration } from './registration.ts';

const failure = (code: string) => new NetError(code, { message: code, remedy: '', context: {} });

const facts: NodeFacts = {
  name: 'node1',
  addresses: ['192.0.2.1', '2001:db8::1'],
  labels: { zone: 'a' },
  annotations: { note: 'x' },
  notReady: undefined,
  networkUp: true,
  ownsStatus: false,
  version: 'v1',
};

/** A registration with an API that only remembers; `fail` makes its next calls fail. */
function setUp(own: Partial<NodeFacts> = {}) {
  const items = new Map<string, Node>();
  const listeners: ((keys: ReadonlySet<string>) => void)[] = [];
  const { promise: synced, resolve: sync } = Promise.withResolvers<void>();
  const calls: { call: string; body: unknown }[] = [];
  const failures: Error[] = [];
  const answer = (call: string) => async (_resource: unknown, first: unknown, second?: unknown) => {
    const failed = failures.shift();
    if (failed) throw failed;
    calls.push({ call, body: call === 'create' ? first : second });
  };
  const stop = new AbortController();
  const none = () => {};
  const registration = new Registration({
    client: {
      create: answer('create'),
      patch: answer('patch'),
      patchStatus: answer('patchStatus'),
      // The Lease is another story: it is refused, and retried much later than this test lives.
      get: async () => Promise.reject(failure('CLIENT_FORBIDDEN')),
    } as unknown as ApiClient,
    nodes: {
      items,
      synced,
      onChange: (listener: (keys: ReadonlySet<string>) => void) => listeners.push(listener),
    } as unknown as Reflector<Node, Node>,
    nodeName: 'node1',
    facts: () => ({ ...facts, ...own }),
    signal: stop.signal,
    log: { debug: none, info: none, warn: none, error: none },
  });
  return {
    registration,
    calls,
    failures,
    sync,
    set(node: Node | undefined) {
      if (node) items.set('node1', node);
      else items.delete('node1');
      for (const listener of listeners) listener(new Set(['node1']));
    },
    async settle() {
      await new Promise((resolve) => setTimeout(resolve, 30));
    },
    async end() {
      stop.abort();
      await registration.stop();
    },
  };
}

const nodeOf = (metadata: Partial<Node['metadata']>): Node => ({
  apiVersion: 'v1',
  kind: 'Node',
  metadata: { name: 'node1', ...metadata },
});

test('nothing is written before the Nodes are known', async () => {
  const api = setUp();
  const started = api.registration.start();
  api.registration.trigger();
  await api.settle();
  assert.equal(api.calls.length, 0);
  api.set(nodeOf({}));
  api.sync();
  await started;
  await api.settle();
  assert.deepEqual(
    api.calls.map(({ call }) => call),
    ['patch', 'patchStatus'],
  );
  await api.end();
});

test('a missing Node is made, and again when it is deleted', async () => {
  for (const [ownsStatus, want] of [
    [false, ['create', 'create']],
    [true, ['create', 'create']],
  ] as const) {
    const api = setUp({ ownsStatus });
    api.sync();
    await api.registration.start();
    await api.settle();
    api.set(undefined);
    await api.settle();
    assert.deepEqual(
      api.calls.map(({ call }) => call),
      want,
    );
    await api.end();
  }
});

test('beside a kubelet, credentials that may not make a Node are no failure: the kubelet registers it', async () => {
  const api = setUp({ ownsStatus: false });
  api.failures.push(failure('CLIENT_FORBIDDEN'));
  api.sync();
  await api.registration.start();
  await api.settle();
  assert.equal(api.registration.status.state, 'done');
  await api.end();
});

test('two addresses replace the list: a strategic patch would merge them by type', async () => {
  const api = setUp({ ownsStatus: true });
  api.set(nodeOf({ labels: facts.labels, annotations: facts.annotations }));
  api.sync();
  await api.registration.start();
  await api.settle();
  const { body } = api.calls.find(({ call }) => call === 'patchStatus')!;
  assert.deepEqual((body as { status: { addresses: unknown[] } }).status.addresses, [
    { type: 'InternalIP', address: '192.0.2.1' },
    { type: 'InternalIP', address: '2001:db8::1' },
    { type: 'Hostname', address: 'node1' },
    { $patch: 'replace' },
  ]);
  await api.end();
});

test('a conflict waits for the watch; another failure is told and tried again', async () => {
  const api = setUp();
  const state = () => api.registration.status.state;
  api.failures.push(failure('CLIENT_CONFLICT'));
  api.set(nodeOf({}));
  api.sync();
  await api.registration.start();
  await api.settle();
  assert.equal(state(), 'done');
  assert.equal(api.calls.length, 0);
  api.failures.push(failure('CLIENT_FORBIDDEN'));
  api.set(nodeOf({}));
  await api.settle();
  assert.equal(state(), 'error');
  await new Promise((resolve) => setTimeout(resolve, 150));
  assert.equal(state(), 'done', 'tried again after a moment');
  assert.equal(api.calls.length, 2);
  await api.end();
});
