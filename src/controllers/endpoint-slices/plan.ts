/** From one Service, its pods and its present slices to the writes that make the slices right. Pure. */
import type { PodView, ServiceView } from '../views.ts';
import { addressTypesOf, endpointOf, portsOf, sharedOutPods, type ZoneOf, type Zones } from './endpoints.ts';
import { packEndpoints } from './pack.ts';
import {
  type AddressType,
  defaultMaxEndpoints,
  type EndpointText,
  headlessLabel,
  managedBy,
  managedByLabel,
  portsText,
  type SliceContent,
  type SlicePort,
  type SliceView,
  type SliceWrite,
  serviceNameLabel,
} from './types.ts';

/** What {@link planEndpointSlices} compares. */
export interface EndpointSliceState {
  /** Undefined when the Service is gone. */
  service: ServiceView | undefined;
  /** Pods that the selector selects. */
  pods: readonly PodView[];
  zoneOf: ZoneOf;
  /** CPU of the zones, for topology-mode Auto; undefined while it is not known of all nodes. */
  cpu?: ReadonlyMap<string, number> | undefined;
  /** Slices of ours for this Service. */
  existing: readonly SliceView[];
  /** 100 by default. */
  maxEndpoints?: number;
}

type Create = Extract<SliceWrite, { verb: 'create' }>;
type Delete = Extract<SliceWrite, { verb: 'delete' }>;

const ownLabels: ReadonlySet<string> = new Set([managedByLabel, serviceNameLabel, headlessLabel]);

/** Whether the slices of a Service are made from its selector at all. */
export function isManaged(service: ServiceView): boolean {
  return service.spec.type !== 'ExternalName' && Object.keys(service.spec.selector ?? {}).length > 0;
}

/**
 * The writes, additions before deletions so that an endpoint that moves is never missing.
 * A Service without a selector keeps the slices it has, as in Kubernetes: somebody may be taking them over.
 */
export function planEndpointSlices(state: EndpointSliceState): SliceWrite[] {
  const { service, pods, zoneOf, cpu, existing } = state;
  if (!service || service.spec.type === 'ExternalName')
    return existing.map((slice) => ({ verb: 'delete', slice }));
  if (!isManaged(service)) return [];
  const maxEndpoints = state.maxEndpoints ?? defaultMaxEndpoints;
  const labels = labelsOf(service);
  const types = addressTypesOf(service);
  const creates: Create[] = [];
  const updates: SliceWrite[] = [];
  const deletes: Delete[] = [];
  const usable: SliceView[] = [];
  for (const slice of existing)
    if (
      (slice.ownerUid === '' || slice.ownerUid === service.uid) &&
      types.includes(slice.addressType as AddressType)
    )
      usable.push(slice);
    else deletes.push({ verb: 'delete', slice });
  for (const addressType of types) {
    const slices = usable.filter((slice) => slice.addressType === addressType);
    const sharedOut = sharedOutPods(service, pods, addressType, { zoneOf, cpu });
    const wanted = endpointsByPorts(service, pods, addressType, { zoneOf, sharedOut });
    const kept = new Set<SliceView>();
    const emptied: SliceView[] = [];
    for (const [key, { ports, endpoints }] of wanted) {
      const mine = slices.filter((slice) => slice.ports === key);
      for (const one of packEndpoints(endpoints, mine, maxEndpoints)) {
        const content: SliceContent = { addressType, ports, labels, endpoints: one.endpoints };
        if (!one.slice) creates.push({ verb: 'create', content });
        else if (one.endpoints.length === 0) emptied.push(one.slice);
        else {
          kept.add(one.slice);
          if (one.changed || !sameLabels(one.slice.labels, labels) || one.slice.ownerUid === '')
            updates.push({ verb: 'update', slice: one.slice, content });
        }
      }
    }
    const leftOver = [...slices.filter((slice) => !wanted.has(slice.ports)), ...emptied];
    if (wanted.size === 0) {
      // A Service without endpoints has one slice all the same, so that everyone sees that it was looked at.
      const placeholder =
        leftOver.find((slice) => slice.endpoints.length === 0 && slice.ports === '[]') ?? leftOver[0];
      const content: SliceContent = { addressType, ports: [], labels, endpoints: [] };
      if (!placeholder) creates.push({ verb: 'create', content });
      else {
        kept.add(placeholder);
        const right = placeholder.endpoints.length === 0 && placeholder.ports === '[]';
        if (!right || !sameLabels(placeholder.labels, labels) || placeholder.ownerUid === '')
          updates.push({ verb: 'update', slice: placeholder, content });
      }
    }
    for (const slice of leftOver) if (!kept.has(slice)) deletes.push({ verb: 'delete', slice });
  }
  return [...recycle(creates, deletes, service.uid), ...updates, ...deletes];
}

/** What remains to be created after pairs of a create and a delete became updates; takes those out of `deletes`. */
function recycle(creates: readonly Create[], deletes: Delete[], ownerUid: string): SliceWrite[] {
  return creates.map((create) => {
    const index = deletes.findIndex(
      ({ slice }) => slice.addressType === create.content.addressType && slice.ownerUid === ownerUid,
    );
    if (index < 0) return create;
    const [found] = deletes.splice(index, 1);
    return { verb: 'update', slice: found!.slice, content: create.content };
  });
}

function endpointsByPorts(
  service: ServiceView,
  pods: readonly PodView[],
  addressType: AddressType,
  zones: Zones,
): Map<string, { ports: SlicePort[]; endpoints: EndpointText[] }> {
  const groups = new Map<string, { ports: SlicePort[]; endpoints: EndpointText[] }>();
  for (const pod of pods) {
    const endpoint = endpointOf(service, pod, addressType, zones);
    if (endpoint === undefined) continue;
    const ports = portsOf(service, pod);
    const key = portsText(ports);
    const group = groups.get(key);
    if (group) group.endpoints.push(endpoint);
    else groups.set(key, { ports, endpoints: [endpoint] });
  }
  return groups;
}

/** Labels of a slice: those of the Service, and ours. */
function labelsOf(service: ServiceView): Record<string, string> {
  const labels: Record<string, string> = {};
  for (const [key, value] of Object.entries(service.labels)) if (!ownLabels.has(key)) labels[key] = value;
  const { clusterIP } = service.spec;
  if (clusterIP === 'None' || !clusterIP) labels[headlessLabel] = '';
  labels[managedByLabel] = managedBy;
  labels[serviceNameLabel] = service.name;
  return labels;
}

function sameLabels(a: Readonly<Record<string, string>>, b: Readonly<Record<string, string>>): boolean {
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every((key) => a[key] === b[key]);
}
