/**
 * Collects what has lost its owners, and waits for dependents where an owner was deleted in the foreground.
 *
 *   owner gone                  ► dependents whose owners are all gone are deleted
 *   owner with foregroundDeletion ► dependents are deleted; when no blocking one is left, the finalizer goes
 *   owner with orphan           ► dependents lose their reference to it, then the finalizer goes
 *
 * After pkg/controller/garbagecollector. Owners of kinds that are not served here can't be judged: they count as there.
 */
import { isNetError } from '../../errors/net-error.ts';
import type { KubeObject, OwnerReference } from '../../model/kubernetes.ts';
import type { StoreEntry, StoreEvent, Watch } from '../../store/types.ts';
import { collectionOf } from '../../store/types.ts';
import { deleteObject, FOREGROUND, ORPHAN, type Propagation } from '../registry/deletion.ts';
import { objectOf } from '../registry/objects.ts';
import type { Registry } from '../registry/registry.ts';
import { findResourceByKind, keyOf, prefixOf, type Resource, storedResources } from '../resources.ts';
import { WorkQueue } from './work-queue.ts';

const byCollection = new Map(storedResources.map((resource) => [resource.collection, resource]));

/** What is known about an owner that an object names. */
type OwnerState = 'there' | 'gone' | 'waiting';

const refsOf = (object: KubeObject): OwnerReference[] => object.metadata.ownerReferences ?? [];
const finalizersOf = (object: KubeObject): string[] => object.metadata.finalizers ?? [];

export class GarbageCollector {
  readonly #registry: Registry;
  readonly #queue: WorkQueue;
  readonly #watches: Watch[];
  /** Keys of the objects that name an owner, by the owner's uid. */
  readonly #dependents = new Map<string, Set<string>>();

  constructor(registry: Registry, onError: (key: string, error: unknown) => void) {
    this.#registry = registry;
    this.#queue = new WorkQueue((key) => this.#look(key), onError);
    const { store } = registry;
    for (const resource of storedResources)
      for (const entry of store.range(prefixOf(resource, undefined)))
        if (isInvolved(entry)) this.#note(entry);
    this.#watches = storedResources.map((resource) =>
      store.watch(prefixOf(resource, undefined), store.revision, (events) => this.#onEvents(events)),
    );
  }

  async close(): Promise<void> {
    for (const watch of this.#watches) watch.close();
    await this.#queue.close();
  }

  #onEvents(events: readonly StoreEvent[]): void {
    for (const { type, entry, previous } of events) {
      if (previous?.value.includes('"ownerReferences"')) this.#forget(previous);
      if (type === 'put') {
        if (isInvolved(entry)) this.#note(entry);
        continue;
      }
      const object = objectOf(entry);
      for (const dependent of this.#dependents.get(object.metadata.uid ?? '') ?? [])
        this.#queue.add(dependent);
      // An owner may wait for this one.
      for (const ref of refsOf(object)) {
        const owner = this.#ownerKey(ref, object);
        if (owner !== undefined) this.#queue.add(owner);
      }
    }
  }

  #note(entry: StoreEntry): void {
    const object = objectOf(entry);
    for (const { uid } of refsOf(object)) {
      const group = this.#dependents.get(uid) ?? new Set();
      this.#dependents.set(uid, group.add(entry.key));
    }
    this.#queue.add(entry.key);
  }

  #forget(entry: StoreEntry): void {
    for (const { uid } of refsOf(objectOf(entry))) {
      const group = this.#dependents.get(uid);
      group?.delete(entry.key);
      if (group?.size === 0) this.#dependents.delete(uid);
    }
  }

  #ownerKey(ref: OwnerReference, object: KubeObject): string | undefined {
    const resource = findResourceByKind(ref.apiVersion, ref.kind);
    return resource && keyOf(resource, object.metadata.namespace, ref.name);
  }

  #ownerState(ref: OwnerReference, object: KubeObject): OwnerState {
    const key = this.#ownerKey(ref, object);
    if (key === undefined) return 'there';
    const entry = this.#registry.store.latest(key);
    const owner = entry && objectOf(entry);
    if (!owner || owner.metadata.uid !== ref.uid) return 'gone';
    const waits = owner.metadata.deletionTimestamp !== undefined && finalizersOf(owner).includes(FOREGROUND);
    return waits ? 'waiting' : 'there';
  }

  async #look(key: string): Promise<void> {
    const entry = this.#registry.store.get(key);
    const resource = byCollection.get(collectionOf(key));
    if (!entry || !resource) return;
    try {
      const object = objectOf(entry);
      if (object.metadata.deletionTimestamp !== undefined) await this.#finishOwner(resource, object);
      else if (refsOf(object).length > 0) await this.#judgeDependent(resource, object);
    } catch (error) {
      if (!isNetError(error, 'API_NOT_FOUND')) throw error;
    }
  }

  /** Deletes an object that nobody owns any more, or cuts references to owners that are gone. */
  async #judgeDependent(resource: Resource, object: KubeObject): Promise<void> {
    const states = refsOf(object).map((ref) => ({ ref, state: this.#ownerState(ref, object) }));
    const there = states.filter(({ state }) => state === 'there');
    if (there.length === states.length) return;
    const { namespace, name, uid } = object.metadata;
    if (there.length > 0) {
      const kept = new Set(there.map(({ ref }) => ref.uid));
      await this.#keepReferences(resource, object, (ref) => kept.has(ref.uid));
      return;
    }
    const waited = states.some(({ state }) => state === 'waiting');
    const has = finalizersOf(object);
    const propagation: Propagation = has.includes(ORPHAN)
      ? 'Orphan'
      : has.includes(FOREGROUND) || (waited && this.#dependents.has(uid ?? ''))
        ? 'Foreground'
        : 'Background';
    await deleteObject(this.#registry, resource, namespace, name, {
      propagation,
      ...(uid !== undefined && { uid }),
    });
  }

  /** Takes the finalizer of an owner away once its dependents are dealt with. */
  async #finishOwner(resource: Resource, owner: KubeObject): Promise<void> {
    const finalizer = [FOREGROUND, ORPHAN].find((name) => finalizersOf(owner).includes(name));
    if (finalizer === undefined) return;
    const uid = owner.metadata.uid ?? '';
    let blocking = false;
    for (const key of [...(this.#dependents.get(uid) ?? [])]) {
      const entry = this.#registry.store.get(key);
      const dependentResource = byCollection.get(collectionOf(key));
      if (!entry || !dependentResource) continue;
      const dependent = objectOf(entry);
      const ref = refsOf(dependent).find((r) => r.uid === uid);
      if (!ref) continue;
      if (finalizer === ORPHAN)
        await this.#keepReferences(dependentResource, dependent, (r) => r.uid !== uid);
      else {
        blocking ||= ref.blockOwnerDeletion === true;
        this.#queue.add(key);
      }
    }
    if (blocking) return;
    await this.#edit(resource, owner, (next) => {
      const left = finalizersOf(next).filter((f) => f !== finalizer);
      if (left.length > 0) next.metadata.finalizers = left;
      else delete next.metadata.finalizers;
    });
  }

  #keepReferences(
    resource: Resource,
    object: KubeObject,
    keep: (ref: OwnerReference) => boolean,
  ): Promise<void> {
    return this.#edit(resource, object, (next) => {
      const left = refsOf(next).filter(keep);
      if (left.length > 0) next.metadata.ownerReferences = left;
      else delete next.metadata.ownerReferences;
    });
  }

  /** Changes the metadata of exactly this object, not of a later one of its name. */
  async #edit(resource: Resource, object: KubeObject, edit: (next: KubeObject) => void): Promise<void> {
    const { namespace, name, uid } = object.metadata;
    await this.#registry.update(
      resource,
      namespace,
      name,
      (current) => {
        const next = current!;
        if (next.metadata.uid === uid) edit(next);
        return { next };
      },
      { subresource: 'finalize' },
    );
  }
}

/** Cheap test on the text, so that the many objects without owners are never parsed for this. */
function isInvolved({ value }: StoreEntry): boolean {
  return (
    value.includes('"ownerReferences"') ||
    (value.includes('"deletionTimestamp"') && value.includes('"finalizers"'))
  );
}
