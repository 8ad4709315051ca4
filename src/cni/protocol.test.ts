import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { isNetError } from '../errors/net-error.ts';
import { decodeAnswer, decodeCall, encodeAnswer, encodeCall } from './protocol.ts';

const isRefused = (error: unknown) => isNetError(error, 'CNI_FRAME_MALFORMED');

test('a call is read as it was written', () => {
  const name = fc.stringMatching(/^CNI_[A-Z]{1,10}$/);
  const value = fc.string({ unit: 'grapheme' }).filter((text) => !text.includes('\0'));
  fc.assert(
    fc.property(
      fc.dictionary(name, value, { maxKeys: 20 }),
      fc.uint8Array({ maxLength: 200 }),
      (env, stdin) => {
        const { env: read, stdin: rest } = decodeCall(encodeCall(env, stdin));
        assert.deepEqual(Object.fromEntries(read), { ...env });
        assert.deepEqual(Buffer.from(rest), Buffer.from(stdin));
      },
    ),
  );
});

test('a call cut inside its environment is refused at each offset, one cut inside its input is shorter', () => {
  const whole = encodeCall({ CNI_COMMAND: 'ADD', CNI_IFNAME: 'eth0' }, '{"a":1}');
  const inputAt = whole.length - 7;
  for (let cut = 0; cut < inputAt; cut++) assert.throws(() => decodeCall(whole.subarray(0, cut)), isRefused);
  for (let cut = inputAt; cut <= whole.length; cut++)
    assert.equal(decodeCall(whole.subarray(0, cut)).stdin.length, cut - inputAt);
});

test('any bytes are either a call or CNI_FRAME_MALFORMED', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      try {
        for (const name of decodeCall(bytes).env.keys()) assert.match(name, /^CNI_/);
      } catch (error) {
        assert.ok(isRefused(error), String(error));
      }
    }),
  );
  const many = Object.fromEntries(Array.from({ length: 65 }, (_, index) => [`CNI_${index}`, '']));
  assert.throws(() => decodeCall(encodeCall(many, '')), isRefused);
  assert.throws(() => decodeCall(Buffer.from('HOME=/root\0\0')), isRefused);
  assert.throws(() => decodeCall(Buffer.from([0x43, 0x4e, 0x49, 0x5f, 0x3d, 0xff, 0, 0])), isRefused);
});

test('an answer that is cut or too long is none', () => {
  const whole = encodeAnswer({ status: 1, stdout: '{"code":7,"msg":"ü"}' });
  assert.deepEqual(decodeAnswer(whole), { status: 1, stdout: '{"code":7,"msg":"ü"}' });
  for (let cut = 0; cut < whole.length; cut++)
    assert.throws(() => decodeAnswer(whole.subarray(0, cut)), isRefused);
  assert.throws(() => decodeAnswer(Buffer.concat([whole, Buffer.from([0])])), isRefused);
});
