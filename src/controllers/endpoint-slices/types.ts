/** Nouns of the EndpointSlice controller. */
import type { EndpointSlice, EndpointSliceEndpoint } from '../../model/kubernetes.ts';

/** Value of the managed-by label of our slices: that of Kubernetes' own controller, whose work this is. */
export const managedBy = 'endpointslice-controller.k8s.io';
export const managedByLabel = 'endpointslice.kubernetes.io/managed-by';
export const serviceNameLabel = 'kubernetes.io/service-name';
export const headlessLabel = 'service.kubernetes.io/headless';
/** More endpoints than this open another slice; kube-controller-manager's default. */
export const defaultMaxEndpoints = 100;

export type AddressType = 'IPv4' | 'IPv6';
export type SlicePort = NonNullable<EndpointSlice['ports']>[number];

/**
 * An endpoint as canonical JSON text: fields in one order, absent ones left out. Equal endpoints are equal texts,
 * so a copy of 100,000 endpoints is 100,000 strings and comparing them needs no code.
 */
export type EndpointText = string;

/** A slice of ours as the API server has it. */
export interface SliceView {
  namespace: string;
  name: string;
  uid: string;
  version: string;
  serviceName: string;
  /** uid of the Service in the owner references, `''` without one. */
  ownerUid: string;
  addressType: string;
  /** Canonical JSON of the ports. */
  ports: string;
  labels: Readonly<Record<string, string>>;
  endpoints: readonly EndpointText[];
}

/** What a slice shall contain. */
export interface SliceContent {
  addressType: AddressType;
  ports: readonly SlicePort[];
  labels: Readonly<Record<string, string>>;
  endpoints: readonly EndpointText[];
}

/** One write to the API. */
export type SliceWrite =
  | { verb: 'create'; content: SliceContent }
  | { verb: 'update'; slice: SliceView; content: SliceContent }
  | { verb: 'delete'; slice: SliceView };

/** The canonical text of an endpoint. */
export function endpointText(endpoint: EndpointSliceEndpoint): EndpointText {
  const { conditions, hints, targetRef } = endpoint;
  return JSON.stringify({
    addresses: endpoint.addresses,
    conditions: conditions && {
      ready: conditions.ready ?? undefined,
      serving: conditions.serving ?? undefined,
      terminating: conditions.terminating ?? undefined,
    },
    hostname: endpoint.hostname || undefined,
    nodeName: endpoint.nodeName || undefined,
    zone: endpoint.zone || undefined,
    hints: hints && {
      forZones: hints.forZones?.map(({ name }) => ({ name })),
      forNodes: hints.forNodes?.map(({ name }) => ({ name })),
    },
    targetRef: targetRef && {
      kind: targetRef.kind,
      namespace: targetRef.namespace,
      name: targetRef.name,
      uid: targetRef.uid,
    },
  });
}

/** Who an endpoint is, whatever its conditions: its addresses and its pod, the first and last field of the text. */
export function endpointIdentity(text: EndpointText): string {
  const target = text.lastIndexOf('"targetRef":');
  return text.slice(0, text.indexOf(']') + 1) + (target < 0 ? '' : text.slice(target));
}

/** Canonical text of ports; the order in the Service does not matter. */
export function portsText(ports: readonly SlicePort[] | null | undefined): string {
  return JSON.stringify(
    (ports ?? [])
      .map((port) => [port.name ?? '', port.protocol ?? 'TCP', port.port ?? 0, port.appProtocol ?? ''])
      .sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1)),
  );
}

export function sliceView(slice: EndpointSlice): SliceView {
  const labels = slice.metadata.labels ?? {};
  return {
    namespace: slice.metadata.namespace ?? '',
    name: slice.metadata.name,
    uid: slice.metadata.uid ?? '',
    version: slice.metadata.resourceVersion ?? '',
    serviceName: labels[serviceNameLabel] ?? '',
    ownerUid: slice.metadata.ownerReferences?.find((owner) => owner.kind === 'Service')?.uid ?? '',
    addressType: slice.addressType,
    ports: portsText(slice.ports),
    labels,
    endpoints: (slice.endpoints ?? []).map(endpointText),
  };
}
