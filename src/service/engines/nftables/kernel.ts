/**
 * The engine's part of nf_tables in one namespace: reads what is there, and writes everything in single transactions.
 * Of changes the kernel tells those of others only.
 */
import { FAMILIES, type Family } from '../../../addr/index.ts';
import { isNetError } from '../../../errors/index.ts';
import {
  expressionsOf,
  inSteps,
  monitorNft,
  type NftChainFound,
  type NftChange,
  type NftElement,
  type NftRule,
  type NftRuleFound,
  NftRuleset,
  type NftSetFound,
  removal,
  sameHook,
  sameShape,
} from '../../../kernel/nft/index.ts';
import { baseChains } from './base-chains.ts';
import { Damage } from './damage.ts';
import { LAYOUTS, SET_IDS, type SetId, TABLE } from './layout.ts';
import { forbidLoopbackRoutes, isLoopback } from './loopback.ts';
import { removeLoopbackRoutes } from './loopback-routes.ts';
import { type Chain, chainLooks, foundLooks } from './rule-parts.ts';
import { parseAffine, parseEndpointName, parseTarget, targetChain } from './target-chains.ts';
import { limitUnreachables } from './unreachable.ts';

export interface NftKernelOptions {
  readonly netns?: number | { readonly fd: number } | undefined;
  /** Somebody else changed this of ours; undefined: perhaps all. */
  readonly onForeignChange: (damage: Damage | undefined) => void;
}

/** Elements by set. */
export type SetContents = Readonly<Partial<Record<SetId, readonly NftElement[]>>>;

/** What a family's table looks like. */
export interface TableState {
  /** `absent`; `foreign` when sets or hooks are not those that this version makes: it is made anew as a whole. */
  readonly state: 'absent' | 'foreign' | 'ours';
  /** Chains that choose endpoints, with the comments of their rules: see `chainLooks`. */
  readonly choosing: ReadonlyMap<string, string>;
  /** What puts chains of a table of ours right in place. */
  readonly repair: readonly NftChange[];
  /** What takes away what is not ours, when nothing leads there any more. */
  readonly removal: readonly NftChange[];
}

export class NftKernel {
  readonly #ruleset: NftRuleset;
  readonly #onForeignChange: NftKernelOptions['onForeignChange'];
  readonly #netns: NftKernelOptions['netns'];
  #monitor: { close(): void } | undefined;
  /** By the transaction that is being told; undefined when it was about a whole table. */
  #damage: Damage | undefined = new Damage();
  #transactions = 0;

  /** Throws KERNEL_SYSCALL, KERNEL_NEEDS_ROOT. */
  constructor(options: NftKernelOptions) {
    this.#netns = options.netns;
    this.#onForeignChange = options.onForeignChange;
    this.#ruleset = NftRuleset.open({ netns: options.netns });
  }

  /** Transactions since the start, for status and tests. */
  get transactions(): number {
    return this.#transactions;
  }

  /** From now on others' changes are told. Begun late, so that a first sync is not told to ourselves. */
  watch(): void {
    this.#monitor ??= monitorNft({
      netns: this.#netns,
      onEvent: (event) => {
        if (event.table === TABLE && this.#damage?.add(event) === false) this.#damage = undefined;
      },
      onGeneration: () => {
        const damage = this.#damage;
        if (damage?.isEmpty) return;
        this.#damage = new Damage();
        this.#onForeignChange(damage);
      },
      onResync: () => this.#onForeignChange(undefined),
      ignore: [this.#ruleset.port],
    });
  }

  /**
   * All or nothing, but for new chains that nothing leads to yet. Throws NFT_ELEMENTS_REFUSED, NFT_CHANGE_REFUSED.
   */
  apply(changes: readonly NftChange[]): void {
    if (changes.length === 0) return;
    for (const step of inSteps(changes)) {
      this.#ruleset.apply(step);
      this.#transactions++;
    }
  }

  /** Ends `flags dormant`: rules that are there work again. */
  wake(family: Family): void {
    this.#ruleset.wake(LAYOUTS[family].place);
  }

  /** Compares chains, rules and sets with those of this version; with `names`, only rules of these chains. */
  state(family: Family, names?: ReadonlySet<string>): TableState {
    const { place, shapes } = LAYOUTS[family];
    const nothing = { choosing: new Map<string, string>(), repair: [], removal: [] };
    if (this.#ruleset.table(place) === 'absent') return { state: 'absent', ...nothing };
    const sets = new Map(this.#ruleset.sets(place).map((set) => [set.name, set]));
    const chains = this.#ruleset.chains(place);
    const looked = chains.filter(({ name }) => names?.has(name) ?? true);
    const rules = new Map<string, NftRuleFound[]>(looked.map(({ name }) => [name, []]));
    const told = names
      ? looked.flatMap(({ name }) => this.#ruleset.rules(place, name))
      : this.#ruleset.rules(place);
    for (const rule of told) rules.get(rule.chain)?.push(rule);
    const choosing = new Map<string, string>();
    for (const [name, found] of rules)
      if (parseTarget(name) || isOwn(name)) choosing.set(name, foundLooks(found));
    const wanted = baseChains(family);
    const asMade =
      SET_IDS.every((id) => sets.has(id) && sameShape(sets.get(id)!, shapes[id])) &&
      chains.every(({ name, hook }) => !wanted.has(name) || sameHook(hook, wanted.get(name)!.hook, false));
    if (!asMade) return { ...nothing, state: 'foreign', choosing };
    const strange = [...sets.values()].filter(({ name }) => !SET_IDS.includes(name as SetId));
    return { state: 'ours', choosing, ...repairChanges(family, { chains, rules, strange, names }) };
  }

  /**
   * Whether a chain may have another's name: one of these `given` names is that of a chain of ours that stays where it
   * is, or a chain of ours is not there although nobody named it.
   */
  renamed(family: Family, ours: ReadonlySet<string>, damage: Damage): boolean {
    const given = damage.given(family);
    if (given.size === 0) return false;
    const there = new Map(this.#ruleset.chains(LAYOUTS[family].place).map(({ name, hook }) => [name, hook]));
    const named = damage.names(family);
    const wanted = [...baseChains(family).keys(), ...ours];
    return wanted.some((name) => (given.has(name) ? !there.get(name) : !there.has(name) && !named.has(name)));
  }

  /** The elements under these keys of a set, as far as it has them. */
  elements(family: Family, id: SetId, keys: Iterable<NftElement['key']>): NftElement[] {
    return [...keys].flatMap((key) => this.#ruleset.element(LAYOUTS[family].sets[id], key) ?? []);
  }

  /** Elements of a set; undefined when there is no such set. */
  list(family: Family, id: SetId): NftElement[] | undefined {
    try {
      return this.#ruleset.elements(LAYOUTS[family].sets[id]);
    } catch (error) {
      if (isNetError(error, 'NFT_NO_SUCH_SET')) return undefined;
      throw error;
    }
  }

  /** Elements of several sets; of one that is not there, none. */
  contents(family: Family, ids: readonly SetId[]): SetContents {
    return Object.fromEntries(ids.map((id) => [id, this.list(family, id) ?? []]));
  }

  /** Packets by the number of an endpoint of a port with affinity. */
  endpointCounts(family: Family): Map<number, number> {
    const counts = new Map<number, number>();
    for (const { chain, packets } of this.#ruleset.rules(LAYOUTS[family].place)) {
      const id = packets === undefined ? undefined : parseEndpointName(chain);
      if (id !== undefined) counts.set(id, (counts.get(id) ?? 0) + packets!);
    }
    return counts;
  }

  /** Packets by comment of the rule that counted them. */
  counters(family: Family): Map<string, number> {
    const counts = new Map<string, number>();
    for (const { chain, comment, packets } of this.#ruleset.rules(LAYOUTS[family].place)) {
      if (packets === undefined) continue;
      const name = parseTarget(chain) || parseEndpointName(chain) !== undefined ? 'forward' : comment;
      counts.set(name, (counts.get(name) ?? 0) + packets);
    }
    return counts;
  }

  close(): void {
    this.#monitor?.close();
    this.#ruleset.close();
  }
}

/** Takes the tables out of a namespace, or with `dryRun` only says so. Returns the commands that do the same. */
export function removeNftServices(options: {
  readonly netns?: number | { readonly fd: number } | undefined;
  readonly dryRun?: boolean;
}): string[] {
  using ruleset = NftRuleset.open({ netns: options.netns });
  const places = FAMILIES.map((family) => LAYOUTS[family].place).filter(
    (place) => ruleset.table(place) !== 'absent',
  );
  if (!options.dryRun && places.length > 0) {
    // First, because the rule that guards it goes with the table.
    limitUnreachables({ netns: options.netns });
    removeLoopbackRoutes({ netns: options.netns });
    if (servesLoopback(ruleset)) forbidLoopbackRoutes({ netns: options.netns });
    ruleset.apply(places.map((place) => ({ ...place, change: 'delete table' })));
  }
  return places.map(({ family, table }) => `nft delete table ${family} ${table}`);
}

function servesLoopback(ruleset: NftRuleset): boolean {
  return (['node-addresses', 'vips'] as const).some((id) => {
    try {
      return ruleset.elements(LAYOUTS[4].sets[id]).some(({ key }) => isLoopback(String(key[0])));
    } catch (error) {
      if (isNetError(error, 'NFT_NO_SUCH_SET')) return false;
      throw error;
    }
  });
}

/** The table with its sets and rules, made anew; what was there goes in the same moment. */
export function makeTable(family: Family): NftChange[] {
  const { place, shapes } = LAYOUTS[family];
  const chains = [...baseChains(family)];
  return [
    { ...place, change: 'add table' },
    { ...place, change: 'delete table' },
    { ...place, change: 'add table' },
    ...SET_IDS.map((id): NftChange => ({ ...place, change: 'add set', set: shapes[id] })),
    ...chains.map(([chain, { hook }]): NftChange => ({ ...place, change: 'add chain', chain, hook })),
    ...chains.flatMap(([name, chain]) => rulesOf(family, name, chain)),
  ];
}

/** Makes chains; those that are there already get other rules. */
export function makeChains(
  family: Family,
  chains: Iterable<readonly [name: string, chain: Chain]>,
  there: { has(name: string): boolean },
): NftChange[] {
  const { place } = LAYOUTS[family];
  const list = [...chains];
  return [
    ...list.map(
      ([chain]): NftChange => ({
        ...place,
        change: there.has(chain) ? 'flush chain' : 'add chain',
        chain,
      }),
    ),
    ...list.flatMap(([name, chain]) => rulesOf(family, name, chain)),
  ];
}

function rulesOf(family: Family, chain: string, { rules }: Chain): NftChange[] {
  return rules.map((rule) => ({ ...LAYOUTS[family].place, change: 'add rule', chain, rule }));
}

/** Whether a chain belongs to one Service port with affinity: the ledger knows what is in it. */
function isOwn(name: string): boolean {
  return parseAffine(name) !== undefined || parseEndpointName(name) !== undefined;
}

/** What makes the chains that do not depend on Services those of this version; nothing else is touched. */
function repairChanges(
  family: Family,
  found: {
    readonly chains: readonly NftChainFound[];
    /** Of the chains that were looked at. */
    readonly rules: ReadonlyMap<string, readonly NftRuleFound[]>;
    /** Sets that are not ours. */
    readonly strange: readonly NftSetFound[];
    readonly names: ReadonlySet<string> | undefined;
  },
): Pick<TableState, 'repair' | 'removal'> {
  const { place } = LAYOUTS[family];
  const wanted = baseChains(family);
  const there = new Map(found.chains.map((chain) => [chain.name, chain]));
  const makes: NftChange[] = [];
  const flushes: string[] = [];
  const fills: NftChange[] = [];
  for (const [chain, { hook }] of wanted) {
    if (!(found.names?.has(chain) ?? true)) continue;
    const old = there.get(chain);
    if (!old || !sameHook(old.hook, hook)) makes.push({ ...place, change: 'add chain', chain, hook });
    if (!old) fills.push(...rulesOf(family, chain, wanted.get(chain)!));
  }
  const gone: string[] = [];
  for (const [name, rules] of found.rules) {
    const target = parseTarget(name);
    const chain = wanted.get(name) ?? (target && targetChain(family, target));
    if (!chain && !isOwn(name)) gone.push(name);
    if (!chain || sameRules(rules, chain)) continue;
    flushes.push(name);
    fills.push(...rulesOf(family, name, chain));
  }
  const flush = flushes.map((chain): NftChange => ({ ...place, change: 'flush chain', chain }));
  return {
    repair: [...flush, ...makes, ...fills],
    removal: removal(place, { chains: gone, sets: found.strange }),
  };
}

function sameRules(found: readonly NftRuleFound[], { rules }: Chain): boolean {
  return (
    found.length === rules.length &&
    chainLooks({ rules }) === foundLooks(found) &&
    rules.every((rule, at) => ruleParts(rule) === found[at]!.expressions.join())
  );
}

/** With the comment enough to tell a rule of ours from one that was edited: nft cannot write these parts with it. */
function ruleParts(rule: NftRule): string {
  return expressionsOf(rule)
    .map(({ name }) => name)
    .join();
}
