/** Everything of the API server that needs no socket: the registry with its strategies, and the background work. */
import type { Store } from '../store/types.ts';
import { nodeStrategy } from './allocate/node-networks.ts';
import { NodePorts, type PortRange } from './allocate/node-ports.ts';
import { ServiceAddresses } from './allocate/service-addresses.ts';
import { serviceCidrStrategy } from './allocate/service-cidr-strategy.ts';
import { serviceStrategy } from './allocate/service-strategy.ts';
import { EndpointsMirror } from './lifecycle/endpoints-mirror.ts';
import { expireEvents } from './lifecycle/event-expiry.ts';
import { GarbageCollector } from './lifecycle/garbage.ts';
import { NamespaceCollector } from './lifecycle/namespaces.ts';
import { ServiceRepair } from './lifecycle/service-repair.ts';
import { Registry } from './registry/registry.ts';
import { plainStrategies } from './registry/strategies.ts';
import type { Resource } from './resources.ts';
import { EndpointsSource } from './rest/endpoints-source.ts';
import { type Source, storeSource } from './rest/source.ts';

export type LogFunction = (
  level: 'debug' | 'info' | 'warn' | 'error',
  fields: object,
  message: string,
) => void;

export interface CoreOptions {
  readonly store: Store;
  readonly clock: () => Date;
  readonly log: LogFunction;
  /** 30000-32767 by default. */
  readonly nodePorts?: PortRange;
}

const EXPIRY_INTERVAL_MS = 60_000;
/** As the repair loops of kube-apiserver: ServiceRestConfig.repairServicesInterval. */
const REPAIR_INTERVAL_MS = 180_000;

export class Core {
  readonly registry: Registry;
  readonly #store: Store;
  readonly #log: LogFunction;
  readonly #endpoints: EndpointsSource;
  readonly #addresses: ServiceAddresses;
  readonly #nodePorts: NodePorts;
  readonly #stop: (() => unknown)[] = [];

  constructor({ store, clock, log, nodePorts: range }: CoreOptions) {
    const addresses = new ServiceAddresses(store);
    const nodePorts = new NodePorts(store, range);
    const strategies = new Map([
      ...plainStrategies,
      ['Service', serviceStrategy(addresses, nodePorts)],
      ['ServiceCIDR', serviceCidrStrategy(addresses, clock)],
      ['Node', nodeStrategy(store)],
    ]);
    this.registry = new Registry({ store, strategies, clock });
    this.#addresses = addresses;
    this.#nodePorts = nodePorts;
    this.#store = store;
    this.#log = log;
    this.#endpoints = new EndpointsSource(store);
  }

  /** Where a resource is read. */
  sourceOf(resource: Resource): Source {
    return resource.schema.kind === 'Endpoints' ? this.#endpoints : storeSource(this.#store, resource);
  }

  /** Puts addresses and ports of Services right, once now and again every few minutes. */
  async keepServicesRight(kubernetesIp: string): Promise<void> {
    const repair = new ServiceRepair({
      registry: this.registry,
      addresses: this.#addresses,
      nodePorts: this.#nodePorts,
      kubernetesIp,
      log: this.#log,
    });
    await repair.run();
    const failed = (error: unknown) =>
      this.#log('warn', { error: String(error) }, 'repair of Services failed, will be repeated');
    const timer = setInterval(() => void repair.run().catch(failed), REPAIR_INTERVAL_MS).unref();
    this.#stop.push(() => clearInterval(timer));
  }

  /** Starts collection of garbage, namespaces, old events and old revisions, and mirrors Endpoints. */
  start(compactIntervalMs: number): void {
    const failed = (what: string) => (key: string, error: unknown) =>
      this.#log('warn', { key, error: String(error) }, `${what} failed, will be repeated`);
    const garbage = new GarbageCollector(this.registry, failed('garbage collection'));
    const namespaces = new NamespaceCollector(this.registry, failed('namespace deletion'));
    const mirror = new EndpointsMirror(this.registry, failed('mirroring of Endpoints'));
    const expiry = setInterval(() => {
      expireEvents(this.registry).catch((error: unknown) => failed('event expiry')('events', error));
    }, EXPIRY_INTERVAL_MS);
    const compaction = this.#compactRegularly(compactIntervalMs);
    this.#stop.push(
      () => garbage.close(),
      () => namespaces.close(),
      () => mirror.close(),
      () => clearInterval(expiry),
      () => clearInterval(compaction),
    );
  }

  async close(): Promise<void> {
    for (const step of this.#stop) await step();
  }

  /** Each round forgets what was history already at the round before. */
  #compactRegularly(intervalMs: number): NodeJS.Timeout {
    let before = this.#store.revision;
    return setInterval(() => {
      const target = before;
      before = this.#store.revision;
      this.#store.compact(target).then(
        (rows) => rows > 0 && this.#log('debug', { revision: target, rows }, 'compacted history'),
        (error: unknown) => this.#log('error', { error: String(error) }, 'compaction failed'),
      );
    }, intervalMs);
  }
}
