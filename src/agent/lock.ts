import { closeSync, ftruncateSync, mkdirSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { agentError } from '../errors/index.ts';
import { NR, sys } from '../kernel/syscall/index.ts';

const LOCK_EX = 2;
const LOCK_NB = 4;

/**
 * One agent a state folder: two would fight over everything. The kernel drops the lock with the process, so a
 * killed agent leaves nothing to clean. Throws AGENT_RUNNING.
 */
export function lockStateDir(stateDir: string): { release(): void } {
  mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  const path = join(stateDir, 'agent.lock');
  const fd = openSync(path, 'a+', 0o600);
  if (sys(NR.flock, fd, LOCK_EX | LOCK_NB) < 0) {
    closeSync(fd);
    throw agentError('AGENT_RUNNING', { stateDir, pid: Number(readFileSync(path, 'utf8')) });
  }
  ftruncateSync(fd, 0);
  writeSync(fd, String(process.pid));
  return { release: () => closeSync(fd) };
}
