/**
 * What the plans want in the kernel, and the difference that a change makes. Pure. Elements that several ports want
 * (the same endpoint, the same ClusterIP) are counted; slots are not kept but made from the plan when needed.
 */
import { FAMILIES, type Family, type IpAddress, parseIp } from '../../../addr/index.ts';
import { serviceError } from '../../../errors/index.ts';
import type { Datum, NftElement } from '../../../kernel/nft/index.ts';
import type { PortPlan, ServicePlan } from '../../types.ts';
import {
  arrangeSlots,
  backendText,
  type CompiledPort,
  compilePort,
  type Entry,
  entryId,
  type PlannedChain,
  type PortAffinity,
  PROTOCOL_NUMBER,
  type SlotBackend,
  type SlotFront,
  type Slots,
  slotEntries,
} from './compile.ts';
import type { DamagedKeys } from './damage.ts';
import type { SetId } from './layout.ts';
import { PortChanges } from './port-changes.ts';

export interface LedgerPort extends CompiledPort {
  readonly key: string;
  readonly service: string;
  readonly slots: Slots;
  readonly plan: PortPlan;
  /** Who else has its frontends: the one thing of a plan that changes. */
  readonly shadows: string;
  readonly affinity: PortAffinity | undefined;
}

/** What an earlier process left of a frontend. */
export interface Leftover {
  readonly slots: Slots;
  readonly affinity: PortAffinity | undefined;
}

/** What one family's sets have to change. */
export interface ElementDelta {
  readonly deletes: Entry[];
  readonly adds: Entry[];
  /** Chains that are needed now and were not, or had other rules. */
  readonly chains: ReadonlyMap<string, PlannedChain>;
}

interface Pending {
  before: Entry | undefined;
  after: Entry | undefined;
  by: string;
}

class FamilyLedger {
  readonly shared = new Map<string, { readonly entry: Entry; users: number }>();
  readonly chains = new Map<string, PlannedChain & { users: number }>();
  readonly pending = new Map<string, Pending>();
  changedChains = new Set<string>();
}

export class Ledger {
  readonly #nodeName: string;
  readonly #ports = new Map<string, LedgerPort>();
  readonly #portsOf = new Map<string, readonly string[]>();
  /** ClusterIPs of Services that somebody else serves. */
  readonly #notOurs = new Map<string, readonly string[]>();
  readonly #families: Readonly<Record<Family, FamilyLedger>> = {
    4: new FamilyLedger(),
    6: new FamilyLedger(),
  };
  /** Numbers of affinity that were taken over from an earlier process. */
  readonly #claimed = new Set<number>();
  #nextNumber = 1;
  #nextEndpoint = 1;
  /** False while everything will be compared with the kernel anyway. */
  #staging = false;
  /** Ports that changed since these were settled. */
  readonly changes = new PortChanges();

  constructor(nodeName: string) {
    this.#nodeName = nodeName;
  }

  get ports(): ReadonlyMap<string, LedgerPort> {
    return this.#ports;
  }

  get services(): Iterable<string> {
    return [...this.#portsOf.keys(), ...this.#notOurs.keys()];
  }

  /** Chains that choose endpoints. */
  chains(family: Family): ReadonlyMap<string, PlannedChain> {
    return this.#families[family].chains;
  }

  /** New numbers of affinity are beyond these: clients may be remembered by any up to them. */
  reserve(lastPort: number, lastEndpoint: number): void {
    this.#nextNumber = Math.max(this.#nextNumber, lastPort + 1);
    this.#nextEndpoint = Math.max(this.#nextEndpoint, lastEndpoint + 1);
  }

  /** From now on differences are gathered for `take`. */
  stage(): void {
    this.#staging = true;
  }

  /**
   * Puts all ports of a Service. Returns the first failure; a port that fails stays as it was. `leftover` tells what
   * an earlier process had, so that slots are found as they are.
   */
  put(plan: ServicePlan, leftover?: (front: string) => Leftover | undefined): Error | undefined {
    let failure: Error | undefined;
    const before = this.#portsOf.get(plan.key) ?? [];
    const now: string[] = [];
    for (const port of plan.ports) {
      if (PROTOCOL_NUMBER[port.protocol] === undefined) {
        const { service, protocol } = port;
        failure ??= serviceError('SERVICE_PROTOCOL_UNSUPPORTED', { service, protocol, engine: 'nftables' });
        continue;
      }
      this.#putPort(port, leftover);
      now.push(port.key);
    }
    for (const key of before) if (!now.includes(key)) this.#dropPort(key);
    if (now.length > 0) this.#portsOf.set(plan.key, now);
    else this.#portsOf.delete(plan.key);
    this.#pass(plan.key, plan.notOurs ?? []);
    return failure;
  }

  drop(service: string): void {
    for (const key of this.#portsOf.get(service) ?? []) this.#dropPort(key);
    this.#portsOf.delete(service);
    this.#pass(service, []);
  }

  /** The ClusterIPs of a Service that somebody else serves; none when nobody does. */
  #pass(service: string, addresses: readonly string[]): void {
    const before = this.#notOurs.get(service) ?? [];
    const entries = (texts: readonly string[]) => texts.map((text) => notOursEntry(parseIp(text)));
    for (const [family, entry] of entries(addresses)) this.#share(this.#families[family], entry);
    for (const [family, entry] of entries(before)) this.#unshare(this.#families[family], entry);
    if (addresses.length > 0) this.#notOurs.set(service, addresses);
    else this.#notOurs.delete(service);
  }

  /** The difference since the last call; nothing unless `stage` was called before. */
  take(family: Family): ElementDelta {
    const ledger = this.#families[family];
    const chains = new Map<string, PlannedChain>();
    for (const name of ledger.changedChains) {
      const chain = ledger.chains.get(name);
      if (chain) chains.set(name, chain);
    }
    const delta: ElementDelta = { deletes: [], adds: [], chains };
    for (const { before, after } of ledger.pending.values()) {
      if (before && after && sameData(before.element, after.element)) continue;
      if (before) delta.deletes.push(before);
      if (after) delta.adds.push(after);
    }
    ledger.pending.clear();
    ledger.changedChains = new Set();
    return delta;
  }

  /** Forgets gathered differences: everything was compared. */
  settle(): void {
    for (const family of FAMILIES) {
      this.#families[family].pending.clear();
      this.#families[family].changedChains = new Set();
    }
  }

  /** All elements that are wanted; without slots, those of the other sets. */
  *entries(family: Family, withSlots = true): Generator<Entry> {
    for (const { entry } of this.#families[family].shared.values()) yield entry;
    for (const port of this.#ports.values()) {
      if (port.family !== family) continue;
      yield* port.entries;
      if (withSlots) yield* slotEntries(port.fronts, port.slots);
    }
  }

  /** Elements of these sets that are wanted; of a set with keys only those, by their identity. */
  *entriesOf(family: Family, sets: ReadonlyMap<SetId, DamagedKeys>): Generator<Entry> {
    const asks = (entry: Entry) => sets.has(entry.set) && (sets.get(entry.set)?.has(idOf(entry)) ?? true);
    for (const { entry } of this.#families[family].shared.values()) if (asks(entry)) yield entry;
    const fronts = frontsOf(sets);
    for (const port of this.#ports.values()) {
      if (port.family !== family) continue;
      for (const entry of port.entries) if (asks(entry)) yield entry;
      const asked = port.fronts.filter(fronts);
      if (asked.length > 0) for (const entry of slotEntries(asked, port.slots)) if (asks(entry)) yield entry;
    }
  }

  /** Whether what an earlier process left in slots is what is wanted, `count` of them in this family. */
  hasSlots(family: Family, left: ReadonlyMap<string, Leftover>, count: number): boolean {
    let wanted = 0;
    for (const port of this.#ports.values()) {
      if (port.family !== family) continue;
      for (const { key, sets } of port.fronts) {
        const there = left.get(key.join(' '))?.slots;
        if (!there) return false;
        for (const set of sets) {
          if (!sameSlots(there[set], port.slots[set])) return false;
          wanted += port.slots[set].length;
        }
      }
    }
    return wanted === count;
  }

  #putPort(port: PortPlan, leftover: ((front: string) => Leftover | undefined) | undefined): void {
    const before = this.#ports.get(port.key);
    const shadows = shadowsOf(port);
    if (before?.plan === port && before.shadows === shadows) return;
    const left = before || !leftover ? undefined : findLeftover(port, leftover);
    const slots = arrangeSlots(port, before?.slots ?? left?.slots);
    const inherited = left?.affinity && !this.#claimed.has(left.affinity.number) ? left.affinity : undefined;
    if (inherited) this.#claimed.add(inherited.number);
    const affinity =
      port.affinitySeconds > 0 ? this.#affinity(slots, before?.affinity ?? inherited) : undefined;
    const compiled = compilePort(port, slots, { nodeName: this.#nodeName, affinity });
    const after: LedgerPort = {
      ...compiled,
      key: port.key,
      service: port.service,
      slots,
      plan: port,
      shadows,
      affinity,
    };
    this.#ports.set(port.key, after);
    this.#exchange(port.key, before, after);
  }

  /** Endpoints that stay keep their numbers, so their clients stay with them. */
  #affinity(slots: Slots, before: PortAffinity | undefined): PortAffinity {
    const ids = new Map<string, number>();
    for (const backend of [...slots.cluster, ...slots.local]) {
      const name = backendText(backend);
      if (!ids.has(name)) ids.set(name, before?.ids.get(name) ?? this.#nextEndpoint++);
    }
    return { number: before?.number ?? this.#nextNumber++, ids };
  }

  #dropPort(key: string): void {
    const before = this.#ports.get(key);
    if (!before) return;
    this.#ports.delete(key);
    this.#exchange(key, before, undefined);
  }

  #exchange(key: string, before: LedgerPort | undefined, after: LedgerPort | undefined): void {
    this.changes.add(key, { before, after });
    const ledger = this.#families[(after ?? before)!.family];
    for (const [name, chain] of after?.chains ?? []) {
      const there = ledger.chains.get(name);
      if (there?.looks !== chain.looks) ledger.changedChains.add(name);
      ledger.chains.set(name, { ...chain, users: (there?.users ?? 0) + 1 });
    }
    for (const [name] of before?.chains ?? []) {
      const there = ledger.chains.get(name)!;
      if (--there.users === 0) ledger.chains.delete(name);
    }
    for (const entry of after?.shared ?? []) this.#share(ledger, entry);
    for (const entry of before?.shared ?? []) this.#unshare(ledger, entry);
    if (!this.#staging) return;
    if (before) {
      for (const entry of before.entries) this.#remove(ledger, key, idOf(entry), entry);
      for (const entry of slotEntries(before.fronts, before.slots))
        this.#remove(ledger, key, idOf(entry), entry);
    }
    if (after) {
      for (const entry of after.entries) this.#add(ledger, key, idOf(entry), entry);
      for (const entry of slotEntries(after.fronts, after.slots)) this.#add(ledger, key, idOf(entry), entry);
    }
  }

  #share(ledger: FamilyLedger, entry: Entry): void {
    const id = idOf(entry);
    const there = ledger.shared.get(id);
    if (there) there.users++;
    else {
      ledger.shared.set(id, { entry, users: 1 });
      this.#add(ledger, '', id, entry);
    }
  }

  #unshare(ledger: FamilyLedger, entry: Entry): void {
    const id = idOf(entry);
    const there = ledger.shared.get(id)!;
    if (--there.users > 0) return;
    ledger.shared.delete(id);
    this.#remove(ledger, '', id, entry);
  }

  #add({ pending }: FamilyLedger, by: string, id: string, entry: Entry): void {
    if (!this.#staging) return;
    const there = pending.get(id);
    if (!there) pending.set(id, { before: undefined, after: entry, by });
    else {
      there.after = entry;
      there.by = by;
    }
  }

  #remove({ pending }: FamilyLedger, by: string, id: string, entry: Entry): void {
    if (!this.#staging) return;
    const there = pending.get(id);
    if (!there) pending.set(id, { before: entry, after: undefined, by });
    // Another port has taken it over in the same change.
    else if (there.after && there.by !== by) there.before ??= entry;
    else there.after = undefined;
  }
}

function notOursEntry(address: IpAddress): readonly [family: Family, entry: Entry] {
  return [address.family, { set: 'not-ours', element: { key: [address] } }];
}

/** Which frontends have slots that these sets ask for. */
function frontsOf(sets: ReadonlyMap<SetId, DamagedKeys>): (front: SlotFront) => boolean {
  const asked = (['slots', 'nodeport-slots'] as const).map((set) => {
    if (!sets.has(set)) return () => false;
    const keys = sets.get(set);
    if (!keys) return () => true;
    // The last part of the key is the number of the slot.
    const fronts = new Set([...keys.values()].map(({ key }) => key.slice(0, -1).join(' ')));
    return (key: readonly Datum[]) => fronts.has(key.join(' '));
  });
  return ({ space, key }) => asked[space === 'vip' ? 0 : 1]!(key);
}

function shadowsOf({ frontends }: PortPlan): string {
  return frontends.some(({ shadowedBy }) => shadowedBy !== undefined)
    ? frontends.map(({ shadowedBy = '' }) => shadowedBy).join()
    : '';
}

function sameSlots(a: readonly SlotBackend[], b: readonly SlotBackend[]): boolean {
  return (
    a === b ||
    (a.length === b.length &&
      a.every(({ address, port }, at) => address === b[at]!.address && port === b[at]!.port))
  );
}

function findLeftover(
  port: PortPlan,
  leftover: (front: string) => Leftover | undefined,
): Leftover | undefined {
  const protocol = PROTOCOL_NUMBER[port.protocol]!;
  let found: Leftover | undefined;
  for (const { kind, address, port: number, shadowedBy } of port.frontends) {
    if (shadowedBy !== undefined) continue;
    const left = leftover(kind === 'NodePort' ? `${protocol} ${number}` : `${address} ${protocol} ${number}`);
    if (!left) continue;
    found = {
      slots: {
        cluster: found?.slots.cluster.length ? found.slots.cluster : left.slots.cluster,
        local: found?.slots.local.length ? found.slots.local : left.slots.local,
      },
      affinity: found?.affinity ?? left.affinity,
    };
  }
  return found;
}

export function idOf({ set, element }: Entry): string {
  return entryId(set, element.key, element.keyEnd);
}

/** Same verdict or data; a comment alone is no reason to change an element. */
export function sameData(a: NftElement, b: NftElement): boolean {
  if (a.data === undefined || b.data === undefined) return a.data === b.data;
  if ('verdict' in a.data || 'verdict' in b.data) {
    if (!('verdict' in a.data && 'verdict' in b.data)) return false;
    const chain = (verdict: typeof a.data) => ('chain' in verdict ? verdict.chain : '');
    return a.data.verdict === b.data.verdict && chain(a.data) === chain(b.data);
  }
  const other = b.data;
  return a.data.length === other.length && a.data.every((part, at) => String(part) === String(other[at]));
}
