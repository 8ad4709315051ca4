/** The lab's own processes: started detached with a log each, remembered so that a later command can end them. */
import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { identify, isAlive, type ProcessIdentity, signal } from '../kernel/process/identity.ts';
import { labError } from './plan.ts';

/** A process of the lab as kept in lab.json. */
export interface LabProcess extends ProcessIdentity {
  /** What it is to a person, e.g. "agent of node1". */
  title: string;
  log: string;
  /** How it was started, so that "lab restart" can do so again. */
  command: string[];
  netnsPath?: string;
}

export interface Start {
  title: string;
  command: string[];
  log: string;
  /** Runs inside this network namespace; nsenter leaves mounts alone, which "ip netns exec" does not. */
  netnsPath?: string;
}

/** Starts a process that outlives this one. Its output is appended to its log, readable by root only. */
export function startDetached({ title, command, log, netnsPath }: Start): LabProcess {
  mkdirSync(dirname(log), { recursive: true, mode: 0o700 });
  const output = openSync(log, 'a', 0o600);
  const [program, ...args] = netnsPath ? ['nsenter', `--net=${netnsPath}`, '--', ...command] : command;
  const child = spawn(program!, args, { detached: true, stdio: ['ignore', output, output], cwd: '/' });
  closeSync(output);
  // A command that cannot be found shows as a process that ended at once, like every other failure to start.
  child.on('error', () => {});
  child.unref();
  const identity = child.pid === undefined ? undefined : identify(child.pid);
  if (!identity) throw labError('LAB_PROCESS_ENDED', { process: title, log, last: lastLine(log) });
  return { ...identity, title, log, command, ...(netnsPath && { netnsPath }) };
}

/** The last line that a process wrote, or where it would have. */
export function lastLine(log: string): string {
  try {
    return readFileSync(log, 'utf8').trimEnd().split('\n').slice(-2).join(' ').trim() || 'it wrote nothing';
  } catch {
    return 'it wrote nothing';
  }
}

/**
 * Waits until `ready` holds; gives up at once when one of the processes ended. Throws LAB_PROCESS_ENDED, LAB_TIMEOUT,
 * LAB_INTERRUPTED.
 */
export async function waitFor(
  processes: LabProcess | readonly LabProcess[],
  ready: () => Promise<boolean> | boolean,
  options: { what: string; seconds: number; state?: () => string; signal?: AbortSignal | undefined },
): Promise<void> {
  const { what, seconds, state, signal } = options;
  const all = [processes].flat();
  const end = Date.now() + seconds * 1000;
  while (!(await ready())) {
    if (signal?.aborted) throw labError('LAB_INTERRUPTED', { what });
    const ended = all.find((process) => !isAlive(process));
    if (ended)
      throw labError('LAB_PROCESS_ENDED', {
        process: ended.title,
        log: ended.log,
        last: lastLine(ended.log),
      });
    if (Date.now() > end)
      throw labError('LAB_TIMEOUT', {
        what,
        seconds,
        state: state?.() ?? all.map(({ log }) => lastLine(log)).join('; '),
      });
    await sleep(50);
  }
}

/** Ends processes: asks first, and insists after `graceMs`. Only exactly these processes, never a reused pid. */
export async function endProcesses(processes: readonly ProcessIdentity[], graceMs = 5000): Promise<void> {
  for (const process of processes) signal(process, 'SIGTERM');
  const end = Date.now() + graceMs;
  while (processes.some(isAlive) && Date.now() < end) await sleep(20);
  for (const process of processes) signal(process, 'SIGKILL');
  while (processes.some(isAlive) && Date.now() < end + 2000) await sleep(20);
}
