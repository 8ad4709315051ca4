/** The objects that every cluster has: its namespaces, its service networks, and the way to the API server. */
import { apiError } from '../../errors/api.ts';
import { isNetError } from '../../errors/net-error.ts';
import type { EndpointSlice, KubeObject, Service, ServiceCIDR } from '../../model/kubernetes.ts';
import type { Registry } from '../registry/registry.ts';
import { keyOf, resourceOfKind } from '../resources.ts';
import { WorkQueue } from './work-queue.ts';

export const CLUSTER_NAMESPACES = ['default', 'kube-system', 'kube-public', 'kube-node-lease'];

export interface BootstrapOptions {
  readonly serviceCidrs: readonly string[];
  /** First address of the primary service network: the kubernetes Service. */
  readonly kubernetesIps: readonly string[];
  /** Where the server listens, as others reach it. */
  readonly endpoints: readonly { address: string; port: number }[];
}

const FAMILY_TYPES = { 4: 'IPv4', 6: 'IPv6' } as const;
const familyOf = (address: string) => FAMILY_TYPES[address.includes(':') ? 6 : 4];

/** What Services need before there can be any: namespaces and the service networks. */
export async function bootstrapNetworks(
  registry: Registry,
  options: Pick<BootstrapOptions, 'serviceCidrs'>,
): Promise<void> {
  for (const name of CLUSTER_NAMESPACES)
    await ensure(registry, 'Namespace', undefined, {
      apiVersion: 'v1',
      kind: 'Namespace',
      metadata: { name },
    });
  const cidr: ServiceCIDR = {
    apiVersion: 'networking.k8s.io/v1',
    kind: 'ServiceCIDR',
    metadata: { name: 'kubernetes' },
    spec: { cidrs: [...options.serviceCidrs] },
  };
  await ensureServiceCidr(registry, cidr);
}

/** Makes what is missing and corrects what differs; runs at each start. */
export async function bootstrap(registry: Registry, options: BootstrapOptions): Promise<void> {
  await bootstrapNetworks(registry, options);
  const labels = { component: 'apiserver', provider: 'kubernetes' };
  const service: Service = {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name: 'kubernetes', namespace: 'default', labels },
    spec: {
      type: 'ClusterIP',
      clusterIP: options.kubernetesIps[0]!,
      clusterIPs: [options.kubernetesIps[0]!],
      ipFamilies: [familyOf(options.kubernetesIps[0]!)],
      ipFamilyPolicy: 'SingleStack',
      sessionAffinity: 'None',
      ports: [{ name: 'https', protocol: 'TCP', port: 443, targetPort: options.endpoints[0]?.port ?? 6443 }],
    },
  };
  await ensure(registry, 'Service', 'default', service);
  await ensureEndpoints(registry, options);
}

/**
 * Keeps the way to the API server: someone who deletes or changes default/kubernetes or its slice, as
 * `kubectl delete services --all` does, gets them back at once. kube-apiserver looks every 10 s.
 */
export function keepBootstrapped(
  registry: Registry,
  options: BootstrapOptions,
  onError: (key: string, error: unknown) => void,
): { close(): Promise<void> } {
  const queue = new WorkQueue(() => bootstrap(registry, options), onError);
  const { store } = registry;
  const watches = ['Service', 'EndpointSlice'].map((kind) => {
    const kept = keyOf(resourceOfKind(kind), 'default', 'kubernetes');
    return store.watch(kept, store.revision, (events) => {
      // The prefix also matches longer names.
      if (events.some(({ entry }) => entry.key === kept)) queue.add('default/kubernetes');
    });
  });
  return {
    close: async () => {
      for (const watch of watches) watch.close();
      await queue.close();
    },
  };
}

/** Creates an object unless it is there. */
async function ensure(
  registry: Registry,
  kind: string,
  namespace: string | undefined,
  object: KubeObject,
): Promise<void> {
  const resource = resourceOfKind(kind);
  if (registry.store.get(keyOf(resource, namespace, object.metadata.name))) return;
  try {
    await registry.create(resource, namespace, object, { manager: 'portolan-apiserver' });
  } catch (error) {
    if (!isNetError(error, 'API_ALREADY_EXISTS')) throw error;
  }
}

/**
 * The service networks of the cluster. A second family may join later; the first one stays, Services have addresses
 * in it. @throws API_SERVICE_CIDR_CHANGED
 */
async function ensureServiceCidr(registry: Registry, wanted: ServiceCIDR): Promise<void> {
  await ensure(registry, 'ServiceCIDR', undefined, wanted);
  const resource = resourceOfKind('ServiceCIDR');
  const stored =
    (registry.find(resource, undefined, wanted.metadata.name) as ServiceCIDR | undefined)?.spec?.cidrs ?? [];
  const given = wanted.spec?.cidrs ?? [];
  if (stored.some((cidr, i) => given[i] !== cidr))
    throw apiError('API_SERVICE_CIDR_CHANGED', { stored: stored.join(','), given: given.join(',') });
  if (given.length === stored.length) return;
  await registry.update(
    resource,
    undefined,
    wanted.metadata.name,
    (current) => ({ next: { ...current!, spec: { cidrs: [...given] } } as ServiceCIDR }),
    { subresource: 'finalize' },
  );
}

/** The EndpointSlice of default/kubernetes follows the addresses of this server. */
async function ensureEndpoints(
  registry: Registry,
  { endpoints, kubernetesIps }: BootstrapOptions,
): Promise<void> {
  const family = familyOf(kubernetesIps[0]!);
  const usable = endpoints.filter(({ address }) => familyOf(address) === family);
  const resource = resourceOfKind('EndpointSlice');
  const name = 'kubernetes';
  const wanted: Pick<EndpointSlice, 'addressType' | 'endpoints' | 'ports'> = {
    addressType: family,
    endpoints: usable.map(({ address }) => ({ addresses: [address], conditions: { ready: true } })),
    ports: usable.length === 0 ? [] : [{ name: 'https', protocol: 'TCP', port: usable[0]!.port }],
  };
  const slice: EndpointSlice = {
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: { name, namespace: 'default', labels: { 'kubernetes.io/service-name': name } },
    ...wanted,
  };
  await registry.update(
    resource,
    'default',
    name,
    (current) => ({ next: current ? { ...current, ...wanted } : slice }),
    { createMissing: true, manager: 'portolan-apiserver' },
  );
}
