import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { NAT_SLOTS } from './layout.ts';
import { NAT_LEVELS, setsOfPort, setsOfStep } from './nat-table.ts';

const header = readFileSync(new URL('../../../../bpf/include/lb_nat_table.h', import.meta.url), 'utf8');
const defined = (name: string) => Number(new RegExp(`define ${name} (\\d+)`).exec(header)![1]);

test('levels and places are those of the header, and bits of levels fit beside those of tries', () => {
  assert.equal(defined('LB_NAT_LEVELS'), NAT_LEVELS);
  assert.equal(defined('LB_NAT_SLOTS'), NAT_SLOTS);
  assert.ok(defined('LB_NAT_ALL_TRIES') + NAT_LEVELS <= 32);
});

test('steps add further ports first, then a level of all ports each', () => {
  assert.deepEqual(
    [0, 1, 2, 3, 9].map((step) => setsOfStep(16_384, step)),
    [0, 8_192, 32_768, 57_344, 204_800],
  );
  assert.deepEqual(
    [0, 1, 2].map((step) => setsOfStep(4, step)),
    [0, 2, 8],
  );
});

test('a port has one set a level in the range and one among the further ports, and shares none with its neighbours', () => {
  const ports = 16;
  assert.deepEqual(setsOfPort(ports, 13_616 + 3).slice(0, 4), [3, 16 + 3, 24 + 3, 24 + 16 + 3]);
  const all = new Set<number>();
  for (let port = 0; port < ports; port++)
    for (const [at, set] of setsOfPort(ports, 1_600 + port).entries()) {
      if (at % 2 === 0) assert.ok(!all.has(set));
      if (at % 2 === 0) all.add(set);
      assert.ok(set < ports + setsOfStep(ports, 1 + NAT_LEVELS));
    }
  assert.equal(all.size, ports * (1 + NAT_LEVELS));
});
