/** Ports as the kernel last had them and as they are now, until somebody has seen to all that follows. Pure. */
import type { LedgerPort } from './ledger.ts';

/** A port before and after a change. */
export interface PortChange {
  readonly before: LedgerPort | undefined;
  readonly after: LedgerPort | undefined;
}

/** One change a port, however often it changes: what could not be written yet grows with the ports and no more. */
export class PortChanges {
  readonly #changes = new Map<string, PortChange>();

  add(key: string, { before, after }: PortChange): void {
    const first = this.#changes.get(key);
    const change = { before: first ? first.before : before, after };
    if (change.before || change.after) this.#changes.set(key, change);
    else this.#changes.delete(key);
  }

  /** Stays until settle(): whatever fails on the way is tried again with it. */
  get all(): PortChange[] {
    return [...this.#changes.values()];
  }

  settle(): void {
    this.#changes.clear();
  }
}
