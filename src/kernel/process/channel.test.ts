import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { AnswerSplitter } from './channel.ts';

test('AnswerSplitter finds the same answers however the bytes arrive', () => {
  const word = fc.string({ minLength: 1 }).filter((text) => !text.includes('\0'));
  const answers = fc.array(fc.array(word, { minLength: 1, maxLength: 4 }), { maxLength: 5 });
  fc.assert(
    fc.property(answers, fc.array(fc.nat(20)), (wanted, cuts) => {
      const bytes = Buffer.from(wanted.map((words) => `${words.join('\0')}\0\0`).join(''));
      const splitter = new AnswerSplitter();
      const found: string[][] = [];
      let at = 0;
      for (const cut of [...cuts, bytes.length]) {
        found.push(...splitter.push(bytes.subarray(at, at + cut)));
        at += cut;
      }
      assert.deepEqual(found, JSON.parse(JSON.stringify(wanted)));
    }),
  );
});

test('AnswerSplitter refuses an answer without end', () => {
  assert.throws(() => new AnswerSplitter().push(Buffer.alloc(70_000, 'x')), RangeError);
});
