import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { IpAddress, parseIp } from '../../addr/index.ts';
import { isNetError } from '../../errors/index.ts';
import { typesOf } from './datum.ts';
import {
  ElementWriter,
  formatKey,
  joinIntervals,
  type NftElement,
  type NftSet,
  type RawElement,
  readElements,
} from './set-element.ts';

const IPV4 = 7;
const PROTO = 12;
const PORT = 13;
const address = typesOf(IPV4)!;
const endpoint = typesOf((IPV4 << 6) | PORT)!;
const frontend = typesOf((IPV4 << 12) | (PROTO << 6) | PORT)!;

function set(part: Partial<NftSet>): NftSet {
  return {
    family: 'ip',
    table: 't',
    name: 's',
    key: address,
    data: undefined,
    interval: false,
    timeoutMs: undefined,
    ...part,
  };
}

function roundTrip(description: NftSet, elements: NftElement[]): NftElement[] {
  const writer = new ElementWriter(description);
  for (const element of elements) writer.add(element);
  const raw: RawElement[] = [];
  readElements(description, writer.take(), raw);
  return joinIntervals(description, raw);
}

function shown(elements: readonly NftElement[]): string[] {
  return elements.map((element) => {
    const { data, timeoutMs, comment } = element;
    const value =
      data === undefined
        ? ''
        : 'verdict' in data
          ? ` : ${Object.values(data).join(' ')}`
          : ` : ${data.join(' . ')}`;
    return `${formatKey(element)}${timeoutMs === undefined ? '' : ` timeout ${timeoutMs}`}${comment === undefined ? '' : ` "${comment}"`}${value}`;
  });
}

test('an element of a map lies as nft lays it', () => {
  const writer = new ElementWriter(set({ key: endpoint, data: endpoint }));
  writer.add({ key: [parseIp('10.96.0.1'), 80], data: [parseIp('10.1.2.3'), 8080] });
  // LIST_ELEM 36 { KEY 16 { VALUE 12 }, DATA 16 { VALUE 12 } }; lengths in host order, values in network order
  assert.equal(
    Buffer.from(writer.take()).toString('hex'),
    '24000180' +
      '10000180' +
      '0c000100' +
      '0a600001' +
      '00500000' +
      '10000280' +
      '0c000100' +
      '0a010203' +
      '1f900000',
  );
});

test('elements of each shape are read back as written', () => {
  const verdicts = set({ key: frontend, data: 'verdict' });
  const cases: [NftSet, NftElement[]][] = [
    [set({}), [{ key: [parseIp('10.0.0.1')], comment: 'default/web', timeoutMs: 60_000 }]],
    [
      set({ key: endpoint, data: endpoint }),
      [{ key: [parseIp('10.96.0.1'), 80], data: [parseIp('10.1.1.1'), 1] }],
    ],
    [
      verdicts,
      [
        { key: [parseIp('10.96.0.1'), 6, 80], data: { verdict: 'goto', chain: 'svc-1' } },
        { key: [parseIp('10.96.0.2'), 17, 53], data: { verdict: 'drop' } },
        { key: [parseIp('10.96.0.3'), 17, 53], data: { verdict: 'return' } },
      ],
    ],
    [
      set({ key: endpoint, interval: true }),
      [{ key: [parseIp('10.0.0.0'), 1], keyEnd: [parseIp('10.0.0.9'), 2] }],
    ],
  ];
  for (const [description, elements] of cases)
    assert.deepEqual(shown(roundTrip(description, elements)), shown(elements));
});

test('intervals that touch, single values and the highest value survive', () => {
  const intervals = set({ interval: true });
  const elements: NftElement[] = [
    { key: [parseIp('10.0.0.0')], keyEnd: [parseIp('10.0.0.255')] },
    { key: [parseIp('10.0.1.0')], keyEnd: [parseIp('10.0.1.7')] },
    { key: [parseIp('10.0.2.9')] },
    { key: [parseIp('255.255.255.0')], keyEnd: [parseIp('255.255.255.255')] },
  ];
  assert.deepEqual(shown(roundTrip(intervals, elements)), [
    '10.0.0.0-10.0.0.255',
    '10.0.1.0-10.0.1.7',
    '10.0.2.9',
    '255.255.255.0-255.255.255.255',
  ]);
  // The kernel may list parts in any order.
  const writer = new ElementWriter(intervals);
  for (const element of elements) writer.add(element);
  const raw: RawElement[] = [];
  readElements(intervals, writer.take(), raw);
  assert.deepEqual(shown(joinIntervals(intervals, raw.reverse())), shown(elements));
});

test('values that do not belong into a set are refused with its type', () => {
  const refused = (description: NftSet, element: NftElement, message: RegExp) =>
    assert.throws(
      () => new ElementWriter(description).add(element),
      (error) => isNetError(error, 'NFT_VALUE_INVALID') && message.test(error.message),
    );
  refused(set({}), { key: [parseIp('::1')] }, /ipv4_addr: want an IPv4 address/);
  refused(
    set({ key: endpoint }),
    { key: [parseIp('10.0.0.1'), 65536] },
    /inet_service: want a number below 65536/,
  );
  refused(set({ key: endpoint }), { key: [parseIp('10.0.0.1')] }, /ipv4_addr . inet_service: want 2 parts/);
  refused(set({}), { key: [parseIp('10.0.0.1')], data: [1] }, /a set has no data/);
  refused(set({ data: address }), { key: [parseIp('10.0.0.1')] }, /a map needs data/);
  refused(set({}), { key: [parseIp('10.0.0.1')], comment: 'x'.repeat(128) }, /longer than 127 bytes/);
});

test('readElements() survives cut and random bytes', () => {
  const description = set({ key: endpoint, data: 'verdict', interval: true });
  const writer = new ElementWriter(description);
  writer.add({
    key: [parseIp('10.96.0.1'), 80],
    keyEnd: [parseIp('10.96.0.2'), 90],
    data: { verdict: 'jump', chain: 'web' },
    comment: 'c',
    timeoutMs: 5,
  });
  const whole = writer.take();
  const survives = (bytes: Uint8Array) => {
    try {
      const raw: RawElement[] = [];
      readElements(description, bytes, raw);
      joinIntervals(description, raw);
    } catch (error) {
      if (!isNetError(error, 'NETLINK_MALFORMED') && !isNetError(error, 'NFT_VALUE_INVALID')) throw error;
    }
  };
  for (let length = 0; length < whole.length; length++) survives(whole.subarray(0, length));
  for (let at = 0; at < whole.length; at++)
    for (const value of [0, 1, 255, whole[at]! ^ 0x10]) {
      const broken = whole.slice();
      broken[at] = value;
      survives(broken);
    }
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), survives), { numRuns: 300 });
});

test('any set of intervals that do not overlap is read back', () => {
  const intervals = set({ interval: true });
  const cuts = fc.uniqueArray(fc.nat(1000), { minLength: 2, maxLength: 40 });
  fc.assert(
    fc.property(cuts, (list) => {
      const sorted = [...list].sort((a, b) => a - b);
      const elements: NftElement[] = [];
      for (let at = 0; at + 1 < sorted.length; at += 2)
        elements.push({ key: [IpAddress.v4(sorted[at]!)], keyEnd: [IpAddress.v4(sorted[at + 1]! - 1)] });
      assert.deepEqual(shown(roundTrip(intervals, elements)), shown(elements));
    }),
    { numRuns: 100 },
  );
});
