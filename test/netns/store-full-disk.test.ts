/** A file system that is really full, in a mount namespace of its own: nothing else sees it, and it goes with it. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

const mayUnshare = spawnSync('unshare', ['-m', 'true']).status === 0;

test('a full disk refuses writes as STORE_FULL, keeps what was acknowledged, and recovers', {
  skip: mayUnshare ? false : 'needs root for a mount namespace',
}, () => {
  const directory = mkdtempSync(join(tmpdir(), 'portolan-full-'));
  const program = new URL('../lib/full-disk.ts', import.meta.url).pathname;
  try {
    const script = 'mount -t tmpfs -o size=4m tmpfs "$1" && exec "$2" "$3" "$1"';
    const output = execFileSync(
      'unshare',
      ['-m', 'sh', '-c', script, 'sh', directory, process.execPath, program],
      { encoding: 'utf8' },
    );
    assert.match(output, /^acknowledged [1-9]\d+$/m);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});
