import { createRequire } from 'node:module';
import { kernelError } from '../../errors/index.ts';
import { distPath } from '../paths.ts';

/** What a system call takes: a number, a 64-bit value, or a buffer that stands for its address. */
export type Word = number | bigint | ArrayBufferView | ArrayBuffer;

/** A descriptor watched on the event loop; opaque. */
export type PollHandle = { readonly opaque: unique symbol };

/** The functions of native/addon.c. */
export interface Addon {
  call(nr: number, ...words: Word[]): number;
  callInNetns(nsFd: number, nr: number, ...words: Word[]): number;
  address(buffer: ArrayBufferView | ArrayBuffer): bigint;
  view(address: bigint, length: number): ArrayBuffer;
  pollStart(fd: number, events: number, callback: (status: number, events: number) => void): PollHandle;
  pollStop(handle: PollHandle): void;
  pollUnref(handle: PollHandle): void;
  trimMalloc(): number;
}

let loaded: Addon | undefined;

/** The addon, loaded at first use so that commands that never touch the kernel need no build of it. */
export function addon(): Addon {
  if (!loaded) {
    const path = distPath('native/addon.node');
    try {
      loaded = createRequire(import.meta.url)(path) as Addon;
    } catch (cause) {
      throw kernelError('KERNEL_NOT_BUILT', { path }, cause);
    }
  }
  return loaded;
}
