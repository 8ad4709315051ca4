/**
 * The engine's part of nf_tables in one namespace: reads what is there, and writes everything in single transactions.
 * Own transactions are told from others' by the number of the generation.
 */
import { FAMILIES, type Family } from '../../../addr/index.ts';
import { isNetError } from '../../../errors/index.ts';
import {
  type BatchChange,
  deleteTable,
  flushChain,
  monitorNft,
  NftBatch,
  type NftElement,
  NftElements,
  type NftRuleFound,
  newChain,
  newRule,
  newSet,
  newTable,
} from '../../../kernel/nft/index.ts';
import {
  baseChains,
  type Chain,
  parseAffine,
  parseEndpointName,
  parseTarget,
  targetChain,
} from './chains.ts';
import { LAYOUTS, SET_IDS, type SetId, setOptions, TABLE } from './layout.ts';
import { forbidLoopbackRoutes, isLoopback } from './loopback.ts';

/** Own generations that notifications may still be told of. */
const REMEMBERED_GENERATIONS = 512;

export interface NftKernelOptions {
  readonly netns?: number | { readonly fd: number } | undefined;
  /** Somebody else changed these chains and sets of ours; undefined: perhaps all. */
  readonly onForeignChange: (names: ReadonlySet<string> | undefined) => void;
}

/** Elements by set. */
export type SetContents = Readonly<Partial<Record<SetId, readonly NftElement[]>>>;

/** What a family's table looks like. */
export interface TableState {
  /** `absent`; `foreign` when rules or sets are not those that this version makes. */
  readonly state: 'absent' | 'foreign' | 'ours';
  /** Chains that choose endpoints, with the comments of their rules: see `chainLooks`. */
  readonly choosing: ReadonlyMap<string, string>;
}

export class NftKernel {
  readonly #batch: NftBatch;
  readonly #elements: NftElements;
  readonly #onForeignChange: NftKernelOptions['onForeignChange'];
  readonly #netns: NftKernelOptions['netns'];
  readonly #own = new Set<number>();
  #monitor: { close(): void } | undefined;
  /** Names of chains and sets in this transaction; empty for the table itself. */
  #touched = new Set<string>();
  #transactions = 0;

  /** Throws KERNEL_SYSCALL, KERNEL_NEEDS_ROOT. */
  constructor(options: NftKernelOptions) {
    this.#netns = options.netns;
    this.#onForeignChange = options.onForeignChange;
    this.#batch = NftBatch.open({ netns: options.netns });
    this.#elements = NftElements.open({ netns: options.netns });
  }

  /** Transactions since the start, for status and tests. */
  get transactions(): number {
    return this.#transactions;
  }

  /** From now on others' changes are told. Begun late, so that a first sync is not told to ourselves. */
  watch(): void {
    this.#monitor ??= monitorNft({
      netns: this.#netns,
      onEvent: ({ table, name }) => {
        if (table === TABLE) this.#touched.add(name ?? '');
      },
      onGeneration: (generation) => {
        const touched = this.#touched;
        if (touched.size === 0) return;
        this.#touched = new Set();
        if (!this.#own.has(generation)) this.#onForeignChange(touched.has('') ? undefined : touched);
      },
      onResync: () => this.#onForeignChange(undefined),
    });
  }

  /** All or nothing. Throws NFT_ELEMENTS_REFUSED, NFT_CHANGE_REFUSED. */
  apply(changes: readonly BatchChange[]): void {
    if (changes.length === 0) return;
    const before = this.#batch.generation();
    this.#batch.apply(changes);
    this.#transactions++;
    const after = this.#batch.generation();
    // A number that may be somebody else's is nobody's: then everything is read back.
    if (after === ((before + 1) & 0xffff_ffff)) this.#own.add(after);
    for (const generation of this.#own) {
      if (this.#own.size <= REMEMBERED_GENERATIONS) break;
      this.#own.delete(generation);
    }
  }

  /** Compares chains, rules and sets with those of this version. */
  state(family: Family): TableState {
    const { place } = LAYOUTS[family];
    const chains = this.#batch.chains(place);
    if (!chains) return { state: 'absent', choosing: new Map() };
    const sets = new Set(this.#batch.sets(place));
    const rules = new Map<string, NftRuleFound[]>(chains.map((chain) => [chain, []]));
    for (const rule of this.#batch.rules(place)) rules.get(rule.chain)?.push(rule);
    const wanted = baseChains(family);
    let ours = sets.size === SET_IDS.length && SET_IDS.every((id) => sets.has(id));
    for (const name of wanted.keys()) ours &&= rules.has(name);
    const choosing = new Map<string, string>();
    for (const [name, found] of rules) {
      const target = parseTarget(name);
      const chain = wanted.get(name) ?? (target && targetChain(family, target));
      const own = parseAffine(name) !== undefined || parseEndpointName(name) !== undefined;
      ours &&= own || (chain !== undefined && sameRules(found, chain));
      if (target || own) choosing.set(name, found.map(({ comment }) => comment).join('\n'));
    }
    return { state: ours ? 'ours' : 'foreign', choosing };
  }

  /** Elements of a set; undefined when there is no such set. */
  list(family: Family, id: SetId): NftElement[] | undefined {
    try {
      return this.#elements.list(LAYOUTS[family].sets[id]);
    } catch (error) {
      if (isNetError(error, 'NFT_NO_SUCH_SET')) return undefined;
      throw error;
    }
  }

  /** Elements of several sets; of one that is not there, none. */
  contents(family: Family, ids: readonly SetId[]): SetContents {
    return Object.fromEntries(ids.map((id) => [id, this.list(family, id) ?? []]));
  }

  /** Packets by comment of the rule that counted them. */
  counters(family: Family): Map<string, number> {
    const counts = new Map<string, number>();
    for (const { chain, comment, packets } of this.#batch.rules(LAYOUTS[family].place)) {
      if (packets === undefined) continue;
      const name = parseTarget(chain) || parseEndpointName(chain) !== undefined ? 'forward' : comment;
      counts.set(name, (counts.get(name) ?? 0) + packets);
    }
    return counts;
  }

  close(): void {
    this.#monitor?.close();
    this.#batch.close();
    this.#elements.close();
  }
}

/** Takes the tables out of a namespace, or with `dryRun` only says so. Returns the commands that do the same. */
export function removeNftServices(options: {
  readonly netns?: number | { readonly fd: number } | undefined;
  readonly dryRun?: boolean;
}): string[] {
  using batch = NftBatch.open({ netns: options.netns });
  const places = FAMILIES.map((family) => LAYOUTS[family].place).filter((place) => batch.chains(place));
  if (!options.dryRun && places.length > 0) {
    // First, because the rule that guards it goes with the table.
    if (servesLoopback(options.netns)) forbidLoopbackRoutes({ netns: options.netns });
    batch.apply(places.map(deleteTable));
  }
  return places.map(({ family, table }) => `nft delete table ${family} ${table}`);
}

function servesLoopback(netns: NftKernelOptions['netns']): boolean {
  using elements = NftElements.open({ netns });
  return (['node-addresses', 'vips'] as const).some((id) => {
    try {
      return elements.list(LAYOUTS[4].sets[id]).some(({ key }) => isLoopback(String(key[0])));
    } catch (error) {
      if (isNetError(error, 'NFT_NO_SUCH_SET')) return false;
      throw error;
    }
  });
}

/** The table with its sets and rules, made anew; what was there goes in the same moment. */
export function makeTable(family: Family): BatchChange[] {
  const { place, sets } = LAYOUTS[family];
  const changes: BatchChange[] = [newTable(place), deleteTable(place), newTable(place)];
  for (const id of SET_IDS) changes.push(newSet(sets[id], setOptions(id)));
  const chains = baseChains(family);
  for (const [name, { hook }] of chains) changes.push(newChain(place, name, hook));
  for (const [name, chain] of chains) changes.push(...rulesOf(family, name, chain));
  return changes;
}

/** Makes chains; those that are there already get other rules. */
export function makeChains(
  family: Family,
  chains: Iterable<readonly [name: string, chain: Chain]>,
  there: { has(name: string): boolean },
): BatchChange[] {
  const { place } = LAYOUTS[family];
  const list = [...chains];
  return [
    ...list.map(([name]) => (there.has(name) ? flushChain(place, name) : newChain(place, name))),
    ...list.flatMap(([name, chain]) => rulesOf(family, name, chain)),
  ];
}

function rulesOf(family: Family, name: string, chain: Chain): BatchChange[] {
  return chain.rules.map((rule) => newRule(LAYOUTS[family].place, name, rule));
}

function sameRules(found: readonly NftRuleFound[], { rules }: Chain): boolean {
  return (
    found.length === rules.length &&
    rules.every(({ comment, expressions }, at) => {
      const names = expressions.map(({ name }) => name);
      return ruleLooks(comment, names) === ruleLooks(found[at]!.comment, found[at]!.expressions);
    })
  );
}

/** Enough to tell a rule of ours from one that was edited: nft cannot write it with this comment and these parts. */
function ruleLooks(comment: string, expressions: readonly string[]): string {
  return `${comment} ${expressions.join(',')}`;
}
