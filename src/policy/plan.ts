/**
 * From what the kernel has to what is wanted, as nft text where chains change and as elements where only sets do. Pure.
 *
 *     new sets ─► elements out ─► chains ─► rules ─► elements in ─► chains out ─► sets out        one transaction
 *
 * A new set with more than a few elements is made and filled beforehand: no rule names it yet, and netlink fills it ten
 * times as fast as text does. Traffic sees the old rules or the new ones, and never none.
 */
import type { Family } from '../addr/index.ts';
import { formatKey, type NftElement } from '../kernel/nft/index.ts';
import { comment, nftFamily, TABLE } from './names.ts';
import type { Chain, SetTable, Tables } from './tables.ts';

export interface SetChange {
  readonly set: SetTable;
  readonly deletes: readonly NftElement[];
  readonly adds: readonly NftElement[];
}

export interface PolicyPlan {
  readonly family: Family;
  /** Makes sets that are filled by netlink before `script`; empty for none. */
  readonly before: string;
  /** Elements that go by netlink: before the script, or alone. */
  readonly elements: readonly SetChange[];
  /** The transaction; empty when only elements change. */
  readonly script: string;
}

/** So many elements of a transaction are worth one netlink message beforehand. */
const ELEMENTS_AS_TEXT = 500;

/**
 * `applied` are the chains that the kernel has; a chain whose rules are not known is undefined. Lines in `clear` come
 * first in the same transaction: they remove a part that has to be made anew.
 */
export function planPolicy(
  family: Family,
  applied: ReadonlyMap<string, Chain | undefined>,
  tables: Tables,
  clear: readonly string[] = [],
): PolicyPlan {
  const table = `${nftFamily(family)} ${TABLE}`;
  const changedChains = [...tables.chains].filter(([name, chain]) => !sameChain(applied.get(name), chain));
  const goneChains = [...applied.keys()].filter((name) => !tables.chains.has(name));
  const newSets = [...tables.sets.values()].filter((set) => !set.inKernel);
  const goneSets = [...tables.retired.values()].filter((set) => set.inKernel);
  const changes = [...tables.sets.values()]
    .map((set) => ({ set, ...set.changes() }))
    .filter(({ adds, deletes }) => adds.length + deletes.length > 0);
  const structural =
    changedChains.length + goneChains.length + newSets.length + goneSets.length + clear.length > 0;
  if (!structural) return { family, before: '', elements: changes, script: '' };

  // Verdict maps name chains of this very transaction, so their elements are always text.
  const early = changes.filter(
    ({ set, adds, deletes }) =>
      clear.length === 0 && !set.kind.map && adds.length + deletes.length > ELEMENTS_AS_TEXT,
  );
  const late = changes.filter((change) => !early.includes(change));
  const earlyNew = early.map(({ set }) => set).filter((set) => !set.inKernel);
  const lines = [`add table ${table}`, ...clear];
  for (const set of newSets) if (!earlyNew.includes(set)) lines.push(addSet(table, set));
  for (const { set, deletes } of late) pushElements(lines, 'delete', table, set, deletes);
  for (const [name, chain] of changedChains) {
    const there = applied.has(name);
    if (!there) lines.push(`add chain ${table} ${name}${chain.hook ? ` { ${chain.hook} }` : ''}`);
    else lines.push(`flush chain ${table} ${name}`);
  }
  for (const [name, { rules }] of changedChains)
    for (const rule of rules) lines.push(`add rule ${table} ${name} ${rule}`);
  for (const { set, adds } of late) pushElements(lines, 'add', table, set, adds);
  for (const name of goneChains) lines.push(`flush chain ${table} ${name}`);
  for (const set of goneSets) lines.push(`delete ${set.kind.map ? 'map' : 'set'} ${table} ${set.name}`);
  for (const name of goneChains) lines.push(`delete chain ${table} ${name}`);
  return {
    family,
    before:
      earlyNew.length === 0
        ? ''
        : `${[`add table ${table}`, ...earlyNew.map((set) => addSet(table, set))].join('\n')}\n`,
    elements: early,
    script: `${lines.join('\n')}\n`,
  };
}

export function isEmptyPlan({ elements, script }: PolicyPlan): boolean {
  return elements.length === 0 && script === '';
}

/** A plan as `policy plan` prints it: nft text. */
export function policyPlanText({ family, before, elements, script }: PolicyPlan): string {
  const table = `${nftFamily(family)} ${TABLE}`;
  const lines: string[] = [];
  for (const { set, deletes, adds } of elements) {
    pushElements(lines, 'delete', table, set, deletes);
    pushElements(lines, 'add', table, set, adds);
  }
  return before + lines.map((line) => `${line}\n`).join('') + script;
}

function sameChain(a: Chain | undefined, b: Chain): boolean {
  if (a === b) return true;
  return (
    a !== undefined && a.rules.length === b.rules.length && a.rules.every((rule, at) => rule === b.rules[at])
  );
}

function addSet(table: string, set: SetTable): string {
  const about = set.kind.map ? '' : ` comment "${comment(set.comment)}";`;
  return `add ${set.kind.map ? 'map' : 'set'} ${table} ${set.name} { type ${set.kind.type};${about} }`;
}

function pushElements(
  lines: string[],
  verb: 'add' | 'delete',
  table: string,
  set: SetTable,
  elements: readonly NftElement[],
): void {
  if (elements.length === 0) return;
  const text = elements.map((element) => elementText(element, verb === 'add'));
  lines.push(`${verb} element ${table} ${set.name} { ${text.join(', ')} }`);
}

function elementText(element: NftElement, whole: boolean): string {
  const key = formatKey(element);
  if (!whole) return key;
  const about = element.comment ? ` comment "${element.comment}"` : '';
  const { data } = element;
  if (!data || !('verdict' in data)) return `${key}${about}`;
  return `${key}${about} : ${data.verdict}${'chain' in data ? ` ${data.chain}` : ''}`;
}
