import type { Cidr } from '../addr/index.ts';
import { isNetError } from '../errors/net-error.ts';
import { RT_TABLE, RTPROT_PORTOLAN, type RtnlEvent, RtnlMonitor } from '../kernel/rtnl/index.ts';
import { cpuTimeMs, restMs } from '../reconcile/index.ts';
import type { PodLinks } from './links.ts';
import { isHostLinkWell } from './plan.ts';
import { portToChange } from './plan-bridge.ts';
import { BRIDGE_NAME, isHostLinkName, type PodLink, type PodLinkSpec } from './types.ts';

/** One link that must be there, and how to get into its pod. */
export interface DesiredPodLink {
  readonly spec: PodLinkSpec;
  /** Opens the pod's namespace if it is still the same one, undefined when it is gone. */
  readonly openNetns: () => { readonly fd: number; close(): void } | undefined;
}

export interface PodLinkReconcilerOptions {
  readonly links: PodLinks;
  /** The whole table, by name of the host link. */
  readonly desired: () => ReadonlyMap<string, DesiredPodLink>;
  /** One row of it. */
  readonly wanted: (hostLink: string) => PodLinkSpec | undefined;
  /** Networks that the node's bridge must be the gateway of; undefined when there shall be none. Default none. */
  readonly bridge?: () => readonly Cidr[] | undefined;
  /** Host links that an ADD or DEL is at work on: neither repaired nor pruned. */
  readonly busy: () => ReadonlySet<string>;
  /** A link was made anew, so its index changed: programs must be attached to it again. */
  readonly onRestored?: (link: PodLink) => void;
  /** Neither link nor namespace exist any more: the attachment can be released. */
  readonly onGone?: (hostLink: string) => void;
  readonly onError?: (error: unknown) => void;
  /** Waits this long after a notification for more of them; default 25. */
  readonly coalesceMs?: number;
  /** Looks at everything this often although nothing was notified; default 60,000. Less often when it is dear. */
  readonly resyncMs?: number;
}

/** What one pass did. */
export interface PodLinkPass {
  readonly repaired: readonly string[];
  readonly restored: readonly string[];
  readonly pruned: readonly string[];
  readonly gone: readonly string[];
  readonly errors: readonly unknown[];
}

/** Wait before a failed pass is repeated: doubled each time up to the resync interval. */
const RETRY_MS = 100;
/** The link is not as it must be, a route or a neighbour of it changed, or it is gone, as after each DEL. */
type Suspicion = 'link' | 'tables' | 'gone';
/** In the place of a name: look at everything. */
const ANY = '';
/** A pass is put off at most so often while ADDs or DELs are at work: 100 ms with the default of `coalesceMs`. */
const MOST_DEFERRALS = 3;

/**
 * Keeps the host's side of all pod links as the table says. Notifications of the kernel only say "look again": each
 * pass compares the whole table with the whole host side, so a missed one heals with the next.
 */
export class PodLinkReconciler {
  readonly #options: PodLinkReconcilerOptions;
  /** Names of the host links by index. */
  readonly #names = new Map<number, string>();
  /** Links that a notification spoke against, and what of them; a later one may speak for a link again. */
  readonly #suspects = new Map<string, Suspicion>();
  #monitor: RtnlMonitor | undefined;
  #timer: NodeJS.Timeout | undefined;
  #resync: NodeJS.Timeout | undefined;
  #failures = 0;
  #full = true;
  #deferred = 0;

  constructor(options: PodLinkReconcilerOptions) {
    this.#options = options;
  }

  /** Subscribes, then makes a first pass: nothing can change unseen in between. */
  start(): PodLinkPass {
    this.#monitor = new RtnlMonitor({
      netns: this.#options.links.netns,
      topics: ['link', 'port', 'addr', 'route', 'neigh'],
      // An ADD makes about ten changes: woken by each, reading them would take a quarter of the ADD's time.
      ignore: [this.#options.links.port],
      onEvent: (event) => this.#look(event),
      onResync: () => this.trigger(),
    });
    this.#rest(0);
    return this.#run();
  }

  /** Looks at everything after a while, settings below /proc/sys too. */
  #rest(costMs: number): void {
    this.#resync = setTimeout(
      () => {
        this.#full = true;
        const before = cpuTimeMs();
        this.#run();
        this.#rest(cpuTimeMs() - before);
      },
      restMs(this.#options.resyncMs ?? 60_000, costMs),
    );
    this.#resync.unref();
  }

  /** A link was made elsewhere: from now on changes of its routes and neighbours count. */
  watch({ ifindex, spec }: PodLink): void {
    this.#names.set(ifindex, spec.hostLink);
  }

  /** Asks for a pass soon. */
  trigger(): void {
    this.#suspect(ANY, 'tables');
  }

  #suspect(hostLink: string, what: Suspicion): void {
    this.#suspects.set(hostLink, what);
    this.#schedule();
  }

  get #isSuspicious(): boolean {
    return this.#suspects.entries().some(([name, what]) => what !== 'gone' || this.#options.wanted(name));
  }

  #schedule(delayMs = this.#options.coalesceMs ?? 25): void {
    this.#timer ??= setTimeout(() => {
      // In a burst of ADDs nearly all notifications are of our own making: wait for its end, but not for long.
      if (this.#options.busy().size > 0 && this.#deferred < MOST_DEFERRALS) {
        this.#deferred++;
        this.#timer = undefined;
        this.#schedule();
      } else if (this.#isSuspicious) this.#run();
      else {
        this.#suspects.clear();
        this.#timer = undefined;
        this.#deferred = 0;
      }
    }, delayMs);
  }

  close(): void {
    this.#monitor?.close();
    this.#monitor = undefined;
    clearTimeout(this.#timer);
    clearTimeout(this.#resync);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #run(): PodLinkPass {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#deferred = 0;
    this.#suspects.clear();
    const pass = this.reconcile(this.#full);
    this.#full = false;
    for (const error of pass.errors) this.#options.onError?.(error);
    this.#failures = pass.errors.length > 0 ? this.#failures + 1 : 0;
    if (this.#failures > 0 && this.#monitor) {
      this.#suspects.set(ANY, 'tables');
      this.#schedule(Math.min(RETRY_MS * 2 ** (this.#failures - 1), this.#options.resyncMs ?? 60_000));
    }
    return pass;
  }

  /** One pass; failures of one link do not stop the others. `full` looks at settings below /proc/sys too. */
  reconcile(full = true): PodLinkPass {
    const { links, onRestored, onGone } = this.#options;
    const pass = {
      repaired: [] as string[],
      restored: [] as string[],
      pruned: [] as string[],
      gone: [] as string[],
      errors: [] as unknown[],
    };
    const attempt = (work: () => void) => {
      try {
        work();
      } catch (error) {
        pass.errors.push(error);
      }
    };
    const busy = this.#options.busy();
    const desired = this.#options.desired();
    const networks = this.#options.bridge?.();
    // First: what is seen of the links is then seen beside the bridge as it must be.
    if (networks)
      attempt(() => {
        if (links.bridge.ensure(networks, { prune: true, sysctls: full }) > 0)
          pass.repaired.push(BRIDGE_NAME);
      });
    let observed: ReturnType<PodLinks['observe']> = new Map();
    try {
      observed = links.observe();
    } catch (error) {
      pass.errors.push(error);
      return pass;
    }
    this.#names.clear();
    for (const [name, { link }] of observed) this.#names.set(link.ifindex, name);
    for (const [hostLink, { spec, openNetns }] of desired) {
      if (busy.has(hostLink)) continue;
      const end = observed.get(hostLink);
      attempt(() => {
        if (end) {
          if (links.repairHostEnd(spec, end, full) > 0) pass.repaired.push(hostLink);
          return;
        }
        const netns = openNetns();
        if (!netns) {
          pass.gone.push(hostLink);
          return;
        }
        try {
          const link = links.ensure(spec, netns.fd);
          this.#names.set(link.ifindex, hostLink);
          pass.restored.push(hostLink);
          onRestored?.(link);
        } catch (error) {
          // The pod has replaced its interface by one of its own: its choice, and CHECK tells.
          if (!isNetError(error, 'PODLINK_IFNAME_TAKEN')) throw error;
        } finally {
          netns.close();
        }
      });
    }
    for (const hostLink of observed.keys())
      if (!desired.has(hostLink) && !busy.has(hostLink))
        attempt(() => {
          links.remove(hostLink);
          pass.pruned.push(hostLink);
        });
    if (!networks && links.bridge.ifindex !== undefined)
      attempt(() => {
        if (links.bridge.remove()) pass.pruned.push(BRIDGE_NAME);
      });
    for (const hostLink of pass.gone) attempt(() => onGone?.(hostLink));
    return pass;
  }

  /** Overlay routes are many, and links of others too: only what touches a pod link counts. */
  #look(event: RtnlEvent): void {
    if (event.topic === 'link') this.#lookAtLink(event);
    else if (event.topic === 'port') this.#lookAtPort(event);
    else if (event.topic === 'fdb' && event.deleted) this.#lookAtTables(event.fdb.ifindex);
    else if (event.topic === 'addr' && event.addr.ifindex === this.#options.links.bridge.ifindex)
      this.trigger();
    else if (event.topic === 'neigh') this.#lookAtTables(event.neigh.ifindex);
    else if (event.topic === 'route' && isPodRoute(event)) this.#lookAtTables(event.route.oif);
  }

  #lookAtTables(ifindex: number | undefined): void {
    const name = ifindex === undefined ? undefined : this.#names.get(ifindex);
    if (name !== undefined) this.#suspect(name, 'tables');
  }

  /** The kernel tells a port whenever something of it changes, its place in the bridge too. */
  #lookAtPort({ port: { name, port }, deleted }: Extract<RtnlEvent, { topic: 'port' }>): void {
    if (this.#options.wanted(name)?.kind !== 'bridge') return;
    if (deleted || portToChange(port)) this.#suspect(name, 'link');
    else if (this.#suspects.get(name) === 'link') this.#suspects.delete(name);
  }

  /** The kernel tells a link again for its carrier, its settings, its place in a bridge: mostly all is still well. */
  #lookAtLink({ link, deleted }: Extract<RtnlEvent, { topic: 'link' }>): void {
    const { name, ifindex } = link;
    const { bridge } = this.#options.links;
    // Deleted or renamed, or there again, made by who knows whom.
    if (ifindex === bridge.ifindex || name === BRIDGE_NAME) {
      if (deleted || !bridge.isWell(link)) this.trigger();
      return;
    }
    const was = this.#names.get(ifindex);
    if (isHostLinkName(name)) this.#names.set(ifindex, name);
    if (deleted) this.#names.delete(ifindex);
    // One of ours by another name, or gone.
    if (was !== undefined && (was !== name || deleted)) this.#suspect(was, deleted ? 'gone' : 'link');
    if (deleted || !isHostLinkName(name)) return;
    const wanted = this.#options.wanted(name);
    if (!wanted || !isHostLinkWell(wanted, link, bridge.ifindex)) this.#suspect(name, 'link');
    else if (this.#suspects.get(name) !== 'tables') this.#suspects.delete(name);
  }
}

/** Whether a change of a route may have to do with ours; the kernel's own for multicast come with each link. */
function isPodRoute({ deleted, route }: Extract<RtnlEvent, { topic: 'route' }>): boolean {
  if (route.table !== RT_TABLE.MAIN) return false;
  return deleted || route.protocol !== RTPROT_PORTOLAN;
}
