/**
 * The policies' part of nftables in one network namespace: chains, rules, sets and elements in one netlink transaction
 * for both families. Whatever anybody else changes in this part is noticed and put right; whatever a former process left
 * stays in force until the first `apply`.
 */
import { FAMILIES, type Family, type IpAddress } from '../addr/index.ts';
import { policyError } from '../errors/index.ts';
import {
  areRules,
  changeText,
  concerns,
  inSteps,
  isOurs,
  isStrange,
  monitorNft,
  type NftChainFound,
  type NftChange,
  type NftElement,
  type NftEvent,
  type NftRuleFound,
  NftRuleset,
  type NftSet,
  type NftSetFound,
  sameHook,
} from '../kernel/nft/index.ts';
import { NFT_PREFIXES, NFT_TABLE } from '../model/nft-parts.ts';
import { comment, ISOLATED, isRuleComment, nftFamily, PREFIX, SELVES, VERDICTS } from './names.ts';
import { clearChanges, isEmptyPlan, type PolicyPlan, planPolicy } from './plan.ts';
import { baseChains } from './rules.ts';
import { type Chain, emptyTables, SetTable, type Tables, wantSet } from './tables.ts';

export interface PolicyEngineOptions {
  /** The node's namespace, default the process's own. */
  readonly netns?: number | { readonly fd: number } | undefined;
  /** Somebody changed or deleted what is ours. */
  readonly onForeignChange?: (() => void) | undefined;
}

/** What the kernel has of one family. */
interface Applied {
  /** Undefined rules: left by a former process, or edited. */
  chains: Map<string, Chain | undefined>;
  /** Chains and sets that somebody else may have changed: they are read back before the next change. */
  suspects: Set<string> | 'all';
  /** Removes the whole part, when a set of another shape stands in the way: an older version's. */
  clear: readonly NftChange[];
}

const OWNER = { prefix: PREFIX, neighbours: NFT_PREFIXES };

/** What one transaction of somebody touched of ours, by family; 'all' when a whole table went. */
type Touched = Map<Family, Set<string> | 'all'>;

export class NftPolicyEngine {
  readonly #options: PolicyEngineOptions;
  readonly #ruleset: NftRuleset;
  readonly #monitor: { close(): void };
  readonly #applied: Record<Family, Applied> = {
    4: { chains: new Map(), suspects: 'all', clear: [] },
    6: { chains: new Map(), suspects: 'all', clear: [] },
  };
  readonly #sets = new Map<string, NftSet>();
  /** Families touched since the last end of a transaction of somebody else. */
  #touched: Touched = new Map();
  #transactions = 0;

  /** Throws KERNEL_SYSCALL, KERNEL_NEEDS_ROOT. */
  constructor(options: PolicyEngineOptions = {}) {
    this.#options = options;
    this.#ruleset = NftRuleset.open({ netns: options.netns });
    this.#monitor = monitorNft({
      netns: options.netns,
      onEvent: (event) => this.#note(event),
      onGeneration: () => this.#ended(),
      ignore: [this.#ruleset.port],
      onResync: () => {
        this.#suspect(new Map(FAMILIES.map((family) => [family, 'all'])));
        this.#options.onForeignChange?.();
      },
    });
  }

  /** Transactions since the start, for status and tests. */
  get transactions(): number {
    return this.#transactions;
  }

  /** What has to be done, without doing it. Reads the kernel when that is not known. */
  plan(tables: Readonly<Record<Family, Tables>>, keepCounts = false): PolicyPlan[] {
    for (const family of FAMILIES) this.#observe(family, tables[family]);
    return FAMILIES.map((family) => {
      const { chains, clear } = this.#applied[family];
      const keeps = keepCounts && clear.length === 0;
      const standing = keeps ? Map.groupBy(this.rules(family), ({ chain }) => chain) : undefined;
      return planPolicy(family, chains, tables[family], clear, standing);
    });
  }

  /**
   * Brings the kernel up to date, both families in one transaction, or two when there are new chains. Returns whether there was anything to do. Throws
   * POLICY_NOT_PROGRAMMED; trying again is safe. `keepCounts`: rules that stay the same go on counting, which takes a
   * look at all of them; else the chains that differ are written anew.
   */
  apply(tables: Readonly<Record<Family, Tables>>, keepCounts = false): boolean {
    try {
      return this.#applyBoth(tables, keepCounts);
    } catch {
      // Somebody else may have changed what the plan was made for: once more, from what is really there.
      for (const family of FAMILIES) this.#applied[family].suspects = 'all';
    }
    try {
      return this.#applyBoth(tables);
    } catch (error) {
      for (const family of FAMILIES) this.#applied[family].suspects = 'all';
      throw policyError('POLICY_NOT_PROGRAMMED', { why: (error as Error).message }, error);
    }
  }

  /**
   * Drops everything from and to these addresses, before anything is known of policies. Whatever is in force for others
   * stays. Calls must not overlap with `apply`.
   */
  lockDown(addresses: readonly IpAddress[], pod: string): void {
    for (const family of FAMILIES) {
      const own = addresses.filter((address) => address.family === family);
      if (own.length > 0) this.#lockDown(family, own, pod);
    }
  }

  /** Rules of ours with what they counted, for `policy show`. */
  rules(family: Family): NftRuleFound[] {
    return this.#ruleset
      .rules({ family: nftFamily(family), table: NFT_TABLE })
      .filter(({ chain }) => chain.startsWith(PREFIX));
  }

  close(): void {
    this.#monitor.close();
    this.#ruleset.close();
  }

  #applyBoth(tables: Readonly<Record<Family, Tables>>, keepCounts = false): boolean {
    for (const family of FAMILIES)
      if (this.#applied[family].suspects === 'all')
        this.#ruleset.wake({ family: nftFamily(family), table: NFT_TABLE });
    const plans = this.plan(tables, keepCounts);
    this.#change(plans);
    for (const family of FAMILIES) {
      const { sets, retired, chains } = tables[family];
      for (const set of sets.values()) set.settle();
      for (const name of retired.keys()) this.#sets.delete(`${family} ${name}`);
      retired.clear();
      this.#applied[family].chains = new Map(chains);
      this.#applied[family].clear = [];
    }
    return plans.some((plan) => !isEmptyPlan(plan));
  }

  #change(plans: readonly PolicyPlan[]): void {
    const changes = plans.flatMap((plan) => plan.changes);
    if (changes.length === 0) return;
    for (const step of inSteps(changes)) {
      this.#ruleset.apply(step);
      this.#transactions++;
    }
  }

  #set(family: Family, name: string): NftSet {
    const key = `${family} ${name}`;
    let set = this.#sets.get(key);
    if (!set) {
      set = this.#ruleset.set({ family: nftFamily(family), table: NFT_TABLE }, name);
      this.#sets.set(key, set);
    }
    return set;
  }

  /**
   * Reads what may differ of ours, and tells each set what it lacks. Chains that somebody touched are written anew; of
   * all, those whose rules are as they were written stay, with what they have counted.
   */
  #observe(family: Family, tables: Tables): void {
    const applied = this.#applied[family];
    const { suspects } = applied;
    if (suspects !== 'all' && suspects.size === 0) return;
    const found = this.#read(family);
    if (suspects === 'all') this.#observeAll(family, tables, found);
    else this.#observeSome(family, tables, found, suspects);
    applied.suspects = new Set();
  }

  #observeAll(family: Family, tables: Tables, { chains, sets }: Found): void {
    const applied = this.#applied[family];
    for (const key of [...this.#sets.keys()]) if (key.startsWith(`${family} `)) this.#sets.delete(key);
    applied.chains = new Map([...chains.keys()].map((name) => [name, undefined]));
    applied.clear = [];
    tables.retired.clear();
    const misfit =
      [...sets.values()].some((set) => isMisfit(set, tables)) ||
      [...chains].some(([name, hook]) => hangsElsewhere(name, hook, tables));
    if (misfit) {
      applied.clear = clearChanges(family, chains.keys(), sets.values());
      applied.chains.clear();
      for (const set of tables.sets.values()) set.observe(undefined);
      return;
    }
    for (const summary of sets.values()) this.#observeSet(family, tables, summary);
    for (const set of tables.sets.values()) if (!sets.has(set.name)) set.observe(undefined);
    this.#recognise(family, tables, chains);
  }

  /** Chains that a former process left, or nobody changed, as they are wanted now. */
  #recognise(family: Family, tables: Tables, chains: Found['chains']): void {
    const standing = Map.groupBy(this.rules(family), ({ chain }) => chain);
    for (const [name, hook] of chains) {
      const wanted = tables.chains.get(name);
      if (wanted && sameHook(hook, wanted.hook) && areRules(standing.get(name) ?? [], wanted.rules))
        this.#applied[family].chains.set(name, wanted);
    }
  }

  /** As #observeAll(), for the chains and sets that notifications named. */
  #observeSome(family: Family, tables: Tables, found: Found, suspects: ReadonlySet<string>): void {
    const applied = this.#applied[family];
    for (const name of suspects) {
      if (found.chains.has(name)) applied.chains.set(name, undefined);
      else applied.chains.delete(name);
      const summary = found.sets.get(name);
      const chain = found.chains.has(name) && hangsElsewhere(name, found.chains.get(name), tables);
      if (chain || (summary && isMisfit(summary, tables))) {
        this.#observeAll(family, tables, found);
        return;
      }
      this.#sets.delete(`${family} ${name}`);
      if (summary) this.#observeSet(family, tables, summary);
      else {
        tables.sets.get(name)?.observe(undefined);
        tables.retired.delete(name);
      }
    }
  }

  #observeSet(family: Family, tables: Tables, { name, map, key }: NftSetFound): void {
    const wanted = tables.sets.get(name);
    if (wanted) {
      const elements = this.#ruleset.elements(this.#set(family, name));
      wanted.observe(elements.map((element) => ({ key: elementId(element), element })));
      return;
    }
    const stale = new SetTable(name, { map, key }, '');
    stale.inKernel = true;
    tables.retired.set(name, stale);
  }

  #read(family: Family): Found {
    const place = { family: nftFamily(family), table: NFT_TABLE };
    const sets = this.#ruleset.sets(place).filter(({ name }) => name.startsWith(PREFIX));
    // Somebody may have given a chain of ours a name of nobody's; it goes with what is wanted no more.
    const ours = ({ name }: NftChainFound) =>
      name.startsWith(PREFIX) ||
      (isStrange(name, OWNER) &&
        isOurs(this.#ruleset.rules(place, name), OWNER, ({ comment }) => isRuleComment(comment)));
    return {
      chains: new Map(
        this.#ruleset.chains(place).flatMap((chain) => (ours(chain) ? [[chain.name, chain.hook]] : [])),
      ),
      sets: new Map(sets.map((set) => [set.name, set])),
    };
  }

  #lockDown(family: Family, addresses: readonly IpAddress[], pod: string): void {
    const { chains, sets } = this.#read(family);
    const tables = emptyTables();
    const key = family === 4 ? 'ipv4_addr' : 'ipv6_addr';
    for (const name of Object.values(VERDICTS)) wantSet(tables, name, { map: true, key }, 'local pods');
    wantSet(tables, ISOLATED, { map: false, key }, 'local pods that are isolated');
    // Named by a rule; who comes to itself before he is known is not let in.
    wantSet(tables, SELVES, { map: false, key: `${key} . ${key}` }, 'isolated pods and themselves');
    for (const set of tables.sets.values()) set.inKernel = sets.has(set.name);
    const base = baseChains(family, true);
    const whole = [...base.keys()].every((name) => chains.has(name));
    tables.chains = whole ? new Map() : base;
    const applied = new Map(
      [...chains.keys()].flatMap((name) => (base.has(name) ? [[name, undefined] as const] : [])),
    );
    for (const set of tables.sets.values())
      for (const address of set.name === SELVES ? [] : addresses) {
        const element: NftElement = { key: [address], comment: comment(`pod ${pod}: not known yet`) };
        const there = set.inKernel ? this.#ruleset.elements(this.#set(family, set.name)) : [];
        const old = there.find((each) => elementId(each) === String(address));
        if (old) set.elements.set(String(address), old);
        set.put(String(address), set.kind.map ? { ...element, data: { verdict: 'drop' } } : element);
      }
    this.#change([planPolicy(family, whole ? new Map() : applied, tables)]);
    this.#applied[family].suspects = 'all';
  }

  #note(event: NftEvent): void {
    const { table, family, name, subject, deleted, dormant } = event;
    if (table !== NFT_TABLE || !concerns(event, OWNER)) return;
    // Other parts of Portolan make the table, too.
    if (subject === 'table' && !deleted && !dormant) return;
    const of: Family | undefined = family === 'ip' ? 4 : family === 'ip6' ? 6 : undefined;
    // Of a chain that has another name now, only that one is told: what had it before is not known.
    const named = subject === 'chain' && !deleted ? undefined : name;
    if (of !== undefined) touch(this.#touched, of, named);
  }

  /** A transaction of somebody else is over. */
  #ended(): void {
    const touched = this.#touched;
    if (touched.size === 0) return;
    this.#touched = new Map();
    this.#suspect(touched);
    this.#options.onForeignChange?.();
  }

  #suspect(touched: Touched): void {
    for (const [family, names] of touched) {
      const applied = this.#applied[family];
      if (names === 'all' || applied.suspects === 'all') applied.suspects = 'all';
      else for (const name of names) applied.suspects.add(name);
    }
  }
}

/** Chains and sets of ours in the kernel. */
interface Found {
  /** With where they hang. */
  readonly chains: ReadonlyMap<string, NftChainFound['hook']>;
  readonly sets: ReadonlyMap<string, NftSetFound>;
}

/** Whether a set of ours has another shape than it is wanted with. */
function isMisfit({ name, map, key, interval }: NftSetFound, tables: Tables): boolean {
  const kind = tables.sets.get(name)?.kind;
  return kind !== undefined && (kind.map !== map || kind.key !== key || interval);
}

/** Whether somebody made a chain of ours anew, at another hook. */
function hangsElsewhere(name: string, hook: NftChainFound['hook'], tables: Tables): boolean {
  const chain = tables.chains.get(name);
  return chain !== undefined && !sameHook(hook, chain.hook, false);
}

/** Notes a name, or the whole table when there is none. */
function touch(touched: Touched, family: Family, name: string | undefined): void {
  const before = touched.get(family);
  if (before === 'all') return;
  if (name === undefined) touched.set(family, 'all');
  else if (before) before.add(name);
  else touched.set(family, new Set([name]));
}

/** The key under which SetTable keeps an element. */
function elementId({ key }: NftElement): string {
  return key.map(String).join(' ');
}

/** Removes all that policies made in a namespace. Returns the commands. */
export function cleanupPolicies(options: {
  readonly netns?: number | { readonly fd: number } | undefined;
  readonly dryRun?: boolean;
}): string[] {
  using ruleset = NftRuleset.open({ netns: options.netns });
  const lines: string[] = [];
  for (const family of FAMILIES) {
    const ours = (name: string) => name.startsWith(PREFIX);
    const changes = clearChanges(
      family,
      ruleset
        .chains({ family: nftFamily(family), table: NFT_TABLE })
        .map(({ name }) => name)
        .filter(ours),
      ruleset.sets({ family: nftFamily(family), table: NFT_TABLE }).filter(({ name }) => ours(name)),
    );
    if (changes.length === 0) continue;
    lines.push(...changes.map((change) => `nft ${changeText(change)}`));
    if (!options.dryRun) ruleset.apply(changes);
  }
  return lines;
}
