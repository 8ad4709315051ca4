/** What can go wrong between a Portolan process and the API server, including reading the kubeconfig. */
import { entry, errorsOf } from './net-error.ts';

/** One request and the API server's own words about it. */
export interface ApiFailure {
  /** HTTP method and path, e.g. `GET /api/v1/nodes/a`. */
  request: string;
  /** HTTP status, e.g. 404. */
  status: number;
  /** Machine readable reason of the Status object, e.g. `NotFound`. */
  reason: string;
  /** The API's message. */
  message: string;
  /** Fields that a validation refused. */
  causes?: { reason?: string; message?: string; field?: string }[];
  /** Seconds after which the server wants to be asked again. */
  retryAfterSeconds?: number;
}

const told = (c: ApiFailure) => `Cannot ${c.request}: ${c.message} (${c.status} ${c.reason})`;

export const clientErrors = {
  CLIENT_KUBECONFIG_UNREADABLE: entry(
    (c: { path: string; why: string }) => `Cannot read kubeconfig "${c.path}": ${c.why}`,
    () => 'Pass the path of an existing, readable kubeconfig with --kubeconfig or KUBECONFIG',
  ),
  CLIENT_KUBECONFIG_INVALID: entry(
    (c: { path: string; key: string; why: string }) =>
      `Cannot use kubeconfig "${c.path}": key "${c.key}" ${c.why}`,
    (c) => `Correct "${c.key}" in "${c.path}"; "kubectl config view --raw" shows how it is read`,
  ),
  CLIENT_KUBECONFIG_UNSUPPORTED: entry(
    (c: { path: string; key: string }) =>
      `Cannot use kubeconfig "${c.path}": key "${c.key}" is not supported, want a client certificate or a token`,
    () => 'Give the user a client certificate with its key, a token, or a tokenFile',
  ),
  CLIENT_NOT_FOUND: entry(told, () => 'Check the name and the namespace; the object may have been deleted'),
  CLIENT_ALREADY_EXISTS: entry(told, () => 'Read the existing object and update it, or choose another name'),
  CLIENT_CONFLICT: entry(told, () => 'Read the object again and repeat the change on the newer version'),
  CLIENT_GONE: entry(told, () => 'List again: the requested revision was compacted'),
  CLIENT_UNAUTHORIZED: entry(
    told,
    () => 'Check the client certificate or the token of the kubeconfig and its expiry',
  ),
  CLIENT_FORBIDDEN: entry(told, () => 'Use a credential that may do this'),
  CLIENT_INVALID: entry(told, () => 'Correct the fields that the message names'),
  CLIENT_BAD_REQUEST: entry(
    told,
    () => 'The server does not understand this request: compare its version with Portolan',
  ),
  CLIENT_THROTTLED: entry(
    told,
    () => 'Wait and retry: the server has too many requests or is not ready for this one',
  ),
  CLIENT_SERVER_ERROR: entry(told, () => 'Look into the log of the API server'),
  CLIENT_UNREACHABLE: entry(
    (c: { server: string; request: string; why: string }) =>
      `Cannot ${c.request}: API server ${c.server} is not reachable: ${c.why}`,
    (c) => `Check that the API server runs and that "${c.server}" is reachable from this node`,
  ),
  CLIENT_TLS: entry(
    (c: { server: string; request: string; why: string }) =>
      `Cannot ${c.request}: TLS with ${c.server} failed: ${c.why}`,
    () => 'Check certificate-authority(-data), tls-server-name and the client certificate of the kubeconfig',
  ),
  CLIENT_TIMEOUT: entry(
    (c: { server: string; request: string; timeoutMs: number }) =>
      `Cannot ${c.request}: no answer from ${c.server} within ${c.timeoutMs} ms`,
    () => 'Check the load of the API server and the network to it',
  ),
  CLIENT_CLOSED: entry(
    (c: { request: string }) => `Cannot ${c.request}: the client is closed or the request was cancelled`,
    () => 'Nothing to do: this process is stopping',
  ),
  CLIENT_BAD_RESPONSE: entry(
    (c: { request: string; why: string }) => `Cannot use the answer to ${c.request}: ${c.why}`,
    () => 'Check that the address is that of a Kubernetes API server and not of a proxy',
  ),
  CLIENT_LINE_TOO_LONG: entry(
    (c: { request: string; limitBytes: number }) =>
      `Cannot read the watch ${c.request}: one event is longer than ${c.limitBytes} bytes`,
    () => 'Find the oversized object and shrink it, or raise the limit',
  ),
  CLIENT_LEASE_LOST: entry(
    (c: { lease: string; identity: string; holder: string }) =>
      `Cannot keep lease "${c.lease}" for "${c.identity}": it is held by "${c.holder}"`,
    () => 'Another instance leads now; this one must stop its work and may try again',
  ),
};

/** Makes an error of the client catalogue. */
export const clientError = errorsOf(clientErrors);
