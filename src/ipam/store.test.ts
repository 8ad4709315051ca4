import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import test, { type TestContext } from 'node:test';
import fc from 'fast-check';
import { parseCidr, parseIp } from '../addr/index.ts';
import { isNetError } from '../errors/net-error.ts';
import { nextFree, usableAddresses } from './pool.ts';
import { AttachmentStore, type AttachmentStoreOptions } from './store.ts';
import type { AttachmentRequest } from './types.ts';

const v4 = parseCidr('10.244.1.0/24');
const v6 = parseCidr('fd00:10:244:1::/64');

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), 'portolan-ipam-'));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

function open(t: TestContext, options: Partial<AttachmentStoreOptions> = {}): AttachmentStore {
  const store = new AttachmentStore({ path: join(folder(t), 'attachments.db'), pools: [v4, v6], ...options });
  t.after(() => store.close());
  return store;
}

function request(containerId: string, more: Partial<AttachmentRequest> = {}): AttachmentRequest {
  return {
    containerId,
    ifname: 'eth0',
    netns: `/run/netns/${containerId}`,
    netnsInode: 4026532001n,
    pod: undefined,
    hostLink: `po${containerId}`,
    kind: 'routed',
    network: 'portolan',
    mtuBytes: 1450,
    ...more,
  };
}

const texts = (addresses: readonly unknown[]) => addresses.map(String);
const coded = (code: string) => (error: unknown) => isNetError(error, code);

test('allocate() gives out addresses of both families in order, after network and gateway', (t) => {
  const store = open(t);
  assert.deepEqual(texts(store.allocate(request('a')).addresses), ['10.244.1.2', 'fd00:10:244:1::2']);
  assert.deepEqual(texts(store.allocate(request('b')).addresses), ['10.244.1.3', 'fd00:10:244:1::3']);
  assert.equal(store.holder(parseIp('10.244.1.3'))?.containerId, 'b');
});

test('a released address comes back only after all others had their turn', (t) => {
  const store = open(t, { pools: [parseCidr('10.0.0.0/29')] });
  const take = (id: string) => String(store.allocate(request(id)).addresses[0]);
  assert.equal(take('a'), '10.0.0.2');
  store.release(request('a'));
  assert.deepEqual(['b', 'c', 'd', 'e'].map(take), ['10.0.0.3', '10.0.0.4', '10.0.0.5', '10.0.0.6']);
  assert.equal(take('f'), '10.0.0.2');
  assert.throws(() => take('g'), coded('IPAM_POOL_EXHAUSTED'));
  assert.throws(() => store.assertFree(), coded('IPAM_POOL_EXHAUSTED'));
  assert.equal(store.get(request('g')), undefined);
  store.release(request('d'));
  assert.equal(take('g'), '10.0.0.5');
});

test('release() of what is not attached does nothing', (t) => {
  const store = open(t);
  assert.equal(store.release(request('nobody')), undefined);
});

test('a second attachment of one container and interface is refused and names its addresses', (t) => {
  const store = open(t);
  store.allocate(request('a'));
  assert.throws(
    () => store.allocate(request('a')),
    (error) => isNetError(error, 'IPAM_ATTACHMENT_EXISTS') && /10\.244\.1\.2/.test(error.message),
  );
  assert.throws(() => store.allocate(request('b', { hostLink: 'poa' })), coded('IPAM_HOST_LINK_TAKEN'));
  store.allocate(request('a', { ifname: 'net1', hostLink: 'poa1' }));
});

test('a wanted address is given, or refused with the reason', (t) => {
  const store = open(t);
  const want = (id: string, ...addresses: string[]) =>
    texts(store.allocate(request(id, { wanted: addresses.map(parseIp) })).addresses);
  assert.deepEqual(want('a', '10.244.1.77'), ['10.244.1.77', 'fd00:10:244:1::2']);
  assert.throws(() => want('b', '10.244.1.77'), coded('IPAM_ADDRESS_TAKEN'));
  assert.throws(() => want('b', '10.244.2.7'), coded('IPAM_ADDRESS_OUTSIDE'));
  assert.throws(() => want('b', '10.244.1.0'), coded('IPAM_ADDRESS_RESERVED'));
  assert.throws(() => want('b', '10.244.1.1'), coded('IPAM_ADDRESS_RESERVED'));
  assert.throws(() => want('b', '10.244.1.255'), coded('IPAM_ADDRESS_RESERVED'));
  assert.throws(() => want('b', '10.244.1.7', '10.244.1.8'), coded('IPAM_TWO_ADDRESSES'));
  assert.equal(store.list().length, 1);
});

test('a node without pod CIDR gives IPAM_NO_POOL, and new pod CIDRs leave old attachments alone', (t) => {
  const store = open(t, { pools: [] });
  assert.throws(() => store.allocate(request('a')), coded('IPAM_NO_POOL'));
  store.setPools([v4]);
  store.allocate(request('a'));
  store.setPools([parseCidr('10.9.0.0/24')]);
  assert.deepEqual(texts(store.allocate(request('b')).addresses), ['10.9.0.2']);
  assert.deepEqual(texts(store.get(request('a'))!.addresses), ['10.244.1.2']);
  assert.deepEqual(
    store.usage().map(({ used, usable }) => [used, usable]),
    [[1, 253n]],
  );
});

test('what was written is there after opening again, with state, pod and cursor', async (t) => {
  const path = join(folder(t), 'attachments.db');
  const pod = { namespace: 'default', name: 'web', uid: 'u-1' };
  const first = new AttachmentStore({ path, pools: [v4, v6], now: () => 1234 });
  first.allocate(request('a', { pod }));
  first.markReady(request('a'));
  first.allocate(request('b'));
  first.allocate(request('c'));
  first.release(request('c'));
  await first.durable();
  await first.close();
  assert.equal(statSync(path).mode & 0o777, 0o600);
  await using second = new AttachmentStore({ path, pools: [v4, v6] });
  assert.deepEqual(
    second
      .list()
      .map((each) => [each.containerId, each.state, texts(each.addresses), each.pod, each.createdAtMs]),
    [
      ['a', 'ready', ['10.244.1.2', 'fd00:10:244:1::2'], pod, 1234],
      ['b', 'pending', ['10.244.1.3', 'fd00:10:244:1::3'], undefined, 1234],
    ],
  );
  assert.deepEqual(texts(second.allocate(request('d')).addresses), ['10.244.1.5', 'fd00:10:244:1::5']);
});

test('networks are kept with their attachment where asked, go with it, and pools to come change none', async (t) => {
  const path = join(folder(t), 'attachments.db');
  const first = new AttachmentStore({ path, pools: [v4, v6] });
  first.allocate(request('a', { recordNetworks: true }));
  first.allocate(request('b'));
  first.allocate(request('c', { recordNetworks: true }));
  first.release(request('c'));
  await first.close();
  await using second = new AttachmentStore({ path, pools: [parseCidr('10.9.0.0/24')] });
  assert.deepEqual(
    second.list().map(({ containerId, networks }) => [containerId, networks.map(String)]),
    [
      ['a', [v4, v6].map(String)],
      ['b', []],
    ],
  );
  assert.deepEqual(second.allocate(request('d', { recordNetworks: true })).networks.map(String), [
    '10.9.0.0/24',
  ]);
});

test('port mappings are kept with their attachment, go with it, and a database from before them is taken', async (t) => {
  const path = join(folder(t), 'attachments.db');
  const portMappings = [
    { hostPort: 8080, containerPort: 80, protocol: 'TCP' as const, hostIP: undefined },
    { hostPort: 8080, containerPort: 53, protocol: 'UDP' as const, hostIP: '192.0.2.1' },
  ];
  const first = new AttachmentStore({ path, pools: [v4] });
  first.allocate(request('a', { portMappings }));
  first.allocate(request('b', { portMappings }));
  first.release(request('b'));
  await first.close();
  const reopened = new AttachmentStore({ path, pools: [v4] });
  assert.deepEqual(reopened.get(request('a'))!.portMappings, portMappings);
  await reopened.close();
  const database = new DatabaseSync(path);
  assert.equal(database.prepare('SELECT count(*) AS n FROM port_mappings').get()!['n'], 2);
  database.exec('DROP TABLE port_mappings');
  database.close();
  const older = new AttachmentStore({ path, pools: [v4] });
  assert.deepEqual(older.get(request('a'))!.portMappings, []);
  older.allocate(request('c', { portMappings }));
  await older.close();
});

test('foreign, newer, damaged and held databases are refused and left as they are', async (t) => {
  const at = folder(t);
  const text = join(at, 'text.db');
  writeFileSync(text, 'this is not a database, it is a text of some length '.repeat(50));
  assert.throws(() => new AttachmentStore({ path: text }), coded('IPAM_STORE_FOREIGN'));
  assert.match(String(statSync(text).size), /2600/);
  const other = join(at, 'other.db');
  const foreign = new DatabaseSync(other);
  foreign.exec('CREATE TABLE t (x)');
  foreign.close();
  assert.throws(() => new AttachmentStore({ path: other }), coded('IPAM_STORE_FOREIGN'));
  const path = join(at, 'attachments.db');
  const store = new AttachmentStore({ path, pools: [v4] });
  store.allocate(request('a'));
  assert.throws(() => new AttachmentStore({ path }), coded('IPAM_STORE_IN_USE'));
  await store.close();
  const newer = new DatabaseSync(path);
  newer.exec('PRAGMA user_version = 9');
  newer.close();
  assert.throws(() => new AttachmentStore({ path }), coded('IPAM_STORE_NEWER'));
  const bad = new DatabaseSync(path);
  bad.exec("PRAGMA user_version = 1; UPDATE addresses SET address = 'ten'");
  bad.close();
  assert.throws(() => new AttachmentStore({ path }), coded('IPAM_STORE_DAMAGED'));
  assert.throws(
    () => new AttachmentStore({ path: '/proc/none/attachments.db' }),
    coded('IPAM_STORE_UNWRITABLE'),
  );
  await assert.rejects(store.durable(), coded('IPAM_STORE_CLOSED'));
});

test('twenty durable() calls at once cost few syncs, and a failed sync is told to all who shared it', async (t) => {
  let failing = false;
  const sync = async () => {
    await new Promise((resolve) => setTimeout(resolve, 2));
    if (failing) throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
  };
  const store = open(t, { sync });
  await Promise.all(
    Array.from({ length: 20 }, (_, index) => {
      store.allocate(request(`c${index}`));
      return store.durable();
    }),
  );
  assert.equal(store.syncCount, 2);
  failing = true;
  const results = await Promise.allSettled([store.durable(), store.durable(), store.durable()]);
  for (const result of results)
    assert.ok(result.status === 'rejected' && isNetError(result.reason, 'IPAM_STORE_FULL'));
  failing = false;
  await store.durable();
});

test('onChange() is called for each change until it is ended', (t) => {
  const store = open(t);
  let calls = 0;
  const end = store.onChange(() => calls++);
  store.allocate(request('a'));
  store.markReady(request('a'));
  store.release(request('a'));
  assert.equal(calls, 3);
  end();
  store.allocate(request('a'));
  assert.equal(calls, 3);
});

test('any order of allocations and releases keeps addresses unique, in the pool, and as many as attachments', (t) => {
  const pool = parseCidr('10.0.0.0/28');
  const store = open(t, { pools: [pool] });
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.boolean(), fc.integer({ min: 0, max: 20 })), { maxLength: 60 }),
      (steps) => {
        for (const { containerId, ifname } of store.list()) store.release({ containerId, ifname });
        const model = new Map<string, string>();
        for (const [add, id] of steps) {
          const key = request(`c${id}`);
          if (!add) {
            assert.equal(store.release(key) !== undefined, model.delete(key.containerId));
            continue;
          }
          try {
            const address = String(store.allocate(key).addresses[0]);
            assert.ok(!model.has(key.containerId) && ![...model.values()].includes(address));
            assert.ok(pool.contains(parseIp(address)));
            model.set(key.containerId, address);
          } catch (error) {
            if (isNetError(error, 'IPAM_ATTACHMENT_EXISTS')) assert.ok(model.has(key.containerId));
            else assert.ok(isNetError(error, 'IPAM_POOL_EXHAUSTED') && model.size === 13);
          }
        }
        assert.equal(store.list().length, model.size);
      },
    ),
    { numRuns: 30 },
  );
});

test('nextFree() finds the one free address of any pool, wherever it starts', () => {
  fc.assert(
    fc.property(fc.integer({ min: 24, max: 32 }), fc.nat(), fc.nat(), (length, free, start) => {
      const pool = parseCidr(`10.1.0.0/${length}`);
      const usable: string[] = [];
      for (let index = 0n; index < pool.size; index++) {
        const only = nextFree(pool, index === 0n ? undefined : pool.host(index - 1n), () => false);
        if (only && !usable.includes(String(only))) usable.push(String(only));
      }
      assert.equal(BigInt(usable.length), usableAddresses(pool));
      const wanted = usable[free % usable.length]!;
      const last = pool.host(BigInt(start) % pool.size);
      assert.equal(String(nextFree(pool, last, (address) => String(address) !== wanted)), wanted);
    }),
    { numRuns: 20 },
  );
});
