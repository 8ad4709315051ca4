/** `lab down`: ends and removes everything that a lab made, whole or in ruins, and nothing else. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { cgroupRoot, killCgroup, removeCgroup } from '../kernel/cgroup/index.ts';
import { listNetns } from '../kernel/netns/index.ts';
import { endProcesses } from './processes.ts';
import { labExists, loadLab } from './state.ts';
import { deleteAll, labNetns } from './underlay.ts';

/** What was removed, for `lab down` to print. */
export interface DownReport {
  processes: number;
  namespaces: number;
}

/**
 * Takes a lab away. It works from names as well as from lab.json, so that it also clears what a half failed start
 * or a second machine start left. Nothing there is success.
 */
export async function down(name: string): Promise<DownReport> {
  const report: DownReport = { processes: 0, namespaces: 0 };
  if (labExists(name)) {
    const { state } = loadLab(name);
    // Agents first: they would restart pods and put back what is being removed.
    await endProcesses([...state.processes].reverse());
    report.processes += state.processes.length;
  }
  const cgroup = join(cgroupRoot(), name);
  killCgroup(cgroup);
  await removeCgroup(cgroup);
  // Programs, maps and links end with their pins, now that no process holds them.
  rmSync(join('/sys/fs/bpf', name), { recursive: true, force: true });
  const namespaces = labNetns(name, listNetns());
  deleteAll(namespaces);
  report.namespaces = namespaces.length;
  rmSync(join('/run', name), { recursive: true, force: true });
  return report;
}
