import { readFileSync } from 'node:fs';

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
