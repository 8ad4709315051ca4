/**
 * Maglev consistent hashing: a table of backend indexes of prime size, in which each backend has its share, the
 * same on every node that knows the same backends, and from which a backend can go while nearly all other entries
 * stay. Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, 3.4.
 */

/** A backend as the table sees it. */
export interface MaglevMember {
  /** What its place derives from, e.g. `10.244.1.2:80`. */
  readonly name: string;
  /** Share of the table, relative to the others; 0 is left out. */
  readonly weight: number;
}

/** Primes for tables, about a factor of two apart. */
const PRIMES: readonly number[] = [251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521, 131_071];

/** How much larger than the number of backends a table is: shares then differ by about 1 %. */
const ENTRIES_PER_WEIGHT = 100;

/** Table size for members of this total weight. */
export function maglevSize(totalWeight: number): number {
  return PRIMES.find((prime) => prime >= totalWeight * ENTRIES_PER_WEIGHT) ?? PRIMES.at(-1)!;
}

/**
 * Fills a table of `size` (a prime) with indexes into `members`. Members of larger weight take their turns more
 * often. An empty list gives an empty table.
 */
export function maglevTable(members: readonly MaglevMember[], size: number): Uint32Array {
  const live = members.flatMap((member, index) => (member.weight > 0 ? [{ ...member, index }] : []));
  if (live.length === 0) return new Uint32Array(0);
  const heaviest = live.reduce((most, { weight }) => Math.max(most, weight), 0);
  const free = 0xffff_ffff;
  const table = new Uint32Array(size).fill(free);
  const offset = new Float64Array(live.length);
  const skip = new Float64Array(live.length);
  const turn = new Float64Array(live.length);
  live.forEach(({ name }, at) => {
    offset[at] = hash32(name, 0x9e37_79b1) % size;
    skip[at] = (hash32(name, 0x85eb_ca77) % (size - 1)) + 1;
  });
  for (let filled = 0; ; ) {
    for (let at = 0; at < live.length; at++) {
      // A member of half the weight of the heaviest takes every second turn.
      turn[at]! += live[at]!.weight;
      if (turn[at]! < heaviest) continue;
      turn[at]! -= heaviest;
      let place = offset[at]!;
      while (table[place] !== free) place = (place + skip[at]!) % size;
      table[place] = live[at]!.index;
      offset[at] = (place + skip[at]!) % size;
      if (++filled === size) return table;
    }
  }
}

/** MurmurHash3, 32 bit, over UTF-16 code units: fast in JavaScript and well spread over short texts. */
function hash32(text: string, seed: number): number {
  let h = seed;
  for (let at = 0; at < text.length; at++) {
    let k = Math.imul(text.charCodeAt(at), 0xcc9e_2d51);
    k = Math.imul((k << 15) | (k >>> 17), 0x1b87_3593);
    h ^= k;
    h = (Math.imul((h << 13) | (h >>> 19), 5) + 0xe654_6b64) | 0;
  }
  h ^= text.length;
  h = Math.imul(h ^ (h >>> 16), 0x85eb_ca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2_ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
