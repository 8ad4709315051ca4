import assert from 'node:assert/strict';
import test from 'node:test';
import { age, bytes, table, width } from './output.ts';

test('table() aligns columns by what a terminal shows, colour codes left out', () => {
  assert.equal(
    table(
      ['NAME', 'STATE'],
      [
        ['a', '\x1b[32mok\x1b[0m'],
        ['longer', 'failed'],
      ],
    ),
    'NAME     STATE\na        \x1b[32mok\x1b[0m\nlonger   failed',
  );
  assert.equal(table(['NAME', 'STATE'], []), 'NAME   STATE');
  assert.equal(width('\x1b[1mabc\x1b[0m'), 3);
});

test('age() speaks in the unit that a person would', () => {
  const at = Date.parse('2026-01-10T00:00:00Z');
  assert.equal(age('2026-01-09T23:59:15Z', at), '45s');
  assert.equal(age('2026-01-09T23:30:00Z', at), '30m');
  assert.equal(age('2026-01-09T20:00:00Z', at), '4h');
  assert.equal(age('2026-01-01T00:00:00Z', at), '9d');
  assert.equal(age(undefined, at), '<unknown>');
});

test('bytes() uses binary units', () => {
  assert.equal(bytes(512), '512 B');
  assert.equal(bytes(1.5 * 1024 * 1024), '1.5 MiB');
});
