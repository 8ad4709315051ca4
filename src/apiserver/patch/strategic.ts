/**
 * Strategic merge patch: like a merge patch, but lists whose table states a merge key are merged by it, and
 * directives in the patch say what plain JSON cannot:
 *
 *   $patch: replace | delete | merge        this object, or this element of a list
 *   $retainKeys: [..]                       drop other members of this object
 *   $deleteFromPrimitiveList/<field>: [..]  take these scalars out of a list
 *   $setElementOrder/<field>: [..]          order of a list after the merge
 *
 * Source: apimachinery `util/strategicpatch/patch.go` v1.32.
 */
import { apiPatchError } from '../../errors/api-patch.ts';
import { isObject, setOwn } from '../schema/decode.ts';
import { type Field, type FieldType, resolve } from '../schema/types/field.ts';
import { equalJson } from '../schema/validate/field-errors.ts';

type Members = Record<string, unknown>;
const directive = '$patch';
const retainKeys = '$retainKeys';
const deleteFrom = '$deleteFromPrimitiveList/';
const setOrder = '$setElementOrder/';

/** The object after the patch. Throws API_PATCH_MALFORMED. */
export function strategicMergePatch(type: FieldType, target: unknown, patch: unknown): unknown {
  if (!isObject(patch)) throw malformed('a strategic merge patch is an object');
  return mergeMembers(type, isObject(target) ? target : {}, patch);
}

const malformed = (reason: string) => apiPatchError('API_PATCH_MALFORMED', { reason });

/** The field of a member, and the type of its value; both undefined where the table ends. */
function memberOf(
  type: FieldType | undefined,
  key: string,
): { field: Field | undefined; type: FieldType | undefined } {
  if (type?.is === 'struct') {
    const field = type.fields.get(key);
    return { field, type: field && resolve(field.type) };
  }
  return { field: undefined, type: type?.is === 'map' ? resolve(type.of) : undefined };
}

function mergeMembers(type: FieldType | undefined, original: Members, patch: Members): Members {
  const how = patch[directive];
  if (how === 'replace') return dropDirectives(patch) as Members;
  if (how === 'delete') return {};
  if (how !== undefined && how !== 'merge')
    throw malformed(`Unknown patch type found: ${typeof how === 'string' ? how : JSON.stringify(how)}`);
  const result: Members = { ...original };
  if (patch[retainKeys] !== undefined) dropOthers(result, patch);
  for (const key of Object.keys(patch)) {
    if (key === directive || key === retainKeys) continue;
    if (key.startsWith(deleteFrom)) deleteScalars(result, key.slice(deleteFrom.length), patch[key]);
    else if (key.startsWith(setOrder)) continue;
    else if (patch[key] === null) delete result[key];
    else mergeMember(type, result, key, patch[key]);
  }
  for (const key of Object.keys(patch))
    if (key.startsWith(setOrder)) orderList(type, original, result, key, patch);
  return result;
}

function mergeMember(type: FieldType | undefined, result: Members, key: string, value: unknown): void {
  const member = memberOf(type, key);
  const present = Object.hasOwn(result, key) ? result[key] : undefined;
  if (isObject(value)) {
    const merged = isObject(present) ? mergeMembers(member.type, present, value) : dropDirectives(value);
    setOwn(result, key, merged);
  } else if (Array.isArray(value) && member.field?.patchStrategy?.includes('merge')) {
    const original = Array.isArray(present) ? present : [];
    const of = member.type?.is === 'list' ? resolve(member.type.of) : undefined;
    setOwn(result, key, mergeList(of, member.field.patchMergeKey, original, value));
  } else setOwn(result, key, dropDirectives(value));
}

function mergeList(
  of: FieldType | undefined,
  mergeKey: string | undefined,
  original: unknown[],
  patch: unknown[],
): unknown[] {
  if (mergeKey === undefined) {
    const added = patch.filter((item) => !original.some((present) => equalJson(present, item)));
    return arrange([...original, ...added], original, patch, mergeKey);
  }
  const plain: Members[] = [];
  let merged: unknown[] = original;
  let replace = false;
  for (const item of patch) {
    if (!isObject(item))
      throw malformed(`element ${JSON.stringify(item)} of a list with merge key ${mergeKey}`);
    const how = item[directive];
    if (how === 'replace') replace = true;
    else if (how === 'delete') {
      if (item[mergeKey] === undefined)
        throw malformed(`delete patch type with no merge key ${mergeKey} defined`);
      merged = merged.filter((present) => !isObject(present) || present[mergeKey] !== item[mergeKey]);
    } else plain.push(item);
  }
  if (replace) return plain.map(dropDirectives);
  for (const item of plain) {
    if (item[mergeKey] === undefined)
      throw malformed(`map: ${JSON.stringify(item)} does not contain declared merge key: ${mergeKey}`);
    const at = merged.findIndex((present) => isObject(present) && present[mergeKey] === item[mergeKey]);
    if (at < 0) merged = [...merged, dropDirectives(item)];
    else merged = merged.with(at, mergeMembers(of, merged[at] as Members, item));
  }
  return arrange(merged, original, plain, mergeKey);
}

/** Puts the list into the order that `$setElementOrder/<field>` states. */
function orderList(
  type: FieldType | undefined,
  original: Members,
  result: Members,
  key: string,
  patch: Members,
): void {
  const name = key.slice(setOrder.length);
  const order = patch[key];
  const list = result[name];
  if (!Array.isArray(order)) throw malformed(`${key} is not a list`);
  if (!Array.isArray(list)) return;
  const mergeKey = memberOf(type, name).field?.patchMergeKey;
  const before = Array.isArray(original[name]) ? (original[name] as unknown[]) : [];
  setOwn(result, name, arrange(list, before, order, mergeKey));
}

/**
 * Orders a merged list: elements that the patch names follow its order, the others keep their place among them as
 * in the original as far as that is possible.
 */
function arrange(
  merged: readonly unknown[],
  original: readonly unknown[],
  order: readonly unknown[],
  mergeKey: string | undefined,
): unknown[] {
  const identity = (item: unknown) => (mergeKey !== undefined && isObject(item) ? item[mergeKey] : item);
  const place = (list: readonly unknown[], item: unknown) =>
    list.findIndex((other) => equalJson(identity(other), identity(item)));
  const named = merged
    .filter((item) => place(order, item) >= 0)
    .sort((a, b) => place(order, a) - place(order, b));
  const others = merged
    .filter((item) => place(order, item) < 0)
    .sort((a, b) => place(original, a) - place(original, b));
  const result: unknown[] = [];
  while (named.length > 0 && others.length > 0) {
    const before = place(original, others[0]);
    const after = place(original, named[0]);
    result.push(before >= 0 && after >= 0 && before < after ? others.shift() : named.shift());
  }
  return [...result, ...named, ...others];
}

function deleteScalars(result: Members, name: string, scalars: unknown): void {
  if (!Array.isArray(scalars)) throw malformed(`${deleteFrom}${name} is not a list`);
  const list = result[name];
  if (Array.isArray(list))
    result[name] = list.filter((item) => !scalars.some((scalar) => equalJson(scalar, item)));
}

function dropOthers(result: Members, patch: Members): void {
  const keep = patch[retainKeys];
  if (!Array.isArray(keep)) throw malformed(`${retainKeys} is not a list`);
  for (const key of Object.keys(patch))
    if (!key.startsWith('$') && patch[key] !== null && !keep.includes(key))
      throw malformed(`${key} is in the patch but not in ${retainKeys}`);
  for (const key of Object.keys(result)) if (!keep.includes(key)) delete result[key];
}

/** A value of the patch as it is stored where the original has nothing: without directives and nulls. */
function dropDirectives(value: unknown): unknown {
  if (Array.isArray(value))
    return value
      .filter((item) => !(isObject(item) && (item[directive] === 'delete' || item[directive] === 'replace')))
      .map(dropDirectives);
  if (!isObject(value)) return value;
  const result: Members = {};
  for (const key of Object.keys(value)) {
    if (key === directive || key === retainKeys || key.startsWith(deleteFrom) || key.startsWith(setOrder))
      continue;
    if (value[key] !== null) setOwn(result, key, dropDirectives(value[key]));
  }
  return result;
}
