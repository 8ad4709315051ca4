import assert from 'node:assert/strict';
import test from 'node:test';
import { cpuTimeMs, restMs } from './pacing.ts';

test('a comparison is repeated as often as asked, a dear one less often, and at least every ten times that', () => {
  const cases: [wanted: number, cost: number, rest: number][] = [
    [30_000, 0, 30_000],
    [30_000, 5, 30_000],
    [30_000, 10, 60_000],
    [30_000, 1_000, 300_000],
    [200, 10, 400],
  ];
  for (const [wanted, cost, rest] of cases) assert.equal(restMs(wanted, cost), rest);
});

test('CPU time grows with work and not with waiting', () => {
  const before = cpuTimeMs();
  let sum = 0;
  // At once, for other threads may have used the 2 ms before the first look.
  do for (let at = 0; at < 10_000; at++) sum += at;
  while (cpuTimeMs() - before < 2);
  assert.ok(sum > 0);
});
