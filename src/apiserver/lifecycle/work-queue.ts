/** Keys that need a look, one at a time; a failed look is repeated with growing pauses. */

const FIRST_RETRY_MS = 50;
const LAST_RETRY_MS = 10_000;

export class WorkQueue {
  readonly #look: (key: string) => Promise<void>;
  readonly #onError: (key: string, error: unknown) => void;
  readonly #waiting = new Set<string>();
  readonly #failures = new Map<string, number>();
  readonly #timers = new Set<NodeJS.Timeout>();
  #running: Promise<void> | undefined;
  #closed = false;

  constructor(look: (key: string) => Promise<void>, onError: (key: string, error: unknown) => void) {
    this.#look = look;
    this.#onError = onError;
  }

  add(key: string): void {
    if (this.#closed) return;
    this.#waiting.add(key);
    this.#running ??= this.#run().finally(() => {
      this.#running = undefined;
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#waiting.clear();
    for (const timer of this.#timers) clearTimeout(timer);
    await this.#running;
  }

  async #run(): Promise<void> {
    // The event that led here may still be on its way to others.
    await Promise.resolve();
    for (const key of this.#waiting) {
      this.#waiting.delete(key);
      try {
        await this.#look(key);
        this.#failures.delete(key);
      } catch (error) {
        if (this.#closed) return;
        this.#onError(key, error);
        const failures = (this.#failures.get(key) ?? 0) + 1;
        this.#failures.set(key, failures);
        const timer = setTimeout(
          () => {
            this.#timers.delete(timer);
            this.add(key);
          },
          Math.min(FIRST_RETRY_MS * 2 ** failures, LAST_RETRY_MS),
        );
        this.#timers.add(timer);
      }
    }
  }
}
