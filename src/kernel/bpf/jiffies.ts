/** The unit of bpf_jiffies64(), which the kernel does not tell directly: CONFIG_HZ. */
import { NR, sys } from '../syscall/index.ts';

/** Jiffies a second. The coarse clocks go by them, so their resolution is one: clock_getres(2). */
export function jiffiesPerSecond(): number {
  const CLOCK_MONOTONIC_COARSE = 6;
  const time = new Uint8Array(16);
  const result = sys(NR.clock_getres, CLOCK_MONOTONIC_COARSE, time);
  const nanoseconds = Number(new DataView(time.buffer).getBigInt64(8, true));
  const USUAL = 250;
  return result < 0 || nanoseconds === 0 ? USUAL : Math.round(1e9 / nanoseconds);
}
