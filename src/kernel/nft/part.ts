/** A part of one table that one owner keeps: chains and sets whose names begin alike. Pure. */
import type { NftChange, NftHook, NftSetShape, NftTableName } from './change.ts';
import { changesText } from './change.ts';
import type { NftRule } from './rule.ts';
import { formatKey, type NftElement } from './set-element.ts';

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
  readonly chains: readonly string[];
  readonly sets: readonly { readonly name: string; readonly map: boolean }[];
}

const NOTHING: NftPartFound = { chains: [], sets: [] };

/**
 * Makes exactly the wanted chains and sets, whatever there was: chains of ours with another hook or foreign rules are
 * made anew in the same moment. Nothing wanted and nothing there is no change.
 */
export function partChanges(part: NftPart, found: NftPartFound = NOTHING): NftChange[] {
  const { family, table, sets, chains } = part;
  const at = { family, table };
  const gone = removal(at, found);
  if (sets.length + chains.length === 0) return gone;
  return [
    { ...at, change: 'add table' },
    ...gone,
    ...sets.map((set): NftChange => ({ ...at, change: 'add set', set })),
    ...chains.map(({ name, hook }): NftChange => ({ ...at, change: 'add chain', chain: name, hook })),
    ...chains.flatMap(({ name, rules }) =>
      rules.map((rule): NftChange => ({ ...at, change: 'add rule', chain: name, rule })),
    ),
    ...sets.flatMap((set): NftChange[] =>
      set.elements.length === 0 ? [] : [{ ...at, change: 'add elements', set, elements: set.elements }],
    ),
  ];
}

/** What makes one part of another that differs in elements only; undefined when it differs in more. Pure. */
export function elementChanges(from: NftPart, to: NftPart): NftChange[] | undefined {
  const bare = (part: NftPart) =>
    partText({ ...part, sets: part.sets.map((set) => ({ ...set, elements: [] })) });
  if (bare(from) !== bare(to)) return undefined;
  const { family, table } = to;
  return to.sets.flatMap((set, at): NftChange[] => {
    const { deletes, adds } = differing(from.sets[at]!.elements, set.elements);
    const change = (change: 'delete elements' | 'add elements', elements: readonly NftElement[]) =>
      elements.length === 0 ? [] : [{ family, table, change, set, elements } as const];
    return [...change('delete elements', deletes), ...change('add elements', adds)];
  });
}

/** Elements with the same key and other data go and come. */
function differing(from: readonly NftElement[], to: readonly NftElement[]) {
  const text = (element: NftElement) =>
    `${formatKey(element)} ${element.comment ?? ''} ${dataText(element.data)}`;
  const before = new Map(from.map((element) => [text(element), element]));
  const adds = to.filter((element) => !before.delete(text(element)));
  return { deletes: [...before.values()], adds };
}

function dataText(data: NftElement['data']): string {
  if (data === undefined) return '';
  return 'verdict' in data ? Object.values(data).join(' ') : data.map(String).join(' ');
}

/** Removes chains and sets whatever they hold. */
export function removal(at: NftTableName, { chains, sets }: NftPartFound): NftChange[] {
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
