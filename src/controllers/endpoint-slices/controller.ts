/**
 * Keeps the EndpointSlices of all Services with a selector. A change of a pod marks the Services dirty that select
 * it or selected it before; the write goes out in the same turn of the event loop, since each millisecond here is
 * one of the time from a pod's readiness to traffic.
 */
import { type ApiClient, type Log, type Reflector, resources } from '../../client/index.ts';
import { isNetError } from '../../errors/net-error.ts';
import type { EndpointSlice, EndpointSliceEndpoint, Node, Pod, Service } from '../../model/kubernetes.ts';
import { LabelIndex, SelectorIndex } from '../label-index.ts';
import type { NodeView, PodView, ServiceView } from '../views.ts';
import { WorkQueue } from '../work-queue.ts';
import { isManaged, planEndpointSlices } from './plan.ts';
import { SliceBook } from './slice-book.ts';
import { cpuByZone, type NodeShare, nodeShare } from './topology.ts';
import type { SliceContent, SliceView, SliceWrite } from './types.ts';
import { sliceView } from './types.ts';

/** Options of {@link runEndpointSlices}. */
export interface EndpointSlicesOptions {
  client: ApiClient;
  pods: Reflector<Pod, PodView>;
  services: Reflector<Service, ServiceView>;
  nodes: Reflector<Node, NodeView>;
  slices: Reflector<EndpointSlice, SliceView>;
  signal: AbortSignal;
  log: Log;
  maxEndpoints?: number;
  random?: () => number;
}

export class EndpointSlicesController {
  readonly #options: EndpointSlicesOptions;
  readonly #queue: WorkQueue;
  readonly #podsByLabel = new LabelIndex();
  readonly #selectors = new SelectorIndex();
  readonly #podKeysByNode = new Map<string, Set<string>>();
  readonly #podsSeen = new Map<string, PodView>();
  readonly #zones = new Map<string, string>();
  readonly #shares = new Map<string, NodeShare>();
  #cpu: ReadonlyMap<string, number> | undefined;
  readonly #book: SliceBook;
  readonly #random: () => number;

  constructor(options: EndpointSlicesOptions) {
    this.#options = options;
    this.#random = options.random ?? Math.random;
    this.#book = new SliceBook(options.slices);
    this.#queue = new WorkQueue({
      name: 'endpoint-slices',
      work: (key) => this.#reconcile(key),
      signal: options.signal,
      log: options.log,
      concurrency: 32,
    });
  }

  /** Begins to work; all four reflectors must have synced. */
  start(): void {
    const { pods, services, nodes, slices } = this.#options;
    this.#nodesChanged([...nodes.items.keys()]);
    for (const key of pods.items.keys()) this.#indexPod(key);
    for (const key of services.items.keys()) this.#serviceChanged(key);
    for (const key of slices.items.keys()) this.#sliceChanged(key);
    nodes.onChange((keys) => this.#nodesChanged(keys));
    services.onChange((keys) => {
      for (const key of keys) this.#serviceChanged(key);
    });
    slices.onChange((keys) => {
      for (const key of keys) this.#sliceChanged(key);
    });
    pods.onChange((keys) => {
      for (const key of keys) {
        const before = this.#podsSeen.get(key);
        this.#indexPod(key);
        const after = this.#podsSeen.get(key);
        if (before && after && !matters(before, after)) continue;
        for (const view of [before, after])
          if (view)
            for (const service of this.#selectors.selecting(view.namespace, view.labels))
              this.#queue.add(service);
      }
    });
  }

  /** Services that wait for a write. */
  get pending(): number {
    return this.#queue.size;
  }

  #indexPod(key: string): void {
    const before = this.#podsSeen.get(key);
    if (before?.nodeName) {
      const keys = this.#podKeysByNode.get(before.nodeName);
      if (keys?.delete(key) && keys.size === 0) this.#podKeysByNode.delete(before.nodeName);
    }
    const pod = this.#options.pods.items.get(key);
    if (!pod) {
      this.#podsSeen.delete(key);
      this.#podsByLabel.delete(key);
      return;
    }
    this.#podsSeen.set(key, pod);
    this.#podsByLabel.set(key, pod.namespace, pod.labels);
    if (pod.nodeName) {
      const keys = this.#podKeysByNode.get(pod.nodeName) ?? new Set();
      this.#podKeysByNode.set(pod.nodeName, keys.add(key));
    }
  }

  #serviceChanged(key: string): void {
    const service = this.#options.services.items.get(key);
    if (service && isManaged(service))
      this.#selectors.set(key, service.namespace, service.spec.selector ?? {});
    else this.#selectors.delete(key);
    this.#queue.add(key);
  }

  #sliceChanged(key: string): void {
    const service = this.#book.changed(key);
    for (const name of service) this.#queue.add(name);
  }

  /** How much CPU a zone has decides for whom endpoints are meant. */
  #sharesChanged(names: Iterable<string>): void {
    let changed = false;
    for (const name of names) {
      const node = this.#options.nodes.items.get(name);
      const share = node && nodeShare(node);
      const before = this.#shares.get(name);
      if (share?.zone === before?.zone && share?.cpuMillis === before?.cpuMillis) continue;
      changed = true;
      if (share) this.#shares.set(name, share);
      else this.#shares.delete(name);
    }
    if (!changed) return;
    this.#cpu = cpuByZone(this.#shares.values());
    for (const [key, service] of this.#options.services.items) if (service.topologyAuto) this.#queue.add(key);
  }

  /** Only the coming and going of nodes, their zones and CPU matter here, not their heartbeats. */
  #nodesChanged(names: Iterable<string>): void {
    this.#sharesChanged(names);
    for (const name of names) {
      const zone = this.#options.nodes.items.get(name)?.zone;
      if (this.#zones.get(name) === zone) continue;
      if (zone === undefined) this.#zones.delete(name);
      else this.#zones.set(name, zone);
      for (const key of this.#podKeysByNode.get(name) ?? []) {
        const pod = this.#podsSeen.get(key)!;
        for (const service of this.#selectors.selecting(pod.namespace, pod.labels)) this.#queue.add(service);
      }
    }
  }

  async #reconcile(key: string): Promise<void> {
    const service = this.#options.services.items.get(key);
    const pods =
      service && isManaged(service)
        ? this.#podsByLabel
            .selected(service.namespace, service.spec.selector ?? {})
            .sort()
            .map((podKey) => this.#podsSeen.get(podKey)!)
        : [];
    const writes = planEndpointSlices({
      service,
      pods,
      zoneOf: (node) => this.#zones.get(node),
      cpu: this.#cpu,
      existing: this.#book.of(key),
      ...(this.#options.maxEndpoints !== undefined && { maxEndpoints: this.#options.maxEndpoints }),
    });
    for (const write of writes) await this.#apply(service, write);
  }

  async #apply(service: ServiceView | undefined, write: SliceWrite): Promise<void> {
    const { client, signal } = this.#options;
    const call = { signal, fieldManager: 'portolan-endpointslices', retryForMs: 0 };
    const of = resources.endpointSlices;
    switch (write.verb) {
      case 'create': {
        const name = `${service!.name.slice(0, 240)}-${this.#suffix()}`;
        const made = await client.create(of, sliceObject(service!, name, write.content), call);
        if (!this.#book.written(sliceView(made))) this.#queue.add(service!.key);
        return;
      }
      case 'update': {
        const { slice, content } = write;
        const gone = Object.keys(slice.labels).filter((label) => !(label in content.labels));
        const object = sliceObject(service!, slice.name, content);
        const patch = {
          metadata: {
            resourceVersion: slice.version,
            labels: { ...object.metadata.labels, ...Object.fromEntries(gone.map((label) => [label, null])) },
            ownerReferences: object.metadata.ownerReferences,
          },
          endpoints: object.endpoints,
          ports: object.ports,
        };
        try {
          const patched = await client.patch(of, slice, patch, call);
          if (!this.#book.written(sliceView(patched))) this.#queue.add(service!.key);
        } catch (error) {
          if (isNetError(error, 'CLIENT_NOT_FOUND')) this.#book.removed(slice);
          // Whatever made us wrong, e.g. a restored backup with older revisions: the server is right.
          if (isNetError(error, 'CLIENT_CONFLICT'))
            this.#book.reread(sliceView(await client.get(of, slice, { signal, retryForMs: 0 })));
          throw error;
        }
        return;
      }
      case 'delete':
        try {
          await client.delete(of, write.slice, { signal, preconditions: { uid: write.slice.uid } });
        } catch (error) {
          if (!isNetError(error, 'CLIENT_NOT_FOUND') && !isNetError(error, 'CLIENT_CONFLICT')) throw error;
        }
        this.#book.removed(write.slice);
    }
  }

  /** Five letters and digits that make no words, as Kubernetes' generateName. */
  #suffix(): string {
    const alphabet = 'bcdfghjklmnpqrstvwxz2456789';
    return Array.from({ length: 5 }, () => alphabet[Math.floor(this.#random() * alphabet.length)]).join('');
  }
}

/** Whether a change of a pod can change an endpoint. */
function matters(a: PodView, b: PodView): boolean {
  return (
    a.uid !== b.uid ||
    a.ready !== b.ready ||
    a.deleting !== b.deleting ||
    a.finished !== b.finished ||
    a.nodeName !== b.nodeName ||
    a.ips.join() !== b.ips.join() ||
    a.hostname !== b.hostname ||
    a.subdomain !== b.subdomain ||
    JSON.stringify(a.labels) !== JSON.stringify(b.labels) ||
    JSON.stringify(a.namedPorts) !== JSON.stringify(b.namedPorts)
  );
}

function sliceObject(service: ServiceView, name: string, content: SliceContent): EndpointSlice {
  return {
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: {
      name,
      namespace: service.namespace,
      labels: { ...content.labels },
      ownerReferences: [
        {
          apiVersion: 'v1',
          kind: 'Service',
          name: service.name,
          uid: service.uid,
          controller: true,
          blockOwnerDeletion: true,
        },
      ],
    },
    addressType: content.addressType,
    endpoints: content.endpoints.map((text) => JSON.parse(text) as EndpointSliceEndpoint),
    ports: content.ports.map((port) => ({ ...port })),
  };
}
