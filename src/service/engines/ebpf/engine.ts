import { rmSync } from 'node:fs';
import { join } from 'node:path';
import type { IpAddress } from '../../../addr/index.ts';
import { serviceError } from '../../../errors/index.ts';
import { type NetnsLike, RingBuffer, unpin } from '../../../kernel/bpf/index.ts';
import type {
  ApplyReport,
  Count,
  EngineDiff,
  EngineStatus,
  NodeAddresses,
  NodeServiceEngine,
  PacketAnswer,
  PacketQuery,
  Pause,
  PortObservation,
  Repairs,
  RoomListener,
} from '../../engine.ts';
import type { TranslatedFlow } from '../../translated-flow.ts';
import type { PlanDelta, ServicePlan } from '../../types.ts';
import { dumpMaps, dumpPlans, withoutIds } from './dump.ts';
import { explainPacket } from './explain.ts';
import { FlowKeeper } from './flow-keeper.ts';
import { FlowTable } from './flow-table.ts';
import { HandOver } from './hand-over.ts';
import { Healer } from './heal.ts';
import { HOLD } from './layout.ts';
import { LayoutMove } from './layout-move.ts';
import { Links } from './links.ts';
import { NatTable } from './nat-table.ts';
import { type EngineObjects, type EngineSizes, openObjects } from './objects.ts';
import { countsByPort, countsByReason, observePorts } from './observe.ts';
import { PassedFlows } from './passed-flows.ts';
import { setPeers } from './peers.ts';
import { RefusedFlows } from './refused-flows.ts';
import { ServedInterfaces } from './served-interfaces.ts';
import { ServiceApplier } from './service-applier.ts';
import { backendOfSocket, type StaleSockets, staleSockets } from './socket-backends.ts';
import { cachesOf, storesOf } from './stores.ts';
import type { NodeHook } from './xdp-hooks.ts';

export interface EbpfEngineOptions {
  /** Folder in a mounted bpffs that is this node's alone; everything is pinned below it. */
  readonly bpffsDir: string;
  /** Folder of a cgroup2 mount: processes in it and below reach Services at their sockets. */
  readonly cgroupPath: string;
  /** Namespace of the pod links; default the process's own. */
  readonly netns?: NetnsLike;
  /** Name of the Node object. */
  readonly nodeName: string;
  readonly sizes?: EngineSizes;
  /** How node interfaces are served; default `auto`: XDP in the driver where that works, else tc. */
  readonly nodeHook?: NodeHook | undefined;
  /**
   * Netfilter serves the same Services: what no flow of the programs is known of passes to it until `takeOver`.
   * Default false.
   */
  readonly besideNetfilter?: boolean;
  /** Monotonic clock in milliseconds. */
  readonly now?: () => number;
  /**
   * Called after backends of UDP ports have gone, with a test for sockets: connected datagram sockets that were
   * given such a backend would talk to nobody for ever, and are to be destroyed.
   */
  readonly onStaleSockets?: (stale: StaleSockets) => void;
}

/** Services in eBPF: programs at sockets and pod links, see bpf/lb_socket.bpf.c and bpf/lb_pod.bpf.c. */
export class EbpfEngine implements NodeServiceEngine {
  readonly name = 'ebpf';
  readonly #options: EbpfEngineOptions;
  readonly #objects: EngineObjects;
  readonly #links: Links;
  readonly #interfaces: ServedInterfaces;
  readonly #applier: ServiceApplier;
  readonly #healer: Healer;
  readonly #passed: PassedFlows;
  readonly #handOver: HandOver;
  readonly #flows: FlowTable;
  readonly #nat: NatTable;
  #keeper: FlowKeeper | undefined;

  private constructor(options: EbpfEngineOptions, objects: EngineObjects, links: Links, flows: FlowTable) {
    const { sizes = {}, nodeName, now = () => performance.now() } = options;
    this.#options = options;
    this.#objects = objects;
    this.#links = links;
    this.#interfaces = new ServedInterfaces(links, objects.maps);
    this.#flows = flows;
    this.#nat = new NatTable(objects, options);
    this.#applier = new ServiceApplier(objects, { nodeName, sizes, now });
    this.#passed = new PassedFlows(objects.maps.lb_passed, options.netns);
    this.#handOver = new HandOver(objects.maps, { flows, nat: this.#nat }, this.#passed);
    this.#healer = new Healer({
      objects,
      links,
      writer: () => this.#applier.writer,
      config: () => this.#handOver.config,
    });
  }

  /**
   * Starts the engine: adopts maps, programs and links that an earlier process pinned, or makes them. What the
   * maps hold stays until the first full delta. Throws KERNEL_FEATURE_MISSING, SERVICE_ENGINE_OPEN,
   * SERVICE_LAYOUT_FOREIGN.
   */
  static open(options: EbpfEngineOptions): EbpfEngine {
    const objects = openObjects(options.bpffsDir, options.sizes ?? {}, options);
    try {
      const { folder, programs } = objects;
      const links = new Links({
        folder,
        cgroupPath: options.cgroupPath,
        netns: options.netns,
        programs,
        nodeHook: options.nodeHook,
      });
      // Before anything is read of the maps: what they had in another layout.
      const flows = new FlowTable(objects, options);
      const move = LayoutMove.begin(objects, flows);
      const engine = new EbpfEngine(options, objects, links, flows);
      const hold = options.besideNetfilter ? HOLD.PASS : HOLD.OFF;
      try {
        engine.#handOver.setHold(hold);
        if (move) {
          move.finish(links);
          engine.#handOver.setHold(hold);
        } else links.open();
        links.closeBeside();
      } catch (cause) {
        links.close();
        throw serviceError('SERVICE_ENGINE_OPEN', { engine: 'ebpf', step: 'attaching programs' }, cause);
      }
      return engine;
    } catch (error) {
      objects.close();
      throw error;
    }
  }

  apply(delta: PlanDelta): ApplyReport {
    const { changes, failed, gone } = this.#applier.apply(delta);
    const { onStaleSockets } = this.#options;
    const stale = onStaleSockets && staleSockets(this.#objects.maps, gone);
    if (stale) onStaleSockets(stale);
    return { changes, failed };
  }

  setServiceRanges(cidrs: readonly string[]): void {
    this.#handOver.setServiceRanges(cidrs);
  }

  /**
   * What netfilter translates goes on there, everything new comes here: to be called when all is programmed, before
   * netfilter's rules go. Throws CONNTRACK_FAILED. Returns how many flows go on.
   */
  takeOver(): number {
    return this.#handOver.takeOver(this.#applier.writer);
  }

  /**
   * Gives all translated flows to somebody who goes on with them. While `carry` runs their packets are dropped;
   * afterwards the programs let everything pass. New flows pass from the first moment on.
   */
  handOver(carry: (flows: TranslatedFlow[]) => void): void {
    this.#handOver.handOver(carry);
  }

  attachPodLink(ifindex: number, sources?: readonly IpAddress[]): void {
    this.#interfaces.attachPodLink(ifindex, sources);
  }

  detachPodLink(ifindex: number): void {
    this.#interfaces.detachPodLink(ifindex);
  }

  dropGoneInterfaces(): void {
    this.#interfaces.dropGone();
  }

  attachNodeInterface(ifindex: number, addresses: NodeAddresses = {}): void {
    this.#interfaces.attachNodeInterface(ifindex, addresses);
  }

  detachNodeInterface(ifindex: number): void {
    this.#interfaces.detachNodeInterface(ifindex);
  }

  /** Takes answers of backends on other nodes that come by a tunnel. Throws SERVICE_LINK_MISSING. */
  attachOverlay(ifindex: number, addresses: NodeAddresses): void {
    this.#interfaces.attachOverlay(ifindex, addresses);
  }

  setPeers(addresses: Iterable<string>): void {
    setPeers(this.#objects.maps.lb_peers, addresses);
  }

  dump(): string[] {
    return dumpMaps(this.#applier.writer);
  }

  diff(plans: Iterable<ServicePlan>): EngineDiff {
    const present = new Set(this.dump().map(withoutIds));
    const wanted = new Set(dumpPlans(plans));
    const altered = this.#healer.look();
    return {
      missing: [...wanted].filter((line) => !present.has(line)),
      unwanted: [...present].filter((line) => !wanted.has(line)),
      ...(altered.length > 0 ? { altered } : {}),
    };
  }

  heal(pause?: Pause): Promise<readonly string[]> {
    this.#passed.tidy();
    return this.#healer.heal(pause);
  }

  /** What was found changed by others so far. */
  get repairs(): Repairs {
    return this.#healer.repairs;
  }

  status(): EngineStatus {
    return {
      engine: this.name,
      programs: [...this.#links.describe()].map(({ program, attachedTo }) => {
        const { id, tag } = program.info();
        return { name: program.name, id, tag, attachedTo };
      }),
      stores: storesOf(this.#objects, { flows: this.#flows, nat: this.#nat }, this.#applier.writer),
      caches: cachesOf(this.#objects),
      ...this.#interfaces.status(),
      counters: this.counters(),
      repairs: this.repairs,
    };
  }

  /** Counts by reason, all CPUs together, since the maps were made. */
  counters(): Record<string, number> {
    return countsByReason(this.#objects.maps.lb_counters);
  }

  /** What the kernel has for the ports of these plans, by the ports' keys; ports without anything are left out. */
  observe(plans: Iterable<ServicePlan>): Map<string, PortObservation> {
    return observePorts(this.#applier.writer, this.#flows, plans);
  }

  /** Counts of all Service ports that were ever used, by the ports' keys. */
  portCounts(): Map<string, Count> {
    return countsByPort(this.#applier.writer);
  }

  /** The id of the backend that a Service gave the socket of this cookie; undefined when it chose its peer itself. */
  backendOfSocket(cookie: bigint, address: string, port: number): number | undefined {
    return backendOfSocket(this.#objects.maps, cookie, address, port);
  }

  /** What would happen to a packet, decided by the loaded programs themselves. Throws ADDR_BAD_IP, BPF_RUN_FAILED. */
  explainPacket(query: PacketQuery): PacketAnswer {
    return explainPacket(
      {
        objects: this.#objects,
        flows: this.#flows,
        nat: this.#nat,
        writer: this.#applier.writer,
        counters: () => this.counters(),
      },
      query,
    );
  }

  /** The loaded programs by name, for test runs: `service explain` and unit tests of the programs. */
  get programs(): EngineObjects['programs'] {
    return this.#objects.programs;
  }

  /** Gives room to the tables of flows from now on; `onError` is told BPF_MAP_CALL where there is no memory. */
  keepRoom(tell: RoomListener): void {
    const { lb_flow_news } = this.#objects.maps;
    const tables = { lb_flows: this.#flows, lb_nat_flows: this.#nat };
    const refused = new RefusedFlows(tables, () => this.#applier.writer.ports(), this.#options.now);
    this.#keeper ??= new FlowKeeper({
      tables: Object.values(tables),
      openNews: (onWord) =>
        new RingBuffer(lb_flow_news, (record) => {
          const flow = tell.onRefused && refused.read(record);
          if (flow) tell.onRefused?.(flow);
          onWord();
        }),
      onError: (error) => tell.onError(error),
    });
  }

  /** How often the table of flows was looked at, for tests. */
  get looks(): number {
    return this.#keeper?.looks ?? 0;
  }

  /** The table of flows to backends on other nodes, for tests. */
  get nat(): NatTable {
    return this.#nat;
  }

  /** The table of translated flows, for tests and dumps. */
  get flows(): FlowTable {
    return this.#flows;
  }

  /** The maps by name, for tests and dumps. */
  get maps(): EngineObjects['maps'] {
    return this.#objects.maps;
  }

  close(): void {
    this.#keeper?.close();
    this.#flows.close();
    this.#nat.close();
    this.#applier.close();
    this.#links.close();
    this.#objects.close();
  }

  remove(): void {
    this.#links.remove();
    for (const name of Object.keys(this.#objects.maps)) unpin(join(this.#objects.folder, name));
    this.close();
    rmSync(this.#objects.folder, { recursive: true, force: true });
  }
}
