import { fstatSync } from 'node:fs';
import type { Cidr, IpAddress } from '../addr/index.ts';
import { cniError } from '../errors/cni.ts';
import { isNetError } from '../errors/net-error.ts';
import {
  type Attachment,
  type AttachmentKey,
  type AttachmentStore,
  attachmentKey,
  type PodIdentity,
  type PortMapping,
} from '../ipam/index.ts';
import { currentNetns, type Netns, openNetns } from '../kernel/netns/index.ts';
import {
  type DesiredPodLink,
  hostLinkName,
  LinkRemover,
  type PodLink,
  type PodLinkKind,
  PodLinkReconciler,
  type PodLinks,
  podLinkSpec,
} from '../podlink/index.ts';
import { bridgeNetworks, refuseNoRoom } from './bridge-networks.ts';
import { KeyedLock } from './keyed-lock.ts';

/** What can be said about the node's ability to serve pods. */
export interface NetworkHealth {
  /** Why no pod can be added now; undefined when pods can. */
  readonly cannotAdd?: string | undefined;
  /** Why running pods are limited too; undefined when they are not. */
  readonly podsLimited?: string | undefined;
}

/** Who makes ports of the node lead to containers. Called for attachments with port mappings only. */
export interface PortPublisher {
  /** Before anything else is made: throws when somebody else has one of the ports. */
  claim(attachment: Attachment): Promise<void> | void;
  /** Resolves when they work; the link is there. */
  publish(attachment: Attachment): Promise<void> | void;
  /** Resolves when they are free; what never was claimed is success. */
  withdraw(attachment: Attachment): Promise<void> | void;
  /** What of them does not work, in words. */
  check(attachment: Attachment): string[];
}

export interface PodNetworkingOptions {
  readonly store: AttachmentStore;
  readonly links: PodLinks;
  /** Kind of the links to come; those that exist keep theirs until their pods go. Default `routed`. */
  readonly kind?: PodLinkKind | undefined;
  /** MTU of pod links now, bytes: that of the underlay less what the overlay adds. */
  readonly mtuBytes: () => number;
  /**
   * Isolation by address, before the pod has a link: nothing can reach it yet. A failure undoes the ADD, and
   * `afterRemoved` is called.
   */
  readonly beforeLink?: (attachment: Attachment) => Promise<void> | void;
  /**
   * Service programs for a link that is there but not yet known to its pod's creator: ADD returns after
   * it. Called again, with the new index, when a link had to be made anew, and for all links at start. A failure
   * undoes the ADD.
   */
  readonly beforeReady?: (attachment: Attachment, link: PodLink) => Promise<void> | void;
  /** After the link is gone and before its addresses are free. */
  readonly afterRemoved?: (attachment: Attachment) => Promise<void> | void;
  /** Serves port mappings; without it an ADD that wants some is refused. */
  readonly ports?: PortPublisher;
  readonly health?: () => NetworkHealth;
  /** Failures of work that nobody waits for: repairs, releases. */
  readonly onError?: (error: unknown) => void;
  /** Opens a namespace by path; tests inject failures. */
  readonly openNetns?: (path: string) => Netns;
}

/** One interface to make. */
export interface AddRequest extends AttachmentKey {
  /** Path of the pod's network namespace. */
  readonly netns: string;
  readonly pod?: PodIdentity | undefined;
  /** Name of the CNI network; default empty: GC of no network frees it. */
  readonly network?: string;
  readonly ips?: readonly IpAddress[];
  readonly mtuBytes?: number | undefined;
  /** Ports of the node that are to lead to it; default none. */
  readonly portMappings?: readonly PortMapping[];
  /** Default that of the node. */
  readonly kind?: PodLinkKind | undefined;
  /** What to do when it is attached already: `refuse` as CNI wants (default), or `ensure` that it is as it must be. */
  readonly ifAttached?: 'refuse' | 'ensure';
}

/**
 * The network of the pods of one node: the store of attachments, their links, and the order in which one is made and
 * unmade. The CNI server and the agent's own pods use the same object.
 *
 *     ADD   record addresses as pending -> beforeLink, ports claimed -> link -> beforeReady, ports published
 *           -> record as ready, on disk -> answer
 *     DEL   link -> ports withdrawn, afterRemoved -> forget the record with its addresses
 *
 * Whatever fails or is killed in between leaves a pending record, which the failing ADD itself undoes, or else the
 * next start.
 */
export class PodNetworking {
  readonly store: AttachmentStore;
  readonly #options: PodNetworkingOptions;
  readonly #links: PodLinks;
  readonly #remover: LinkRemover;
  readonly #lock = new KeyedLock();
  #lastTurn: Promise<void> = Promise.resolve();
  /** Host links that an ADD or DEL is at work on, with the number of them. */
  readonly #busy = new Set<string>();
  readonly #reconciler: PodLinkReconciler;
  /** The namespaces of this process and of the node: no pod's. */
  readonly #nodeInodes: ReadonlySet<bigint>;

  /** Throws KERNEL_SYSCALL. */
  constructor(options: PodNetworkingOptions) {
    this.#options = options;
    this.store = options.store;
    this.#links = options.links;
    this.#remover = new LinkRemover(options.links.netns);
    using own = currentNetns();
    const { netns } = options.links;
    this.#nodeInodes = new Set([own.inode, ...(netns ? [fstatSync(netns.fd, { bigint: true }).ino] : [])]);
    this.#reconciler = new PodLinkReconciler({
      links: options.links,
      desired: () => this.#desired(),
      wanted: (hostLink) => {
        const attachment = this.store.byHostLink(hostLink);
        return attachment && podLinkSpec(attachment);
      },
      bridge: () => this.#bridgeNetworks(),
      busy: () => this.#busy,
      onRestored: (link) => this.#restored(link),
      onGone: (hostLink) => this.#gone(hostLink),
      onError: (error) => options.onError?.(error),
    });
  }

  /**
   * Brings the node to what the store says, and keeps it there: undoes ADDs that never returned, releases pods whose
   * namespace is gone (reboot), repairs all others, prunes links of ours that nobody knows.
   */
  async start(): Promise<void> {
    this.#links.enableForwarding();
    for (const attachment of this.store.list())
      if (attachment.state === 'pending') await this.del(attachment);
    const pass = this.#reconciler.start();
    await Promise.all(pass.gone.map((hostLink) => this.#settled(hostLink)));
    const ends = this.#links.observe();
    for (const attachment of this.store.list()) {
      const link = ends.get(attachment.hostLink)?.link;
      if (link && attachment.state === 'ready')
        await this.#guard(() =>
          this.#options.beforeReady?.(attachment, { ifindex: link.ifindex, spec: podLinkSpec(attachment) }),
        );
    }
  }

  async close(): Promise<void> {
    this.#reconciler.close();
    await this.#lock.idle();
    await this.#remover.close();
  }

  /**
   * Attaches a container. Undoes everything on failure.
   * @throws CNI_NETNS_GONE, CNI_NETNS_IS_HOST, IPAM_*, PODLINK_*, what `beforeReady` throws
   */
  add(request: AddRequest): Promise<Attachment> {
    return this.#exclusive(request, async (hostLink) => {
      if (request.portMappings?.length && !this.#options.ports)
        throw cniError('CNI_FIELD_UNSUPPORTED', {
          key: 'runtimeConfig.portMappings',
          value: JSON.stringify(request.portMappings).slice(0, 200),
        });
      // An ADD keeps the event loop for about 1 ms: one a turn, and the whole of it, so that the first of many has its
      // answer before the last has an address.
      await this.#turn();
      using netns = this.#openPod(request.netns);
      const existing = this.store.get(request);
      if (existing) {
        const isSame = existing.netnsInode === netns.inode && existing.state === 'ready';
        if (isSame && request.ifAttached === 'ensure') return this.#ensure(existing, netns);
        // The same id in another namespace: the container it was made for has gone without DEL.
        if (!isSame) await this.#remove(existing);
      }
      const kind = request.kind ?? this.#options.kind ?? 'routed';
      const isBridged = kind === 'bridge';
      if (isBridged) refuseNoRoom(this.store.pools);
      const attachment = this.store.allocate({
        containerId: request.containerId,
        ifname: request.ifname,
        netns: request.netns,
        netnsInode: netns.inode,
        pod: request.pod,
        hostLink,
        kind,
        recordNetworks: isBridged,
        network: request.network ?? '',
        mtuBytes: request.mtuBytes ?? this.#options.mtuBytes(),
        portMappings: request.portMappings ?? [],
        wanted: request.ips ?? [],
      });
      let link: PodLink | undefined;
      try {
        await this.#ports(attachment)?.claim(attachment);
        await this.#options.beforeLink?.(attachment);
        link = this.#links.create(podLinkSpec(attachment), netns.fd);
        this.#reconciler.watch(link);
        await this.#options.beforeReady?.(attachment, link);
        await this.#ports(attachment)?.publish(attachment);
        const ready = this.store.markReady(attachment);
        await this.store.durable();
        return ready ?? attachment;
      } catch (error) {
        throw await this.#undo(attachment, link !== undefined, error);
      }
    });
  }

  /** Detaches a container; what is not attached is success, and a namespace is not needed. */
  del(key: AttachmentKey): Promise<void> {
    return this.#exclusive(key, async (hostLink) => {
      const attachment = this.store.get(key);
      if (attachment) await this.#remove(attachment);
      // A link without a record: of an agent whose state was lost.
      else await this.#remover.remove(hostLink);
    });
  }

  /** What of an attachment is not as ADD left it, in words; empty when all is well. */
  check(key: AttachmentKey, netnsPath: string): Promise<string[]> {
    return this.#exclusive(key, async () => {
      const attachment = this.store.get(key);
      if (!attachment) return [`no attachment of "${key.ifname}" is recorded`];
      using netns = this.#openPod(netnsPath);
      if (netns.inode !== attachment.netnsInode)
        return [`network namespace "${netnsPath}" is another one than at ADD`];
      const missing = this.#links.check(podLinkSpec(attachment), netns.fd);
      return [...missing, ...(this.#ports(attachment)?.check(attachment) ?? [])];
    });
  }

  /** Frees every attachment of a network that is not listed; goes on after failures, which are thrown together. */
  async gc(network: string, valid: readonly AttachmentKey[]): Promise<AttachmentKey[]> {
    const keep = new Set(valid.map(attachmentKey));
    const stale = this.store
      .list()
      .filter((each) => each.network === network && each.state === 'ready' && !keep.has(attachmentKey(each)));
    const results = await Promise.allSettled(stale.map((each) => this.del(each)));
    const errors = results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : []));
    if (errors.length > 0)
      throw new AggregateError(errors, `${errors.length} attachments could not be freed`);
    return stale;
  }

  /** Throws CNI_NOT_AVAILABLE or CNI_PODS_LIMITED when an ADD would fail now. */
  assertAvailable(): void {
    const { cannotAdd, podsLimited } = this.#options.health?.() ?? {};
    if (podsLimited) throw cniError('CNI_PODS_LIMITED', { why: podsLimited });
    if (cannotAdd) throw cniError('CNI_NOT_AVAILABLE', { why: cannotAdd });
    try {
      this.store.assertFree();
    } catch (error) {
      throw cniError('CNI_NOT_AVAILABLE', { why: (error as Error).message }, error);
    }
  }

  /** Host links with their specification, for planning and status. */
  list(): Attachment[] {
    return this.store.list();
  }

  /** Looks at all links soon. */
  resync(): void {
    this.#reconciler.trigger();
  }

  #turn(): Promise<void> {
    const turn = this.#lastTurn.then(() => new Promise<void>((resolve) => setImmediate(resolve)));
    this.#lastTurn = turn;
    return turn;
  }

  #exclusive<T>(key: AttachmentKey, work: (hostLink: string) => Promise<T>): Promise<T> {
    const hostLink = hostLinkName(key.containerId, key.ifname);
    return this.#lock.run(attachmentKey(key), async () => {
      this.#busy.add(hostLink);
      try {
        return await work(hostLink);
      } finally {
        this.#busy.delete(hostLink);
      }
    });
  }

  #openPod(path: string): Netns {
    let netns: Netns;
    try {
      netns = (this.#options.openNetns ?? openNetns)(path);
    } catch (error) {
      if (isNetError(error, 'NETNS_MISSING')) throw cniError('CNI_NETNS_GONE', { netns: path }, error);
      throw error;
    }
    if (!this.#nodeInodes.has(netns.inode)) return netns;
    netns.close();
    throw cniError('CNI_NETNS_IS_HOST', { netns: path });
  }

  #ports({ portMappings }: Attachment): PortPublisher | undefined {
    return portMappings.length > 0 ? this.#options.ports : undefined;
  }

  async #ensure(attachment: Attachment, netns: Netns): Promise<Attachment> {
    const link = this.#links.ensure(podLinkSpec(attachment), netns.fd);
    if (link.created) await this.#options.beforeReady?.(attachment, link);
    return attachment;
  }

  async #remove(attachment: Attachment): Promise<void> {
    await this.#remover.remove(attachment.hostLink);
    await this.#ports(attachment)?.withdraw(attachment);
    await this.#options.afterRemoved?.(attachment);
    this.store.release(attachment);
    // The last one of a kind that is no longer wanted takes the bridge with it.
    if (attachment.kind === 'bridge' && !this.#bridgeNetworks()) this.#reconciler.trigger();
  }

  #bridgeNetworks(): readonly Cidr[] | undefined {
    const pools = this.#options.kind === 'bridge' ? this.store.pools : [];
    return bridgeNetworks(pools, this.store.list());
  }

  /** Undoes an ADD that failed; returns the error to throw. */
  async #undo(attachment: Attachment, hasLink: boolean, error: unknown): Promise<unknown> {
    const failures: unknown[] = [];
    const attempt = async (work: () => Promise<void> | void) => {
      try {
        await work();
      } catch (failure) {
        failures.push(failure);
      }
    };
    if (hasLink) await attempt(() => this.#remover.remove(attachment.hostLink));
    await attempt(() => this.#ports(attachment)?.withdraw(attachment));
    await attempt(() => this.#options.afterRemoved?.(attachment));
    await attempt(() => {
      this.store.release(attachment);
    });
    if (failures.length === 0) return error;
    return new AggregateError([error, ...failures], `${(error as Error).message}, and could not be undone`);
  }

  #desired(): Map<string, DesiredPodLink> {
    return new Map(
      this.store.list().map((attachment) => [
        attachment.hostLink,
        {
          spec: podLinkSpec(attachment),
          openNetns: () => {
            try {
              const netns = (this.#options.openNetns ?? openNetns)(attachment.netns);
              if (netns.inode === attachment.netnsInode) return netns;
              netns.close();
            } catch (error) {
              if (!isNetError(error, 'NETNS_MISSING')) throw error;
            }
            return undefined;
          },
        },
      ]),
    );
  }

  #restored(link: PodLink): void {
    const attachment = this.store.byHostLink(link.spec.hostLink);
    if (attachment) void this.#guard(() => this.#options.beforeReady?.(attachment, link));
  }

  #gone(hostLink: string): void {
    const attachment = this.store.byHostLink(hostLink);
    if (attachment) void this.#guard(() => this.del(attachment));
  }

  #settled(hostLink: string): Promise<void> {
    const attachment = this.store.byHostLink(hostLink);
    return attachment ? this.#lock.run(attachmentKey(attachment), async () => {}) : Promise.resolve();
  }

  async #guard(work: () => Promise<void> | void): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.#options.onError?.(error);
    }
  }
}
