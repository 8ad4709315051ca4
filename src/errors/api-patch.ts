/** Failures of patches, of server-side apply and of protobuf bodies. The API server answers 400, 409, 415 or 422, see each entry. */
import { entry, errorsOf } from './net-error.ts';

/** One field that other managers own; travels in `Status.details.causes`. */
export interface ApplyConflict {
  /** As Kubernetes prints it: `"kubectl" using v1` for updates, `"kubectl"` for applies. */
  readonly manager: string;
  /** Path of the field, e.g. `.spec.replicas`. */
  readonly field: string;
}

export const apiPatchCatalogue = {
  /** 400. */
  API_PATCH_MALFORMED: entry(
    (c: { reason: string }) => `error decoding patch: ${c.reason}`,
    () => 'Send a patch of the form that the Content-Type names',
  ),
  /** 422: a JSON patch whose test failed or whose path is not there; `path` is a JSON pointer. */
  API_PATCH_NOT_APPLICABLE: entry(
    (c: { path: string; reason: string }) =>
      `the server rejected our request due to an error in our request: ${c.path}: ${c.reason}`,
    () => 'Compare the paths of the patch with the object as it is now',
  ),
  /** 422: server-side apply met a value or a list that it cannot merge. */
  API_PATCH_INVALID_FIELD: entry(
    (c: { object: string; field: string; reason: string }) =>
      `failed to create typed patch object ${c.object}: ${c.field}: ${c.reason}`,
    (c) => `Correct ${c.field} in what is applied`,
  ),
  /** 400: strict decoding of what is applied. */
  API_PATCH_UNKNOWN_FIELDS: entry(
    (c: { object: string; fields: string[] }) =>
      `failed to create typed patch object ${c.object}: ${c.fields.map((f) => `.${f}: field not declared in schema`).join(', ')}`,
    () => 'Correct the spelling of the fields, or remove them',
  ),
  /** 400. */
  API_PATCH_FIELD_MANAGER_REQUIRED: entry(
    (_: object) =>
      'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch',
    () => 'Name the manager in the query parameter fieldManager',
  ),
  /** 400: what is applied must not carry managedFields. */
  API_PATCH_MANAGED_FIELDS: entry(
    (_: object) => 'metadata.managedFields must be nil',
    () => 'Remove metadata.managedFields from what is applied',
  ),
  /** 400: a body of type application/vnd.kubernetes.protobuf that is none. */
  API_BODY_PROTOBUF: entry(
    (c: { reason: string }) => `the body of the request is not Kubernetes protobuf: ${c.reason}`,
    () => 'Send application/json, or a message of a kind that is served',
  ),
  /** 409. `causes` go into `Status.details.causes`: reason FieldManagerConflict, message `conflict with ${manager}`. */
  API_APPLY_CONFLICT: entry(
    (c: { conflicts: ApplyConflict[]; paths?: unknown }) => conflictMessage(c.conflicts),
    () => 'Leave the fields out, take them over with force, or apply the same value to share them',
  ),
};

/**
 * `Apply failed with 1 conflict: conflict with "kubectl" using v1: .spec.type`, or, with several, a paragraph for
 * each manager with a line for each field, as kubectl prints it.
 */
function conflictMessage(conflicts: readonly ApplyConflict[]): string {
  const first = conflicts[0];
  if (conflicts.length === 1 && first)
    return `Apply failed with 1 conflict: conflict with ${first.manager}: ${first.field}`;
  const lines: string[] = [];
  const byManager = [...Map.groupBy(conflicts, (conflict) => conflict.manager)];
  for (const [manager, fields] of byManager.sort(([a], [b]) => (a < b ? -1 : 1)))
    lines.push(`conflicts with ${manager}:`, ...fields.map((conflict) => `- ${conflict.field}`));
  return `Apply failed with ${conflicts.length} conflicts: ${lines.join('\n')}`;
}

export const apiPatchError = errorsOf(apiPatchCatalogue);
