import type { NftChange } from './change.ts';

/**
 * A plan as the transactions that it has to be: first the chains that nobody reaches yet, with their rules, then all
 * that makes them reachable. The kernel changes rules and elements of maps at one moment, but a packet that is on its
 * way through the base chain at that moment goes on with the rules of before and finds elements of after: a chain that
 * is new has no rules for it, so it falls through and is accepted. Seen as one packet of some ten thousand that
 * were sent to an isolated pod while policies changed without a pause; decision 30 has figures. Pure.
 */
export function inSteps(changes: readonly NftChange[]): NftChange[][] {
  const named = (change: NftChange) => `${change.family} ${'chain' in change ? change.chain : ''}`;
  const chains = new Set<string>();
  const removed = new Set<string>();
  const sets = new Set<string>();
  const removedSets = new Set<string>();
  for (const change of changes) {
    if (change.change === 'delete table') return [[...changes]];
    if (change.change === 'add chain' && !change.hook) chains.add(named(change));
    if (change.change === 'delete chain' || change.change === 'flush chain') removed.add(named(change));
    if (change.change === 'add set') sets.add(`${change.family} ${change.set.name}`);
    if (change.change === 'delete set') removedSets.add(`${change.family} ${change.set.name}`);
  }
  const again =
    [...chains].some((chain) => removed.has(chain)) || [...sets].some((set) => removedSets.has(set));
  if (chains.size === 0 || again) return [[...changes]];
  const ahead = (change: NftChange): boolean => {
    switch (change.change) {
      case 'add table':
      case 'add set':
        return true;
      case 'add chain':
      case 'add rule':
        return chains.has(named(change));
      case 'add elements':
        return sets.has(`${change.family} ${change.set.name}`);
      default:
        return false;
    }
  };
  return [changes.filter(ahead), changes.filter((change) => !ahead(change))].filter(
    (step) => step.length > 0,
  );
}
