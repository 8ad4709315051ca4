/**
 * From what the kernel has to what is wanted, as one transaction. Pure.
 *
 *     new sets ─► elements out ─► chains ─► rules ─► elements in ─► chains out ─► sets out
 *
 * Traffic sees the old rules or the new ones, and never none. When only elements differ, only they are changed.
 */
import type { Family } from '../addr/index.ts';
import {
  changesText,
  type NftChange,
  type NftRuleFound,
  type NftSetShape,
  removal,
  ruleChanges,
  ruleSeal,
  ruleText,
} from '../kernel/nft/index.ts';
import { NFT_TABLE } from '../model/nft-parts.ts';
import { comment, nftFamily } from './names.ts';
import type { Chain, SetTable, Tables } from './tables.ts';

export interface PolicyPlan {
  readonly family: Family;
  /** In the order in which they are carried out. */
  readonly changes: readonly NftChange[];
}

/** Rules of chains in their order. */
export type StandingRules = ReadonlyMap<string, readonly Pick<NftRuleFound, 'handle' | 'leadsTo'>[]>;

/**
 * `applied` are the chains that the kernel has; a chain whose rules are not known is undefined. `clear` comes first in
 * the same transaction: it removes a part that has to be made anew. Rules that are in `standing` and stay the same are
 * left with what they have counted; without it a chain is written anew.
 */
export function planPolicy(
  family: Family,
  applied: ReadonlyMap<string, Chain | undefined>,
  tables: Tables,
  clear: readonly NftChange[] = [],
  standing: StandingRules = new Map(),
): PolicyPlan {
  const table = { family: nftFamily(family), table: NFT_TABLE };
  const changedChains = [...tables.chains].filter(([name, chain]) => !sameChain(applied.get(name), chain));
  const goneChains = [...applied.keys()].filter((name) => !tables.chains.has(name));
  const newSets = [...tables.sets.values()].filter((set) => !set.inKernel);
  const goneSets = [...tables.retired.values()].filter((set) => set.inKernel);
  const elements = [...tables.sets.values()].flatMap((set) => {
    if (set.touched.size === 0) return [];
    return [{ set: shapeOf(set), ...set.changes() }];
  });
  const structural =
    changedChains.length + goneChains.length + newSets.length + goneSets.length + clear.length > 0;
  const changes: NftChange[] = structural ? [{ ...table, change: 'add table' }, ...clear] : [];
  for (const set of newSets) changes.push({ ...table, change: 'add set', set: shapeOf(set) });
  for (const { set, deletes } of elements)
    if (deletes.length > 0) changes.push({ ...table, change: 'delete elements', set, elements: deletes });
  const kept = new Map(
    changedChains.flatMap(([chain, { rules }]) => {
      const found = knownRules(applied.get(chain), standing.get(chain));
      return found ? [[chain, ruleChanges({ ...table, chain }, found, rules, () => true)] as const] : [];
    }),
  );
  for (const { deletes } of kept.values()) changes.push(...deletes);
  for (const [chain, { hook }] of changedChains) {
    if (kept.has(chain)) continue;
    if (applied.has(chain)) changes.push({ ...table, change: 'flush chain', chain });
    // Somebody may have given it another policy.
    const unsure = applied.get(chain) === undefined && hook !== undefined;
    if (unsure || !applied.has(chain)) changes.push({ ...table, change: 'add chain', chain, hook });
  }
  for (const { adds } of kept.values()) changes.push(...adds);
  for (const [chain, { rules }] of changedChains)
    if (!kept.has(chain))
      for (const rule of rules) changes.push({ ...table, change: 'add rule', chain, rule, sealed: true });
  for (const { set, adds } of elements)
    if (adds.length > 0) changes.push({ ...table, change: 'add elements', set, elements: adds });
  for (const chain of goneChains) changes.push({ ...table, change: 'flush chain', chain });
  for (const set of goneSets) changes.push({ ...table, change: 'delete set', set: shapeOf(set) });
  for (const chain of goneChains) changes.push({ ...table, change: 'delete chain', chain });
  return { family, changes };
}

/** The rules of a chain as the kernel tells them, when they are those that were written. */
function knownRules(chain: Chain | undefined, found: ReturnType<StandingRules['get']>) {
  if (!chain || found?.length !== chain.rules.length) return undefined;
  return found.map(({ handle, leadsTo }, at) => ({ handle, leadsTo, seal: ruleSeal(chain.rules[at]!) }));
}

export function isEmptyPlan({ changes }: PolicyPlan): boolean {
  return changes.length === 0;
}

/** A plan as `policy plan` prints it: nft text. */
export function policyPlanText({ changes }: PolicyPlan): string {
  return changesText(changes);
}

/** Removes chains and sets whatever they hold; lines of one transaction. */
export function clearChanges(
  family: Family,
  chains: Iterable<string>,
  sets: Iterable<{ readonly name: string; readonly map: boolean }>,
): NftChange[] {
  return removal({ family: nftFamily(family), table: NFT_TABLE }, { chains: [...chains], sets: [...sets] });
}

function shapeOf({ name, kind, comment: about }: SetTable): NftSetShape {
  return { name, map: kind.map, key: kind.key, comment: kind.map ? undefined : comment(about) };
}

function sameChain(a: Chain | undefined, b: Chain): boolean {
  if (a === b) return true;
  return (
    a !== undefined &&
    a.rules.length === b.rules.length &&
    a.rules.every((rule, at) => rule === b.rules[at] || ruleText(rule) === ruleText(b.rules[at]!))
  );
}
