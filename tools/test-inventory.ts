/**
 * What this machine holds that tests make: namespaces, links, BPF pins, cgroups, tables, mounts, processes. Whoever runs
 * tests asks before and after them.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Names that tests make with the number of a process in them, and what the program itself makes. */
const OURS = /^(p[a-z-]*\d|portolan)/;

/** What is there now, each thing by a name; `root`: the tree whose programs count. */
export function inventory(root: string): Set<string> {
  const found = new Set<string>();
  const list = (folder: string, kind: string, which = /^/) => {
    if (!existsSync(folder)) return;
    for (const name of readdirSync(folder)) if (which.test(name)) found.add(`${kind} ${name}`);
  };
  list('/run/netns', 'network namespace');
  list('/sys/class/net', 'link');
  list('/sys/fs/bpf', 'bpffs entry');
  list('/sys/fs/cgroup/unified', 'cgroup', OURS);
  list('/sys/fs/cgroup', 'cgroup', OURS);
  list('/run', 'state below /run:', OURS);
  for (const line of readFileSync('/proc/self/mountinfo', 'utf8').trim().split('\n')) {
    const at = line.split(' ')[4];
    // Both are there for good after their first use; the bpffs is looked after by whoever runs the tests.
    if (at !== '/sys/fs/bpf' && at !== '/run/netns') found.add(`mount ${at}`);
  }
  const tables = spawnSync('/usr/sbin/nft', ['list', 'tables'], { encoding: 'utf8' });
  for (const table of tables.stdout?.trim().split('\n') ?? []) found.add(`nft ${table}`);
  for (const process of processes(root)) found.add(process);
  return found;
}

/** Programs of the tree that run; what runs tests is none of them. */
function processes(root: string): string[] {
  const parts = ['dist', 'src', 'test'].map((folder) => `${join(root, folder)}/`);
  return readdirSync('/proc').flatMap((pid) => {
    if (!/^\d+$/.test(pid)) return [];
    try {
      const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
      return parts.some((part) => command.includes(part)) ? [`process ${pid} ${command.slice(0, 200)}`] : [];
    } catch {
      // It has ended meanwhile.
      return [];
    }
  });
}
