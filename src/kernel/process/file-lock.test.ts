import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { lockFile } from './file-lock.ts';

test('lockFile() has one owner at a time, names it to others, and outlives a deleted file', () => {
  const folder = mkdtempSync(join(tmpdir(), 'lock-'));
  const path = join(folder, 'a.lock');
  try {
    const first = lockFile(path);
    assert.ok(first.held);
    assert.equal(statSync(path).mode & 0o777, 0o600);
    assert.equal(readFileSync(path, 'utf8'), String(process.pid));
    // flock belongs to the open file, so this process meets its own lock as another would.
    assert.deepEqual(lockFile(path), { held: false, pid: process.pid });
    first.release();
    first.release();
    const second = lockFile(path);
    assert.ok(second.held, 'free again, although the file is there');
    rmSync(path);
    const third = lockFile(path);
    assert.ok(third.held, 'a new file is a new lock');
    second.release();
    third.release();
  } finally {
    rmSync(folder, { recursive: true });
  }
});
