import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { inOnePiece } from './text.ts';

test('a text in one piece is the same text, whatever is in it', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => assert.equal(inOnePiece(`${text}/x`), `${text}/x`)),
  );
});
