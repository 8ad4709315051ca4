/**
 * The EndpointSlices that say what an Endpoints object says, for Services whose endpoints people write by hand in the
 * older form. After k8s.io/kubernetes pkg/controller/endpointslicemirroring.
 *
 *   Endpoints web                         EndpointSlice web-abcde   IPv4  443/https   10.0.0.1 ready, 10.0.0.2 not
 *     addresses         10.0.0.1, fd00::1 ►             web-fghij   IPv6  443/https   fd00::1 ready
 *     notReadyAddresses 10.0.0.2
 *     ports             443/https
 */
import { isDeepStrictEqual } from 'node:util';
import type {
  EndpointSlice,
  EndpointSliceEndpoint,
  Endpoints,
  KubeObject,
  Service,
} from '../../model/kubernetes.ts';

export const MANAGED_BY_LABEL = 'endpointslice.kubernetes.io/managed-by';
/** Value of that label: the name of the controller whose work this is. */
export const MIRRORING = 'endpointslicemirroring-controller.k8s.io';
export const SERVICE_NAME_LABEL = 'kubernetes.io/service-name';
/** `true` on Endpoints that shall not be mirrored. */
const SKIP_LABEL = 'endpointslice.kubernetes.io/skip-mirror';
/** Endpoints with this annotation are somebody's lock, from before there were Leases. */
const LEADER_ANNOTATION = 'control-plane.alpha.kubernetes.io/leader';
const LAST_APPLIED_ANNOTATION = 'kubectl.kubernetes.io/last-applied-configuration';
/** Addresses that are taken from each subset: --mirroring-max-endpoints-per-subset of kube-controller-manager. */
const MAX_PER_SUBSET = 1000;

type Subset = NonNullable<Endpoints['subsets']>[number];
type Address = NonNullable<Subset['addresses']>[number];

/** What a mirrored slice shall contain. */
export type MirroredSlice = Pick<EndpointSlice, 'addressType' | 'endpoints' | 'ports'> & {
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
};

/** What to do with the mirrored slices of one Service; names of slices to change and delete. */
export interface MirrorPlan {
  readonly create: readonly MirroredSlice[];
  readonly update: readonly { name: string; content: MirroredSlice }[];
  readonly remove: readonly string[];
}

/** A Service whose endpoints the cluster finds by itself. */
export const hasSelector = (service: Service) => Object.keys(service.spec.selector ?? {}).length > 0;

/** The slices that stand for some Endpoints; none where no Service without a selector has their name. */
export function mirroredSlices(
  written: Endpoints | undefined,
  service: Service | undefined,
): MirroredSlice[] {
  if (!written || !service || hasSelector(service) || isExcluded(written.metadata)) return [];
  const { labels = {}, annotations = {}, name } = written.metadata;
  const { [LAST_APPLIED_ANNOTATION]: _applied, ...kept } = annotations;
  const common = {
    labels: { ...labels, [SERVICE_NAME_LABEL]: name, [MANAGED_BY_LABEL]: MIRRORING },
    annotations: kept,
  };
  const slices = new Map<string, MirroredSlice & { endpoints: EndpointSliceEndpoint[] }>();
  for (const subset of written.subsets ?? []) {
    const ports = portsOf(subset);
    for (const { ready, address } of addressesOf(subset)) {
      const addressType = address.ip.includes(':') ? 'IPv6' : 'IPv4';
      const key = `${addressType} ${JSON.stringify(ports)}`;
      const endpoints: EndpointSliceEndpoint[] = [];
      const slice = slices.get(key) ?? { ...common, addressType, ports, endpoints };
      slices.set(key, slice);
      slice.endpoints.push(endpointOf(address, ready));
    }
  }
  return [...slices.values()];
}

/** How the slices that are there become those that shall be; one of the same family and ports is changed in place. */
export function planMirror(wanted: readonly MirroredSlice[], there: readonly EndpointSlice[]): MirrorPlan {
  const left = [...there];
  const create: MirroredSlice[] = [];
  const update: { name: string; content: MirroredSlice }[] = [];
  for (const content of wanted) {
    const fitting = left.filter(({ addressType }) => addressType === content.addressType);
    const slice = fitting.find(({ ports }) => isDeepStrictEqual(ports ?? [], content.ports)) ?? fitting[0];
    if (!slice) {
      create.push(content);
      continue;
    }
    left.splice(left.indexOf(slice), 1);
    if (!isDeepStrictEqual(contentOf(slice), content)) update.push({ name: slice.metadata.name, content });
  }
  return { create, update, remove: left.map(({ metadata }) => metadata.name) };
}

function contentOf({ metadata, addressType, endpoints, ports }: EndpointSlice): MirroredSlice {
  const { labels = {}, annotations = {} } = metadata;
  return { labels, annotations, addressType, ports: ports ?? [], endpoints: endpoints ?? [] };
}

function isExcluded({ labels, annotations, deletionTimestamp }: KubeObject['metadata']): boolean {
  return (
    labels?.[SKIP_LABEL] === 'true' ||
    annotations?.[LEADER_ANNOTATION] !== undefined ||
    deletionTimestamp !== undefined
  );
}

function portsOf({ ports = [] }: Subset): NonNullable<EndpointSlice['ports']> {
  return ports.map(({ name, port, protocol, appProtocol }) => ({
    name: name ?? '',
    protocol: protocol ?? 'TCP',
    port,
    ...(appProtocol !== undefined && { appProtocol }),
  }));
}

function addressesOf({ addresses = [], notReadyAddresses = [] }: Subset) {
  return [
    ...addresses.map((address) => ({ ready: true, address })),
    ...notReadyAddresses.map((address) => ({ ready: false, address })),
  ].slice(0, MAX_PER_SUBSET);
}

function endpointOf({ ip, hostname, nodeName, targetRef }: Address, ready: boolean): EndpointSliceEndpoint {
  return {
    addresses: [ip],
    conditions: { ready },
    ...(hostname && { hostname }),
    ...(nodeName && { nodeName }),
    ...(targetRef && { targetRef }),
  };
}
