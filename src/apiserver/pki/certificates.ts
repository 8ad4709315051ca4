/** Certificates on EC P-256 keys: one authority, and what it signs for the server and its clients. */
import 'reflect-metadata';
import { randomBytes, webcrypto } from 'node:crypto';
import { isIP } from 'node:net';
import * as x509 from '@peculiar/x509';

/** The library is typed for browsers; these are the same objects under the names that it knows. */
type BrowserCrypto = Parameters<typeof x509.cryptoProvider.set>[0];
type BrowserKeys = NonNullable<x509.X509CertificateCreateSelfSignedParams['keys']>;
type BrowserKey = BrowserKeys['publicKey'];

x509.cryptoProvider.set(webcrypto as unknown as BrowserCrypto);

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const AUTHORITY_YEARS = 10;
/** Leaf certificates are made anew by a start of the server when less than a tenth of this is left. */
export const LEAF_DAYS = 365;
const DAY_MS = 86_400_000;
/** Clocks of nodes differ a little. */
const BACKDATE_MS = 5 * 60_000;

/** A certificate and its key, both PEM. */
export interface KeyPair {
  readonly certificate: string;
  readonly key: string;
}

const serialNumber = () => {
  const bytes = randomBytes(16);
  // Positive and without a leading zero byte: RFC 5280 section 4.1.2.2.
  bytes[0] = (bytes[0]! & 0x7f) | 0x40;
  return bytes.toString('hex');
};

async function newKeys() {
  return webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
}

async function keyPem(key: webcrypto.CryptoKey): Promise<string> {
  const der = await webcrypto.subtle.exportKey('pkcs8', key);
  return `${x509.PemConverter.encode(der, 'PRIVATE KEY')}\n`;
}

/** Escapes a value of a distinguished name: RFC 4514 section 2.4. */
const dnValue = (text: string) => text.replace(/[,+"\\<>;=#]/g, '\\$&');

export async function createAuthority(commonName: string, now: Date): Promise<KeyPair> {
  const keys = await newKeys();
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serialNumber(),
    name: `CN=${dnValue(commonName)}`,
    notBefore: new Date(now.getTime() - BACKDATE_MS),
    notAfter: new Date(now.getTime() + AUTHORITY_YEARS * 365 * DAY_MS),
    signingAlgorithm: ALGORITHM,
    keys: keys as unknown as BrowserKeys,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey as unknown as BrowserKey),
    ],
  });
  return { certificate: `${certificate.toString('pem')}\n`, key: await keyPem(keys.privateKey) };
}

export interface LeafOptions {
  readonly commonName: string;
  readonly organizations?: readonly string[];
  /** Names and addresses of a server; a client certificate has none. */
  readonly subjectAltNames?: readonly string[];
  readonly now: Date;
}

/** Signs a certificate for a server (with subjectAltNames) or a client (without). */
export async function createLeaf(authority: KeyPair, options: LeafOptions): Promise<KeyPair> {
  const issuer = new x509.X509Certificate(authority.certificate);
  const signingKey = await webcrypto.subtle.importKey(
    'pkcs8',
    x509.PemConverter.decodeFirst(authority.key),
    ALGORITHM,
    false,
    ['sign'],
  );
  const keys = await newKeys();
  const names = options.subjectAltNames;
  const usage = names ? x509.ExtendedKeyUsage.serverAuth : x509.ExtendedKeyUsage.clientAuth;
  const subject = [
    ...(options.organizations ?? []).map((o) => `O=${dnValue(o)}`),
    `CN=${dnValue(options.commonName)}`,
  ];
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serialNumber(),
    issuer: issuer.subject,
    subject: subject.join(', '),
    notBefore: new Date(options.now.getTime() - BACKDATE_MS),
    notAfter: new Date(options.now.getTime() + LEAF_DAYS * DAY_MS),
    signingAlgorithm: ALGORITHM,
    publicKey: keys.publicKey as unknown as BrowserKey,
    signingKey: signingKey as unknown as BrowserKey,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([usage]),
      await x509.AuthorityKeyIdentifierExtension.create(issuer),
      ...(names
        ? [
            new x509.SubjectAlternativeNameExtension(
              names.map((value) => ({ type: isIP(value) ? ('ip' as const) : ('dns' as const), value })),
            ),
          ]
        : []),
    ],
  });
  return { certificate: `${certificate.toString('pem')}\n`, key: await keyPem(keys.privateKey) };
}

/** True when `certificate` was signed by `authority`, names all of `subjectAltNames`, and lasts a while yet. */
export function isCurrent(
  certificate: string,
  authority: string,
  subjectAltNames: readonly string[],
  now: Date,
): boolean {
  const leaf = new x509.X509Certificate(certificate);
  if (leaf.issuer !== new x509.X509Certificate(authority).subject) return false;
  if (leaf.notAfter.getTime() - now.getTime() < (LEAF_DAYS / 10) * DAY_MS) return false;
  const names =
    leaf.getExtension(x509.SubjectAlternativeNameExtension)?.names.items.map((name) => name.value) ?? [];
  return subjectAltNames.every((wanted) => names.includes(wanted));
}
