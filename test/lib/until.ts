import { setTimeout as sleep } from 'node:timers/promises';

/** Default bound: nothing that is waited for takes as long, so that a slow machine fails no test. */
const LONGEST_MS = 20_000;

/** Asks until `ask` answers something; throws what `what` says after the time. */
export async function until<T>(
  ask: () => Promise<T | undefined | false> | T | undefined | false,
  options: { seconds?: number; everyMs?: number; what?: string | (() => string) } = {},
): Promise<T> {
  const { seconds = LONGEST_MS / 1000, everyMs = 50, what = 'it' } = options;
  const end = performance.now() + seconds * 1000;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    if (performance.now() > end)
      throw new Error(`${typeof what === 'string' ? what : what()}: not within ${seconds} s`);
    await sleep(everyMs);
  }
}

/** The same for what comes within milliseconds: asks every few of them. */
export function eventually<T>(
  what: string,
  ask: () => Promise<T | undefined | false> | T | undefined | false,
  withinMs = LONGEST_MS,
): Promise<T> {
  return until(ask, { what, seconds: withinMs / 1000, everyMs: 3 });
}
