/**
 * One leader among several processes through a coordination.k8s.io Lease, as client-go's leaderelection:
 * a candidate does not compare its clock with the times in the Lease. It notes when it saw the record change by
 * its own monotonic clock, and takes over once the record stood still for leaseDuration. Each write carries the
 * resourceVersion it read, so of two takers one gets a conflict.
 *
 *     leader:    renew every retryPeriod; gives up when no renewal succeeded for renewDeadline
 *     candidate: looks every retryPeriod; takes over after leaseDuration without a change
 *
 * renewDeadline < leaseDuration, so the old leader has stopped before a new one begins.
 */
import { clientError } from '../errors/client.ts';
import { isNetError } from '../errors/net-error.ts';
import type { Lease } from '../model/kubernetes.ts';
import type { ApiClient } from './api-client.ts';
import { sleep } from './backoff.ts';
import type { Log } from './reflector.ts';
import { resources } from './resources.ts';

/** Options of a {@link LeaderElector}. */
export interface LeaderElectorOptions {
  client: ApiClient;
  namespace: string;
  name: string;
  /** Who we are; unique among the candidates. */
  identity: string;
  signal: AbortSignal;
  log?: Log;
  /** 15 s, 10 s and 2 s by default, as in client-go. */
  leaseDurationMs?: number;
  renewDeadlineMs?: number;
  retryPeriodMs?: number;
  /** Monotonic milliseconds, performance.now by default. */
  monotonicMs?: () => number;
  random?: () => number;
  /** Called with the holder of the Lease each time it was read or written. */
  onHolder?: (holder: string) => void;
}

/** RFC 3339 with microseconds, as metav1.MicroTime. */
export function microTime(ms: number = Date.now()): string {
  return new Date(ms).toISOString().replace('Z', '000Z');
}

export class LeaderElector {
  readonly #options: LeaderElectorOptions;
  readonly #monotonicMs: () => number;
  readonly #leaseDurationMs: number;
  readonly #renewDeadlineMs: number;
  readonly #retryPeriodMs: number;
  #observed: { record: string; atMs: number } | undefined;
  #leading = false;
  #holder = '';
  #renewedAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: LeaderElectorOptions) {
    this.#options = options;
    this.#monotonicMs = options.monotonicMs ?? (() => performance.now());
    this.#leaseDurationMs = options.leaseDurationMs ?? 15_000;
    this.#renewDeadlineMs = options.renewDeadlineMs ?? 10_000;
    this.#retryPeriodMs = options.retryPeriodMs ?? 2_000;
  }

  get isLeader(): boolean {
    return this.#leading;
  }

  /** Who holds the Lease as far as is known. */
  get holder(): string {
    return this.#holder;
  }

  /** Nobody else takes the Lease before this by our monotonic clock; counted from before the last renewal was sent. */
  get heldUntilMs(): number {
    return this.#renewedAtMs + this.#leaseDurationMs;
  }

  /**
   * Waits for leadership, runs `lead` with a signal that is aborted when leadership is lost or the elector ends,
   * and releases the Lease when `lead` returns. Resolves when the outer signal is aborted; throws
   * CLIENT_LEASE_LOST after a loss, since a process that has led must begin anew.
   */
  async run(lead: (signal: AbortSignal) => Promise<void>): Promise<void> {
    const { signal, log, name, identity } = this.#options;
    while (!(await this.#tryOnce())) {
      await this.#pause();
      if (signal.aborted) return;
    }
    this.#leading = true;
    log?.info({ lease: name, identity }, 'leading');
    const over = new AbortController();
    const stop = () => over.abort();
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) stop();
    const work = lead(over.signal).finally(stop);
    const lost = !(await this.#keep(over.signal));
    over.abort();
    try {
      await work;
    } finally {
      this.#leading = false;
      signal.removeEventListener('abort', stop);
    }
    if (lost) throw clientError('CLIENT_LEASE_LOST', { lease: name, identity, holder: this.#holder });
    await this.#release();
  }

  /** Renews until `signal`; false when the renewal failed for renewDeadline or someone else took the Lease. */
  async #keep(signal: AbortSignal): Promise<boolean> {
    let renewedAt = this.#monotonicMs();
    for (;;) {
      await sleep(this.#retryPeriodMs, signal);
      if (signal.aborted) return true;
      if (await this.#tryOnce()) renewedAt = this.#monotonicMs();
      else if (this.#holder !== this.#options.identity && this.#holder !== '') return false;
      else if (this.#monotonicMs() - renewedAt > this.#renewDeadlineMs) return false;
    }
  }

  /** Takes or renews the Lease; false when someone else holds it or the server did not take it. */
  async #tryOnce(): Promise<boolean> {
    const { client, namespace, name, identity, log } = this.#options;
    const call = { retryForMs: 0, timeoutMs: Math.max(1_000, this.#renewDeadlineMs / 2) };
    const now = microTime();
    const sentAtMs = this.#monotonicMs();
    const spec = {
      holderIdentity: identity,
      leaseDurationSeconds: Math.max(1, Math.round(this.#leaseDurationMs / 1000)),
      acquireTime: now,
      renewTime: now,
      leaseTransitions: 0,
    };
    try {
      let lease: Lease;
      try {
        lease = await client.get(resources.leases, { namespace, name }, call);
      } catch (error) {
        if (!isNetError(error, 'CLIENT_NOT_FOUND')) throw error;
        const made: Lease = {
          apiVersion: 'coordination.k8s.io/v1',
          kind: 'Lease',
          metadata: { namespace, name },
          spec,
        };
        this.#observe(await client.create(resources.leases, made, call));
        this.#renewedAtMs = sentAtMs;
        return true;
      }
      this.#observe(lease);
      const held = lease.spec?.holderIdentity ?? '';
      const mine = held === identity;
      const quietMs = this.#monotonicMs() - this.#observed!.atMs;
      if (held !== '' && !mine && quietMs < this.#leaseDurationMs) return false;
      const transitions = lease.spec?.leaseTransitions ?? 0;
      lease.spec = {
        ...spec,
        acquireTime: mine ? (lease.spec?.acquireTime ?? now) : now,
        leaseTransitions: mine ? transitions : transitions + 1,
      };
      this.#observe(await client.update(resources.leases, lease, call));
      this.#renewedAtMs = sentAtMs;
      return true;
    } catch (error) {
      log?.debug({ lease: name, error: (error as Error).message }, 'lease was not taken');
      return false;
    }
  }

  #observe(lease: Lease): void {
    const spec = lease.spec ?? {};
    this.#holder = spec.holderIdentity ?? '';
    this.#options.onHolder?.(this.#holder);
    const record = `${this.#holder} ${spec.renewTime} ${spec.acquireTime} ${spec.leaseTransitions}`;
    if (this.#observed?.record !== record) this.#observed = { record, atMs: this.#monotonicMs() };
  }

  /** Gives the Lease back so that the next leader need not wait. */
  async #release(): Promise<void> {
    const { client, namespace, name, identity } = this.#options;
    const call = { retryForMs: 0, timeoutMs: 2_000 };
    try {
      const lease = await client.get(resources.leases, { namespace, name }, call);
      if (lease.spec?.holderIdentity !== identity) return;
      lease.spec = { ...lease.spec, holderIdentity: '', leaseDurationSeconds: 1, renewTime: microTime() };
      await client.update(resources.leases, lease, call);
    } catch {
      // The Lease runs out by itself; the process is ending anyway.
    }
  }

  #pause(): Promise<void> {
    const jitter = 1 + (this.#options.random ?? Math.random)() * 0.2;
    return sleep(this.#retryPeriodMs * jitter, this.#options.signal);
  }
}
