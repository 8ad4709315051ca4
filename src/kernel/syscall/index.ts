import { kernelError } from '../../errors/index.ts';
import { addon, type Word } from './addon.ts';
import { ERRNO, kernelFailure } from './errno.ts';
import { NR } from './numbers.ts';

export type { Word } from './addon.ts';
export { Arena } from './arena.ts';
export { ERRNO, errnoName, kernelFailure } from './errno.ts';
export { NR } from './numbers.ts';
export { FdPoll, POLL } from './poll.ts';

/** A raw system call; returns its value, or -errno. Buffers stand for their address during this call only. */
export function sys(nr: number, ...words: Word[]): number {
  return addon().call(nr, ...words);
}

/** The same with this thread inside the network namespace behind `nsFd`; the process stays where it is. */
export function sysInNetns(nsFd: number, nr: number, ...words: Word[]): number {
  return addon().callInNetns(nsFd, nr, ...words);
}

/**
 * Like `sys` but throws: KERNEL_NEEDS_ROOT when not permitted, else KERNEL_SYSCALL with the errno as its cause.
 * `call` and `object` complete the sentence "Cannot <call> <object>".
 */
export function mustSys(call: string, object: string, nr: number, ...words: Word[]): number {
  return checked(call, object, sys(nr, ...words));
}

/** Turns -errno into an exception, see `mustSys`. */
export function checked(call: string, object: string, result: number): number {
  if (result >= 0) return result;
  const cause = kernelFailure(result);
  if (cause.errno === ERRNO.EPERM)
    throw kernelError('KERNEL_NEEDS_ROOT', { action: `${call} ${object}` }, cause);
  throw kernelError('KERNEL_SYSCALL', { call, object }, cause);
}

/** An ArrayBuffer over memory that the kernel mapped at `address` (ring buffers, arrays). */
export function mappedMemory(address: bigint, length: number): ArrayBuffer {
  return addon().view(address, length);
}

/** Maps a descriptor shared; returns the memory. Throws KERNEL_SYSCALL. mmap(2). */
export function mapFd(
  fd: number,
  length: number,
  protection: number,
  offset = 0,
): { buffer: ArrayBuffer; unmap(): void } {
  const MAP_SHARED = 1;
  const address = mustSys('map', `descriptor ${fd}`, NR.mmap, 0, length, protection, MAP_SHARED, fd, offset);
  return {
    buffer: mappedMemory(BigInt(address), length),
    unmap: () => {
      sys(NR.munmap, BigInt(address), length);
    },
  };
}

/**
 * Gives what malloc keeps of freed memory back to the kernel (malloc_trim of glibc); false when there was nothing or
 * the C library has no such thing. Buffers of a first list lie between others and are never given back otherwise.
 */
export function trimMalloc(): boolean {
  return addon().trimMalloc() === 1;
}

/** Closes a descriptor that Node did not open. */
export function closeFd(fd: number): void {
  sys(NR.close, fd);
}
