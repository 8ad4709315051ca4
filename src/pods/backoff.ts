export interface BackoffSettings {
  /** Wait after the first failure. kubelet: 10 s. */
  baseMs: number;
  /** kubelet: 5 min. */
  maxMs: number;
  /** A container that ran this long starts again at the base. kubelet: twice the longest wait. */
  resetMs: number;
}

export const defaultBackoff: BackoffSettings = { baseMs: 10_000, maxMs: 300_000, resetMs: 600_000 };

/**
 * When each thing that ended may be started again: at once the first time, then after the base, doubled at each
 * further end up to a bound. So does kubelet: its first restart does not wait.
 */
export class Backoff {
  readonly #settings: BackoffSettings;
  readonly #entries = new Map<string, { delayMs: number; untilMs: number }>();

  constructor(settings: BackoffSettings) {
    this.#settings = settings;
  }

  /** Notes a failure at `failedMs` after running for `ranMs`; answers the wait from then on. */
  failed(key: string, failedMs: number, ranMs: number): number {
    const { baseMs, maxMs, resetMs } = this.#settings;
    const before = this.#entries.get(key);
    const repeated = before !== undefined && ranMs < resetMs;
    const delayMs = repeated ? Math.min(before.delayMs === 0 ? baseMs : before.delayMs * 2, maxMs) : 0;
    this.#entries.set(key, { delayMs, untilMs: failedMs + delayMs });
    return delayMs;
  }

  /** When it may be tried again; 0 when at once. */
  untilMs(key: string): number {
    return this.#entries.get(key)?.untilMs ?? 0;
  }

  /** The present wait. */
  delayMs(key: string): number {
    return this.#entries.get(key)?.delayMs ?? 0;
  }

  forget(key: string): void {
    this.#entries.delete(key);
  }
}

/** Go's way to print a duration in Events: `10s`, `1m20s`, `5m0s`, `250ms`. */
export function goDuration(ms: number): string {
  if (ms < 1000) return `${ms}ms`;
  const seconds = Math.round(ms / 100) / 10;
  const minutes = Math.floor(seconds / 60);
  const rest = Math.round((seconds - minutes * 60) * 10) / 10;
  return minutes > 0 ? `${minutes}m${rest}s` : `${rest}s`;
}
