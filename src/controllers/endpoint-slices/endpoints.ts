/** From one Service and its pods to endpoints: which pods, which ports, which conditions. Pure. */
import type { PodView, ServiceView } from '../views.ts';
import { shareOut } from './topology.ts';
import { type AddressType, type EndpointText, endpointText, type SlicePort } from './types.ts';

/** What is known of a node: undefined when there is no such Node. */
export type ZoneOf = (nodeName: string) => string | undefined;

/** Where pods are, and for which zone they are meant. */
export interface Zones {
  readonly zoneOf: ZoneOf;
  /** Zone by pod; undefined where topology-mode Auto gives none. */
  readonly sharedOut?: ReadonlyMap<string, string> | undefined;
}

/** Families for which a Service has slices. */
export function addressTypesOf(service: ServiceView): AddressType[] {
  const { ipFamilies, clusterIP } = service.spec;
  if (ipFamilies && ipFamilies.length > 0) return [...ipFamilies];
  if (clusterIP && clusterIP !== 'None') return [clusterIP.includes(':') ? 'IPv6' : 'IPv4'];
  return ['IPv4', 'IPv6'];
}

/**
 * Ports of the Service as this pod has them. A named targetPort is looked up in the pod, so pods may differ; a
 * name that the pod lacks leaves the port out. A headless Service may have no ports at all.
 */
export function portsOf(service: ServiceView, pod: PodView): SlicePort[] {
  const ports: SlicePort[] = [];
  for (const port of service.spec.ports ?? []) {
    const protocol = port.protocol ?? 'TCP';
    const target = port.targetPort ?? port.port;
    let number: number | undefined;
    if (typeof target === 'string' && !/^\d+$/.test(target))
      number = pod.namedPorts.find((named) => named.name === target && named.protocol === protocol)?.port;
    else number = Number(target) || port.port;
    if (number === undefined) continue;
    const made: SlicePort = { name: port.name ?? '', protocol, port: number };
    if (port.appProtocol) made.appProtocol = port.appProtocol;
    ports.push(made);
  }
  return ports;
}

/**
 * The pod as an endpoint of one family, or undefined when it is none: finished, without an address of that
 * family, or on a node that does not exist (unless the Service publishes whatever there is).
 * Conditions as in k8s.io/endpointslice utils.go: serving is the pod's readiness, ready is false while the pod
 * terminates, publishNotReadyAddresses makes it true always.
 */
export function endpointOf(
  service: ServiceView,
  pod: PodView,
  addressType: AddressType,
  zones: Zones,
): EndpointText | undefined {
  const { zoneOf, sharedOut } = zones;
  if (pod.finished) return undefined;
  const publish = service.spec.publishNotReadyAddresses === true;
  const zone = pod.nodeName === '' ? undefined : zoneOf(pod.nodeName);
  if (zone === undefined && !publish) return undefined;
  const addresses = pod.ips.filter((ip) => (ip.includes(':') ? 'IPv6' : 'IPv4') === addressType);
  if (addresses.length === 0) return undefined;
  const ready = isReady(service, pod);
  const named = pod.hostname !== '' && pod.subdomain === service.name;
  return endpointText({
    addresses,
    conditions: { ready, serving: pod.ready, terminating: pod.deleting },
    ...(named && { hostname: pod.hostname }),
    ...(pod.nodeName && { nodeName: pod.nodeName }),
    ...(zone && { zone }),
    ...(service.topologyAuto
      ? sharedHint(ready ? sharedOut?.get(pod.key) : undefined)
      : hintsOf(service, ready, pod.nodeName, zone ?? '')),
    targetRef: { kind: 'Pod', namespace: pod.namespace, name: pod.name, uid: pod.uid },
  });
}

const isReady = (service: ServiceView, pod: PodView) =>
  service.spec.publishNotReadyAddresses === true || (pod.ready && !pod.deleting);

/** For which zone each ready pod is meant, by the pod's key, where the Service wants that (`topology.ts`). */
export function sharedOutPods(
  service: ServiceView,
  pods: readonly PodView[],
  addressType: AddressType,
  { zoneOf, cpu }: { zoneOf: ZoneOf; cpu?: ReadonlyMap<string, number> | undefined },
): ReadonlyMap<string, string> | undefined {
  if (!service.topologyAuto) return undefined;
  const ready = pods.filter(
    (pod) => isReady(service, pod) && endpointOf(service, pod, addressType, { zoneOf }) !== undefined,
  );
  return shareOut(
    ready.map((pod) => ({ key: pod.key, zone: zoneOf(pod.nodeName) ?? '' })),
    cpu,
  );
}

const sharedHint = (zone: string | undefined) =>
  zone === undefined ? {} : { hints: { forZones: [{ name: zone }] } };

/**
 * Hints of `trafficDistribution`: prefer the endpoint's own zone, or its own node and then its zone. They are set
 * for ready endpoints only; proxies use them when every ready endpoint has one.
 */
function hintsOf(service: ServiceView, ready: boolean, nodeName: string, zone: string) {
  const want = service.spec.trafficDistribution;
  if (!ready || !want) return {};
  const forZones = zone ? { forZones: [{ name: zone }] } : undefined;
  if (want === 'PreferClose' || want === 'PreferSameZone') return forZones ? { hints: forZones } : {};
  if (want === 'PreferSameNode' && nodeName)
    return { hints: { ...forZones, forNodes: [{ name: nodeName }] } };
  return {};
}
