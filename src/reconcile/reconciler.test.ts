import assert from 'node:assert/strict';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { difference, Reconciler } from './index.ts';

test('many triggers make one run, and a trigger during a run makes one more', async () => {
  let runs = 0;
  const reconciler = new Reconciler({
    name: 'test',
    coalesceMs: 1,
    run: async () => {
      runs++;
      await sleep(5);
    },
  });
  reconciler.trigger();
  assert.equal(runs, 0, 'nothing runs before the start');
  reconciler.start();
  for (let at = 0; at < 50; at++) reconciler.trigger();
  await reconciler.idle();
  const first = runs;
  assert.ok(first <= 2, `${first} runs`);
  reconciler.trigger();
  await sleep(4);
  for (let at = 0; at < 50; at++) reconciler.trigger();
  await reconciler.idle();
  assert.ok(runs - first <= 2, `${runs - first} runs`);
  assert.equal(reconciler.status.state, 'done');
  await reconciler.stop();
});

test('a failure is the status, is retried with growing waits, and forgotten after success', async (t) => {
  // Milliseconds of a clock that only this test moves: a busy machine changes nothing.
  t.mock.timers.enable({ apis: ['setTimeout'] });
  let now = 0;
  const at: number[] = [];
  const states: string[] = [];
  const reconciler = new Reconciler({
    name: 'test',
    retryMs: 4,
    run: () => {
      at.push(now);
      if (at.length < 4) throw new Error(`failure ${at.length}`);
    },
    onStatus: (status) =>
      states.push(status.state === 'error' ? `${status.error.message}, try ${status.tries}` : status.state),
  });
  t.after(() => reconciler.stop());
  reconciler.start();
  for (; now < 1000 && reconciler.status.state !== 'done'; now++) {
    t.mock.timers.tick(1);
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.deepEqual(states, ['failure 1, try 1', 'failure 2, try 2', 'failure 3, try 3', 'done']);
  assert.ok(at[3]! - at[2]! > at[1]! - at[0]!, at.join());
});

test('a run happens now and then without a reason, and none after stop()', async (t) => {
  const reconciler = new Reconciler({ name: 'test', resyncMs: 3, run: () => {} });
  t.after(() => reconciler.stop());
  reconciler.start();
  for (let tries = 0; tries < 200 && reconciler.runs < 3; tries++) await sleep(2);
  assert.ok(reconciler.runs >= 3);
  await reconciler.stop();
  const runs = reconciler.runs;
  reconciler.trigger();
  await sleep(10);
  assert.equal(reconciler.runs, runs);
});

test('difference() tells missing, changed and superfluous rows, a double one among them', () => {
  const diff = difference(
    [
      { k: 'a', v: 1 },
      { k: 'b', v: 2 },
      { k: 'c', v: 3 },
    ],
    [
      { k: 'b', v: 2 },
      { k: 'c', v: 4 },
      { k: 'c', v: 3 },
      { k: 'd', v: 5 },
    ],
    (row) => row.k,
    (row) => row.k,
    (wanted, present) => wanted.v === present.v,
  );
  assert.deepEqual(diff, {
    missing: [{ k: 'a', v: 1 }],
    changed: [],
    superfluous: [
      { k: 'c', v: 4 },
      { k: 'd', v: 5 },
    ],
    same: 2,
  });
});

test('a fight with somebody who undoes every change does not make the process spin', async () => {
  const reconciler = new Reconciler({ name: 'test', coalesceMs: 0, run: () => reconciler.trigger() });
  reconciler.start();
  await sleep(300);
  await reconciler.stop();
  assert.ok(reconciler.runs <= 36, `${reconciler.runs} runs`);
});

test('a dear run is not followed by the next before others had as much time as it took', async () => {
  const COST_MS = 20;
  const starts: number[] = [];
  const ends: number[] = [];
  const reconciler = new Reconciler({
    name: 'test',
    coalesceMs: 0,
    run: () => {
      starts.push(performance.now());
      const before = process.cpuUsage();
      for (let used = 0; used < COST_MS; ) {
        const { user, system } = process.cpuUsage(before);
        used = (user + system) / 1000;
      }
      if (starts.length < 4) reconciler.trigger();
      ends.push(performance.now());
    },
  });
  reconciler.start();
  await reconciler.idle();
  await reconciler.stop();
  assert.equal(starts.length, 4);
  const rests = starts.slice(1).map((start, at) => start - ends[at]!);
  // A timer may come a millisecond early.
  for (const rest of rests) assert.ok(rest > COST_MS - 2, rests.join(' '));
});
