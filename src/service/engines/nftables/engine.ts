/**
 * Services in nftables, kube-proxy's nftables mode in other words: what a Service is lies in elements of sets, which
 * are changed in place by netlink; rules are the same for all Services. See layout.ts and base-chains.ts.
 */
import { FAMILIES, type Family, parseIp } from '../../../addr/index.ts';
import { serviceError } from '../../../errors/index.ts';
import { Conntrack } from '../../../kernel/conntrack/index.ts';
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
import { type DumpedTable, dumpPlans, dumpTables } from './dump.ts';
import { FlowCutter } from './flow-cutter.ts';
import { ForeignRepair } from './foreign-repair.ts';
import { NftKernel, removeNftServices } from './kernel.ts';
import { SET_IDS, type SetId, TABLE } from './layout.ts';
import { Ledger } from './ledger.ts';
import { allowLoopbackRoutes, isLoopback } from './loopback.ts';
import { LoopbackRoutes } from './loopback-routes.ts';
import {
  countOf,
  explainPacket,
  FORWARD_SETS,
  observePort,
  packetsOf,
  REFUSED_SETS,
  SLOT_SETS,
} from './observe.ts';
import type { PortChange } from './port-changes.ts';
import { Programmer } from './programmer.ts';
import { countersOf, storesOf } from './status.ts';
import { allowUnreachables } from './unreachable.ts';

export interface NftablesEngineOptions {
  /** Namespace of the node, default the process's own. */
  readonly netns?: number | { readonly fd: number } | undefined;
  /** Name of the Node object. */
  readonly nodeName: string;
  /** Why this engine and no other, for `status`. */
  readonly because?: string | undefined;
  /** Called after somebody else's change was put right, or could not be. */
  readonly onRepaired?: (error: Error | undefined) => void;
  /** Called when datagram flows to endpoints that are gone cannot be ended for now, and with undefined when they are. */
  readonly onFlowsStay?: (error: Error | undefined) => void;
}

export class NftablesEngine implements NodeServiceEngine {
  readonly name = 'nftables';
  readonly #options: NftablesEngineOptions;
  readonly #kernel: NftKernel;
  readonly #ledger: Ledger;
  readonly #programmer: Programmer;
  readonly #repair: ForeignRepair;
  readonly #nodeInterfaces = new Set<number>();
  readonly #loopbackRoutes: LoopbackRoutes;
  readonly #cutter: FlowCutter;

  private constructor(options: NftablesEngineOptions) {
    this.#options = options;
    this.#ledger = new Ledger(options.nodeName);
    this.#loopbackRoutes = new LoopbackRoutes({ netns: options.netns });
    this.#cutter = new FlowCutter({
      open: () => Conntrack.open({ netns: options.netns }),
      onFault: options.onFlowsStay,
    });
    this.#kernel = new NftKernel({
      netns: options.netns,
      onForeignChange: (damage) => this.#repair.schedule(damage),
    });
    const programmer = new Programmer(this.#kernel, this.#ledger, () => this.#repair.schedule(undefined));
    this.#programmer = programmer;
    this.#repair = new ForeignRepair({
      run(damage) {
        try {
          return programmer.restore(damage ? { damage } : {});
        } catch (error) {
          programmer.distrust();
          throw error;
        }
      },
      onRepaired: options.onRepaired,
    });
  }

  /**
   * Adopts what an earlier process left, or makes empty tables. Throws SERVICE_ENGINE_OPEN when the kernel lacks a part
   * of nf_tables.
   */
  static open(options: NftablesEngineOptions): NftablesEngine {
    const engine = new NftablesEngine(options);
    try {
      engine.#programmer.adopt();
      return engine;
    } catch (cause) {
      engine.#kernel.close();
      throw serviceError('SERVICE_ENGINE_OPEN', { engine: 'nftables', step: `making table ${TABLE}` }, cause);
    }
  }

  get repairs(): Repairs {
    return this.#repair.repairs;
  }

  /** Transactions since the start: a restart without a change has none. */
  get transactions(): number {
    return this.#kernel.transactions;
  }

  /** Throws SERVICE_PROGRAM_FAILED when Services could not be taken away and no other one is to blame. */
  apply(delta: PlanDelta): ApplyReport {
    const failed = new Map<string, Error>();
    const programmer = this.#programmer;
    const left = delta.full && !programmer.complete ? programmer.leftovers() : undefined;
    for (const plan of delta.upsert) {
      const error = this.#ledger.put(plan, left && ((front) => left.fronts.get(front)));
      if (error) failed.set(plan.key, error);
    }
    for (const key of delta.remove) this.#ledger.drop(key);
    if (delta.full) {
      const wanted = new Set(delta.upsert.map(({ key }) => key));
      for (const key of [...this.#ledger.services]) if (!wanted.has(key)) this.#ledger.drop(key);
      programmer.setComplete();
    }
    let changes = 0;
    try {
      changes = programmer.program(left);
      this.#follow(this.#ledger.changes.all);
      this.#ledger.changes.settle();
    } catch (cause) {
      programmer.distrust();
      const failure = (service: string) =>
        serviceError('SERVICE_PROGRAM_FAILED', { service, step: 'changing nftables' }, cause);
      // Without anything that failed nobody would try again.
      if (delta.upsert.length === 0) throw failure(delta.remove.join(', '));
      for (const { key } of delta.upsert) failed.set(key, failure(key));
    }
    if (programmer.complete) this.#kernel.watch();
    return { changes, failed };
  }

  /** What changed ports ask for besides their rules. Throws KERNEL_SYSCALL. */
  #follow(ports: readonly PortChange[]): void {
    if (ports.some(({ after }) => after && after.plan.protocol !== 'TCP'))
      allowUnreachables({ netns: this.#options.netns });
    if (servesAt(ports, isLoopback)) allowLoopbackRoutes({ netns: this.#options.netns });
    if (servesAt(ports, (address) => address === '::1')) this.#loopbackRoutes.serve();
    this.#cutter.cut(ports);
  }

  setServiceRanges(cidrs: readonly string[]): void {
    this.#programmer.setServiceRanges(cidrs);
  }

  attachPodLink(ifindex: number): void {
    this.#programmer.addPodLink(ifindex);
    this.#loopbackRoutes.add(ifindex);
  }

  detachPodLink(ifindex: number): void {
    this.#programmer.removePodLinks([ifindex]);
    this.#loopbackRoutes.delete(ifindex);
  }

  attachPodBridge(ifindex: number): void {
    this.attachPodLink(ifindex);
  }

  dropGoneInterfaces(): void {
    using rtnl = Rtnl.open({ netns: this.#options.netns });
    const there = new Set(rtnl.links().map(({ ifindex }) => ifindex));
    const gone = (ifindex: number) => !there.has(ifindex);
    this.#programmer.removePodLinks([...this.#programmer.podLinks].filter(gone));
    this.#loopbackRoutes.keep(there);
    for (const ifindex of [...this.#nodeInterfaces].filter(gone)) this.#nodeInterfaces.delete(ifindex);
  }

  /** Rules see the packets of all interfaces: whatever comes from no pod of this node comes from outside. */
  attachNodeInterface(ifindex: number): void {
    this.#nodeInterfaces.add(ifindex);
    this.#loopbackRoutes.add(ifindex);
  }

  /** Answers find their connection in conntrack, by whatever interface they come. */
  attachOverlay(ifindex: number): void {
    this.#loopbackRoutes.add(ifindex);
  }

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
    const list = [...plans];
    const ports = list.flatMap((plan) => plan.ports.map(({ key }) => this.#ledger.ports.get(key)));
    const packets = this.#packets(SLOT_SETS);
    const affine = ports.some((port) => port?.affinity) ? FAMILIES : [];
    const endpoints = new Map(affine.flatMap((family) => [...this.#kernel.endpointCounts(family)]));
    using conntrack = Conntrack.open({ netns: this.#options.netns });
    const flows = conntrack.list();
    const found = new Map<string, PortObservation>();
    for (const port of ports) if (port) found.set(port.key, observePort(port, { packets, endpoints }, flows));
    return found;
  }

  portCounts(): Map<string, Count> {
    const packets = this.#packets([]);
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

  #packets(more: readonly SetId[]): Map<string, number> {
    const sets = [...FORWARD_SETS, ...REFUSED_SETS, ...more];
    return new Map(FAMILIES.flatMap((family) => [...packetsOf(this.#kernel.contents(family, sets))]));
  }

  status(): EngineStatus {
    return {
      engine: this.name,
      ...(this.#options.because === undefined ? {} : { because: this.#options.because }),
      repairs: this.#repair.repairs,
      programs: [],
      stores: storesOf(this.#ledger, this.#kernel),
      caches: [],
      podLinks: [...this.#programmer.podLinks],
      nodeInterfaces: [...this.#nodeInterfaces],
      counters: countersOf(this.#kernel),
    };
  }

  close(): void {
    this.#cutter.close();
    this.#programmer.close();
    this.#repair.close();
    this.#kernel.close();
  }

  remove(): void {
    this.close();
    removeNftServices({ netns: this.#options.netns });
  }
}

/** Whether one of these ports has a frontend at such an address now. */
function servesAt(ports: readonly PortChange[], wanted: (address: string) => boolean): boolean {
  return ports.some(({ after }) => after?.plan.frontends.some(({ address }) => wanted(address)));
}
