import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { parseCidr, parseIp } from '../addr/index.ts';
import type { Claim } from '../egress/index.ts';
import { type EgressSeen, egressSeenText, parseEgressSeen } from './egress-seen.ts';

const seen: EgressSeen = {
  namespaces: new Map([['shop', '192.0.2.50,fd00::50']]),
  nodes: [
    {
      name: 'node2',
      podCidrs: [parseCidr('10.244.2.0/24'), parseCidr('fd00:10:244:2::/64')],
      addresses: [parseIp('192.0.2.2')],
      claims: new Map<string, Claim>([
        ['192.0.2.50', 3],
        ['192.0.2.2', 'own'],
      ]),
    },
  ],
};

test('what was seen comes back as it was', () => {
  const back = parseEgressSeen(egressSeenText(seen, 'node1'), 'node1');
  assert.deepEqual(back?.namespaces, seen.namespaces);
  assert.equal(egressSeenText(back!, 'node1'), egressSeenText(seen, 'node1'));
});

test("another node's file, another version's and any other text are not believed", () => {
  const text = egressSeenText(seen, 'node1');
  assert.equal(parseEgressSeen(text, 'node2'), undefined);
  assert.equal(parseEgressSeen(text.replace('"version":1', '"version":2'), 'node1'), undefined);
  for (const junk of ['', 'x', '[]', '{}', text.slice(0, -9), text.replace('{"shop"', '{"shop":7,"x"')])
    assert.equal(parseEgressSeen(junk, 'node1'), undefined, junk);
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.json()), (each) => {
      assert.equal(parseEgressSeen(each, 'node1'), undefined);
    }),
  );
});

test('no part of a file that was cut is believed', () => {
  const text = egressSeenText(seen, 'node1').trimEnd();
  for (let at = 0; at < text.length; at++)
    assert.equal(parseEgressSeen(text.slice(0, at), 'node1'), undefined);
});
