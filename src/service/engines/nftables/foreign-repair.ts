/** When somebody else changed the tables: what is put right, how often, and what is told about it. */
import type { Repairs } from '../../engine.ts';
import { Damage } from './damage.ts';
import { TABLE } from './layout.ts';

/** Somebody who undoes every repair at once is answered this often. */
const PAUSE_MS = 50;
/** Wait after a repair that failed, doubled each time until the longest. */
const RETRY_MS = 1000;
const LONGEST_RETRY_MS = 30_000;

export interface RepairOptions {
  /** Puts right what differs, only there if it is known where; returns how many changes that were. */
  readonly run: (damage: Damage | undefined) => number;
  readonly onRepaired?: ((error: Error | undefined) => void) | undefined;
}

export class ForeignRepair {
  readonly #options: RepairOptions;
  #timer: NodeJS.Timeout | undefined;
  #lastAt = 0;
  /** Undefined: perhaps everywhere. */
  #damage: Damage | undefined = new Damage();
  #repairs: Repairs = { count: 0 };
  #failures = 0;
  #closed = false;

  constructor(options: RepairOptions) {
    this.#options = options;
  }

  get repairs(): Repairs {
    return this.#repairs;
  }

  /** Soon; undefined: perhaps everything was changed. */
  schedule(damage: Damage | undefined): void {
    if (damage === undefined) this.#damage = undefined;
    else this.#damage?.merge(damage);
    if (this.#timer || this.#closed) return;
    const wait = Math.max(0, this.#lastAt + PAUSE_MS - performance.now());
    this.#timer = setTimeout(() => this.#run(), wait);
    this.#timer.unref();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
  }

  #run(): void {
    this.#timer = undefined;
    const damage = this.#damage;
    this.#damage = new Damage();
    try {
      const changes = this.#options.run(damage);
      if (changes > 0) {
        this.#repairs = {
          count: this.#repairs.count + 1,
          last: { at: new Date().toISOString(), what: [`${changes} changes of table ${TABLE}`] },
        };
        this.#options.onRepaired?.(undefined);
      }
      this.#failures = 0;
    } catch (error) {
      const wait = Math.min(LONGEST_RETRY_MS, RETRY_MS * 2 ** Math.min(10, this.#failures++));
      setTimeout(() => this.schedule(undefined), wait).unref();
      this.#options.onRepaired?.(error as Error);
    }
    this.#lastAt = performance.now();
  }
}
