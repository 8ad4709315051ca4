/**
 * Endpoints, the older form of EndpointSlices. Most are computed from the slices that carry the Service's name and
 * never stored; those that somebody has written come from the store (`lifecycle/endpoints-mirror.ts` makes slices of
 * them, which do not count here). Revisions are the store's, so lists and watches resume like any other.
 */
import type { EndpointSlice, EndpointSliceEndpoint, Endpoints } from '../../model/kubernetes.ts';
import type { Store, StoreEntry, StoreEvent, Watch } from '../../store/types.ts';
import { MANAGED_BY_LABEL, MIRRORING, SERVICE_NAME_LABEL } from '../lifecycle/mirrored-slices.ts';
import { objectOf } from '../registry/objects.ts';
import { prefixOf, resourceOfKind } from '../resources.ts';
import type { Source } from './source.ts';

/** Endpoints hold at most this many addresses (KEP-752). */
const MAX_ADDRESSES = 1000;

type Subset = NonNullable<Endpoints['subsets']>[number];
type Address = NonNullable<Subset['addresses']>[number];

const compare = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0);

function addressOf(endpoint: EndpointSliceEndpoint): Address {
  const { addresses, hostname, nodeName, targetRef } = endpoint;
  return {
    ip: addresses[0] ?? '',
    ...(hostname && { hostname }),
    ...(nodeName && { nodeName }),
    ...(targetRef && { targetRef }),
  };
}

/** The subsets of some slices of one Service: endpoints grouped by equal ports. */
export function subsetsOf(slices: readonly EndpointSlice[]): Subset[] {
  const groups = new Map<
    string,
    { ports: Subset['ports']; ready: Map<string, Address>; notReady: Map<string, Address> }
  >();
  let count = 0;
  for (const slice of slices) {
    const ports = (slice.ports ?? [])
      .filter((port) => typeof port.port === 'number')
      .map(({ name, port, protocol, appProtocol }) => ({
        ...(name && { name }),
        port: port!,
        protocol: protocol ?? 'TCP',
        ...(appProtocol && { appProtocol }),
      }))
      .sort((a, b) => compare(JSON.stringify(a), JSON.stringify(b)));
    const key = JSON.stringify(ports);
    const group = groups.get(key) ?? { ports, ready: new Map(), notReady: new Map() };
    groups.set(key, group);
    for (const endpoint of slice.endpoints ?? []) {
      if (endpoint.conditions?.terminating === true || count >= MAX_ADDRESSES) continue;
      const address = addressOf(endpoint);
      const to = endpoint.conditions?.ready === false ? group.notReady : group.ready;
      if (!to.has(address.ip)) count++;
      to.set(address.ip, address);
    }
  }
  const sorted = (addresses: Map<string, Address>) =>
    [...addresses.values()].sort((a, b) => compare(a.ip, b.ip));
  return [...groups]
    .filter(([, group]) => group.ready.size + group.notReady.size > 0)
    .sort(([a], [b]) => compare(a, b))
    .map(([, { ports, ready, notReady }]) => ({
      ...(ready.size > 0 && { addresses: sorted(ready) }),
      ...(notReady.size > 0 && { notReadyAddresses: sorted(notReady) }),
      ...(ports && ports.length > 0 && { ports }),
    }));
}

export class EndpointsSource implements Source {
  readonly #store: Store;
  readonly #slices = prefixOf(resourceOfKind('EndpointSlice'), undefined);
  readonly #resource = resourceOfKind('Endpoints');
  readonly #collection = this.#resource.collection;
  /** Keys of the slices of a Service, by `namespace/name`; kept by a watch from the first use on. */
  #index: Map<string, Set<string>> | undefined;
  readonly #made = new Map<string, StoreEntry>();

  constructor(store: Store) {
    this.#store = store;
  }

  get revision(): number {
    return this.#store.revision;
  }

  get(namespace: string | undefined, name: string): StoreEntry | undefined {
    return this.#entry(`${namespace}/${name}`);
  }

  *range(namespace: string | undefined, start = ''): Generator<StoreEntry> {
    const prefix = namespace === undefined ? '' : `${namespace}/`;
    const written = [...this.#store.range(prefixOf(this.#resource, namespace))].map(({ key }) =>
      serviceOfKey(key),
    );
    const services = [...new Set([...this.#serviceIndex().keys(), ...written])]
      .filter((service) => service.startsWith(prefix))
      .sort(compare);
    for (const service of services) {
      if (`${this.#collection}/${service}` < start) continue;
      const entry = this.#entry(service);
      if (entry) yield entry;
    }
  }

  /** Older states are not kept for a computed kind: pages of a list may differ in age. */
  rangeAt(namespace: string | undefined, _revision: number, start?: string): Iterable<StoreEntry> {
    return this.range(namespace, start);
  }

  count(namespace: string | undefined): number {
    return [...this.range(namespace)].length;
  }

  watch(
    namespace: string | undefined,
    revision: number,
    listener: (events: readonly StoreEvent[]) => void,
  ): Watch {
    this.#serviceIndex();
    const known = new Map<string, StoreEntry>();
    // Before the first call, history: which Services were touched, not how each slice looked then.
    let replaying = true;
    const onEvents = (
      events: readonly StoreEvent[],
      servicesOf: (event: StoreEvent) => (string | undefined)[],
    ) => {
      const touched = new Map<string, number>();
      for (const event of events)
        for (const service of servicesOf(event)) {
          if (service !== undefined && (namespace === undefined || service.startsWith(`${namespace}/`)))
            touched.set(service, event.revision);
        }
      const out = [...touched].flatMap(([service, at]) => this.#change(service, at, known, replaying));
      if (out.length > 0) listener(out.sort((a, b) => a.revision - b.revision));
    };
    const watches = [
      this.#store.watch(this.#slices, revision, (events) =>
        onEvents(events, ({ entry, previous }) => [serviceOf(entry), previous && serviceOf(previous)]),
      ),
      this.#store.watch(prefixOf(this.#resource, namespace), revision, (events) =>
        onEvents(events, ({ entry }) => [serviceOfKey(entry.key)]),
      ),
    ];
    for (const entry of this.range(namespace)) known.set(entry.key, entry);
    replaying = false;
    return {
      close: () => {
        for (const watch of watches) watch.close();
      },
    };
  }

  #change(
    service: string,
    revision: number,
    known: Map<string, StoreEntry>,
    replaying: boolean,
  ): StoreEvent[] {
    const key = `${this.#collection}/${service}`;
    const entry = this.#entry(service);
    const previous = known.get(key);
    if (entry) {
      known.set(key, entry);
      if (previous?.value === entry.value) return [];
      const before = previous ?? (replaying && entry.created < revision ? entry : undefined);
      return [{ type: 'put', revision, entry, ...(before && { previous: before }) }];
    }
    known.delete(key);
    const gone = previous ?? (replaying ? this.#tombstone(service, revision) : undefined);
    return gone ? [{ type: 'delete', revision, entry: { ...gone, revision }, previous: gone }] : [];
  }

  #tombstone(service: string, revision: number): StoreEntry {
    return this.#make(service, [], revision, revision);
  }

  #serviceIndex(): Map<string, Set<string>> {
    if (this.#index) return this.#index;
    const index = new Map<string, Set<string>>();
    const add = (entry: StoreEntry) => {
      const service = serviceOf(entry);
      if (service !== undefined) index.set(service, (index.get(service) ?? new Set()).add(entry.key));
    };
    const drop = (entry: StoreEntry) => {
      const service = serviceOf(entry);
      if (service === undefined) return;
      const keys = index.get(service);
      keys?.delete(entry.key);
      if (keys?.size === 0) index.delete(service);
      this.#made.delete(service);
    };
    for (const entry of this.#store.range(this.#slices)) add(entry);
    // First of all watches, so that those of clients find it up to date.
    this.#store.watch(this.#slices, this.#store.revision, (events) => {
      for (const { type, entry, previous } of events) {
        if (previous) drop(previous);
        if (type === 'put') add(entry);
        const service = serviceOf(entry);
        if (service !== undefined) this.#made.delete(service);
      }
    });
    this.#index = index;
    return index;
  }

  #entry(service: string): StoreEntry | undefined {
    return this.#store.get(`${this.#collection}/${service}`) ?? this.#computed(service);
  }

  #computed(service: string): StoreEntry | undefined {
    const keys = this.#serviceIndex().get(service);
    if (!keys) return undefined;
    const made = this.#made.get(service);
    if (made) return made;
    const entries = [...keys].sort(compare).flatMap((key) => this.#store.get(key) ?? []);
    if (entries.length === 0) return undefined;
    const slices = entries.map((entry) => objectOf(entry) as EndpointSlice);
    // One family, as Endpoints have always had: that of the first slice, IPv4 before IPv6.
    const family = slices.some((slice) => slice.addressType === 'IPv4') ? 'IPv4' : 'IPv6';
    const revision = Math.max(...entries.map((entry) => entry.revision));
    const created = Math.min(...entries.map((entry) => entry.created));
    const entry = this.#make(
      service,
      slices.filter((slice) => slice.addressType === family),
      revision,
      created,
    );
    this.#made.set(service, entry);
    return entry;
  }

  #make(service: string, slices: readonly EndpointSlice[], revision: number, created: number): StoreEntry {
    const [namespace, name] = service.split('/') as [string, string];
    const first = slices[0]?.metadata;
    const endpoints: Endpoints = {
      apiVersion: 'v1',
      kind: 'Endpoints',
      metadata: {
        name,
        namespace,
        ...(first?.uid !== undefined && { uid: first.uid }),
        resourceVersion: String(revision),
        ...(first?.creationTimestamp !== undefined && { creationTimestamp: first.creationTimestamp }),
        ...serviceLabels(first?.labels),
      },
      ...(slices.length > 0 && { subsets: subsetsOf(slices) }),
    };
    if (endpoints.subsets?.length === 0) delete endpoints.subsets;
    return { key: `${this.#collection}/${service}`, value: JSON.stringify(endpoints), revision, created };
  }
}

/** Labels of the Service, which its slices carry beside their own. */
function serviceLabels(labels: Readonly<Record<string, string>> = {}): { labels?: Record<string, string> } {
  const own: readonly string[] = [SERVICE_NAME_LABEL, MANAGED_BY_LABEL];
  const kept = Object.entries(labels).filter(([name]) => !own.includes(name));
  return kept.length > 0 ? { labels: Object.fromEntries(kept) } : {};
}

/** `namespace/name` of the key of Endpoints. */
const serviceOfKey = (key: string) => key.slice(key.indexOf('/') + 1);

/** `namespace/service` of a slice; undefined for slices of nobody, and for those that only repeat written Endpoints. */
function serviceOf(entry: StoreEntry): string | undefined {
  if (!entry.value.includes(SERVICE_NAME_LABEL)) return undefined;
  const { metadata } = objectOf(entry);
  const service = metadata.labels?.[SERVICE_NAME_LABEL];
  if (metadata.labels?.[MANAGED_BY_LABEL] === MIRRORING) return undefined;
  return service ? `${metadata.namespace}/${service}` : undefined;
}
