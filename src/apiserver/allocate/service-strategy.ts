/**
 * Services: ClusterIPs and node ports are taken while the object is created or changed, so that the answer has them
 * and two Services can never share one.
 */
import type { FieldCause } from '../../errors/api.ts';
import type { KubeObject, Service } from '../../model/kubernetes.ts';
import { invalid } from '../registry/registry.ts';
import type { Reservation, Strategy } from '../registry/strategy.ts';
import { keyOfObject, resourceOfKind } from '../resources.ts';
import { familyOfIp, fillFamilies, type IpFamily } from './families.ts';
import { type NodePorts, nodePortsOf } from './node-ports.ts';
import { clusterIpsOf, type ServiceAddresses } from './service-addresses.ts';
import {
  dropDependents,
  keepAllocated,
  needsClusterIp,
  needsHealthCheckPort,
  needsNodePorts,
  normalizeClusterIps,
} from './service-fields.ts';

const cause = (field: string, value: unknown, why: string): FieldCause => ({
  type: 'FieldValueInvalid',
  field,
  message: `Invalid value: ${JSON.stringify(value)}: ${why}`,
});

type ServicePorts = NonNullable<Service['spec']['ports']>;

/** The node port that `port` has for another protocol, unless its own protocol uses that number elsewhere. */
function nodePortOfSamePort(ports: ServicePorts, port: ServicePorts[number]): number | undefined {
  const same = ports.find((other) => other.port === port.port && (other.nodePort ?? 0) > 0)?.nodePort;
  const used = ports.some((other) => other.nodePort === same && other.protocol === port.protocol);
  return used ? undefined : same;
}

export function serviceStrategy(addresses: ServiceAddresses, nodePorts: NodePorts): Strategy {
  const resource = resourceOfKind('Service');

  /** Families that the cluster has service networks for, the primary one first. */
  const offered = (): IpFamily[] => {
    const both = addresses.networks(4).length > 0 && addresses.networks(6).length > 0;
    const first = addresses.primaryFamily ?? (addresses.networks(4).length > 0 ? 'IPv4' : 'IPv6');
    return both ? [first, first === 'IPv4' ? 'IPv6' : 'IPv4'] : [first];
  };

  function allocateAddresses(service: Service, key: string, taken: (() => void)[]): FieldCause[] {
    const { spec } = service;
    const causes = fillFamilies(service, offered());
    if (causes.length > 0) return causes;
    if (spec.clusterIP === 'None') {
      spec.clusterIPs = ['None'];
      return [];
    }
    const ips = [...(spec.clusterIPs ?? [])];
    for (const [i, family] of (spec.ipFamilies ?? []).entries()) {
      const wanted = ips[i];
      if (wanted !== undefined && wanted !== '') {
        const mine = addresses.ownerOf(wanted) === key;
        const why =
          familyOfIp(wanted) === family
            ? addresses.take(wanted, key)
            : `expected an ${family} value as indicated by \`ipFamilies[${i}]\``;
        if (why !== undefined)
          return [cause('spec.clusterIPs', ips, `failed to allocate IP ${wanted}: ${why}`)];
        if (!mine) taken.push(() => addresses.release(wanted, key));
        continue;
      }
      const ip = addresses.takeAny(family === 'IPv4' ? 4 : 6, key);
      if (ip === undefined)
        return [cause('spec.clusterIPs', ips, `failed to allocate a serviceIP: range is full`)];
      taken.push(() => addresses.release(ip, key));
      ips[i] = ip;
    }
    spec.clusterIPs = ips;
    spec.clusterIP = ips[0]!;
    return [];
  }

  function allocatePorts(
    service: Service,
    old: Service | undefined,
    key: string,
    taken: (() => void)[],
  ): FieldCause[] {
    const { spec } = service;
    const before = new Set(old ? nodePortsOf(old) : []);
    const take = (port: number, field: string): FieldCause[] => {
      const why = nodePorts.take(port, key);
      if (why !== undefined) return [cause(field, port, why)];
      if (!before.has(port)) taken.push(() => nodePorts.release(port, key));
      return [];
    };
    const takeAny = (): number | undefined => {
      const port = nodePorts.takeAny(key);
      if (port !== undefined) taken.push(() => nodePorts.release(port, key));
      return port;
    };
    // Given ones first, so that a chosen one never takes what a later port asks for.
    for (const [i, port] of (spec.ports ?? []).entries())
      if (port.nodePort) {
        const causes = take(port.nodePort, `spec.ports[${i}].nodePort`);
        if (causes.length > 0) return causes;
      }
    if (needsNodePorts(service))
      for (const [i, port] of (spec.ports ?? []).entries()) {
        if (port.nodePort) continue;
        // One number for all protocols of a port, as DNS servers like it: alloc.go, initNodePorts.
        const chosen = nodePortOfSamePort(spec.ports ?? [], port) ?? takeAny();
        if (chosen === undefined)
          return [cause(`spec.ports[${i}].nodePort`, 0, 'failed to allocate a nodePort: range is full')];
        port.nodePort = chosen;
      }
    if (!needsHealthCheckPort(service)) return [];
    if (spec.healthCheckNodePort) return take(spec.healthCheckNodePort, 'spec.healthCheckNodePort');
    const chosen = takeAny();
    if (chosen === undefined)
      return [cause('spec.healthCheckNodePort', 0, 'failed to allocate a nodePort: range is full')];
    spec.healthCheckNodePort = chosen;
    return [];
  }

  const allocate = (object: KubeObject, before: KubeObject | undefined): Reservation => {
    const next = object as Service;
    const old = before as Service | undefined;
    const key = keyOfObject(resource, next);
    const taken: (() => void)[] = [];
    const undo = () => {
      for (const release of taken) release();
    };
    const causes = needsClusterIp(next) ? allocateAddresses(next, key, taken) : [];
    if (causes.length === 0) causes.push(...allocatePorts(next, old, key, taken));
    if (causes.length > 0) {
      undo();
      throw invalid(resource, next.metadata.name, causes);
    }
    return {
      undo,
      commit: () => {
        if (!old) return;
        const ips = new Set(clusterIpsOf(next));
        for (const ip of clusterIpsOf(old)) if (!ips.has(ip)) addresses.release(ip, key);
        const ports = new Set(nodePortsOf(next));
        for (const port of nodePortsOf(old)) if (!ports.has(port)) nodePorts.release(port, key);
      },
    };
  };

  return {
    prepareCreate: (object) => {
      const service = object as Service;
      service.status = { loadBalancer: {} };
      normalizeClusterIps(service, undefined);
    },
    prepareUpdate: (next, old) => {
      normalizeClusterIps(next as Service, old as Service);
      keepAllocated(next as Service, old as Service);
      dropDependents(next as Service, old as Service);
    },
    allocate,
    release: (object) => {
      const service = object as Service;
      const key = keyOfObject(resource, service);
      for (const ip of clusterIpsOf(service)) addresses.release(ip, key);
      for (const port of nodePortsOf(service)) nodePorts.release(port, key);
    },
  };
}
