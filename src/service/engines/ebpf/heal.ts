/**
 * What others did to what is ours: maps written or pins removed by hand, programs detached. Looked for a piece at a
 * time, so that a large node is not held up, and put right at once.
 */
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { adoptMap, unpin } from '../../../kernel/bpf/index.ts';
import { cpuTimeMs } from '../../../reconcile/index.ts';
import type { Pause, Repairs } from '../../engine.ts';
import type { Links } from './links.ts';
import { type EngineObjects, SHARED } from './objects.ts';
import type { Writer } from './writer.ts';

export interface HealParts {
  readonly objects: EngineObjects;
  readonly links: Links;
  readonly writer: () => Writer;
  /** What lb_config ought to hold; undefined before it was set. */
  readonly config: () => Uint8Array | undefined;
}

/** The event loop is not held up for longer, but for the frontends, which are looked at in one go. */
const TURN_MS = 2;

/** How often programs, pins and settings are looked at while a tour through all entries takes longer. */
const ATTACHED_MS = 25_000;

export class Healer {
  readonly #parts: HealParts;
  #count = 0;
  #last: Repairs['last'];
  /** A tour through all entries that is under way. */
  #tour: { readonly writer: Writer; readonly pieces: Generator<string[]> } | undefined;

  constructor(parts: HealParts) {
    this.#parts = parts;
  }

  get repairs(): Repairs {
    return { count: this.#count, ...(this.#last ? { last: this.#last } : {}) };
  }

  /** Everything that is not as it ought to be, as text; nothing is changed. */
  look(): string[] {
    return [...this.#attached(false), ...[...this.#parts.writer().foreign(false)].flat()];
  }

  /**
   * Puts everything right; returns what was wrong. With `pause` entries are looked at over many calls: each begins
   * with what is attached and pinned, goes on where the last one ended, and ends as soon as it has something to tell.
   */
  async heal(pause?: Pause): Promise<string[]> {
    const { writer } = this.#parts;
    const found = this.#attached(true);
    let looked = performance.now();
    let since = cpuTimeMs();
    if (!pause || this.#tour?.writer !== writer())
      this.#tour = { writer: writer(), pieces: writer().foreign(true) };
    const tour = this.#tour;
    try {
      for (;;) {
        const { done, value } = tour.pieces.next();
        if (done) {
          tour.writer.trim();
          this.#tour = undefined;
          break;
        }
        found.push(...value);
        const costMs = cpuTimeMs() - since;
        if (costMs < TURN_MS) continue;
        const goOn = await (pause?.(costMs) ?? turn(true));
        // After a failure everything is read again, and compared by what comes then.
        if (!goOn || writer() !== tour.writer) break;
        since = cpuTimeMs();
        if (pause && performance.now() - looked >= ATTACHED_MS) {
          found.push(...this.#attached(true));
          looked = performance.now();
        }
        if (pause && found.length > 0) break;
      }
    } catch (error) {
      this.#tour = undefined;
      throw error;
    } finally {
      if (found.length > 0) {
        this.#count += found.length;
        this.#last = { at: new Date().toISOString(), what: found };
      }
    }
    return found;
  }

  #attached(repair: boolean): string[] {
    return [...this.#parts.links.foreign(repair), ...this.#pins(repair), ...this.#config(repair)];
  }

  /** Without its pin a map would be lost to the next process. */
  #pins(repair: boolean): string[] {
    const { folder, maps } = this.#parts.objects;
    const found: string[] = [];
    for (const name of SHARED) {
      const map = maps[name];
      const path = join(folder, name);
      using pinned = adoptMap(path, name);
      if (pinned?.info().id === map.info().id) continue;
      found.push(`${name} ${pinned ? 'is another map at its pin' : 'is not pinned'}`);
      if (!repair) continue;
      unpin(path);
      map.pin(path);
    }
    return found;
  }

  #config(repair: boolean): string[] {
    const wanted = this.#parts.config();
    const { lb_config } = this.#parts.objects.maps;
    const key = new Uint8Array(4);
    if (!wanted || Buffer.compare(wanted, lb_config.get(key) ?? new Uint8Array(0)) === 0) return [];
    if (repair) lb_config.set(key, wanted);
    return ['lb_config was changed'];
  }
}
