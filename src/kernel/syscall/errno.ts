import { constants } from 'node:os';
import type { KernelCause } from '../../errors/index.ts';

/** Name of a positive errno, e.g. 17 → `EEXIST` (asm-generic/errno.h; the same on x86_64 and arm64). */
export function errnoName(errno: number): string {
  return names.get(errno) ?? `errno ${errno}`;
}

const names = new Map<number, string>(
  Object.entries(constants.errno).map(([name, errno]) => [errno as number, name]),
);
// Aliases would otherwise win by order of listing, and the kernel returns one that libuv does not know.
names.set(11, 'EAGAIN');
names.set(95, 'EOPNOTSUPP');
names.set(524, 'ENOTSUPP');

/** Positive errno values that callers compare with. */
export const ERRNO = { ...constants.errno, ENOTSUPP: 524 } as const;

/** The cause to hang on an error when a call answered `-errno`. */
export function kernelFailure(result: number, message?: string): KernelCause {
  const errno = -result;
  return message === undefined
    ? { errno, name: errnoName(errno) }
    : { errno, name: errnoName(errno), message };
}
