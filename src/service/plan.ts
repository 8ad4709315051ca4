import { parseCidr, parseIp } from '../addr/index.ts';
import { inOnePiece } from '../codec/index.ts';
import { serviceError } from '../errors/index.ts';
import { chooseEndpoints, EMPTY_SET, mergeEndpoints } from './endpoint-sets.ts';
import { clusterRules, externalRules, familyOf, frontendsOf, isExternal } from './frontends.ts';
import type {
  Family,
  NodeContext,
  PortPlan,
  ServiceFacts,
  ServicePlan,
  ServicePortFacts,
  SliceFacts,
} from './types.ts';

const noPorts: readonly PortPlan[] = [];

/** Plans one Service from its slices, for one node. Pure. */
export function planService(
  service: ServiceFacts,
  slices: readonly SliceFacts[],
  node: NodeContext,
): ServicePlan {
  if (service.ignored !== undefined)
    return {
      key: service.key,
      ignored: service.ignored,
      ports: noPorts,
      // A label hands it to another proxy, which could not serve what is dropped here as nobody's address.
      ...(service.clusterIPs.length > 0 ? { notOurs: service.clusterIPs } : {}),
      healthCheck: undefined,
      problems: service.problems,
    };
  const ports: PortPlan[] = [];
  // Without a ClusterIP of a family, none of the other frontends of that family exist either.
  for (const family of familiesOf(service))
    for (const port of service.ports) ports.push(planPort(service, port, family, slices, node));
  return {
    key: service.key,
    ignored: undefined,
    ports: ports.slice(),
    healthCheck:
      service.healthCheckNodePort === 0
        ? undefined
        : { port: service.healthCheckNodePort, localReady: localReady(slices, node) },
    problems:
      service.externalIPs.length === 0 || node.externalIPs
        ? service.problems
        : [...service.problems, externalIPsOff(service)],
  };
}

function externalIPsOff({ key, externalIPs }: ServiceFacts): Error {
  return serviceError('SERVICE_EXTERNAL_IPS_OFF', { service: key, addresses: externalIPs.join(', ') });
}

function familiesOf(service: ServiceFacts): Family[] {
  return [...new Set(service.clusterIPs.map(familyOf))];
}

function planPort(
  service: ServiceFacts,
  port: ServicePortFacts,
  family: Family,
  slices: readonly SliceFacts[],
  node: NodeContext,
): PortPlan {
  const external = isExternal(service, port, node);
  const wanted = {
    cluster: external || !service.internalLocal,
    local: service.internalLocal || (external && service.externalLocal),
  };
  const sets = chooseEndpoints(mergeEndpoints(slices, port, family), wanted, node, service.weights);
  const sourceRanges =
    service.sourceRanges.length === 0
      ? service.sourceRanges
      : service.sourceRanges.filter((range) => familyOf(range) === family);
  const name = port.name === '' ? service.key : `${service.key}:${port.name}`;
  return {
    key: inOnePiece(`${name}/${port.protocol}/ip${family}`),
    service: service.key,
    name: port.name,
    family,
    protocol: port.protocol,
    frontends: frontendsOf(service, port, family, node, {
      cluster: clusterRules(service, node, sets, sets.any),
      external: externalRules(service, sets, sets.any),
    }),
    backends: sets.backends,
    cluster: wanted.cluster ? sets.cluster : EMPTY_SET,
    local: wanted.local ? sets.local : EMPTY_SET,
    affinitySeconds: service.affinitySeconds,
    algorithm: service.algorithm,
    forwarding: service.forwarding === 'dsr' ? `dsr-${node.dsrDispatch}` : service.forwarding,
    sourceRanges,
    nodeAllowed: sourceRanges.length === 0 || includesNode(sourceRanges, node),
  };
}

/** Loopback does not count: what goes to a load balancer address has another source. */
function includesNode(ranges: readonly string[], node: NodeContext): boolean {
  const cidrs = ranges.map(parseCidr);
  return node.localAddresses.some(
    (address) =>
      address !== '::1' &&
      !address.startsWith('127.') &&
      cidrs.some((cidr) => cidr.contains(parseIp(address))),
  );
}

/** Ready endpoints on this node, each address once, a pod with two of them once; terminating ones do not count, which is how a node drains. */
function localReady(slices: readonly SliceFacts[], node: NodeContext): number {
  const addresses = { 4: new Set<string>(), 6: new Set<string>() };
  for (const slice of slices)
    for (const endpoint of slice.endpoints)
      if (endpoint.ready && endpoint.nodeName === node.nodeName)
        addresses[slice.family].add(endpoint.address);
  return Math.max(addresses[4].size, addresses[6].size);
}
