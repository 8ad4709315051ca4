/**
 * metadata.managedFields: who set which fields. Read into managers, changed by an update or an apply, written back.
 * Source: apimachinery `util/managedfields` v1.32.
 */
import type { KubeObject } from '../../model/kubernetes.ts';
import { isObject } from '../schema/decode.ts';
import { groupVersionOf, type KindSchema } from '../schema/index.ts';
import { resolve, type StructType } from '../schema/types/field.ts';
import {
  difference,
  emptySet,
  type FieldSet,
  fromFieldsV1,
  insert,
  isEmptySet,
  recursiveDifference,
  toFieldsV1,
  union,
} from './field-set.ts';
import { compare } from './typed.ts';

export type Operation = 'Apply' | 'Update';

export interface Manager {
  readonly name: string;
  readonly operation: Operation;
  readonly apiVersion: string;
  readonly subresource: string;
  /** RFC 3339, when its set last changed. */
  time: string | undefined;
  set: FieldSet;
}

/** More updaters than this share one entry, so that objects do not grow without end. */
const maxUpdateManagers = 10;
const ancientChanges = 'ancient-changes';

/** What makes two entries the same manager: appliers are known by name alone, whatever the version. */
export function identity(manager: Omit<Manager, 'set' | 'time'>): string {
  const version = manager.operation === 'Apply' ? '' : manager.apiVersion;
  return JSON.stringify([manager.name, manager.operation, version, manager.subresource]);
}

export type Managers = Map<string, Manager>;

/** The managers of an object; undefined when its managedFields cannot be read. */
export function readManagers(entries: unknown): Managers | undefined {
  const managers: Managers = new Map();
  for (const entry of Array.isArray(entries) ? entries : []) {
    if (!isObject(entry)) return undefined;
    const { manager = '', operation, apiVersion = '', subresource = '', time, fieldsType, fieldsV1 } = entry;
    if (operation !== 'Apply' && operation !== 'Update') return undefined;
    if (typeof manager !== 'string' || typeof apiVersion !== 'string' || typeof subresource !== 'string')
      return undefined;
    if (fieldsType !== 'FieldsV1') return undefined;
    const set = fromFieldsV1(fieldsV1 ?? {});
    if (!set) return undefined;
    const read: Manager = {
      name: manager,
      operation,
      apiVersion,
      subresource,
      time: typeof time === 'string' ? time : undefined,
      set,
    };
    managers.set(identity(read), read);
  }
  return managers;
}

/** Managers as entries of metadata.managedFields, in the order that Kubernetes uses. */
export function writeManagers(managers: Managers): unknown[] {
  const by = (manager: Manager) =>
    [manager.operation, manager.time ?? '', manager.name, manager.apiVersion, manager.subresource].join('\0');
  return [...managers.values()]
    .filter((manager) => !isEmptySet(manager.set))
    .sort((a, b) => (by(a) < by(b) ? -1 : 1))
    .map((manager) => ({
      manager: manager.name,
      operation: manager.operation,
      apiVersion: manager.apiVersion,
      ...(manager.time !== undefined && { time: manager.time }),
      fieldsType: 'FieldsV1',
      fieldsV1: toFieldsV1(manager.set),
      ...(manager.subresource !== '' && { subresource: manager.subresource }),
    }));
}

/** Fields of metadata that nobody owns: identity and what the server keeps. */
const strippedMeta = [
  'name',
  'namespace',
  'creationTimestamp',
  'selfLink',
  'uid',
  'clusterName',
  'generation',
  'managedFields',
  'resourceVersion',
];

/** Fields that a request through this door does not change, and so cannot own. */
export function resetFields(schema: KindSchema, subresource: string): FieldSet {
  const set = emptySet();
  if (!schema.hasStatus) return set;
  if (subresource === 'status') {
    insert(set, ['f:spec']);
    if (schema.kind === 'Pod') {
      insert(set, ['f:metadata', 'f:deletionTimestamp']);
      insert(set, ['f:metadata', 'f:ownerReferences']);
    }
    if (schema.kind === 'ServiceCIDR') insert(set, ['f:metadata']);
  } else if (schema.kind !== 'Node') insert(set, ['f:status']);
  return set;
}

/** The set without what nobody may own. */
export function ownable(set: FieldSet, schema: KindSchema, subresource: string): FieldSet {
  const stripped = emptySet();
  insert(stripped, ['f:apiVersion']);
  insert(stripped, ['f:kind']);
  for (const name of strippedMeta) insert(stripped, ['f:metadata', `f:${name}`]);
  const metadata = emptySet();
  insert(metadata, ['f:metadata']);
  const owned = recursiveDifference(set, union(stripped, resetFields(schema, subresource)));
  return difference(owned, metadata);
}

/** The object as fields are reckoned: without managedFields. */
export function withoutManagedFields(object: KubeObject): KubeObject {
  const { managedFields: _, ...metadata } = object.metadata;
  return { ...object, metadata };
}

/**
 * What a new object is compared with. Kubernetes compares with the zero value of its own types, in which structs
 * that are not pointers and lists that are always written are there already, so nobody owns them as such.
 */
function blankOf(type: StructType): Record<string, unknown> {
  const blank: Record<string, unknown> = {};
  for (const [name, field] of type.fields) {
    const of = resolve(field.type);
    if (of.is === 'struct' && (field.required || !field.keepZero)) blank[name] = blankOf(of);
    else if (of.is === 'list' && field.required) blank[name] = null;
  }
  return blank;
}

export interface TrackOptions {
  readonly schema: KindSchema;
  /** The stored object, or undefined on creation. */
  readonly old: KubeObject | undefined;
  /** The object about to be stored; its metadata.managedFields are rewritten in place. */
  readonly next: KubeObject;
  /** Name of the manager: fieldManager of the request, else the start of its User-Agent. */
  readonly manager: string;
  readonly operation: 'Update';
  readonly subresource: '' | 'status' | string;
  readonly now: Date;
}

/**
 * Records what an update changed. A request may rewrite managedFields itself (kubectl moves client-side apply to
 * server-side apply that way); unreadable or missing ones are taken from the stored object.
 */
export function trackManagedFields(options: TrackOptions): KubeObject {
  const { schema, old, next, manager: name, subresource, now } = options;
  const managers = managersForUpdate(old, next, subresource);
  const change = compare(
    schema.type,
    old ? withoutManagedFields(old) : blankOf(schema.type),
    withoutManagedFields(next),
  );
  const taken = ownable(union(change.added, change.modified), schema, subresource);
  const gone = recursiveDifference(change.removed, resetFields(schema, subresource));
  for (const manager of managers.values()) manager.set = difference(difference(manager.set, taken), gone);
  if (!isEmptySet(taken)) {
    const self: Manager = {
      name,
      operation: 'Update',
      apiVersion: groupVersionOf(schema),
      subresource,
      time: timestamp(now),
      set: taken,
    };
    const before = managers.get(identity(self));
    if (before) self.set = union(before.set, taken);
    managers.set(identity(self), self);
  }
  capUpdaters(managers);
  const entries = writeManagers(managers);
  if (entries.length > 0) next.metadata.managedFields = entries;
  else delete next.metadata.managedFields;
  return next;
}

function managersForUpdate(old: KubeObject | undefined, next: KubeObject, subresource: string): Managers {
  const stored = () => readManagers(old?.metadata.managedFields) ?? new Map();
  if (subresource !== '') return stored();
  const sent = next.metadata.managedFields;
  const reset = sent && (sent.length === 0 || (sent.length === 1 && isBlankEntry(sent[0])));
  if (reset) return new Map();
  const managers = readManagers(sent);
  return managers && managers.size > 0 ? managers : stored();
}

const isBlankEntry = (entry: unknown) => isObject(entry) && Object.keys(entry).length === 0;

function capUpdaters(managers: Managers): void {
  const updaters = [...managers].filter(
    ([, manager]) => manager.operation === 'Update' && !isEmptySet(manager.set),
  );
  if (updaters.length <= maxUpdateManagers) return;
  updaters.sort(([, a], [, b]) => ((a.time ?? '') < (b.time ?? '') ? -1 : 1));
  for (const [key, manager] of updaters.slice(0, updaters.length - maxUpdateManagers + 1)) {
    managers.delete(key);
    const bucket: Manager = { ...manager, name: ancientChanges, subresource: '' };
    const before = managers.get(identity(bucket));
    if (before) bucket.set = union(before.set, manager.set);
    managers.set(identity(bucket), bucket);
  }
}

/** RFC 3339 without fractions of a second. */
export function timestamp(now: Date): string {
  return `${now.toISOString().slice(0, 19)}Z`;
}

/** As Kubernetes names a manager in a conflict: `"kubectl" with subresource "status" using v1`. */
export function managerText(manager: Manager): string {
  const subresource =
    manager.subresource === '' ? '' : ` with subresource ${JSON.stringify(manager.subresource)}`;
  const using = manager.operation === 'Update' ? ` using ${manager.apiVersion}` : '';
  return `${JSON.stringify(manager.name)}${subresource}${using}`;
}
