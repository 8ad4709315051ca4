import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { isNetError } from '../errors/net-error.ts';
import { LineSplitter, parseWatchLine } from './watch-stream.ts';

test('lines come out the same wherever the connection cuts them, even within a UTF-8 sequence', () => {
  const line = fc.string({ unit: 'grapheme' }).map((text) => text.replace(/\n/g, ' '));
  fc.assert(
    fc.property(fc.array(line, { maxLength: 8 }), fc.array(fc.nat(), { maxLength: 20 }), (lines, cuts) => {
      const bytes = Buffer.from(lines.map((text) => `${text}\n`).join(''), 'utf8');
      const at = [...new Set([0, ...cuts.map((cut) => cut % (bytes.length + 1)), bytes.length])].sort(
        (a, b) => a - b,
      );
      const splitter = new LineSplitter('GET /x');
      const got: string[] = [];
      for (let i = 0; i + 1 < at.length; i++) got.push(...splitter.push(bytes.subarray(at[i], at[i + 1])));
      assert.deepEqual(
        got,
        lines.map((text) => Buffer.from(text).toString('utf8')),
      );
      assert.equal(splitter.pendingBytes, 0);
    }),
  );
});

test('a line over the limit is refused as soon as it is too long, whole or in pieces', () => {
  for (const pieces of [['x'.repeat(20)], ['xxxxx', 'xxxxx', 'x']]) {
    const splitter = new LineSplitter('GET /x', 10);
    assert.throws(
      () => pieces.map((piece) => splitter.push(Buffer.from(piece))),
      (error) => isNetError(error, 'CLIENT_LINE_TOO_LONG'),
    );
  }
  assert.deepEqual(new LineSplitter('GET /x', 10).push(Buffer.from('0123456789\n')), ['0123456789']);
});

test('an event is decoded; anything else is refused with CLIENT_BAD_RESPONSE', () => {
  const event = { type: 'ADDED', object: { metadata: { name: 'a', resourceVersion: '7' } } };
  assert.deepEqual(parseWatchLine('GET /x', JSON.stringify(event)), event);
  const bad = [
    '{',
    'null',
    '[]',
    '1',
    '{"type":"ADDED"}',
    '{"type":"BORN","object":{"metadata":{"resourceVersion":"1"}}}',
    '{"type":"ADDED","object":null}',
    '{"type":"ADDED","object":{}}',
    '{"type":"ADDED","object":{"metadata":{"resourceVersion":7}}}',
  ];
  for (const line of bad)
    assert.throws(
      () => parseWatchLine('GET /x', line),
      (error) => isNetError(error, 'CLIENT_BAD_RESPONSE'),
      line,
    );
});

test('random bytes never crash the decoder in another way than with its own error', () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.json()), (line) => {
      try {
        parseWatchLine('GET /x', line);
      } catch (error) {
        assert.ok(isNetError(error, 'CLIENT_BAD_RESPONSE'));
      }
    }),
  );
});
