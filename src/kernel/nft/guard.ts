import { setTimeout as sleep } from 'node:timers/promises';
import type { NetlinkSocket } from '../netlink/index.ts';
import { nftGeneration, openNfnetlink } from './monitor.ts';
import { listNftJson, type NftObject, type NftPlace, runNft } from './transaction.ts';

/** Part of one table that one owner keeps: its chains and sets, told by the prefix of their names. */
export interface NftPart {
  /** `ip`, `ip6` or `inet`. */
  readonly family: string;
  readonly table: string;
  readonly prefix: string;
  /** Makes exactly the wanted chains and sets out of whatever is there. */
  readonly script: string;
}

/** Owners of parts of one table that write at the same moment give way to each other, this often and for this long. */
const MOST_TRIES = 8;
const PAUSE_MS = 20;

/**
 * Keeps parts of tables as their scripts make them. What a table has to look like is not computed but read back
 * right after the transaction, with the ruleset's generation as proof that nobody came in between. Later listings
 * are compared with that: whoever adds, moves or deletes a rule of the part is found out. Without that proof nothing
 * is known, and the next call writes again; the notification of the last write asks for it.
 */
export class NftGuard {
  readonly #place: NftPlace;
  readonly #socket: NetlinkSocket;
  readonly #known = new Map<string, { script: string; looks: string; generation: number | undefined }>();

  constructor(place: NftPlace) {
    this.#place = place;
    this.#socket = openNfnetlink(place);
  }

  close(): void {
    this.#socket.close();
  }

  /** Puts a part right where it differs; returns true if it had to. Throws NFT_REFUSED, NFT_MISSING. */
  async ensure(part: NftPart): Promise<boolean> {
    const key = `${part.family} ${part.table} ${part.prefix}`;
    const known = this.#known.get(key);
    if (known?.script === part.script) {
      const generation = nftGeneration(this.#socket);
      if (generation !== undefined && generation === known.generation) return false;
      if ((await this.#looks(part)) === known.looks) {
        this.#known.set(key, { ...known, generation });
        return false;
      }
    }
    for (let tries = 0; ; tries++) {
      const before = nftGeneration(this.#socket);
      await runNft({
        ...this.#place,
        script: part.script,
        what: `apply rules of table ${part.family} ${part.table}`,
      });
      const looks = await this.#looks(part);
      const after = nftGeneration(this.#socket);
      const alone = before === undefined || after === ((before + 1) & 0xffff_ffff);
      if (alone) {
        this.#known.set(key, { script: part.script, looks, generation: after });
        return true;
      }
      // Somebody came in between, perhaps to delete what was just made: such a picture must not become the measure.
      this.#known.delete(key);
      if (tries >= MOST_TRIES) return true;
      await sleep(Math.random() * PAUSE_MS);
    }
  }

  async #looks({ family, table, prefix }: NftPart): Promise<string> {
    const objects = (await listNftJson({ ...this.#place, query: ['table', family, table] })) ?? [];
    return partLooks(objects, prefix);
  }
}

/** Canonical text of the part of a listing: order of rules kept, handles and counters left out. */
export function partLooks(objects: readonly NftObject[], prefix: string): string {
  const lines: string[] = [];
  for (const object of objects)
    for (const [kind, value] of Object.entries(object)) {
      const name = kind === 'rule' ? value['chain'] : value['name'];
      if (kind === 'metainfo' || kind === 'table' || kind === 'counter') continue;
      if (typeof name !== 'string' || !name.startsWith(prefix)) continue;
      lines.push(`${kind} ${JSON.stringify(normal(value))}`);
    }
  return lines.join('\n');
}

function normal(value: unknown, key = ''): unknown {
  if (Array.isArray(value)) {
    const items = value.map((item) => normal(item));
    // The kernel lists elements of sets by their hash.
    return key === 'elem' || key === 'set' ? items.map((item) => JSON.stringify(item)).sort() : items;
  }
  if (typeof value !== 'object' || value === null) return value;
  const out: Record<string, unknown> = {};
  for (const [name, inner] of Object.entries(value)) {
    if (name === 'handle') continue;
    out[name] = name === 'counter' && typeof inner === 'object' ? 'counter' : normal(inner, name);
  }
  return out;
}
