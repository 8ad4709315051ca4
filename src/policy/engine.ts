/**
 * The policies' part of nftables in one network namespace. Chains go as text in one transaction, elements of sets by
 * netlink in place. Whatever anybody else changes in this part is noticed and put right; whatever a former process left
 * stays in force until the first `apply`.
 */
import { FAMILIES, type Family, type IpAddress } from '../addr/index.ts';
import { isNetError, policyError } from '../errors/index.ts';
import {
  type ElementChange,
  listNftJson,
  monitorNft,
  type NftElement,
  NftElements,
  type NftEvent,
  type NftFamily,
  type NftSet,
  runNft,
} from '../kernel/nft/index.ts';
import { comment, ISOLATED, nftFamily, PREFIX, TABLE, VERDICTS } from './names.ts';
import { isEmptyPlan, type PolicyPlan, planPolicy } from './plan.ts';
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
  /** False when it has to be read back before the next change. */
  known: boolean;
  /** Lines that remove the whole part, when a set of another shape stands in the way: an older version's. */
  clear: readonly string[];
}

/** Own generations that notifications may still be told of. */
const REMEMBERED_GENERATIONS = 256;

export class NftPolicyEngine {
  readonly #options: PolicyEngineOptions;
  readonly #netlink: NftElements;
  readonly #monitor: { close(): void };
  readonly #applied: Record<Family, Applied> = {
    4: { chains: new Map(), known: false, clear: [] },
    6: { chains: new Map(), known: false, clear: [] },
  };
  readonly #sets = new Map<string, NftSet>();
  readonly #own = new Set<number>();
  /** Families touched since the last end of a transaction of anybody. */
  #touched = new Set<Family>();
  #ends: { generation: number; families: Set<Family> }[] = [];
  #working = 0;
  #transactions = 0;

  /** Throws KERNEL_SYSCALL, KERNEL_NEEDS_ROOT. */
  constructor(options: PolicyEngineOptions = {}) {
    this.#options = options;
    this.#netlink = NftElements.open({ netns: options.netns });
    this.#monitor = monitorNft({
      netns: options.netns,
      onEvent: (event) => this.#note(event),
      onGeneration: (generation) => this.#ended(generation),
      onResync: () => this.#foreign(FAMILIES),
    });
  }

  /** Transactions since the start, for status and tests. */
  get transactions(): number {
    return this.#transactions;
  }

  /** What has to be done, without doing it. Reads the kernel when that is not known. */
  async plan(tables: Readonly<Record<Family, Tables>>): Promise<PolicyPlan[]> {
    const unknown = FAMILIES.filter((family) => !this.#applied[family].known);
    await Promise.all(unknown.map((family) => this.#observe(family, tables[family])));
    return FAMILIES.map((family) => {
      const { chains, clear } = this.#applied[family];
      return planPolicy(family, chains, tables[family], clear);
    });
  }

  /**
   * Brings the kernel up to date, both families in one transaction. Calls must not overlap. Throws
   * POLICY_NOT_PROGRAMMED; trying again is safe.
   */
  async apply(tables: Readonly<Record<Family, Tables>>): Promise<boolean> {
    let changed = false;
    await this.#work(async () => {
      try {
        changed = await this.#applyBoth(tables);
      } catch (error) {
        for (const family of FAMILIES) this.#applied[family].known = false;
        throw policyError('POLICY_NOT_PROGRAMMED', { why: (error as Error).message }, error);
      }
    });
    return changed;
  }

  /**
   * Drops everything from and to these addresses, before anything is known of policies. Whatever is in force for others
   * stays. Calls must not overlap with `apply`.
   */
  async lockDown(addresses: readonly IpAddress[], pod: string): Promise<void> {
    await this.#work(async () => {
      for (const family of FAMILIES) {
        const own = addresses.filter((address) => address.family === family);
        if (own.length > 0) await this.#lockDown(family, own, pod);
      }
    });
  }

  /** Sets and chains of ours in the kernel's own words, for `policy show`. */
  async list(family: Family): Promise<Record<string, unknown>[]> {
    const objects = await listNftJson({
      netns: this.#options.netns,
      terse: true,
      query: ['table', nftFamily(family), TABLE],
    });
    return (objects ?? []).flatMap((object) => {
      const rule = object['rule'];
      return rule && String(rule['chain']).startsWith(PREFIX) ? [rule] : [];
    });
  }

  close(): void {
    this.#monitor.close();
    this.#netlink.close();
  }

  async #applyBoth(tables: Readonly<Record<Family, Tables>>): Promise<boolean> {
    const plans = await this.plan(tables);
    const before = plans.map((plan) => plan.before).join('');
    const script = plans.map((plan) => plan.script).join('');
    if (before) await this.#run(before);
    for (const plan of plans) this.#changeElements(plan.family, plan);
    if (script) await this.#run(script);
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

  #changeElements(family: Family, { elements }: PolicyPlan): void {
    const changes: ElementChange[] = [];
    for (const { set, deletes, adds } of elements) {
      const known = this.#set(family, set.name);
      if (deletes.length > 0) changes.push({ kind: 'delete', set: known, elements: deletes });
      if (adds.length > 0) changes.push({ kind: 'add', set: known, elements: adds });
    }
    if (changes.length === 0) return;
    const before = this.#netlink.generation();
    this.#netlink.apply(changes);
    this.#remember(before, this.#netlink.generation());
    this.#transactions++;
  }

  async #run(script: string): Promise<void> {
    const before = this.#netlink.generation();
    await runNft({ netns: this.#options.netns, script, what: 'apply network policies' });
    this.#remember(before, this.#netlink.generation());
    this.#transactions++;
  }

  /** A number that may be somebody else's is nobody's: then the part is read back. */
  #remember(before: number, after: number): void {
    if (after === ((before + 1) & 0xffff_ffff)) this.#own.add(after);
    for (const generation of this.#own) {
      if (this.#own.size <= REMEMBERED_GENERATIONS) break;
      this.#own.delete(generation);
    }
  }

  #set(family: Family, name: string): NftSet {
    const key = `${family} ${name}`;
    let set = this.#sets.get(key);
    if (!set) {
      set = this.#netlink.set(nftFamily(family) as NftFamily, TABLE, name);
      this.#sets.set(key, set);
    }
    return set;
  }

  /** Reads what is there of ours, and tells each set what it lacks. Rules are not compared but written anew. */
  async #observe(family: Family, tables: Tables): Promise<void> {
    const applied = this.#applied[family];
    const { chains, sets } = await this.#read(family);
    for (const key of [...this.#sets.keys()]) if (key.startsWith(`${family} `)) this.#sets.delete(key);
    applied.chains = new Map([...chains].map((name) => [name, undefined]));
    applied.clear = [];
    applied.known = true;
    tables.retired.clear();
    const misfit = [...sets].some(([name, { map, type }]) => {
      const kind = tables.sets.get(name)?.kind;
      return kind !== undefined && (kind.map !== map || kind.type !== type);
    });
    if (misfit) {
      const table = `${nftFamily(family)} ${TABLE}`;
      applied.clear = clearLines(table, chains, sets);
      applied.chains.clear();
      for (const set of tables.sets.values()) set.observe(undefined);
      return;
    }
    for (const [name, found] of sets) {
      const wanted = tables.sets.get(name);
      if (wanted) {
        const elements = this.#netlink.list(this.#set(family, name));
        wanted.observe(elements.map((element) => ({ key: elementId(element), element })));
      } else {
        const stale = new SetTable(name, found, '');
        stale.inKernel = true;
        tables.retired.set(name, stale);
      }
    }
    for (const set of tables.sets.values()) if (!sets.has(set.name)) set.observe(undefined);
  }

  async #read(
    family: Family,
  ): Promise<{ chains: Set<string>; sets: Map<string, { map: boolean; type: string }> }> {
    const objects = await listNftJson({
      netns: this.#options.netns,
      terse: true,
      query: ['table', nftFamily(family), TABLE],
    });
    const chains = new Set<string>();
    const sets = new Map<string, { map: boolean; type: string }>();
    for (const object of objects ?? []) {
      const [kind, value] = Object.entries(object)[0] ?? [];
      const name = String(value?.['name'] ?? '');
      if (!name.startsWith(PREFIX) || !value) continue;
      if (kind === 'chain') chains.add(name);
      if (kind !== 'set' && kind !== 'map') continue;
      const type = Array.isArray(value['type']) ? value['type'].join(' . ') : String(value['type']);
      sets.set(name, { map: kind === 'map', type: kind === 'map' ? `${type} : ${value['map']}` : type });
    }
    return { chains, sets };
  }

  async #lockDown(family: Family, addresses: readonly IpAddress[], pod: string): Promise<void> {
    const { chains, sets } = await this.#read(family);
    const tables = emptyTables();
    const type = family === 4 ? 'ipv4_addr' : 'ipv6_addr';
    for (const name of Object.values(VERDICTS))
      wantSet(tables, name, { map: true, type: `${type} : verdict` }, 'local pods');
    wantSet(tables, ISOLATED, { map: false, type }, 'local pods that are isolated');
    for (const set of tables.sets.values()) set.inKernel = sets.has(set.name);
    const base = baseChains(family, true);
    const whole = [...base.keys()].every((name) => chains.has(name));
    tables.chains = whole ? new Map() : base;
    const applied = new Map(
      [...chains].flatMap((name) => (base.has(name) ? [[name, undefined] as const] : [])),
    );
    for (const set of tables.sets.values())
      for (const address of addresses) {
        const element: NftElement = { key: [address], comment: comment(`pod ${pod}: not known yet`) };
        const there = set.inKernel ? this.#netlink.list(this.#set(family, set.name)) : [];
        const old = there.find((each) => elementId(each) === String(address));
        if (old) set.elements.set(String(address), old);
        set.put(String(address), set.kind.map ? { ...element, data: { verdict: 'drop' } } : element);
      }
    const plan = planPolicy(family, whole ? new Map() : applied, tables);
    if (isEmptyPlan(plan)) return;
    this.#changeElements(family, plan);
    if (plan.script) await this.#run(plan.script);
    this.#applied[family].known = false;
  }

  async #work(work: () => Promise<void>): Promise<void> {
    this.#working++;
    try {
      await work();
    } finally {
      this.#working--;
      this.#judge();
    }
  }

  #note({ table, family, name, subject, deleted }: NftEvent): void {
    if (table !== TABLE || (name !== undefined && !name.startsWith(PREFIX))) return;
    // Other parts of Portolan make the table, too.
    if (subject === 'table' && !deleted) return;
    if (family === 'ip') this.#touched.add(4);
    else if (family === 'ip6') this.#touched.add(6);
  }

  #ended(generation: number): void {
    const families = this.#touched;
    if (families.size === 0) return;
    this.#touched = new Set();
    this.#ends.push({ generation, families });
    this.#judge();
  }

  /** Tells own transactions from others'; during own work its numbers are not all known yet. */
  #judge(): void {
    if (this.#working > 0) return;
    const foreign = new Set<Family>();
    for (const { generation, families } of this.#ends.splice(0))
      if (!this.#own.has(generation)) for (const family of families) foreign.add(family);
    if (foreign.size > 0) this.#foreign([...foreign]);
  }

  #foreign(families: readonly Family[]): void {
    for (const family of families) this.#applied[family].known = false;
    this.#options.onForeignChange?.();
  }
}

/** The key under which SetTable keeps an element. */
function elementId({ key }: NftElement): string {
  return key.map(String).join(' ');
}

function clearLines(
  table: string,
  chains: Iterable<string>,
  sets: Iterable<readonly [string, { readonly map: boolean }]>,
): string[] {
  const names = [...chains];
  return [
    ...names.map((name) => `flush chain ${table} ${name}`),
    ...[...sets].map(([name, { map }]) => `delete ${map ? 'map' : 'set'} ${table} ${name}`),
    ...names.map((name) => `delete chain ${table} ${name}`),
  ];
}

/** Removes all that policies made in a namespace. Returns the commands. */
export async function cleanupPolicies(options: {
  readonly netns?: number | { readonly fd: number } | undefined;
  readonly dryRun?: boolean;
}): Promise<string[]> {
  const lines: string[] = [];
  for (const family of FAMILIES) {
    const table = `${nftFamily(family)} ${TABLE}`;
    const objects =
      (await listNftJson({
        netns: options.netns,
        terse: true,
        query: ['table', nftFamily(family), TABLE],
      })) ?? [];
    const named = (kind: string) =>
      objects.flatMap((object) => {
        const name = object[kind]?.['name'];
        return typeof name === 'string' && name.startsWith(PREFIX) ? [name] : [];
      });
    const script = clearLines(table, named('chain'), [
      ...named('map').map((name) => [name, { map: true }] as const),
      ...named('set').map((name) => [name, { map: false }] as const),
    ]);
    if (script.length === 0) continue;
    lines.push(...script.map((line) => `nft ${line}`));
    if (options.dryRun) continue;
    try {
      await runNft({
        netns: options.netns,
        script: `${script.join('\n')}\n`,
        what: 'remove network policies',
      });
    } catch (error) {
      if (!isNetError(error, 'NFT_REFUSED') || !/No such file/.test(error.message)) throw error;
    }
  }
  return lines;
}
