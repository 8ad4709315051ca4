/** Changes of tables, chains, sets and rules: what one transaction is made of. As nft text for people. Pure. */
import { typesNamed } from './datum.ts';
import type { NftRule } from './rule.ts';
import { ruleText } from './rule-text.ts';
import { formatKey, type NftElement, type NftFamily, type NftSet } from './set-element.ts';

/** Which namespace's rules: a descriptor, or undefined for the process's own. */
export interface NftPlace {
  readonly netns?: number | { readonly fd: number } | undefined;
}

/** Where a base chain hangs in the kernel's way of packets. */
export interface NftHook {
  readonly type: 'filter' | 'nat' | 'route';
  readonly hook: 'prerouting' | 'input' | 'forward' | 'output' | 'postrouting';
  readonly priority: number;
  readonly policy: 'accept' | 'drop';
}

/** A set or map to make. */
export interface NftSetShape {
  readonly name: string;
  /** Whether elements have data: verdicts, or what `data` says. */
  readonly map: boolean;
  /** Parts of the key as nft writes them, e.g. `ipv4_addr . inet_proto . inet_service`. */
  readonly key: string;
  /** Parts of a map's values, likewise; without it they are verdicts. */
  readonly data?: string | undefined;
  /** Elements may be ranges. */
  readonly interval?: boolean | undefined;
  /** Elements have an end of life; this is their default. */
  readonly timeoutMs?: number | undefined;
  /** Rules add elements. */
  readonly dynamic?: boolean | undefined;
  /** Most elements; no limit without it. */
  readonly size?: number | undefined;
  /** Each element counts the lookups that found it (Linux >= 5.11). */
  readonly counter?: boolean | undefined;
  /** At most 127 bytes; kept for sets, nft 1.0.6 does not show those of maps. */
  readonly comment?: string | undefined;
}

export interface NftTableName {
  readonly family: NftFamily;
  readonly table: string;
}

export type NftChange = NftTableName &
  /** `owned`: it goes when the socket is closed, and nobody else may change it (Linux >= 5.12). */
  (
    | { readonly change: 'add table'; readonly owned?: boolean }
    | { readonly change: 'delete table' }
    /** Ends `flags dormant`; in a transaction of its own, for the kernel refuses changes of base chains beside it. */
    | { readonly change: 'wake table' }
    | { readonly change: 'add chain'; readonly chain: string; readonly hook?: NftHook | undefined }
    /** Removes the rules of a chain; the chain has to exist. */
    | { readonly change: 'flush chain' | 'delete chain'; readonly chain: string }
    | { readonly change: 'add set'; readonly set: NftSetShape }
    | { readonly change: 'delete set'; readonly set: Pick<NftSetShape, 'name' | 'map'> }
    /** Behind the rules that the chain has, or `before` the one with this handle; `sealed` to know it again by ruleSeal(). */
    | {
        readonly change: 'add rule';
        readonly chain: string;
        readonly rule: NftRule;
        readonly before?: bigint | undefined;
        readonly sealed?: true;
      }
    | { readonly change: 'delete rule'; readonly chain: string; readonly handle: bigint }
    | {
        readonly change: 'add elements' | 'delete elements';
        /** As it is wanted, or as the kernel knows it. */
        readonly set: NftSetShape | NftSet;
        readonly elements: readonly NftElement[];
      }
    /** Removes all elements. */
    | { readonly change: 'flush elements'; readonly set: Pick<NftSetShape, 'name' | 'map'> }
  );

/** The set as its elements are written. Throws NFT_VALUE_INVALID for a type that is not known. */
export function setOfShape({ family, table }: NftTableName, shape: NftSetShape): NftSet {
  return {
    family,
    table,
    name: shape.name,
    key: typesNamed(shape.key),
    data: shape.data !== undefined ? typesNamed(shape.data) : shape.map ? 'verdict' : undefined,
    interval: shape.interval ?? false,
    timeoutMs: shape.timeoutMs,
  };
}

/** One command of nft(8). */
export function changeText(change: NftChange): string {
  const table = `${change.family} ${change.table}`;
  switch (change.change) {
    case 'wake table':
      return `add table ${table}`;
    case 'add table':
      return `add table ${table}${change.owned ? ' { flags owner; }' : ''}`;
    case 'delete table':
      return `delete table ${table}`;
    case 'add chain':
      return `add chain ${table} ${change.chain}${change.hook ? ` { ${hookText(change.hook)} }` : ''}`;
    case 'flush chain':
    case 'delete chain':
      return `${change.change} ${table} ${change.chain}`;
    case 'add set': {
      const { name, map, key, data, interval, timeoutMs, dynamic, size, counter, comment } = change.set;
      const flags = [
        ...(interval ? ['interval'] : []),
        ...(timeoutMs === undefined ? [] : ['timeout']),
        ...(dynamic ? ['dynamic'] : []),
      ];
      const parts = [
        `type ${key}${map ? ` : ${data ?? 'verdict'}` : ''};`,
        ...(flags.length > 0 ? [`flags ${flags.join(', ')};`] : []),
        ...(timeoutMs ? [`timeout ${Math.round(timeoutMs / 1000)}s;`] : []),
        ...(size === undefined ? [] : [`size ${size};`]),
        ...(counter ? ['counter;'] : []),
        ...(comment === undefined || map ? [] : [`comment "${comment}";`]),
      ];
      return `add ${map ? 'map' : 'set'} ${table} ${name} { ${parts.join(' ')} }`;
    }
    case 'delete set':
      return `delete ${change.set.map ? 'map' : 'set'} ${table} ${change.set.name}`;
    case 'add rule': {
      const verb = change.before === undefined ? 'add' : 'insert';
      const place = change.before === undefined ? '' : ` handle ${change.before}`;
      return `${verb} rule ${table} ${change.chain}${place} ${ruleText(change.rule)}`;
    }
    case 'delete rule':
      return `delete rule ${table} ${change.chain} handle ${change.handle}`;
    case 'flush elements':
      return `flush ${change.set.map ? 'map' : 'set'} ${table} ${change.set.name}`;
    case 'add elements':
    case 'delete elements': {
      const whole = change.change === 'add elements';
      const elements = change.elements.map((element) => elementText(element, whole));
      return `${whole ? 'add' : 'delete'} element ${table} ${change.set.name} { ${elements.join(', ')} }`;
    }
  }
}

/** A transaction as `nft -f` takes it. */
export function changesText(changes: readonly NftChange[]): string {
  return changes.map((change) => `${changeText(change)}\n`).join('');
}

export function hookText({ type, hook, priority, policy }: NftHook): string {
  return `type ${type} hook ${hook} priority ${priority}; policy ${policy};`;
}

function elementText(element: NftElement, whole: boolean): string {
  const key = formatKey(element);
  if (!whole) return key;
  const about = element.comment ? ` comment "${element.comment}"` : '';
  const { data } = element;
  if (!data) return `${key}${about}`;
  if (!('verdict' in data)) return `${key}${about} : ${data.join(' . ')}`;
  return `${key}${about} : ${data.verdict}${'chain' in data ? ` ${data.chain}` : ''}`;
}
