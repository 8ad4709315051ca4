/** The four patch types of the Kubernetes API, and the tracking of who set which fields. */
import { apiPatchError } from '../../errors/api-patch.ts';
import type { KubeObject } from '../../model/kubernetes.ts';
import { type Decoded, decodeObject } from '../schema/decode.ts';
import type { KindSchema } from '../schema/kinds.ts';
import { serverSideApply } from './apply.ts';
import { jsonPatch } from './json.ts';
import { mergePatch } from './merge.ts';
import { strategicMergePatch } from './strategic.ts';

export { type TrackOptions, trackManagedFields } from './managed-fields.ts';

export type PatchType = 'json' | 'merge' | 'strategic' | 'apply';

export interface PatchOptions {
  readonly schema: KindSchema;
  readonly type: PatchType;
  /** The patch as parsed JSON (YAML for apply). */
  readonly patch: unknown;
  /** The stored object; undefined only for apply, which then creates. */
  readonly current: KubeObject | undefined;
  /** Needed for apply, ignored otherwise (trackManagedFields records the others). */
  readonly fieldManager: string;
  /** Apply takes over fields that others own. */
  readonly force: boolean;
  readonly subresource: '' | 'status' | string;
  readonly now: Date;
}

/**
 * The object after the patch, decoded by its kind's table, with the faults that decoding found. For `apply` the
 * object carries its new metadata.managedFields: do not call trackManagedFields after it. For the other types do.
 * Throws API_PATCH_* and API_APPLY_CONFLICT; the stored object is never changed.
 */
export function applyPatch(options: PatchOptions): Decoded {
  const { schema, type, patch, current } = options;
  if (type === 'apply') {
    if (!options.fieldManager) throw apiPatchError('API_PATCH_FIELD_MANAGER_REQUIRED', {});
    const object = serverSideApply({
      schema,
      config: patch,
      current,
      manager: options.fieldManager,
      force: options.force,
      subresource: options.subresource,
      now: options.now,
    });
    return { object, typeErrors: [], unknownFields: [] };
  }
  return decodeObject(schema, patched[type](schema, current, patch));
}

const patched: Record<
  Exclude<PatchType, 'apply'>,
  (schema: KindSchema, current: KubeObject | undefined, patch: unknown) => unknown
> = {
  json: (_schema, current, patch) => jsonPatch(current, patch),
  merge: (_schema, current, patch) => {
    if (typeof patch !== 'object' || patch === null || Array.isArray(patch))
      throw apiPatchError('API_PATCH_MALFORMED', { reason: 'a merge patch of an object is an object' });
    return mergePatch(current, patch);
  },
  strategic: (schema, current, patch) => strategicMergePatch(schema.type, current, patch),
};
