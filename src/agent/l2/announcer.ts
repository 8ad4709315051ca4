/**
 * Announces load balancer addresses on this node's links, one node an address, agreed on by a Lease:
 *
 *     candidate ──Lease taken──► leader ──Lease given back or taken by another──► candidate
 *                                  │ ▲
 *                  no renewal works▼ │renewed
 *                                keeper   answers on until it hears of a successor, on the link or by the API
 *
 * With the API server away nobody can take a Lease, so the keeper keeps addresses reachable; when only this node
 * lost the API, its successor's announcement reaches it on the link, and it is silent from that frame on.
 */
import type { IpAddress, Mac } from '../../addr/index.ts';
import { type ApiClient, LeaderElector, type Log, resources, sleep } from '../../client/index.ts';
import { isNetError } from '../../errors/index.ts';
import { networkOf, Rtnl } from '../../kernel/rtnl/index.ts';
import type { ServiceFacts, ServicePlan } from '../../service/index.ts';
import { type Candidacy, type L2Link, leaseName, planAnnouncements } from './plan.ts';
import { L2Responder } from './responder.ts';

/**
 * A successor takes over at most retry + duration + retry after the last renewal: 2.5 s, of which the renewal
 * itself may be 0.4 s old when the leader dies.
 */
const TIMING = { leaseDurationMs: 1_500, renewDeadlineMs: 1_000, retryPeriodMs: 400 };
const NAMESPACE = 'kube-system';
/** An address that somebody else has is looked for again after this. */
const TAKEN_AGAIN_MS = 5_000;
/** Frames get lost, and switches forget: again after these waits, then at the last one for ever. */
const ANNOUNCE_AFTER_MS = [0, 200, 800, 2_000, 10_000];
/** How often links and their addresses are looked at, while there is something to announce. */
const LOOK_AGAIN_MS = 5_000;
/** An address of ours that somebody else claims is defended no more often than this (RFC 5227, 2.4: 10 s). */
const DEFEND_MS = 1_000;

export interface AnnouncerOptions {
  readonly client: ApiClient;
  readonly nodeName: string;
  readonly services: ReadonlyMap<string, ServiceFacts>;
  readonly plans: () => ReadonlyMap<string, ServicePlan>;
  /** Other addresses that one node has to answer for, with keys of who uses them; `trigger()` tells changes. */
  readonly others?: () => ReadonlyMap<string, readonly string[]>;
  /** What an address is to this node has changed. */
  readonly onRole?: (address: string) => void;
  /** Addresses of this node: their links are those that are announced on. */
  readonly addresses: () => readonly IpAddress[];
  readonly log: Log;
  /** Tells people about an address; `services` are keys of Services and of other users. */
  readonly onEvent?: (
    services: readonly string[],
    type: 'Normal' | 'Warning',
    reason: 'AddressAnnounced' | 'AddressConflict',
    message: string,
  ) => void;
}

/** One address as `status` shows it. */
export interface Announcement {
  readonly address: string;
  readonly services: readonly string[];
  /** Which node has the Lease as far as is known. */
  readonly holder: string;
  readonly state: 'leader' | 'keeper' | 'candidate' | 'not here';
  readonly reason?: string;
}

interface Running {
  candidacy: Candidacy;
  readonly stop: AbortController;
  readonly done: Promise<void>;
  elector: LeaderElector | undefined;
  state: 'leader' | 'keeper' | 'candidate';
  /** Who has the Lease, '' when nobody has; undefined while nobody could be asked. */
  holder: string | undefined;
  /** Who has the address on the link although no Lease says so. */
  takenBy: Mac | undefined;
  defendedAtMs: number;
}

export class Announcer {
  readonly #options: AnnouncerOptions;
  readonly #running = new Map<string, Running>();
  readonly #responders = new Map<number, L2Responder>();
  readonly #ending = new Set<Promise<void>>();
  /** Keys of Services with addresses from pools. */
  readonly #pooled = new Set<string>();
  #left: ReadonlyMap<string, string> = new Map();
  #planAsked = false;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: AnnouncerOptions) {
    this.#options = options;
  }

  /** Services changed. Costs nothing while none has an address from a pool. */
  servicesChanged(keys: ReadonlySet<string>): void {
    let any = false;
    for (const key of keys) {
      const pooled = (this.#options.services.get(key)?.pooledIPs.length ?? 0) > 0;
      if (pooled || this.#pooled.has(key)) any = true;
      if (pooled) this.#pooled.add(key);
      else this.#pooled.delete(key);
    }
    if (any) this.trigger();
  }

  /** Endpoints changed. */
  plansChanged(): void {
    if (this.#pooled.size > 0) this.trigger();
  }

  /** Something changed that the plan depends on. */
  trigger(): void {
    if (this.#planAsked || this.#closed) return;
    this.#planAsked = true;
    queueMicrotask(() => {
      this.#planAsked = false;
      if (this.#closed) return;
      try {
        this.#plan();
      } catch (error) {
        this.#options.log.warn({ error: (error as Error).message }, 'load balancer addresses');
      }
    });
  }

  list(): Announcement[] {
    const rows = [...this.#running].map(([address, { candidacy, elector, state, takenBy }]) => ({
      address,
      services: candidacy.services,
      holder: elector?.holder ?? '',
      state,
      ...(takenBy !== undefined && { reason: `${takenBy} has it on the link` }),
    }));
    const left = [...this.#left].map(([address, reason]) => ({
      address,
      services: [],
      holder: '',
      state: 'not here' as const,
      reason,
    }));
    return [...rows, ...left].sort((a, b) => (a.address < b.address ? -1 : 1));
  }

  /** What an address is to this node; `undecided` while nobody could be asked. */
  role(address: string): 'leader' | 'keeper' | 'undecided' | undefined {
    const running = this.#running.get(address);
    if (!running) return this.#left.has(address) ? undefined : 'undecided';
    if (running.state !== 'candidate') return running.state;
    if (running.takenBy !== undefined) return undefined;
    return running.holder === undefined ? 'undecided' : undefined;
  }

  /** Whether this node stands for election for an address. */
  stands(address: string): boolean {
    return this.#running.has(address);
  }

  /** Gives all Leases back and is silent. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    for (const address of [...this.#running.keys()]) this.#end(address, false);
    await Promise.all(this.#ending);
    for (const responder of this.#responders.values()) responder.close();
  }

  #plan(): void {
    const { services, plans } = this.#options;
    const others = [...(this.#options.others?.() ?? [])].flatMap(([address, keys]) =>
      keys.map((key) => ({ key, pooledIPs: [address], externalLocal: false })),
    );
    const pooled = [...[...this.#pooled].flatMap((key) => services.get(key) ?? []), ...others];
    if (pooled.length === 0 && this.#running.size === 0) {
      this.#left = new Map();
      clearTimeout(this.#timer);
      this.#timer = undefined;
      return;
    }
    const links = this.#links();
    const { candidacies, inUse, left } = planAnnouncements(pooled, plans(), links);
    const newlyLeft = [...left.keys()].filter((address) => !this.#left.has(address));
    this.#left = left;
    for (const address of newlyLeft) this.#options.onRole?.(address);
    for (const [address, { candidacy }] of this.#running) {
      const wanted = candidacies.get(address);
      if (wanted?.ifindex !== candidacy.ifindex) this.#end(address, !inUse.has(address));
    }
    for (const [address, candidacy] of candidacies) {
      const running = this.#running.get(address);
      if (running) running.candidacy = candidacy;
      else this.#begin(address, candidacy);
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.trigger(), LOOK_AGAIN_MS).unref();
  }

  /** The links of this node's addresses, each with a responder that knows its present MAC. */
  #links(): L2Link[] {
    using rtnl = Rtnl.open();
    const own = new Set(this.#options.addresses().map(String));
    const links: L2Link[] = [];
    for (const addr of rtnl.addrs()) {
      if (!own.has(String(addr.address))) continue;
      const mac = rtnl.link(addr.ifindex)?.mac;
      if (!mac) continue;
      this.#responderOf(addr.ifindex, mac);
      links.push({ ifindex: addr.ifindex, network: networkOf(addr) });
    }
    return links;
  }

  #responderOf(ifindex: number, mac: Mac): void {
    const before = this.#responders.get(ifindex);
    if (before?.mac === mac) return;
    before?.close();
    const responder = new L2Responder({
      ifindex,
      mac,
      mayAnswer: (address) => this.#mayAnswer(address),
      onClaim: (address, by) => this.#onClaim(address, by),
    });
    this.#responders.set(ifindex, responder);
    for (const { candidacy, state } of this.#running.values())
      if (candidacy.ifindex === ifindex && state !== 'candidate') {
        responder.add(candidacy.address);
        responder.announce(candidacy.address);
      }
  }

  #begin(address: string, candidacy: Candidacy): void {
    const stop = new AbortController();
    const running: Running = {
      candidacy,
      stop,
      done: Promise.resolve().then(() => this.#stand(address, running)),
      elector: undefined,
      state: 'candidate',
      holder: undefined,
      takenBy: undefined,
      defendedAtMs: 0,
    };
    this.#running.set(address, running);
  }

  /** Stands no more for an address; `gone` when no Service has it any more. */
  #end(address: string, gone: boolean): void {
    const running = this.#running.get(address);
    if (!running) return;
    this.#running.delete(address);
    const led = running.state !== 'candidate';
    this.#silence(running);
    running.stop.abort();
    const ended = running.done.then(async () => {
      if (!gone || !led) return;
      const named = { namespace: NAMESPACE, name: leaseName(running.candidacy.address) };
      await this.#options.client.delete(resources.leases, named, { retryForMs: 0 }).catch(() => {});
    });
    this.#ending.add(ended);
    void ended.finally(() => this.#ending.delete(ended));
  }

  /** One election after the other until the address is no longer ours to stand for. */
  async #stand(address: string, running: Running): Promise<void> {
    const { client, nodeName, log, onEvent, onRole } = this.#options;
    const { signal } = running.stop;
    while (!signal.aborted) {
      if (await this.#isTaken(address, running)) {
        await sleep(TAKEN_AGAIN_MS, signal);
        continue;
      }
      const elector = new LeaderElector({
        client,
        namespace: NAMESPACE,
        name: leaseName(running.candidacy.address),
        identity: nodeName,
        signal,
        ...TIMING,
        onHolder: (holder) => {
          if (holder !== nodeName) this.#silence(running);
          if (holder !== running.holder) onRole?.(address);
          running.holder = holder;
        },
      });
      running.elector = elector;
      try {
        await elector.run(async (leading) => {
          const took = running.state === 'candidate';
          running.state = 'leader';
          onRole?.(address);
          if (took) {
            log.info({ address }, 'announces an address');
            onEvent?.(
              running.candidacy.services,
              'Normal',
              'AddressAnnounced',
              `${nodeName} announces ${address}`,
            );
          }
          await this.#lead(running, leading);
        });
        await sleep(TIMING.leaseDurationMs, signal);
      } catch (error) {
        if (!isNetError(error, 'CLIENT_LEASE_LOST')) {
          log.warn({ address, error: (error as Error).message }, 'load balancer address');
          this.#silence(running);
          await sleep(TIMING.retryPeriodMs, signal);
        } else if (elector.holder === nodeName && (running.state as string) === 'leader')
          running.state = 'keeper';
        else this.#silence(running);
      }
    }
    this.#silence(running);
  }

  /**
   * Whether some host has the address that is none of ours: taking it away would cut off whoever that is, perhaps the
   * router. Only before the first election: who has led before may answer still.
   */
  async #isTaken(address: string, running: Running): Promise<boolean> {
    const { client, nodeName, log, onEvent, onRole } = this.#options;
    const { candidacy, stop } = running;
    let by: Mac | undefined;
    try {
      const named = { namespace: NAMESPACE, name: leaseName(candidacy.address) };
      await client.get(resources.leases, named, { retryForMs: 0 });
    } catch (error) {
      // Without the API nobody is elected, and that is told by the election.
      if (isNetError(error, 'CLIENT_NOT_FOUND'))
        by = await this.#responders.get(candidacy.ifindex)?.owner(candidacy.address, stop.signal);
    }
    const isNew = by !== running.takenBy;
    running.takenBy = by;
    if (!isNew) return by !== undefined;
    onRole?.(address);
    if (by === undefined) return false;
    const message = `${nodeName} does not announce ${address}: ${by} has it on the link`;
    log.warn({ address, by }, 'somebody else has the address');
    onEvent?.(candidacy.services, 'Warning', 'AddressConflict', message);
    return true;
  }

  /** Why this node does not lead for an address, when there is more to say than that another one does. */
  reason(address: string): string | undefined {
    const taken = this.#running.get(address)?.takenBy;
    return taken === undefined ? this.#left.get(address) : `${taken} has it on the link`;
  }

  /** Answers and announces until leadership is over; who keeps the address after it is decided elsewhere. */
  async #lead(running: Running, leading: AbortSignal): Promise<void> {
    const { address, ifindex } = running.candidacy;
    try {
      this.#responders.get(ifindex)?.add(address);
    } catch (error) {
      // Giving the Lease back lets a node try whose link works.
      this.#options.log.warn(
        { address: String(address), error: (error as Error).message },
        'cannot answer for it',
      );
      return this.#silence(running);
    }
    for (let at = 0; !leading.aborted; at = Math.min(at + 1, ANNOUNCE_AFTER_MS.length - 1)) {
      await sleep(ANNOUNCE_AFTER_MS[at]!, leading);
      if (!leading.aborted && running.state === 'leader') this.#responders.get(ifindex)?.announce(address);
    }
  }

  #silence(running: Running): void {
    if (running.state === 'candidate') return;
    running.state = 'candidate';
    const { address, ifindex } = running.candidacy;
    this.#responders.get(ifindex)?.remove(address);
    this.#options.log.info({ address: String(address) }, 'announces an address no more');
    this.#options.onRole?.(String(address));
  }

  /** A leader only while nobody else can have taken the Lease: it may have slept without noticing. */
  #mayAnswer(address: string): boolean {
    const running = this.#running.get(address);
    if (!running?.elector) return false;
    if (running.state === 'keeper') return true;
    return running.state === 'leader' && performance.now() < running.elector.heldUntilMs;
  }

  /** A keeper gives way to whoever claims its address; a leader says again that it is here. */
  #onClaim(address: string, mac: Mac): void {
    const running = this.#running.get(address);
    if (!running) return;
    if (running.state === 'keeper') this.#silence(running);
    const now = performance.now();
    // A leader whose Lease ran out unnoticed is silent anyway and hears from the API what became of it.
    if (running.state !== 'leader' || !this.#mayAnswer(address)) return;
    if (now - running.defendedAtMs < DEFEND_MS) return;
    running.defendedAtMs = now;
    const { candidacy } = running;
    this.#responders.get(candidacy.ifindex)?.announce(candidacy.address);
    const message = `${mac} claims ${address}, which ${this.#options.nodeName} announces`;
    this.#options.log.warn({ address, mac }, message);
    this.#options.onEvent?.(candidacy.services, 'Warning', 'AddressConflict', message);
  }
}
