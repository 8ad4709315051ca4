/**
 * Objects of all kinds over the store: every change, whether it comes from a client or from the server itself,
 * goes through here.
 *
 *   create:  decode ► defaults ► prepare ► namespace ► validate ► allocate ► managed fields ► store
 *   update:  read ► change ► keep what is the server's ► validate ► allocate ► store, repeated on a conflict
 *
 * Between reading and handing to the store nothing is awaited, so with the embedded store a conflict can only
 * be the client's own.
 */
import { isDeepStrictEqual } from 'node:util';
import { apiError, type FieldCause } from '../../errors/api.ts';
import { isNetError } from '../../errors/net-error.ts';
import type { KubeObject } from '../../model/kubernetes.ts';
import type { Store, StoreEntry } from '../../store/types.ts';
import { trackManagedFields } from '../patch/index.ts';
import { keyOf, keyOfObject, type Resource, resourceOfKind } from '../resources.ts';
import { applyDefaults, validateCreate, validateUpdate } from '../schema/index.ts';
import { badRequest } from '../status.ts';
import { copyOf, generateName, newUid, objectOf, textOf, timeText } from './objects.ts';
import type { Strategy } from './strategy.ts';

export interface RegistryOptions {
  readonly store: Store;
  readonly strategies: ReadonlyMap<string, Strategy>;
  readonly clock: () => Date;
}

export interface WriteOptions {
  readonly dryRun?: boolean;
  /** Field manager of the request; the server's own work is not tracked. */
  readonly manager?: string;
}

/** What a change makes of an object. */
export interface Changed {
  readonly next: KubeObject;
  /** The change is an apply that has kept the managed fields itself. */
  readonly managed?: boolean;
}

export interface UpdateOptions extends WriteOptions {
  /** Other than `''` and `status` are changes by the server itself, which pass no validation. */
  readonly subresource?: '' | 'status' | 'binding' | 'finalize' | 'delete' | 'repair';
  /** Create the object when it is absent. */
  readonly createMissing?: boolean;
}

export interface Written {
  readonly object: KubeObject;
  /** Revision-stamped JSON text, undefined for a dry run. */
  readonly entry?: StoreEntry;
  readonly created: boolean;
  readonly removed: boolean;
}

/** Attempts to find a free generated name: apiserver/pkg/registry/generic/registry/store.go, maxNameGenerationCreateAttempts. */
const NAME_ATTEMPTS = 8;
const CONFLICT_ATTEMPTS = 5;
const noStrategy: Strategy = {};

export class Registry {
  readonly store: Store;
  readonly clock: () => Date;
  readonly #strategies: ReadonlyMap<string, Strategy>;
  readonly #namespaces = resourceOfKind('Namespace');

  constructor(options: RegistryOptions) {
    this.store = options.store;
    this.clock = options.clock;
    this.#strategies = options.strategies;
  }

  strategyOf(resource: Resource): Strategy {
    return this.#strategies.get(resource.stored.kind) ?? noStrategy;
  }

  /** @throws API_NOT_FOUND */
  get(resource: Resource, namespace: string | undefined, name: string): StoreEntry {
    const entry = this.store.get(keyOf(resource, namespace, name));
    if (!entry) throw notFound(resource, name);
    return entry;
  }

  find(resource: Resource, namespace: string | undefined, name: string): KubeObject | undefined {
    const entry = this.store.get(keyOf(resource, namespace, name));
    return entry && objectOf(entry);
  }

  /** Stores a new object; `object` is the decoded body and is changed in place. */
  async create(
    resource: Resource,
    namespace: string | undefined,
    object: KubeObject,
    options: WriteOptions & { managed?: boolean },
  ): Promise<Written> {
    for (let attempt = 1; ; attempt++) {
      const next = structuredClone(object);
      try {
        return await this.#createOnce(resource, namespace, next, options);
      } catch (error) {
        const generated = !object.metadata.name && object.metadata.generateName !== undefined;
        if (generated && attempt < NAME_ATTEMPTS && isNetError(error, 'API_ALREADY_EXISTS')) continue;
        throw error;
      }
    }
  }

  async #createOnce(
    resource: Resource,
    namespace: string | undefined,
    next: KubeObject,
    options: WriteOptions & { managed?: boolean },
  ): Promise<Written> {
    const strategy = this.strategyOf(resource);
    const meta = next.metadata;
    checkNamespace(resource, namespace, next);
    if (meta.resourceVersion !== undefined && meta.resourceVersion !== '' && meta.resourceVersion !== '0')
      throw badRequest('resourceVersion should not be set on objects to be created');
    if (!meta.name && meta.generateName) meta.name = generateName(meta.generateName);
    const key = keyOfObject(resource, next);
    // In Kubernetes, too, a name that is taken is told before faults of the object.
    if (meta.name && this.store.latest(key)) throw alreadyExists(resource, meta.name);
    delete meta.resourceVersion;
    delete meta.deletionTimestamp;
    delete meta.deletionGracePeriodSeconds;
    meta.uid = newUid();
    meta.creationTimestamp = timeText(this.clock());
    if (strategy.generation) meta.generation = 1;
    else delete meta.generation;
    applyDefaults(resource.stored, next);
    strategy.prepareCreate?.(next);
    this.#checkNamespaceOpen(resource, next);
    const causes = validateCreate(resource.stored, next);
    if (causes.length === 0) causes.push(...((strategy.admit?.(next, undefined) ?? []) as typeof causes));
    if (causes.length > 0) throw invalid(resource, meta.name, causes);
    // Before addresses are chosen: those are the server's, so no manager owns them.
    this.#track(resource, next, undefined, options, '');
    const reservation = strategy.allocate?.(next, undefined);
    let written: Promise<StoreEntry>;
    try {
      if (options.dryRun) {
        reservation?.undo();
        return { object: next, created: true, removed: false };
      }
      written = this.store.write({ key, expected: 0, build: (revision) => textOf(next, revision) });
    } catch (error) {
      reservation?.undo();
      throw error;
    }
    try {
      const entry = await written;
      reservation?.commit();
      return { object: objectOf(entry), entry, created: true, removed: false };
    } catch (error) {
      reservation?.undo();
      if (isNetError(error, 'STORE_CONFLICT')) throw alreadyExists(resource, meta.name);
      throw error;
    }
  }

  /**
   * Changes an object: `change` gets a private copy of what is stored (or undefined, with `createMissing`) and
   * returns what shall be stored. It may run again when someone else was faster.
   */
  async update(
    resource: Resource,
    namespace: string | undefined,
    name: string,
    change: (current: KubeObject | undefined) => Changed,
    options: UpdateOptions,
  ): Promise<Written> {
    const key = keyOf(resource, namespace, name);
    for (let attempt = 1; ; attempt++) {
      const entry = this.store.latest(key);
      if (!entry && !options.createMissing) throw notFound(resource, name);
      if (!entry) {
        const { next, managed } = change(undefined);
        try {
          return await this.create(resource, namespace, next, { ...options, managed: managed === true });
        } catch (error) {
          if (attempt < CONFLICT_ATTEMPTS && isNetError(error, 'API_ALREADY_EXISTS')) continue;
          throw error;
        }
      }
      try {
        return await this.#updateOnce(resource, key, entry, change, options);
      } catch (error) {
        if (!isNetError(error, 'STORE_CONFLICT')) throw error;
        if (attempt >= CONFLICT_ATTEMPTS) throw conflict(resource, name);
      }
    }
  }

  async #updateOnce(
    resource: Resource,
    key: string,
    entry: StoreEntry,
    change: (current: KubeObject | undefined) => Changed,
    options: UpdateOptions,
  ): Promise<Written> {
    const strategy = this.strategyOf(resource);
    const subresource = options.subresource ?? '';
    const old = objectOf(entry);
    const { next, managed = false } = change(copyOf(entry));
    const meta = next.metadata;
    checkNamespace(resource, old.metadata.namespace, next);
    if (meta.name !== old.metadata.name)
      throw badRequest(
        `the name of the object (${meta.name ?? ''}) does not match the name on the URL (${old.metadata.name})`,
      );
    if (meta.uid !== undefined && meta.uid !== '' && meta.uid !== old.metadata.uid)
      throw conflict(
        resource,
        meta.name,
        `Precondition failed: UID in precondition: ${meta.uid}, UID in object meta: ${old.metadata.uid}`,
      );
    if (
      meta.resourceVersion &&
      meta.resourceVersion !== '0' &&
      meta.resourceVersion !== String(entry.revision)
    )
      throw conflict(resource, meta.name);
    if (subresource === '') applyDefaults(resource.stored, next);
    keepServerFields(next, old, subresource);
    const after = subresource === 'status' ? statusOnly(next, old) : next;
    if (subresource === 'status') strategy.prepareStatus?.(after, old);
    else if (subresource === '') {
      if (resource.schema.hasStatus) keepStatus(after, old);
      strategy.prepareUpdate?.(after, old);
      if (strategy.generation && !sameButMeta(after, old))
        after.metadata.generation = (old.metadata.generation ?? 0) + 1;
    }
    const removes =
      after.metadata.deletionTimestamp !== undefined &&
      (after.metadata.finalizers ?? []).length === 0 &&
      (after.metadata.deletionGracePeriodSeconds ?? 0) === 0 &&
      !holdsNamespace(resource, after);
    if (subresource === '' || subresource === 'status') {
      const causes = validateUpdate(resource.stored, after, old, subresource);
      if (causes.length === 0 && subresource === '')
        causes.push(...((strategy.admit?.(after, old) ?? []) as typeof causes));
      if (causes.length > 0) throw invalid(resource, meta.name, causes);
    }
    this.#track(resource, after, old, { ...options, managed }, subresource === 'status' ? 'status' : '');
    const reservation = subresource === '' ? strategy.allocate?.(after, old) : undefined;
    let written: Promise<StoreEntry>;
    try {
      if (!removes && unchanged(after, old) && this.store.get(key) === entry) {
        reservation?.undo();
        return { object: old, entry, created: false, removed: false };
      }
      if (options.dryRun) {
        reservation?.undo();
        after.metadata.resourceVersion = String(entry.revision);
        return { object: after, created: false, removed: removes };
      }
      written = this.store.write({
        key,
        expected: entry.revision,
        build: (revision) => textOf(after, revision),
        remove: removes,
      });
    } catch (error) {
      reservation?.undo();
      throw error;
    }
    try {
      const durable = await written;
      reservation?.commit();
      if (removes) strategy.release?.(after);
      return { object: objectOf(durable), entry: durable, created: false, removed: removes };
    } catch (error) {
      reservation?.undo();
      throw error;
    }
  }

  #track(
    resource: Resource,
    next: KubeObject,
    old: KubeObject | undefined,
    options: WriteOptions & { managed?: boolean },
    subresource: '' | 'status',
  ): void {
    if (options.managed || options.manager === undefined) return;
    trackManagedFields({
      schema: resource.stored,
      old,
      next,
      manager: options.manager,
      operation: 'Update',
      subresource,
      now: this.clock(),
    });
  }

  /** Nothing new goes into a namespace that is missing or on its way out. */
  #checkNamespaceOpen(resource: Resource, object: KubeObject): void {
    if (!resource.schema.namespaced) return;
    const name = object.metadata.namespace!;
    const namespace = this.store.latest(keyOf(this.#namespaces, undefined, name));
    if (!namespace) throw notFound(this.#namespaces, name);
    if (objectOf(namespace).metadata.deletionTimestamp !== undefined)
      throw apiError('API_FORBIDDEN', {
        ...namesOf(resource),
        name: object.metadata.name,
        why: `unable to create new content in namespace ${name} because it is being terminated`,
      });
  }
}

const namesOf = (resource: Resource) => ({ group: resource.schema.group, resource: resource.schema.plural });

export const notFound = (resource: Resource, name: string) =>
  apiError('API_NOT_FOUND', { ...namesOf(resource), name });
const alreadyExists = (resource: Resource, name: string) =>
  apiError('API_ALREADY_EXISTS', { ...namesOf(resource), name });

export function conflict(
  resource: Resource,
  name: string,
  why = 'the object has been modified; please apply your changes to the latest version and try again',
) {
  return apiError('API_CONFLICT', { ...namesOf(resource), name, why });
}

export function invalid(resource: Resource, name: string, causes: readonly FieldCause[]) {
  return apiError('API_INVALID', {
    group: resource.schema.group,
    kind: resource.schema.kind,
    name: name ?? '',
    causes,
  });
}

/** The namespace of the body must be that of the URL, or absent. */
function checkNamespace(resource: Resource, namespace: string | undefined, object: KubeObject): void {
  const meta = object.metadata;
  if (!resource.schema.namespaced) {
    delete meta.namespace;
    return;
  }
  if (meta.namespace && meta.namespace !== namespace)
    throw badRequest(`the namespace of the provided object does not match the namespace sent on the request`);
  if (namespace !== undefined) meta.namespace = namespace;
}

/** Metadata that clients may send back but not change. */
function keepServerFields(next: KubeObject, old: KubeObject, subresource: string): void {
  const meta = next.metadata as unknown as Record<string, unknown>;
  const kept = old.metadata as unknown as Record<string, unknown>;
  const fields = ['uid', 'creationTimestamp', 'generateName', 'generation'];
  if (subresource !== 'delete') fields.push('deletionTimestamp', 'deletionGracePeriodSeconds');
  for (const field of fields) {
    if (kept[field] === undefined) delete meta[field];
    else meta[field] = kept[field];
  }
  delete meta['resourceVersion'];
}

function keepStatus(next: KubeObject, old: KubeObject): void {
  const to = next as KubeObject & { status?: unknown };
  const status = (old as KubeObject & { status?: unknown }).status;
  if (status === undefined) delete to.status;
  else to.status = status;
}

/**
 * A write to the status subresource changes the status, and labels and annotations, nothing else. The rest is that of
 * `old`, which nobody may change.
 */
function statusOnly(next: KubeObject, old: KubeObject): KubeObject {
  const after = { ...old, metadata: { ...old.metadata } } as KubeObject & { status?: unknown };
  const status = (next as KubeObject & { status?: unknown }).status;
  if (status === undefined) delete after.status;
  else after.status = status;
  for (const field of ['labels', 'annotations', 'managedFields'] as const) {
    if (next.metadata[field] === undefined) delete after.metadata[field];
    else (after.metadata as unknown as Record<string, unknown>)[field] = next.metadata[field];
  }
  delete after.metadata.resourceVersion;
  return after;
}

/** Equal apart from metadata and status. */
function sameButMeta(a: KubeObject, b: KubeObject): boolean {
  const strip = (object: KubeObject) => ({ ...object, metadata: null, status: null });
  return isDeepStrictEqual(strip(a), strip(b));
}

/** True when a write would change nothing but the times in managedFields: such a write keeps its revision. */
function unchanged(next: KubeObject, old: KubeObject): boolean {
  const strip = (object: KubeObject) => {
    const { resourceVersion: _revision, managedFields, ...metadata } = object.metadata;
    const managers = ((managedFields ?? []) as Record<string, unknown>[]).map(
      ({ time: _time, ...entry }) => entry,
    );
    return { ...object, metadata: { ...metadata, managers } };
  };
  return isDeepStrictEqual(strip(next), strip(old));
}

/** A namespace stays until its `spec.finalizers` are gone. */
function holdsNamespace(resource: Resource, object: KubeObject): boolean {
  if (resource.stored.kind !== 'Namespace') return false;
  return ((object as { spec?: { finalizers?: string[] } }).spec?.finalizers ?? []).length > 0;
}
