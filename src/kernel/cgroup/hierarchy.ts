/** Where cgroup2 is mounted, and which of its cgroups a process is in. */
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { bpfError } from '../../errors/index.ts';

/**
 * The mount point of cgroup2: /sys/fs/cgroup where it is the only hierarchy, /sys/fs/cgroup/unified beside
 * cgroup1. Throws CGROUP_NO_V2.
 */
export function cgroupRoot(mountinfo: string = readFileSync('/proc/self/mountinfo', 'utf8')): string {
  const found = mountinfo
    .split('\n')
    .map((line) => line.split(' '))
    .filter((fields) => fields[fields.indexOf('-') + 1] === 'cgroup2' && fields[3] === '/')
    .map((fields) => fields[4]!.replaceAll('\\040', ' '));
  const shortest = found.sort((a, b) => a.length - b.length)[0];
  if (shortest === undefined) throw bpfError('CGROUP_NO_V2', {});
  return shortest;
}

/** The cgroup2 path of a process below the mount, e.g. `/system.slice/ssh.service`; undefined when it is gone. */
export function cgroupOf(pid: number | 'self'): string | undefined {
  try {
    return /^0::(.*)$/m.exec(readFileSync(`/proc/${pid}/cgroup`, 'utf8'))?.[1];
  } catch {
    return undefined;
  }
}

/** Moves a process with all its threads into a cgroup. Throws CGROUP_FAILED. */
export function moveToCgroup(path: string, pid: number): void {
  try {
    writeFileSync(join(path, 'cgroup.procs'), String(pid));
  } catch (cause) {
    const why = (cause as NodeJS.ErrnoException).code ?? String(cause);
    throw bpfError('CGROUP_FAILED', { action: `move process ${pid} into`, path, why }, cause);
  }
}

/** What bpf_get_current_cgroup_id() returns inside: the inode number of the folder. */
export function cgroupId(path: string): bigint {
  return statSync(path, { bigint: true }).ino;
}
