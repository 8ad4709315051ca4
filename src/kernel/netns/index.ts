import {
  closeSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { kernelError } from '../../errors/index.ts';
import { checked, closeFd, ERRNO, kernelFailure, NR, sys } from '../syscall/index.ts';

/** Where `ip netns` keeps named namespaces, so that both see the same ones. */
export const NETNS_FOLDER = '/run/netns';

const CLONE_NEWNET = 0x4000_0000;
const MS_BIND = 0x1000;
const MS_REC = 0x4000;
const MS_SHARED = 1 << 20;
const MNT_DETACH = 2;
const AT_FDCWD = -100;
const O_RDONLY_CLOEXEC = 0o2000000;

/** An open network namespace. It lives as long as the descriptor, whoever deletes its name. */
export interface Netns {
  readonly path: string;
  readonly fd: number;
  /** Identifies the namespace on this machine: the inode number in nsfs. */
  readonly inode: bigint;
  close(): void;
  [Symbol.dispose](): void;
}

/** Opens a namespace by its name below /run/netns or by a path such as /proc/123/ns/net. Throws NETNS_MISSING. */
export function openNetns(nameOrPath: string): Netns {
  const path = nameOrPath.startsWith('/') ? nameOrPath : join(NETNS_FOLDER, nameOrPath);
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (cause) {
    throw kernelError('NETNS_MISSING', { path }, cause);
  }
  const { ino } = fstatSync(fd, { bigint: true });
  let open = true;
  const close = () => {
    if (open) closeSync(fd);
    open = false;
  };
  return { path, fd, inode: ino, close, [Symbol.dispose]: close };
}

/** The namespace that this process runs in. */
export function currentNetns(): Netns {
  return openNetns('/proc/self/ns/net');
}

/** Names below /run/netns. */
export function listNetns(): string[] {
  try {
    return readdirSync(NETNS_FOLDER);
  } catch {
    return [];
  }
}

/** True when the name exists and is a namespace, not a leftover empty file. */
export function netnsExists(name: string): boolean {
  try {
    const NSFS_DEVICE = statSync('/proc/self/ns/net').dev;
    return statSync(join(NETNS_FOLDER, name)).dev === NSFS_DEVICE;
  } catch {
    return false;
  }
}

/**
 * Creates a named namespace as `ip netns add` does: unshare, then bind its nsfs file below /run/netns. The name
 * is a plain file name. Throws NETNS_EXISTS, KERNEL_NEEDS_ROOT.
 */
export function createNetns(name: string): Netns {
  if (name !== basename(name) || name === '' || name === '.' || name === '..')
    throw kernelError('KERNEL_SYSCALL', {
      call: 'create network namespace',
      object: `"${name}": not a plain name`,
    });
  prepareFolder();
  const path = join(NETNS_FOLDER, name);
  try {
    writeFileSync(path, '', { flag: 'wx', mode: 0o444 });
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'EEXIST')
      throw kernelError('NETNS_EXISTS', { name }, cause);
    throw cause;
  }
  try {
    bindNewNamespace(path);
  } catch (error) {
    rmSync(path, { force: true });
    throw error;
  }
  return openNetns(path);
}

/** Deletes a named namespace; absent is success. Processes and descriptors inside keep it alive unnamed. */
export function deleteNetns(name: string): void {
  const path = join(NETNS_FOLDER, name);
  sys(NR.umount2, cstring(path), MNT_DETACH);
  rmSync(path, { force: true });
}

function cstring(text: string): Uint8Array {
  return Buffer.from(`${text}\0`);
}

/** /run/netns must be a shared mount, or a name made here would not be seen by other mount namespaces. */
function prepareFolder(): void {
  mkdirSync(NETNS_FOLDER, { recursive: true, mode: 0o755 });
  const folder = cstring(NETNS_FOLDER);
  const none = cstring('none');
  const empty = cstring('');
  let result = sys(NR.mount, empty, folder, none, MS_SHARED | MS_REC, 0);
  if (result === -ERRNO.EINVAL) {
    sys(NR.mount, folder, folder, none, MS_BIND | MS_REC, 0);
    result = sys(NR.mount, empty, folder, none, MS_SHARED | MS_REC, 0);
  }
  checked('share', NETNS_FOLDER, result);
}

/** This thread alone leaves its namespace for the moment of the bind; no JavaScript of others runs meanwhile. */
function bindNewNamespace(path: string): void {
  const own = sys(NR.openat, AT_FDCWD, cstring('/proc/thread-self/ns/net'), O_RDONLY_CLOEXEC);
  checked('open', 'own network namespace', own);
  try {
    checked('create network namespace', `"${path}"`, sys(NR.unshare, CLONE_NEWNET));
    const bound = sys(
      NR.mount,
      cstring('/proc/thread-self/ns/net'),
      cstring(path),
      cstring('none'),
      MS_BIND,
      0,
    );
    const back = sys(NR.setns, own, CLONE_NEWNET);
    if (back < 0) {
      process.stderr.write(`cannot return to the own network namespace: ${kernelFailure(back).name}\n`);
      process.abort();
    }
    checked('bind network namespace', `"${path}"`, bound);
  } finally {
    closeFd(own);
  }
}
