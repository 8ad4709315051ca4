/** `lab down`: ends and removes everything that a lab made, whole or in ruins, and nothing else. */
import { readdirSync, rmdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { isNetError } from '../errors/index.ts';
import { cgroupRoot, killCgroup, listCgroups, removeCgroup } from '../kernel/cgroup/index.ts';
import { detachMountsBelow } from '../kernel/mount/index.ts';
import { listNetns } from '../kernel/netns/index.ts';
import { findProcesses } from '../kernel/process/identity.ts';
import { endProcesses, type LabProcess } from './processes.ts';
import { assertOwnName, labExists, loadLab, running } from './state.ts';
import { deleteAll, labNetns } from './underlay.ts';

/** What was removed, for `lab down` to print. */
export interface DownReport {
  processes: number;
  namespaces: number;
}

/** What nodes are called in the cgroup and the bpffs folder of a lab; all else in there is not ours to remove. */
const NODE = /^node\d+$/;

/**
 * Takes a lab away. It works from names as well as from lab.json, so that it also clears what a half failed start
 * left. Nothing there is success. Throws LAB_BAD_OPTION, LAB_NAME_TAKEN.
 */
export async function down(name: string): Promise<DownReport> {
  assertOwnName(name);
  const known = labExists(name);
  const processes = known ? processesOf(name) : [];
  // Agents first: they would restart pods and put back what is being removed.
  await endProcesses([...processes].reverse());
  // One that was started and not yet noted when its "lab up" was killed.
  const unnoted = findProcesses((words) => isOfLab(name, words));
  await endProcesses(unnoted);
  const cgroup = join(cgroupRoot(), name);
  for (const node of listCgroups(cgroup).filter((child) => NODE.test(child))) {
    killCgroup(join(cgroup, node));
    await removeCgroup(join(cgroup, node));
  }
  removeIfEmpty(cgroup);
  // Programs, maps and links end with their pins, now that no process holds them.
  const pins = join('/sys/fs/bpf', name);
  for (const node of entriesOf(pins).filter((child) => NODE.test(child)))
    rmSync(join(pins, node), { recursive: true, force: true });
  removeIfEmpty(pins);
  const namespaces = labNetns(name, listNetns());
  deleteAll(namespaces);
  if (known) {
    const folder = join('/run', name);
    detachMountsBelow(folder);
    rmSync(folder, { recursive: true, force: true });
  }
  return { processes: processes.length + unnoted.length, namespaces: namespaces.length };
}

/** Whether a command line is that of a lab's own process: this program, a long-running command, a path of this lab. */
export function isOfLab(name: string, words: readonly string[]): boolean {
  const program = words.findIndex((word) => word.endsWith('/portolan.js'));
  const command = words[program + 1];
  return (
    program >= 0 &&
    (command === 'agent' || command === 'apiserver' || command === 'controller') &&
    words.some((word) => word.startsWith(`/run/${name}/`))
  );
}

/** Those that still run; none when the state cannot be read, and then only names lead to what is left. */
function processesOf(name: string): LabProcess[] {
  try {
    return running(loadLab(name).state);
  } catch (error) {
    if (isNetError(error, 'LAB_STATE_UNREADABLE')) return [];
    throw error;
  }
}

function entriesOf(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function removeIfEmpty(folder: string): void {
  try {
    rmdirSync(folder);
  } catch {
    // Absent, or somebody else keeps something in it.
  }
}
