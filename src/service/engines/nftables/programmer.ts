/**
 * Brings the kernel to what the ledger says: by the elements and chains of a change, or, when somebody else was there, by
 * comparing everything. What an earlier process left is adopted and stays until everything is known.
 */
import { FAMILIES, type Family, parseCidr, withoutCovered } from '../../../addr/index.ts';
import { type NftChange, type NftElement, removal } from '../../../kernel/nft/index.ts';
import { type Entry, entryId, type PlannedChain } from './compile.ts';
import type { Damage, DamagedKeys } from './damage.ts';
import { makeChains, makeTable, type NftKernel, type SetContents } from './kernel.ts';
import { LAYOUTS, PLANNED_SETS, type SetId } from './layout.ts';
import { idOf, type Ledger, type Leftover, sameData } from './ledger.ts';
import { leftoversOf } from './leftovers.ts';
import { SLOT_SETS } from './observe.ts';

/** What is known of the kernel's contents when everything is compared. */
interface Known {
  readonly left?: FoundLeftovers | undefined;
  /** Nothing else can differ. */
  readonly damage?: Damage;
}

/** What an earlier process left, by frontend, and all sets as they are. */
export interface FoundLeftovers {
  readonly fronts: ReadonlyMap<string, Leftover>;
  readonly sets: Readonly<Record<Family, SetContents>>;
}

/** Chains that nothing uses are taken away later: kernels before 6.2 see a moment late that an element is gone. */
const CHAIN_REST_MS = 1500;

const planned: ReadonlySet<SetId> = new Set(PLANNED_SETS);

export class Programmer {
  readonly podLinks = new Set<number>();
  readonly #kernel: NftKernel;
  readonly #ledger: Ledger;
  /** Chains in the kernel that choose endpoints. */
  readonly #chains: Readonly<Record<Family, Set<string>>> = { 4: new Set(), 6: new Set() };
  #ranges: readonly string[] | undefined;
  /** Whether the kernel holds what the ledger says, rather than what an earlier process left. */
  #synced = false;
  /** Whether the ledger knows everything. */
  #complete = false;
  #sweep: NodeJS.Timeout | undefined;
  /** Strangers' chains and sets could not be taken away. */
  #leavesStrangers = false;
  #closed = false;
  readonly #askRestore: () => void;

  /** `askRestore` is called when restore() is wanted and nobody is there to hear of its failure. */
  constructor(kernel: NftKernel, ledger: Ledger, askRestore: () => void) {
    this.#kernel = kernel;
    this.#ledger = ledger;
    this.#askRestore = askRestore;
  }

  get complete(): boolean {
    return this.#complete;
  }

  /** From now on what the ledger does not know is wanted no more. */
  setComplete(): void {
    this.#complete = true;
  }

  /** The kernel cannot be trusted to hold what was written: the next change compares everything. */
  distrust(): void {
    this.#synced = false;
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#sweep);
  }

  /** Takes over the tables that are there, or makes empty ones. */
  adopt(): void {
    for (const family of FAMILIES) {
      this.#kernel.wake(family);
      const { state, choosing } = this.#kernel.state(family);
      if (state === 'absent') {
        this.#kernel.apply(makeTable(family));
        continue;
      }
      // Rules of another version go on working until everything is known.
      for (const { key } of this.#kernel.list(family, 'pod-links') ?? []) this.podLinks.add(key[0] as number);
      if (state === 'ours') for (const name of choosing.keys()) this.#chains[family].add(name);
    }
  }

  /** What an earlier process left, by frontend; affinity's new numbers begin behind its. */
  leftovers(): FoundLeftovers | undefined {
    const fronts = new Map<string, Leftover>();
    const sets: Record<Family, SetContents> = { 4: {}, 6: {} };
    for (const family of FAMILIES) {
      sets[family] = this.#kernel.contents(family, PLANNED_SETS);
      const left = leftoversOf(sets[family], this.#kernel.state(family).choosing);
      for (const [front, leftover] of left.fronts) fronts.set(front, leftover);
      const remembered = (this.#kernel.list(family, 'affinity') ?? []).map(({ key }) => key[1] as number);
      this.#ledger.reserve(
        left.lastPort,
        remembered.reduce((a, b) => Math.max(a, b), left.lastEndpoint),
      );
    }
    return fronts.size > 0 ? { fronts, sets } : undefined;
  }

  /** Writes what the ledger has changed since the last time; returns how many elements that was. */
  program(left?: FoundLeftovers): number {
    return this.#synced ? this.#applyStaged() : this.restore({ left });
  }

  setServiceRanges(cidrs: readonly string[]): void {
    this.#ranges = cidrs;
    this.#write(FAMILIES.flatMap((family) => this.#compareSet(family, 'service-ranges')));
  }

  addPodLink(ifindex: number): void {
    if (this.podLinks.has(ifindex)) return;
    this.podLinks.add(ifindex);
    this.#write(linkChanges('add', [ifindex]));
  }

  removePodLinks(links: readonly number[]): void {
    const gone = links.filter((ifindex) => this.podLinks.delete(ifindex));
    if (gone.length > 0) this.#write(linkChanges('delete', gone));
  }

  /** Writes what the last change staged; when that fails, because somebody came in between, everything. */
  #applyStaged(): number {
    const changes: NftChange[] = [];
    let elements = 0;
    for (const family of FAMILIES) {
      const { deletes, adds, chains } = this.#ledger.take(family);
      const there = this.#chains[family];
      // A chain whose name says everything may be there from before.
      const needed = [...chains].filter(([name, { looks }]) => looks !== '' || !there.has(name));
      changes.push(
        ...makeChains(
          family,
          needed.map(([name, { chain }]) => [name, chain] as const),
          there,
        ),
      );
      for (const [name] of needed) there.add(name);
      changes.push(...elementChanges(family, deletes, adds));
      elements += deletes.length + adds.length;
    }
    try {
      this.#kernel.apply(changes);
    } catch {
      return this.restore();
    }
    this.#scheduleSweep();
    return elements;
  }

  /**
   * Compares everything with the kernel, or what is damaged, and writes what differs in one transaction. Returns how much
   * that was.
   */
  restore(known: Known = {}): number {
    const changes: NftChange[] = [];
    // What was refused before may be missing anywhere, and what leads to a chain of another name may be anything.
    const damage = this.#synced && !this.#renamed(known.damage) ? known.damage : undefined;
    const gone: NftChange[] = [];
    for (const family of FAMILIES) {
      const names = damage?.names(family);
      if (names?.size === 0) continue;
      this.#kernel.wake(family);
      const { state, choosing, repair, removal: strange } = this.#kernel.state(family, names);
      const fresh = state !== 'ours';
      // Another version's table serves until everything is known; only then can it be made anew with all that it has.
      if (state === 'foreign' && !this.#complete) continue;
      const there: ReadonlyMap<string, string> = fresh ? new Map() : choosing;
      changes.push(...(fresh ? makeTable(family) : repair));
      gone.push(...strange);
      const wanted = this.#complete ? this.#ledger.chains(family) : new Map<string, PlannedChain>();
      const looked = (name: string) => fresh || !names || names.has(name);
      const needed = [...wanted].filter(
        ([name, { looks }]) =>
          looked(name) && (!there.has(name) || (looks !== '' && there.get(name) !== looks)),
      );
      changes.push(
        ...makeChains(
          family,
          needed.map(([name, { chain }]) => [name, chain] as const),
          there,
        ),
      );
      for (const name of [...this.#chains[family]]) if (looked(name)) this.#chains[family].delete(name);
      for (const name of [...there.keys(), ...wanted.keys()]) this.#chains[family].add(name);
      if (fresh) changes.push(...this.#everything(family));
      else changes.push(...this.#compare(family, known.left, damage?.sets(family)));
    }
    this.#kernel.apply(changes);
    this.#ledger.settle();
    this.#ledger.stage();
    this.#synced = this.#complete;
    this.#takeAway(gone);
    this.#scheduleSweep();
    return changes.length + gone.length;
  }

  /**
   * Apart from what traffic needs: before everything is known, elements of an earlier process may lead to a chain that
   * has another name now, and kernels before 6.2 see a moment late that none does.
   */
  #takeAway(gone: readonly NftChange[]): void {
    this.#leavesStrangers = false;
    if (!this.#complete) return;
    try {
      this.#kernel.apply(gone);
    } catch {
      this.#leavesStrangers = true;
    }
  }

  #renamed(damage: Damage | undefined): boolean {
    const ours = (family: Family) => new Set(this.#ledger.chains(family).keys());
    return (
      damage !== undefined && FAMILIES.some((family) => this.#kernel.renamed(family, ours(family), damage))
    );
  }

  #everything(family: Family): NftChange[] {
    const unplanned = (['pod-links', 'service-ranges'] as const).flatMap((set) =>
      this.#unplanned(family, set),
    );
    const planned = this.#complete ? this.#ledger.entries(family) : [];
    return elementChanges(family, [], concat(unplanned, planned));
  }

  #compare(
    family: Family,
    left: FoundLeftovers | undefined,
    damaged: ReadonlyMap<SetId, DamagedKeys> | undefined,
  ): NftChange[] {
    const touched = (set: SetId) => damaged === undefined || damaged.has(set);
    const links = touched('pod-links') ? this.#compareSet(family, 'pod-links') : [];
    const ranges =
      this.#ranges && touched('service-ranges') ? this.#compareSet(family, 'service-ranges') : [];
    // What an earlier process left stays until everything is known.
    if (!this.#complete) return [...links, ...ranges];
    if (damaged) return [...links, ...ranges, ...this.#compareSome(family, damaged)];
    const contents = left?.sets[family] ?? this.#kernel.contents(family, PLANNED_SETS);
    const slots = (contents.slots?.length ?? 0) + (contents['nodeport-slots']?.length ?? 0);
    const skipSlots = left !== undefined && this.#ledger.hasSlots(family, left.fronts, slots);
    const present = new Map<string, Entry>();
    for (const [set, elements] of Object.entries(contents) as [SetId, readonly NftElement[]][])
      if (!skipSlots || !SLOT_SETS.includes(set))
        for (const element of elements) {
          const entry: Entry = { set, element };
          present.set(idOf(entry), entry);
        }
    const wanted = this.#ledger.entries(family, !skipSlots);
    if (present.size === 0) return [...links, ...ranges, ...elementChanges(family, [], wanted)];
    return [...links, ...ranges, ...differences(family, present, wanted)];
  }

  /** As #compare(), of what somebody touched: only that is read, and only that is asked of the ledger. */
  #compareSome(family: Family, damaged: ReadonlyMap<SetId, DamagedKeys>): NftChange[] {
    const asked = new Map([...damaged].filter(([set]) => planned.has(set)));
    const present = new Map<string, Entry>();
    for (const [set, keys] of asked) {
      const elements = keys
        ? this.#kernel.elements(
            family,
            set,
            [...keys.values()].map(({ key }) => key),
          )
        : (this.#kernel.list(family, set) ?? []);
      for (const element of elements) present.set(idOf({ set, element }), { set, element });
    }
    return differences(family, present, this.#ledger.entriesOf(family, asked));
  }

  /** Elements of sets that plans do not decide. */
  #unplanned(family: Family, set: 'pod-links' | 'service-ranges'): Entry[] {
    if (set === 'pod-links')
      return [...this.podLinks].map((ifindex) => ({ set, element: { key: [ifindex] } }));
    return withoutCovered((this.#ranges ?? []).map(parseCidr))
      .filter((cidr) => cidr.family === family)
      .map(({ address, last }) => ({ set, element: { key: [address], keyEnd: [last] } }));
  }

  #compareSet(family: Family, set: 'pod-links' | 'service-ranges'): NftChange[] {
    const id = (element: NftElement) => entryId(set, element.key, element.keyEnd ?? element.key);
    const present = new Map((this.#kernel.list(family, set) ?? []).map((element) => [id(element), element]));
    const adds = this.#unplanned(family, set).filter(({ element }) => !present.delete(id(element)));
    const deletes = [...present.values()].map((element) => ({ set, element }));
    return elementChanges(family, deletes, adds);
  }

  /** A change besides plans; if somebody came in between, everything is compared. */
  #write(changes: readonly NftChange[]): void {
    try {
      this.#kernel.apply(changes);
    } catch {
      this.restore();
    }
  }

  #scheduleSweep(): void {
    const unused = (family: Family) =>
      [...this.#chains[family]].filter((name) => !this.#ledger.chains(family).has(name));
    if (this.#sweep || this.#closed || !this.#complete) return;
    if (!this.#leavesStrangers && FAMILIES.every((family) => unused(family).length === 0)) return;
    this.#sweep = setTimeout(() => {
      this.#sweep = undefined;
      try {
        for (const family of FAMILIES) {
          const names = unused(family);
          this.#kernel.apply(removal(LAYOUTS[family].place, { chains: names, sets: [] }));
          for (const name of names) this.#chains[family].delete(name);
        }
        if (!this.#leavesStrangers) return;
      } catch {
        this.distrust();
      }
      this.#askRestore();
    }, CHAIN_REST_MS);
    this.#sweep.unref();
  }
}

function linkChanges(kind: 'add' | 'delete', links: readonly number[]): NftChange[] {
  const elements = links.map((ifindex) => ({ key: [ifindex] }));
  return FAMILIES.map((family) => {
    const { place, sets } = LAYOUTS[family];
    return { ...place, change: `${kind} elements`, set: sets['pod-links'], elements };
  });
}

function* concat<T>(...lists: readonly Iterable<T>[]): Generator<T> {
  for (const list of lists) yield* list;
}

/** What makes the wanted entries of those that are there, which are used up. */
function differences(family: Family, present: Map<string, Entry>, wanted: Iterable<Entry>): NftChange[] {
  const adds: Entry[] = [];
  const deletes: Entry[] = [];
  for (const entry of wanted) {
    const id = idOf(entry);
    const there = present.get(id);
    present.delete(id);
    if (there && sameData(there.element, entry.element)) continue;
    if (there) deletes.push(there);
    adds.push(entry);
  }
  deletes.push(...present.values());
  return elementChanges(family, deletes, adds);
}

/** Deletions first: a key may get other data in the same transaction. */
function elementChanges(family: Family, deletes: Iterable<Entry>, adds: Iterable<Entry>): NftChange[] {
  const { place, sets } = LAYOUTS[family];
  const bySet = (kind: 'delete' | 'add', entries: Iterable<Entry>): NftChange[] => {
    const grouped = new Map<SetId, NftElement[]>();
    for (const { set, element } of entries) {
      const list = grouped.get(set);
      if (list) list.push(element);
      else grouped.set(set, [element]);
    }
    return [...grouped].map(([id, elements]) => ({
      ...place,
      change: `${kind} elements`,
      set: sets[id],
      elements,
    }));
  };
  return [...bySet('delete', deletes), ...bySet('add', adds)];
}
