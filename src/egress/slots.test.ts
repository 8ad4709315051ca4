import assert from 'node:assert/strict';
import test from 'node:test';
import { parseCidr, parseIp } from '../addr/index.ts';
import type { Route, Rule } from '../kernel/rtnl/index.ts';
import { placeSlots, planSlots, tableOf, wayTo } from './slots.ts';
import type { Slot, Way } from './types.ts';

const way = (gateway: string, oif = 3): Way => ({ gateway: parseIp(gateway), oif, onlink: true });
const slot = (number: number, node: string, gateway: string, family: 4 | 6 = 4): Slot => ({
  ...way(gateway),
  number,
  family,
  node,
});
const route = (destination: string, table: number, gateway: string, more: Partial<Route> = {}): Route => ({
  family: destination.includes(':') ? 6 : 4,
  destination: parseCidr(destination),
  type: 'unicast',
  table,
  protocol: 250,
  scope: 0,
  tos: 0,
  oif: 3,
  gateway: parseIp(gateway),
  onlink: true,
  metric: 0,
  dead: false,
  ...more,
});
const rule = (number: number, more: Partial<Rule> = {}): Rule => ({
  family: 4,
  priority: 1250,
  action: 'lookup',
  table: tableOf(number),
  mark: number << 24,
  mask: 0x7f00_0000,
  invert: false,
  protocol: 250,
  ...more,
});
const text = (slots: Slot[], rules: Rule[], routes: Route[]) => {
  const { before, after } = planSlots(slots, { rules, routes });
  const lines = (list: typeof before) => list.map((change) => change.text((index) => `if${index}`));
  return { before: lines(before), after: lines(after) };
};

test('a way to a node is the route of the overlay to its pods', () => {
  const routes = [
    route('10.244.2.0/24', 254, '10.244.2.0'),
    route('10.244.3.0/24', 254, '192.0.2.3', { onlink: false, dead: true }),
    route('10.244.4.0/24', 254, '192.0.2.9', { protocol: 4 }),
    route('10.244.5.0/24', 25_001, '10.244.5.0'),
  ];
  const to = (cidr: string) => wayTo({ podCidrs: [parseCidr(cidr)] }, 4, routes);
  assert.deepEqual(to('10.244.2.0/24'), way('10.244.2.0'));
  assert.equal(to('10.244.3.0/24'), undefined, 'its link is down');
  assert.equal(to('10.244.4.0/24'), undefined, "somebody else's");
  assert.equal(to('10.244.5.0/24'), undefined, 'not in table main');
  assert.equal(to('fd00::/64'), undefined);
});

test('a node keeps its number as long as its way is the same, and a new one does not take a number in use', () => {
  const ways = new Map([
    ['a', way('10.244.1.0')],
    ['b', way('10.244.2.0')],
    ['c', way('10.244.3.0')],
  ]);
  const there = [route('0.0.0.0/0', 25_002, '10.244.2.0'), route('0.0.0.0/0', 25_001, '10.244.9.0')];
  const numbers = [...placeSlots(4, ways, there).values()].map(({ node, number }) => [node, number]);
  assert.deepEqual(
    new Map(numbers as [string, number][]),
    new Map([
      ['b', 2],
      ['a', 3],
      ['c', 4],
    ]),
  );
});

test('there are 126 numbers, and who gets none has none', () => {
  const ways = new Map(
    Array.from({ length: 130 }, (_, at) => [`n${String(at).padStart(3, '0')}`, way(`10.9.${at}.1`)]),
  );
  const slots = [...placeSlots(4, ways, []).values()];
  assert.equal(slots.length, 126);
  assert.equal(new Set(slots.map(({ number }) => number)).size, 126);
});

test('a slot is a rule and a table; both stand before packets are marked', () => {
  assert.deepEqual(text([slot(1, 'b', '10.244.2.0'), slot(1, 'b', 'fd00:2::', 6)], [], []), {
    before: [
      'ip route replace 0.0.0.0/0 via 10.244.2.0 dev if3 onlink table 25001 proto 250',
      'ip rule add priority 1250 from all fwmark 0x1000000/0x7f000000 lookup 25001 protocol 250',
      'ip -6 route replace ::/0 via fd00:2:: dev if3 onlink table 25001 proto 250 metric 1024',
      'ip -6 rule add priority 1250 from all fwmark 0x1000000/0x7f000000 lookup 25001 protocol 250',
    ],
    after: [],
  });
});

test('what stands is left alone, what leads elsewhere is put right, what nobody wants goes', () => {
  const routes = [route('0.0.0.0/0', 25_001, '10.244.2.0'), route('0.0.0.0/0', 25_002, '10.244.3.0')];
  const rules = [rule(1, { from: parseCidr('0.0.0.0/0') }), rule(2)];
  assert.deepEqual(text([slot(1, 'b', '10.244.2.0')], rules, routes), {
    before: [],
    after: [
      'ip rule del priority 1250 from all fwmark 0x2000000/0x7f000000 lookup 25002 protocol 250',
      'ip route del 0.0.0.0/0 via 10.244.3.0 dev if3 onlink table 25002 proto 250',
    ],
  });
  assert.deepEqual(text([slot(1, 'b', '192.0.2.2')], rules.slice(0, 1), routes.slice(0, 1)).before, [
    'ip route replace 0.0.0.0/0 via 192.0.2.2 dev if3 onlink table 25001 proto 250',
  ]);
});

test("nobody else's rules and routes are touched", () => {
  const foreign = [rule(1, { protocol: 4 }), rule(3, { table: 254 }), rule(4, { table: 52 })];
  const routes = [
    route('0.0.0.0/0', 25_001, '10.0.0.1', { protocol: 4 }),
    route('10.244.2.0/24', 254, '10.244.2.0'),
  ];
  assert.deepEqual(text([], foreign, routes), { before: [], after: [] });
});
