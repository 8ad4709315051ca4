import { rmSync } from 'node:fs';
import { FAMILIES } from '../addr/index.ts';
import type { NetError } from '../errors/index.ts';
import {
  concerns,
  monitorNft,
  NftGuard,
  type NftPart,
  NftRuleset,
  partText,
  removeNftParts,
} from '../kernel/nft/index.ts';
import { RTPROT_PORTOLAN, type RtnlEvent, RtnlMonitor } from '../kernel/rtnl/index.ts';
import { NFT_PREFIXES, NFT_TABLE } from '../model/nft-parts.ts';
import { type ObjectStatus, Reconciler } from '../reconcile/index.ts';
import { type Known, leaseNews, planAhead } from './ahead.ts';
import { desiredOverlay, emptyOverlay } from './desired.ts';
import { type OverlayKernel, openOverlayKernel } from './kernel.ts';
import { emptyFilterParts, filterPart, forwardBlockers, OVERLAY_PREFIX } from './masquerade.ts';
import { DEFAULT_PORT, DEFAULT_VNI, deviceName, isDeviceName } from './names.ts';
import { isOverlayRoute, planOverlay } from './plan.ts';
import { subnetEnv, writeAtomically } from './subnet-env.ts';
import { changeText } from './text.ts';
import type { Desired, Lease, Observed, OverlayChange, OverlayConfig, PeerState } from './types.ts';

export interface OverlayOptions {
  readonly config: OverlayConfig;
  /** The node's namespace, default the process's own. */
  readonly netns?: number | { readonly fd: number } | undefined;
  /** This node's lease, when it is first known and whenever it changes: to be written to the Node. */
  readonly onLease?: ((lease: Lease) => void) | undefined;
  /** MTU for pods in bytes, likewise. */
  readonly onPodMtu?: ((mtuBytes: number) => void) | undefined;
  /** Told each change that was carried out. */
  readonly onChange?: ((change: OverlayChange) => void) | undefined;
  readonly onStatus?: ((status: OverlayStatus) => void) | undefined;
  /** Default 30 s. */
  readonly resyncMs?: number | undefined;
  /** Sockets (`Rtnl.port`) of parts that never touch what is the overlay's: it is not woken by their changes. */
  readonly ignore?: readonly number[] | undefined;
}

/** What `portolan status` and metrics show. */
export interface OverlayStatus {
  /** Links, routes, neighbours, FDB entries and settings. */
  readonly tables: ObjectStatus;
  /** nftables rules. */
  readonly rules: ObjectStatus;
  readonly devices: readonly {
    readonly name: string;
    readonly mac: string;
    readonly mtu: number;
    readonly local: string;
  }[];
  readonly peers: readonly PeerState[];
  readonly podMtuBytes: number | undefined;
  readonly lease: Lease | undefined;
  /** What does not stop the overlay but may stop packets: foreign chains that drop. */
  readonly warnings: readonly NetError[];
  /** Since the start. */
  readonly runs: number;
  readonly changes: number;
}

/**
 * Keeps the overlay of one node as its leases say. Sources only set state (`setLeases`, `setConfig`); each change
 * of them, each notification of the kernel about something relevant, and a timer make it compare everything with
 * everything. So a start after a crash is the same as a change, and nothing is ever torn down first.
 */
export class OverlayReconciler {
  readonly #options: OverlayOptions;
  readonly #kernel: OverlayKernel;
  readonly #tables: Reconciler;
  readonly #rules: Reconciler;
  readonly #guard: NftGuard;
  #config: OverlayConfig;
  #leases: readonly Lease[] | undefined;
  /** Whether all peers are known. */
  #complete = false;
  #monitors: { close(): void }[] = [];
  #desired: Desired | undefined;
  /** For leases that can't wait; undefined while the last comparison failed or there was none. */
  #known: Known | undefined;
  #relevant: ReadonlySet<number> = new Set();
  #names: ReadonlyMap<number, string> = new Map();
  #warnings: readonly NetError[] = [];
  #changes = 0;
  #checkForward = true;
  #told = { lease: '', mtu: 0 };
  #parts: readonly NftPart[] = [];

  constructor(options: OverlayOptions) {
    this.#options = options;
    this.#config = options.config;
    this.#kernel = openOverlayKernel(options.netns);
    this.#guard = new NftGuard({ netns: options.netns, neighbours: NFT_PREFIXES });
    // Long enough to gather a burst of notifications, short beside the work that follows.
    const common = { coalesceMs: 2, resyncMs: options.resyncMs ?? 30_000, onStatus: () => this.#report() };
    this.#tables = new Reconciler({ name: 'overlay', run: () => this.#runTables(), ...common });
    this.#rules = new Reconciler({ name: 'overlay rules', run: () => this.#runRules(), ...common });
  }

  /** Subscribes to the kernel and starts; before the first `setLeases` nothing of a peer is removed. */
  start(): void {
    const { netns } = this.#options;
    this.#monitors = [
      new RtnlMonitor({
        netns,
        topics: ['link', 'addr', 'route', 'neigh'],
        // What a comparison changed itself is no reason for the next one.
        ignore: [...(this.#options.ignore ?? []), this.#kernel.port],
        onEvent: (event) => {
          if (this.#concerns(event)) this.#tables.trigger();
        },
        onResync: () => this.#tables.trigger(),
      }),
      monitorNft({
        netns,
        onEvent: (event) => {
          const { table, subject } = event;
          // Other parts of Portolan share the table and change it often.
          if (table === NFT_TABLE && !concerns(event, { prefix: OVERLAY_PREFIX, neighbours: NFT_PREFIXES }))
            return;
          if (subject === 'chain' || subject === 'table') this.#checkForward = true;
          if (table === NFT_TABLE || subject === 'chain') this.#rules.trigger();
        },
        onResync: () => this.#rules.trigger(),
      }),
    ];
    this.#tables.start();
    this.#rules.start();
  }

  /**
   * All peers' leases, this node's own may be among them. A few new ones are in the kernel when this returns;
   * everything else follows soon. The same leases again change nothing. Before the first complete ones nothing of a
   * peer is removed: `complete: false` says that there may be peers that are not among these.
   */
  setLeases(leases: readonly Lease[], { complete = true } = {}): void {
    const { news, gone } = this.#leases ? leaseNews(this.#leases, leases) : { news: [], gone: true };
    const nowComplete = complete && !this.#complete;
    this.#complete ||= complete;
    this.#leases = leases;
    if (news.length === 0 && !gone && !nowComplete) return;
    if (this.#known) this.#addAhead(news, this.#known);
    this.#tables.trigger();
  }

  setConfig(config: OverlayConfig): void {
    this.#known = undefined;
    this.#config = config;
    this.#tables.trigger();
  }

  /** Resolves when the kernel has been brought up to date with everything set so far, well or badly. */
  async settled(): Promise<void> {
    await this.#tables.idle();
    await this.#rules.idle();
  }

  status(): OverlayStatus {
    const desired = this.#desired;
    return {
      tables: this.#tables.status,
      rules: this.#rules.status,
      devices: (desired?.devices ?? []).map(({ name, mac, mtu, local }) => ({
        name,
        mac,
        mtu,
        local: String(local),
      })),
      peers: desired?.peers ?? [],
      podMtuBytes: desired?.podMtuBytes,
      lease: desired?.lease,
      warnings: this.#warnings,
      runs: this.#tables.runs,
      changes: this.#changes,
    };
  }

  /** Stops watching. The kernel keeps everything, so that pods go on talking. */
  async stop(): Promise<void> {
    for (const monitor of this.#monitors.splice(0)) monitor.close();
    await Promise.all([this.#tables.stop(), this.#rules.stop()]);
    this.#kernel.close();
    this.#guard.close();
  }

  /** What fails here is tried and told by the run that follows. */
  #addAhead(news: readonly Lease[], known: Known): void {
    const plan = planAhead(news, known);
    if (plan.length === 0) return;
    this.#kernel.apply(plan);
    this.#changes += plan.length;
    if (this.#options.onChange) for (const change of plan) this.#options.onChange(change);
  }

  #runTables(): void {
    this.#known = undefined;
    const observed = this.#kernel.observe();
    const desired = desiredOverlay(this.#config, this.#leases ?? [], observed);
    this.#desired = desired;
    this.#remember(desired, observed);
    let plan = planOverlay(desired, observed);
    // Until the peers are known, what a former process made for them stays.
    if (!this.#complete)
      plan = plan.filter((change) => !change.do.startsWith('delete-') || isRecreation(change, plan));
    const errors = plan.length > 0 ? this.#kernel.apply(plan) : [];
    this.#changes += plan.length;
    if (this.#options.onChange) for (const change of plan) this.#options.onChange(change);
    if (plan.some((change) => change.do === 'create-device' || change.do === 'delete-device'))
      this.#tables.trigger();
    this.#publish(desired);
    this.#updateRules(desired);
    const problems = [...desired.problems, ...errors];
    // Without tables of our own rows, which are many and which planAhead() does not look at.
    if (problems.length === 0)
      this.#known = {
        config: desired.config,
        peers: desired.peers,
        observed: {
          ...observed,
          routes: observed.routes.filter((route) => route.protocol !== RTPROT_PORTOLAN),
          neighs: [],
          fdb: [],
        },
      };
    if (problems.length === 1) throw problems[0];
    if (problems.length > 1)
      throw new AggregateError(problems, problems.map((error) => error.message).join('; '));
    this.#report();
  }

  #runRules(): void {
    for (const part of this.#parts) this.#guard.ensure(part);
    if (!this.#checkForward) return;
    this.#checkForward = false;
    using ruleset = NftRuleset.open({ netns: this.#options.netns });
    this.#warnings = forwardBlockers(ruleset.allChains());
    this.#report();
  }

  /** The rules that go with the tables; another run of theirs when they differ from the last ones. */
  #updateRules(desired: Desired): void {
    const parts = overlayParts(desired);
    const text = (list: readonly NftPart[]) => list.map(partText).join();
    if (text(parts) === text(this.#parts)) return;
    this.#parts = parts;
    this.#rules.trigger();
  }

  #publish({ lease, podMtuBytes, config }: Desired): void {
    if (podMtuBytes !== undefined) {
      if (config.subnetEnvPath) writeAtomically(config.subnetEnvPath, subnetEnv(config, podMtuBytes));
      if (podMtuBytes !== this.#told.mtu) {
        this.#told.mtu = podMtuBytes;
        this.#options.onPodMtu?.(podMtuBytes);
      }
    }
    const text = JSON.stringify(lease ?? null);
    if (lease && text !== this.#told.lease) {
      this.#told.lease = text;
      this.#options.onLease?.(lease);
    }
  }

  #remember(desired: Desired, observed: Observed): void {
    const relevant = new Set(desired.underlays.map(({ link }) => link.ifindex));
    for (const link of observed.links) if (isDeviceName(link.name)) relevant.add(link.ifindex);
    this.#relevant = relevant;
    this.#names = new Map(observed.links.map((link) => [link.ifindex, link.name]));
  }

  /** Pods come and go all the time, and neighbours of the underlay even more: they do not concern the overlay. */
  #concerns(event: RtnlEvent): boolean {
    switch (event.topic) {
      case 'link':
        return (
          this.#relevant.has(event.link.ifindex) ||
          isDeviceName(event.link.name) ||
          event.link.kind !== 'veth'
        );
      case 'addr':
        return this.#relevant.has(event.addr.ifindex) || event.addr.scope === 0;
      case 'route': {
        const { route } = event;
        if (route.table !== 254) return false;
        return (
          route.protocol !== RTPROT_PORTOLAN || isOverlayRoute(route, { config: this.#config }, this.#names)
        );
      }
      case 'neigh':
        return (
          this.#relevant.has(event.neigh.ifindex) && isDeviceName(this.#names.get(event.neigh.ifindex) ?? '')
        );
      case 'fdb':
        return isDeviceName(this.#names.get(event.fdb.ifindex) ?? '');
      case 'rule':
      case 'port':
        return false;
    }
  }

  #report(): void {
    this.#options.onStatus?.(this.status());
  }
}

/** A device that is deleted in order to be made again. */
function isRecreation(change: OverlayChange, plan: readonly OverlayChange[]): boolean {
  return (
    change.do === 'delete-device' &&
    plan.some((other) => other.do === 'create-device' && other.device.name === change.dev)
  );
}

/** The nftables rules that go with the tables. A family without pods has an empty part. */
export function overlayParts({ config, peers, underlays }: Desired): NftPart[] {
  const vni = config.vni ?? DEFAULT_VNI;
  return FAMILIES.flatMap((family) => {
    const ownCidrs = config.podCidrs.filter((cidr) => cidr.family === family);
    if (ownCidrs.length === 0) return [];
    const usable = peers.filter((peer) => peer.family === family && peer.via !== 'none');
    const tunnel =
      config.backend === 'vxlan' && underlays.some((underlay) => underlay.family === family)
        ? {
            dev: deviceName(family, vni),
            port: config.port ?? DEFAULT_PORT,
            // A peer that is direct from here may still see this node as remote, so all peers may send.
            peers: usable.map((peer) => peer.publicIp),
          }
        : undefined;
    return [
      filterPart({
        family,
        clusterCidrs: config.clusterCidrs.filter((cidr) => cidr.family === family),
        ownCidrs,
        masquerade: config.masquerade ?? true,
        tunnel,
      }),
    ];
  });
}

/** Plans without doing: the lines that `overlay plan` prints. */
export function planText(changes: readonly OverlayChange[]): string[] {
  return changes.map(changeText);
}

/**
 * Removes all that the overlay made in a namespace: `plan` against an empty desired state. Throws
 * OVERLAY_APPLY_FAILED or an AggregateError after everything was tried.
 */
export async function cleanupOverlay(
  config: OverlayConfig,
  netns?: number | { readonly fd: number },
): Promise<OverlayChange[]> {
  const kernel = openOverlayKernel(netns);
  try {
    const plan = planOverlay(emptyOverlay(config), kernel.observe());
    const errors: unknown[] = kernel.apply(plan);
    try {
      removeNftParts(emptyFilterParts(), { netns });
    } catch (error) {
      errors.push(error);
    }
    if (config.subnetEnvPath) rmSync(config.subnetEnvPath, { force: true });
    if (errors.length > 0) throw new AggregateError(errors, `${errors.length} changes failed`);
    return plan;
  } finally {
    kernel.close();
  }
}
