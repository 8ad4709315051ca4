/** One command at a time starts or ends a lab: two would each see half of what the other makes. */
import { mkdirSync, readdirSync, rmdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { lockFile } from '../kernel/process/file-lock.ts';
import { labError } from './plan.ts';
import { assertOwnName, LOCK_NAME } from './state.ts';

/**
 * Takes the lock of a lab; on release a folder that holds nothing else goes with it. Throws LAB_BUSY, LAB_BAD_OPTION,
 * LAB_NAME_TAKEN.
 */
export function lockLab(name: string): { release(): void } {
  assertOwnName(name);
  const folder = join('/run', name);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const path = join(folder, LOCK_NAME);
  const lock = lockFile(path);
  if (!lock.held) throw labError('LAB_BUSY', { name, pid: lock.pid });
  return {
    release: () => {
      try {
        if (lock.isThere() && readdirSync(folder).every((entry) => entry === LOCK_NAME)) {
          rmSync(path, { force: true });
          rmdirSync(folder);
        }
      } catch {
        // Somebody has just put something in.
      }
      lock.release();
    },
  };
}
