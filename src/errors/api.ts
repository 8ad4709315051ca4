import { entry, errorsOf } from './net-error.ts';

/** One entry of `Status.details.causes`: what is wrong with one field. */
export interface FieldCause {
  /** `FieldValueInvalid`, `FieldValueRequired`, ... as Kubernetes names them. */
  readonly type: string;
  /** Path as `spec.ports[0].port`. */
  readonly field: string;
  readonly message: string;
}

/** Names an object in an answer: resource as the URL has it. */
interface Named {
  readonly group: string;
  readonly resource: string;
  readonly name: string;
}

/** `pods` or `endpointslices.discovery.k8s.io`. */
const qualified = (c: { group: string; resource: string }) =>
  c.group === '' ? c.resource : `${c.resource}.${c.group}`;

const causeList = (causes: readonly FieldCause[]) => {
  const told = causes.map((cause) => `${cause.field}: ${cause.message}`);
  return told.length === 1 ? told[0]! : `[${told.join(', ')}]`;
};

/**
 * Failures of the API server. Those of requests become a Kubernetes `Status` (`src/apiserver/status.ts`), so their
 * texts are the ones that clients of Kubernetes know.
 */
export const apiCatalogue = {
  API_BAD_REQUEST: entry(
    (c: { message: string }) => c.message,
    () => 'Correct the request',
  ),
  API_UNAUTHORIZED: entry(
    (_: Record<string, never>) => 'Unauthorized',
    () => 'Use a kubeconfig with a client certificate or a token of this API server',
  ),
  API_FORBIDDEN: entry(
    (c: Named & { why: string }) =>
      `${qualified(c)}${c.name === '' ? '' : ` "${c.name}"`} is forbidden: ${c.why}`,
    () => 'Use credentials that may do this, such as admin.kubeconfig in the data directory',
  ),
  API_FORBIDDEN_PATH: entry(
    (c: { path: string; user: string; verb: string }) =>
      `forbidden: User "${c.user}" cannot ${c.verb} path "${c.path}"`,
    () => 'Use credentials that may do this, such as admin.kubeconfig in the data directory',
  ),
  API_NOT_FOUND: entry(
    (c: Named) => `${qualified(c)} "${c.name}" not found`,
    () => 'Check the name and the namespace',
  ),
  API_NO_SUCH_PATH: entry(
    (_: { path: string }) => 'the server could not find the requested resource',
    () => 'See "kubectl api-resources" for what is served',
  ),
  API_ALREADY_EXISTS: entry(
    (c: Named) => `${qualified(c)} "${c.name}" already exists`,
    () => 'Choose another name, or use "kubectl apply"',
  ),
  API_CONFLICT: entry(
    (c: Named & { why: string }) => `Operation cannot be fulfilled on ${qualified(c)} "${c.name}": ${c.why}`,
    () => 'Read the object again and repeat the change',
  ),
  API_INVALID: entry(
    (c: { group: string; kind: string; name: string; causes: readonly FieldCause[] }) =>
      `${c.group === '' ? c.kind : `${c.kind}.${c.group}`} "${c.name}" is invalid: ${causeList(c.causes)}`,
    () => 'Correct the named fields',
  ),
  API_METHOD_NOT_ALLOWED: entry(
    (c: { method: string; why?: string }) =>
      c.why ?? 'the server does not allow this method on the requested resource',
    () => 'See "kubectl api-resources -o wide" for the verbs of each resource',
  ),
  /** A kind that clients may look for and that cannot be made here; `why` names what to use instead. */
  API_KIND_NOT_SERVED: entry(
    (c: { why: string }) => c.why,
    () => 'See "kubectl api-resources --verbs=create" for what can be made',
  ),
  API_NOT_ACCEPTABLE: entry(
    (c: { accept: string; offered: string }) =>
      `only the following media types are accepted: ${c.offered} (asked for ${c.accept})`,
    () => 'Ask for application/json',
  ),
  API_UNSUPPORTED_MEDIA_TYPE: entry(
    (c: { sent: string; accepted: string }) =>
      `the body of the request was in an unknown format (${c.sent}) - accepted media types include: ${c.accepted}`,
    () => 'Send application/json or application/yaml',
  ),
  API_BODY_TOO_LARGE: entry(
    (c: { limitBytes: number }) => `Request entity too large: limit is ${c.limitBytes}`,
    () => 'Split the object into smaller ones',
  ),
  API_EXPIRED: entry(
    (c: { message: string; continue?: string }) => c.message,
    () => 'List again without resourceVersion and continue',
  ),
  API_FUTURE_REVISION: entry(
    (c: { wanted: number; current: number }) =>
      `Timeout: Too large resource version: ${c.wanted}, current: ${c.current}`,
    () => 'List again without resourceVersion',
  ),
  API_TIMEOUT: entry(
    (c: { message: string }) => `Timeout: ${c.message}`,
    () => 'Repeat the request',
  ),
  API_NOT_IMPLEMENTED: entry(
    (c: { what: string }) => `the server does not serve ${c.what}`,
    () => 'Start the API server together with node agents that serve this',
  ),
  API_STORAGE_FULL: entry(
    (_: Record<string, never>) => 'the disk of the API server is full; nothing was changed',
    () => 'Free space on the file system of --data-dir',
  ),
  API_UNAVAILABLE: entry(
    (c: { message: string }) => c.message,
    () => 'Repeat the request in a moment',
  ),
  API_BAD_OPTION: entry(
    (c: { option: string; value: string; want: string }) =>
      `Cannot use ${c.option} "${c.value}": want ${c.want}`,
    () => 'Run the command with --help to see its options and examples',
  ),
  API_PORT_IN_USE: entry(
    (c: { host: string; port: number }) => `Cannot listen on ${c.host} port ${c.port}: the port is in use`,
    (c) => `Choose another port with --listen, or stop the program that "ss -ltnp sport = :${c.port}" shows`,
  ),
  API_LISTEN_FAILED: entry(
    (c: { host: string; port: number; detail: string }) =>
      `Cannot listen on ${c.host} port ${c.port}: ${c.detail}`,
    () => 'Give an address of this host with --listen',
  ),
  API_DATA_DIR: entry(
    (c: { path: string; detail: string }) => `Cannot use data directory "${c.path}": ${c.detail}`,
    () => 'Give a directory that this user may write with --data-dir',
  ),
  API_BAD_CIDR: entry(
    (c: { option: string; cidr: string; why: string }) => `Cannot use ${c.option} "${c.cidr}": ${c.why}`,
    () => 'Give a network as 10.96.0.0/16 or fd00:10:96::/112, at most one a family',
  ),
  API_CIDR_OVERLAP: entry(
    (c: { first: string; second: string; firstOption: string; secondOption: string }) =>
      `Cannot start: ${c.firstOption} "${c.first}" overlaps ${c.secondOption} "${c.second}"`,
    () => 'Give networks that share no address',
  ),
  API_SERVICE_CIDR_CHANGED: entry(
    (c: { stored: string; given: string }) =>
      `Cannot start: --service-cidr is "${c.given}", but the cluster was made with "${c.stored}"`,
    (c) => `Start with --service-cidr ${c.stored}; to add a network of the other family, append it there`,
  ),
  API_PKI_DAMAGED: entry(
    (c: { path: string; detail: string }) => `Cannot use "${c.path}": ${c.detail}`,
    (c) => `Restore it, or delete the directory of "${c.path}" so that new credentials are made`,
  ),
} as const;

export const apiError = errorsOf(apiCatalogue);
