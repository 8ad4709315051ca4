import { FrontendClaims, frontendKey } from './claims.ts';
import { explainService, type ServiceExplanation } from './explain.ts';
import { planHostPorts } from './host-ports.ts';
import { planService } from './plan.ts';
import type {
  HostPortFacts,
  NodeContext,
  PlanDelta,
  ServiceFacts,
  ServicePlan,
  SliceFacts,
} from './types.ts';

const none: ReadonlyMap<string, HostPortFacts> = new Map();

/** The tables that plans are made from; a reflector's `items` fit. */
export interface ServiceTables {
  readonly services: ReadonlyMap<string, ServiceFacts>;
  readonly slices: ReadonlyMap<string, SliceFacts>;
  /** hostPorts of this node's pods, by the key of their plan. */
  readonly hostPorts?: ReadonlyMap<string, HostPortFacts>;
}

/**
 * Keeps the plan of every Service, and makes again only those that a change touches: the work is O(changed).
 * It compares tables, so a change that was told twice, or late, does no harm.
 */
export class ServicePlanner {
  readonly #tables: ServiceTables;
  readonly #plans = new Map<string, ServicePlan>();
  /** Service → keys of its slices, and back, because a slice that is gone no longer says whose it was. */
  readonly #slicesOf = new Map<string, string[]>();
  readonly #serviceOf = new Map<string, string>();
  readonly #claims = new FrontendClaims();
  #node: NodeContext;
  #started = false;

  constructor(tables: ServiceTables, node: NodeContext) {
    this.#tables = tables;
    this.#node = node;
  }

  /** Plans by Service key, ignored Services included. */
  get plans(): ReadonlyMap<string, ServicePlan> {
    return this.#plans;
  }

  get node(): NodeContext {
    return this.#node;
  }

  /** Everything; the first delta, and the one after a change of the node (zone, addresses). */
  planAll(node: NodeContext = this.#node): PlanDelta {
    this.#node = node;
    for (const key of this.#tables.slices.keys()) this.#indexSlice(key);
    const hostPorts = this.#tables.hostPorts ?? none;
    const gone = [...this.#plans.keys()].filter(
      (key) => !this.#tables.services.has(key) && !hostPorts.has(key),
    );
    const full = !this.#started;
    this.#started = true;
    const delta = this.#replan([...this.#tables.services.keys(), ...hostPorts.keys(), ...gone]);
    return { ...delta, full };
  }

  /** All plans as they are, as a full delta: for an engine that has to compare everything. */
  everything(): PlanDelta {
    return { full: true, upsert: [...this.#plans.values()], remove: [] };
  }

  /** The Service that has this frontend (`frontendKey`); undefined when none has. */
  ownerOf(frontend: string): string | undefined {
    return this.#claims.owner(frontend);
  }

  /** Why a Service does what it does; undefined when there is none of this key. */
  explain(key: string, failure?: Error): ServiceExplanation | undefined {
    const plan = this.#plans.get(key);
    return plan && explainService(plan, this.#node, { slices: this.slicesOf(key), failure });
  }

  /** Plans what a change of these Services, slices and hostPorts touches. */
  plan(services: Iterable<string>, slices: Iterable<string>, hostPorts: Iterable<string> = []): PlanDelta {
    const dirty = new Set(services);
    for (const key of hostPorts) dirty.add(key);
    for (const slice of slices) {
      const before = this.#serviceOf.get(slice);
      const after = this.#indexSlice(slice);
      if (before !== undefined) dirty.add(before);
      if (after !== undefined) dirty.add(after);
    }
    return this.#replan(dirty);
  }

  #indexSlice(key: string): string | undefined {
    const before = this.#serviceOf.get(key);
    const after = this.#tables.slices.get(key)?.service;
    if (before === after) return after;
    if (before !== undefined) {
      const left = this.#slicesOf.get(before)!.filter((slice) => slice !== key);
      if (left.length === 0) this.#slicesOf.delete(before);
      else this.#slicesOf.set(before, left);
    }
    if (after === undefined) this.#serviceOf.delete(key);
    else {
      this.#serviceOf.set(key, after);
      const keys = this.#slicesOf.get(after);
      if (keys) keys.push(key);
      else this.#slicesOf.set(after, [key]);
    }
    return after;
  }

  #replan(keys: Iterable<string>): PlanDelta {
    const changed = new Set<string>();
    const remove: string[] = [];
    for (const key of keys) {
      const facts = this.#tables.services.get(key);
      const ports = facts ? undefined : this.#tables.hostPorts?.get(key);
      const before = this.#plans.get(key);
      if (facts === undefined && ports === undefined) {
        if (before === undefined) continue;
        this.#plans.delete(key);
        remove.push(key);
        this.#release(before, undefined, changed);
        continue;
      }
      const plan = facts
        ? planService(facts, this.slicesOf(key), this.#node)
        : planHostPorts(ports!, this.#node);
      this.#plans.set(key, plan);
      changed.add(key);
      this.#claim(plan, (facts ?? ports!).createdAt, changed);
      if (before) this.#release(before, plan, changed);
    }
    const upsert: ServicePlan[] = [];
    for (const key of changed) {
      const plan = this.#plans.get(key);
      if (plan === undefined) continue;
      this.#markShadowed(plan);
      upsert.push(plan);
    }
    return { full: false, upsert, remove };
  }

  /** EndpointSlices of a Service. */
  slicesOf(service: string): SliceFacts[] {
    const found: SliceFacts[] = [];
    for (const key of this.#slicesOf.get(service) ?? []) {
      const slice = this.#tables.slices.get(key);
      if (slice) found.push(slice);
    }
    return found;
  }

  #claim(plan: ServicePlan, createdAt: string, changed: Set<string>): void {
    for (const port of plan.ports)
      for (const frontend of port.frontends) {
        const key = frontendKey(frontend, port.protocol);
        for (const other of this.#claims.claim(key, plan.key, frontend.kind, createdAt)) changed.add(other);
      }
  }

  #release(before: ServicePlan, after: ServicePlan | undefined, changed: Set<string>): void {
    const kept = new Set<string>();
    for (const port of after?.ports ?? [])
      for (const frontend of port.frontends) kept.add(frontendKey(frontend, port.protocol));
    for (const port of before.ports)
      for (const frontend of port.frontends) {
        const key = frontendKey(frontend, port.protocol);
        if (kept.has(key)) continue;
        for (const other of this.#claims.release(key, before.key)) changed.add(other);
      }
  }

  #markShadowed(plan: ServicePlan): void {
    for (const port of plan.ports)
      for (const frontend of port.frontends) {
        const owner = this.#claims.owner(frontendKey(frontend, port.protocol));
        frontend.shadowedBy = owner === plan.key ? undefined : owner;
      }
  }
}
