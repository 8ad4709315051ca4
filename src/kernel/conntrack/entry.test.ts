import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { parseIp } from '../../addr/index.ts';
import { isNetError } from '../../errors/index.ts';
import { type ConntrackEntry, readEntry } from './entry.ts';
import { type ConntrackFilter, matches } from './index.ts';
import { isFrom, sendersOf } from './senders.ts';

/** An attribute: length and type in host order, the value padded. */
function attribute(type: number, ...parts: Uint8Array[]): Uint8Array {
  const value = Buffer.concat(parts);
  const bytes = new Uint8Array(4 + ((value.length + 3) & ~3));
  new DataView(bytes.buffer).setUint16(0, 4 + value.length, true);
  new DataView(bytes.buffer).setUint16(2, type, true);
  bytes.set(value, 4);
  return bytes;
}

function tuple(type: number, source: string, destination: string, ports: [number, number]): Uint8Array {
  const port = (value: number) => Uint8Array.of(value >> 8, value & 255);
  return attribute(
    0x8000 | type,
    attribute(0x8001, attribute(1, parseIp(source).toBytes()), attribute(2, parseIp(destination).toBytes())),
    attribute(
      0x8002,
      attribute(1, Uint8Array.of(17)),
      attribute(2, port(ports[0])),
      attribute(3, port(ports[1])),
    ),
  );
}

/** A DNS query to a Service, sent on to a backend. */
const DNS = Buffer.concat([
  Uint8Array.of(2, 0, 0, 0),
  tuple(1, '10.244.1.5', '10.96.0.10', [40000, 53]),
  tuple(2, '10.244.2.9', '10.244.1.5', [5353, 40000]),
  attribute(3, Uint8Array.of(0, 0, 1, 0x8e)),
  attribute(7, Uint8Array.of(0, 0, 0, 29)),
  attribute(8, Uint8Array.of(0, 0, 0x40, 0)),
  attribute(12, Uint8Array.of(1, 2, 3, 4)),
]);

/** The same of IPv6. */
const DNS6 = Buffer.concat([
  Uint8Array.of(10, 0, 0, 0),
  ...[
    [1, 'fd00::5', 'fd00:96::10'],
    [2, 'fd00:1::9', 'fd00::5'],
  ].map(([type, source, destination]) =>
    attribute(
      0x8000 | Number(type),
      attribute(
        0x8001,
        attribute(3, parseIp(String(source)).toBytes()),
        attribute(4, parseIp(String(destination)).toBytes()),
      ),
      attribute(0x8002, attribute(1, Uint8Array.of(58))),
    ),
  ),
]);

test('isFrom() knows who sent first and who answers, and nobody else', () => {
  const from = (body: Uint8Array, ...texts: string[]) => isFrom(body, sendersOf(texts.map(parseIp)));
  assert.equal(from(DNS, '10.244.1.5'), true);
  assert.equal(from(DNS, '192.0.2.1', '10.244.2.9'), true);
  assert.equal(from(DNS, '10.96.0.10', 'fd00::5'), false);
  assert.equal(from(DNS6, 'fd00::5'), true);
  assert.equal(from(DNS6, 'fd00:1::9'), true);
  assert.equal(from(DNS6, 'fd00:96::10'), false);
});

test('isFrom() reads any bytes, and misses nothing that readEntry() reads', () => {
  for (const body of [DNS, DNS6]) {
    const { original, reply } = readEntry(body)!;
    for (let length = 0; length <= body.length; length++) {
      const cut = body.subarray(0, length);
      let entry: ConntrackEntry | undefined;
      try {
        entry = readEntry(cut);
      } catch {
        // It is malformed, and no entry.
      }
      const found = isFrom(cut, sendersOf([original.source, reply.source]));
      if (entry) assert.equal(found, true, `cut at ${length}`);
    }
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (junk) => {
      isFrom(junk, sendersOf([parseIp('10.0.0.1')]));
    }),
  );
});

test('readEntry() reads both directions', () => {
  const entry = readEntry(DNS)!;
  const shown = ({
    source,
    sourcePort,
    destination,
    destinationPort,
    protocol,
  }: ConntrackEntry['original']) => `${protocol} ${source}:${sourcePort} > ${destination}:${destinationPort}`;
  assert.equal(shown(entry.original), '17 10.244.1.5:40000 > 10.96.0.10:53');
  assert.equal(shown(entry.reply), '17 10.244.2.9:5353 > 10.244.1.5:40000');
  assert.deepEqual(
    [entry.family, entry.mark, entry.timeoutSeconds, entry.id, entry.zone, entry.packets],
    [4, 0x4000, 29, 0x01020304, 0, undefined],
  );
});

test('readEntry() survives cut, changed and random bytes', () => {
  const survives = (bytes: Uint8Array) => {
    try {
      readEntry(bytes);
    } catch (error) {
      if (!isNetError(error, 'NETLINK_MALFORMED')) throw error;
    }
  };
  for (let length = 0; length < DNS.length; length++) survives(DNS.subarray(0, length));
  for (let at = 0; at < DNS.length; at++)
    for (const value of [0, 1, 4, 255]) {
      const broken = Uint8Array.from(DNS);
      broken[at] = value;
      survives(broken);
    }
  fc.assert(fc.property(fc.uint8Array({ maxLength: 150 }), survives), { numRuns: 300 });
});

test('matches() wants every part of a filter', () => {
  const entry = readEntry(DNS)!;
  const cases: [ConntrackFilter, boolean][] = [
    [{}, true],
    [{ protocol: 17, originalDestination: parseIp('10.96.0.10'), originalDestinationPort: 53 }, true],
    [{ protocol: 6, originalDestination: parseIp('10.96.0.10') }, false],
    [{ replySource: parseIp('10.244.2.9'), replySourcePort: 5353 }, true],
    [{ replySource: parseIp('10.244.2.9'), replySourcePort: 53 }, false],
    [{ originalSource: parseIp('10.244.1.6') }, false],
    [{ family: 6 }, false],
  ];
  for (const [filter, expected] of cases)
    assert.equal(matches(entry, filter), expected, JSON.stringify(filter));
});
