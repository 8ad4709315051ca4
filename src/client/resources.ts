/** The kinds that Portolan speaks about with an API server: where each is found and how it is called. */
import { inOnePiece } from '../codec/index.ts';
import type { ClusterNetworkPolicy } from '../model/cluster-network-policy.ts';
import type {
  ConfigMap,
  EndpointSlice,
  Endpoints,
  Event,
  KubeObject,
  Lease,
  Namespace,
  NetworkPolicy,
  Node,
  Pod,
  Service,
  ServiceCIDR,
} from '../model/kubernetes.ts';
import type { NodeNetworkPolicy } from '../model/node-network-policy.ts';

/** One kind as the REST API knows it; `T` is the type of its objects. */
export interface Resource<T extends KubeObject> {
  /** API group, `''` for core. */
  readonly group: string;
  readonly version: string;
  readonly kind: string;
  /** Name in the path, e.g. `endpointslices`. */
  readonly plural: string;
  readonly namespaced: boolean;
  /** Never set; carries `T` for type inference. */
  readonly object?: T;
}

function resource<T extends KubeObject>(
  group: string,
  version: string,
  kind: string,
  plural: string,
  namespaced = true,
): Resource<T> {
  return { group, version, kind, plural, namespaced };
}

/** Every kind served by the embedded API server; a real kube-apiserver serves them all, too. */
export const resources = {
  namespaces: resource<Namespace>('', 'v1', 'Namespace', 'namespaces', false),
  nodes: resource<Node>('', 'v1', 'Node', 'nodes', false),
  pods: resource<Pod>('', 'v1', 'Pod', 'pods'),
  services: resource<Service>('', 'v1', 'Service', 'services'),
  endpoints: resource<Endpoints>('', 'v1', 'Endpoints', 'endpoints'),
  configMaps: resource<ConfigMap>('', 'v1', 'ConfigMap', 'configmaps'),
  events: resource<Event>('', 'v1', 'Event', 'events'),
  endpointSlices: resource<EndpointSlice>('discovery.k8s.io', 'v1', 'EndpointSlice', 'endpointslices'),
  leases: resource<Lease>('coordination.k8s.io', 'v1', 'Lease', 'leases'),
  clusterNetworkPolicies: resource<ClusterNetworkPolicy>(
    'policy.networking.k8s.io',
    'v1alpha2',
    'ClusterNetworkPolicy',
    'clusternetworkpolicies',
    false,
  ),
  nodeNetworkPolicies: resource<NodeNetworkPolicy>(
    'policy.portolan.dev',
    'v1alpha1',
    'NodeNetworkPolicy',
    'nodenetworkpolicies',
    false,
  ),
  networkPolicies: resource<NetworkPolicy>('networking.k8s.io', 'v1', 'NetworkPolicy', 'networkpolicies'),
  serviceCidrs: resource<ServiceCIDR>('networking.k8s.io', 'v1', 'ServiceCIDR', 'servicecidrs', false),
} as const;

/** `v1` or `discovery.k8s.io/v1`. */
export function apiVersionOf(of: Resource<KubeObject>): string {
  return of.group === '' ? of.version : `${of.group}/${of.version}`;
}

/** Name of one object; cluster-scoped kinds have no namespace. */
export interface ObjectName {
  namespace?: string | undefined;
  name: string;
}

/** Path of a collection, e.g. `/apis/discovery.k8s.io/v1/namespaces/default/endpointslices`. */
export function collectionPath(of: Resource<KubeObject>, namespace?: string): string {
  const root = of.group === '' ? `/api/${of.version}` : `/apis/${of.group}/${of.version}`;
  const within = of.namespaced && namespace ? `/namespaces/${encodeURIComponent(namespace)}` : '';
  return `${root}${within}/${of.plural}`;
}

/** Path of one object or of one of its subresources. */
export function objectPath(of: Resource<KubeObject>, named: ObjectName, subresource?: string): string {
  const path = `${collectionPath(of, named.namespace ?? (of.namespaced ? 'default' : undefined))}/${encodeURIComponent(named.name)}`;
  return subresource ? `${path}/${subresource}` : path;
}

/** Key of an object in tables: `namespace/name`, or `name` when it has no namespace. */
export function keyOf(object: { metadata: { name: string; namespace?: string } }): string {
  const { namespace, name } = object.metadata;
  return namespace ? inOnePiece(`${namespace}/${name}`) : name;
}
