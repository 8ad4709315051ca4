/**
 * This node in the pod network: Nodes become leases, its own pod CIDRs the pools of addresses and the configuration of
 * the overlay.
 *
 *   Nodes ──► own pod CIDRs ──► pools, OverlayReconciler ──► own lease ──► annotations of the own Node
 *        └──► peers' leases ──────────┘   ▲
 *   last-seen.json ── until Nodes are known ┘
 */
import { type Cidr, type Family, type IpAddress, parseCidr } from '../addr/index.ts';
import type { Log } from '../client/index.ts';
import type { NetworkHealth } from '../cni/index.ts';
import type { Node } from '../model/kubernetes.ts';
import {
  type Lease,
  leaseOfNode,
  type NodeRecord,
  type OverlayConfig,
  type OverlayOptions,
  OverlayReconciler,
} from '../overlay/index.ts';
import type { LastSeenFile } from './last-seen.ts';
import type { AgentOptions } from './options.ts';
import { nodeRecord, peerLeases, type Unreadable } from './peers.ts';

/** Until the overlay has told the real one; pods made meanwhile must fit through any tunnel. */
const FIRST_MTU_BYTES = 1400;

/** What is used of an {@link OverlayReconciler}. */
export type Overlay = Pick<
  OverlayReconciler,
  'start' | 'stop' | 'setLeases' | 'setConfig' | 'status' | 'settled'
>;

export interface NodeNetworkOptions {
  readonly options: AgentOptions;
  readonly nodes: {
    readonly items: ReadonlyMap<string, Node>;
    onChange(listener: (keys: ReadonlySet<string>) => void): void;
  };
  readonly lastSeen: Pick<LastSeenFile, 'read' | 'save'>;
  /** Where pod addresses come from. */
  readonly pools: { setPools(pools: readonly Cidr[]): void };
  /** This node's addresses before the overlay knows better. */
  readonly addresses: readonly IpAddress[];
  /** Sockets whose changes are no concern of the overlay: those of pod links. */
  readonly ignore?: readonly number[] | undefined;
  /** What the node says of itself has changed: lease, addresses, readiness, zone. */
  readonly onChange: () => void;
  readonly log: Log;
  /** Makes the overlay; tests have their own. */
  readonly openOverlay?: (options: OverlayOptions) => Overlay;
}

export class NodeNetwork {
  readonly #options: NodeNetworkOptions;
  readonly #families: ReadonlySet<Family>;
  #overlay: Overlay | undefined;
  #config: OverlayConfig | undefined;
  #lease: Lease | undefined;
  #addresses: readonly IpAddress[];
  #podMtuBytes = FIRST_MTU_BYTES;
  #isUp = false;
  /** Why the own Node's pod CIDRs cannot be used. */
  #cidrError: string | undefined;
  /** Peers that were told to be unreadable, with the reason. */
  #told = new Map<string, string>();

  constructor(options: NodeNetworkOptions) {
    this.#options = options;
    this.#addresses = options.addresses;
    this.#families = new Set(options.options.clusterCidrs.map(({ family }) => family));
    // Of all that hear of Nodes this is the first: a peer's route waits for nobody else's work.
    options.nodes.onChange(() => this.#followNodes());
  }

  get overlay(): Overlay | undefined {
    return this.#overlay;
  }

  get config(): OverlayConfig | undefined {
    return this.#config;
  }

  /** What this node tells others, once the overlay knows. */
  get lease(): Lease | undefined {
    return this.#lease;
  }

  get addresses(): readonly IpAddress[] {
    return this.#addresses;
  }

  get podMtuBytes(): number {
    return this.#podMtuBytes;
  }

  /** Whether the overlay is programmed. */
  get isUp(): boolean {
    return this.#isUp;
  }

  get zone(): string | undefined {
    return this.#ownNode?.metadata.labels?.['topology.kubernetes.io/zone'];
  }

  health(): NetworkHealth {
    const { nodeName } = this.#options.options;
    if (!this.#config) return { cannotAdd: this.#cidrError ?? `node "${nodeName}" has no pod CIDR yet` };
    if (this.#overlay?.status().tables.state === 'pending')
      return { cannotAdd: 'the overlay is being programmed' };
    return {};
  }

  /** Starts with what was seen last; to be called before the Nodes are listed, which count from then on. */
  start(): void {
    const { lastSeen, log } = this.#options;
    const seen = lastSeen.read();
    const podCidrs = seen && this.#readCidrs(seen.podCidrs);
    if (seen && podCidrs && podCidrs.length > 0) {
      log.info({ peers: seen.peers.length }, 'until the API server answers, what it said last counts');
      this.#configure(podCidrs);
      this.#overlay?.setLeases(leasesOf(seen.peers), { complete: false });
    }
  }

  async stop(): Promise<void> {
    await this.#overlay?.stop();
  }

  get #ownNode(): Node | undefined {
    return this.#options.nodes.items.get(this.#options.options.nodeName);
  }

  #followNodes(): void {
    const { nodes, lastSeen, options } = this.#options;
    const podCidrs = this.#readCidrs(this.#ownNode?.spec?.podCIDRs ?? []);
    // A Node that somebody deleted comes back; until then its pods keep their addresses.
    if (podCidrs.length > 0 && podCidrs.map(String).join() !== this.#config?.podCidrs.map(String).join())
      this.#configure(podCidrs);
    const { leases, unreadable } = peerLeases(nodes.items.values(), options.nodeName);
    this.#tellUnreadable(unreadable);
    this.#overlay?.setLeases(leases);
    const config = this.#config;
    if (config)
      lastSeen.save(() => ({
        podCidrs: config.podCidrs.map(String),
        peers: [...nodes.items.values()]
          .filter(({ metadata }) => metadata.name !== options.nodeName)
          .map((node) => nodeRecord(node)),
      }));
    this.#options.onChange();
  }

  /** Those of the cluster's families; none when one cannot be read. */
  #readCidrs(texts: readonly string[]): Cidr[] {
    try {
      this.#cidrError = undefined;
      return texts.map((text) => parseCidr(text)).filter(({ family }) => this.#families.has(family));
    } catch (error) {
      this.#cidrError = (error as Error).message;
      this.#options.log.warn({ error: this.#cidrError }, "this node's pod CIDRs cannot be used");
      return [];
    }
  }

  #configure(podCidrs: Cidr[]): void {
    const { options, pools, onChange, log } = this.#options;
    pools.setPools(podCidrs);
    this.#config = {
      node: options.nodeName,
      backend: options.backend,
      podCidrs,
      clusterCidrs: options.clusterCidrs,
      directRouting: options.directRouting,
      interface: options.interface,
      addresses: options.nodeIps.length > 0 ? options.nodeIps : undefined,
      subnetEnvPath: options.subnetEnvPath,
    };
    if (this.#overlay) {
      this.#overlay.setConfig(this.#config);
      return;
    }
    const open =
      this.#options.openOverlay ?? ((overlay: OverlayOptions): Overlay => new OverlayReconciler(overlay));
    this.#overlay = open({
      config: this.#config,
      ignore: this.#options.ignore,
      onLease: (lease) => {
        this.#lease = lease;
        this.#addresses = Object.values(lease.endpoints).flatMap((end) => (end ? [end.publicIp] : []));
        onChange();
      },
      onPodMtu: (mtu) => {
        this.#podMtuBytes = mtu;
      },
      onChange: (change) => log.debug({ change: change.do }, 'overlay'),
      onStatus: ({ tables }) => {
        if (tables.state === 'error') log.warn({ error: tables.error.message }, 'overlay');
        if ((tables.state === 'done') === this.#isUp) return;
        this.#isUp = tables.state === 'done';
        onChange();
      },
    });
    this.#overlay.start();
  }

  /** Each once, and again only when it is wrong in another way: Nodes change all the time. */
  #tellUnreadable(unreadable: readonly Unreadable[]): void {
    for (const { node, error } of unreadable)
      if (this.#told.get(node) !== error.message)
        this.#options.log.warn({ node, error: error.message }, 'a peer is left out');
    this.#told = new Map(unreadable.map(({ node, error }) => [node, error.message]));
  }
}

/** Leases of records as they were written down; one that cannot be read is left out. */
function leasesOf(records: readonly NodeRecord[]): Lease[] {
  const leases: Lease[] = [];
  for (const record of records) {
    try {
      const lease = leaseOfNode(record);
      if (lease) leases.push(lease);
    } catch {
      // Told when it was read from its Node.
    }
  }
  return leases;
}
