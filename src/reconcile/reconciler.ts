import { cpuTimeMs, restMs } from './pacing.ts';
import { type ObjectStatus, PENDING } from './status.ts';

export interface ReconcilerOptions {
  /** Names it in messages: `overlay`, `nft table`. */
  readonly name: string;
  /**
   * Makes the kernel agree with what is wanted: observe, plan, apply. Runs never overlap. What it throws becomes
   * the status, and is tried again.
   */
  readonly run: (signal: AbortSignal) => void | Promise<void>;
  /** How long triggers are gathered before a run; default 5 ms. */
  readonly coalesceMs?: number;
  /**
   * A run without any trigger after this time, because notifications may lie; default 30 s, 0 never. Later when runs
   * are dear, see `restMs`.
   */
  readonly resyncMs?: number;
  /** First and longest wait after a failure; doubled each time; default 100 ms and 30 s. */
  readonly retryMs?: number;
  readonly retryMaxMs?: number;
  readonly onStatus?: (status: ObjectStatus) => void;
  readonly now?: () => number;
}

/** So many runs in one second are too many; from there on runs keep this distance. */
const BUSY_RUNS = 30;
const BUSY_PAUSE_MS = 100;

/**
 * Runs one function again and again: soon after a trigger (many triggers make one run), after a failure with
 * growing waits, and now and then without any reason. A trigger during a run causes one more run, so the last one
 * always sees the newest state.
 *
 *     trigger ──► gather ──► run ──ok──► done ──(resyncMs)──► run
 *                   ▲         └─error──► wait, doubled ──► run
 *                   └── trigger during run or wait
 */
export class Reconciler {
  readonly #options: Required<Omit<ReconcilerOptions, 'onStatus'>> & Pick<ReconcilerOptions, 'onStatus'>;
  readonly #abort = new AbortController();
  #status: ObjectStatus = PENDING;
  #timer: NodeJS.Timeout | undefined;
  #timerAt = 0;
  #started = false;
  #running: Promise<void> | undefined;
  #dirty = false;
  #failures = 0;
  /** CPU of the last run, ms, and when it ended. */
  #costMs = 0;
  #endedAt = Number.NEGATIVE_INFINITY;
  #runs = 0;
  /** When the last runs began. */
  #recent: number[] = [];
  #idle: (() => void)[] = [];

  constructor(options: ReconcilerOptions) {
    this.#options = {
      coalesceMs: 5,
      resyncMs: 30_000,
      retryMs: 100,
      retryMaxMs: 30_000,
      now: Date.now,
      ...options,
    };
  }

  get name(): string {
    return this.#options.name;
  }

  get status(): ObjectStatus {
    return this.#status;
  }

  /** How many runs there were, for tests and metrics. */
  get runs(): number {
    return this.#runs;
  }

  /** Starts with a run. */
  start(): void {
    if (this.#started) return;
    this.#started = true;
    this.#schedule(0);
  }

  /** Something may have changed. */
  trigger(): void {
    this.#dirty = true;
    if (this.#started && !this.#running) this.#schedule(this.#pauseMs());
  }

  /** Resolves when the last trigger has been dealt with, well or badly. */
  idle(): Promise<void> {
    if (!this.#running && !this.#dirty && this.#runs > 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#idle.push(resolve);
    });
  }

  /** No run begins after this; a running one is told by its signal and awaited. */
  async stop(): Promise<void> {
    this.#abort.abort();
    clearTimeout(this.#timer);
    this.#timer = undefined;
    await this.#running;
    this.#wake();
  }

  /** A run in `ms`, or earlier if one is due already. */
  #schedule(ms: number): void {
    if (this.#abort.signal.aborted) return;
    const at = performance.now() + ms;
    if (this.#timer) {
      if (this.#timerAt <= at) return;
      clearTimeout(this.#timer);
    }
    this.#timerAt = at;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      // Before it begins: a run that never waits may trigger the next one.
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#running = promise;
      void this.#run().finally(() => {
        this.#running = undefined;
        resolve();
        this.#after();
      });
    }, ms);
  }

  /**
   * Somebody who undoes each change at once must not make this process spin: many runs in a second slow down. And a dear
   * run is not followed by the next at once: what else this process does has its turn for as long as the run took.
   */
  #pauseMs(): number {
    const now = performance.now();
    const oldest = this.#recent[0];
    const busy = this.#recent.length === BUSY_RUNS && now - oldest! < 1_000;
    const turnMs = Math.min(BUSY_PAUSE_MS, this.#endedAt + this.#costMs - now);
    return Math.max(busy ? BUSY_PAUSE_MS : turnMs, this.#options.coalesceMs);
  }

  async #run(): Promise<void> {
    this.#dirty = false;
    this.#runs++;
    this.#recent.push(performance.now());
    if (this.#recent.length > BUSY_RUNS) this.#recent.shift();
    const before = cpuTimeMs();
    try {
      await this.#options.run(this.#abort.signal);
      this.#costMs = cpuTimeMs() - before;
      this.#failures = 0;
      if (this.#status.state !== 'done') this.#setStatus({ state: 'done', sinceMs: this.#options.now() });
    } catch (thrown) {
      this.#failures++;
      const error = thrown instanceof Error ? thrown : new Error(String(thrown));
      const sinceMs = this.#status.state === 'error' ? this.#status.sinceMs : this.#options.now();
      this.#setStatus({ state: 'error', error, sinceMs, tries: this.#failures });
    }
  }

  #after(): void {
    this.#endedAt = performance.now();
    const { resyncMs, retryMs, retryMaxMs } = this.#options;
    if (this.#dirty) {
      this.#schedule(this.#pauseMs());
      return;
    }
    if (this.#failures > 0)
      this.#schedule(Math.min(retryMaxMs, retryMs * 2 ** Math.min(20, this.#failures - 1)));
    else if (resyncMs > 0) this.#schedule(restMs(resyncMs, this.#costMs));
    this.#wake();
  }

  #wake(): void {
    for (const resolve of this.#idle.splice(0)) resolve();
  }

  #setStatus(status: ObjectStatus): void {
    this.#status = status;
    this.#options.onStatus?.(status);
  }
}
