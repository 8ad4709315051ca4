import assert from 'node:assert/strict';
import test from 'node:test';
import { compactHeapAtRest } from './heap.ts';

function setUp(t: test.TestContext) {
  t.mock.timers.enable({ apis: ['setInterval'] });
  let cpu = 0;
  let collected = 0;
  compactHeapAtRest(
    () => collected++,
    () => cpu,
  );
  return {
    collected: () => collected,
    second(cpuMs: number) {
      cpu += cpuMs;
      t.mock.timers.tick(1000);
    },
  };
}

test('nothing is collected while there is work, and once as soon as there was none for a second', (t) => {
  const { second, collected } = setUp(t);
  for (let at = 0; at < 20; at++) second(100);
  assert.equal(collected(), 0);
  second(3);
  assert.equal(collected(), 1);
  for (let at = 0; at < 100; at++) second(0);
  assert.equal(collected(), 1, 'no second time');
});

test('who never rests is collected after a minute', (t) => {
  const { second, collected } = setUp(t);
  for (let at = 0; at < 59; at++) second(800);
  assert.equal(collected(), 0);
  second(800);
  assert.equal(collected(), 1);
});
