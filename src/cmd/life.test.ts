import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import test from 'node:test';
import { type Host, live, type Running } from './life.ts';
import { logLine } from './log.ts';

/** A command and its process; `exits` are the codes it ended with. */
function setUp(running: Partial<Running> = {}, closeMs = 1000) {
  const host = new EventEmitter();
  const exits: number[] = [];
  const lines: string[] = [];
  const say = (level: string) => (context: object, message: string) =>
    lines.push(logLine(level, context, message));
  const { promise, resolve } = Promise.withResolvers<void>();
  const ended = live(
    { debug: say('debug'), info: say('info'), warn: say('warn'), error: say('error') },
    async () => {
      resolve();
      return { close: () => {}, ...running };
    },
    Object.assign(host, { exit: (code: number) => exits.push(code) }) as unknown as Host,
    closeMs,
  );
  return { host, exits, lines, ended, opened: promise };
}

test('a long-running command closes at the first signal and exits 0', async () => {
  for (const signal of ['SIGINT', 'SIGTERM']) {
    let closed = 0;
    const { host, exits, ended, opened } = setUp({ close: async () => void closed++ });
    await opened;
    await new Promise(setImmediate);
    host.emit(signal);
    await ended;
    assert.deepEqual([closed, exits], [1, [0]]);
  }
});

test('a second signal, also another one, ends it at once', async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const { host, exits, ended, opened } = setUp({ close: () => promise });
  await opened;
  await new Promise(setImmediate);
  host.emit('SIGINT');
  host.emit('SIGTERM');
  assert.deepEqual(exits, [143]);
  resolve();
  await ended;
});

test('closing takes no longer than it may', async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const { host, exits, lines, ended, opened } = setUp({ close: () => promise }, 10);
  await opened;
  await new Promise(setImmediate);
  host.emit('SIGTERM');
  await new Promise((done) => setTimeout(done, 50));
  assert.deepEqual(exits, [0]);
  assert.match(lines.join(), /not everything is closed/);
  resolve();
  await ended;
});

test('what nobody caught is logged with where it came from, and ends it with 1', async () => {
  for (const event of ['uncaughtException', 'unhandledRejection']) {
    const { host, exits, lines, ended, opened } = setUp();
    await opened;
    await new Promise(setImmediate);
    host.emit(event, new Error('out of the blue'));
    assert.deepEqual(exits, [1]);
    assert.match(lines[0]!, /^error ends by an unexpected error error=.*out of the blue.*life\.test/);
    host.emit('SIGTERM');
    await ended;
  }
});

test('a command that is done by itself closes as well; one that fails by itself rejects', async () => {
  const { exits, ended } = setUp({ done: Promise.resolve() });
  await ended;
  assert.deepEqual(exits, [0]);
  await assert.rejects(setUp({ done: Promise.reject(new Error('lost')) }).ended, /lost/);
});

test('a signal before it is open ends it', async () => {
  const host = new EventEmitter();
  const exits: number[] = [];
  const { promise, resolve } = Promise.withResolvers<Running>();
  const none = () => {};
  const ended = live(
    { debug: none, info: none, warn: none, error: none },
    () => promise,
    Object.assign(host, { exit: (code: number) => exits.push(code) }) as unknown as Host,
  );
  host.emit('SIGTERM');
  assert.deepEqual(exits, [143]);
  resolve({ close: none });
  await ended;
});

test('log lines are one line each, whatever is told, and errors are told by their message', () => {
  assert.equal(logLine('info', { node: 'a b', n: 1, none: undefined }, 'said'), 'info  said node=a b n=1');
  assert.equal(
    logLine('warn', { err: new TypeError('no'), big: [1n], list: ['x'] }, 'bad'),
    'warn  bad err=no big=["1"] list=["x"]',
  );
  assert.equal(
    logLine('error', { error: 'one\n2026 info  forged\x1b[31m' }, 'x'),
    'error x error="one\\n2026 info  forged\\u001b[31m"',
  );
});
