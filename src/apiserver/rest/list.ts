/** GET of a collection: which state (resourceVersion), which part of it (limit, continue), which objects (selectors). */
import { apiError, type FieldCause } from '../../errors/api.ts';
import { isNetError } from '../../errors/net-error.ts';
import type { StoreEntry } from '../../store/types.ts';
import { wholeNumber } from '../http/request.ts';
import { objectOf } from '../registry/objects.ts';
import { prefixOf, type Resource } from '../resources.ts';
import { fieldMatch } from '../selectors/fields.ts';
import { labelMatch } from '../selectors/labels.ts';
import { badRequest } from '../status.ts';
import { decodeContinue, encodeContinue, expiredContinue } from './continue.ts';
import type { ListMeta } from './list-meta.ts';
import type { Source } from './source.ts';

export interface ListResult {
  readonly entries: StoreEntry[];
  readonly meta: ListMeta;
}

/** Whether an entry passes the selectors of a request; undefined when there are none. */
export type EntryMatch = (entry: StoreEntry) => boolean;

export interface Selection {
  readonly matches: EntryMatch | undefined;
  readonly name?: string;
}

/** The selectors of a request for stored objects of `resource`. @throws API_BAD_REQUEST */
export function selectionOf(resource: Resource, query: URLSearchParams): Selection {
  const labels = labelMatch(query.get('labelSelector'));
  const fields = fieldMatch(resource.stored.kind, query.get('fieldSelector'));
  if (!labels && !fields) return { matches: undefined };
  return {
    matches: (entry) => {
      const object = objectOf(entry);
      return (!labels || labels(object.metadata.labels)) && (!fields || fields.matches(object));
    },
    ...(fields?.name !== undefined && { name: fields.name }),
  };
}

export function listOptionsInvalid(field: string, type: string, message: string) {
  const cause: FieldCause = { type, field, message };
  return apiError('API_INVALID', { group: 'meta.k8s.io', kind: 'ListOptions', name: '', causes: [cause] });
}

/** resourceVersion of a query as a number, "" and "0" as 0. @throws API_BAD_REQUEST */
export function revisionOf(query: URLSearchParams): number {
  const text = query.get('resourceVersion') ?? '';
  if (text === '') return 0;
  if (!/^\d{1,15}$/.test(text))
    throw badRequest(`Invalid value: "${text}": resourceVersion must be a whole number`);
  return Number(text);
}

type Match = 'Exact' | 'NotOlderThan' | undefined;

/** What resourceVersion and resourceVersionMatch ask for together: kubernetes.io/docs, API concepts, "Resource versions". */
function askedRevision(query: URLSearchParams, limit: number, continues: boolean) {
  const match = (query.get('resourceVersionMatch') || undefined) as Match;
  const given = query.get('resourceVersion') ?? '';
  const revision = revisionOf(query);
  if (match !== undefined) {
    const field = 'resourceVersionMatch';
    if (match !== 'Exact' && match !== 'NotOlderThan')
      throw listOptionsInvalid(
        field,
        'FieldValueNotSupported',
        `Unsupported value: "${match}": supported values: "Exact", "NotOlderThan"`,
      );
    if (continues)
      throw listOptionsInvalid(
        field,
        'FieldValueForbidden',
        'Forbidden: resourceVersionMatch is forbidden for a continued list',
      );
    if (given === '')
      throw listOptionsInvalid(
        field,
        'FieldValueForbidden',
        'Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided',
      );
    if (match === 'Exact' && revision === 0)
      throw listOptionsInvalid(
        field,
        'FieldValueForbidden',
        'Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"',
      );
  }
  if (continues && revision !== 0)
    throw badRequest('specifying resource version is not allowed when using continue');
  // Without a match, a limit makes it exact: the way it was before the parameter existed.
  const exact = match === 'Exact' || (match === undefined && limit > 0 && revision !== 0);
  return { revision, exact };
}

export function listEntries(
  resource: Resource,
  source: Source,
  namespace: string | undefined,
  query: URLSearchParams,
): ListResult {
  const limit = wholeNumber(query, 'limit') ?? 0;
  const token = query.get('continue') || undefined;
  const asked = askedRevision(query, limit, token !== undefined);
  const { matches, name } = selectionOf(resource, query);
  const now = source.revision;
  if (asked.revision > now) throw apiError('API_FUTURE_REVISION', { wanted: asked.revision, current: now });
  // A selector for one name in one namespace needs no walk.
  if (name !== undefined && !asked.exact && (namespace !== undefined || !resource.schema.namespaced)) {
    const entry = source.get(namespace, name);
    const entries = entry && matches!(entry) ? [entry] : [];
    return { entries, meta: { resourceVersion: String(now) } };
  }
  let revision = asked.exact ? asked.revision : now;
  let start: string | undefined;
  if (token !== undefined) {
    const decoded = decodeContinue(token, prefixOf(resource, namespace));
    start = decoded.start;
    if (decoded.revision > now) throw expiredContinue(start);
    if (decoded.revision >= 0) revision = decoded.revision;
  }
  try {
    const range =
      revision === now ? source.range(namespace, start) : source.rangeAt(namespace, revision, start);
    const entries: StoreEntry[] = [];
    let next: string | undefined;
    for (const entry of range) {
      if (matches && !matches(entry)) continue;
      if (limit > 0 && entries.length === limit) {
        next = entry.key;
        break;
      }
      entries.push(entry);
    }
    const resourceVersion = String(revision);
    if (next === undefined) return { entries, meta: { resourceVersion } };
    const remaining =
      matches || token !== undefined || revision !== now
        ? undefined
        : source.count(namespace) - entries.length;
    return {
      entries,
      meta: {
        resourceVersion,
        continue: encodeContinue({ revision, start: next }),
        ...(remaining !== undefined && { remainingItemCount: remaining }),
      },
    };
  } catch (error) {
    if (!isNetError(error, 'STORE_COMPACTED')) throw error;
    if (start !== undefined) throw expiredContinue(start);
    throw apiError('API_EXPIRED', { message: `The resourceVersion for the provided list is too old.` });
  }
}
