/**
 * Reports of policies to whoever listens. Rules report only while somebody does: the agent's own log (`--policy-log`)
 * or a follower at the socket; without them they cost nothing.
 */
import type { Log } from '../client/index.ts';
import {
  type FlowGap,
  type FlowRecord,
  type Logging,
  openFlowLog,
  type PolicyController,
} from '../policy/index.ts';

export type Report = FlowRecord | FlowGap;

const RANK: Readonly<Record<Logging, number>> = { off: 0, denied: 1, all: 2 };
const MOST_RECENT = 200;
/** How long this node's own addresses are believed. */
const ADDRESSES_MS = 5_000;

export interface PolicyLogOptions {
  readonly controller: PolicyController;
  /** What goes to the agent's log whether or not anybody follows. */
  readonly always: Logging;
  readonly log: Log;
}

export class PolicyLog {
  readonly #options: PolicyLogOptions;
  readonly #followers = new Map<symbol, { wants: Logging; send: (report: Report) => void }>();
  readonly #recent: Report[] = [];
  #reader: { close(): void } | undefined;
  #own: { addresses: ReadonlySet<string>; atMs: number } | undefined;

  constructor(options: PolicyLogOptions) {
    this.#options = options;
    const { always, log } = options;
    if (always !== 'off') this.follow(always, (report) => log.info(report, 'network policy'));
  }

  /** Calls back for each report until the returned function is called. Throws NFLOG_BUSY, KERNEL_*. */
  follow(wants: Logging, send: (report: Report) => void): () => void {
    this.#reader ??= openFlowLog({
      endpoint: (address) => this.#options.controller.endpoint(address, this.#addresses()),
      onRecord: (report) => this.#tell(report),
    });
    const id = Symbol('follower');
    this.#followers.set(id, { wants, send });
    this.#setLogging();
    return () => {
      this.#followers.delete(id);
      this.#setLogging();
      if (this.#followers.size === 0) this.close();
    };
  }

  close(): void {
    this.#reader?.close();
    this.#reader = undefined;
    this.#recent.length = 0;
  }

  #setLogging(): void {
    const wanted = [...this.#followers.values()].map(({ wants }) => wants);
    this.#options.controller.setLogging(wanted.reduce((a, b) => (RANK[b] > RANK[a] ? b : a), 'off'));
  }

  /** The last reports, oldest first; undefined while nothing is reported. */
  get recent(): readonly Report[] | undefined {
    return this.#reader && this.#recent;
  }

  #tell(report: Report): void {
    this.#recent.push(report);
    if (this.#recent.length > MOST_RECENT) this.#recent.shift();
    const needs = 'lost' in report || report.verdict === 'denied' ? RANK.denied : RANK.all;
    for (const { wants, send } of this.#followers.values()) if (RANK[wants] >= needs) send(report);
  }

  #addresses(): ReadonlySet<string> {
    const now = performance.now();
    if (!this.#own || now - this.#own.atMs > ADDRESSES_MS)
      this.#own = { addresses: this.#options.controller.nodeAddresses(), atMs: now };
    return this.#own.addresses;
  }
}
