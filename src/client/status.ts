/** Translates HTTP answers and socket failures into the error catalogue; the table is the whole mapping. */
import { type ApiFailure, clientError } from '../errors/client.ts';
import type { NetError } from '../errors/net-error.ts';

/** metav1.Status as far as it is read here. */
interface StatusBody {
  kind?: string;
  message?: string;
  reason?: string;
  code?: number;
  details?: {
    retryAfterSeconds?: number;
    causes?: { reason?: string; message?: string; field?: string }[];
  };
}

type ApiCode =
  | 'CLIENT_NOT_FOUND'
  | 'CLIENT_ALREADY_EXISTS'
  | 'CLIENT_CONFLICT'
  | 'CLIENT_GONE'
  | 'CLIENT_UNAUTHORIZED'
  | 'CLIENT_FORBIDDEN'
  | 'CLIENT_INVALID'
  | 'CLIENT_BAD_REQUEST'
  | 'CLIENT_THROTTLED'
  | 'CLIENT_SERVER_ERROR';

const codeOfStatus: Readonly<Record<number, ApiCode>> = {
  401: 'CLIENT_UNAUTHORIZED',
  403: 'CLIENT_FORBIDDEN',
  404: 'CLIENT_NOT_FOUND',
  409: 'CLIENT_CONFLICT',
  410: 'CLIENT_GONE',
  422: 'CLIENT_INVALID',
  429: 'CLIENT_THROTTLED',
  503: 'CLIENT_THROTTLED',
};

/** The error of an answer that is not 2xx. `body` is its text, a Status object or anything else. */
export function statusError(
  request: string,
  status: number,
  body: string,
  retryAfter?: string | undefined,
): NetError {
  let parsed: StatusBody = {};
  try {
    const json: unknown = JSON.parse(body);
    if (typeof json === 'object' && json !== null) parsed = json as StatusBody;
  } catch {
    parsed = { message: body.slice(0, 200).trim() || 'no message' };
  }
  return statusObjectError(request, { ...parsed, code: parsed.code ?? status }, retryAfter);
}

/** The error of a Status object, as in an ERROR event of a watch. */
export function statusObjectError(
  request: string,
  body: StatusBody,
  retryAfter?: string | undefined,
): NetError {
  const status = body.code ?? 500;
  const reason = body.reason ?? 'Unknown';
  const failure: ApiFailure = { request, status, reason, message: body.message ?? 'no message' };
  if (body.details?.causes) failure.causes = body.details.causes;
  const seconds = body.details?.retryAfterSeconds ?? Number(retryAfter ?? Number.NaN);
  if (Number.isFinite(seconds) && seconds >= 0) failure.retryAfterSeconds = seconds;
  let code = codeOfStatus[status] ?? (status >= 500 ? 'CLIENT_SERVER_ERROR' : 'CLIENT_BAD_REQUEST');
  if (status === 409 && reason === 'AlreadyExists') code = 'CLIENT_ALREADY_EXISTS';
  return clientError(code, failure);
}

/** OpenSSL and Node's own certificate codes, as far as they do not begin with `ERR_TLS` or `ERR_SSL`. */
const tlsCodes =
  /^(ERR_TLS|ERR_SSL|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO_|EPROTO$|HOSTNAME_MISMATCH|INVALID_CA)/;

/** The error of a request that got no answer. */
export function transportError(server: string, request: string, cause: unknown): NetError {
  const code =
    cause instanceof Error && 'code' in cause && typeof cause.code === 'string' ? cause.code : undefined;
  const why = cause instanceof Error ? cause.message || code || cause.name : String(cause);
  if (code !== undefined && tlsCodes.test(code))
    return clientError('CLIENT_TLS', { server, request, why }, cause);
  return clientError('CLIENT_UNREACHABLE', { server, request, why }, cause);
}
