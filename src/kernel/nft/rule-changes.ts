/** From the rules that a chain has to those that are wanted: those that are the same stay, and their counters. Pure. */
import type { NftChange, NftTableName } from './change.ts';
import type { NftRuleFound } from './dump.ts';
import type { Difference } from './element-changes.ts';
import type { NftRule } from './rule.ts';
import { ruleSeal } from './seal.ts';
import { targetsOf } from './statements.ts';

/** Larger tables of comparison are not made: nothing between the first and the last difference stays then. */
const MOST_PAIRS = 4_000_000;

/**
 * `keeps` says whether a rule may stay when it is there. One that leads to a chain which somebody gave another name is
 * not the one that was written, whatever its seal says.
 */
export function ruleChanges(
  chain: NftTableName & { readonly chain: string },
  found: readonly Pick<NftRuleFound, 'handle' | 'seal' | 'leadsTo'>[],
  wanted: readonly NftRule[],
  keeps: (rule: NftRule) => boolean,
): Difference {
  const stays = common(
    found.map(({ seal, leadsTo }) => seal && `${seal} ${leadsTo}`),
    wanted.map((rule) => (keeps(rule) ? `${ruleSeal(rule)} ${targetsOf(rule)}` : undefined)),
  );
  const kept = new Set(stays);
  const deletes = found.flatMap(({ handle }, at): NftChange[] =>
    kept.has(at) ? [] : [{ ...chain, change: 'delete rule', handle }],
  );
  const adds: NftChange[] = [];
  let before: bigint | undefined;
  for (let at = wanted.length - 1; at >= 0; at--) {
    const there = stays[at];
    if (there !== undefined) before = found[there]!.handle;
    else adds.push({ ...chain, change: 'add rule', rule: wanted[at]!, sealed: true, before });
  }
  return { deletes, adds: adds.reverse() };
}

/** Whether these are the rules, all of them in their order and as they were written. */
export function areRules(
  found: readonly Pick<NftRuleFound, 'seal' | 'leadsTo'>[],
  wanted: readonly NftRule[],
): boolean {
  return (
    found.length === wanted.length &&
    found.every(({ seal, leadsTo }, at) => {
      const rule = wanted[at]!;
      return seal === ruleSeal(rule) && `${leadsTo}` === `${targetsOf(rule)}`;
    })
  );
}

/** For each of `b` its place in `a`, if it is of a longest common subsequence; undefined equals nothing. */
function common(
  a: readonly (string | undefined)[],
  b: readonly (string | undefined)[],
): (number | undefined)[] {
  const same = (i: number, j: number) => a[i] !== undefined && a[i] === b[j];
  const places = new Array<number | undefined>(b.length).fill(undefined);
  let first = 0;
  while (first < a.length && first < b.length && same(first, first)) places[first] = first++;
  let endA = a.length;
  let endB = b.length;
  while (endA > first && endB > first && same(endA - 1, endB - 1)) places[--endB] = --endA;
  const rows = endA - first;
  const columns = endB - first;
  if (rows * columns === 0 || rows * columns > MOST_PAIRS) return places;
  // Lengths of common subsequences of what is left from (row, column) on.
  const width = columns + 1;
  const lengths = new Uint32Array((rows + 1) * width);
  for (let row = rows - 1; row >= 0; row--)
    for (let column = columns - 1; column >= 0; column--)
      lengths[row * width + column] = same(first + row, first + column)
        ? lengths[(row + 1) * width + column + 1]! + 1
        : Math.max(lengths[(row + 1) * width + column]!, lengths[row * width + column + 1]!);
  for (let row = 0, column = 0; row < rows && column < columns; )
    if (same(first + row, first + column)) places[first + column++] = first + row++;
    else if (lengths[(row + 1) * width + column]! >= lengths[row * width + column + 1]!) row++;
    else column++;
  return places;
}
