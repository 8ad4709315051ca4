/** When stale datagram flows are looked for: at once, but never so often that a node does little else. */
import { Conntrack } from '../../../kernel/conntrack/index.ts';
import { cpuTimeMs } from '../../../reconcile/index.ts';
import type { PortChange } from './ledger.ts';
import { StaleFlows } from './stale.ts';

/**
 * Rest after a walk through conntrack's table, in times of the CPU that the walk took: it has 262,144 buckets to look
 * at. What it waited for a processor is no reason to let datagrams go astray for longer.
 */
const REST = 4;

export class FlowCutter {
  readonly #options: Parameters<typeof Conntrack.open>[0];
  #stale = new StaleFlows();
  #restUntil = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: Parameters<typeof Conntrack.open>[0]) {
    this.#options = options;
  }

  /** Ends what leads to backends that these changes took away, now or after the rest. Throws what conntrack throws. */
  cut(changes: readonly PortChange[]): void {
    this.#stale.add(changes);
    if (this.#timer || this.#stale.families.size === 0) return;
    const wait = this.#restUntil - performance.now();
    if (wait <= 0) this.#walk();
    else this.#timer = setTimeout(() => this.#later(), wait);
  }

  /** What is waiting is done now. */
  close(): void {
    if (!this.#timer) return;
    clearTimeout(this.#timer);
    this.#later();
  }

  #later(): void {
    this.#timer = undefined;
    try {
      this.#walk();
    } catch {
      // Still gathered; the next change looks again.
    }
  }

  #walk(): void {
    const before = cpuTimeMs();
    try {
      using conntrack = Conntrack.open(this.#options);
      for (const family of this.#stale.families)
        conntrack.delete(
          conntrack.list({ family, protocol: 17 }).filter((entry) => this.#stale.isStale(entry)),
        );
      this.#stale = new StaleFlows();
    } finally {
      this.#restUntil = performance.now() + REST * (cpuTimeMs() - before);
    }
  }
}
