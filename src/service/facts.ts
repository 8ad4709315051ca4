/** Kubernetes objects → what the data path acts on. Also what reflectors keep, so it is small. */
import { type Family, looseCidr, tryParseIp } from '../addr/index.ts';
import { inOnePiece } from '../codec/index.ts';
import { serviceError } from '../errors/service.ts';
import type { EndpointSlice, EndpointSliceEndpoint, Service } from '../model/kubernetes.ts';
import { keptEndpoint, keptServicePorts, keptSlicePorts, keptTime } from './kept.ts';
import type { EndpointFacts, NodeContext, ServiceFacts, SliceFacts } from './types.ts';

const PROXY_NAME_LABEL = 'service.kubernetes.io/service-proxy-name';
const HEADLESS_LABEL = 'service.kubernetes.io/headless';
const SERVICE_NAME_LABEL = 'kubernetes.io/service-name';

/** `maglev` or `random`, for connections from outside the cluster. */
export const ALGORITHM_ANNOTATION = 'portolan.dev/algorithm';
/** `snat`, `dsr`, or `dsr-ipip` and `dsr-option` for one way of it. */
export const FORWARDING_ANNOTATION = 'portolan.dev/forwarding';
/** `10.244.1.2=3,node-b=2`: weights by endpoint address or node name, 0 to 100, 1 for those not named. */
export const WEIGHTS_ANNOTATION = 'portolan.dev/weights';

/** Condition in a Service's status: its load balancer addresses came from Portolan's own pools. */
export const POOLED_CONDITION = 'portolan.dev/LoadBalancerAddress';

const FORWARDINGS = ['snat', 'dsr', 'dsr-ipip', 'dsr-option'] as const;

const nothing: readonly never[] = [];

/** What a Service says to the data path. Unusable fields are left out and told in `problems`. */
export function serviceFacts(service: Service, proxyName?: NodeContext['proxyName']): ServiceFacts {
  const { metadata, spec, status } = service;
  const key = inOnePiece(`${metadata.namespace ?? 'default'}/${metadata.name}`);
  const problems: Error[] = [];
  const addresses = (field: string, texts: readonly (string | undefined)[] | undefined): string[] => {
    const found: string[] = [];
    for (const text of texts ?? []) {
      if (!text || text === 'None') continue;
      const address = canonicalAddress(text);
      if (address === undefined)
        problems.push(
          serviceError('SERVICE_BAD_FIELD', { service: key, field, value: text, why: 'is no IP address' }),
        );
      else if (!found.includes(address)) found.push(address);
    }
    return exact(found);
  };
  const clusterIPs = addresses('spec.clusterIPs', spec.clusterIPs ?? [spec.clusterIP]);
  const isLoadBalancer = spec.type === 'LoadBalancer';
  const reachableOutside = isLoadBalancer || spec.type === 'NodePort' || (spec.externalIPs?.length ?? 0) > 0;
  const loadBalancerIPs =
    isLoadBalancer && status?.loadBalancer?.ingress
      ? addresses(
          'status.loadBalancer.ingress',
          status.loadBalancer.ingress.filter((i) => (i.ipMode ?? 'VIP') === 'VIP').map((i) => i.ip),
        )
      : nothing;
  return {
    key,
    createdAt: keptTime(metadata.creationTimestamp ?? ''),
    type: spec.type ?? 'ClusterIP',
    ignored: whyIgnored(service, proxyName, clusterIPs),
    clusterIPs,
    externalIPs: spec.externalIPs ? addresses('spec.externalIPs', spec.externalIPs) : nothing,
    loadBalancerIPs,
    pooledIPs: status?.conditions?.some(({ type }) => type === POOLED_CONDITION) ? loadBalancerIPs : nothing,
    sourceRanges: isLoadBalancer ? sourceRanges(key, spec.loadBalancerSourceRanges, problems) : nothing,
    ports: keptServicePorts(
      (spec.ports ?? []).map((port) => ({
        name: port.name ?? '',
        protocol: port.protocol ?? 'TCP',
        port: port.port,
        nodePort: isLoadBalancer || spec.type === 'NodePort' ? (port.nodePort ?? 0) : 0,
      })),
    ),
    affinitySeconds:
      spec.sessionAffinity === 'ClientIP'
        ? (spec.sessionAffinityConfig?.clientIP?.timeoutSeconds ?? 10_800)
        : 0,
    internalLocal: spec.internalTrafficPolicy === 'Local',
    externalLocal: reachableOutside && spec.externalTrafficPolicy === 'Local',
    healthCheckNodePort:
      isLoadBalancer && spec.externalTrafficPolicy === 'Local' ? (spec.healthCheckNodePort ?? 0) : 0,
    algorithm:
      choice(key, metadata.annotations, ALGORITHM_ANNOTATION, ['maglev', 'random'], problems) ?? 'maglev',
    forwarding: choice(key, metadata.annotations, FORWARDING_ANNOTATION, FORWARDINGS, problems) ?? 'snat',
    weights: weights(key, metadata.annotations?.[WEIGHTS_ANNOTATION], problems),
    problems: problems.length > 0 ? problems : nothing,
  };
}

/** What an EndpointSlice says to the data path. */
export function sliceFacts(slice: EndpointSlice): SliceFacts {
  const { metadata } = slice;
  const namespace = metadata.namespace ?? 'default';
  const labels = metadata.labels ?? {};
  const name = labels[SERVICE_NAME_LABEL];
  const usable = name && labels[HEADLESS_LABEL] === undefined && slice.addressType !== 'FQDN';
  const family: Family = slice.addressType === 'IPv6' ? 6 : 4;
  return {
    key: inOnePiece(`${namespace}/${metadata.name}`),
    service: usable ? inOnePiece(`${namespace}/${name}`) : undefined,
    family,
    ports: usable
      ? keptSlicePorts(
          (slice.ports ?? []).flatMap(({ name, protocol, port }) =>
            port ? [{ name: name ?? '', protocol: protocol ?? 'TCP', port }] : [],
          ),
        )
      : nothing,
    endpoints: usable ? endpointFacts(slice.endpoints ?? [], family) : nothing,
  };
}

function endpointFacts(endpoints: readonly EndpointSliceEndpoint[], family: Family): EndpointFacts[] {
  const facts: EndpointFacts[] = [];
  for (const endpoint of endpoints) {
    // Only the first address counts (API reference: "consumers should only use the first").
    const address = canonicalAddress(endpoint.addresses[0] ?? '', family);
    if (address === undefined) continue;
    const ready = endpoint.conditions?.ready ?? true;
    facts.push(
      keptEndpoint(address, {
        ready,
        serving: endpoint.conditions?.serving ?? ready,
        terminating: endpoint.conditions?.terminating ?? false,
        nodeName: endpoint.nodeName ?? '',
        forZones: names(endpoint.hints?.forZones),
        forNodes: names(endpoint.hints?.forNodes),
      }),
    );
  }
  return exact(facts);
}

/** An array that grew has room for 17 elements and more; what is kept by the ten thousand takes what it needs. */
function exact<T>(grown: T[]): T[] {
  return grown.slice();
}

function names(hints: readonly { name: string }[] | undefined): readonly string[] {
  return hints && hints.length > 0 ? hints.map(({ name }) => name) : nothing;
}

/** Canonical text of an address, undefined if it is none or of the other family. */
function canonicalAddress(text: string, family?: Family): string | undefined {
  const trimmed = text.trim();
  const address = tryParseIp(trimmed);
  if (!address || (family !== undefined && address.family !== family)) return undefined;
  // Dotted decimal has one way to write it, and the text that came is half the size of one put together here.
  return address.family === 4 ? trimmed : address.toString();
}

function whyIgnored(
  service: Service,
  proxyName: string | undefined,
  clusterIPs: readonly string[],
): string | undefined {
  const { spec, metadata } = service;
  if (spec.type === 'ExternalName') return 'it is an ExternalName: only a DNS alias';
  if (spec.clusterIP === 'None') return 'it is headless: DNS names its endpoints';
  const label = metadata.labels?.[PROXY_NAME_LABEL];
  if (label !== proxyName)
    return label === undefined
      ? `label ${PROXY_NAME_LABEL} is missing`
      : `label ${PROXY_NAME_LABEL} hands it to "${label}"`;
  if (metadata.labels?.[HEADLESS_LABEL] !== undefined) return `label ${HEADLESS_LABEL} is set`;
  if (clusterIPs.length === 0) return 'it has no ClusterIP yet';
  return undefined;
}

function sourceRanges(
  key: string,
  ranges: readonly string[] | undefined,
  problems: Error[],
): readonly string[] {
  if (!ranges || ranges.length === 0) return nothing;
  const found: string[] = [];
  for (const range of ranges) {
    const cidr = looseCidr(range.trim());
    if (cidr) found.push(cidr.toString());
    else
      problems.push(
        serviceError('SERVICE_BAD_FIELD', {
          service: key,
          field: 'spec.loadBalancerSourceRanges',
          value: range,
          why: 'is no CIDR',
        }),
      );
  }
  return found;
}

function choice<const T extends string>(
  service: string,
  annotations: Record<string, string> | undefined,
  field: string,
  allowed: readonly T[],
  problems: Error[],
): T | undefined {
  const value = annotations?.[field];
  if (value === undefined) return undefined;
  const found = allowed.find((one) => one === value);
  if (found === undefined)
    problems.push(
      serviceError('SERVICE_BAD_FIELD', {
        service,
        field: `annotation ${field}`,
        value,
        why: `is none of ${allowed.join(', ')}`,
      }),
    );
  return found;
}

const MAX_WEIGHT = 100;

function weights(
  service: string,
  text: string | undefined,
  problems: Error[],
): ReadonlyMap<string, number> | undefined {
  if (text === undefined) return undefined;
  const found = new Map<string, number>();
  for (const part of text.split(',')) {
    const [target, number] = part.split('=').map((side) => side.trim());
    const weight = Number(number);
    if (target && number && Number.isInteger(weight) && weight >= 0 && weight <= MAX_WEIGHT)
      found.set(canonicalAddress(target) ?? target, weight);
    else
      problems.push(
        serviceError('SERVICE_BAD_FIELD', {
          service,
          field: `annotation ${WEIGHTS_ANNOTATION}`,
          value: part,
          why: `is not "address-or-node=weight" with a weight of 0 to ${MAX_WEIGHT}`,
        }),
      );
  }
  return found;
}
