/**
 * Between the version of a kind that a client speaks and the one that is stored. Most kinds have one version; the
 * others are here with what differs beside the apiVersion.
 */
import type { EndpointSlice, EndpointSliceEndpoint, KubeObject } from '../../model/kubernetes.ts';
import type { Resource } from '../resources.ts';
import { groupVersionOf } from '../schema/index.ts';

/** What one version of a kind has otherwise than the stored one. */
interface Conversion {
  fromStored(object: KubeObject): KubeObject;
  toStored(object: KubeObject): KubeObject;
}

/** Name in events.k8s.io/v1 to name in core/v1, which is stored: pkg/apis/events/v1/conversion.go. */
const EVENT_FIELDS: readonly (readonly [string, string])[] = [
  ['regarding', 'involvedObject'],
  ['note', 'message'],
  ['reportingController', 'reportingComponent'],
  ['deprecatedSource', 'source'],
  ['deprecatedFirstTimestamp', 'firstTimestamp'],
  ['deprecatedLastTimestamp', 'lastTimestamp'],
  ['deprecatedCount', 'count'],
];

const newNames = new Map(EVENT_FIELDS.map(([newer, older]) => [older, newer]));
const oldNames = new Map(EVENT_FIELDS);

function renamed(object: KubeObject, names: ReadonlyMap<string, string>): KubeObject {
  const entries = Object.entries(object).map(([key, value]) => [names.get(key) ?? key, value]);
  return Object.fromEntries(entries) as KubeObject;
}

const events: Conversion = {
  fromStored: (object) => renamed(object, newNames),
  // involvedObject is required by the stored version.
  toStored: (object) => ({ involvedObject: {}, ...renamed(object, oldNames) }) as KubeObject,
};

/** The label that holds the zone in discovery.k8s.io/v1beta1: pkg/apis/discovery/v1beta1/conversion.go. */
const ZONE = 'topology.kubernetes.io/zone';
type Topology = Readonly<Record<string, string>>;
type BetaEndpoint = Omit<EndpointSliceEndpoint, 'zone'> & { topology?: Topology };
type StoredEndpoint = EndpointSliceEndpoint & { deprecatedTopology?: Topology };

const slices: Conversion = {
  fromStored: (object) =>
    mapEndpoints(object, ({ zone, deprecatedTopology, ...endpoint }: StoredEndpoint): BetaEndpoint => {
      if (!zone && !deprecatedTopology) return endpoint;
      return { ...endpoint, topology: { ...deprecatedTopology, ...(zone && { [ZONE]: zone }) } };
    }),
  toStored: (object) =>
    mapEndpoints(object, ({ topology, ...endpoint }: BetaEndpoint): StoredEndpoint => {
      if (!topology) return endpoint;
      const { [ZONE]: zone, ...others } = topology;
      const rest = Object.keys(others).length > 0 ? { deprecatedTopology: others } : {};
      return { ...endpoint, ...rest, ...(zone !== undefined && { zone }) };
    }),
};

function mapEndpoints(object: KubeObject, map: (endpoint: never) => object): KubeObject {
  const { endpoints } = object as EndpointSlice;
  return { ...object, endpoints: (endpoints ?? []).map((endpoint) => map(endpoint as never)) } as KubeObject;
}

/** By kind; ServiceCIDR v1beta1 differs in nothing. */
const conversions: Readonly<Record<string, Conversion>> = { Event: events, EndpointSlice: slices };

/** The stored object as the resource's version has it; the same object where that is the stored one. */
export function fromStored(resource: Resource, object: KubeObject): KubeObject {
  if (resource.stored === resource.schema) return object;
  const { stored, schema } = resource;
  return { ...(conversions[stored.kind]?.fromStored(object) ?? object), apiVersion: groupVersionOf(schema) };
}

/** The other way. */
export function toStored(resource: Resource, object: KubeObject): KubeObject {
  if (resource.stored === resource.schema) return object;
  const { stored } = resource;
  return { ...(conversions[stored.kind]?.toStored(object) ?? object), apiVersion: groupVersionOf(stored) };
}
