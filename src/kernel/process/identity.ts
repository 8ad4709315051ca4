import { readdirSync, readFileSync } from 'node:fs';

/** A process told apart from a later one with the same pid. */
export interface ProcessIdentity {
  pid: number;
  /** Clock ticks after boot at which it started: field 22 of /proc/PID/stat, proc_pid_stat(5). */
  startTicks: number;
}

/** Reads who a pid is now; undefined when there is no such process, or only its zombie. */
export function identify(pid: number): ProcessIdentity | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch {
    return undefined;
  }
  // The name in brackets may hold spaces and brackets; what follows the last one is regular.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [state] = fields;
  if (state === 'Z' || state === 'X') return undefined;
  return { pid, startTicks: Number(fields[19]) };
}

/** True while exactly this process runs. */
export function isAlive(process: ProcessIdentity): boolean {
  return identify(process.pid)?.startTicks === process.startTicks;
}

/** Sends a signal to exactly this process; false when it is gone. */
export function signal(target: ProcessIdentity, name: NodeJS.Signals): boolean {
  if (!isAlive(target)) return false;
  try {
    process.kill(target.pid, name);
    return true;
  } catch {
    return false;
  }
}

/** Resident memory in bytes: VmRSS of /proc/PID/status; undefined when the process is gone. */
export function residentBytes(pid: number): number | undefined {
  try {
    const found = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
    return found ? Number(found[1]) * 1024 : undefined;
  } catch {
    return undefined;
  }
}

/** Processes by their command line, words as in proc_pid_cmdline(5); this one is left out. */
export function findProcesses(fits: (words: readonly string[]) => boolean): ProcessIdentity[] {
  const found: ProcessIdentity[] = [];
  for (const entry of readdirSync('/proc')) {
    const pid = Number(entry);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    try {
      if (!fits(readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0'))) continue;
    } catch {
      // It ended in between.
      continue;
    }
    const identity = identify(pid);
    if (identity) found.push(identity);
  }
  return found;
}
