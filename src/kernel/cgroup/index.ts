import { mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { kernelError } from '../../errors/index.ts';

export { cgroupId, cgroupOf, cgroupRoot, moveToCgroup } from './hierarchy.ts';

/** Folders of cgroup2: Documentation/admin-guide/cgroup-v2.rst. Names of ours hold no controllers of their own. */

/** Creates a cgroup and those above it; existing is success. */
export function ensureCgroup(path: string): void {
  try {
    mkdirSync(path, { recursive: true });
  } catch (cause) {
    throw kernelError('KERNEL_SYSCALL', { call: 'create cgroup', object: `"${path}"` }, cause);
  }
}

/** Child cgroups by name; none when it does not exist. */
export function listCgroups(path: string): string[] {
  try {
    return readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  } catch {
    return [];
  }
}

/** Pids directly in a cgroup. */
export function cgroupProcesses(path: string): number[] {
  try {
    return readFileSync(join(path, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean).map(Number);
  } catch {
    return [];
  }
}

/** Sends SIGKILL to all processes at and below a cgroup, also to those being forked (cgroup.kill, Linux 5.14). */
export function killCgroup(path: string): void {
  try {
    writeFileSync(join(path, 'cgroup.kill'), '1');
    return;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  // No such cgroup, or a kernel older than cgroup.kill.
  for (const name of listCgroups(path)) killCgroup(join(path, name));
  for (const pid of cgroupProcesses(path)) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It ended in between.
    }
  }
}

/** Kills what is in a cgroup and deletes it with all below it; absent is success. */
export async function removeCgroup(path: string, timeoutMs = 5_000): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 2, 50)) {
    const error = tryRemove(path);
    if (!error) return;
    // EBUSY: a killed process has not left yet.
    if (error.code !== 'EBUSY' || performance.now() > deadline)
      throw kernelError('KERNEL_SYSCALL', { call: 'delete cgroup', object: `"${path}"` }, error);
    killCgroup(path);
    await sleep(pauseMs);
  }
}

function tryRemove(path: string): NodeJS.ErrnoException | undefined {
  for (const name of listCgroups(path)) {
    const error = tryRemove(join(path, name));
    if (error) return error;
  }
  try {
    rmdirSync(path);
    return undefined;
  } catch (cause) {
    const error = cause as NodeJS.ErrnoException;
    return error.code === 'ENOENT' ? undefined : error;
  }
}
