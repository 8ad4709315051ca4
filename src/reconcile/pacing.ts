/** A comparison of everything that costs more CPU than this is done less often: there are several kinds of them. */
const CHEAP_MS = 5;
/** What is looked at piece by piece, as it is too much for one look, may cost so much in the time that is asked for. */
const PIECES_MS = 6;
/** However dear it is, it is put off to this many times the wait asked for: five minutes for the usual 30 s. */
const MOST_TIMES = 10;

/**
 * How long to rest after a comparison that nothing asked for, so that a large node does not spend more on it than a
 * small one: the wait asked for, longer in proportion when the comparison took more than 5 ms of CPU, which every
 * 30 s is 0.02 % of one. Notifications do not wait for this: it is for what they miss. Pure.
 */
export function restMs(wantedMs: number, costMs: number): number {
  return wantedMs * Math.min(MOST_TIMES, Math.max(1, costMs / CHEAP_MS));
}

/** How long to pause after a piece of such a comparison, so that all of them together take their share. Pure. */
export function pauseMs(wantedMs: number, costMs: number): number {
  return (wantedMs * costMs) / PIECES_MS;
}

/** CPU time of this process so far, in ms: unlike time on the clock it does not count what others do meanwhile. */
export function cpuTimeMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}
