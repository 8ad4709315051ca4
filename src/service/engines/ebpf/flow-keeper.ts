/**
 * When the tables of flows are looked at: seldom while nothing happens, and soon when flows come. Programs write a word
 * into a ring (lb_flow_news) for each so many new flows, and the ring wakes the agent. After a word it rests before it
 * listens again, shortly while the table could fill meanwhile: so a flood wakes it some times a second, and no packet.
 *
 *     listening ──a word, or the time that tend() gave──► look ──no word came──► listening
 *                                                         ▲  └──words──► rest ──┐
 *                                                         └─────────────────────┘
 */
import type { RingBuffer } from '../../../kernel/bpf/index.ts';
import { SOON_MS } from './flow-table.ts';

/** What is used of a ring; tests have their own. */
export type News = Pick<RingBuffer, 'start' | 'unref' | 'pause' | 'drain' | 'close'>;

/** A table of flows: FlowTable, NatTable. */
export interface KeptTable {
  /** Looks, and returns after how many milliseconds to look again. */
  tend(): number;
  /** How long it may be left alone, however many flows come. */
  readonly restMs: number;
}

export interface FlowKeeperOptions {
  readonly tables: readonly KeptTable[];
  /** Opens the ring; to be told each word that is drained. */
  readonly openNews: (onWord: () => void) => News;
  readonly onError: (error: unknown) => void;
}

export class FlowKeeper {
  readonly #options: FlowKeeperOptions;
  readonly #news: News;
  #timer: NodeJS.Timeout | undefined;
  #asked: NodeJS.Immediate | undefined;
  #words = 0;
  #looks = 0;

  /** Looks at once, and from then on. */
  constructor(options: FlowKeeperOptions) {
    this.#options = options;
    this.#news = options.openNews(() => {
      this.#words++;
      // Not from within the ring's reader, which goes on after this.
      this.#asked ??= setImmediate(() => this.#look());
    });
    this.#look();
  }

  /** How many looks there were. */
  get looks(): number {
    return this.#looks;
  }

  close(): void {
    clearTimeout(this.#timer);
    clearImmediate(this.#asked);
    this.#news.close();
  }

  #look(): void {
    clearTimeout(this.#timer);
    this.#news.pause();
    // Before the look: a word that comes after it wakes again.
    this.#news.drain();
    const words = this.#words;
    this.#words = 0;
    clearImmediate(this.#asked);
    this.#asked = undefined;
    this.#looks++;
    const { tables, onError } = this.#options;
    const waits = tables.map((table) => {
      try {
        return table.tend();
      } catch (error) {
        onError(error);
        return SOON_MS;
      }
    });
    if (words > 0) waits.push(...tables.map(({ restMs }) => restMs));
    else this.#news.start().unref();
    this.#timer = setTimeout(() => this.#look(), Math.min(...waits)).unref();
  }
}
