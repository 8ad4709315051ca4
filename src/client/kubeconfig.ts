/**
 * Reading a kubeconfig: the file that says where the API server is, whom to trust, and who we are.
 * Relative paths in it are relative to the file itself, as in kubectl. Unknown fields are tolerated; what would
 * silently change the connection (exec plugins, proxies) is refused.
 * Source: k8s.io/client-go/tools/clientcmd/api/v1/types.go.
 */
import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { parse } from 'yaml';
import { clientError } from '../errors/client.ts';

/** What a client needs to know to speak with one API server as one user. */
export interface ClusterAccess {
  /** Base URL without a trailing slash, e.g. `https://10.0.0.1:6443`. */
  server: string;
  /** PEM of the certificate authorities that sign the server; the system's are used without it. */
  ca?: string;
  /** PEM of the client certificate chain. */
  cert?: string;
  /** PEM of the client's private key. */
  key?: string;
  /** Bearer token. */
  token?: string;
  /** File with a bearer token that somebody else rotates; read again every minute. Wins over `token`. */
  tokenFile?: string;
  /** Name to verify in the server certificate instead of the host in `server`. */
  serverName?: string;
  /** Do not verify the server certificate. */
  insecure?: boolean;
  /** Namespace of the context, `default` if it names none. */
  namespace?: string;
}

type Json = Record<string, unknown>;
const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** One place in the file, so that each error can name file and key. */
class At {
  readonly path: string;
  readonly key: string;
  readonly value: Json;

  constructor(path: string, key: string, value: unknown) {
    if (!isObject(value))
      throw clientError('CLIENT_KUBECONFIG_INVALID', {
        path,
        key: key || '.',
        why: 'is not a mapping',
      });
    this.path = path;
    this.key = key;
    this.value = value;
  }

  keyOf(name: string): string {
    return this.key ? `${this.key}.${name}` : name;
  }

  invalid(name: string, why: string): Error {
    return clientError('CLIENT_KUBECONFIG_INVALID', { path: this.path, key: this.keyOf(name), why });
  }

  text(name: string): string | undefined {
    const value = this.value[name];
    if (value === undefined || value === null || value === '') return undefined;
    if (typeof value !== 'string') throw this.invalid(name, `is a ${typeof value}, want a string`);
    return value;
  }

  flag(name: string): boolean {
    const value = this.value[name];
    if (value === undefined || value === null) return false;
    if (typeof value !== 'boolean') throw this.invalid(name, `is a ${typeof value}, want true or false`);
    return value;
  }

  /** The entry called `wanted` of a list of `{ name, <inner>: {...} }`. */
  named(list: string, inner: string, wanted: string, askedBy: string): At {
    const entries = this.value[list];
    if (!Array.isArray(entries)) throw this.invalid(list, 'is missing, want a list');
    const index = entries.findIndex((item) => isObject(item) && item['name'] === wanted);
    if (index < 0) throw this.invalid(list, `has no entry named "${wanted}", which "${askedBy}" asks for`);
    return new At(this.path, `${list}[${index}].${inner}`, (entries[index] as Json)[inner] ?? {});
  }

  /** PEM from `name-data` (base64) or from the file at `name`; the data wins as in kubectl. */
  pem(name: string): string | undefined {
    const data = this.text(`${name}-data`);
    let pem: string;
    let from = name;
    if (data !== undefined) {
      from = `${name}-data`;
      const compact = data.replace(/\s+/g, '');
      if (!/^[A-Za-z0-9+/]*={0,2}$/.test(compact) || compact.length % 4 !== 0)
        throw this.invalid(from, 'is not base64');
      pem = Buffer.from(compact, 'base64').toString('utf8');
    } else {
      const file = this.text(name);
      if (file === undefined) return undefined;
      const full = resolve(dirname(this.path), file);
      try {
        pem = readFileSync(full, 'utf8');
      } catch (cause) {
        throw this.invalid(name, `names file "${full}", which cannot be read (${reasonOf(cause)})`);
      }
    }
    if (!pem.includes('-----BEGIN ')) throw this.invalid(from, 'is not PEM');
    return pem;
  }
}

/** `ENOENT` and the like, without a stack or a path in it. */
/** What people know these codes by. */
const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'no such file',
  EACCES: 'no permission',
  EISDIR: 'it is a directory',
};

function reasonOf(error: unknown): string {
  if (error instanceof Error && 'code' in error && typeof error.code === 'string')
    return REASONS[error.code] ? `${error.code}, ${REASONS[error.code]}` : error.code;
  return error instanceof Error ? error.message : String(error);
}

/** Options of {@link parseKubeconfig}. */
export interface KubeconfigOptions {
  /** Context to use instead of `current-context`. */
  context?: string;
  /** Reads YAML; for who reads the same text often. */
  parseYaml?: (text: string) => unknown;
}

/** YAML to values, the {@link KubeconfigOptions.parseYaml} by default. Throws what the parser throws. */
export const parseKubeconfigYaml = (text: string): unknown => parse(text, { logLevel: 'error' });

/**
 * Reads the kubeconfig at `path`.
 * Throws CLIENT_KUBECONFIG_UNREADABLE, CLIENT_KUBECONFIG_INVALID, CLIENT_KUBECONFIG_UNSUPPORTED.
 */
export function loadKubeconfig(path: string, options: KubeconfigOptions = {}): ClusterAccess {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw clientError('CLIENT_KUBECONFIG_UNREADABLE', { path, why: reasonOf(cause) }, cause);
  }
  return parseKubeconfig(text, path, options);
}

/** The same from text; `path` names it in errors and is the base of relative file names. */
export function parseKubeconfig(text: string, path: string, options: KubeconfigOptions = {}): ClusterAccess {
  let json: unknown;
  try {
    json = (options.parseYaml ?? parseKubeconfigYaml)(text);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message.split('\n')[0]! : 'not YAML';
    throw clientError('CLIENT_KUBECONFIG_UNREADABLE', { path, why: `not YAML: ${why}` }, cause);
  }
  const root = new At(path, '', json);
  const contextName = options.context ?? root.text('current-context');
  if (contextName === undefined) throw root.invalid('current-context', 'is missing');
  const context = root.named('contexts', 'context', contextName, 'current-context');
  const clusterName = context.text('cluster');
  if (clusterName === undefined) throw context.invalid('cluster', 'is missing');
  const cluster = root.named('clusters', 'cluster', clusterName, context.keyOf('cluster'));
  const access: ClusterAccess = {
    server: serverOf(cluster),
    namespace: context.text('namespace') ?? 'default',
  };
  if (cluster.text('proxy-url') !== undefined)
    throw clientError('CLIENT_KUBECONFIG_UNSUPPORTED', { path, key: cluster.keyOf('proxy-url') });
  const ca = cluster.pem('certificate-authority');
  if (ca !== undefined) access.ca = ca;
  const serverName = cluster.text('tls-server-name');
  if (serverName !== undefined) access.serverName = serverName;
  if (cluster.flag('insecure-skip-tls-verify')) {
    if (ca !== undefined)
      throw cluster.invalid('insecure-skip-tls-verify', 'is set together with a certificate authority');
    access.insecure = true;
  }
  const userName = context.text('user');
  if (userName !== undefined)
    readUser(root.named('users', 'user', userName, context.keyOf('user')), path, access);
  return access;
}

function serverOf(cluster: At): string {
  const server = cluster.text('server');
  if (server === undefined) throw cluster.invalid('server', 'is missing');
  let url: URL;
  try {
    url = new URL(server);
  } catch {
    throw cluster.invalid('server', `is "${server}", want a URL such as https://10.0.0.1:6443`);
  }
  if (url.protocol !== 'https:' && url.protocol !== 'http:')
    throw cluster.invalid('server', `has scheme "${url.protocol.slice(0, -1)}", want https`);
  return server.replace(/\/+$/, '');
}

function readUser(user: At, path: string, access: ClusterAccess): void {
  for (const key of ['exec', 'auth-provider', 'username', 'password'])
    if (user.value[key] !== undefined && user.value[key] !== null)
      throw clientError('CLIENT_KUBECONFIG_UNSUPPORTED', { path, key: user.keyOf(key) });
  const cert = user.pem('client-certificate');
  const key = user.pem('client-key');
  if (cert !== undefined && key === undefined) throw user.invalid('client-key', 'is missing');
  if (key !== undefined && cert === undefined) throw user.invalid('client-certificate', 'is missing');
  if (cert !== undefined && key !== undefined) {
    access.cert = cert;
    access.key = key;
  }
  const token = user.text('token');
  if (token !== undefined) access.token = token;
  const tokenFile = user.text('tokenFile');
  if (tokenFile !== undefined) access.tokenFile = resolve(dirname(path), tokenFile);
}

/** Where Kubernetes puts the credentials of a pod's service account. */
const serviceAccountDir = '/var/run/secrets/kubernetes.io/serviceaccount';

/** Access from inside a pod, as client-go's `rest.InClusterConfig`; undefined outside of one. */
export function inClusterAccess(
  env: Readonly<Record<string, string | undefined>>,
  directory: string = serviceAccountDir,
): ClusterAccess | undefined {
  const host = env['KUBERNETES_SERVICE_HOST'];
  const port = env['KUBERNETES_SERVICE_PORT'];
  if (!host || !port) return undefined;
  const tokenFile = `${directory}/token`;
  try {
    readFileSync(tokenFile);
    return {
      server: `https://${host.includes(':') ? `[${host}]` : host}:${port}`,
      ca: readFileSync(`${directory}/ca.crt`, 'utf8'),
      tokenFile,
    };
  } catch (cause) {
    throw clientError(
      'CLIENT_KUBECONFIG_UNREADABLE',
      { path: directory, why: `in a pod, but its service account has no token or CA (${reasonOf(cause)})` },
      cause,
    );
  }
}
