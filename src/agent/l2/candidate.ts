/**
 * One address that this node stands for election to announce, agreed on by a Lease:
 *
 *     candidate ──Lease taken──► leader ──Lease given back or taken by another──► candidate
 *                                  │ ▲
 *                  no renewal works▼ │renewed
 *                                keeper   answers on until it hears of a successor, on the link or by the API
 *
 * With the API server away nobody can take a Lease, so the keeper keeps addresses reachable; when only this node
 * lost the API, its successor's announcement reaches it on the link, and it is silent from that frame on.
 */
import type { Mac } from '../../addr/index.ts';
import { type ApiClient, LeaderElector, type Log, resources, sleep } from '../../client/index.ts';
import { isNetError } from '../../errors/index.ts';
import { type Candidacy, leaseName } from './plan.ts';
import type { L2Responder } from './responder.ts';

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
/** An address of ours that somebody else claims is defended no more often than this (RFC 5227, 2.4: 10 s). */
const DEFEND_MS = 1_000;

export interface CandidateOptions {
  readonly client: ApiClient;
  readonly nodeName: string;
  readonly log: Log;
  /** Who answers on a link now. */
  readonly responder: (ifindex: number) => L2Responder | undefined;
  /** What an address is to this node has changed. */
  readonly onRole?: (address: string) => void;
  /** Tells people about an address; `services` are keys of Services and of other users. */
  readonly onEvent?: (
    services: readonly string[],
    type: 'Normal' | 'Warning',
    reason: 'AddressAnnounced' | 'AddressConflict',
    message: string,
  ) => void;
}

export class Candidate {
  /** Who uses the address may change while it is stood for. */
  candidacy: Candidacy;
  readonly #address: string;
  readonly #options: CandidateOptions;
  readonly #stop = new AbortController();
  readonly #done: Promise<void>;
  #elector: LeaderElector | undefined;
  #state: 'leader' | 'keeper' | 'candidate' = 'candidate';
  /** Who has the Lease, '' when nobody has; undefined while nobody could be asked. */
  #holder: string | undefined;
  /** Who has the address on the link although no Lease says so. */
  #takenBy: Mac | undefined;
  #defendedAtMs = 0;

  /** Stands from the next turn on. */
  constructor(address: string, candidacy: Candidacy, options: CandidateOptions) {
    this.#address = address;
    this.candidacy = candidacy;
    this.#options = options;
    this.#done = Promise.resolve().then(() => this.#stand());
  }

  get state(): 'leader' | 'keeper' | 'candidate' {
    return this.#state;
  }

  /** Which node has the Lease as far as is known. */
  get holder(): string {
    return this.#elector?.holder ?? '';
  }

  /** What the address is to this node; `undecided` while nobody could be asked. */
  get role(): 'leader' | 'keeper' | 'undecided' | undefined {
    if (this.#state !== 'candidate') return this.#state;
    if (this.#takenBy !== undefined) return undefined;
    return this.#holder === undefined ? 'undecided' : undefined;
  }

  /** Why this node does not lead, when there is more to say than that another one does. */
  get reason(): string | undefined {
    return this.#takenBy === undefined ? undefined : `${this.#takenBy} has it on the link`;
  }

  /** Stands no more; `gone` when no Service has the address any more: then its Lease goes as well. */
  end(gone: boolean): Promise<void> {
    this.#silence();
    this.#stop.abort();
    return this.#done.then(() => (gone ? this.#forget() : undefined));
  }

  /**
   * Deletes the Lease, unless another node has it, who does so when it stands no more. Asked of the API and not of the
   * election: it may have ended while the Lease was being taken. Another Service may get the address meanwhile: a node
   * that takes the Lease after it was read here keeps it, else two would lead.
   */
  async #forget(): Promise<void> {
    const { client, nodeName } = this.#options;
    const named = { namespace: NAMESPACE, name: leaseName(this.candidacy.address) };
    const once = { retryForMs: 0 };
    try {
      const { metadata, spec } = await client.get(resources.leases, named, once);
      const holder = spec?.holderIdentity ?? '';
      if ((holder !== '' && holder !== nodeName) || metadata.resourceVersion === undefined) return;
      const preconditions = { resourceVersion: metadata.resourceVersion };
      await client.delete(resources.leases, named, { ...once, preconditions });
    } catch {
      // It is gone, somebody took it, or nobody can be asked: it is only a record.
    }
  }

  /** A leader only while nobody else can have taken the Lease: it may have slept without noticing. */
  mayAnswer(): boolean {
    if (!this.#elector) return false;
    if (this.#state === 'keeper') return true;
    return this.#state === 'leader' && performance.now() < this.#elector.heldUntilMs;
  }

  /** A keeper gives way to whoever claims its address; a leader says again that it is here. */
  onClaim(mac: Mac): void {
    if (this.#state === 'keeper') this.#silence();
    const now = performance.now();
    // A leader whose Lease ran out unnoticed is silent anyway and hears from the API what became of it.
    if (this.#state !== 'leader' || !this.mayAnswer()) return;
    if (now - this.#defendedAtMs < DEFEND_MS) return;
    this.#defendedAtMs = now;
    const { candidacy } = this;
    this.#options.responder(candidacy.ifindex)?.announce(candidacy.address);
    const message = `${mac} claims ${this.#address}, which ${this.#options.nodeName} announces`;
    this.#options.log.warn({ address: this.#address, mac }, message);
    this.#options.onEvent?.(candidacy.services, 'Warning', 'AddressConflict', message);
  }

  /** One election after the other until the address is no longer ours to stand for. */
  async #stand(): Promise<void> {
    const { client, nodeName, log, onEvent, onRole } = this.#options;
    const address = this.#address;
    const { signal } = this.#stop;
    while (!signal.aborted) {
      if (await this.#isTaken()) {
        await sleep(TAKEN_AGAIN_MS, signal);
        continue;
      }
      const elector = new LeaderElector({
        client,
        namespace: NAMESPACE,
        name: leaseName(this.candidacy.address),
        identity: nodeName,
        signal,
        ...TIMING,
        onHolder: (holder) => {
          if (holder !== nodeName) this.#silence();
          if (holder !== this.#holder) onRole?.(address);
          this.#holder = holder;
        },
      });
      this.#elector = elector;
      try {
        await elector.run(async (leading) => {
          const took = this.#state === 'candidate';
          this.#state = 'leader';
          onRole?.(address);
          if (took) {
            log.info({ address }, 'announces an address');
            onEvent?.(
              this.candidacy.services,
              'Normal',
              'AddressAnnounced',
              `${nodeName} announces ${address}`,
            );
          }
          await this.#lead(leading);
        });
        await sleep(TIMING.leaseDurationMs, signal);
      } catch (error) {
        if (!isNetError(error, 'CLIENT_LEASE_LOST')) {
          log.warn({ address, error: (error as Error).message }, 'load balancer address');
          this.#silence();
          await sleep(TIMING.retryPeriodMs, signal);
        } else if (elector.holder === nodeName && (this.#state as string) === 'leader')
          this.#state = 'keeper';
        else this.#silence();
      }
    }
    this.#silence();
  }

  /**
   * Whether some host has the address that is none of ours: taking it away would cut off whoever that is, perhaps the
   * router. Only before the first election: who has led before may answer still.
   */
  async #isTaken(): Promise<boolean> {
    const { nodeName, log, onEvent, onRole } = this.#options;
    const address = this.#address;
    const { candidacy } = this;
    let by: Mac | undefined;
    // Without the API nobody is elected, and that is told by the election.
    if ((await this.#hasLease()) === false) {
      by = await this.#options.responder(candidacy.ifindex)?.owner(candidacy.address, this.#stop.signal);
      // A node that was elected meanwhile answers as a stranger would.
      if (by !== undefined && (await this.#hasLease())) by = undefined;
    }
    const isNew = by !== this.#takenBy;
    this.#takenBy = by;
    if (!isNew) return by !== undefined;
    onRole?.(address);
    if (by === undefined) return false;
    const message = `${nodeName} does not announce ${address}: ${by} has it on the link`;
    log.warn({ address, by }, 'somebody else has the address');
    onEvent?.(candidacy.services, 'Warning', 'AddressConflict', message);
    return true;
  }

  /** Whether some node was elected already; undefined while nobody can be asked. */
  async #hasLease(): Promise<boolean | undefined> {
    const named = { namespace: NAMESPACE, name: leaseName(this.candidacy.address) };
    try {
      await this.#options.client.get(resources.leases, named, { retryForMs: 0 });
      return true;
    } catch (error) {
      return isNetError(error, 'CLIENT_NOT_FOUND') ? false : undefined;
    }
  }

  /** Answers and announces until leadership is over; who keeps the address after it is decided elsewhere. */
  async #lead(leading: AbortSignal): Promise<void> {
    const { address, ifindex } = this.candidacy;
    try {
      this.#options.responder(ifindex)?.add(address);
    } catch (error) {
      // Giving the Lease back lets a node try whose link works.
      this.#options.log.warn(
        { address: String(address), error: (error as Error).message },
        'cannot answer for it',
      );
      return this.#silence();
    }
    for (let at = 0; !leading.aborted; at = Math.min(at + 1, ANNOUNCE_AFTER_MS.length - 1)) {
      await sleep(ANNOUNCE_AFTER_MS[at]!, leading);
      if (!leading.aborted && this.#state === 'leader') this.#options.responder(ifindex)?.announce(address);
    }
  }

  #silence(): void {
    if (this.#state === 'candidate') return;
    this.#state = 'candidate';
    const { address, ifindex } = this.candidacy;
    this.#options.responder(ifindex)?.remove(address);
    this.#options.log.info({ address: String(address) }, 'announces an address no more');
    this.#options.onRole?.(String(address));
  }
}
