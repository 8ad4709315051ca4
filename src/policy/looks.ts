/**
 * When to look at something dear after changes: soon, once more when what was on its way has arrived, and not more than
 * a tenth of the time however many changes there are.
 */

import { cpuTimeMs } from '../reconcile/index.ts';

/** A burst of changes makes one look. */
const SOON_MS = 5;
/** After the last change. */
const AGAIN_MS = 1000;
/** So many times as long as a look took, by its CPU time, nothing is looked at. */
const REST_TIMES = 10;

export interface Clock {
  /** Only goes forward. */
  nowMs(): number;
  /** CPU time so far. */
  spentMs(): number;
}

const CLOCK: Clock = { nowMs: () => performance.now(), spentMs: cpuTimeMs };

export class Looks {
  readonly #look: () => void;
  readonly #clock: Clock;
  #restUntil = 0;
  #first: NodeJS.Timeout | undefined;
  #second: NodeJS.Timeout | undefined;

  constructor(look: () => void, clock: Clock = CLOCK) {
    this.#look = look;
    this.#clock = clock;
  }

  /** Something changed. */
  soon(): void {
    // One that is waiting sees this change too: to begin anew would put it off as long as changes go on.
    this.#first ??= this.#after(SOON_MS, () => {
      this.#first = undefined;
    });
    this.again();
  }

  /** A look failed, or may have come too early. */
  again(): void {
    clearTimeout(this.#second);
    this.#second = this.#after(AGAIN_MS, () => {
      this.#second = undefined;
    });
  }

  close(): void {
    clearTimeout(this.#first);
    clearTimeout(this.#second);
  }

  #after(ms: number, begins: () => void): NodeJS.Timeout {
    const rest = this.#restUntil - this.#clock.nowMs();
    return setTimeout(
      () => {
        begins();
        const before = this.#clock.spentMs();
        this.#look();
        this.#restUntil = this.#clock.nowMs() + REST_TIMES * (this.#clock.spentMs() - before);
      },
      Math.max(ms, rest),
    ).unref();
  }
}
