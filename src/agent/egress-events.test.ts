import assert from 'node:assert/strict';
import test from 'node:test';
import { parseIp } from '../addr/index.ts';
import type { EgressState, Fate } from '../egress/index.ts';
import { EgressEvents } from './egress-events.ts';

const address = parseIp('192.0.2.50');
const here: Fate = { kind: 'here', address };
const closed: Fate = { kind: 'closed', address, why: 'no node holds 192.0.2.50' };
const wrong: Fate = { kind: 'closed', address: undefined, why: 'its annotation is wrong' };

function world(nodeName: string) {
  const told: string[] = [];
  const events = new EgressEvents({
    nodeName,
    nodes: () => ['node1', 'node2'],
    recorder: {
      record: (about, { type, reason }) => told.push(`${about.namespace} ${type} ${reason}`),
    },
  });
  const tell = (...states: [string, Fate, number][]) =>
    events.tell(states.map(([namespace, fate, pods]): EgressState => ({ namespace, family: 4, fate, pods })));
  return { told, tell, close: () => events.close() };
}

test('who holds an address says so once, and what stays closed is told after a moment', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const { told, tell } = world('node2');
  tell(['a', here, 0], ['b', closed, 1], ['c', wrong, 1]);
  tell(['a', here, 0], ['b', closed, 1], ['c', wrong, 1]);
  assert.deepEqual(told, ['a Normal EgressAddressHeld']);
  t.mock.timers.tick(3_000);
  assert.deepEqual(told.slice(1), ['b Warning EgressAddressUnavailable', 'c Warning EgressAddressWrong']);
  tell(['a', here, 0], ['b', closed, 1], ['c', wrong, 1]);
  t.mock.timers.tick(9_000);
  assert.equal(told.length, 3, 'the same again is no news');
  tell(['b', here, 1]);
  tell(['b', closed, 1]);
  t.mock.timers.tick(3_000);
  assert.deepEqual(told.slice(3), ['b Normal EgressAddressHeld', 'b Warning EgressAddressUnavailable']);
});

test('what is closed only while nodes agree on a holder is not told', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const { told, tell, close } = world('node2');
  tell(['a', closed, 1], ['b', closed, 1]);
  t.mock.timers.tick(1_000);
  tell(['a', here, 1]);
  t.mock.timers.tick(9_000);
  assert.deepEqual(told, ['a Normal EgressAddressHeld'], 'and b asks no more');
  tell(['a', closed, 1]);
  close();
  t.mock.timers.tick(9_000);
  assert.equal(told.length, 1, 'nothing after the end');
});

test('for a namespace without pods one node speaks for all', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const [first, second] = [world('node1'), world('node2')];
  for (const { tell } of [first, second]) tell(['a', closed, 0]);
  t.mock.timers.tick(3_000);
  assert.deepEqual([first.told.length, second.told.length], [1, 0]);
});
