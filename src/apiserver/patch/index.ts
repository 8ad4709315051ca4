/** The four patch types of the Kubernetes API, and the tracking of who set which fields. */
import { apiPatchError } from '../../errors/api-patch.ts';
import type { KubeObject } from '../../model/kubernetes.ts';
import { isObject } from '../schema/decode.ts';
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
 * The object after the patch; the stored object is never changed. Throws API_PATCH_* and API_APPLY_CONFLICT.
 * For `apply` it is decoded and carries its new metadata.managedFields: do not call trackManagedFields after it.
 * For the other types it is what the patch made of the JSON: decode it (which tells unknown fields), then track.
 */
export function applyPatch(options: PatchOptions): { object: KubeObject } {
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
    return { object };
  }
  const object = patched[type](schema, current, patch);
  if (!isObject(object)) throw apiPatchError('API_PATCH_MALFORMED', { reason: 'the patch leaves no object' });
  return { object: object as unknown as KubeObject };
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
