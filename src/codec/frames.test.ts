import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { encodeFrame, FrameReader, MAX_FRAME_BYTES } from './frames.ts';

test('frames come out as they went in, wherever the bytes are cut', () => {
  const frame = fc.record({ stream: fc.nat(255), payload: fc.uint8Array({ maxLength: 300 }) });
  fc.assert(
    fc.property(fc.array(frame, { maxLength: 8 }), fc.integer({ min: 1, max: 40 }), (frames, step) => {
      const bytes = Buffer.concat(frames.map(({ stream, payload }) => encodeFrame(stream, payload)));
      const reader = new FrameReader();
      const got = [];
      for (let at = 0; at < bytes.length; at += step) got.push(...reader.push(bytes.subarray(at, at + step)));
      assert.deepEqual(
        got.map(({ stream, payload }) => [stream, [...payload]]),
        frames.map(({ stream, payload }) => [stream, [...payload]]),
      );
    }),
  );
});

test('a frame that is too long is refused before it is gathered', () => {
  const head = Buffer.from([1, 0, 0, 0, 0]);
  head.writeUInt32BE(MAX_FRAME_BYTES + 1, 1);
  assert.throws(() => new FrameReader().push(head), RangeError);
  assert.throws(() => encodeFrame(0, Buffer.alloc(MAX_FRAME_BYTES + 1)), RangeError);
});
