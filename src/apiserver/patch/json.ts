/** JSON patch, RFC 6902. */
import { applyPatch, type Operation } from 'rfc6902';
import { apiPatchError } from '../../errors/api-patch.ts';
import { isObject } from '../schema/decode.ts';

const operations = ['add', 'remove', 'replace', 'move', 'copy', 'test'];
/** As Kubernetes: more operations than this in one request are refused. */
const maxOperations = 10_000;

/** The object after all operations. Throws API_PATCH_MALFORMED or API_PATCH_NOT_APPLICABLE. */
export function jsonPatch(target: unknown, patch: unknown): unknown {
  if (!Array.isArray(patch)) throw apiPatchError('API_PATCH_MALFORMED', { reason: 'a JSON patch is a list' });
  if (patch.length > maxOperations)
    throw apiPatchError('API_PATCH_MALFORMED', {
      reason: `The allowed maximum operations in a JSON patch is ${maxOperations}, got ${patch.length}`,
    });
  const copy = { root: structuredClone(target) };
  for (const [i, operation] of patch.entries()) {
    const where = `operation ${i}`;
    checkOperation(operation, where);
    // The root is wrapped, so that an operation may replace the whole document.
    const rooted = { ...operation, path: `/root${operation.path}` };
    if ('from' in operation) Object.assign(rooted, { from: `/root${operation['from']}` });
    const [fault] = applyPatch(copy, [rooted as Operation]);
    if (fault)
      throw apiPatchError('API_PATCH_NOT_APPLICABLE', {
        path: operation.path,
        reason: `${operation.op}: ${fault.message.replaceAll('/root', '')}`,
      });
  }
  return copy.root;
}

function checkOperation(
  operation: unknown,
  where: string,
): asserts operation is Record<string, unknown> & { op: string; path: string } {
  const malformed = (reason: string) =>
    apiPatchError('API_PATCH_MALFORMED', { reason: `${where}: ${reason}` });
  if (!isObject(operation)) throw malformed('an operation is an object');
  const { op, path, from } = operation;
  if (typeof op !== 'string' || !operations.includes(op)) throw malformed(`unknown op ${JSON.stringify(op)}`);
  for (const [name, pointer] of [['path', path], ...(op === 'move' || op === 'copy' ? [['from', from]] : [])])
    if (typeof pointer !== 'string' || !/^(\/([^~]|~[01])*)?$/s.test(pointer))
      throw malformed(`${name} ${JSON.stringify(pointer)} is not a JSON pointer`);
  if (/\/(__proto__|constructor|prototype)(\/|$)/.test(`${path}${from ?? ''}`))
    throw malformed('this path is not allowed');
  if (['add', 'replace', 'test'].includes(op) && !('value' in operation)) throw malformed('value is missing');
}
