/**
 * Runs one piece of work for each dirty key: never two at once for the same key, a bounded number overall, again
 * after a failure with growing waits. A key that becomes dirty while it is worked on is worked on once more.
 * New keys begin in the microtask after they were added, so that what arrives together is done once, at once.
 */
import { Backoff, type Log } from '../client/index.ts';
import { isNetError } from '../errors/net-error.ts';

/** Options of a {@link WorkQueue}. */
export interface WorkQueueOptions {
  /** Name in the log. */
  name: string;
  work: (key: string) => Promise<void>;
  signal: AbortSignal;
  log: Log;
  /** Pieces of work under way at most, 16 by default. */
  concurrency?: number;
}

export class WorkQueue {
  readonly #options: WorkQueueOptions;
  readonly #dirty = new Set<string>();
  readonly #running = new Set<string>();
  readonly #waiting = new Map<string, NodeJS.Timeout>();
  readonly #backoffs = new Map<string, Backoff>();
  #pumpAsked = false;

  constructor(options: WorkQueueOptions) {
    this.#options = options;
    options.signal.addEventListener(
      'abort',
      () => {
        for (const timer of this.#waiting.values()) clearTimeout(timer);
        this.#waiting.clear();
        this.#dirty.clear();
      },
      { once: true },
    );
  }

  /** Marks a key dirty; a key that waits after a failure is tried at once. */
  add(key: string): void {
    if (this.#options.signal.aborted) return;
    clearTimeout(this.#waiting.get(key));
    this.#waiting.delete(key);
    this.#dirty.add(key);
    this.#askPump();
  }

  /** Keys that are dirty, under way or waiting. */
  get size(): number {
    return this.#dirty.size + this.#running.size + this.#waiting.size;
  }

  #askPump(): void {
    if (this.#pumpAsked) return;
    this.#pumpAsked = true;
    queueMicrotask(() => {
      this.#pumpAsked = false;
      this.#pump();
    });
  }

  #pump(): void {
    const limit = this.#options.concurrency ?? 16;
    for (const key of this.#dirty) {
      if (this.#running.size >= limit) return;
      if (this.#running.has(key)) continue;
      this.#dirty.delete(key);
      this.#running.add(key);
      void this.#run(key);
    }
  }

  async #run(key: string): Promise<void> {
    const { name, work, signal, log } = this.#options;
    try {
      await work(key);
      this.#backoffs.delete(key);
    } catch (error) {
      if (!signal.aborted) this.#retry(key, error);
      const context = {
        controller: name,
        key,
        error: error instanceof Error ? error.message : String(error),
      };
      if (isNetError(error)) log.debug(context, 'will be tried again');
      else
        log.error(
          { ...context, stack: error instanceof Error ? error.stack : undefined },
          'bug: work failed',
        );
    } finally {
      this.#running.delete(key);
      if (this.#dirty.size > 0) this.#askPump();
    }
  }

  #retry(key: string, _error: unknown): void {
    const backoff = this.#backoffs.get(key) ?? new Backoff({ firstMs: 10, maxMs: 30_000 });
    this.#backoffs.set(key, backoff);
    const timer = setTimeout(() => {
      this.#waiting.delete(key);
      this.add(key);
    }, backoff.nextMs());
    clearTimeout(this.#waiting.get(key));
    this.#waiting.set(key, timer);
  }
}
