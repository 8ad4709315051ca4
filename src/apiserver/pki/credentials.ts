/**
 * What lies in `<dataDir>/pki`: the authority, the server's certificate, and the credentials of its clients.
 *
 *   ca.crt ca.key            made once; delete them and every client needs new credentials
 *   server.crt server.key    made anew when names are missing or it is about to end
 *   admin.crt admin.key      O=system:masters
 *   tokens.json              bearer tokens: SHA-256 of the token, user, groups
 */
import { createHash, randomBytes, X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { apiError } from '../../errors/api.ts';
import type { User } from '../auth/types.ts';
import { createAuthority, createLeaf, isCurrent, type KeyPair } from './certificates.ts';
import { readIfThere, writePrivate } from './files.ts';

export const MASTERS = 'system:masters';
export const NODES = 'system:nodes';
export const NODE_PREFIX = 'system:node:';
export const CONTROLLERS = 'system:portolan:controllers';
const CONTROLLER_USER = 'system:portolan-controller';

/** A kubeconfig with one cluster, user and context; write it with `kubeconfigText`. */
export interface Kubeconfig {
  readonly apiVersion: 'v1';
  readonly kind: 'Config';
  readonly clusters: readonly {
    name: string;
    cluster: { server: string; 'certificate-authority-data': string };
  }[];
  readonly users: readonly {
    name: string;
    user: { 'client-certificate-data': string; 'client-key-data': string };
  }[];
  readonly contexts: readonly { name: string; context: { cluster: string; user: string } }[];
  readonly 'current-context': string;
}

export const kubeconfigText = (config: Kubeconfig) => stringify(config, { lineWidth: 0 });

const pkiPath = (dataDir: string, name: string) => join(dataDir, 'pki', name);

function readPair(dataDir: string, name: string): KeyPair | undefined {
  const path = pkiPath(dataDir, `${name}.crt`);
  const certificate = readIfThere(path);
  const key = readIfThere(pkiPath(dataDir, `${name}.key`));
  if (certificate === undefined && key === undefined) return undefined;
  if (certificate === undefined || key === undefined)
    throw apiError('API_PKI_DAMAGED', { path, detail: 'only one of certificate and key is there' });
  try {
    new X509Certificate(certificate);
  } catch (error) {
    throw apiError('API_PKI_DAMAGED', { path, detail: 'it is no certificate' }, error);
  }
  return { certificate, key };
}

function writePair(dataDir: string, name: string, pair: KeyPair): KeyPair {
  writePrivate(pkiPath(dataDir, `${name}.key`), pair.key);
  writePrivate(pkiPath(dataDir, `${name}.crt`), pair.certificate);
  return pair;
}

function authorityOf(dataDir: string): KeyPair {
  const authority = readPair(dataDir, 'ca');
  if (!authority)
    throw apiError('API_PKI_DAMAGED', {
      path: pkiPath(dataDir, 'ca.crt'),
      detail: 'the authority is not there yet',
    });
  return authority;
}

export interface ServerCredentials {
  readonly authority: string;
  readonly server: KeyPair;
}

/** Reads what is in the data directory and makes what is missing. @throws API_DATA_DIR, API_PKI_DAMAGED, STORE_FULL */
export async function ensureCredentials(
  dataDir: string,
  subjectAltNames: readonly string[],
  now: Date,
): Promise<ServerCredentials> {
  const authority =
    readPair(dataDir, 'ca') ?? writePair(dataDir, 'ca', await createAuthority('portolan-ca', now));
  let server = readPair(dataDir, 'server');
  if (!server || !isCurrent(server.certificate, authority.certificate, subjectAltNames, now))
    server = writePair(
      dataDir,
      'server',
      await createLeaf(authority, { commonName: 'kube-apiserver', subjectAltNames, now }),
    );
  const admin = readPair(dataDir, 'admin');
  if (!admin || !isCurrent(admin.certificate, authority.certificate, [], now))
    writePair(
      dataDir,
      'admin',
      await createLeaf(authority, { commonName: 'admin', organizations: [MASTERS], now }),
    );
  return { authority: authority.certificate, server };
}

/** Writes `<dataDir>/admin.kubeconfig` for the URL at which the server listens; comes after the sockets, which may choose the port. */
export function writeAdminKubeconfig(dataDir: string, serverUrl: string): void {
  const admin = readPair(dataDir, 'admin');
  if (!admin)
    throw apiError('API_PKI_DAMAGED', { path: pkiPath(dataDir, 'admin.crt'), detail: 'it is not there' });
  const config = kubeconfigOf(authorityOf(dataDir).certificate, admin, serverUrl, 'admin');
  writePrivate(join(dataDir, 'admin.kubeconfig'), kubeconfigText(config));
}

function kubeconfigOf(authority: string, pair: KeyPair, server: string, user: string): Kubeconfig {
  const base64 = (text: string) => Buffer.from(text).toString('base64');
  return {
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [{ name: 'portolan', cluster: { server, 'certificate-authority-data': base64(authority) } }],
    users: [
      {
        name: user,
        user: { 'client-certificate-data': base64(pair.certificate), 'client-key-data': base64(pair.key) },
      },
    ],
    contexts: [{ name: 'portolan', context: { cluster: 'portolan', user } }],
    'current-context': 'portolan',
  };
}

async function issue(dataDir: string, serverUrl: string, commonName: string, organization: string) {
  const authority = authorityOf(dataDir);
  const pair = await createLeaf(authority, { commonName, organizations: [organization], now: new Date() });
  return kubeconfigOf(authority.certificate, pair, serverUrl, commonName);
}

/** New credentials of a node: it may read what it needs and change its own objects. @throws API_PKI_DAMAGED */
export const issueNodeKubeconfig = (
  dataDir: string,
  nodeName: string,
  serverUrl: string,
): Promise<Kubeconfig> => issue(dataDir, serverUrl, `${NODE_PREFIX}${nodeName}`, NODES);

/** New credentials for the controllers and the scheduler. @throws API_PKI_DAMAGED */
export const issueControllerKubeconfig = (dataDir: string, serverUrl: string): Promise<Kubeconfig> =>
  issue(dataDir, serverUrl, CONTROLLER_USER, CONTROLLERS);

/** For which hosts the server's certificate speaks; undefined when there is none yet. @throws API_PKI_DAMAGED */
export function serverNames(dataDir: string): { covers(host: string): boolean } | undefined {
  const pair = readPair(dataDir, 'server');
  if (!pair) return undefined;
  const certificate = new X509Certificate(pair.certificate);
  return {
    covers: (host) => (isIP(host) ? certificate.checkIP(host) : certificate.checkHost(host)) !== undefined,
  };
}

interface TokenRecord {
  readonly sha256: string;
  readonly user: string;
  readonly groups: readonly string[];
}

const digest = (token: string) => createHash('sha256').update(token).digest('hex');

/** @throws API_PKI_DAMAGED */
function readTokens(dataDir: string): TokenRecord[] {
  const path = pkiPath(dataDir, 'tokens.json');
  const text = readIfThere(path);
  if (text === undefined) return [];
  try {
    const records = JSON.parse(text) as TokenRecord[];
    if (
      records.every(
        (r) => typeof r.sha256 === 'string' && typeof r.user === 'string' && Array.isArray(r.groups),
      )
    )
      return records;
  } catch {
    // Told below.
  }
  throw apiError('API_PKI_DAMAGED', { path, detail: 'it is not a list of tokens' });
}

/** Makes a bearer token; only its digest is kept. A running server takes it at its next start. */
export function issueToken(dataDir: string, user: string, groups: readonly string[]): string {
  const token = randomBytes(32).toString('base64url');
  const records = [...readTokens(dataDir), { sha256: digest(token), user, groups }];
  writePrivate(pkiPath(dataDir, 'tokens.json'), `${JSON.stringify(records, null, 2)}\n`);
  return token;
}

/** Looks up bearer tokens by digest, so that no comparison of secrets takes time that tells something. */
export function tokenUsers(dataDir: string): (token: string) => User | undefined {
  const users = new Map(
    readTokens(dataDir).map(({ sha256, user, groups }) => [sha256, { name: user, groups }]),
  );
  return (token) => users.get(digest(token));
}
