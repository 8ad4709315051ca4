import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { isNetError } from '../errors/index.ts';
import { assertOwnFolders } from './cleanup.ts';

test('cleanup refuses folders that are no agent’s before it touches anything', () => {
  const folder = mkdtempSync(join(tmpdir(), 'cleanup-'));
  const refused = (stateDir: string, bpffs: string, option: string) =>
    assert.throws(
      () => assertOwnFolders({ stateDir, bpffs }),
      (error) => isNetError(error, 'AGENT_FOREIGN_FOLDER') && error.context['option'] === option,
    );
  const none = join(folder, 'none');
  const own = join(folder, 'own');
  try {
    mkdirSync(own);
    assertOwnFolders({ stateDir: none, bpffs: none });
    assertOwnFolders({ stateDir: own, bpffs: none });
    refused('/etc', none, 'state-dir');
    refused('/', none, 'state-dir');
    writeFileSync(join(own, 'precious'), '');
    refused(own, none, 'state-dir');
    writeFileSync(join(own, 'agent.lock'), '');
    assertOwnFolders({ stateDir: own, bpffs: none });
    refused(own, '/etc', 'bpffs');
    refused(own, folder, 'bpffs');
  } finally {
    rmSync(folder, { recursive: true });
  }
});
