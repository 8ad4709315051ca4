/**
 * Announces load balancer addresses on this node's links, one node an address: what is to be announced where, and who
 * answers on which link. How one address finds its node is in candidate.ts.
 */
import type { IpAddress, Mac } from '../../addr/index.ts';
import { networkOf, Rtnl } from '../../kernel/rtnl/index.ts';
import type { ServiceFacts, ServicePlan } from '../../service/index.ts';
import { Candidate, type CandidateOptions } from './candidate.ts';
import { type L2Link, planAnnouncements } from './plan.ts';
import { L2Responder } from './responder.ts';

/** How often links and their addresses are looked at, while there is something to announce. */
const LOOK_AGAIN_MS = 5_000;

export interface AnnouncerOptions extends Omit<CandidateOptions, 'responder'> {
  readonly services: ReadonlyMap<string, ServiceFacts>;
  readonly plans: () => ReadonlyMap<string, ServicePlan>;
  /** Other addresses that one node has to answer for, with keys of who uses them; `trigger()` tells changes. */
  readonly others?: () => ReadonlyMap<string, readonly string[]>;
  /** Addresses of this node: their links are those that are announced on. */
  readonly addresses: () => readonly IpAddress[];
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

export class Announcer {
  readonly #options: AnnouncerOptions;
  readonly #candidateOptions: CandidateOptions;
  readonly #running = new Map<string, Candidate>();
  readonly #responders = new Map<number, L2Responder>();
  /** By address: candidates that give their Leases back. */
  readonly #ending = new Map<string, Promise<void>>();
  /** Keys of Services with addresses from pools. */
  readonly #pooled = new Set<string>();
  #left: ReadonlyMap<string, string> = new Map();
  #planAsked = false;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: AnnouncerOptions) {
    this.#options = options;
    this.#candidateOptions = { ...options, responder: (ifindex) => this.#responders.get(ifindex) };
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
    const rows = [...this.#running].map(([address, { candidacy, holder, state, reason }]) => ({
      address,
      services: candidacy.services,
      holder,
      state,
      ...(reason !== undefined && { reason }),
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
    return running.role;
  }

  /** Why this node does not lead for an address, when there is more to say than that another one does. */
  reason(address: string): string | undefined {
    return this.#running.get(address)?.reason ?? this.#left.get(address);
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
    await Promise.all(this.#ending.values());
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
      // The one before gives back the Lease in this node's name, and would give back the one that this one takes.
      else if (!this.#ending.has(address))
        this.#running.set(address, new Candidate(address, candidacy, this.#candidateOptions));
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
      mayAnswer: (address) => this.#running.get(address)?.mayAnswer() ?? false,
      onClaim: (address, by) => this.#running.get(address)?.onClaim(by),
    });
    this.#responders.set(ifindex, responder);
    for (const { candidacy, state } of this.#running.values())
      if (candidacy.ifindex === ifindex && state !== 'candidate') {
        responder.add(candidacy.address);
        responder.announce(candidacy.address);
      }
  }

  /** Stands no more for an address; `gone` when no Service has it any more. */
  #end(address: string, gone: boolean): void {
    const running = this.#running.get(address);
    if (!running) return;
    this.#running.delete(address);
    const ended = running.end(gone);
    this.#ending.set(address, ended);
    void ended.finally(() => {
      this.#ending.delete(address);
      this.trigger();
    });
  }
}
