import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import fc from 'fast-check';
import { isNetError } from '../errors/net-error.ts';
import { SqliteStore } from './sqlite/store.ts';
import type { Store, StoreEvent } from './types.ts';

function directory() {
  const path = mkdtempSync(join(tmpdir(), 'portolan-store-'));
  return { path, file: join(path, 'store.db'), [Symbol.dispose]: () => rmSync(path, { recursive: true }) };
}

/** Writes `value` under `key` whatever is there now. */
const put = (store: Store, key: string, value: string) =>
  store.write({ key, expected: store.latest(key)?.revision ?? 0, build: () => value });
const remove = (store: Store, key: string) => {
  const latest = store.latest(key)!;
  return store.write({ key, expected: latest.revision, build: () => latest.value, remove: true });
};
const shown = (events: readonly StoreEvent[]) =>
  events.map(
    (e) => `${e.revision} ${e.type} ${e.entry.key}=${e.entry.value} was ${e.previous?.value ?? '-'}`,
  );
const codeOf = (code: string) => (error: unknown) => isNetError(error, code);

test('a write is readable, durable and numbered after it resolved, and not before', async () => {
  using dir = directory();
  const store = SqliteStore.open(dir.file);
  const written = put(store, 'pods/default/a', 'one');
  assert.equal(store.get('pods/default/a'), undefined);
  assert.equal(store.latest('pods/default/a')?.value, 'one');
  assert.equal((await written).revision, 1);
  assert.equal(store.get('pods/default/a')?.value, 'one');
  store.close();
  const again = SqliteStore.open(dir.file);
  assert.equal(again.revision, 1);
  assert.equal(again.get('pods/default/a')?.value, 'one');
  again.close();
  assert.equal(statSync(dir.file).mode & 0o777, 0o600);
});

test('a write computed from an old revision is refused', async () => {
  using dir = directory();
  const store = SqliteStore.open(dir.file);
  await put(store, 'pods/default/a', 'one');
  await put(store, 'pods/default/a', 'two');
  const stale = store.write({ key: 'pods/default/a', expected: 1, build: () => 'three' });
  await assert.rejects(stale, codeOf('STORE_CONFLICT'));
  const again = store.write({ key: 'pods/default/a', expected: 0, build: () => 'three' });
  await assert.rejects(again, codeOf('STORE_CONFLICT'));
  assert.equal(store.revision, 2);
  store.close();
});

test('watch() replays history from memory and from disk, then follows', async () => {
  using dir = directory();
  let store = SqliteStore.open(dir.file);
  await put(store, 'pods/default/a', 'one');
  await put(store, 'pods/kube/b', 'x');
  await put(store, 'services/default/a', 'y');
  await put(store, 'pods/default/a', 'two');
  await remove(store, 'pods/default/a');
  const expected = [
    '1 put pods/default/a=one was -',
    '4 put pods/default/a=two was one',
    '5 delete pods/default/a=two was two',
  ];
  for (const from of ['memory', 'disk']) {
    if (from === 'disk') {
      store.close();
      store = SqliteStore.open(dir.file);
    }
    const seen: StoreEvent[] = [];
    const watch = store.watch('pods/default/', 0, (events) => seen.push(...events));
    assert.deepEqual(shown(seen), expected, from);
    const next = await put(store, 'pods/default/c', 'z');
    assert.equal(seen.at(-1)?.revision, next.revision);
    watch.close();
    await remove(store, 'pods/default/c');
    assert.equal(seen.length, expected.length + 1);
    expected.push(
      ...[
        `${next.revision} put pods/default/c=z was -`,
        `${next.revision + 1} delete pods/default/c=z was z`,
      ],
    );
  }
  assert.throws(() => store.watch('pods/', 99, () => {}), codeOf('STORE_FUTURE'));
  store.close();
});

test('rangeAt() shows the state of an older revision until that is compacted', async () => {
  using dir = directory();
  const store = SqliteStore.open(dir.file);
  await put(store, 'pods/default/a', 'one'); // 1
  await put(store, 'pods/default/b', 'one'); // 2
  await put(store, 'pods/default/a', 'two'); // 3
  await remove(store, 'pods/default/b'); // 4
  const at = (revision: number) =>
    [...store.rangeAt('pods/', revision)].map((e) => `${e.key.at(-1)}=${e.value}`);
  assert.deepEqual(
    [at(1), at(2), at(3), at(4)],
    [['a=one'], ['a=one', 'b=one'], ['a=two', 'b=one'], ['a=two']],
  );
  assert.equal(await store.compact(3), 1);
  assert.deepEqual([at(3), at(4)], [['a=two', 'b=one'], ['a=two']]);
  assert.throws(() => at(2), codeOf('STORE_COMPACTED'));
  assert.throws(() => store.watch('pods/', 2, () => {}), codeOf('STORE_COMPACTED'));
  store
    .watch('pods/', 3, (events) => assert.deepEqual(shown(events), ['4 delete pods/default/b=one was one']))
    .close();
  store.close();
});

test('the revision does not go back when compaction removes the newest rows', async () => {
  using dir = directory();
  const store = SqliteStore.open(dir.file);
  await put(store, 'pods/default/a', 'one');
  await remove(store, 'pods/default/a');
  await store.compact(2);
  store.close();
  const again = SqliteStore.open(dir.file);
  assert.equal(again.revision, 2);
  assert.equal((await put(again, 'pods/default/a', 'new')).revision, 3);
  again.close();
});

test('a full disk fails the whole group of writes, and the store goes on as before', async () => {
  using dir = directory();
  const store = SqliteStore.open(dir.file);
  await put(store, 'configmaps/default/a', 'small');
  store.limitPages(16);
  const big = 'x'.repeat(100_000);
  const results = await Promise.allSettled([
    put(store, 'configmaps/default/b', 'small'),
    put(store, 'configmaps/default/c', big),
  ]);
  for (const result of results) {
    assert.equal(result.status, 'rejected');
    assert.ok(isNetError(result.reason, 'STORE_FULL'), String(result.reason));
  }
  assert.equal(store.revision, 1);
  assert.deepEqual(
    [...store.range('configmaps/')].map((e) => e.key),
    ['configmaps/default/a'],
  );
  assert.equal((await put(store, 'configmaps/default/b', 'fits')).revision, 2);
  store.close();
  const again = SqliteStore.open(dir.file);
  assert.deepEqual(
    [...again.range('')].map((e) => e.value),
    ['small', 'fits'],
  );
  again.close();
});

test('open() refuses what is not its own, and says what it found', async () => {
  using dir = directory();
  writeFileSync(
    dir.file,
    'this is a text file, long enough to be taken for a database header of SQLite '.repeat(20),
  );
  assert.throws(() => SqliteStore.open(dir.file), codeOf('STORE_FOREIGN'));
  const foreign = join(dir.path, 'foreign.db');
  const database = new DatabaseSync(foreign);
  database.exec('CREATE TABLE users (name TEXT)');
  database.close();
  assert.throws(() => SqliteStore.open(foreign), codeOf('STORE_FOREIGN'));
  assert.throws(() => SqliteStore.open('/proc/no/such/store.db'), codeOf('STORE_UNWRITABLE'));
  const own = join(dir.path, 'own.db');
  const store = SqliteStore.open(own);
  assert.throws(() => SqliteStore.open(own), codeOf('STORE_IN_USE'));
  for (let i = 0; i < 50; i++) await put(store, `pods/default/${i}`, 'v'.repeat(1000));
  store.close();
  const newer = new DatabaseSync(own);
  newer.exec('PRAGMA user_version = 9');
  newer.close();
  assert.throws(() => SqliteStore.open(own), codeOf('STORE_NEWER'));
});

test('a deletion that was the last change of its kind is told to who resumes after a restart', async () => {
  using dir = directory();
  let store = SqliteStore.open(dir.file);
  await put(store, 'pods/default/a', 'one');
  await remove(store, 'pods/default/a');
  store.close();
  store = SqliteStore.open(dir.file);
  const seen: StoreEvent[] = [];
  store.watch('pods/', 1, (events) => seen.push(...events)).close();
  assert.deepEqual(shown(seen), ['2 delete pods/default/a=one was one']);
  assert.deepEqual(
    [...store.rangeAt('pods/', 1)].map(({ value }) => value),
    ['one'],
  );
  store.close();
});

test('a damaged database is refused instead of served', async () => {
  using dir = directory();
  const store = SqliteStore.open(dir.file);
  for (let i = 0; i < 200; i++) void put(store, `pods/default/${i}`, 'v'.repeat(1000));
  await put(store, 'pods/default/last', 'v');
  store.close();
  const size = statSync(dir.file).size;
  const { openSync, writeSync, closeSync } = await import('node:fs');
  const fd = openSync(dir.file, 'r+');
  for (let page = 2; page < size / 4096; page++) writeSync(fd, Buffer.alloc(64, 0xa5), 0, 64, page * 4096);
  closeSync(fd);
  assert.throws(() => SqliteStore.open(dir.file), codeOf('STORE_CORRUPT'));
});

test('any order of writes, deletes, compactions and restarts matches a plain map', async () => {
  const step = fc.oneof(
    { weight: 6, arbitrary: fc.record({ kind: fc.constant('put'), key: fc.nat(5), value: fc.nat(99) }) },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant('remove'), key: fc.nat(5), value: fc.nat(9) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('compact'), key: fc.nat(5), value: fc.nat(9) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('restart'), key: fc.nat(5), value: fc.nat(9) }) },
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      using dir = directory();
      let store = SqliteStore.open(dir.file);
      const model = new Map<string, string>();
      const history: string[][] = [[]];
      const state = () => [...model].map(([k, v]) => `${k}=${v}`).sort();
      for (const { kind, key, value } of steps) {
        const name = `pods/default/${key}`;
        if (kind === 'put') {
          await put(store, name, String(value));
          model.set(name, String(value));
        } else if (kind === 'remove' && model.delete(name)) await remove(store, name);
        else if (kind === 'compact') await store.compact(store.revision - value);
        else if (kind === 'restart') {
          store.close();
          store = SqliteStore.open(dir.file);
        }
        history[store.revision] = state();
      }
      for (let revision = store.compacted; revision <= store.revision; revision++)
        assert.deepEqual(
          [...store.rangeAt('pods/', revision)].map((e) => `${e.key}=${e.value}`),
          history[revision],
        );
      assert.deepEqual(
        [...store.range('pods/')].map((e) => `${e.key}=${e.value}`),
        state(),
      );
      store.close();
    }),
    { numRuns: 25 },
  );
});
