import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { RefusedFlows, refusedFlow, serviceOf } from './refused-flows.ts';

const word = (value: number) => Uint8Array.of(value, value >>> 8, value >>> 16, value >>> 24);

test('words of the ring name the table that had no place, and the Service port by its number', () => {
  const header = readFileSync(new URL('../../../../bpf/include/lb_news.h', import.meta.url), 'utf8');
  const bits = (name: string) => Number(new RegExp(`define ${name} (\\w+)`).exec(header)![1]);
  for (const service of [0, 1, 77, 0x3fff_ffff]) {
    assert.deepEqual(refusedFlow(word(bits('LB_NEWS_REFUSED') + service)), { store: 'lb_flows', service });
    assert.deepEqual(refusedFlow(word(bits('LB_NEWS_REFUSED_NAT') + service)), {
      store: 'lb_nat_flows',
      service,
    });
  }
});

test('a word that places were taken, or one of no meaning, names nobody', () => {
  for (const value of [0, 5, 0xc000_0001]) assert.equal(refusedFlow(word(value)), undefined);
  for (let bytes = 0; bytes < 4; bytes++)
    assert.equal(refusedFlow(word(0x8000_0001).subarray(0, bytes)), undefined);
});

test('a Service is told once a second for each table, and nobody for a number that has gone', () => {
  let now = 0;
  const flows = new RefusedFlows(
    { lb_flows: { used: 8, limit: 9 }, lb_nat_flows: { used: 10, limit: 11 } },
    () => [
      ['default/web:http/TCP/ip4', { service: 4 }],
      ['default/web:http/TCP/ip6', { service: 5 }],
    ],
    () => now,
  );
  const read = (value: number) => flows.read(word(value));
  const nat = { service: 'default/web', store: 'lb_nat_flows', used: 10, limit: 11 };
  assert.deepEqual(read(0x8000_0004), nat);
  assert.equal(read(0x8000_0004), undefined);
  assert.deepEqual(read(0x4000_0004), { service: 'default/web', store: 'lb_flows', used: 8, limit: 9 });
  assert.deepEqual(read(0x8000_0005), nat);
  assert.equal(read(0x8000_0006), undefined);
  now = 1000;
  assert.deepEqual(read(0x8000_0004), nat);
});

test('keys of ports say whose they are, with and without a name of the port', () => {
  for (const [key, service] of [
    ['default/web:http/TCP/ip4', 'default/web'],
    ['default/web/UDP/ip6', 'default/web'],
    ['pod/default/web:8080-80/TCP/ip4', 'pod/default/web'],
    ['container/portolan/a1:53-53/UDP/ip4', 'container/portolan/a1'],
  ] as const)
    assert.equal(serviceOf(key), service);
});
