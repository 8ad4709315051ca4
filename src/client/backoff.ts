/** Waiting longer after each failure, with jitter so that a thousand clients do not come back at once. */

/** Settings of a {@link Backoff}. */
export interface BackoffOptions {
  /** First wait in milliseconds, 50 by default. */
  firstMs?: number;
  /** Longest wait in milliseconds, 5000 by default. */
  maxMs?: number;
  /** Random source in [0, 1), Math.random by default. */
  random?: () => number;
}

export class Backoff {
  readonly #firstMs: number;
  readonly #maxMs: number;
  readonly #random: () => number;
  #failures = 0;

  constructor(options: BackoffOptions = {}) {
    this.#firstMs = options.firstMs ?? 50;
    this.#maxMs = options.maxMs ?? 5_000;
    this.#random = options.random ?? Math.random;
  }

  /** How often in a row it failed. */
  get failures(): number {
    return this.#failures;
  }

  /** Next wait: doubles up to the maximum, then somewhere between half of it and all of it. */
  nextMs(): number {
    const full = Math.min(this.#maxMs, this.#firstMs * 2 ** Math.min(this.#failures++, 30));
    return full / 2 + (full / 2) * this.#random();
  }

  /** After a success. */
  reset(): void {
    this.#failures = 0;
  }
}

/** Resolves after `ms`, or at once (without an error) when `signal` is aborted. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  if (signal?.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener('abort', done, { once: true });
  });
}
