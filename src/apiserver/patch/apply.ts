/**
 * Server-side apply: the applied configuration is merged into the object, fields that this manager applied before
 * and leaves out now are removed unless someone else owns them, and taking a field that another manager owns with
 * another value is a conflict.
 * Source: sigs.k8s.io/structured-merge-diff v4 merge/update.go; apimachinery `util/managedfields` v1.32.
 */
import { apiPatchError } from '../../errors/api-patch.ts';
import { isNetError } from '../../errors/net-error.ts';
import type { KubeObject } from '../../model/kubernetes.ts';
import { decodeObject, isObject, setOwn } from '../schema/decode.ts';
import { applyDefaults } from '../schema/defaults/index.ts';
import { groupVersionOf, type KindSchema } from '../schema/kinds.ts';
import { equalJson } from '../schema/validate/field-errors.ts';
import {
  difference,
  equalSets,
  type FieldSet,
  fieldPathText,
  intersection,
  isEmptySet,
  pathsOf,
  union,
} from './field-set.ts';
import {
  identity,
  type Manager,
  type Managers,
  managerText,
  ownable,
  readManagers,
  timestamp,
  withoutManagedFields,
  writeManagers,
} from './managed-fields.ts';
import { checkMergeable, compare, fieldSetOf, mergeValues, removeFields, withNamedFields } from './typed.ts';

/** Where client-side `kubectl apply` keeps what it applied last. */
const lastAppliedAnnotation = 'kubectl.kubernetes.io/last-applied-configuration';

export interface ApplyOptions {
  readonly schema: KindSchema;
  /** What is applied, as JSON. */
  readonly config: unknown;
  /** The stored object, or undefined to create. */
  readonly current: KubeObject | undefined;
  readonly manager: string;
  readonly force: boolean;
  readonly subresource: string;
  readonly now: Date;
}

/**
 * The object after applying, with its metadata.managedFields. Throws API_APPLY_CONFLICT, API_PATCH_INVALID_FIELD,
 * API_PATCH_UNKNOWN_FIELDS, API_PATCH_MANAGED_FIELDS.
 */
export function serverSideApply(options: ApplyOptions): KubeObject {
  try {
    return applyOnce(options);
  } catch (error) {
    // Objects that client-side kubectl apply made are owned by other manager names; the same kubectl may take over
    // what it applied itself, as long as nobody changed the values since.
    if (!isNetError(error, 'API_APPLY_CONFLICT') || options.manager !== 'kubectl' || !options.current)
      throw error;
    const conflicting = error.context['paths'] as FieldSet | undefined;
    const allowed = unchangedSinceLastApplied(options.schema, options.current);
    if (!conflicting || !allowed || !isEmptySet(difference(conflicting, allowed))) throw error;
    return applyOnce({ ...options, force: true });
  }
}

function applyOnce(options: ApplyOptions): KubeObject {
  const { schema, current, force, subresource, now } = options;
  const config = readConfig(schema, options.config);
  const live = current ? withoutManagedFields(current) : blank(config);
  const managers = readManagers(current?.metadata.managedFields) ?? new Map();
  const applied = fieldSetOf(schema.type, config);
  const self: Manager = {
    name: options.manager,
    operation: 'Apply',
    apiVersion: groupVersionOf(schema),
    subresource,
    time: timestamp(now),
    set: ownable(applied, schema, subresource),
  };
  const key = identity(self);
  const last = managers.get(key);
  managers.set(key, self);
  const merged = mergeValues(schema.type, live, config);
  const pruned = last ? pruneLeftOut(schema, merged, last.set, applied, managers) : merged;
  const next = decodeObject(schema, pruned).object;
  const stored = asStored(schema, next);
  settleConflicts(managers, self, writtenFields(schema, live, pruned, stored), force);
  if (options.manager === 'kubectl') rewriteLastApplied(next, options.config);
  // Nothing changed: the times stay as well, so that the store sees the same object.
  if (last && equalSets(last.set, self.set) && equalJson(asStored(schema, live), stored))
    self.time = last.time;
  const entries = writeManagers(managers);
  if (entries.length > 0) next.metadata.managedFields = entries;
  return next;
}

/** Type errors and unknown fields refuse an apply whatever the request's fieldValidation says. */
function readConfig(schema: KindSchema, json: unknown): KubeObject {
  if (isObject(json) && isObject(json['metadata']) && json['metadata']['managedFields'] !== undefined)
    throw apiPatchError('API_PATCH_MANAGED_FIELDS', {});
  const decoded = decodeObject(schema, json, { keepZeros: true });
  const { namespace, name } = decoded.object.metadata;
  const object = `(${namespace ? `${namespace}/` : ''}${name}; ${schema.group}/${schema.version}, Kind=${schema.kind})`;
  if (decoded.unknownFields.length > 0)
    throw apiPatchError('API_PATCH_UNKNOWN_FIELDS', { object, fields: decoded.unknownFields });
  const fault = decoded.typeErrors[0];
  if (fault)
    throw apiPatchError('API_PATCH_INVALID_FIELD', {
      object,
      field: `.${fault.field}`,
      reason: fault.message,
    });
  checkMergeable(schema.type, decoded.object, object);
  return decoded.object;
}

function blank(config: KubeObject): KubeObject {
  const { name, namespace } = config.metadata;
  return {
    apiVersion: config.apiVersion,
    kind: config.kind,
    metadata: { name, ...(namespace !== undefined && { namespace }) },
  };
}

/**
 * Removes what this manager applied last and leaves out now, unless another manager owns it. A struct goes as a
 * whole, with the defaults that the server filled in, when nothing in it is owned any more; metadata, spec and
 * status as such stay.
 */
function pruneLeftOut(
  schema: KindSchema,
  merged: unknown,
  last: FieldSet,
  applied: FieldSet,
  managers: Managers,
): unknown {
  const { type } = schema;
  const named = (set: FieldSet) => withNamedFields(type, set);
  const mine = named(last);
  for (const child of mine.children.values()) if (child.children.size > 0) child.self = false;
  const present = named(fieldSetOf(type, merged));
  const pruned = removeFields(type, merged, mine) ?? {};
  let owned = union(named(fieldSetOf(type, pruned)), named(applied));
  for (const manager of managers.values()) owned = union(owned, named(manager.set));
  const withOwned = removeFields(type, merged, difference(present, owned)) ?? {};
  const gone = difference(present, named(fieldSetOf(type, withOwned)));
  return removeFields(type, merged, intersection(gone, mine)) ?? {};
}

interface Written {
  /** Fields that have another value afterwards. */
  readonly changed: FieldSet;
  readonly removed: FieldSet;
}

/**
 * What an apply does to the stored object. A field counts as changed when it is written with another value and the
 * object that would be stored differs there, too: `hostNetwork: false` changes nothing where nothing was, and a list
 * without the defaults that the server filled in is the same list.
 */
function writtenFields(schema: KindSchema, live: KubeObject, pruned: unknown, stored: KubeObject): Written {
  const asked = compare(schema.type, live, pruned);
  const done = compare(schema.type, live, stored);
  const differs = union(union(done.added, done.modified), done.removed);
  return { changed: intersection(union(asked.added, asked.modified), differs), removed: asked.removed };
}

/** The object as it would be stored, apart from what the server allocates. */
function asStored(schema: KindSchema, value: unknown): KubeObject {
  const { object } = decodeObject(schema, value);
  applyDefaults(schema, object);
  return object;
}

/** Finds fields of other managers that this apply changes; throws, or takes them over with force. */
function settleConflicts(managers: Managers, self: Manager, written: Written, force: boolean): void {
  const others = [...managers.values()].filter((manager) => manager !== self);
  const conflicts = others
    .map((manager) => ({ manager, set: intersection(manager.set, written.changed) }))
    .filter(({ set }) => !isEmptySet(set));
  if (!force && conflicts.length > 0)
    throw apiPatchError('API_APPLY_CONFLICT', {
      conflicts: conflicts.flatMap(({ manager, set }) =>
        pathsOf(set).map((path) => ({ manager: managerText(manager), field: fieldPathText(path) })),
      ),
      paths: conflicts.map(({ set }) => set).reduce(union),
    });
  for (const { manager, set } of conflicts) manager.set = difference(manager.set, set);
  for (const manager of others) manager.set = difference(manager.set, written.removed);
}

/** The fields of the last client-side apply that still have the value applied then. */
function unchangedSinceLastApplied(schema: KindSchema, current: KubeObject): FieldSet | undefined {
  const text = current.metadata.annotations?.[lastAppliedAnnotation];
  if (!text) return undefined;
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return undefined;
  }
  const applied = decodeObject(schema, json).object;
  const live = withoutManagedFields(current);
  const change = compare(schema.type, live, asStored(schema, mergeValues(schema.type, live, applied)));
  return difference(fieldSetOf(schema.type, applied), union(change.modified, change.added));
}

/**
 * Keeps the annotation true, so that an older kubectl may go back to client-side apply. The text is the one that
 * kubectl itself writes: members sorted, empty annotations, a line feed.
 */
function rewriteLastApplied(object: KubeObject, config: unknown): void {
  if (object.metadata.annotations?.[lastAppliedAnnotation] === undefined) return;
  const { metadata } = config as KubeObject;
  const { [lastAppliedAnnotation]: _, ...annotations } = metadata.annotations ?? {};
  const applied = { ...(config as object), metadata: { ...metadata, annotations } };
  object.metadata.annotations = {
    ...object.metadata.annotations,
    [lastAppliedAnnotation]: `${JSON.stringify(sorted(applied))}\n`,
  };
}

/** The value with the members of all objects in order of their names. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (!isObject(value)) return value;
  const result: Record<string, unknown> = {};
  for (const key of Object.keys(value).sort()) setOwn(result, key, sorted(value[key]));
  return result;
}
