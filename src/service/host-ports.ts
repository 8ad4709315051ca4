/**
 * hostPorts: a port of the node that leads to a port of one of its pods. They are frontends as any other, served by
 * the same engine, with one backend that is on this node: nobody's address is hidden from it.
 *
 *     hostIP       frontends
 *     none         every address of the node, loopback included
 *     0.0.0.0, ::  those of one family
 *     another      that one, if the node has it: else a pod could take anybody's address
 */
import { tryParseIp } from '../addr/index.ts';
import { serviceError } from '../errors/service.ts';
import type { ContainerPort, Pod } from '../model/kubernetes.ts';
import { familyOf } from './frontends.ts';
import type {
  EndpointFacts,
  EndpointSet,
  Family,
  FrontendPlan,
  HostPort,
  HostPortFacts,
  NodeContext,
  PortPlan,
  Rule,
  Rules,
  ServicePlan,
} from './types.ts';

/** What hostPorts are made of, whoever tells it: a Pod object, or the arguments of a CNI call. */
export interface PodPorts {
  readonly namespace: string;
  readonly name: string;
  readonly createdAt: string;
  readonly addresses: readonly string[];
  readonly ports: readonly ContainerPort[];
}

/** The hostPorts of a pod; undefined when it has none. Ports without a hostPort are left out. */
export function hostPortFacts(pod: PodPorts): HostPortFacts | undefined {
  const key = `pod/${pod.namespace}/${pod.name}`;
  const problems: Error[] = [];
  const ports: HostPort[] = [];
  for (const { hostPort, hostIP, protocol, containerPort } of pod.ports) {
    if (!hostPort) continue;
    const address = hostIP ? tryParseIp(hostIP) : undefined;
    if (hostIP && !address)
      problems.push(
        serviceError('SERVICE_HOST_PORT_ADDRESS', {
          pod: `${pod.namespace}/${pod.name}`,
          hostIP,
          port: hostPort,
          why: 'it is no IP address',
        }),
      );
    else ports.push({ protocol: protocol ?? 'TCP', hostPort, hostIP: address?.toString(), containerPort });
  }
  if (ports.length + problems.length === 0) return undefined;
  return { key, createdAt: pod.createdAt, addresses: pod.addresses, ports, problems };
}

/** The hostPorts of a Pod; undefined while it has no address, when it has ended, and when it shares the node's network. */
export function hostPortsOfPod({ metadata, spec, status }: Pod): HostPortFacts | undefined {
  if (spec.hostNetwork || status?.phase === 'Succeeded' || status?.phase === 'Failed') return undefined;
  const addresses = status?.podIPs?.map(({ ip }) => ip) ?? (status?.podIP ? [status.podIP] : []);
  if (addresses.length === 0) return undefined;
  const sidecars = (spec.initContainers ?? []).filter(({ restartPolicy }) => restartPolicy === 'Always');
  return hostPortFacts({
    namespace: metadata.namespace ?? 'default',
    name: metadata.name,
    createdAt: metadata.creationTimestamp ?? '',
    addresses: addresses.flatMap((ip) => tryParseIp(ip)?.toString() ?? []),
    ports: [...spec.containers, ...sidecars].flatMap(({ ports }) => ports ?? []),
  });
}

/** Plans the hostPorts of one pod. Pure. */
export function planHostPorts(facts: HostPortFacts, node: NodeContext): ServicePlan {
  const ports = new Map<string, PortPlan>();
  const problems = [...facts.problems];
  const taken = new Set<string>();
  // What names an address goes before what takes all that are left.
  for (const port of facts.ports.toSorted((a, b) => breadth(a) - breadth(b))) {
    const addresses = addressesOf(port, node);
    if (addresses.length === 0)
      problems.push(
        serviceError('SERVICE_HOST_PORT_ADDRESS', {
          pod: facts.key.replace(/^pod\//, ''),
          hostIP: port.hostIP ?? '',
          port: port.hostPort,
          why: 'the node has no such address',
        }),
      );
    for (const podAddress of facts.addresses) {
      const family = familyOf(podAddress);
      const frontends = addresses
        .filter((address) => familyOf(address) === family)
        .filter((address) => !taken.has(`${address}|${port.hostPort}|${port.protocol}`))
        .map((address): FrontendPlan => ({ ...frontend, address, port: port.hostPort }));
      if (frontends.length === 0) continue;
      const planned = portPlan(facts.key, port, family, podAddress, node.nodeName);
      const known = ports.get(planned.key)?.frontends ?? [];
      ports.set(planned.key, { ...planned, frontends: [...known, ...frontends] });
      for (const { address } of frontends) taken.add(`${address}|${port.hostPort}|${port.protocol}`);
    }
  }
  return {
    key: facts.key,
    ignored: undefined,
    ports: [...ports.values()],
    healthCheck: undefined,
    problems,
  };
}

const rule: Rule = { set: 'cluster', verdict: 'forward', masquerade: false };
const rules: Rules = { pod: rule, node: rule, outside: rule };
const frontend = { kind: 'HostPort', rules, shadowedBy: undefined } as const;
const only: EndpointSet = { members: [0], source: 'ready', topology: 'any' };
const nobody: EndpointSet = { members: [], source: 'none', topology: 'any' };

function portPlan(key: string, port: HostPort, family: Family, address: string, nodeName: string): PortPlan {
  // One port of the node may lead to several of a pod, by address.
  const name = `${port.hostPort}-${port.containerPort}`;
  const endpoint: EndpointFacts = {
    address,
    ready: true,
    serving: true,
    terminating: false,
    nodeName,
    forZones: [],
    forNodes: [],
  };
  return {
    key: `${key}:${name}/${port.protocol}/ip${family}`,
    service: key,
    name,
    family,
    protocol: port.protocol,
    frontends: [],
    backends: [{ endpoint, port: port.containerPort, weight: 1, inCluster: true, inLocal: false }],
    cluster: only,
    local: nobody,
    affinitySeconds: 0,
    algorithm: 'random',
    forwarding: 'snat',
    sourceRanges: [],
    nodeAllowed: true,
  };
}

function breadth({ hostIP }: HostPort): number {
  if (hostIP === undefined) return 2;
  return hostIP === '0.0.0.0' || hostIP === '::' ? 1 : 0;
}

function addressesOf({ hostIP }: HostPort, node: NodeContext): readonly string[] {
  if (hostIP === undefined) return node.localAddresses;
  if (hostIP === '0.0.0.0' || hostIP === '::')
    return node.localAddresses.filter((address) => familyOf(address) === familyOf(hostIP));
  return node.localAddresses.filter((address) => address === hostIP);
}
