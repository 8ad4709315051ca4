/**
 * When stale datagram flows are looked for: at once, but never so often that a node does little else. A look that fails
 * is taken again by itself: until then datagrams go to endpoints that are gone.
 */
import type { ConntrackEntry, ConntrackFilter } from '../../../kernel/conntrack/index.ts';
import { cpuTimeMs } from '../../../reconcile/index.ts';
import type { PortChange } from './port-changes.ts';
import { StaleFlows } from './stale.ts';

/**
 * Rest after a walk through conntrack's table, in times of the CPU that the walk took: it has 262,144 buckets to look
 * at. What it waited for a processor is no reason to let datagrams go astray for longer.
 */
const REST = 4;

/** Wait after a look that failed, doubled each time until the longest. A change does not wait for it. */
const RETRY_MS = 100;
const LONGEST_RETRY_MS = 5_000;

/** Conntrack as it is needed here. */
export interface FlowTable extends Disposable {
  list(filter: ConntrackFilter): ConntrackEntry[];
  delete(entries: readonly ConntrackEntry[]): number;
}

export interface FlowCutterOptions {
  /** Throws what a kernel without memory or a process without descriptors makes it throw. */
  readonly open: () => FlowTable;
  /** Told the first failure, and undefined when what had failed is done. */
  readonly onFault?: ((error: Error | undefined) => void) | undefined;
  /** CPU time of this process so far, in ms. */
  readonly cpuMs?: () => number;
}

export class FlowCutter {
  readonly #options: FlowCutterOptions;
  readonly #stale = new StaleFlows();
  #restUntil = 0;
  #timer: NodeJS.Timeout | undefined;
  #failures = 0;

  constructor(options: FlowCutterOptions) {
    this.#options = options;
  }

  /** Ends what leads to backends that these changes took away, now, after the rest, or as soon as it can be done. */
  cut(changes: readonly PortChange[]): void {
    this.#stale.add(changes);
    if (this.#stale.families.size === 0) return;
    const wait = this.#restUntil - performance.now();
    if (wait <= 0) this.#look();
    else if (this.#failures > 0 || !this.#timer) this.#later(wait);
  }

  /** What is waiting is done now, or not at all. */
  close(): void {
    if (!this.#timer) return;
    this.#look();
    clearTimeout(this.#timer);
  }

  #later(waitMs: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#look(), waitMs);
    this.#timer.unref();
  }

  #look(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const error = this.#walk();
    if (error) {
      const retry = Math.min(LONGEST_RETRY_MS, RETRY_MS * 2 ** Math.min(10, this.#failures++));
      this.#later(Math.max(retry, this.#restUntil - performance.now()));
      if (this.#failures === 1) this.#options.onFault?.(error);
    } else if (this.#failures > 0) {
      this.#failures = 0;
      this.#options.onFault?.(undefined);
    }
  }

  /** Returns why flows of a family stay; the other one's end nevertheless. */
  #walk(): Error | undefined {
    const { open, cpuMs = cpuTimeMs } = this.#options;
    const before = cpuMs();
    let failure: Error | undefined;
    for (const family of this.#stale.families)
      try {
        using table = open();
        const flows = table.list({ family, protocol: 17 });
        table.delete(flows.filter((entry) => this.#stale.isStale(entry)));
        this.#stale.forget(family);
      } catch (error) {
        failure ??= error as Error;
      }
    this.#restUntil = performance.now() + REST * (cpuMs() - before);
    return failure;
  }
}
