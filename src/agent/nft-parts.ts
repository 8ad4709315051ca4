/** Keeps chains of ours in the nft tables: written once, and put back when somebody deletes or edits them. */
import { concerns, monitorNft, NftGuard, type NftPart, type NftPlace } from '../kernel/nft/index.ts';
import { NFT_PREFIXES } from '../model/nft-parts.ts';
import { Reconciler } from '../reconcile/index.ts';

export class NftParts {
  readonly #guard: NftGuard;
  readonly #reconciler: Reconciler;
  #monitor: { close(): void } | undefined;

  constructor(name: string, parts: readonly NftPart[], place: NftPlace = {}) {
    const neighbours = NFT_PREFIXES;
    this.#guard = new NftGuard({ ...place, neighbours });
    this.#reconciler = new Reconciler({
      name,
      run: () => {
        for (const part of parts) this.#guard.ensure(part);
      },
    });
    this.#monitor = monitorNft({
      ...place,
      onEvent: (event) => {
        const ours = parts.some(
          ({ table, prefix }) => table === event.table && concerns(event, { prefix, neighbours }),
        );
        if (ours) this.#reconciler.trigger();
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
