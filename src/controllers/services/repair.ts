/**
 * Looks for Services whose addresses or node ports cannot be right: taken twice, or out of every range. The API
 * server allocates them and never makes such ones; they come from a restored backup, a range that was changed, or
 * two API servers. Nothing is taken away from a Service in use: an Event says what to do. Pure.
 * Source: reasons as in k8s.io/kubernetes/pkg/registry/core/service/{ipallocator,portallocator}/controller.
 */
import { type Cidr, parseIp, tryParseCidr, tryParseIp } from '../../addr/index.ts';
import type { ServiceCidrView, ServiceView } from '../views.ts';

export interface ServiceProblem {
  service: ServiceView;
  reason:
    | 'ClusterIPNotValid'
    | 'ClusterIPOutOfRange'
    | 'ClusterIPAlreadyAllocated'
    | 'PortAlreadyAllocated'
    | 'PortOutOfRange';
  message: string;
}

/** First and last node port. */
export interface PortRange {
  first: number;
  last: number;
}

/** Reads `30000-32767`; undefined when it is none. */
export function parsePortRange(text: string): PortRange | undefined {
  const match = /^(\d{1,5})-(\d{1,5})$/.exec(text);
  const [first, last] = [Number(match?.[1]), Number(match?.[2])];
  return match && first >= 1 && first <= last && last <= 65_535 ? { first, last } : undefined;
}

/** What is wrong with the Services; of two with one address the older one keeps it. */
export function planServiceRepair(
  services: Iterable<ServiceView>,
  serviceCidrs: Iterable<Pick<ServiceCidrView, 'cidrs'>>,
  nodePorts: PortRange,
): ServiceProblem[] {
  const networks: Cidr[] = [];
  for (const { cidrs } of serviceCidrs)
    for (const text of cidrs) {
      const network = tryParseCidr(text);
      if (network) networks.push(network);
    }
  const problems: ServiceProblem[] = [];
  const addressOwner = new Map<string, string>();
  const portOwner = new Map<string, string>();
  const sorted = [...services].sort((a, b) =>
    a.createdAt === b.createdAt ? (a.key < b.key ? -1 : 1) : a.createdAt < b.createdAt ? -1 : 1,
  );
  for (const service of sorted) {
    const { spec } = service;
    if (spec.type === 'ExternalName') continue;
    for (const text of spec.clusterIPs ?? (spec.clusterIP ? [spec.clusterIP] : [])) {
      if (text === 'None' || text === '') continue;
      if (!tryParseIp(text)) {
        problems.push({
          service,
          reason: 'ClusterIPNotValid',
          message: `Cluster IP "${text}" is no IP address; please recreate the Service`,
        });
        continue;
      }
      const address = parseIp(text);
      const owner = addressOwner.get(address.toString());
      if (owner !== undefined)
        problems.push({
          service,
          reason: 'ClusterIPAlreadyAllocated',
          message: `Cluster IP ${text} belongs to Service "${owner}" already; please recreate this Service`,
        });
      else addressOwner.set(address.toString(), service.key);
      if (networks.length > 0 && !networks.some((network) => network.contains(address)))
        problems.push({
          service,
          reason: 'ClusterIPOutOfRange',
          message: `Cluster IP ${text} is not within the service networks ${networks.join(', ')}; please recreate the Service`,
        });
    }
    for (const { protocol = 'TCP', nodePort } of spec.ports ?? []) {
      if (!nodePort) continue;
      const key = `${protocol}/${nodePort}`;
      const owner = portOwner.get(key);
      // Ports of one protocol within one Service are the API server's to check.
      if (owner !== undefined && owner !== service.key)
        problems.push({
          service,
          reason: 'PortAlreadyAllocated',
          message: `Node port ${nodePort}/${protocol} belongs to Service "${owner}" already; please recreate this Service`,
        });
      else portOwner.set(key, service.key);
      if (nodePort < nodePorts.first || nodePort > nodePorts.last)
        problems.push({
          service,
          reason: 'PortOutOfRange',
          message: `Node port ${nodePort} is not within the range ${nodePorts.first}-${nodePorts.last}; please recreate the Service`,
        });
    }
  }
  return problems;
}
