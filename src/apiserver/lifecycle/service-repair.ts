/**
 * Gives Services whose address or node port is another's, or outside of the ranges, others, and frees what no
 * Service has. kube-apiserver only tells about the former (its repair controllers), and both Services stay broken
 * until a person makes one anew: here the older one keeps what it has, since clients know it, and the younger one,
 * which its clients could not reach, works again. An Event at the changed Service names both.
 */
import { isNetError } from '../../errors/net-error.ts';
import type { Event, Service } from '../../model/kubernetes.ts';
import type { NodePorts } from '../allocate/node-ports.ts';
import type { ServiceAddresses } from '../allocate/service-addresses.ts';
import { findServiceFaults, type ServiceFault } from '../allocate/service-faults.ts';
import { generateName, objectOf, timeText } from '../registry/objects.ts';
import type { Registry } from '../registry/registry.ts';
import { keyOf, keyOfObject, prefixOf, resourceOfKind } from '../resources.ts';

export interface ServiceRepairOptions {
  readonly registry: Registry;
  readonly addresses: ServiceAddresses;
  readonly nodePorts: NodePorts;
  /** The address of default/kubernetes, which is its own before that Service exists. */
  readonly kubernetesIp: string;
  readonly log: (level: 'info' | 'warn', fields: object, message: string) => void;
}

const REPORTER = 'service-repair-controller';

export class ServiceRepair {
  readonly #options: ServiceRepairOptions;
  /** What could not be repaired and was told, so that a round costs no Event while nothing changes. */
  #told = new Set<string>();

  constructor(options: ServiceRepairOptions) {
    this.#options = options;
  }

  /** Looks at all Services once. @returns how many were changed */
  async run(): Promise<number> {
    const { registry, addresses, nodePorts, kubernetesIp, log } = this.#options;
    const resource = resourceOfKind('Service');
    const entries = [...registry.store.range(prefixOf(resource, undefined))];
    const revisions = new Map(entries.map((entry) => [objectOf(entry) as Service, entry.revision]));
    const services = [...revisions.keys()];
    const found = findServiceFaults(services, {
      networks: (family) => addresses.networks(family),
      nodePorts: nodePorts.range,
      reserved: new Map([[kubernetesIp, 'default/kubernetes']]),
    });
    const keyOfName = (name: string) => keyOf(resource, ...(name.split('/', 2) as [string, string]));
    for (const [ip, name] of found.addresses) addresses.assign(ip, keyOfName(name));
    for (const [port, name] of found.nodePorts) nodePorts.assign(port, keyOfName(name));
    const freed = [...addresses.sweep(), ...nodePorts.sweep()];
    if (freed.length > 0) log('warn', { freed }, 'freed addresses and ports that no Service has');
    const faulty = Map.groupBy(found.faults, ({ service }) => service);
    const stuck = new Set<string>();
    let changed = 0;
    for (const [service, faults] of faulty) {
      const outcome = await this.#repair(service, faults, String(revisions.get(service)));
      if (outcome === undefined) continue;
      if (outcome.changed) changed++;
      for (const { reason, message, done } of outcome.events) {
        const key = `${service.metadata.uid} ${message}`;
        if (!done) stuck.add(key);
        if (!done && this.#told.has(key)) continue;
        log('warn', { service: `${service.metadata.namespace}/${service.metadata.name}`, reason }, message);
        await this.#tell(service, reason, message);
      }
    }
    this.#told = stuck;
    return changed;
  }

  /** @returns undefined when the Service went or changed meanwhile: the next round looks again */
  async #repair(service: Service, faults: readonly ServiceFault[], revision: string) {
    const { registry, addresses, nodePorts } = this.#options;
    const resource = resourceOfKind('Service');
    const key = keyOfObject(resource, service);
    const { namespace, name } = service.metadata;
    let undo: (() => void)[] = [];
    let events: { reason: string; message: string; done: boolean }[] = [];
    const giveBack = () => {
      for (const release of undo) release();
      undo = [];
    };
    const replace = (spec: Service['spec'], fault: ServiceFault) => {
      const none = (what: string) =>
        events.push({ reason: fault.reason, message: `${fault.text}, and no ${what} is free`, done: false });
      const got = (what: string, next: string | number) =>
        events.push({
          reason: fault.reason,
          message: `${fault.text}; this Service has ${what} ${next} now`,
          done: true,
        });
      if (typeof fault.at === 'object' && 'clusterIp' in fault.at) {
        const index = fault.at.clusterIp;
        const family = spec.ipFamilies?.[index] ?? (String(fault.value).includes(':') ? 'IPv6' : 'IPv4');
        const ip = addresses.takeAny(family === 'IPv4' ? 4 : 6, key);
        if (ip === undefined) return none(`${family} address`);
        undo.push(() => addresses.release(ip, key));
        spec.clusterIPs = (spec.clusterIPs ?? [spec.clusterIP ?? '']).with(index, ip);
        if (index === 0) spec.clusterIP = ip;
        return got('Cluster IP', ip);
      }
      const port = nodePorts.takeAny(key);
      if (port === undefined) return none('node port');
      undo.push(() => nodePorts.release(port, key));
      if (fault.at === 'healthCheckNodePort') spec.healthCheckNodePort = port;
      else spec.ports![fault.at.port]!.nodePort = port;
      return got('node port', port);
    };
    try {
      const { object } = await registry.update(
        resource,
        namespace,
        name,
        (current) => {
          giveBack();
          events = [];
          const next = current as Service;
          // The faults were found in this revision; the update fails with a conflict when it is not the newest.
          next.metadata.resourceVersion = revision;
          for (const fault of faults) replace(next.spec, fault);
          return { next };
        },
        { subresource: 'repair' },
      );
      return { changed: object.metadata.resourceVersion !== revision, events };
    } catch (error) {
      giveBack();
      if (isNetError(error, 'API_CONFLICT') || isNetError(error, 'API_NOT_FOUND')) return undefined;
      throw error;
    }
  }

  async #tell(service: Service, reason: string, message: string): Promise<void> {
    const { registry, log } = this.#options;
    const { namespace, name, uid } = service.metadata;
    const now = registry.clock();
    const at = timeText(now);
    const event: Event = {
      apiVersion: 'v1',
      kind: 'Event',
      metadata: { name: generateName(`${name}.`), namespace: namespace! },
      involvedObject: { apiVersion: 'v1', kind: 'Service', namespace: namespace!, name, uid: uid! },
      type: 'Warning',
      reason,
      message,
      source: { component: REPORTER },
      firstTimestamp: at,
      lastTimestamp: at,
      count: 1,
      reportingComponent: REPORTER,
      reportingInstance: '',
    };
    try {
      await registry.create(resourceOfKind('Event'), namespace, event, {});
    } catch (error) {
      log('warn', { error: String(error) }, 'an event could not be written');
    }
  }
}
