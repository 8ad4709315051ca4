import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

test('a first start that waits for another one says for whom, and gives up with a remedy', async () => {
  const root = mkdtempSync(join(tmpdir(), 'portolan-setup-'));
  mkdirSync(join(root, 'tools'));
  mkdirSync(join(root, 'dist'));
  copyFileSync(join(import.meta.dirname, 'setup.sh'), join(root, 'tools/setup.sh'));
  // Another setup that hangs: it holds the lock and has written its number into it.
  const holder = spawn(
    'sh',
    ['-c', 'exec 9>>dist/.setup.lock; flock 9; echo $$ >dist/.setup.lock; echo held; exec sleep 60'],
    {
      cwd: root,
      stdio: ['ignore', 'pipe', 'ignore'],
    },
  );
  try {
    await new Promise((resolve) => holder.stdout.once('data', resolve));
    const { status, stderr } = spawnSync('sh', [join(root, 'tools/setup.sh')], {
      encoding: 'utf8',
      env: { ...process.env, PORTOLAN_SETUP_WAIT: '1' },
    });
    assert.equal(status, 1);
    assert.match(stderr, new RegExp(`process ${holder.pid} builds already; waiting for it, 1 s at most`));
    assert.match(
      stderr,
      new RegExp(`error\\[SETUP\\]: process ${holder.pid} has held .*/dist/.setup.lock for more than 1 s`),
    );
    assert.match(stderr, new RegExp(`kill ${holder.pid}`));
  } finally {
    holder.kill('SIGKILL');
    rmSync(root, { recursive: true, force: true });
  }
});
