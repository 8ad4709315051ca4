/**
 * Joins tables, planner and engine:
 *
 *     reflector ─► dirty keys ─► (next microtask) ─► plan what they touch ─► engine ─► result of each Service
 *                                                          ▲                    │
 *                                                          └── again, later ◄───┘ failed
 *
 * Nothing is written before Services and EndpointSlices have been listed: a half known Service would lose its
 * endpoints for a moment.
 */
import { isNetError, serviceError } from '../errors/index.ts';
import { Durations, pauseMs } from '../reconcile/index.ts';
import type { ApplyReport, Pause, RefusedFlow, ServiceEngine } from './engine.ts';
import type { ServiceExplanation } from './explain.ts';
import { ServicePlanner } from './planner.ts';
import type {
  HostPortFacts,
  NodeContext,
  PlanDelta,
  ServiceFacts,
  ServicePlan,
  SliceFacts,
} from './types.ts';

/** A table that somebody else keeps up to date; a Reflector of src/client fits. */
export interface TableSource<P> {
  readonly items: ReadonlyMap<string, P>;
  /** Resolves when the table has been filled once. */
  readonly synced: Promise<void>;
  onChange(listener: (keys: ReadonlySet<string>) => void): void;
}

/** Where the controller tells what it does. */
export interface ServiceLog {
  info(context: object, message: string): void;
  warn(context: object, message: string): void;
}

export interface ServiceControllerOptions {
  readonly services: TableSource<ServiceFacts>;
  readonly slices: TableSource<SliceFacts>;
  /** hostPorts of this node's pods. */
  readonly hostPorts?: TableSource<HostPortFacts> | undefined;
  /** CIDRs of each ServiceCIDR object; without it `serviceRanges` counts. */
  readonly ranges?: TableSource<readonly string[]>;
  readonly serviceRanges?: readonly string[];
  readonly engine: ServiceEngine;
  readonly node: NodeContext;
  readonly log?: ServiceLog;
  /** Called when a Service can't be programmed, and with undefined when it can again. */
  readonly onResult?: (service: string, error: Error | undefined) => void;
  /** Called when new connections of a Service found no place, at most once a minute for each. */
  readonly onRefused?: (service: string, error: Error) => void;
  /** Called with the plans that changed, after they were programmed: health checks, events. */
  readonly onApplied?: (delta: PlanDelta) => void;
  /** First and longest wait before failed Services are tried again, 1,000 and 30,000 ms by default. */
  readonly retry?: { readonly firstMs?: number; readonly maxMs?: number };
  /** How often the engine looks for what others changed in the kernel; default 30,000 ms, 0 for never. */
  readonly healMs?: number;
  /** Monotonic clock in milliseconds. */
  readonly now?: () => number;
}

/** How long changes took from the first event until the kernel had them. */
export interface Timing {
  readonly count: number;
  readonly totalMs: number;
  readonly lastMs: number;
  readonly maxMs: number;
}

/** A Service for whose new connections there was no place. */
export interface Refused {
  readonly error: Error;
  /** When it was refused last, and when that was told. */
  readonly atMs: number;
  readonly toldMs: number;
}

/** For so long a refusal is told by `status`, and so often by an Event and the log. */
const REFUSED_MS = 600_000;
const REFUSED_AGAIN_MS = 60_000;

/** Changes by others that one line of the log names. */
const MOST_TOLD = 10;

export class ServiceController {
  /** How long changes took, in buckets. */
  readonly durations = new Durations();
  readonly #options: ServiceControllerOptions;
  readonly #planner: ServicePlanner;
  readonly #now: () => number;
  readonly #failed = new Map<string, Error>();
  readonly #refused = new Map<string, Refused>();
  readonly #services = new Set<string>();
  readonly #slices = new Set<string>();
  readonly #hostPorts = new Set<string>();
  #timing: Timing = { count: 0, totalMs: 0, lastMs: 0, maxMs: 0 };
  #firstEventMs: number | undefined;
  /** How many times something was told to have changed, and of these what was taken up. */
  #told = 0;
  #tried = 0;
  #running: Promise<void> | undefined;
  #everything = false;
  /** A step failed as a whole: the next try compares everything. */
  #unknown = false;
  #ready = false;
  #closed = false;
  #retryTimer: NodeJS.Timeout | undefined;
  #retryMs = 0;
  #healTimer: NodeJS.Timeout | undefined;

  constructor(options: ServiceControllerOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    const { services, slices, hostPorts } = options;
    const tables = { services: services.items, slices: slices.items };
    this.#planner = new ServicePlanner(
      hostPorts ? { ...tables, hostPorts: hostPorts.items } : tables,
      options.node,
    );
    services.onChange((keys) => this.#mark(this.#services, keys));
    slices.onChange((keys) => this.#mark(this.#slices, keys));
    hostPorts?.onChange((keys) => this.#mark(this.#hostPorts, keys));
    options.ranges?.onChange(() => this.#setRanges());
  }

  /** Plans by Service key. */
  get plans(): ReadonlyMap<string, ServicePlan> {
    return this.#planner.plans;
  }

  /** The node that is planned for. */
  get node(): NodeContext {
    return this.#planner.node;
  }

  /** Services that are not programmed, with the reason. */
  get failed(): ReadonlyMap<string, Error> {
    return this.#failed;
  }

  /** Services whose new connections found no place lately, with the last time in the clock of `now`. */
  get refused(): ReadonlyMap<string, Refused> {
    const since = this.#now() - REFUSED_MS;
    for (const [service, { atMs }] of this.#refused) if (atMs < since) this.#refused.delete(service);
    return this.#refused;
  }

  /** Why a Service does what it does; undefined when there is none of this key (`namespace/name`). */
  explain(service: string): ServiceExplanation | undefined {
    return this.#planner.explain(service, this.#failed.get(service));
  }

  /** EndpointSlices of a Service. */
  slicesOf(service: string): SliceFacts[] {
    return this.#planner.slicesOf(service);
  }

  /** The Service that has this frontend (`frontendKey`); undefined when none has. */
  ownerOf(frontend: string): string | undefined {
    return this.#planner.ownerOf(frontend);
  }

  get timing(): Timing {
    return this.#timing;
  }

  /** True once everything known at start has been programmed. */
  get ready(): boolean {
    return this.#ready;
  }

  /** Waits for the tables, programs everything, and from then on every change. Resolves after the first. */
  async start(): Promise<void> {
    const { services, slices, ranges, hostPorts, engine, log } = this.#options;
    // Flows do not wait for the API.
    engine.keepRoom?.({
      onError: (error) => log?.warn({ err: error }, 'Cannot make room for more flows'),
      onRefused: (flow) => this.#refuse(flow),
    });
    await Promise.all([services.synced, slices.synced, ranges?.synced, hostPorts?.synced]);
    if (this.#closed) return;
    this.#setRanges();
    const began = this.#now();
    this.#services.clear();
    this.#slices.clear();
    this.#hostPorts.clear();
    const delta = this.#planner.planAll();
    this.#ready = true;
    try {
      await this.#apply(delta);
      log?.info(
        { services: delta.upsert.length, ms: Math.round(this.#now() - began), failed: this.#failed.size },
        'Services are programmed',
      );
    } catch (error) {
      this.#broken(error);
    }
    this.#schedule();
    this.#healLater();
  }

  /** The node changed (zone, addresses): everything is planned again. */
  setNode(node: NodeContext): void {
    if (!this.#ready) throw new Error('setNode() before start()');
    void this.#enqueue(() => this.#apply(this.#planner.planAll(node)));
  }

  /** Compares everything with the kernel and writes what differs. */
  resync(): Promise<void> {
    return this.#enqueue(() => this.#apply(this.#planner.everything()));
  }

  /** Resolves when what was told until now has been tried, however much is told meanwhile. */
  async tried(): Promise<void> {
    const wanted = this.#told;
    while (this.#tried < wanted && this.#running) await this.#running;
  }

  /** Resolves when there is nothing left to do. */
  async settled(): Promise<void> {
    do await this.#running;
    while (this.#running);
  }

  /** Stops programming; what is programmed works on. */
  close(): void {
    this.#closed = true;
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#healTimer);
  }

  /** Lets the engine put right what others changed, and tells it. */
  async heal(pause?: Pause): Promise<readonly string[]> {
    const { engine, log } = this.#options;
    const found = (await engine.heal?.(pause)) ?? [];
    if (found.length > 0) {
      const what = found.slice(0, MOST_TOLD);
      log?.warn({ count: found.length, what }, 'somebody else changed what serves Services; it is put right');
    }
    return found;
  }

  /** Piece by piece: a node with ten thousand Services spends no more of its time on it than a small one. */
  #healLater(): void {
    const { healMs = 30_000, log } = this.#options;
    if (healMs === 0 || this.#closed) return;
    const rest = (ms: number) =>
      new Promise<boolean>((resolve) => {
        this.#healTimer = setTimeout(() => resolve(!this.#closed), ms);
        this.#healTimer.unref();
      });
    void (async () => {
      while (await rest(healMs)) {
        try {
          await this.heal((costMs) => rest(pauseMs(healMs, costMs)));
        } catch (error) {
          log?.warn({ err: error }, 'Cannot look for what others changed');
        }
      }
    })();
  }

  #mark(dirty: Set<string>, keys: ReadonlySet<string>): void {
    for (const key of keys) dirty.add(key);
    this.#told++;
    this.#firstEventMs ??= this.#now();
    if (this.#ready) this.#schedule();
  }

  #schedule(): void {
    if (this.#running || this.#closed) return;
    const dirty = this.#services.size + this.#slices.size + this.#hostPorts.size;
    if (dirty === 0 && !this.#everything) return;
    void this.#enqueue(() => this.#flush());
  }

  /** One step after the other: an engine is never asked twice at once. */
  #enqueue(step: () => Promise<void>): Promise<void> {
    const before = this.#running ?? Promise.resolve();
    const run = before.then(step).catch((error: unknown) => {
      this.#broken(error);
    });
    this.#running = run;
    void run.then(() => {
      if (this.#running !== run) return;
      this.#running = undefined;
      this.#schedule();
    });
    return run;
  }

  async #flush(): Promise<void> {
    if (this.#closed) return;
    const told = this.#told;
    const services = [...this.#services];
    const slices = [...this.#slices];
    const hostPorts = [...this.#hostPorts];
    this.#services.clear();
    this.#slices.clear();
    this.#hostPorts.clear();
    const delta = this.#planner.plan(services, slices, hostPorts);
    const everything = this.#everything;
    this.#everything = false;
    await this.#apply(everything ? this.#planner.everything() : delta);
    this.#tried = told;
  }

  async #apply(delta: PlanDelta): Promise<void> {
    const { engine, onApplied } = this.#options;
    const applied = engine.apply(delta);
    // An engine that is done at once must not wait for a turn of the queue.
    const report = applied instanceof Promise ? await applied : applied;
    this.#measure();
    this.#record(delta, report);
    onApplied?.(delta);
  }

  /** A new flow of a Service found no place. */
  #refuse({ service, store, used, limit }: RefusedFlow): void {
    const { log, onRefused } = this.#options;
    const now = this.#now();
    const before = this.#refused.get(service);
    const error = serviceError('SERVICE_FLOWS_REFUSED', { service, store, used, limit });
    const told = before && now - before.toldMs < REFUSED_AGAIN_MS;
    this.#refused.set(service, { error, atMs: now, toldMs: told ? before.toldMs : now });
    if (told) return;
    log?.warn({ service, err: error }, error.message);
    onRefused?.(service, error);
  }

  #measure(): void {
    if (this.#firstEventMs === undefined) return;
    const lastMs = this.#now() - this.#firstEventMs;
    this.#firstEventMs = undefined;
    this.durations.observe(lastMs / 1000);
    const { count, totalMs, maxMs } = this.#timing;
    this.#timing = { count: count + 1, totalMs: totalMs + lastMs, lastMs, maxMs: Math.max(maxMs, lastMs) };
  }

  #record(delta: PlanDelta, report: ApplyReport): void {
    const { onResult, log } = this.#options;
    for (const key of delta.remove) this.#failed.delete(key);
    for (const { key } of delta.upsert) {
      const error = report.failed.get(key);
      if (error) {
        if (this.#failed.get(key)?.message !== error.message) {
          log?.warn({ service: key, err: error }, error.message);
          onResult?.(key, error);
        }
        this.#failed.set(key, error);
      } else if (this.#failed.delete(key)) onResult?.(key, undefined);
    }
    if (this.#failed.size > 0) this.#retry();
    else this.#retryMs = 0;
  }

  /** A step failed as a whole, so nobody knows what it did. */
  #broken(error: unknown): void {
    this.#options.log?.warn({ err: error }, 'Cannot program Services');
    this.#unknown = true;
    this.#retry();
  }

  #retry(): void {
    if (this.#retryTimer || this.#closed) return;
    const { firstMs = 1000, maxMs = 30_000 } = this.#options.retry ?? {};
    this.#retryMs = Math.min(maxMs, this.#retryMs === 0 ? firstMs : this.#retryMs * 2);
    this.#retryTimer = setTimeout(() => {
      this.#retryTimer = undefined;
      this.#everything ||= this.#unknown;
      this.#unknown = false;
      for (const [key, error] of this.#failed) {
        // What is wrong with the object itself does not heal by time.
        if (isNetError(error, 'SERVICE_PROTOCOL_UNSUPPORTED')) continue;
        this.#services.add(key);
        if (isNetError(error, 'SERVICE_PROGRAM_FAILED')) this.#everything = true;
      }
      this.#schedule();
    }, this.#retryMs);
    this.#retryTimer.unref();
  }

  #setRanges(): void {
    const { ranges, serviceRanges = [], engine } = this.#options;
    const cidrs = ranges ? [...new Set([...ranges.items.values()].flat())].sort() : serviceRanges;
    engine.setServiceRanges(cidrs);
  }
}
