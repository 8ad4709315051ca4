/**
 * Keeps Endpoints that people write and EndpointSlices the same, as kube-controller-manager's controllers "endpoints"
 * and "endpointslicemirroring" do. It is here and not among the controllers because only the store knows which
 * Endpoints are written and which are computed from slices (`rest/endpoints-source.ts`).
 *
 *   Endpoints, their Service has no selector ► slices are made, follow, and go with them
 *   the Service has a selector               ► the written ones go: what the cluster finds is told instead
 *   the Service is deleted                   ► its slices go, and a second later the written ones, too
 */
import { isNetError } from '../../errors/net-error.ts';
import type { EndpointSlice, Endpoints, KubeObject, Service } from '../../model/kubernetes.ts';
import type { StoreEntry, StoreEvent, Watch } from '../../store/types.ts';
import { deleteObject } from '../registry/deletion.ts';
import { objectOf } from '../registry/objects.ts';
import type { Registry } from '../registry/registry.ts';
import { keyOf, prefixOf, type Resource, resourceOfKind } from '../resources.ts';
import {
  hasSelector,
  MANAGED_BY_LABEL,
  MIRRORING,
  type MirroredSlice,
  mirroredSlices,
  planMirror,
  SERVICE_NAME_LABEL,
} from './mirrored-slices.ts';
import { WorkQueue } from './work-queue.ts';

/** Who deletes a Service deletes its Endpoints as well, `kubectl delete -f`, and shall find them. */
const LEAVE_MS = 1000;

export class EndpointsMirror {
  readonly #registry: Registry;
  readonly #queue: WorkQueue;
  readonly #watches: Watch[] = [];
  readonly #endpoints = resourceOfKind('Endpoints');
  readonly #services = resourceOfKind('Service');
  readonly #slices = resourceOfKind('EndpointSlice');
  /** Names of the mirrored slices of a Service, by `namespace/name`. */
  readonly #made = new Map<string, Set<string>>();
  /** Services that are gone, and whose Endpoints go after them when the time is over. */
  readonly #leaving = new Map<string, NodeJS.Timeout>();
  /** Those whose time is over. */
  readonly #gone = new Set<string>();

  constructor(registry: Registry, onError: (key: string, error: unknown) => void) {
    this.#registry = registry;
    this.#queue = new WorkQueue((key) => this.#look(key), onError);
    const { store } = registry;
    for (const entry of store.range(prefixOf(this.#slices, undefined))) this.#noteSlice(entry);
    for (const { key } of store.range(prefixOf(this.#endpoints, undefined)))
      this.#queue.add(serviceOfKey(key));
    this.#watch(this.#endpoints, ({ entry }) => this.#queue.add(serviceOfKey(entry.key)));
    this.#watch(this.#services, (event) => this.#onService(event));
    this.#watch(this.#slices, ({ type, entry, previous }) => {
      if (previous) this.#noteSlice(previous, true);
      if (type === 'put') this.#noteSlice(entry);
    });
  }

  async close(): Promise<void> {
    for (const watch of this.#watches) watch.close();
    for (const timer of this.#leaving.values()) clearTimeout(timer);
    await this.#queue.close();
  }

  #watch(resource: Resource, onEvent: (event: StoreEvent) => void): void {
    const { store } = this.#registry;
    const listener = (events: readonly StoreEvent[]) => events.forEach(onEvent);
    this.#watches.push(store.watch(prefixOf(resource, undefined), store.revision, listener));
  }

  /** Services change all the time; those that never had Endpoints of somebody's are of no interest. */
  #onService({ type, entry }: StoreEvent): void {
    const service = serviceOfKey(entry.key);
    clearTimeout(this.#leaving.get(service));
    this.#leaving.delete(service);
    this.#gone.delete(service);
    const written = this.#registry.store.get(`${this.#endpoints.collection}/${service}`) !== undefined;
    if (written || this.#made.has(service)) this.#queue.add(service);
    if (!written || type !== 'delete') return;
    const timer = setTimeout(() => {
      this.#leaving.delete(service);
      this.#gone.add(service);
      this.#queue.add(service);
    }, LEAVE_MS).unref();
    this.#leaving.set(service, timer);
  }

  #noteSlice(entry: StoreEntry, gone = false): void {
    if (!entry.value.includes(MIRRORING)) return;
    const { namespace, name, labels = {} } = objectOf(entry).metadata;
    if (labels[MANAGED_BY_LABEL] !== MIRRORING || !labels[SERVICE_NAME_LABEL]) return;
    const service = `${namespace}/${labels[SERVICE_NAME_LABEL]}`;
    const names = this.#made.get(service) ?? new Set();
    if (gone) names.delete(name);
    else names.add(name);
    if (names.size > 0) this.#made.set(service, names);
    else this.#made.delete(service);
    this.#queue.add(service);
  }

  async #look(key: string): Promise<void> {
    const [namespace, name] = key.split('/') as [string, string];
    const { store } = this.#registry;
    const find = <T extends KubeObject>(resource: Resource, named = name) => {
      const entry = store.get(keyOf(resource, namespace, named));
      return entry && (objectOf(entry) as T);
    };
    const endpoints = find<Endpoints>(this.#endpoints);
    const service = find<Service>(this.#services);
    const there = [...(this.#made.get(key) ?? [])].flatMap(
      (each) => find<EndpointSlice>(this.#slices, each) ?? [],
    );
    const plan = planMirror(mirroredSlices(endpoints, service), there);
    for (const content of plan.create) await this.#create(endpoints!, content);
    for (const { name: slice, content } of plan.update) await this.#update(namespace, slice, content);
    for (const slice of plan.remove) await this.#delete(this.#slices, namespace, slice);
    const replaced = service !== undefined && hasSelector(service) && service.spec.type !== 'ExternalName';
    if (endpoints && (replaced || (!service && this.#gone.has(key))))
      await this.#delete(this.#endpoints, namespace, name, endpoints.metadata.uid);
    this.#gone.delete(key);
  }

  async #create(endpoints: Endpoints, content: MirroredSlice): Promise<void> {
    const { namespace, name, uid } = endpoints.metadata;
    const { labels, annotations, ...body } = content;
    const slice: EndpointSlice = {
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: {
        name: '',
        generateName: `${name}-`,
        namespace: namespace!,
        labels: { ...labels },
        ...(Object.keys(annotations).length > 0 && { annotations: { ...annotations } }),
        ownerReferences: [
          {
            apiVersion: 'v1',
            kind: 'Endpoints',
            name,
            uid: uid!,
            controller: true,
            blockOwnerDeletion: true,
          },
        ],
      },
      ...body,
    };
    await this.#registry.create(this.#slices, namespace, slice, { manager: 'portolan-apiserver' });
  }

  async #update(namespace: string, name: string, content: MirroredSlice): Promise<void> {
    const { labels, annotations, addressType: _type, ...body } = content;
    await ignoreMissing(
      this.#registry.update(
        this.#slices,
        namespace,
        name,
        (current) => {
          const { annotations: _old, ...metadata } = current!.metadata;
          const some = Object.keys(annotations).length > 0;
          const next = {
            ...current!,
            ...body,
            metadata: {
              ...metadata,
              labels: { ...labels },
              ...(some && { annotations: { ...annotations } }),
            },
          };
          return { next };
        },
        { manager: 'portolan-apiserver' },
      ),
    );
  }

  async #delete(resource: Resource, namespace: string, name: string, uid?: string): Promise<void> {
    await ignoreMissing(
      deleteObject(this.#registry, resource, namespace, name, {
        propagation: 'Background',
        ...(uid !== undefined && { uid }),
      }),
    );
  }
}

/** `namespace/name` of a key of Services or Endpoints. */
const serviceOfKey = (key: string) => key.slice(key.indexOf('/') + 1);

async function ignoreMissing(work: Promise<unknown>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (!isNetError(error, 'API_NOT_FOUND')) throw error;
  }
}
