/**
 * A set of field paths, as server-side apply records it for each manager. In JSON (`fieldsV1`) a set is a tree:
 *
 *   {"f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:targetPort": {}}}}}
 *
 * `f:` is a member of an object, `k:` an element of a list by its keys, `v:` an element of a set by its value,
 * `i:` one by its place; `.` says that the path up to here is itself in the set, which a childless node always is.
 * Source: sigs.k8s.io/structured-merge-diff v4, fieldpath/serialize.go.
 */
import { isObject } from '../schema/decode.ts';

export interface FieldSet {
  /** The path of this node is in the set. Meaningless for the root. */
  self: boolean;
  /** Children by their path element in the spelling of fieldsV1, e.g. `f:spec`. */
  readonly children: Map<string, FieldSet>;
}

export function emptySet(): FieldSet {
  return { self: false, children: new Map() };
}

export function isEmptySet(set: FieldSet): boolean {
  for (const child of set.children.values()) if (child.self || !isEmptySet(child)) return false;
  return true;
}

/** Adds one path. */
export function insert(set: FieldSet, path: readonly string[]): void {
  let at = set;
  for (const element of path) at = childOf(at, element);
  at.self = true;
}

/** The child for a path element, made when absent. */
export function childOf(set: FieldSet, element: string): FieldSet {
  let child = set.children.get(element);
  if (!child) {
    child = emptySet();
    set.children.set(element, child);
  }
  return child;
}

type Combine = (inA: boolean, inB: boolean) => boolean;

/** Combines two sets path by path; branches that end up without any member are left out. */
function combine(a: FieldSet | undefined, b: FieldSet | undefined, keep: Combine): FieldSet {
  const result = emptySet();
  result.self = keep(a?.self ?? false, b?.self ?? false);
  const elements = new Set([...(a?.children.keys() ?? []), ...(b?.children.keys() ?? [])]);
  for (const element of elements) {
    const child = combine(a?.children.get(element), b?.children.get(element), keep);
    if (child.self || child.children.size > 0) result.children.set(element, child);
  }
  return result;
}

export const union = (a: FieldSet, b: FieldSet) => combine(a, b, (inA, inB) => inA || inB);
export const intersection = (a: FieldSet, b: FieldSet) => combine(a, b, (inA, inB) => inA && inB);
export const difference = (a: FieldSet, b: FieldSet) => combine(a, b, (inA, inB) => inA && !inB);

/** `a` without the paths of `b` and everything below them. */
export function recursiveDifference(a: FieldSet, b: FieldSet): FieldSet {
  const result = emptySet();
  result.self = a.self;
  for (const [element, child] of a.children) {
    const cut = b.children.get(element);
    if (cut?.self) continue;
    const rest = cut ? recursiveDifference(child, cut) : child;
    if (rest.self || rest.children.size > 0) result.children.set(element, rest);
  }
  return result;
}

export function equalSets(a: FieldSet, b: FieldSet): boolean {
  return isEmptySet(difference(a, b)) && isEmptySet(difference(b, a));
}

/** All paths of the set: sorted, the members of a level before what is below it. */
export function pathsOf(set: FieldSet, prefix: readonly string[] = []): string[][] {
  const children = [...set.children].sort(([a], [b]) => (a < b ? -1 : 1));
  const members = children.filter(([, child]) => child.self).map(([element]) => [...prefix, element]);
  return [...members, ...children.flatMap(([element, child]) => pathsOf(child, [...prefix, element]))];
}

/** The set as fieldsV1, members sorted. */
export function toFieldsV1(set: FieldSet): Record<string, unknown> {
  const result: Record<string, unknown> = {};
  for (const element of [...set.children.keys()].sort()) {
    const child = set.children.get(element)!;
    const inner = toFieldsV1(child);
    result[element] = child.self && child.children.size > 0 ? { '.': {}, ...inner } : inner;
  }
  return result;
}

/** Reads fieldsV1; undefined when it is not such a tree. */
export function fromFieldsV1(json: unknown): FieldSet | undefined {
  if (!isObject(json)) return undefined;
  const set = emptySet();
  for (const [element, inner] of Object.entries(json)) {
    if (element === '.') {
      set.self = true;
      continue;
    }
    if (!isPathElement(element)) return undefined;
    const child = fromFieldsV1(inner);
    if (!child) return undefined;
    if (child.children.size === 0) child.self = true;
    set.children.set(element, child);
  }
  return set;
}

function isPathElement(element: string): boolean {
  const value = element.slice(2);
  switch (element.slice(0, 2)) {
    case 'f:':
      return true;
    case 'i:':
      return /^\d+$/.test(value);
    case 'v:':
    case 'k:':
      try {
        const json: unknown = JSON.parse(value);
        return element.startsWith('v:') || isObject(json);
      } catch {
        return false;
      }
    default:
      return false;
  }
}

/** A path as kubectl prints it in conflicts: `.spec.ports[port=80,protocol="TCP"].nodePort`. */
export function fieldPathText(path: readonly string[]): string {
  return path
    .map((element) => {
      const value = element.slice(2);
      if (element.startsWith('f:')) return `.${value}`;
      if (element.startsWith('i:')) return `[${value}]`;
      if (element.startsWith('v:')) return `[=${value}]`;
      const keys = Object.entries(JSON.parse(value) as Record<string, unknown>);
      return `[${keys.map(([key, of]) => `${key}=${JSON.stringify(of)}`).join(',')}]`;
    })
    .join('');
}
