/** Keeps chains of ours in the nft tables: written once, and put back when somebody deletes or edits them. */
import { monitorNft, NftGuard, type NftPart, type NftPlace } from '../kernel/nft/index.ts';
import { Reconciler } from '../reconcile/index.ts';

export class NftParts {
  readonly #guard: NftGuard;
  readonly #reconciler: Reconciler;
  #monitor: { close(): void } | undefined;

  constructor(name: string, parts: readonly NftPart[], place: NftPlace = {}) {
    this.#guard = new NftGuard(place);
    const ours = (table: string, name = '') =>
      parts.some((part) => part.table === table && (name === '' || name.startsWith(part.prefix)));
    this.#reconciler = new Reconciler({
      name,
      run: () => {
        for (const part of parts) this.#guard.ensure(part);
      },
    });
    this.#monitor = monitorNft({
      ...place,
      onEvent: ({ table, name }) => {
        if (ours(table, name)) this.#reconciler.trigger();
      },
      onResync: () => this.#reconciler.trigger(),
    });
  }

  get status() {
    return this.#reconciler.status;
  }

  /** Resolves when everything has been written, or could not be. */
  idle(): Promise<void> {
    return this.#reconciler.idle();
  }

  start(): void {
    this.#reconciler.start();
  }

  async stop(): Promise<void> {
    this.#monitor?.close();
    await this.#reconciler.stop();
    this.#guard.close();
  }
}
