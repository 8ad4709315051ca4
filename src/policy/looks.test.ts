import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { Looks } from './looks.ts';

/** Looks that take `costMs` each, and when they began. */
function world(t: TestContext, costMs: number) {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  let now = 0;
  const at: number[] = [];
  const looks = new Looks(
    () => {
      at.push(now);
      now += costMs;
    },
    { nowMs: () => now, spentMs: () => at.length * costMs },
  );
  t.after(() => looks.close());
  const pass = (ms: number) => {
    for (let each = 0; each < ms; each++) {
      now++;
      t.mock.timers.tick(1);
    }
  };
  return { looks, at, pass };
}

test('a change is followed by a look in 5 ms and another one in a second', (t) => {
  const { looks, at, pass } = world(t, 0);
  looks.soon();
  looks.soon();
  pass(3000);
  assert.deepEqual(at, [5, 1000]);
});

test('changes that never end do not put the look off', (t) => {
  const { looks, at, pass } = world(t, 0);
  for (let each = 0; each < 100; each++) {
    looks.soon();
    pass(2);
  }
  assert.ok(at.length >= 25, String(at.length));
});

test('however dear a look is, it takes a tenth of the time at most', (t) => {
  const { looks, at, pass } = world(t, 200);
  for (let each = 0; each < 1000; each++) {
    looks.soon();
    pass(10);
  }
  // Ten seconds of changes, and the clock stands at what the looks took beside.
  assert.ok(at.length >= 4 && at.length <= 7, String(at.length));
});
