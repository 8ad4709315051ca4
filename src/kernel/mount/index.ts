import { readFileSync } from 'node:fs';
import { checked, NR, sys } from '../syscall/index.ts';

/** One line of /proc/PID/mountinfo, proc_pid_mountinfo(5); only what Portolan acts on. */
export interface HostMount {
  /** Where it is mounted, unescaped. */
  readonly mountPoint: string;
  /** e.g. `ext4`, `cgroup2`. */
  readonly fsType: string;
}

/**
 * Reads mountinfo text. Blank, tab, newline and backslash in paths are octal escapes. Lines that are not of the
 * format are skipped: the kernel writes it, and new optional fields stand before the dash.
 *
 *   36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
 */
export function parseMountinfo(text: string): HostMount[] {
  const mounts: HostMount[] = [];
  for (const line of text.split('\n')) {
    const [left, right] = line.split(' - ', 2);
    const mountPoint = left?.split(' ')[4];
    const fsType = right?.split(' ')[0];
    if (!mountPoint?.startsWith('/') || !fsType) continue;
    mounts.push({ mountPoint: unescapePath(mountPoint), fsType });
  }
  return mounts;
}

function unescapePath(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

/** The mounts that this process sees. */
export function readMounts(): HostMount[] {
  return parseMountinfo(readFileSync('/proc/self/mountinfo', 'utf8'));
}

const MNT_DETACH = 2;

/**
 * Detaches everything that is mounted below a folder, the innermost first, so that deleting the folder deletes only
 * what is in it and never what a mount shows of elsewhere. Returns what was detached. Throws KERNEL_SYSCALL.
 */
export function detachMountsBelow(folder: string, mounts: readonly HostMount[] = readMounts()): string[] {
  const below = mountsBelow(folder, mounts);
  for (const path of below)
    checked('unmount', `"${path}"`, sys(NR.umount2, Buffer.from(`${path}\0`), MNT_DETACH));
  return below;
}

/** Mount points below a folder, the innermost first. */
export function mountsBelow(folder: string, mounts: readonly HostMount[]): string[] {
  return mounts
    .map(({ mountPoint }) => mountPoint)
    .filter((path) => path.startsWith(`${folder}/`))
    .sort((a, b) => b.length - a.length);
}
