import assert from 'node:assert/strict';
import test from 'node:test';
import { maglevSize, maglevTable } from './maglev.ts';

const members = (count: number, weight = 1) =>
  Array.from({ length: count }, (_, at) => ({ name: `10.244.${at >> 8}.${at & 255}:80`, weight }));

/** Entries of each member. */
function shares(table: Uint32Array, count: number): number[] {
  const found = new Array<number>(count).fill(0);
  for (const entry of table) found[entry]!++;
  return found;
}

for (const count of [1, 2, 3, 10, 100, 600])
  test(`${count} members of equal weight get equal shares`, () => {
    const size = maglevSize(count);
    const table = maglevTable(members(count), size);
    assert.equal(table.length, size);
    const found = shares(table, count);
    assert.ok(Math.max(...found) - Math.min(...found) <= 1, `${Math.min(...found)}..${Math.max(...found)}`);
  });

for (const count of [3, 10, 100])
  test(`when one of ${count} members goes, hardly more than its own share moves`, () => {
    const before = members(count);
    const size = maglevSize(count);
    const table = maglevTable(before, size);
    for (const gone of [0, count >> 1, count - 1]) {
      const after = before.filter((_, at) => at !== gone);
      const next = maglevTable(after, size);
      let moved = 0;
      for (let at = 0; at < size; at++) if (before[table[at]!]!.name !== after[next[at]!]!.name) moved++;
      // 1/n leave with the member; the paper allows a little more for entries that change hands.
      assert.ok(moved / size <= 1 / count + 0.03, `${moved} of ${size} moved`);
    }
  });

test('shares follow weights', () => {
  const weighted = [3, 1, 0, 2].map((weight, at) => ({ name: `b${at}`, weight }));
  const found = shares(maglevTable(weighted, 1021), 4);
  assert.equal(found[2], 0);
  for (const [at, expected] of [
    [0, 1 / 2],
    [1, 1 / 6],
    [3, 1 / 3],
  ] as const)
    assert.ok(Math.abs(found[at]! / 1021 - expected) < 0.01, `${found}`);
});

test('the table depends on names, not on their order in memory', () => {
  const list = members(5);
  const one = maglevTable(list, 251);
  assert.deepEqual(one, maglevTable(structuredClone(list), 251));
  assert.equal(maglevTable([], 251).length, 0);
});
