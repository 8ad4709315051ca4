/** A part of one table that one owner keeps: chains and sets whose names begin alike. Pure. */
import type { NftChange, NftHook, NftSetShape, NftTableName } from './change.ts';
import { changesText } from './change.ts';
import { type NftChainFound, type NftRuleFound, sameHook } from './dump.ts';
import type { NftSetFound } from './dump-sets.ts';
import { elementChanges } from './element-changes.ts';
import type { NftRule } from './rule.ts';
import { ruleChanges } from './rule-changes.ts';
import { ruleText } from './rule-text.ts';
import type { NftElement } from './set-element.ts';

export interface NftPartChain {
  /** Whole, with the part's prefix. */
  readonly name: string;
  readonly hook?: NftHook;
  readonly rules: readonly NftRule[];
}

export interface NftPartSet extends NftSetShape {
  readonly elements: readonly NftElement[];
}

export interface NftPart extends NftTableName {
  /** Whatever begins so belongs to the part, and goes when it is wanted no more. */
  readonly prefix: string;
  readonly sets: readonly NftPartSet[];
  /** None jumps to a later one. */
  readonly chains: readonly NftPartChain[];
}

/** What there is of a part. */
export interface NftPartFound {
  readonly chains: readonly (Pick<NftChainFound, 'name' | 'hook'> & {
    readonly rules: readonly Pick<NftRuleFound, 'handle' | 'seal' | 'leadsTo'>[];
  })[];
  /** Of sets that are not wanted so, no elements are needed. */
  readonly sets: readonly (Omit<NftSetFound, 'handle'> & { readonly elements: readonly NftElement[] })[];
}

const NOTHING: NftPartFound = { chains: [], sets: [] };

/**
 * What makes the wanted part of whatever there is. Chains, sets, rules and elements that are as wanted stay, with what
 * they have counted. Nothing to do is no change.
 */
export function partChanges(part: NftPart, found: NftPartFound = NOTHING): NftChange[] {
  const { family, table } = part;
  const at = { family, table };
  const standing = new Map(
    found.chains.flatMap((chain) => {
      const wanted = part.chains.find(({ name }) => name === chain.name);
      return wanted && sameHook(chain.hook, wanted.hook, false) ? [[chain.name, chain] as const] : [];
    }),
  );
  const standingSets = new Map(
    found.sets.flatMap((set) => {
      const wanted = part.sets.find(({ name }) => name === set.name);
      return wanted && sameShape(set, wanted) ? [[set.name, set] as const] : [];
    }),
  );
  const newChains = part.chains.filter(({ name }) => !standing.has(name));
  const newSets = part.sets.filter(({ name }) => !standingSets.has(name));
  // A rule is bound to chains and sets themselves, not to their names.
  const unbound = new Set([...newChains, ...newSets].map(({ name }) => name));
  const keeps = (rule: NftRule) => !namesIn(rule).some((name) => unbound.has(name));
  const rules = part.chains.map(({ name, rules }) =>
    ruleChanges({ ...at, chain: name }, standing.get(name)?.rules ?? [], rules, keeps),
  );
  const elements = part.sets.map((set) =>
    elementChanges(at, set, standingSets.get(set.name)?.elements ?? [], set.elements),
  );
  const otherPolicy = part.chains.filter(({ name, hook }) => {
    const there = standing.get(name);
    return there && !sameHook(there.hook, hook);
  });
  const changes: NftChange[] = [
    ...elements.flatMap(({ deletes }) => deletes),
    ...rules.flatMap(({ deletes }) => deletes),
    ...removal(at, {
      chains: found.chains.flatMap(({ name }) => (standing.has(name) ? [] : [name])),
      sets: found.sets.filter(({ name }) => !standingSets.has(name)),
    }),
    ...newSets.map((set): NftChange => ({ ...at, change: 'add set', set })),
    ...[...newChains, ...otherPolicy].map(
      ({ name, hook }): NftChange => ({ ...at, change: 'add chain', chain: name, hook }),
    ),
    ...rules.flatMap(({ adds }) => adds),
    ...elements.flatMap(({ adds }) => adds),
  ];
  const wanted = part.sets.length + part.chains.length > 0;
  return wanted && changes.length > 0 ? [{ ...at, change: 'add table' }, ...changes] : changes;
}

/** Names in a rule, those of chains and sets among them. */
function namesIn(rule: NftRule): string[] {
  return ruleText(rule).split(/[\s@]+/);
}

/** Whether a set is as it is wanted, as far as that can be told and is not changed in place. */
export function sameShape(found: Omit<NftSetFound, 'handle'>, wanted: NftSetShape): boolean {
  return (
    found.map === wanted.map &&
    found.key === wanted.key &&
    found.data === wanted.data &&
    found.interval === (wanted.interval ?? false) &&
    found.dynamic === (wanted.dynamic ?? false) &&
    found.timeoutMs === wanted.timeoutMs
  );
}

/** Removes chains and sets whatever they hold. */
export function removal(
  at: NftTableName,
  {
    chains,
    sets,
  }: {
    readonly chains: readonly string[];
    readonly sets: readonly { readonly name: string; readonly map: boolean }[];
  },
): NftChange[] {
  return [
    ...chains.map((chain): NftChange => ({ ...at, change: 'flush chain', chain })),
    ...sets.map((set): NftChange => ({ ...at, change: 'delete set', set })),
    ...chains.map((chain): NftChange => ({ ...at, change: 'delete chain', chain })),
  ];
}

/** The same table and prefix with nothing in it. */
export function emptied({ family, table, prefix }: NftPart): NftPart {
  return { family, table, prefix, sets: [], chains: [] };
}

/** The part as nft text: the same text is the same part. */
export function partText(part: NftPart): string {
  return changesText(partChanges(part));
}
