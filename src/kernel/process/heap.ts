/**
 * How much memory a long-running process keeps. V8 sizes its heap for throughput: after a first list of ten thousand
 * objects most of it stays reserved for garbage that does not come again.
 *
 * Agent with 10,000 Services of 10 endpoints: 320 MiB resident before, 146 MiB with both of these.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/**
 * Keeps the part of the heap where objects are born at its first size, 1 MiB, instead of up to 32. Collections
 * become more and shorter; a first sync takes as long as before. To be called before much was allocated.
 */
export function keepYoungHeapSmall(): void {
  setFlagsFromString('--semi-space-growth-factor=1');
}

/**
 * Collects everything, two to seven times, and gives the pages that are free then back to the kernel. Takes some 2 ms for
 * each MiB in use, during which nothing else runs: for the moment after a first sync, not for every day.
 */
export function compactHeap(): void {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as (options: object) => void;
  setFlagsFromString('--no-expose-gc');
  collect({ type: 'major', execution: 'sync', flavor: 'last-resort' });
}

/** At rest is who takes less than this much of a CPU for a second. */
const LOOK_MS = 1_000;
const REST_MS = 50;
/** Whoever never rests waits so long. */
const PATIENCE_MS = 60_000;

/**
 * The same as soon as the process is at rest: what comes while it collects, 0.1 to 0.3 s, would wait. Changes of
 * Services just after a start did (`npm run bench -- endpoints`).
 */
export function compactHeapAtRest(collect: () => void = compactHeap, cpuMs: () => number = ownCpuMs): void {
  let before = cpuMs();
  let waitedMs = 0;
  const timer = setInterval(() => {
    const now = cpuMs();
    const busy = now - before > REST_MS;
    before = now;
    waitedMs += LOOK_MS;
    if (busy && waitedMs < PATIENCE_MS) return;
    clearInterval(timer);
    collect();
  }, LOOK_MS).unref();
}

function ownCpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}
