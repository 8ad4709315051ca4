/** Fills the file system of a store: `full-disk.ts DIRECTORY`, run by `store-full-disk.test.ts` on a tmpfs of its own. */
import assert from 'node:assert/strict';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isNetError } from '../../src/errors/net-error.ts';
import { SqliteStore } from '../../src/store/index.ts';

const directory = process.argv[2]!;
const ballast = join(directory, 'ballast');
const file = join(directory, 'store.db');
let store = SqliteStore.open(file);
const write = (key: string, size: number) =>
  store.write({ key, expected: store.latest(key)?.revision ?? 0, build: () => 'x'.repeat(size) });
await write('configmaps/default/first', 100);
writeFileSync(ballast, Buffer.alloc(512 << 10));

let acknowledged = 1;
let refused: unknown;
for (let i = 0; refused === undefined && i < 1000; i++)
  try {
    await write(`configmaps/default/n${i}`, 20_000);
    acknowledged++;
  } catch (error) {
    refused = error;
  }
assert.ok(isNetError(refused, 'STORE_FULL'), String(refused));
assert.equal(store.revision, acknowledged);
assert.equal([...store.range('')].length, acknowledged);
// Still refused, still nothing half done; and it goes on by itself once there is room.
await assert.rejects(write('configmaps/default/more', 20_000), (error) => isNetError(error, 'STORE_FULL'));
rmSync(ballast);
await write('configmaps/default/after', 20_000);
store.close();
store = SqliteStore.open(file);
assert.equal(store.revision, acknowledged + 1);
assert.equal([...store.range('')].length, acknowledged + 1);
store.close();
process.stdout.write(`acknowledged ${acknowledged}\n`);
