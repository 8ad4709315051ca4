import assert from 'node:assert/strict';
import test from 'node:test';
import type { LedgerPort } from './ledger.ts';
import { PortChanges } from './port-changes.ts';

const port = (slots: number) => ({ slots }) as unknown as LedgerPort;

test('what could not be written yet is one change a port: from what the kernel has to what is wanted now', () => {
  const changes = new PortChanges();
  const [first, second, third] = [port(1), port(2), port(3)];
  changes.add('a', { before: first, after: second });
  changes.add('a', { before: second, after: third });
  changes.add('b', { before: undefined, after: first });
  assert.deepEqual(changes.all, [
    { before: first, after: third },
    { before: undefined, after: first },
  ]);
  changes.add('a', { before: third, after: undefined });
  changes.add('b', { before: first, after: undefined });
  assert.deepEqual(changes.all, [{ before: first, after: undefined }], 'what came and went is nothing');
  changes.settle();
  assert.deepEqual(changes.all, []);
});
