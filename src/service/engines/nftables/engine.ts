/**
 * Services in nftables, kube-proxy's nftables mode in other words: what a Service is lies in elements of sets, which
 * are changed in place by netlink; rules are the same for all Services. See layout.ts and chains.ts.
 */
import { FAMILIES, type Family, parseCidr, parseIp, withoutCovered } from '../../../addr/index.ts';
import { serviceError } from '../../../errors/index.ts';
import { Conntrack } from '../../../kernel/conntrack/index.ts';
import type { NftChange, NftElement } from '../../../kernel/nft/index.ts';
import { Rtnl } from '../../../kernel/rtnl/index.ts';
import type {
  ApplyReport,
  Count,
  EngineDiff,
  EngineStatus,
  NodeServiceEngine,
  PacketAnswer,
  PacketQuery,
  PortObservation,
  Repairs,
} from '../../engine.ts';
import type { PlanDelta, ServicePlan } from '../../types.ts';
import { type Entry, entryId, type PlannedChain } from './compile.ts';
import { type DumpedTable, dumpPlans, dumpTables } from './dump.ts';
import { makeChains, makeTable, NftKernel, removeNftServices, type SetContents } from './kernel.ts';
import { LAYOUTS, PLANNED_SETS, SET_IDS, type SetId, TABLE } from './layout.ts';
import { idOf, Ledger, type Leftover, type PortChange, sameData } from './ledger.ts';
import { leftoversOf } from './leftovers.ts';
import { allowLoopbackRoutes, isLoopback } from './loopback.ts';
import { countOf, explainPacket, FORWARD_SETS, observePort, packetsOf, REFUSED_SETS } from './observe.ts';
import { staleFlows } from './stale.ts';
import { countersOf, storesOf } from './status.ts';

export interface NftablesEngineOptions {
  /** Namespace of the node, default the process's own. */
  readonly netns?: number | { readonly fd: number } | undefined;
  /** Name of the Node object. */
  readonly nodeName: string;
  /** Why this engine and no other, for `status`. */
  readonly because?: string | undefined;
  /** Called after somebody else's change was put right, or could not be. */
  readonly onRepaired?: (error: Error | undefined) => void;
}

/** What is known of the kernel's contents when everything is compared. */
interface Known {
  readonly left?: FoundLeftovers | undefined;
  /** Only these sets can differ. */
  readonly names?: ReadonlySet<string>;
}

interface FoundLeftovers {
  readonly fronts: ReadonlyMap<string, Leftover>;
  readonly sets: Readonly<Record<Family, SetContents>>;
}

const SLOT_SETS: ReadonlySet<SetId> = new Set(['slots', 'nodeport-slots']);

/** Chains that nothing uses are taken away later: kernels before 6.2 see a moment late that an element is gone. */
const CHAIN_REST_MS = 1500;
/** Somebody who undoes every repair at once is answered this often. */
const REPAIR_PAUSE_MS = 50;

export class NftablesEngine implements NodeServiceEngine {
  readonly name = 'nftables';
  readonly #options: NftablesEngineOptions;
  readonly #kernel: NftKernel;
  readonly #ledger: Ledger;
  readonly #podLinks = new Set<number>();
  readonly #nodeInterfaces = new Set<number>();
  /** Chains in the kernel that choose endpoints. */
  readonly #chains: Readonly<Record<Family, Set<string>>> = { 4: new Set(), 6: new Set() };
  #ranges: readonly string[] | undefined;
  /** Whether the kernel holds what the ledger says, rather than what an earlier process left. */
  #synced = false;
  #started = false;
  #sweep: NodeJS.Timeout | undefined;
  #repair: NodeJS.Timeout | undefined;
  #repairedAt = 0;
  /** Names of chains and sets that somebody changed; undefined: perhaps all. */
  #damaged: Set<string> | undefined = new Set();
  #repairs: Repairs = { count: 0 };
  #closed = false;

  private constructor(options: NftablesEngineOptions) {
    this.#options = options;
    this.#ledger = new Ledger(options.nodeName);
    this.#kernel = new NftKernel({
      netns: options.netns,
      onForeignChange: (names) => this.#scheduleRepair(names),
    });
  }

  /**
   * Adopts what an earlier process left, or makes empty tables. Throws SERVICE_ENGINE_OPEN when the kernel lacks a part
   * of nf_tables.
   */
  static open(options: NftablesEngineOptions): NftablesEngine {
    const engine = new NftablesEngine(options);
    try {
      engine.#adopt();
      return engine;
    } catch (cause) {
      engine.#kernel.close();
      throw serviceError('SERVICE_ENGINE_OPEN', { engine: 'nftables', step: `making table ${TABLE}` }, cause);
    }
  }

  get repairs(): Repairs {
    return this.#repairs;
  }

  /** Transactions since the start: a restart without a change has none. */
  get transactions(): number {
    return this.#kernel.transactions;
  }

  apply(delta: PlanDelta): ApplyReport {
    const failed = new Map<string, Error>();
    const left = delta.full && !this.#started ? this.#leftovers() : undefined;
    for (const plan of delta.upsert) {
      const error = this.#ledger.put(plan, left && ((front) => left.fronts.get(front)));
      if (error) failed.set(plan.key, error);
    }
    for (const key of delta.remove) this.#ledger.drop(key);
    if (delta.full) {
      const wanted = new Set(delta.upsert.map(({ key }) => key));
      for (const key of [...this.#ledger.services]) if (!wanted.has(key)) this.#ledger.drop(key);
      this.#started = true;
    }
    const ports = this.#ledger.takeChanges();
    let changes = 0;
    try {
      changes = this.#synced ? this.#applyStaged() : this.#restore({ left });
      this.#forget(ports);
      if (this.#servesLoopback(ports)) allowLoopbackRoutes({ netns: this.#options.netns });
    } catch (cause) {
      this.#synced = false;
      for (const { key } of delta.upsert)
        failed.set(
          key,
          serviceError('SERVICE_PROGRAM_FAILED', { service: key, step: 'changing nftables' }, cause),
        );
    }
    if (this.#started) this.#kernel.watch();
    return { changes, failed };
  }

  setServiceRanges(cidrs: readonly string[]): void {
    this.#ranges = cidrs;
    this.#write(FAMILIES.flatMap((family) => this.#compareSet(family, 'service-ranges')));
  }

  attachPodLink(ifindex: number): void {
    if (this.#podLinks.has(ifindex)) return;
    this.#podLinks.add(ifindex);
    this.#write(this.#linkChanges('add', [ifindex]));
  }

  detachPodLink(ifindex: number): void {
    if (!this.#podLinks.delete(ifindex)) return;
    this.#write(this.#linkChanges('delete', [ifindex]));
  }

  attachPodBridge(ifindex: number): void {
    this.attachPodLink(ifindex);
  }

  dropGoneInterfaces(): void {
    using rtnl = Rtnl.open({ netns: this.#options.netns });
    const there = new Set(rtnl.links().map(({ ifindex }) => ifindex));
    const gone = [...this.#podLinks].filter((ifindex) => !there.has(ifindex));
    for (const ifindex of gone) this.#podLinks.delete(ifindex);
    for (const ifindex of this.#nodeInterfaces) if (!there.has(ifindex)) this.#nodeInterfaces.delete(ifindex);
    if (gone.length > 0) this.#write(this.#linkChanges('delete', gone));
  }

  /** Rules see the packets of all interfaces: whatever comes from no pod of this node comes from outside. */
  attachNodeInterface(ifindex: number): void {
    this.#nodeInterfaces.add(ifindex);
  }

  /** Answers find their connection in conntrack, by whatever interface they come. */
  attachOverlay(): void {}

  detachNodeInterface(ifindex: number): void {
    this.#nodeInterfaces.delete(ifindex);
  }

  /** Everything that the kernel has. */
  contents(): Record<Family, DumpedTable> {
    const read = (family: Family): DumpedTable => ({
      sets: this.#kernel.contents(family, SET_IDS),
      chains: this.#kernel.state(family).choosing,
    });
    return { 4: read(4), 6: read(6) };
  }

  dump(): string[] {
    return dumpTables(this.contents());
  }

  diff(plans: Iterable<ServicePlan>): EngineDiff {
    const present = new Set(this.dump());
    const wanted = new Set(dumpPlans(plans));
    return {
      missing: [...wanted].filter((line) => !present.has(line)),
      unwanted: [...present].filter((line) => !wanted.has(line)),
    };
  }

  observe(plans: Iterable<ServicePlan>): Map<string, PortObservation> {
    const packets = this.#packets();
    using conntrack = Conntrack.open({ netns: this.#options.netns });
    const flows = conntrack.list();
    const found = new Map<string, PortObservation>();
    for (const { ports } of plans)
      for (const { key } of ports) {
        const port = this.#ledger.ports.get(key);
        if (port) found.set(key, observePort(port, packets, flows));
      }
    return found;
  }

  portCounts(): Map<string, Count> {
    const packets = this.#packets();
    const counts = new Map<string, Count>();
    for (const [key, port] of this.#ledger.ports) {
      const count = countOf(port, packets);
      if (count) counts.set(key, count);
    }
    return counts;
  }

  explainPacket(query: PacketQuery): PacketAnswer {
    return explainPacket(this.contents()[parseIp(query.target).family], query);
  }

  /** No socket is given a backend here: its packets are translated. */
  backendOfSocket(): undefined {
    return undefined;
  }

  #packets(): Map<string, number> {
    const sets = [...FORWARD_SETS, ...REFUSED_SETS];
    return new Map(FAMILIES.flatMap((family) => [...packetsOf(this.#kernel.contents(family, sets))]));
  }

  status(): EngineStatus {
    return {
      engine: this.name,
      ...(this.#options.because === undefined ? {} : { because: this.#options.because }),
      repairs: this.#repairs,
      programs: [],
      stores: storesOf(this.#ledger, this.#kernel),
      podLinks: [...this.#podLinks],
      nodeInterfaces: [...this.#nodeInterfaces],
      counters: countersOf(this.#kernel),
    };
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#sweep);
    clearTimeout(this.#repair);
    this.#kernel.close();
  }

  remove(): void {
    this.close();
    removeNftServices({ netns: this.#options.netns });
  }

  #adopt(): void {
    for (const family of FAMILIES) {
      this.#kernel.wake(family);
      const { state, choosing } = this.#kernel.state(family);
      if (state === 'absent') {
        this.#kernel.apply(makeTable(family));
        continue;
      }
      // Rules of another version go on working until everything is known.
      for (const { key } of this.#kernel.list(family, 'pod-links') ?? [])
        this.#podLinks.add(key[0] as number);
      if (state === 'ours') for (const name of choosing.keys()) this.#chains[family].add(name);
    }
  }

  /** What an earlier process left, by frontend; affinity's new numbers begin behind its. */
  #leftovers(): FoundLeftovers | undefined {
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
      return this.#restore();
    }
    this.#scheduleSweep();
    return elements;
  }

  /** Compares everything with the kernel, and writes what differs in one transaction. Returns how much that was. */
  #restore(known: Known = {}): number {
    const changes: NftChange[] = [];
    for (const family of FAMILIES) {
      this.#kernel.wake(family);
      const { state, choosing } = this.#kernel.state(family);
      const fresh = state !== 'ours';
      const there: ReadonlyMap<string, string> = fresh ? new Map() : choosing;
      if (fresh) changes.push(...makeTable(family));
      const wanted = this.#started ? this.#ledger.chains(family) : new Map<string, PlannedChain>();
      const needed = [...wanted].filter(
        ([name, { looks }]) => !there.has(name) || (looks !== '' && there.get(name) !== looks),
      );
      changes.push(
        ...makeChains(
          family,
          needed.map(([name, { chain }]) => [name, chain] as const),
          there,
        ),
      );
      this.#chains[family].clear();
      for (const name of [...there.keys(), ...wanted.keys()]) this.#chains[family].add(name);
      if (fresh) changes.push(...this.#everything(family));
      else changes.push(...this.#compare(family, known));
    }
    this.#kernel.apply(changes);
    this.#ledger.settle();
    this.#ledger.stage();
    this.#synced = this.#started;
    this.#scheduleSweep();
    return changes.length;
  }

  #everything(family: Family): NftChange[] {
    const unplanned = (['pod-links', 'service-ranges'] as const).flatMap((set) =>
      this.#unplanned(family, set),
    );
    const planned = this.#started ? this.#ledger.entries(family) : [];
    return elementChanges(family, [], concat(unplanned, planned));
  }

  #compare(family: Family, { left, names }: Known): NftChange[] {
    const touched = (set: SetId) => names === undefined || names.has(set);
    const links = touched('pod-links') ? this.#compareSet(family, 'pod-links') : [];
    const ranges =
      this.#ranges && touched('service-ranges') ? this.#compareSet(family, 'service-ranges') : [];
    // What an earlier process left stays until everything is known.
    if (!this.#started) return [...links, ...ranges];
    const contents = left?.sets[family] ?? this.#kernel.contents(family, PLANNED_SETS.filter(touched));
    const slots = (contents.slots?.length ?? 0) + (contents['nodeport-slots']?.length ?? 0);
    const skipSlots = left !== undefined && this.#ledger.hasSlots(family, left.fronts, slots);
    const present = new Map<string, Entry>();
    for (const [set, elements] of Object.entries(contents) as [SetId, readonly NftElement[]][])
      if (!skipSlots || !SLOT_SETS.has(set))
        for (const element of elements) {
          const entry: Entry = { set, element };
          present.set(idOf(entry), entry);
        }
    const wanted = this.#ledger.entries(family, !skipSlots);
    if (present.size === 0 && names === undefined)
      return [...links, ...ranges, ...elementChanges(family, [], wanted)];
    const adds: Entry[] = [];
    const deletes: Entry[] = [];
    for (const entry of wanted) {
      if (!touched(entry.set)) continue;
      const id = idOf(entry);
      const there = present.get(id);
      present.delete(id);
      if (there && sameData(there.element, entry.element)) continue;
      if (there) deletes.push(there);
      adds.push(entry);
    }
    deletes.push(...present.values());
    return [...links, ...ranges, ...elementChanges(family, deletes, adds)];
  }

  /** Elements of sets that plans do not decide. */
  #unplanned(family: Family, set: 'pod-links' | 'service-ranges'): Entry[] {
    if (set === 'pod-links')
      return [...this.#podLinks].map((ifindex) => ({ set, element: { key: [ifindex] } }));
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

  #linkChanges(kind: 'add' | 'delete', links: readonly number[]): NftChange[] {
    const elements = links.map((ifindex) => ({ key: [ifindex] }));
    return FAMILIES.map((family) => {
      const { place, sets } = LAYOUTS[family];
      return { ...place, change: `${kind} elements`, set: sets['pod-links'], elements };
    });
  }

  /** A change besides plans; if somebody came in between, everything is compared. */
  #write(changes: readonly NftChange[]): void {
    try {
      this.#kernel.apply(changes);
    } catch {
      this.#restore();
    }
  }

  #servesLoopback(ports: readonly PortChange[]): boolean {
    return ports.some(({ after }) => after?.plan.frontends.some(({ address }) => isLoopback(address)));
  }

  /** Ends what leads to backends that have gone. */
  #forget(ports: readonly PortChange[]): void {
    const flows = staleFlows(ports);
    if (flows) {
      using conntrack = Conntrack.open({ netns: this.#options.netns });
      for (const family of flows.families)
        conntrack.delete(conntrack.list({ family, protocol: 17 }).filter((entry) => flows.isStale(entry)));
    }
  }

  #scheduleSweep(): void {
    const unused = (family: Family) =>
      [...this.#chains[family]].filter((name) => !this.#ledger.chains(family).has(name));
    if (this.#sweep || this.#closed || !this.#started) return;
    if (FAMILIES.every((family) => unused(family).length === 0)) return;
    this.#sweep = setTimeout(() => {
      this.#sweep = undefined;
      for (const family of FAMILIES) {
        const names = unused(family);
        const { place } = LAYOUTS[family];
        for (const name of names) this.#chains[family].delete(name);
        this.#write([
          ...names.map((chain): NftChange => ({ ...place, change: 'flush chain', chain })),
          ...names.map((chain): NftChange => ({ ...place, change: 'delete chain', chain })),
        ]);
      }
    }, CHAIN_REST_MS);
    this.#sweep.unref();
  }

  #scheduleRepair(names?: ReadonlySet<string>): void {
    if (names === undefined) this.#damaged = undefined;
    else for (const name of names) this.#damaged?.add(name);
    if (this.#repair || this.#closed) return;
    const wait = Math.max(0, this.#repairedAt + REPAIR_PAUSE_MS - performance.now());
    this.#repair = setTimeout(() => {
      this.#repair = undefined;
      let failure: Error | undefined;
      try {
        const names = this.#damaged;
        this.#damaged = new Set();
        const changes = this.#restore(names ? { names } : {});
        if (changes > 0) {
          const what = [`${changes} changes of table ${TABLE}`];
          this.#repairs = {
            count: this.#repairs.count + 1,
            last: { at: new Date().toISOString(), what },
          };
          this.#options.onRepaired?.(undefined);
        }
      } catch (error) {
        failure = error as Error;
        this.#damaged = undefined;
        this.#synced = false;
        this.#options.onRepaired?.(failure);
      }
      this.#repairedAt = performance.now();
      if (failure) setTimeout(() => this.#scheduleRepair(), 1000).unref();
    }, wait);
    this.#repair.unref();
  }
}

function* concat<T>(...lists: readonly Iterable<T>[]): Generator<T> {
  for (const list of lists) yield* list;
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
