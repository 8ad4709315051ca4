import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { parseCidr } from '../addr/index.ts';
import { claimsText, readClaims, readWish } from './annotation.ts';
import type { Claim } from './types.ts';

const cluster = ['10.244.0.0/16', '10.96.0.0/16', 'fd00:10:244::/56'].map(parseCidr);

test('an annotation names one address a family, in any order', () => {
  const cases: [string, string | undefined, string | undefined][] = [
    ['192.0.2.50', '192.0.2.50', undefined],
    ['192.0.2.50,fd00::50', '192.0.2.50', 'fd00::50'],
    [' FD00:0::50 , 192.0.2.50 ', '192.0.2.50', 'fd00::50'],
  ];
  for (const [text, v4, v6] of cases) {
    const { addresses, problem } = readWish('shop', text, cluster);
    assert.equal(problem, undefined, text);
    assert.deepEqual(
      [addresses[4], addresses[6]].map((each) => each && String(each)),
      [v4, v6],
      text,
    );
  }
});

test('what nobody outside could answer to is wrong, and so is what says nothing', () => {
  const cases: [string, RegExp][] = [
    ['', /is empty/],
    [' ', /is empty/],
    ['192.0.2.50;fd00::50', /no IP address/],
    ['192.0.2.0/24', /no IP address/],
    ['192.0.2.50,', /no IP address/],
    ['192.0.2.50,192.0.2.51', /two IPv4 addresses/],
    ['10.244.3.4', /is in 10\.244\.0\.0\/16, a network of pods or Services/],
    ['10.96.0.10', /a network of pods or Services/],
    ['fd00:10:244:5::1', /a network of pods or Services/],
    ['127.0.0.1', /hosts outside/],
    ['169.254.1.1', /hosts outside/],
    ['0.0.0.0', /hosts outside/],
    ['224.0.0.1', /hosts outside/],
    ['fe80::1', /hosts outside/],
    ['ff02::1', /hosts outside/],
    ['::', /hosts outside/],
    ['192.0.2.50'.repeat(30), /300 characters/],
  ];
  for (const [text, why] of cases) {
    const wish = readWish('shop', text, cluster);
    assert.match(wish.problem ?? '', why, text);
    assert.deepEqual(wish.addresses, {}, text);
  }
});

test('any text is an annotation that is read or refused, and never throws', () => {
  const text = fc.oneof(
    fc.string(),
    fc
      .array(fc.oneof(fc.ipV4(), fc.ipV6(), fc.string({ maxLength: 4 })), { maxLength: 4 })
      .map((list) => list.join()),
  );
  fc.assert(
    fc.property(text, (each) => {
      const { addresses, problem } = readWish('x', each, cluster);
      assert.equal(problem === undefined, addresses[4] !== undefined || addresses[6] !== undefined);
    }),
  );
});

test('claims come back as they were written', () => {
  const claim = fc.oneof(fc.constant('own' as const), fc.integer({ min: 1, max: 1e9 }));
  fc.assert(
    fc.property(fc.dictionary(fc.ipV4(), claim), (value) => {
      const claims = new Map<string, Claim>(Object.entries(value));
      assert.deepEqual(new Map([...readClaims(claimsText(claims))].sort()), new Map([...claims].sort()));
    }),
  );
});

test('of a text that is no list of claims nothing is believed', () => {
  for (const text of [
    undefined,
    '',
    'x',
    '[]',
    'null',
    '7',
    '{"a":1}',
    '{"192.0.2.1":0}',
    '{"192.0.2.1":1.5}',
    '{"192.0.2.1":"mine"}',
  ])
    assert.equal(readClaims(text).size, 0, text);
  fc.assert(fc.property(fc.oneof(fc.string(), fc.json()), (text) => assert.ok(readClaims(text).size >= 0)));
});
