import assert from 'node:assert/strict';
import test from 'node:test';
import { type Family, parseIp } from '../../../addr/index.ts';
import type { NftEvent } from '../../../kernel/nft/index.ts';
import { ElementWriter } from '../../../kernel/nft/set-element.ts';
import { Damage } from './damage.ts';
import { LAYOUTS, TABLE } from './layout.ts';

const about = (event: Partial<NftEvent>): NftEvent => ({
  subject: 'rule',
  deleted: false,
  family: 'ip',
  table: TABLE,
  ...event,
});

/** As the kernel tells of a deleted frontend. */
function frontend(family: Family, address: string, port: number): NftEvent {
  const writer = new ElementWriter(LAYOUTS[family].sets.vips);
  writer.add({ key: [parseIp(address), 6, port] }, true);
  return about({
    subject: 'element',
    deleted: true,
    family: family === 4 ? 'ip' : 'ip6',
    name: 'vips',
    elements: writer.take(),
  });
}

const keys = (damage: Damage, family: Family) => [...(damage.sets(family).get('vips')?.keys() ?? [])];

test('chains are named, and elements by their keys, each in its family', () => {
  const damage = new Damage();
  assert.ok(damage.isEmpty);
  assert.ok(damage.add(about({ name: 'services' })));
  assert.ok(damage.add(frontend(4, '10.96.0.1', 80)));
  assert.ok(damage.add(frontend(4, '10.96.0.2', 443)));
  assert.ok(damage.add(frontend(6, 'fd00:10:96::1', 80)));
  assert.deepEqual([...damage.names(4)], ['services', 'vips']);
  assert.deepEqual([...damage.names(6)], ['vips']);
  assert.deepEqual([...damage.sets(4).keys()], ['vips']);
  assert.deepEqual(keys(damage, 4), ['vips 10.96.0.1 6 80', 'vips 10.96.0.2 6 443']);
  assert.deepEqual(keys(damage, 6), ['vips fd00:10:96::1 6 80']);
});

test('of a whole table nothing is known, and of another family nothing matters', () => {
  assert.equal(new Damage().add(about({ subject: 'table', deleted: true })), false);
  const damage = new Damage();
  assert.ok(damage.add(about({ family: 'inet', name: 'services' })));
  assert.ok(damage.isEmpty);
});

test('a set that was changed itself, whose keys cannot be read, or with very many is read as a whole', () => {
  const cases: readonly (readonly NftEvent[])[] = [
    [about({ subject: 'set', name: 'vips' }), frontend(4, '10.96.0.1', 80)],
    [frontend(4, '10.96.0.1', 80), about({ subject: 'element', name: 'vips' })],
    [
      about({
        subject: 'element',
        name: 'vips',
        elements: Uint8Array.of(12, 0, 1, 128, 1, 2, 3, 4, 5, 6, 7, 8),
      }),
    ],
    [about({ subject: 'element', name: 'vips', elements: Uint8Array.of(200, 0, 1, 128, 1) })],
    [about({ subject: 'element', name: 'allowed', elements: new Uint8Array(0) })],
    Array.from({ length: 1001 }, (_, port) => frontend(4, '10.96.0.1', port)),
  ];
  for (const events of cases) {
    const damage = new Damage();
    for (const event of events) damage.add(event);
    const sets = damage.sets(4);
    assert.equal(sets.size, 1);
    for (const found of sets.values()) assert.equal(found, undefined);
  }
});

test('what is merged is both, and stays apart from what it came from', () => {
  const [first, second] = [new Damage(), new Damage()];
  first.add(frontend(4, '10.96.0.1', 80));
  second.add(frontend(4, '10.96.0.2', 80));
  second.add(about({ name: 'output' }));
  first.merge(second);
  first.add(frontend(4, '10.96.0.3', 80));
  assert.equal(keys(first, 4).length, 3);
  assert.deepEqual(keys(second, 4), ['vips 10.96.0.2 6 80']);
  second.add(about({ subject: 'set', name: 'vips' }));
  first.merge(second);
  assert.equal(first.sets(4).get('vips'), undefined);
  assert.ok(first.sets(4).has('vips'));
});
