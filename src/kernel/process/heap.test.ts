import assert from 'node:assert/strict';
import test from 'node:test';
import { trimMalloc } from '../syscall/index.ts';
import { settleMemory } from './heap.ts';

test('after the first lists V8 has half a minute to give back, then malloc, and every ten minutes from then on', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
  const done: string[] = [];
  settleMemory(
    () => done.push('trim'),
    (flag) => done.push(flag),
  );
  t.mock.timers.tick(29_000);
  assert.deepEqual(done, ['--optimize-for-size']);
  t.mock.timers.tick(1_000);
  assert.deepEqual(done, ['--optimize-for-size', '--no-optimize-for-size', 'trim']);
  t.mock.timers.tick(1_200_000);
  assert.deepEqual(done.slice(3), ['trim', 'trim']);
});

test('trimming answers whether anything was given back', () => {
  assert.equal(typeof trimMalloc(), 'boolean');
});
