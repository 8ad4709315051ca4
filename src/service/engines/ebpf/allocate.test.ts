import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { RangeAllocator } from './allocate.ts';

test('what is given back rests before it is used again', () => {
  let now = 0;
  const ids = new RangeAllocator({ first: 1, limit: 100, now: () => now });
  assert.equal(ids.take(1), 1);
  assert.equal(ids.take(1), 2);
  ids.give(1, 1);
  assert.equal(ids.take(1), 3);
  now = 1000;
  assert.equal(ids.take(1), 1);
});

test('a full space is told, and has room again after a rest', () => {
  let now = 0;
  const lines = new RangeAllocator({ limit: 10, now: () => now });
  assert.equal(lines.take(8), 0);
  assert.equal(lines.take(3), undefined);
  lines.give(0, 8);
  now = 1000;
  assert.equal(lines.take(3), 0);
  assert.equal(lines.take(5), 3);
});

test('ranges in use never overlap, whatever is taken and given back', () => {
  const step = fc.record({ take: fc.boolean(), length: fc.integer({ min: 1, max: 5 }), wait: fc.boolean() });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      let now = 0;
      const space = new RangeAllocator({ limit: 64, now: () => now });
      const held: [number, number][] = [];
      for (const { take, length, wait } of steps) {
        if (wait) now += 1000;
        if (take) {
          const start = space.take(length);
          if (start === undefined) continue;
          assert.ok(start + length <= 64);
          for (const [s, l] of held) assert.ok(start + length <= s || s + l <= start);
          held.push([start, length]);
        } else if (held.length > 0) space.give(...held.splice(length % held.length, 1)[0]!);
      }
      assert.equal(
        space.used,
        held.reduce((sum, [, l]) => sum + l, 0),
      );
      const again = new RangeAllocator({ limit: 64, now: () => now });
      again.reset(held, 0);
      for (let start = again.take(1); start !== undefined; start = again.take(1))
        for (const [s, l] of held) assert.ok(start < s || start >= s + l);
    }),
  );
});
