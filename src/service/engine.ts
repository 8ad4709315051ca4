import type { IpAddress } from '../addr/index.ts';
import type { PlanDelta, ServicePlan } from './types.ts';

/** What a programming step did. */
export interface ApplyReport {
  /** Kernel objects written or deleted. */
  readonly changes: number;
  /** Services that could not be programmed, with the reason; all others are. */
  readonly failed: ReadonlyMap<string, Error>;
}

/** A pod link that an engine watches. */
export interface PodLink {
  readonly ifindex: number;
}

/** One program of an engine. */
export interface ProgramStatus {
  readonly name: string;
  readonly id: number;
  /** Changes when the program does. */
  readonly tag: string;
  /** Where it is attached, in words. */
  readonly attachedTo: string;
}

/** One map, table or set of an engine. */
export interface StoreStatus {
  readonly name: string;
  readonly entries: number;
  readonly limit: number;
  /** Kernel memory now. */
  readonly bytes: number;
}

/** A map that is overwritten when it is full: nothing is refused and nobody counts what is in it. */
export type CacheStatus = Omit<StoreStatus, 'entries'>;

/** State of an engine as `portolan status` shows it. */
export interface EngineStatus {
  readonly engine: string;
  readonly programs: readonly ProgramStatus[];
  readonly stores: readonly StoreStatus[];
  readonly caches: readonly CacheStatus[];
  readonly podLinks: readonly number[];
  /** Interfaces at which clients outside are served. */
  readonly nodeInterfaces: readonly number[];
  /** Where packets of clients outside are met, by interface: in the driver, or in tc; and why not in the driver. */
  readonly nodeHooks?: readonly {
    readonly ifindex: number;
    readonly hook: 'native' | 'generic' | 'tc';
    readonly why: string | undefined;
  }[];
  /** Why packets and connections went where they went; names begin with forward-, reject- or drop-. */
  readonly counters: Readonly<Record<string, number>>;
  /** Why this engine and no other; absent when somebody asked for it. */
  readonly because?: string;
  /** Absent when the engine does not look. */
  readonly repairs?: Repairs;
}

/** What a Service port or a backend was used for since it got its number. */
export interface Count {
  /** New connections, and first datagrams of flows and sockets. */
  readonly connections: number;
  /** Connections that were refused or dropped; of Service ports only. */
  readonly refused: number;
  /** Both directions of what is translated packet by packet; at sockets nobody sees packets. Of backends only. */
  readonly packets: number;
  /** From the transport header on. */
  readonly bytes: number;
}

/** What the kernel has for one Service port. */
export interface PortObservation {
  readonly number: number;
  readonly count: Count;
  /** In the order of the plan's backends. */
  readonly backends: readonly {
    readonly id: number;
    readonly count: Count;
    /** Translated flows that are not over. */
    readonly flows: number;
  }[];
  /** Map entries as text. */
  readonly entries: readonly string[];
}

/** How desired state and the kernel differ: lines of `dump()`. */
export interface EngineDiff {
  readonly missing: readonly string[];
  readonly unwanted: readonly string[];
  /** What somebody else did to maps, programs and links of the engine; absent when nobody did. */
  readonly altered?: readonly string[];
}

/** What an engine found changed by others and put right. */
export interface Repairs {
  readonly count: number;
  readonly last?: { readonly at: string; readonly what: readonly string[] };
}

/** A node's addresses at one of its interfaces: backends on other nodes answer to them. */
export interface NodeAddresses {
  readonly ip4?: string | undefined;
  readonly ip6?: string | undefined;
}

/** A new connection, or the first datagram of a flow, for which there was no place. */
export interface RefusedFlow {
  /** Service, `namespace/name`, or key of hostPorts. */
  readonly service: string;
  /** What had none: for flows at links of this node, or for those to backends on other nodes. */
  readonly store: 'lb_flows' | 'lb_nat_flows';
  readonly used: number;
  readonly limit: number;
}

export interface RoomListener {
  /** There is no memory for more. */
  onError(error: unknown): void;
  /** At most once a second for a Service. */
  onRefused?(flow: RefusedFlow): void;
}

/**
 * What carries plans into the kernel. Engines differ in how, not in what a client sees: one conformance suite
 * runs over all of them.
 */
/** Waits in proportion to what was done; false to stop. */
export type Pause = (costMs: number) => Promise<boolean>;

export interface ServiceEngine {
  readonly name: string;
  /** Writes what differs. Nothing that an earlier process left is deleted before the first full delta. */
  apply(delta: PlanDelta): ApplyReport | Promise<ApplyReport>;
  /** Address ranges that ClusterIPs come from; addresses in them that no Service has are dropped. */
  setServiceRanges(cidrs: readonly string[]): void;
  /**
   * Serves packets of a pod whose link has this host-side interface. What it sends with another source than these is
   * dropped, where the engine can; undefined: nothing is. Idempotent.
   */
  attachPodLink(ifindex: number, sources?: readonly IpAddress[]): void;
  detachPodLink(ifindex: number): void;
  /** Packets of pods whose links are ports of a bridge come in by this one. Idempotent; engines at the links need none. */
  attachPodBridge?(ifindex: number): void;
  /** Serves clients outside that come in by this interface: nodePorts, load balancer addresses. Idempotent. */
  attachNodeInterface(ifindex: number, addresses?: NodeAddresses): void;
  detachNodeInterface(ifindex: number): void;
  /** The kernel's truth as text, one line a frontend, sorted. */
  dump(): string[];
  /** Compares the kernel with what these plans want. */
  diff(plans: Iterable<ServicePlan>): EngineDiff;
  status(): EngineStatus;
  /**
   * Puts right what somebody else changed in the kernel; returns it as text. Also gives memory back. `pause` is
   * asked between two pieces of work whether to go on, told the CPU that the last one took; default at once.
   */
  heal?(pause?: Pause): Promise<readonly string[]>;
  /** Gives room to what programs fill, from now on and until `close`; costs nothing while nothing fills it. */
  keepRoom?(tell: RoomListener): void;
  /** Lets go; everything stays in the kernel and works on. */
  close(): void;
  /** Takes everything out of the kernel. */
  remove(): void;
}

/** A packet that somebody asks about. */
export interface PacketQuery {
  /** `pod`: it comes out of a pod of this node; `node`: a process of the node sends it; `outside`: by a link of the node. */
  readonly client: 'pod' | 'node' | 'outside';
  readonly source: string;
  /** Default 61,999. */
  readonly sourcePort?: number;
  readonly target: string;
  readonly targetPort: number;
  readonly protocol: 'TCP' | 'UDP';
}

export interface PacketAnswer {
  /** `pass`: none of our business. */
  readonly verdict: 'forward' | 'reject' | 'drop' | 'pass';
  /** Name of the counter that counts such packets. */
  readonly reason: string | undefined;
  /** Where it goes. */
  readonly backend: string | undefined;
  readonly masquerade: boolean;
  /** What in the kernel decided, in its order. */
  readonly entries: readonly string[];
}

/** An engine as an agent runs it: it follows links, and answers what people ask. */
export interface NodeServiceEngine extends ServiceEngine {
  /** What was found changed by others so far. */
  readonly repairs: Repairs;
  /** Serves answers of backends on other nodes that come by this tunnel. Idempotent. */
  attachOverlay(ifindex: number, addresses: NodeAddresses): void;
  /** Addresses of the other nodes: what their headers tell of clients is believed. Absent where nodes tell nothing. */
  setPeers?(addresses: Iterable<string>): void;
  /** Forgets links that have gone while nobody looked. */
  dropGoneInterfaces(): void;
  /** What the kernel has for the ports of these plans, by the ports' keys; ports without anything are left out. */
  observe(plans: Iterable<ServicePlan>): Map<string, PortObservation>;
  /** Counts of all Service ports that were ever used, by the ports' keys. */
  portCounts(): Map<string, Count>;
  /** What would happen to a packet. Throws ADDR_BAD_IP, BPF_RUN_FAILED. */
  explainPacket(query: PacketQuery): PacketAnswer;
  /** The id of the backend that a Service gave the socket of this cookie; undefined when it chose its peer itself. */
  backendOfSocket(cookie: bigint, address: string, port: number): number | undefined;
}
