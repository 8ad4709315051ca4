/** JSON merge patch, RFC 7386: members of the patch replace, null removes, objects merge, lists are replaced. */
import { isObject, setOwn } from '../schema/decode.ts';

/** The target after the patch; neither argument is changed, parts of both are shared. */
export function mergePatch(target: unknown, patch: unknown): unknown {
  if (!isObject(patch)) return patch;
  const result: Record<string, unknown> = isObject(target) ? { ...target } : {};
  for (const key of Object.keys(patch)) {
    if (patch[key] === null) delete result[key];
    else setOwn(result, key, mergePatch(Object.hasOwn(result, key) ? result[key] : undefined, patch[key]));
  }
  return result;
}
