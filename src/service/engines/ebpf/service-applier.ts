/**
 * Changes of Services, written into the maps: each port of a plan is staged in the writer, and flushed. A Service that
 * fails holds up no other one, and what it had stays until it can be written.
 */
import { isNetError, serviceError } from '../../../errors/index.ts';
import type { ApplyReport } from '../../engine.ts';
import type { PlanDelta, PortPlan, ServicePlan } from '../../types.ts';
import type { GoneBackend } from './backend-store.ts';
import { LINE_ENTRIES, PROTOCOL_NUMBER } from './layout.ts';
import type { EngineObjects, EngineSizes } from './objects.ts';
import { Writer } from './writer.ts';

export interface ServiceApplierOptions {
  /** Name of the Node object. */
  readonly nodeName: string;
  readonly sizes: EngineSizes;
  /** Monotonic clock in milliseconds. */
  readonly now: () => number;
}

/** What was applied, and which backends nobody has any more. */
export interface Applied extends ApplyReport {
  readonly gone: readonly GoneBackend[];
}

/** Frontends; the map's buckets grow with what is in use. */
const FRONTENDS_LIMIT = 1 << 24;

/** How many Services are staged before they are written, so that a first sync does not hold everything twice. */
const FLUSH_EVERY = 256;

export class ServiceApplier {
  readonly #objects: EngineObjects;
  readonly #options: ServiceApplierOptions;
  #writer: Writer;
  /** Keys of the ports that each Service has now. */
  readonly #portsOf = new Map<string, readonly string[]>();

  constructor(objects: EngineObjects, options: ServiceApplierOptions) {
    this.#objects = objects;
    this.#options = options;
    this.#writer = this.#newWriter();
  }

  /** Another one after a failed write: what the maps hold is read anew then. */
  get writer(): Writer {
    return this.#writer;
  }

  /** Throws SERVICE_PROGRAM_FAILED when Services could not be taken away and no other one is to blame. */
  apply(delta: PlanDelta): Applied {
    let broken: Error | undefined;
    const failed = new Map<string, Error>();
    const gone: GoneBackend[] = [];
    let changes = 0;
    let staged: string[] = [];
    const flush = () => {
      try {
        const done = this.#writer.flush();
        changes += done.changes;
        for (const backend of done.gone) gone.push(backend);
      } catch (cause) {
        const failure = (service: string) =>
          serviceError('SERVICE_PROGRAM_FAILED', { service, step: 'writing maps' }, cause);
        for (const service of staged) failed.set(service, failure(service));
        if (staged.length === 0) broken = failure(delta.remove.join(', '));
        // What was written is unknown: read it back, and let the next full delta compare.
        this.#writer.close();
        this.#writer = this.#newWriter();
        this.#portsOf.clear();
      }
      staged = [];
    };
    if (delta.full) this.#reserve(delta.upsert);
    for (const plan of delta.upsert) {
      const error = this.#putService(plan);
      if (error) failed.set(plan.key, error);
      staged.push(plan.key);
      // A frontend may pass from one Service to another, which must be one flush; only a first sync is cut.
      if (delta.full && staged.length >= FLUSH_EVERY) flush();
    }
    // After all that are served: an address of both stays ours, and is not written twice.
    for (const plan of delta.upsert) {
      const error = this.#passService(plan);
      if (error && !failed.has(plan.key)) failed.set(plan.key, error);
    }
    for (const key of delta.remove) this.#dropService(key);
    if (delta.full) {
      const wanted = new Set(delta.upsert.map(({ key }) => key));
      for (const key of [...this.#portsOf.keys(), ...this.#writer.notOurs])
        if (!wanted.has(key)) this.#dropService(key);
      // What the kernel refused is served as it was, until it can be written.
      const refused = [...failed.values()].some((error) => isNetError(error, 'SERVICE_PROGRAM_FAILED'));
      if (!refused) this.#writer.dropLeftovers();
    }
    flush();
    // Without anything that failed nobody would try again.
    if (broken && failed.size === 0) throw broken;
    return { changes, failed, gone };
  }

  close(): void {
    this.#writer.close();
  }

  #newWriter(): Writer {
    const { maps, types } = this.#objects;
    const { sizes, nodeName, now } = this.#options;
    return new Writer(
      {
        frontends: maps.lb_frontends,
        tables: maps.lb_tables,
        backends: maps.lb_backends,
        ranges: maps.lb_source_ranges,
        backendCounts: maps.lb_backend_counts,
        serviceCounts: maps.lb_service_counts,
      },
      {
        nodeName,
        frontends: sizes.frontends ?? 16_384,
        frontendsLimit: sizes.frontendsLimit ?? FRONTENDS_LIMIT,
        backendsLimit: sizes.backendsLimit ?? 1 << 24,
        linesLimit: sizes.linesLimit ?? 1 << 24,
        counterBytes: sizes.counterBytes ?? 64 << 20,
        now,
        types,
      },
    );
  }

  #reserve(plans: readonly ServicePlan[]): void {
    const more = { frontends: 0, lines: 0, backends: 0 };
    for (const plan of plans) {
      if (this.#portsOf.has(plan.key)) continue;
      for (const port of plan.ports) {
        more.frontends += port.frontends.length + 1;
        more.lines += Math.ceil(port.backends.length / LINE_ENTRIES);
        more.backends += port.backends.length;
      }
    }
    const usage = this.#writer.usage();
    // What an earlier process left will mostly be found again.
    this.#writer.reserve({
      frontends: Math.max(0, more.frontends - usage.frontends.used),
      lines: Math.max(0, more.lines - usage.lines.used),
      backends: Math.max(0, more.backends - usage.backends.used),
    });
  }

  /** Stages all ports of a Service. One that fails does not hold up the others. */
  #putService(plan: ServicePlan): Error | undefined {
    let failure: Error | undefined;
    const before = this.#portsOf.get(plan.key) ?? [];
    const now: string[] = [];
    for (const port of plan.ports) {
      try {
        this.#putPort(port);
        now.push(port.key);
      } catch (error) {
        failure ??= refusal(plan.key, error);
        if (before.includes(port.key)) now.push(port.key);
      }
    }
    for (const key of before) if (!now.includes(key)) this.#writer.drop(key);
    if (now.length > 0) this.#portsOf.set(plan.key, now.slice());
    else this.#portsOf.delete(plan.key);
    return failure;
  }

  /** Stages ClusterIPs that another proxy serves. */
  #passService({ key, notOurs = [] }: ServicePlan): Error | undefined {
    try {
      this.#writer.pass(key, notOurs);
      return undefined;
    } catch (error) {
      return refusal(key, error);
    }
  }

  #putPort(port: PortPlan): void {
    if (PROTOCOL_NUMBER[port.protocol] === undefined)
      throw serviceError('SERVICE_PROTOCOL_UNSUPPORTED', {
        service: port.service,
        protocol: port.protocol,
        engine: 'ebpf',
      });
    this.#writer.put(port);
  }

  #dropService(key: string): void {
    for (const port of this.#portsOf.get(key) ?? []) this.#writer.drop(port);
    this.#portsOf.delete(key);
    this.#writer.pass(key, []);
  }
}

/** What a Service that is not programmed is told: it does not fit, or the kernel failed and it is tried again. */
function refusal(service: string, cause: unknown): Error {
  return isNetError(cause, 'SERVICE_MAP_FULL') || isNetError(cause, 'SERVICE_PROTOCOL_UNSUPPORTED')
    ? cause
    : serviceError('SERVICE_PROGRAM_FAILED', { service, step: 'making maps' }, cause);
}
