/** The kinds that the API server serves, with the names under which clients address them. */
import { clusterNetworkPolicy, nodeNetworkPolicy } from './types/cluster-network-policy.ts';
import { configMap, coreEvent, endpoints, event, namespace, node } from './types/core.ts';
import type { StructType } from './types/field.ts';
import {
  endpointSlice,
  endpointSliceBeta,
  lease,
  networkPolicy,
  service,
  serviceCIDR,
} from './types/network.ts';
import { pod } from './types/pod.ts';

export interface KindSchema {
  /** API group, "" for core. */
  readonly group: string;
  readonly version: string;
  readonly kind: string;
  readonly plural: string;
  readonly singular: string;
  readonly shortNames: string[];
  readonly categories: string[];
  readonly namespaced: boolean;
  /** Has a status subresource. */
  readonly hasStatus: boolean;
  /** The table of its JSON. */
  readonly type: StructType;
  /**
   * Set when the kind is another view of objects stored under this kind: events.k8s.io/v1 Event shows the same
   * objects as core/v1 Event. The view comes after what it views.
   */
  readonly viewOf?: { readonly group: string; readonly version: string; readonly kind: string };
  /** Elsewhere a custom resource: it has no protobuf form. */
  readonly custom?: true;
  /** Set for kinds that clients may look for but never find here (`absent-kinds.ts`): what to use instead. */
  readonly absent?: string;
}

/** A namespaced kind; `more` says what is otherwise. `groupVersion` as `v1` or `apps/v1`. */
export function kind(
  groupVersion: string,
  name: string,
  plural: string,
  type: StructType,
  more: Partial<KindSchema> = {},
): KindSchema {
  const [version, group = ''] = groupVersion.split('/').reverse() as [string, string?];
  return {
    group,
    version,
    kind: name,
    plural,
    singular: name.toLowerCase(),
    shortNames: [],
    categories: [],
    namespaced: true,
    hasStatus: false,
    type,
    ...more,
  };
}

export const kinds: readonly KindSchema[] = [
  kind('v1', 'ConfigMap', 'configmaps', configMap, { shortNames: ['cm'] }),
  kind('v1', 'Endpoints', 'endpoints', endpoints, { shortNames: ['ep'] }),
  kind('v1', 'Event', 'events', coreEvent, { shortNames: ['ev'] }),
  kind('v1', 'Namespace', 'namespaces', namespace, {
    shortNames: ['ns'],
    namespaced: false,
    hasStatus: true,
  }),
  kind('v1', 'Node', 'nodes', node, { shortNames: ['no'], namespaced: false, hasStatus: true }),
  kind('v1', 'Pod', 'pods', pod, { shortNames: ['po'], categories: ['all'], hasStatus: true }),
  kind('v1', 'Service', 'services', service, { shortNames: ['svc'], categories: ['all'], hasStatus: true }),
  kind('coordination.k8s.io/v1', 'Lease', 'leases', lease),
  kind('discovery.k8s.io/v1', 'EndpointSlice', 'endpointslices', endpointSlice),
  // Without the short name `ev`: clients would warn that it has two meanings.
  kind('events.k8s.io/v1', 'Event', 'events', event, {
    viewOf: { group: '', version: 'v1', kind: 'Event' },
  }),
  kind('networking.k8s.io/v1', 'NetworkPolicy', 'networkpolicies', networkPolicy, { shortNames: ['netpol'] }),
  kind('networking.k8s.io/v1', 'ServiceCIDR', 'servicecidrs', serviceCIDR, {
    namespaced: false,
    hasStatus: true,
  }),
  kind(
    'policy.networking.k8s.io/v1alpha2',
    'ClusterNetworkPolicy',
    'clusternetworkpolicies',
    clusterNetworkPolicy,
    {
      custom: true,
      shortNames: ['cnp'],
      namespaced: false,
      hasStatus: true,
    },
  ),
  kind('policy.portolan.dev/v1alpha1', 'NodeNetworkPolicy', 'nodenetworkpolicies', nodeNetworkPolicy, {
    custom: true,
    shortNames: ['nnp'],
    namespaced: false,
    hasStatus: true,
  }),
  // Versions beside the stored one, each for a kubectl that describes the kind through it: 1.20 and 1.32.
  kind('discovery.k8s.io/v1beta1', 'EndpointSlice', 'endpointslices', endpointSliceBeta, {
    viewOf: { group: 'discovery.k8s.io', version: 'v1', kind: 'EndpointSlice' },
  }),
  kind('networking.k8s.io/v1beta1', 'ServiceCIDR', 'servicecidrs', serviceCIDR, {
    namespaced: false,
    hasStatus: true,
    viewOf: { group: 'networking.k8s.io', version: 'v1', kind: 'ServiceCIDR' },
  }),
];

/** `apps/v1` or `v1`. */
export function groupVersionOf(schema: { group: string; version: string }): string {
  return schema.group === '' ? schema.version : `${schema.group}/${schema.version}`;
}

/** The kind with this apiVersion and name, if it is served. */
export function findKind(apiVersion: string, name: string): KindSchema | undefined {
  return kinds.find((k) => k.kind === name && groupVersionOf(k) === apiVersion);
}
