/** Whose new flows found no place: words that programs write into lb_flow_news (bpf/include/lb_news.h). */
import { viewOf } from '../../../codec/index.ts';
import type { RefusedFlow } from '../../engine.ts';

/** LB_NEWS_REFUSED, LB_NEWS_REFUSED_NAT: which table, above the number of the Service port. */
const TABLE = { lb_flows: 0x4000_0000, lb_nat_flows: 0x8000_0000 } as const;
const NUMBER = 0x3fff_ffff;

/** What a word of the ring says; undefined: nothing was refused. Pure. */
export function refusedFlow(
  record: Uint8Array,
): { store: RefusedFlow['store']; service: number } | undefined {
  if (record.length < 4) return undefined;
  const word = viewOf(record).getUint32(0, true);
  const table = word - (word & NUMBER);
  for (const store of ['lb_flows', 'lb_nat_flows'] as const)
    if (table === TABLE[store]) return { store, service: word & NUMBER };
  return undefined;
}

/** Whose port a key is: `namespace/name:port/TCP/ip4`, or without the port's name. Pure. */
export function serviceOf(key: string): string {
  return key.replace(/(:[^/]*)?\/[A-Z]+\/ip[46]$/, '');
}

/** Of a table that a flow found no place in. */
interface Table {
  /** Places in use, as far as is known. */
  readonly used: number;
  readonly limit: number;
}

/** A flood refused is told so often at the most. */
const AGAIN_MS = 1_000;

/** Reads the words, and names the Service. */
export class RefusedFlows {
  readonly #tables: Readonly<Record<RefusedFlow['store'], Table>>;
  readonly #ports: () => Iterable<[key: string, port: { readonly service: number }]>;
  readonly #now: () => number;
  /** When each word was told last. */
  readonly #told = new Map<string, number>();

  /** `ports`: all Service ports by their keys, with their numbers. */
  constructor(
    tables: Readonly<Record<RefusedFlow['store'], Table>>,
    ports: () => Iterable<[key: string, port: { readonly service: number }]>,
    now: () => number = () => performance.now(),
  ) {
    this.#tables = tables;
    this.#ports = ports;
    this.#now = now;
  }

  /** undefined: nobody was refused, or it was told just now. */
  read(record: Uint8Array): RefusedFlow | undefined {
    const found = refusedFlow(record);
    if (!found) return undefined;
    const { store, service: number } = found;
    const name = `${store} ${number}`;
    const now = this.#now();
    if (now - (this.#told.get(name) ?? Number.NEGATIVE_INFINITY) < AGAIN_MS) return undefined;
    // Those that were told longer ago may be told again in any case.
    for (const [key, at] of this.#told) if (now - at >= AGAIN_MS) this.#told.delete(key);
    this.#told.set(name, now);
    for (const [key, port] of this.#ports()) {
      if (port.service !== number) continue;
      const { used, limit } = this.#tables[store];
      return { service: serviceOf(key), store, used, limit };
    }
    return undefined;
  }
}
