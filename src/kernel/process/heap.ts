/**
 * How much memory a long-running process keeps. V8 sizes its heap for throughput, and malloc gives nothing back that
 * lies between objects that stay: after a first list of ten thousand objects both keep what does not come again.
 */
import { setFlagsFromString } from 'node:v8';
import { trimMalloc } from '../syscall/index.ts';

/**
 * Keeps the part of the heap where objects are born at its first size, 1 MiB, instead of up to 32. Collections
 * become more and shorter; a first sync takes as long as before. To be called before much was allocated.
 */
export function keepYoungHeapSmall(): void {
  setFlagsFromString('--semi-space-growth-factor=1');
}

/** V8 collects 8 s after the last collection, or 16, and then once or twice again. */
const SETTLE_MS = 30_000;
/** Lists are read again when a watch is lost for long. */
const TRIM_EVERY_MS = 600_000;

/**
 * For the moment after the first lists: lets V8 give back what they took, and then malloc; the latter also now and
 * then, which takes some 3 ms.
 *
 * V8 collects by itself, in small steps, when a process seems to be at rest; whether it does after ten seconds or after
 * two minutes is chance. With this flag it does not ask (Heap::ShouldOptimizeForMemoryUsage, heap/memory-reducer.cc).
 * To collect at once instead, as gc() does, was tried: the heap became no smaller, it took twice the CPU, as V8's own
 * collections came nevertheless, and nothing else ran for 0.1 to 0.3 s.
 */
export function settleMemory(
  trim: () => void = trimMalloc,
  setFlag: (flag: string) => void = setFlagsFromString,
): void {
  setFlag('--optimize-for-size');
  setTimeout(() => {
    setFlag('--no-optimize-for-size');
    trim();
    setInterval(trim, TRIM_EVERY_MS).unref();
  }, SETTLE_MS).unref();
}
