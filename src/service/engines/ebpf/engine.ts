import { rmSync } from 'node:fs';
import { join } from 'node:path';
import type { IpAddress } from '../../../addr/index.ts';
import { viewOf } from '../../../codec/index.ts';
import { isNetError, serviceError } from '../../../errors/index.ts';
import { type NetnsLike, unpin } from '../../../kernel/bpf/index.ts';
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
} from '../../engine.ts';
import type { TranslatedFlow } from '../../translated-flow.ts';
import type { PlanDelta, PortPlan, ServicePlan } from '../../types.ts';
import type { GoneBackend } from './backend-store.ts';
import { dumpMaps, dumpPlans, withoutIds } from './dump.ts';
import { explainPacket } from './explain.ts';
import { FlowTable } from './flow-table.ts';
import { translatedFlows } from './handed-flows.ts';
import { Healer } from './heal.ts';
import {
  encodeRanges,
  HOLD,
  HOLD_AT,
  type Hold,
  LINE_ENTRIES,
  PROTOCOL_NUMBER,
  peerStruct,
  REASONS,
  readAddress,
} from './layout.ts';
import { LayoutMove } from './layout-move.ts';
import { Links } from './links.ts';
import { encodeInterface, INTERFACE } from './nat.ts';
import { type EngineObjects, type EngineSizes, openObjects } from './objects.ts';
import { flowsByBackend, observePort } from './observe.ts';
import { PassedFlows } from './passed-flows.ts';
import { setPeers } from './peers.ts';
import { PodSources } from './pod-sources.ts';
import { storesOf } from './stores.ts';
import { Writer } from './writer.ts';
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

/** Sockets that talk to backends which have gone. */
export interface StaleSockets {
  readonly backends: readonly GoneBackend[];
  /** Whether the socket of this cookie was given this backend by a Service, and did not choose it itself. */
  wasTranslated(cookie: bigint, address: string, port: number): boolean;
}

/** Frontends; the map's buckets grow with what is in use. */
const FRONTENDS_LIMIT = 1 << 24;

function u32Bytes(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, value, true);
  return bytes;
}

/** How many Services are staged before they are written, so that a first sync does not hold everything twice. */
const FLUSH_EVERY = 256;

/** Services in eBPF: programs at sockets and pod links, see bpf/lb_socket.bpf.c and bpf/lb_pod.bpf.c. */
export class EbpfEngine implements NodeServiceEngine {
  readonly name = 'ebpf';
  readonly #options: EbpfEngineOptions;
  readonly #objects: EngineObjects;
  readonly #links: Links;
  readonly #sources: PodSources;
  readonly #now: () => number;
  readonly #healer: Healer;
  readonly #passed: PassedFlows;
  readonly #flows: FlowTable;
  #writer: Writer;
  #config: Uint8Array | undefined;
  #hold: Hold = HOLD.OFF;
  /** Keys of the ports that each Service has now. */
  readonly #portsOf = new Map<string, readonly string[]>();

  private constructor(options: EbpfEngineOptions, objects: EngineObjects, links: Links, flows: FlowTable) {
    this.#options = options;
    this.#objects = objects;
    this.#links = links;
    this.#sources = new PodSources(objects.maps.lb_pod_sources);
    this.#flows = flows;
    this.#now = options.now ?? (() => performance.now());
    this.#writer = this.#newWriter();
    this.#passed = new PassedFlows(objects.maps.lb_passed, options.netns);
    this.#healer = new Healer({ objects, links, writer: () => this.#writer, config: () => this.#config });
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
        engine.#setHold(hold);
        if (move) {
          move.finish(links);
          engine.#setHold(hold);
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
    const failed = new Map<string, Error>();
    const gone: GoneBackend[] = [];
    let changes = 0;
    // Whether all that an earlier process left and that is wanted has been claimed.
    let claimed = true;
    let staged: string[] = [];
    const flush = () => {
      try {
        const done = this.#writer.flush();
        changes += done.changes;
        for (const backend of done.gone) gone.push(backend);
      } catch (cause) {
        for (const service of staged)
          failed.set(
            service,
            serviceError('SERVICE_PROGRAM_FAILED', { service, step: 'writing maps' }, cause),
          );
        // What was written is unknown: read it back, and let the next full delta compare.
        claimed = false;
        this.#writer.close();
        this.#writer = this.#newWriter();
        this.#portsOf.clear();
      }
      staged = [];
    };
    if (delta.full) this.#reserve(delta.upsert);
    for (const plan of delta.upsert) {
      const error = this.#putService(plan);
      if (error) failed.set(plan.key, error);
      if (isNetError(error, 'SERVICE_PROGRAM_FAILED')) claimed = false;
      staged.push(plan.key);
      // A frontend may pass from one Service to another, which must be one flush; only a first sync is cut.
      if (delta.full && staged.length >= FLUSH_EVERY) flush();
    }
    for (const key of delta.remove) this.#dropService(key);
    if (delta.full) {
      const wanted = new Set(delta.upsert.map(({ key }) => key));
      for (const key of [...this.#portsOf.keys()]) if (!wanted.has(key)) this.#dropService(key);
      // What could not be claimed is served as it was, until it can be.
      if (claimed) this.#writer.dropLeftovers();
    }
    flush();
    this.#tellStale(gone);
    return { changes, failed };
  }

  setServiceRanges(cidrs: readonly string[]): void {
    this.#config = encodeRanges(cidrs);
    this.#setHold(this.#hold);
  }

  /**
   * What netfilter translates goes on there, everything new comes here: to be called when all is programmed, before
   * netfilter's rules go. Throws CONNTRACK_FAILED. Returns how many flows go on.
   */
  takeOver(): number {
    this.#passed.gather(this.#writer);
    // From here on nothing new begins there. A segment of what began since is dropped, and repeated.
    this.#setHold(HOLD.UNKNOWN);
    const flows = this.#passed.gather(this.#writer);
    this.#setHold(HOLD.OFF);
    return flows;
  }

  /**
   * Gives all translated flows to somebody who goes on with them. While `carry` runs their packets are dropped;
   * afterwards the programs let everything pass. New flows pass from the first moment on.
   */
  handOver(carry: (flows: TranslatedFlow[]) => void): void {
    this.#setHold(HOLD.KNOWN);
    try {
      carry(translatedFlows(this.#flows, this.#objects.maps));
    } finally {
      this.#setHold(HOLD.ALL);
    }
  }

  #setHold(hold: Hold): void {
    const { lb_config } = this.#objects.maps;
    const only = new Uint8Array(4);
    const value = this.#config ?? lb_config.get(only)!;
    this.#hold = hold;
    viewOf(value).setUint32(HOLD_AT, hold, true);
    lb_config.set(only, value);
  }

  attachPodLink(ifindex: number, sources?: readonly IpAddress[]): void {
    this.#sources.set(ifindex, sources);
    this.#links.attach('pod', ifindex);
  }

  detachPodLink(ifindex: number): void {
    this.#links.detach('pod', ifindex);
    this.#sources.set(ifindex, undefined);
  }

  dropGoneInterfaces(): void {
    for (const ifindex of this.#links.dropGone()) this.#objects.maps.lb_interfaces.delete(u32Bytes(ifindex));
    this.#sources.keep(new Set(this.#links.list('pod')));
  }

  attachNodeInterface(ifindex: number, addresses: NodeAddresses = {}): void {
    this.#links.attach('node', ifindex);
    this.#setInterface(ifindex, addresses, 0);
  }

  detachNodeInterface(ifindex: number): void {
    this.#links.detach('node', ifindex);
    this.#objects.maps.lb_interfaces.delete(u32Bytes(ifindex));
  }

  /** Takes answers of backends on other nodes that come by a tunnel. Throws SERVICE_LINK_MISSING. */
  attachOverlay(ifindex: number, addresses: NodeAddresses): void {
    this.#links.attach('overlay', ifindex);
    this.#setInterface(ifindex, addresses, INTERFACE.OVERLAY);
  }

  setPeers(addresses: Iterable<string>): void {
    setPeers(this.#objects.maps.lb_peers, addresses);
  }

  dump(): string[] {
    return dumpMaps(this.#writer);
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
      stores: storesOf(this.#objects.maps, this.#flows, this.#writer),
      podLinks: this.#links.list('pod'),
      nodeInterfaces: this.#links.list('node'),
      nodeHooks: this.#links.list('node').flatMap((ifindex) => {
        const chosen = this.#links.chosen(ifindex);
        return chosen ? { ifindex, hook: chosen.hook, why: chosen.why } : [];
      }),
      counters: this.counters(),
      repairs: this.repairs,
    };
  }

  /** Counts by reason, all CPUs together, since the maps were made. */
  counters(): Record<string, number> {
    const counters: Record<string, number> = {};
    const key = new Uint8Array(4);
    REASONS.forEach((reason, at) => {
      if (at === 0) return;
      viewOf(key).setUint32(0, at, true);
      const values = this.#objects.maps.lb_counters.getPerCpu(key) ?? [];
      counters[reason] = values.reduce((sum, value) => sum + Number(viewOf(value).getBigUint64(0, true)), 0);
    });
    return counters;
  }

  /** What the kernel has for the ports of these plans, by the ports' keys; ports without anything are left out. */
  observe(plans: Iterable<ServicePlan>): Map<string, PortObservation> {
    const flows = flowsByBackend(this.#flows);
    const found = new Map<string, PortObservation>();
    for (const { ports } of plans)
      for (const { key } of ports) {
        const port = observePort(this.#writer, key, flows);
        if (port) found.set(key, port);
      }
    return found;
  }

  /** Counts of all Service ports that were ever used, by the ports' keys. */
  portCounts(): Map<string, Count> {
    const counts = new Map<string, Count>();
    const used = new Map(this.#writer.serviceCounts.entries());
    for (const [key, { service }] of this.#writer.ports()) {
      const count = used.get(service);
      if (count) counts.set(key, count);
    }
    return counts;
  }

  /** The id of the backend that a Service gave the socket of this cookie; undefined when it chose its peer itself. */
  backendOfSocket(cookie: bigint, address: string, port: number): number | undefined {
    const key = new Uint8Array(8);
    viewOf(key).setBigUint64(0, cookie, true);
    const value = this.#objects.maps.lb_sockets.get(key);
    if (!value) return undefined;
    const peer = peerStruct.decode(value);
    const same = peer.backend_port === port && readAddress(peer.backend) === address;
    return same ? peer.backend_id : undefined;
  }

  /** What would happen to a packet, decided by the loaded programs themselves. Throws ADDR_BAD_IP, BPF_RUN_FAILED. */
  explainPacket(query: PacketQuery): PacketAnswer {
    return explainPacket(
      { objects: this.#objects, flows: this.#flows, writer: this.#writer, counters: () => this.counters() },
      query,
    );
  }

  /** The loaded programs by name, for test runs: `service explain` and unit tests of the programs. */
  get programs(): EngineObjects['programs'] {
    return this.#objects.programs;
  }

  /** Gives room to tables that programs fill. Throws BPF_MAP_CALL. */
  tend(): void {
    this.#flows.tend();
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
    this.#flows.close();
    this.#writer.close();
    this.#links.close();
    this.#objects.close();
  }

  remove(): void {
    this.#links.remove();
    for (const name of Object.keys(this.#objects.maps)) unpin(join(this.#objects.folder, name));
    this.close();
    rmSync(this.#objects.folder, { recursive: true, force: true });
  }

  #setInterface(ifindex: number, addresses: NodeAddresses, flags: number): void {
    const chosen = this.#links.chosen(ifindex);
    const xdp = (chosen?.sends ? INTERFACE.XDP : 0) | (chosen?.turns ? INTERFACE.TX : 0);
    this.#objects.maps.lb_interfaces.set(u32Bytes(ifindex), encodeInterface(addresses, flags | xdp));
  }

  #newWriter(): Writer {
    const { maps } = this.#objects;
    const { sizes = {}, nodeName } = this.#options;
    return new Writer(
      {
        frontends: maps.lb_frontends,
        tables: maps.lb_tables,
        backends: maps.lb_backends,
        ranges: maps.lb_source_ranges,
        backendCounts: maps.lb_backend_counts,
        serviceCounts: maps.lb_service_counts,
      },
      {
        nodeName,
        frontends: sizes.frontends ?? 16_384,
        frontendsLimit: sizes.frontendsLimit ?? FRONTENDS_LIMIT,
        backendsLimit: sizes.backendsLimit ?? 1 << 24,
        linesLimit: sizes.linesLimit ?? 1 << 24,
        counterBytes: sizes.counterBytes ?? 64 << 20,
        now: this.#now,
        types: this.#objects.types,
      },
    );
  }

  #reserve(plans: readonly ServicePlan[]): void {
    const more = { frontends: 0, lines: 0, backends: 0 };
    for (const plan of plans) {
      if (this.#portsOf.has(plan.key)) continue;
      for (const port of plan.ports) {
        more.frontends += port.frontends.length + 1;
        more.lines += Math.ceil(port.backends.length / LINE_ENTRIES);
        more.backends += port.backends.length;
      }
    }
    const usage = this.#writer.usage();
    // What an earlier process left will mostly be found again.
    this.#writer.reserve({
      frontends: Math.max(0, more.frontends - usage.frontends.used),
      lines: Math.max(0, more.lines - usage.lines.used),
      backends: Math.max(0, more.backends - usage.backends.used),
    });
  }

  /** Stages all ports of a Service. One that fails does not hold up the others. */
  #putService(plan: ServicePlan): Error | undefined {
    let failure: Error | undefined;
    const before = this.#portsOf.get(plan.key) ?? [];
    const now: string[] = [];
    for (const port of plan.ports) {
      try {
        this.#putPort(port);
        now.push(port.key);
      } catch (error) {
        failure ??= refusal(plan.key, error);
        if (before.includes(port.key)) now.push(port.key);
      }
    }
    for (const key of before) if (!now.includes(key)) this.#writer.drop(key);
    if (now.length > 0) this.#portsOf.set(plan.key, now.slice());
    else this.#portsOf.delete(plan.key);
    return failure;
  }

  #putPort(port: PortPlan): void {
    if (PROTOCOL_NUMBER[port.protocol] === undefined)
      throw serviceError('SERVICE_PROTOCOL_UNSUPPORTED', {
        service: port.service,
        protocol: port.protocol,
        engine: this.name,
      });
    this.#writer.put(port);
  }

  #dropService(key: string): void {
    for (const port of this.#portsOf.get(key) ?? []) this.#writer.drop(port);
    this.#portsOf.delete(key);
  }

  #tellStale(gone: readonly GoneBackend[]): void {
    const backends = gone.filter(({ protocol }) => protocol === 'UDP');
    if (backends.length === 0 || !this.#options.onStaleSockets) return;
    this.#options.onStaleSockets({
      backends,
      wasTranslated: (cookie, address, port) => this.backendOfSocket(cookie, address, port) !== undefined,
    });
  }
}

/** What a Service that is not programmed is told: it does not fit, or the kernel failed and it is tried again. */
function refusal(service: string, cause: unknown): Error {
  return isNetError(cause, 'SERVICE_MAP_FULL') || isNetError(cause, 'SERVICE_PROTOCOL_UNSUPPORTED')
    ? cause
    : serviceError('SERVICE_PROGRAM_FAILED', { service, step: 'making maps' }, cause);
}
