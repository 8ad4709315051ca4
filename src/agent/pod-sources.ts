/** Keeps the rules of src/podlink/source-part.ts as the pods of this node are, where no program at their links does it. */
import { FAMILIES } from '../addr/index.ts';
import type { Log } from '../client/index.ts';
import type { Attachment } from '../ipam/index.ts';
import { concerns, monitorNft, NftGuard, NftRuleset } from '../kernel/nft/index.ts';
import { NFT_PREFIXES, NFT_TABLE } from '../model/nft-parts.ts';
import { SOURCE_PREFIX, type SourceLink, SPOOFED, sourceLinkOf, sourcePart } from '../podlink/index.ts';
import { Reconciler } from '../reconcile/index.ts';

export class PodSources {
  readonly #guard = new NftGuard({ neighbours: NFT_PREFIXES });
  readonly #ruleset = NftRuleset.open();
  readonly #links = new Map<string, SourceLink>();
  readonly #checked: boolean;
  readonly #log: Log;
  readonly #reconciler: Reconciler;
  #monitor: { close(): void } | undefined;
  #started = false;
  /** What was counted by rules that are gone, because somebody deleted them or there was no pod. */
  #before = 0;
  #last = 0;

  /** `checked`: whether packets with other sources are dropped here; else rules of an earlier agent are taken away. */
  constructor({ checked, log }: { checked: boolean; log: Log }) {
    this.#checked = checked;
    this.#log = log;
    this.#reconciler = new Reconciler({ name: 'source addresses of pods', run: () => this.#write() });
  }

  get status() {
    return this.#reconciler.status;
  }

  /** Begins with the pods that are there. */
  start(attachments: readonly Attachment[]): void {
    for (const each of attachments) this.#links.set(each.hostLink, sourceLinkOf(each));
    this.#started = true;
    if (this.#checked)
      this.#monitor = monitorNft({
        onEvent: (event) => {
          const owner = { prefix: SOURCE_PREFIX, neighbours: NFT_PREFIXES };
          if (event.table === NFT_TABLE && concerns(event, owner)) this.#reconciler.trigger();
        },
        onResync: () => this.#reconciler.trigger(),
      });
    this.#reconciler.start();
  }

  /** Before the pod has a link. What fails is tried again, and told by `status`. */
  add(attachment: Attachment): void {
    this.#links.set(attachment.hostLink, sourceLinkOf(attachment));
    this.#changed();
  }

  remove({ hostLink }: { readonly hostLink: string }): void {
    if (this.#links.delete(hostLink)) this.#changed();
  }

  /** Packets that were dropped, under the name that the eBPF engine has for it. */
  counters(): Record<string, number> {
    return this.#checked ? { 'drop-spoofed': this.#counted() } : {};
  }

  async close(): Promise<void> {
    this.#monitor?.close();
    await this.#reconciler.stop();
    this.#guard.close();
    this.#ruleset.close();
  }

  #changed(): void {
    if (!this.#checked || !this.#started) return;
    try {
      this.#write();
    } catch (error) {
      this.#log.warn({ error: (error as Error).message }, 'source addresses of pods');
      this.#reconciler.trigger();
    }
  }

  #write(): void {
    const links = this.#checked ? [...this.#links.values()] : [];
    for (const family of FAMILIES) this.#guard.ensure(sourcePart(family, links));
  }

  #counted(): number {
    let now = 0;
    for (const family of FAMILIES)
      for (const { comment, packets } of this.#ruleset.rules(sourcePart(family, [])))
        if (comment === SPOOFED) now += packets ?? 0;
    if (now < this.#last) this.#before += this.#last;
    this.#last = now;
    return this.#before + now;
  }
}
