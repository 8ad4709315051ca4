import assert from 'node:assert/strict';
import test from 'node:test';
import { FlowKeeper } from './flow-keeper.ts';
import { newsStep } from './objects.ts';

/** A ring that wakes as the kernel's does: when it is listened to and has words. */
class Ring {
  words = 0;
  listening = false;
  open = true;
  #onWord: () => void = () => {};

  constructor(onWord: () => void) {
    this.#onWord = onWord;
  }

  write(): void {
    this.words++;
    if (this.listening) this.drain();
  }

  start(): this {
    this.listening = true;
    if (this.words > 0) this.drain();
    return this;
  }

  unref(): this {
    return this;
  }

  pause(): this {
    this.listening = false;
    return this;
  }

  drain(): number {
    const { words } = this;
    this.words = 0;
    for (let at = 0; at < words; at++) this.#onWord();
    return words;
  }

  close(): void {
    this.open = this.listening = false;
  }
}

function setUp(t: test.TestContext, tend: () => number) {
  t.mock.timers.enable({ apis: ['setTimeout', 'setImmediate'] });
  let ring: Ring | undefined;
  const errors: unknown[] = [];
  const keeper = new FlowKeeper({
    tables: [{ tend, restMs: 250 }],
    openNews: (onWord) => {
      ring = new Ring(onWord);
      return ring as unknown as ReturnType<ConstructorParameters<typeof FlowKeeper>[0]['openNews']>;
    },
    onError: (error) => errors.push(error),
  });
  t.after(() => keeper.close());
  return { keeper, ring: ring!, errors };
}

test('a table that nothing happens to is looked at when it asked to be', (t) => {
  const { keeper, ring } = setUp(t, () => 10_000);
  assert.equal(keeper.looks, 1);
  for (let second = 0; second < 59; second++) t.mock.timers.tick(1000);
  assert.equal(keeper.looks, 6);
  assert.ok(ring.listening);
});

test('a word brings a look at once, and another one soon after', (t) => {
  const { keeper, ring } = setUp(t, () => 10_000);
  t.mock.timers.tick(5000);
  ring.write();
  t.mock.timers.tick(1);
  assert.equal(keeper.looks, 2);
  assert.ok(!ring.listening, 'it rests');
  t.mock.timers.tick(250);
  assert.equal(keeper.looks, 3);
  assert.ok(ring.listening, 'nothing came meanwhile');
});

test('a flood of words makes four looks a second, and none is lost when it ends', (t) => {
  const { keeper, ring } = setUp(t, () => 10_000);
  for (let ms = 0; ms < 10_000; ms += 5) {
    ring.write();
    t.mock.timers.tick(5);
  }
  assert.ok(keeper.looks >= 38 && keeper.looks <= 43, `${keeper.looks} looks`);
  const before = keeper.looks;
  ring.write();
  for (let at = 0; at < 3; at++) t.mock.timers.tick(250);
  assert.ok(keeper.looks > before && ring.listening && ring.words === 0);
});

test('a table that is busy is looked at soon, without words, and so is one that has no memory', (t) => {
  let busy = true;
  let calls = 0;
  const { keeper, errors } = setUp(t, () => {
    if (!busy) return 10_000;
    if (++calls === 3) throw new Error('no memory');
    return 250;
  });
  for (let at = 0; at < 4; at++) t.mock.timers.tick(250);
  assert.equal(keeper.looks, 5);
  assert.equal(errors.length, 1);
  busy = false;
  t.mock.timers.tick(9000);
  assert.equal(keeper.looks, 6);
});

test('after close() nothing is looked at', (t) => {
  const { keeper, ring } = setUp(t, () => 10_000);
  ring.write();
  keeper.close();
  t.mock.timers.tick(60_000);
  assert.equal(keeper.looks, 1);
  assert.ok(!ring.open);
});

test('words come before an eighth of the first places is taken, on however many CPUs', () => {
  for (const [places, cpus, step] of [
    [32_768, 1, 4096],
    [32_768, 2, 2048],
    [32_768, 6, 512],
    [32_768, 128, 32],
    [8192, 2, 512],
    [8192, 8192, 1],
  ] as const) {
    assert.equal(newsStep(places, cpus), step);
    assert.ok(cpus * (step - 1) < places / 8);
  }
});
