/** What benchmarks share: medians of alternating runs, and rows that print as a table or JSON. */

/** One figure beside its baseline, both from the same run. */
export interface BenchRow {
  readonly name: string;
  /** Median in milliseconds. */
  readonly ms: number;
  readonly baseline: string;
  readonly baselineMs: number;
}

/** One thing to time: synchronous or not. */
export type Work = () => unknown;

/** Medians in milliseconds of several works, run in turn so that a busy machine slows all alike. */
export async function medians(rounds: number, works: readonly Work[]): Promise<number[]> {
  const times: number[][] = works.map(() => []);
  for (const work of works) await work();
  for (let round = 0; round < rounds; round++)
    for (const [index, work] of works.entries()) {
      const begin = performance.now();
      await work();
      times[index]!.push(performance.now() - begin);
    }
  return times.map((list) => list.sort((a, b) => a - b)[list.length >> 1]!);
}

/** `NAME  12.3 ms   BASELINE 123.4 ms   10.0x`; the ratio says how many times faster than the baseline. */
export function printRows(rows: readonly BenchRow[], json: boolean): void {
  if (json) {
    console.log(JSON.stringify(rows));
    return;
  }
  const show = (ms: number) => (ms < 1 ? `${(ms * 1000).toFixed(1)} us` : `${ms.toFixed(2)} ms`);
  for (const { name, ms, baseline, baselineMs } of rows)
    console.log(
      `${name.padEnd(52)} ${show(ms).padStart(11)}   ${baseline.padEnd(34)} ${show(baselineMs).padStart(11)}   ${(baselineMs / ms).toFixed(1)}x`,
    );
}

/** True when this module was started itself, not imported by main.ts. */
export function startedAlone(url: string): boolean {
  return process.argv[1] !== undefined && url === new URL(process.argv[1], 'file:///').href;
}
