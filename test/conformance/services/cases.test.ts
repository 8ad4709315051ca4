/** Every acceptance case is in the suite, or it is said who holds it. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { ELSEWHERE } from './elsewhere.ts';
import { CASES } from './suite.ts';

const acceptance = JSON.parse(readFileSync(new URL('cases.json', import.meta.url), 'utf8')) as Record<
  string,
  string
>;

test('every acceptance case is held by the suite or elsewhere, and by one of the two', () => {
  const held = new Set(CASES.flatMap(({ ids }) => ids));
  const missing = Object.keys(acceptance).filter((id) => !held.has(id) && !(id in ELSEWHERE));
  assert.deepEqual(missing, []);
  assert.deepEqual(
    Object.keys(ELSEWHERE).filter((id) => held.has(id) || !(id in acceptance)),
    [],
  );
});
