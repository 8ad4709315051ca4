/** Pinning in a bpffs: objects that have a path there outlive the process that made them. */
import { mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { bpfError } from '../../errors/bpf.ts';
import { Arena, closeFd, ERRNO, kernelFailure, NR, sys } from '../syscall/index.ts';
import { bpf, failureName } from './call.ts';
import { CMD } from './constants.ts';

/** Gives an object a path in a bpffs. Throws BPF_PIN_FAILED, also when the path is taken. */
export function pinObject(fd: number, path: string, what: string): void {
  const result = pathCall(CMD.OBJ_PIN, path, fd);
  if (result < 0)
    throw bpfError(
      'BPF_PIN_FAILED',
      { action: `pin ${what} at`, path, why: failureName(result) },
      kernelFailure(result),
    );
}

export type PinKind = 'map' | 'program' | 'link';

/** How the kernel names descriptors: readlink of /proc/self/fd/N. */
const KIND_OF_FD: readonly [RegExp, PinKind][] = [
  [/bpf.map/, 'map'],
  [/bpf.prog/, 'program'],
  [/bpf.link/, 'link'],
];

/**
 * Opens a pinned object; undefined when nothing is there. Throws BPF_PIN_MISMATCH when it is of another kind,
 * BPF_PIN_FAILED.
 */
export function openPinned(path: string, kind: PinKind): number | undefined {
  const fd = pathCall(CMD.OBJ_GET, path, 0);
  if (fd === -ERRNO.ENOENT) return undefined;
  if (fd < 0)
    throw bpfError('BPF_PIN_FAILED', { action: 'adopt', path, why: failureName(fd) }, kernelFailure(fd));
  const name = readlinkSync(`/proc/self/fd/${fd}`);
  const pinned = KIND_OF_FD.find(([pattern]) => pattern.test(name))?.[1];
  if (pinned === kind) return fd;
  closeFd(fd);
  throw bpfError('BPF_PIN_MISMATCH', { path, pinned: `a ${pinned ?? name}`, wanted: `a ${kind}` });
}

/** Removes a pin; what it kept alive lives on while something else holds it. Absent is success. */
export function unpin(path: string): void {
  rmSync(path, { force: true });
}

/** Names of what is pinned in a folder; empty when the folder does not exist. */
export function listPins(folder: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter((file) => file.isFile())
      .map((file) => file.name);
  } catch {
    return [];
  }
}

function pathCall(command: number, path: string, fd: number): number {
  const ATTR = 16;
  const arena = new Arena(ATTR + path.length * 4 + 32);
  const attr = arena.reserve(ATTR);
  arena.point(attr, arena.putString(path));
  arena.view.setUint32(attr + 8, fd, true);
  return bpf(command, arena.from(attr, ATTR));
}

/**
 * Makes sure that a bpffs is mounted at `path`, which is created if need be, and that `folder` exists below it.
 * Returns the folder. Throws BPFFS_MOUNT_FAILED.
 */
export function ensureBpffs(path = '/sys/fs/bpf', folder = ''): string {
  if (!isBpffs(path)) {
    try {
      mkdirSync(path, { recursive: true });
    } catch (cause) {
      throw bpfError('BPFFS_MOUNT_FAILED', { path }, cause);
    }
    const text = (value: string) => Buffer.from(`${value}\0`);
    const result = sys(NR.mount, text('bpf'), text(path), text('bpf'), 0, text('mode=0700'));
    if (result < 0) throw bpfError('BPFFS_MOUNT_FAILED', { path }, kernelFailure(result));
  }
  const full = join(path, folder);
  mkdirSync(full, { recursive: true, mode: 0o700 });
  return full;
}

/** True when a bpffs is mounted exactly at `path`. proc(5), mountinfo. */
export function isBpffs(path: string): boolean {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .some((line) => {
      const fields = line.split(' ');
      return fields[4] === path && fields[fields.indexOf('-') + 1] === 'bpf';
    });
}
