import { closeSync, fstatSync, ftruncateSync, openSync, readFileSync, statSync, writeSync } from 'node:fs';
import { NR, sys } from '../syscall/index.ts';

/** include/uapi/asm-generic/fcntl.h */
const LOCK_EX = 2;
const LOCK_NB = 4;

/** A lock that is held, or the process that holds it (0 when it has not written its number yet). */
export type FileLock =
  | {
      held: true;
      /** False once somebody deleted the file, or put another one there. */
      isThere(): boolean;
      release(): void;
    }
  | { held: false; pid: number };

/**
 * Takes an exclusive flock(2) on a file, which is made when missing (0600) and then holds the pid of the owner. The
 * kernel drops the lock with the process, so that a killed one leaves nothing to clear. The folder must exist.
 */
export function lockFile(path: string): FileLock {
  for (;;) {
    const fd = openSync(path, 'a+', 0o600);
    if (sys(NR.flock, fd, LOCK_EX | LOCK_NB) < 0) {
      closeSync(fd);
      return { held: false, pid: ownerOf(path) };
    }
    // Its owner may have deleted the file in between: that lock would be on a name that nobody else meets.
    if (!isStillAt(path, fd)) {
      closeSync(fd);
      continue;
    }
    ftruncateSync(fd, 0);
    writeSync(fd, String(process.pid));
    let open = true;
    return {
      held: true,
      isThere: () => open && isStillAt(path, fd),
      release: () => {
        if (open) closeSync(fd);
        open = false;
      },
    };
  }
}

function isStillAt(path: string, fd: number): boolean {
  const there = statSync(path, { throwIfNoEntry: false });
  return there !== undefined && there.ino === fstatSync(fd).ino;
}

function ownerOf(path: string): number {
  try {
    return Number(readFileSync(path, 'utf8')) || 0;
  } catch {
    return 0;
  }
}
