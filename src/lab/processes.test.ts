import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { isNetError } from '../errors/index.ts';
import { isAlive } from '../kernel/process/identity.ts';
import { endProcesses, lastLine, startDetached, waitFor } from './processes.ts';

test('processes: started with a private log, waited for, told when they end, ended only when they are the same', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'lab-processes-'));
  const start = (script: string, name: string) =>
    startDetached({ title: name, command: ['sh', '-c', script], log: join(folder, `${name}.log`) });
  try {
    const sleeper = start('echo ready; exec sleep 60', 'sleeper');
    const failing = start('sleep 0.1; echo first; echo no such thing >&2; exit 3', 'failing');
    await waitFor(sleeper, () => readFileSync(sleeper.log, 'utf8') === 'ready\n', {
      what: 'the sleeper',
      seconds: 10,
    });
    assert.equal(statSync(sleeper.log).mode & 0o777, 0o600);
    await assert.rejects(
      waitFor([sleeper, failing], () => false, { what: 'nothing', seconds: 10 }),
      (error) => isNetError(error, 'LAB_PROCESS_ENDED') && /failing.*no such thing/.test(error.message),
      'the second of two is looked at as well',
    );
    await assert.rejects(
      waitFor(sleeper, () => false, { what: 'the moon', seconds: 0, state: () => 'still far' }),
      (error) => isNetError(error, 'LAB_TIMEOUT') && /the moon after 0 s: still far/.test(error.message),
    );
    await assert.rejects(
      waitFor(sleeper, () => false, { what: 'x', seconds: 9, signal: AbortSignal.abort() }),
      (error) => isNetError(error, 'LAB_INTERRUPTED'),
    );
    const other = { ...sleeper, startTicks: sleeper.startTicks + 1 };
    await endProcesses([other]);
    assert.equal(isAlive(sleeper), true, 'a pid that was used again is left alone');
    await endProcesses([sleeper]);
    assert.equal(isAlive(sleeper), false);
    assert.equal(lastLine(join(folder, 'none.log')), 'it wrote nothing');
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('a process that does not end when asked is ended all the same', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'lab-processes-'));
  try {
    const log = join(folder, 'deaf.log');
    const deaf = startDetached({
      title: 'deaf',
      command: ['sh', '-c', 'trap "" TERM; echo deaf; while :; do sleep 0.05; done'],
      log,
    });
    await waitFor(deaf, () => readFileSync(log, 'utf8') === 'deaf\n', { what: 'it', seconds: 10 });
    await endProcesses([deaf], 100);
    assert.equal(isAlive(deaf), false);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
