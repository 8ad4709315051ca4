import { chmodSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { agentError } from '../errors/index.ts';
import { lockFile } from '../kernel/process/file-lock.ts';

/** The file in a state folder by which it is known as an agent's. */
export const LOCK_NAME = 'agent.lock';

/**
 * One agent a state folder: two would fight over everything. The folder is private from here on, whoever made it.
 * Throws AGENT_RUNNING.
 */
export function lockStateDir(stateDir: string): { release(): void } {
  mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  chmodSync(stateDir, 0o700);
  const lock = lockFile(join(stateDir, LOCK_NAME));
  if (!lock.held) throw agentError('AGENT_RUNNING', { stateDir, pid: lock.pid });
  return lock;
}
