/**
 * Looks for Services whose addresses or node ports cannot be right: taken twice, or out of every range. The API
 * server never makes such ones; they come from a restored backup, from a range that was changed, or from two API
 * servers on copies of one store. Pure; `lifecycle/service-repair.ts` gives these Services others.
 * Source: reasons as in k8s.io/kubernetes/pkg/registry/core/service/{ipallocator,portallocator}/controller.
 */
import { type Cidr, type Family, tryParseIp } from '../../addr/index.ts';
import type { Service } from '../../model/kubernetes.ts';
import type { PortRange } from './node-ports.ts';
import { isUsable } from './service-addresses.ts';

export interface ServiceFault {
  readonly service: Service;
  readonly reason:
    | 'ClusterIPNotValid'
    | 'ClusterIPOutOfRange'
    | 'ClusterIPAlreadyAllocated'
    | 'PortAlreadyAllocated'
    | 'PortOutOfRange';
  /** Where in the Service: an index of clusterIPs, an index of ports, or the health check. */
  readonly at: { readonly clusterIp: number } | { readonly port: number } | 'healthCheckNodePort';
  readonly value: string | number;
  /** What is wrong, as a sentence without its end. */
  readonly text: string;
}

export interface Allocations {
  readonly faults: readonly ServiceFault[];
  /** Address in canonical text to `namespace/name` of the Service that has it rightly. */
  readonly addresses: ReadonlyMap<string, string>;
  /** The same of node ports. */
  readonly nodePorts: ReadonlyMap<number, string>;
}

export interface AllocationRules {
  readonly networks: (family: Family) => readonly Cidr[];
  readonly nodePorts: PortRange;
  /** Addresses that belong to a Service whatever its age: those of default/kubernetes. */
  readonly reserved: ReadonlyMap<string, string>;
}

const nameOf = ({ metadata }: Service) => `${metadata.namespace}/${metadata.name}`;

/** Who has what; of two Services with one address or port the older one keeps it, since its clients were first. */
export function findServiceFaults(services: Iterable<Service>, rules: AllocationRules): Allocations {
  const faults: ServiceFault[] = [];
  const addresses = new Map(rules.reserved);
  const nodePorts = new Map<number, string>();
  /** By protocol and number: TCP and UDP of one number serve side by side. */
  const served = new Map<string, string>();
  const age = ({ metadata }: Service) => metadata.creationTimestamp ?? '';
  const sorted = [...services].sort((a, b) => compare(age(a), age(b)) || compare(nameOf(a), nameOf(b)));
  for (const service of sorted) {
    const { spec } = service;
    if (spec.type === 'ExternalName') continue;
    const name = nameOf(service);
    const told = (
      at: ServiceFault['at'],
      reason: ServiceFault['reason'],
      value: string | number,
      text: string,
    ) => faults.push({ service, at, reason, value, text });
    for (const [clusterIp, text] of (spec.clusterIPs ?? (spec.clusterIP ? [spec.clusterIP] : [])).entries()) {
      if (text === 'None' || text === '') continue;
      const address = tryParseIp(text);
      if (!address) {
        told({ clusterIp }, 'ClusterIPNotValid', text, `Cluster IP "${text}" is no IP address`);
        continue;
      }
      const owner = addresses.get(address.toString());
      const networks = rules.networks(address.family);
      if (owner !== undefined && owner !== name)
        told(
          { clusterIp },
          'ClusterIPAlreadyAllocated',
          text,
          `Cluster IP ${text} belongs to Service "${owner}"`,
        );
      else if (!isUsable(address, networks))
        told(
          { clusterIp },
          'ClusterIPOutOfRange',
          text,
          `Cluster IP ${text} is not within the service networks ${networks.join(', ')}`,
        );
      else addresses.set(address.toString(), name);
    }
    const port = (at: ServiceFault['at'], protocol: string, value: number) => {
      const key = `${protocol}/${value}`;
      const owner = served.get(key);
      const { first, last } = rules.nodePorts;
      // Ports of one protocol within one Service are the validation's to check.
      if (owner !== undefined && owner !== name)
        told(
          at,
          'PortAlreadyAllocated',
          value,
          `Node port ${value}/${protocol} belongs to Service "${owner}"`,
        );
      else if (value < first || value > last)
        told(at, 'PortOutOfRange', value, `Node port ${value} is not within the range ${first}-${last}`);
      else {
        served.set(key, name);
        if (!nodePorts.has(value)) nodePorts.set(value, name);
      }
    };
    for (const [index, { protocol = 'TCP', nodePort }] of (spec.ports ?? []).entries())
      if (nodePort) port({ port: index }, protocol, nodePort);
    if (spec.healthCheckNodePort) port('healthCheckNodePort', 'TCP', spec.healthCheckNodePort);
  }
  return { faults, addresses, nodePorts };
}

const compare = (a: string, b: string) => (a === b ? 0 : a < b ? -1 : 1);
