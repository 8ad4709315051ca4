/** Errors as Kubernetes `Status` objects: the table from our codes to HTTP codes and reasons. */
import { apiError, type FieldCause } from '../errors/api.ts';
import { isNetError, type NetError } from '../errors/net-error.ts';

export interface Status {
  kind: 'Status';
  apiVersion: 'v1';
  metadata: { continue?: string };
  status: 'Success' | 'Failure';
  message?: string;
  reason?: string;
  details?: {
    name?: string;
    group?: string;
    kind?: string;
    uid?: string;
    causes?: { reason: string; message: string; field?: string }[];
    retryAfterSeconds?: number;
  };
  code?: number;
}

type Context = Readonly<Record<string, unknown>>;
interface Translation {
  readonly code: number;
  readonly reason: string;
  readonly details?: (context: Context) => Status['details'];
}

const named = (c: Context) => {
  const details: NonNullable<Status['details']> = {};
  if (c['name'] !== '') details.name = String(c['name']);
  if (c['group'] !== '') details.group = String(c['group']);
  details.kind = String(c['resource'] ?? c['kind']);
  return details;
};
const causes = (c: Context) =>
  ((c['causes'] ?? []) as FieldCause[]).map(({ type, message, field }) => ({ reason: type, message, field }));
const faultOf = (field: unknown, c: Context) => ({
  reason: 'FieldValueInvalid',
  message: String(c['reason']),
  field: String(field),
});
const retryAfter = (seconds: number) => () => ({ retryAfterSeconds: seconds });

/** HTTP code and reason of each code: apimachinery/pkg/api/errors and meta/v1 StatusReason. */
const translations: Readonly<Record<string, Translation>> = {
  API_BAD_REQUEST: { code: 400, reason: 'BadRequest' },
  API_UNAUTHORIZED: { code: 401, reason: 'Unauthorized' },
  API_FORBIDDEN: { code: 403, reason: 'Forbidden', details: named },
  API_FORBIDDEN_PATH: { code: 403, reason: 'Forbidden', details: () => ({}) },
  API_NOT_FOUND: { code: 404, reason: 'NotFound', details: named },
  API_NO_SUCH_PATH: { code: 404, reason: 'NotFound', details: () => ({}) },
  API_ALREADY_EXISTS: { code: 409, reason: 'AlreadyExists', details: named },
  API_CONFLICT: { code: 409, reason: 'Conflict', details: named },
  API_INVALID: { code: 422, reason: 'Invalid', details: (c) => ({ ...named(c), causes: causes(c) }) },
  API_METHOD_NOT_ALLOWED: { code: 405, reason: 'MethodNotAllowed', details: () => ({}) },
  API_KIND_NOT_SERVED: { code: 405, reason: 'MethodNotAllowed', details: () => ({}) },
  API_NOT_ACCEPTABLE: { code: 406, reason: 'NotAcceptable' },
  API_UNSUPPORTED_MEDIA_TYPE: { code: 415, reason: 'UnsupportedMediaType' },
  API_BODY_TOO_LARGE: { code: 413, reason: 'RequestEntityTooLarge' },
  API_EXPIRED: { code: 410, reason: 'Expired' },
  API_FUTURE_REVISION: {
    code: 504,
    reason: 'Timeout',
    details: () => ({
      causes: [{ reason: 'ResourceVersionTooLarge', message: 'Too large resource version' }],
      retryAfterSeconds: 1,
    }),
  },
  API_TIMEOUT: { code: 504, reason: 'Timeout', details: retryAfter(1) },
  API_NOT_IMPLEMENTED: { code: 501, reason: 'NotImplemented' },
  API_STORAGE_FULL: { code: 507, reason: 'InsufficientStorage' },
  API_UNAVAILABLE: { code: 503, reason: 'ServiceUnavailable', details: retryAfter(1) },
  STORE_FULL: { code: 507, reason: 'InsufficientStorage' },
  STORE_WRITE_FAILED: { code: 500, reason: 'InternalError' },
  STORE_CLOSED: { code: 503, reason: 'ServiceUnavailable', details: retryAfter(1) },
  STORE_CONFLICT: { code: 409, reason: 'Conflict' },
  STORE_COMPACTED: { code: 410, reason: 'Expired' },
  API_APPLY_CONFLICT: {
    code: 409,
    reason: 'Conflict',
    details: (c) => ({
      causes: ((c['conflicts'] ?? []) as { manager: string; field: string }[]).map(({ manager, field }) => ({
        reason: 'FieldManagerConflict',
        message: `conflict with ${manager}`,
        field,
      })),
    }),
  },
  PODS_BAD_REQUEST: { code: 400, reason: 'BadRequest' },
  API_BODY_PROTOBUF: { code: 400, reason: 'BadRequest' },
  // Older clients print the causes of an invalid request, not its message.
  API_PATCH_NOT_APPLICABLE: {
    code: 422,
    reason: 'Invalid',
    details: (c) => ({ causes: [faultOf(c['path'], c)] }),
  },
  API_PATCH_INVALID_FIELD: {
    code: 422,
    reason: 'Invalid',
    details: (c) => ({ causes: [faultOf(c['field'], c)] }),
  },
};

function translationOf(error: NetError): Translation | undefined {
  return (
    translations[error.code] ??
    (error.code.startsWith('API_PATCH_') ? { code: 400, reason: 'BadRequest' } : undefined)
  );
}

/** The Status that tells a client about `error`; unknown errors are our own bugs and say little. */
export function failureStatus(error: unknown): Status & { code: number } {
  const translation = isNetError(error) ? translationOf(error) : undefined;
  if (!isNetError(error) || !translation) {
    const text = error instanceof Error ? error.message : String(error);
    return {
      kind: 'Status',
      apiVersion: 'v1',
      metadata: {},
      status: 'Failure',
      message: `Internal error occurred: ${text}`,
      reason: 'InternalError',
      details: { causes: [{ reason: '', message: text }] },
      code: 500,
    };
  }
  const details = translation.details?.(error.context);
  const next = error.context['continue'];
  return {
    kind: 'Status',
    apiVersion: 'v1',
    metadata: typeof next === 'string' ? { continue: next } : {},
    status: 'Failure',
    message: error.message,
    reason: translation.reason,
    ...(details && { details }),
    code: translation.code,
  };
}

/** True for failures that a client caused or can understand; the rest is logged with its stack. */
export function isExpectedFailure(error: unknown): boolean {
  return isNetError(error) && translationOf(error) !== undefined && !error.code.startsWith('STORE_WRITE');
}

export const badRequest = (message: string) => apiError('API_BAD_REQUEST', { message });
