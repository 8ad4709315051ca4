/** How a wanted table differs from the one that is there. */
export interface Difference<Wanted, Present> {
  readonly missing: readonly Wanted[];
  readonly changed: readonly { readonly wanted: Wanted; readonly present: Present }[];
  readonly superfluous: readonly Present[];
  readonly same: number;
}

/** Compares two tables row by row: `key` says which rows belong together, `same` whether they are equal. */
export function difference<Wanted, Present>(
  wanted: Iterable<Wanted>,
  present: Iterable<Present>,
  keyOfWanted: (row: Wanted) => string,
  keyOfPresent: (row: Present) => string,
  same: (wanted: Wanted, present: Present) => boolean,
): Difference<Wanted, Present> {
  const left = new Map<string, Present>();
  const superfluous: Present[] = [];
  for (const row of present) {
    const key = keyOfPresent(row);
    // A second row of one key is one too many, whichever of them is right.
    const other = left.get(key);
    if (other !== undefined) superfluous.push(other);
    left.set(key, row);
  }
  const missing: Wanted[] = [];
  const changed: { wanted: Wanted; present: Present }[] = [];
  let equal = 0;
  for (const row of wanted) {
    const key = keyOfWanted(row);
    const there = left.get(key);
    if (there === undefined) missing.push(row);
    else {
      left.delete(key);
      if (same(row, there)) equal++;
      else changed.push({ wanted: row, present: there });
    }
  }
  superfluous.push(...left.values());
  return { missing, changed, superfluous, same: equal };
}
