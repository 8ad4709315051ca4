import assert from 'node:assert/strict';
import test from 'node:test';
import { type Family, parseCidr, parseIp } from '../addr/index.ts';
import { isNetError } from '../errors/index.ts';
import type { Addr, Route } from '../kernel/rtnl/index.ts';
import { nodeAddresses } from './node-addresses.ts';

const LINK_SCOPE = 253;

const route = (destination: string, oif: number, more: Partial<Route> = {}): Route => {
  const cidr = parseCidr(destination);
  return { family: cidr.family, destination: cidr, oif, metric: 0, type: 'unicast', ...more } as Route;
};
const addr = (address: string, ifindex: number, scope = 0): Addr =>
  ({ address: parseIp(address), ifindex, scope }) as Addr;
const ask = (routes: Route[], addrs: Addr[], ...families: Family[]) =>
  nodeAddresses({ routes, addrs }, new Set(families)).map(String);

test('the address is that of the link of the default route, of each family', () => {
  const routes = [route('0.0.0.0/0', 2), route('::/0', 3), route('10.0.0.0/8', 4)];
  const addrs = [
    addr('10.0.0.1', 4),
    addr('192.0.2.1', 2),
    addr('192.0.2.2', 2),
    addr('fe80::1', 3, LINK_SCOPE),
    addr('2001:db8::1', 3),
  ];
  assert.deepEqual(ask(routes, addrs, 4, 6), ['192.0.2.1', '2001:db8::1']);
  assert.deepEqual(ask(routes, addrs, 6), ['2001:db8::1']);
});

test('of several default routes the one of the lowest metric counts, and its source if it names one', () => {
  const addrs = [addr('192.0.2.1', 2), addr('198.51.100.1', 3)];
  assert.deepEqual(
    ask([route('0.0.0.0/0', 2, { metric: 600 }), route('0.0.0.0/0', 3, { metric: 100 })], addrs, 4),
    ['198.51.100.1'],
  );
  const source = parseIp('203.0.113.7');
  assert.deepEqual(ask([route('0.0.0.0/0', 2, { source })], addrs, 4), ['203.0.113.7']);
});

test('a family without a default route, or with an address of the link only, is told by its name', () => {
  for (const [routes, addrs] of [
    [[], [addr('2001:db8::1', 2)]],
    [[route('::/0', 2, { type: 'unreachable' as Route['type'] })], [addr('2001:db8::1', 2)]],
    [[route('::/0', 2)], [addr('fe80::1', 2, LINK_SCOPE)]],
    [[route('::/0', 2)], [addr('2001:db8::1', 3)]],
  ] as [Route[], Addr[]][])
    assert.throws(
      () => ask(routes, addrs, 6),
      (error) => isNetError(error, 'AGENT_NO_ROUTE') && /IPv6/.test(error.message),
    );
});
