import { kernelError } from '../../errors/index.ts';
import { checked, closeFd, ERRNO, kernelFailure, NR, sys, sysInNetns } from '../syscall/index.ts';

const AT_FDCWD = -100;
const O_RDONLY = 0;
const O_WRONLY = 1;
const O_CLOEXEC = 0o2000000;

/** Which namespace's setting: a descriptor, or undefined for the process's own. */
export interface SysctlPlace {
  readonly netns?: number | { readonly fd: number } | undefined;
}

/**
 * Opens /proc/sys/<name>. Below /proc/sys/net the kernel shows the settings of the namespace of the thread that
 * opens the file, so the open alone happens inside; reading and writing may follow outside.
 */
function open(name: string, flags: number, { netns }: SysctlPlace): number {
  const path = Buffer.from(`/proc/sys/${name}\0`);
  const nsFd = typeof netns === 'object' ? netns.fd : netns;
  return nsFd === undefined
    ? sys(NR.openat, AT_FDCWD, path, flags | O_CLOEXEC)
    : sysInNetns(nsFd, NR.openat, AT_FDCWD, path, flags | O_CLOEXEC);
}

/**
 * Reads a setting by its path with slashes, e.g. `net/ipv4/conf/flannel.1/rp_filter`; undefined when the kernel has
 * none of this name. Throws KERNEL_SYSCALL.
 */
export function readSysctl(name: string, place: SysctlPlace = {}): string | undefined {
  const fd = open(name, O_RDONLY, place);
  if (fd === -ERRNO.ENOENT) return undefined;
  checked('open', `sysctl ${name}`, fd);
  try {
    const buffer = new Uint8Array(4096);
    const size = checked('read', `sysctl ${name}`, sys(NR.read, fd, buffer, buffer.length));
    return Buffer.from(buffer.subarray(0, size)).toString('utf8').trimEnd();
  } finally {
    closeFd(fd);
  }
}

/** Writes a setting. Throws KERNEL_FEATURE_MISSING when there is none of this name, KERNEL_SYSCALL. */
export function writeSysctl(name: string, value: string | number, place: SysctlPlace = {}): void {
  const fd = open(name, O_WRONLY, place);
  if (fd === -ERRNO.ENOENT)
    throw kernelError(
      'KERNEL_FEATURE_MISSING',
      { feature: `sysctl ${name}`, requires: 'a kernel or an interface that has this setting' },
      kernelFailure(fd),
    );
  checked('open', `sysctl ${name}`, fd);
  try {
    const data = Buffer.from(`${value}\n`);
    checked('write', `"${value}" to sysctl ${name}`, sys(NR.write, fd, data, data.length));
  } finally {
    closeFd(fd);
  }
}

/** Writes only what differs; returns whether it wrote. A setting that the kernel lacks is skipped. */
export function ensureSysctl(name: string, value: string | number, place: SysctlPlace = {}): boolean {
  const current = readSysctl(name, place);
  if (current === undefined || current === String(value)) return false;
  writeSysctl(name, value, place);
  return true;
}
