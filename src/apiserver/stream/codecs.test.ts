import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createDeflate } from 'node:zlib';
import fc from 'fast-check';
import type { ByteLink } from './bytes.ts';
import {
  encodeControl,
  encodeData,
  FLAG_FIN,
  HeaderCodec,
  headerDictionary,
  readHeaders,
  SPDY,
  SpdyReader,
  writeHeaders,
} from './spdy-frames.ts';
import { SpdySession } from './spdy-session.ts';
import { acceptKey, encodeWebSocketFrame, OPCODE, WebSocketFault, WebSocketReader } from './websocket.ts';

/** A client's frame: as a server's, but masked. */
function masked(opcode: number, payload: Uint8Array, final = true): Buffer {
  const frame = encodeWebSocketFrame(opcode, payload);
  const headLength = frame.length - payload.length;
  const mask = Buffer.from([0x12, 0x34, 0x56, 0x78]);
  const body = Buffer.from(payload.map((byte, i) => byte ^ mask[i & 3]!));
  frame[0] = (final ? 0x80 : 0) | opcode;
  frame[1]! |= 0x80;
  return Buffer.concat([frame.subarray(0, headLength), mask, body]);
}

test('the handshake answers as RFC 6455 section 1.3 shows', () => {
  assert.equal(acceptKey('dGhlIHNhbXBsZSBub25jZQ=='), 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=');
});

test('WebSocket frames come out as they went in, wherever the bytes are cut', () => {
  const payload = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    fc.uint8Array({ minLength: 126, maxLength: 70_000 }),
  );
  fc.assert(
    fc.property(fc.array(payload, { maxLength: 4 }), fc.integer({ min: 1, max: 9_000 }), (payloads, step) => {
      const bytes = Buffer.concat(payloads.map((one) => masked(OPCODE.binary, one)));
      const reader = new WebSocketReader();
      const got = [];
      for (let at = 0; at < bytes.length; at += step) got.push(...reader.push(bytes.subarray(at, at + step)));
      assert.equal(got.length, payloads.length);
      for (const [i, frame] of got.entries()) assert.ok(frame.payload.equals(payloads[i]!));
    }),
    { numRuns: 40 },
  );
});

test('what is no frame of a client is refused with a code, and never waits for gigabytes', () => {
  const cases: [string, Buffer, number][] = [
    ['no mask', encodeWebSocketFrame(OPCODE.binary, Buffer.from('x')), 1002],
    ['a reserved bit', Buffer.from([0xc2, 0x80, 0, 0, 0, 0]), 1002],
    ['a long ping', Buffer.from([0x89, 0xfe, 0, 200]), 1002],
    ['2^40 bytes', Buffer.from([0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0]), 1009],
  ];
  for (const [name, bytes, code] of cases)
    assert.throws(
      () => new WebSocketReader().push(bytes),
      (error) => error instanceof WebSocketFault && error.code === code,
      name,
    );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      try {
        new WebSocketReader().push(bytes);
      } catch (error) {
        assert.ok(error instanceof WebSocketFault, String(error));
      }
    }),
  );
});

/** Adler-32, as zlib puts it into a stream that has a dictionary: RFC 1950. */
function adler32(bytes: Uint8Array): number {
  let [a, b] = [1, 0];
  for (const byte of bytes) {
    a = (a + byte) % 65_521;
    b = (b + a) % 65_521;
  }
  return ((b << 16) | a) >>> 0;
}

test('the dictionary is that of the draft', () => {
  assert.equal(headerDictionary().length, 1423);
  assert.equal(adler32(headerDictionary()), 0xe3c6a7c2);
});

test('header blocks pass through both codecs in their order', async () => {
  const [inflate, deflate] = [new HeaderCodec('inflate'), new HeaderCodec('deflate')];
  const blocks = [
    { streamtype: 'error', port: '80' },
    {},
    { streamtype: 'data', port: '80', requestid: '0' },
  ];
  for (const headers of blocks)
    assert.deepEqual(
      { ...readHeaders(await inflate.convert(await deflate.convert(writeHeaders(headers)))) },
      headers,
    );
  inflate.close();
  deflate.close();
});

test('a header block that inflates to a mountain, or is none, is refused', async () => {
  const bomb = createDeflate({ dictionary: headerDictionary() });
  const parts: Buffer[] = [];
  bomb.on('data', (part: Buffer) => parts.push(part));
  bomb.end(Buffer.alloc(8 << 20));
  await new Promise((resolve) => bomb.on('end', resolve));
  for (const block of [Buffer.concat(parts), Buffer.from('no zlib at all')]) {
    const inflate = new HeaderCodec('inflate');
    await assert.rejects(inflate.convert(block));
    inflate.close();
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
      try {
        readHeaders(Buffer.from(bytes));
      } catch (error) {
        assert.ok(error instanceof RangeError, String(error));
      }
    }),
  );
});

test('SPDY frames come out as they went in, and foreign bytes are refused', () => {
  const data = fc.record({
    id: fc.integer({ min: 1, max: 0x7fff_ffff }),
    payload: fc.uint8Array({ maxLength: 99 }),
  });
  fc.assert(
    fc.property(fc.array(data, { maxLength: 6 }), fc.integer({ min: 1, max: 30 }), (frames, step) => {
      const bytes = Buffer.concat([
        encodeControl(SPDY.ping, 0, Buffer.alloc(4)),
        ...frames.map(({ id, payload }) => encodeData(id, FLAG_FIN, payload)),
      ]);
      const reader = new SpdyReader();
      const got = [];
      for (let at = 0; at < bytes.length; at += step) got.push(...reader.push(bytes.subarray(at, at + step)));
      assert.deepEqual(
        got.slice(1).map((frame) => [frame.kind === 'data' && frame.id, [...frame.payload]]),
        frames.map(({ id, payload }) => [id, [...payload]]),
      );
    }),
  );
  assert.throws(() => new SpdyReader().push(Buffer.from('\x80\x02GET / HTTP', 'latin1')), RangeError);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      try {
        new SpdyReader().push(bytes);
      } catch (error) {
        assert.ok(error instanceof RangeError, String(error));
      }
    }),
  );
});

/** A connection that keeps what is written to it. */
function memoryLink() {
  const written: Buffer[] = [];
  const gone = Promise.withResolvers<void>();
  let give: (bytes: Buffer) => Promise<void> = async () => {};
  const link: ByteLink = {
    closed: gone.promise,
    write: async (bytes) => void written.push(Buffer.from(bytes)),
    start: (onBytes) => {
      give = onBytes;
    },
    end: () => gone.resolve(),
    destroy: () => gone.resolve(),
  };
  return { link, written, give: (bytes: Buffer) => give(bytes), closed: gone.promise };
}

test('a session answers streams and pings, gives data to its stream, and ends on foreign bytes', async () => {
  const { link, written, give, closed } = memoryLink();
  const seen: string[] = [];
  const session = new SpdySession(link, (stream) => {
    stream.onData(
      (bytes) => void seen.push(`${stream.id} ${stream.headers['streamtype']} ${bytes ?? 'end'}`),
    );
  });
  const deflate = new HeaderCodec('deflate');
  const open = async (id: number, streamtype: string) => {
    const head = Buffer.alloc(10);
    head.writeUInt32BE(id, 0);
    const block = await deflate.convert(writeHeaders({ streamtype }));
    await give(encodeControl(SPDY.synStream, 0, Buffer.concat([head, block])));
  };
  await open(1, 'error');
  await open(3, 'data');
  await give(Buffer.concat([encodeData(3, 0, Buffer.from('abc')), encodeData(3, FLAG_FIN, Buffer.alloc(0))]));
  await give(encodeData(99, 0, Buffer.from('of nobody')));
  await give(encodeControl(SPDY.ping, 0, Buffer.from([0, 0, 0, 1])));
  // A number that was used is a fault of the client, and its compression still counts.
  await open(3, 'again');
  await open(5, 'later');
  assert.deepEqual(seen, ['3 data abc', '3 data end']);
  const types = new SpdyReader()
    .push(Buffer.concat(written))
    .map((frame) => frame.kind === 'control' && frame.type);
  assert.deepEqual(types, [SPDY.synReply, SPDY.synReply, SPDY.ping, SPDY.rstStream, SPDY.synReply]);
  await give(Buffer.from('GET / HTTP/1.1\r\n\r\n'));
  await give(Buffer.from('\x80\x09rubbish', 'latin1'));
  await closed;
  await session.closed;
  deflate.close();
});
