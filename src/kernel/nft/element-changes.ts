/** From the elements that a set has to those that are wanted. Pure. */
import type { NftChange, NftSetShape, NftTableName } from './change.ts';
import { formatKey, type NftElement } from './set-element.ts';

export interface Difference {
  /** Before anything else, so that a key can get other data. */
  readonly deletes: readonly NftChange[];
  readonly adds: readonly NftChange[];
}

/** Elements with the same key and other data or comment go and come; what rules add to a set is theirs. */
export function elementChanges(
  at: NftTableName,
  set: NftSetShape,
  found: readonly NftElement[],
  wanted: readonly NftElement[],
): Difference {
  const stay = new Map(found.map((element) => [elementLooks(element), element]));
  const adds = wanted.filter((element) => !stay.delete(elementLooks(element)));
  const keys = new Set(adds.map(formatKey));
  const deletes = [...stay.values()].filter((element) => !set.dynamic || keys.has(formatKey(element)));
  const change = (change: 'delete elements' | 'add elements', elements: readonly NftElement[]) =>
    elements.length === 0 ? [] : [{ ...at, change, set, elements } as const];
  return { deletes: change('delete elements', deletes), adds: change('add elements', adds) };
}

function elementLooks({ key, keyEnd, data, comment }: NftElement): string {
  return `${formatKey(keyEnd ? { key, keyEnd } : { key })} ${dataText(data)} ${comment ?? ''}`;
}

function dataText(data: NftElement['data']): string {
  if (data === undefined) return '';
  if (!('verdict' in data)) return data.map(String).join(' . ');
  return 'chain' in data ? `${data.verdict} ${data.chain}` : data.verdict;
}
