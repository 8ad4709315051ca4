/**
 * Values seen through the table of their kind: which fields a value sets, how two values differ, how one is merged
 * into another and how fields are taken out. These are the four operations that server-side apply is made of.
 * Source: sigs.k8s.io/structured-merge-diff v4, typed/.
 */
import { apiPatchError } from '../../errors/api-patch.ts';
import { isObject, setOwn } from '../schema/decode.ts';
import { type FieldType, type ListType, resolve, type StructType } from '../schema/types/field.ts';
import { equalJson } from '../schema/validate/field-errors.ts';
import { childOf, emptySet, type FieldSet, fieldPathText } from './field-set.ts';

type Members = Record<string, unknown>;

/** How apply walks a value: whole, member by member, or element by element. */
type Shape =
  | { readonly is: 'leaf' }
  | { readonly is: 'members'; typeOf(key: string): FieldType | undefined; isField(key: string): boolean }
  | { readonly is: 'elements'; readonly list: ListType; readonly of: FieldType };

const leaf: Shape = { is: 'leaf' };

function shapeOf(type: FieldType | undefined): Shape {
  if (!type || type.is === 'scalar') return leaf;
  if (type.is === 'list')
    return type.listType === 'atomic' ? leaf : { is: 'elements', list: type, of: resolve(type.of) };
  if (type.atomic || (type.is === 'struct' && type.fields.size === 0)) return leaf;
  if (type.is === 'map') {
    const of = resolve(type.of);
    return { is: 'members', typeOf: () => of, isField: () => false };
  }
  return structShape(type);
}

function structShape(type: StructType): Shape {
  return {
    is: 'members',
    typeOf: (key) => {
      const field = type.fields.get(key);
      return field && resolve(field.type);
    },
    isField: (key) => type.fields.has(key),
  };
}

/** The path element of a list's element: `k:{"name":"web"}` or `v:"x"`. Undefined when a key is missing. */
export function elementKey(list: ListType, item: unknown): string | undefined {
  if (list.listType === 'set') return `v:${JSON.stringify(item)}`;
  if (!isObject(item)) return undefined;
  const of = resolve(list.of);
  const keys: Members = {};
  for (const key of [...list.keys].sort()) {
    const value = item[key] ?? (of.is === 'struct' ? of.fields.get(key)?.default : undefined);
    if (value === undefined) return undefined;
    keys[key] = value;
  }
  return `k:${JSON.stringify(keys)}`;
}

/** Elements by key, first one wins; elements without a key are left out. */
function byKey(list: ListType, items: unknown): Map<string, unknown> {
  const result = new Map<string, unknown>();
  for (const item of Array.isArray(items) ? items : []) {
    const key = elementKey(list, item);
    if (key !== undefined && !result.has(key)) result.set(key, item);
  }
  return result;
}

/**
 * Refuses lists that apply cannot merge: an element without its keys, or two with the same. `object` names what is
 * applied, for the error.
 */
export function checkMergeable(
  type: FieldType,
  value: unknown,
  object: string,
  path: readonly string[] = [],
): void {
  const shape = shapeOf(type);
  if (shape.is === 'members' && isObject(value)) {
    for (const key of Object.keys(value)) {
      const of = shape.typeOf(key);
      if (of) checkMergeable(of, value[key], object, [...path, `f:${key}`]);
    }
  } else if (shape.is === 'elements' && Array.isArray(value)) {
    const seen = new Set<string>();
    for (const [i, item] of value.entries()) {
      const key = elementKey(shape.list, item);
      if (key === undefined)
        throw apiPatchError('API_PATCH_INVALID_FIELD', {
          object,
          field: fieldPathText(path),
          reason: `element ${i}: associative list with keys has an element that omits key field ${missingKey(shape.list, item)} (and doesn't have default value)`,
        });
      if (seen.has(key))
        throw apiPatchError('API_PATCH_INVALID_FIELD', {
          object,
          field: fieldPathText(path),
          reason: `duplicate entries for key ${fieldPathText([key])}`,
        });
      seen.add(key);
      checkMergeable(shape.of, item, object, [...path, key]);
    }
  }
}

function missingKey(list: ListType, item: unknown): string {
  const missing = list.keys.find((key) => !isObject(item) || item[key] === undefined);
  return JSON.stringify(missing ?? '');
}

/** The fields that a value sets. */
export function fieldSetOf(type: FieldType, value: unknown): FieldSet {
  const set = emptySet();
  addFields(set, type, value);
  return set;
}

function addFields(set: FieldSet, type: FieldType | undefined, value: unknown): void {
  const shape = shapeOf(type);
  if (shape.is === 'members' && isObject(value)) {
    for (const key of Object.keys(value)) {
      const child = childOf(set, `f:${key}`);
      const member = value[key];
      addFields(child, shape.typeOf(key), member);
      const bare = member === null || (isObject(member) && Object.keys(member).length === 0);
      if (bare || !shape.isField(key)) child.self = true;
      if (!child.self && child.children.size === 0) set.children.delete(`f:${key}`);
    }
  } else if (shape.is === 'elements' && Array.isArray(value)) {
    for (const [key, item] of byKey(shape.list, value)) {
      const child = childOf(set, key);
      addFields(child, shape.of, item);
      child.self = true;
    }
  } else set.self = true;
}

/** The fields in which `next` differs from `old`. */
export interface Comparison {
  readonly added: FieldSet;
  readonly modified: FieldSet;
  readonly removed: FieldSet;
}

export function compare(type: FieldType, old: unknown, next: unknown): Comparison {
  const added = emptySet();
  const modified = emptySet();
  const removed = emptySet();
  walk(type, old, next, { added, modified, removed });
  return { added: prune(added), modified: prune(modified), removed: prune(removed) };
}

/** Compares one value; the three sets are those of its path. */
function walk(type: FieldType | undefined, old: unknown, next: unknown, at: Comparison): void {
  const shape = shapeOf(type);
  const bothEmpty = isBare(old) && isBare(next);
  if (shape.is === 'leaf' || bothEmpty) {
    if (old === undefined) at.added.self = true;
    else if (next === undefined) at.removed.self = true;
    else if (!equalJson(old, next)) at.modified.self = true;
    return;
  }
  if (shape.is === 'members') {
    const a: Members = isObject(old) ? old : {};
    const b: Members = isObject(next) ? next : {};
    for (const key of new Set([...Object.keys(a), ...Object.keys(b)]))
      if (a[key] !== b[key]) walk(shape.typeOf(key), a[key], b[key], below(at, `f:${key}`));
  } else {
    const a = byKey(shape.list, old);
    const b = byKey(shape.list, next);
    for (const key of new Set([...a.keys(), ...b.keys()]))
      if (!equalJson(a.get(key), b.get(key))) walk(shape.of, a.get(key), b.get(key), below(at, key));
  }
  if (old === undefined) at.added.self = true;
  else if (next === undefined) at.removed.self = true;
}

const below = (at: Comparison, element: string): Comparison => ({
  added: childOf(at.added, element),
  modified: childOf(at.modified, element),
  removed: childOf(at.removed, element),
});

/** Absent, null, or without members. */
function isBare(value: unknown): boolean {
  if (value === undefined || value === null) return true;
  if (Array.isArray(value)) return value.length === 0;
  return isObject(value) && Object.keys(value).length === 0;
}

/** Drops branches without members, in place. */
function prune(set: FieldSet): FieldSet {
  for (const [element, child] of set.children) {
    prune(child);
    if (!child.self && child.children.size === 0) set.children.delete(element);
  }
  return set;
}

/** `live` with everything that `config` says; what `config` does not mention stays. */
export function mergeValues(type: FieldType | undefined, live: unknown, config: unknown): unknown {
  const shape = shapeOf(type);
  if (shape.is === 'members' && isObject(live) && isObject(config)) {
    const result: Members = { ...live };
    for (const key of Object.keys(config))
      setOwn(result, key, mergeValues(shape.typeOf(key), live[key], config[key]));
    return result;
  }
  if (shape.is === 'elements' && Array.isArray(live) && Array.isArray(config))
    return mergeElements(shape.list, shape.of, live, config);
  return config;
}

/**
 * The order of `config` is kept; elements that only `live` has stay in front of the element that they preceded.
 */
function mergeElements(list: ListType, of: FieldType, live: unknown[], config: unknown[]): unknown[] {
  const wanted = byKey(list, config);
  const present = byKey(list, live);
  const result: unknown[] = [];
  const keyed = live.map((item) => ({ item, key: elementKey(list, item) }));
  let at = 0;
  const emitOwnUntil = (key: string | undefined) => {
    const end = key === undefined ? keyed.length : keyed.findIndex((entry) => entry.key === key);
    for (; at < end; at++) {
      const entry = keyed[at]!;
      if (entry.key === undefined || !wanted.has(entry.key)) result.push(entry.item);
    }
  };
  for (const [key, item] of wanted) {
    if (present.has(key)) {
      emitOwnUntil(key);
      result.push(mergeValues(of, present.get(key), item));
    } else result.push(item);
  }
  emitOwnUntil(undefined);
  return result;
}

/** The value without the fields of a set. Objects that lose their last member become undefined. */
export function removeFields(type: FieldType | undefined, value: unknown, set: FieldSet): unknown {
  const shape = shapeOf(type);
  if (shape.is === 'members' && isObject(value)) {
    const result: Members = {};
    for (const key of Object.keys(value)) {
      const cut = set.children.get(`f:${key}`);
      if (cut?.self) continue;
      const member = cut ? removeFields(shape.typeOf(key), value[key], cut) : value[key];
      if (member !== undefined) setOwn(result, key, member);
    }
    return Object.keys(result).length === 0 && Object.keys(value).length > 0 ? undefined : result;
  }
  if (shape.is === 'elements' && Array.isArray(value)) {
    const result: unknown[] = [];
    for (const item of value) {
      const key = elementKey(shape.list, item);
      const cut = key === undefined ? undefined : set.children.get(key);
      if (cut?.self) continue;
      const rest = cut ? removeFields(shape.of, item, cut) : item;
      if (rest !== undefined) result.push(rest);
    }
    return result.length === 0 && value.length > 0 ? undefined : result;
  }
  return value;
}

/**
 * The set with every declared field on the way to a member also a member: owning `spec.type` means owning `spec`,
 * but owning a label does not mean owning the labels' map entry above it.
 */
export function withNamedFields(type: FieldType | undefined, set: FieldSet): FieldSet {
  const shape = shapeOf(type);
  const result = emptySet();
  result.self = set.self;
  for (const [element, child] of set.children) {
    const name = element.slice(2);
    const of = shape.is === 'members' ? shape.typeOf(name) : shape.is === 'elements' ? shape.of : undefined;
    const inner = withNamedFields(of, child);
    if (shape.is === 'members' && shape.isField(name)) inner.self = true;
    result.children.set(element, inner);
  }
  return result;
}
