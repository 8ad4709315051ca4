/** Continue tokens: where the next page of a list starts, and of which revision it is. */
import { apiError } from '../../errors/api.ts';
import { badRequest } from '../status.ts';

export interface ContinueToken {
  /** Revision of the whole list; -1 continues with the newest state instead ("inconsistent continuation"). */
  readonly revision: number;
  /** Key of the first entry of the next page. */
  readonly start: string;
}

export function encodeContinue({ revision, start }: ContinueToken): string {
  return Buffer.from(JSON.stringify({ v: 'meta.k8s.io/v1', rv: revision, start })).toString('base64url');
}

/** @throws API_BAD_REQUEST */
export function decodeContinue(token: string, prefix: string): ContinueToken {
  let value: { v?: unknown; rv?: unknown; start?: unknown };
  try {
    value = JSON.parse(Buffer.from(token, 'base64url').toString('utf8')) ?? {};
  } catch {
    throw badRequest('continue key is not valid: incorrect encoding');
  }
  const { rv, start } = value;
  if (
    value.v !== 'meta.k8s.io/v1' ||
    !Number.isSafeInteger(rv) ||
    (rv as number) < -1 ||
    typeof start !== 'string'
  )
    throw badRequest('continue key is not valid: unrecognized version or contents');
  if (!start.startsWith(prefix)) throw badRequest('continue key is not valid: it is of another list');
  return { revision: rv as number, start };
}

/** The answer to a token whose revision is gone: it carries a token that goes on with the newest state. */
export function expiredContinue(start: string) {
  return apiError('API_EXPIRED', {
    message:
      'The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.',
    continue: encodeContinue({ revision: -1, start }),
  });
}
