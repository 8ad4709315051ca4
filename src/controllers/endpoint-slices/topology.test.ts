import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { cpuByZone, shareOut } from './topology.ts';

/** `aab` are three endpoints, two in zone a; the answer is the zone of each hint, in the same order. */
function hints(zones: string, cpu: Record<string, number>): string {
  const endpoints = [...zones].map((zone, at) => ({
    key: String(at).padStart(3, '0'),
    zone: zone === '-' ? '' : zone,
  }));
  const out = shareOut(endpoints, new Map(Object.entries(cpu)));
  return out ? endpoints.map(({ key }) => out.get(key)).join('') : 'none';
}

const EVEN = { a: 4000, b: 4000, c: 4000 };

test('endpoints are meant for their own zone where that overloads nobody, and else as few as possible for another', () => {
  for (const [zones, cpu, want] of [
    ['abc', EVEN, 'abc'],
    ['abcabc', EVEN, 'abcabc'],
    ['aaaabc', EVEN, 'aabcbc'],
    ['aaa', EVEN, 'abc'],
    ['aaaaaabc', { a: 4000, b: 2000, c: 2000 }, 'aaaabcbc'],
    // 12 and 10 of 22: ten carry 10 % more than their share, which is allowed.
    [`${'a'.repeat(12)}${'b'.repeat(10)}`, { a: 1, b: 1 }, `${'a'.repeat(12)}${'b'.repeat(10)}`],
    // A zone without nodes that count has endpoints all the same; others use them.
    ['aabbd', { a: 2000, b: 2000 }, 'none'],
    ['aabbbd', { a: 2000, b: 2000 }, 'aabbba'],
  ] as const)
    assert.equal(hints(zones, cpu), want, `${zones} ${JSON.stringify(cpu)}`);
});

test('where zones cannot be served alone there are no hints', () => {
  for (const [zones, cpu, why] of [
    ['aaa', { a: 4000 }, 'one zone'],
    ['ab', EVEN, 'fewer endpoints than zones'],
    [
      'aab',
      { a: 4000, b: 4000 },
      'three for two equal zones: one endpoint would get a third more than its share',
    ],
    ['ab-', EVEN, 'an endpoint without a zone'],
  ] as const)
    assert.equal(hints(zones, cpu), 'none', why);
  assert.equal(
    cpuByZone([
      { zone: 'a', cpuMillis: 1 },
      { zone: '', cpuMillis: 1 },
    ]),
    undefined,
  );
  assert.equal(cpuByZone([{ zone: 'a', cpuMillis: 0 }]), undefined);
  assert.deepEqual(
    [
      ...cpuByZone([
        { zone: 'a', cpuMillis: 1 },
        { zone: 'a', cpuMillis: 2 },
      ])!,
    ],
    [['a', 3]],
  );
});

test('whatever the zones: every endpoint has a hint or none has, and no zone is overloaded by more than 20 %', () => {
  const zone = fc.constantFrom('a', 'b', 'c', 'd');
  const cpus = fc.dictionary(zone, fc.integer({ min: 1, max: 64_000 }), { minKeys: 1 });
  fc.assert(
    fc.property(fc.array(zone, { maxLength: 60 }), cpus, (zones, cpu) => {
      const endpoints = zones.map((each, at) => ({ key: String(at), zone: each }));
      const map = new Map(Object.entries(cpu));
      const out = shareOut(endpoints, map);
      if (!out) return;
      assert.equal(out.size, zones.length);
      const total = [...map.values()].reduce((a, b) => a + b);
      for (const [name, millis] of map) {
        const count = [...out.values()].filter((each) => each === name).length;
        const load = millis / total / (count / zones.length);
        assert.ok(load <= 1.2 + 1e-9, `${name} has ${count} of ${zones.length} for ${millis} of ${total}`);
      }
    }),
  );
});
