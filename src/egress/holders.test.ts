import assert from 'node:assert/strict';
import test from 'node:test';
import { parseIp } from '../addr/index.ts';
import { holderOf, movableAddresses, ownClaims } from './holders.ts';
import type { Claim, Role, Wish } from './types.ts';

const A = '192.0.2.50';
const node = (name: string, claim: Claim | undefined, addresses: string[] = []) => ({
  name,
  addresses: addresses.map(parseIp),
  claims: new Map(claim === undefined ? [] : [[A, claim]]),
});
const wish = (namespace: string, v4: string): Wish => ({ namespace, addresses: { 4: parseIp(v4) } });

test('an address on a link beats every election, of elections the latest counts, then the lesser name', () => {
  const cases: [string, ReturnType<typeof node>[], string | undefined][] = [
    ['nobody', [node('a', undefined)], undefined],
    ['one', [node('a', undefined), node('b', 3)], 'b'],
    ['one that died tells it still', [node('a', 3), node('b', 4)], 'b'],
    ['a link', [node('a', 9), node('b', 'own')], 'b'],
    ['two links', [node('b', 'own'), node('a', 'own')], 'a'],
    ['the same number', [node('b', 4), node('a', 4)], 'a'],
  ];
  for (const [what, nodes, holder] of cases) {
    assert.equal(holderOf(A, nodes)?.node, holder, what);
    assert.equal(holderOf(A, nodes.reverse())?.node, holder, what);
  }
  assert.deepEqual(holderOf(A, [node('b', 'own'), node('a', 'own')])?.others, ['b']);
});

test('who is elected tells a number above all that are told, once', () => {
  const claims = (role: Role, mine: Claim | undefined, others: (Claim | undefined)[], local: string[] = []) =>
    ownClaims({
      wishes: [wish('shop', A)],
      local: new Set(local),
      role: () => role,
      before: new Map(mine === undefined ? [] : [[A, mine]]),
      others: others.map((claim) => node('x', claim)),
    }).get(A);
  assert.equal(claims('leader', undefined, []), 1);
  assert.equal(claims('leader', undefined, [7, 3]), 8);
  assert.equal(claims('leader', 8, [7, 3]), 8, 'a number that is high enough stays');
  assert.equal(claims('leader', 7, [7]), 8);
  assert.equal(claims(undefined, 8, [7]), undefined, 'another node leads');
  assert.equal(claims('keeper', 8, [9]), 8, 'who cannot ask does not raise');
  assert.equal(claims('undecided', 8, [7]), 8, 'an agent that starts holds on');
  assert.equal(claims('undecided', 8, [9]), undefined, 'unless another one took it meanwhile');
  assert.equal(claims('undecided', undefined, []), undefined);
  assert.equal(claims(undefined, undefined, [4], [A]), 'own');
  assert.equal(claims('leader', 'own', [4]), 5, 'the address has left the link');
});

test('what nobody asks for is not claimed', () => {
  const none = ownClaims({
    wishes: [],
    local: new Set([A]),
    role: () => 'leader',
    before: new Map([[A, 4]]),
    others: [],
  });
  assert.equal(none.size, 0);
});

test('nodes elect a holder for addresses that no node has', () => {
  const wishes = [
    wish('a', A),
    wish('b', A),
    wish('c', '192.0.2.2'),
    wish('d', '192.0.2.3'),
    wish('e', '192.0.2.4'),
  ];
  const nodes = [
    node('x', undefined, ['192.0.2.2']),
    { ...node('y', undefined), claims: new Map([['192.0.2.3', 'own' as const]]) },
  ];
  assert.deepEqual([...movableAddresses(wishes, nodes, new Set(['192.0.2.4']))], [[A, ['a', 'b']]]);
});
