/** A deleted namespace goes after everything in it: first the contents, then the `kubernetes` finalizer. */
import { isNetError } from '../../errors/net-error.ts';
import type { Namespace } from '../../model/kubernetes.ts';
import type { StoreEvent, Watch } from '../../store/types.ts';
import { deleteObject } from '../registry/deletion.ts';
import { objectOf } from '../registry/objects.ts';
import type { Registry } from '../registry/registry.ts';
import { keyOf, prefixOf, resourceOfKind, storedResources } from '../resources.ts';
import { WorkQueue } from './work-queue.ts';

const FINALIZER = 'kubernetes';

export class NamespaceCollector {
  readonly #registry: Registry;
  readonly #queue: WorkQueue;
  readonly #watches: Watch[];
  /** Namespaces on their way out: a delete inside one of them may be the last. */
  readonly #terminating = new Set<string>();
  readonly #namespaces = resourceOfKind('Namespace');

  constructor(registry: Registry, onError: (key: string, error: unknown) => void) {
    this.#registry = registry;
    this.#queue = new WorkQueue((name) => this.#look(name), onError);
    const { store } = registry;
    for (const entry of store.range(prefixOf(this.#namespaces, undefined)))
      this.#noteNamespace(objectOf(entry) as Namespace);
    this.#watches = storedResources.map((resource) =>
      store.watch(prefixOf(resource, undefined), store.revision, (events) =>
        resource === this.#namespaces ? this.#onNamespaces(events) : this.#onContents(events),
      ),
    );
  }

  async close(): Promise<void> {
    for (const watch of this.#watches) watch.close();
    await this.#queue.close();
  }

  #onNamespaces(events: readonly StoreEvent[]): void {
    for (const { type, entry } of events) {
      const namespace = objectOf(entry) as Namespace;
      if (type === 'delete') this.#terminating.delete(namespace.metadata.name);
      else this.#noteNamespace(namespace);
    }
  }

  #noteNamespace({ metadata }: Namespace): void {
    if (metadata.deletionTimestamp === undefined) return;
    this.#terminating.add(metadata.name);
    this.#queue.add(metadata.name);
  }

  #onContents(events: readonly StoreEvent[]): void {
    if (this.#terminating.size === 0) return;
    for (const { entry } of events) {
      const namespace = entry.key.split('/', 2)[1]!;
      if (this.#terminating.has(namespace)) this.#queue.add(namespace);
    }
  }

  async #look(name: string): Promise<void> {
    const { store } = this.#registry;
    const entry = store.get(keyOf(this.#namespaces, undefined, name));
    const namespace = entry && (objectOf(entry) as Namespace);
    if (!namespace || namespace.metadata.deletionTimestamp === undefined) return;
    if (!namespace.spec?.finalizers?.includes(FINALIZER)) return;
    let left = 0;
    for (const resource of storedResources) {
      if (!resource.schema.namespaced) continue;
      const entries = [...store.range(prefixOf(resource, name))];
      left += entries.length;
      await Promise.all(
        entries.map(async (content) => {
          const { metadata } = objectOf(content);
          // Someone else's finalizer or grace period: its end brings us back here.
          if (metadata.deletionTimestamp !== undefined) return;
          try {
            const { removed } = await deleteObject(this.#registry, resource, name, metadata.name, {
              propagation: 'Background',
            });
            if (removed) left--;
          } catch (error) {
            if (!isNetError(error, 'API_NOT_FOUND')) throw error;
            left--;
          }
        }),
      );
    }
    if (left > 0) return;
    await this.#registry.update(
      this.#namespaces,
      undefined,
      name,
      (current) => {
        const next = current as Namespace;
        const finalizers = (next.spec?.finalizers ?? []).filter((finalizer) => finalizer !== FINALIZER);
        next.spec = finalizers.length > 0 ? { finalizers } : {};
        return { next };
      },
      { subresource: 'finalize' },
    );
  }
}
