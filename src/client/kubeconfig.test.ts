import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { isNetError } from '../errors/net-error.ts';
import { inClusterAccess, loadKubeconfig, parseKubeconfig } from './kubeconfig.ts';

const pem = (what: string) => `-----BEGIN ${what}-----\nAAAA\n-----END ${what}-----\n`;
const base64 = (text: string) => Buffer.from(text).toString('base64');

const config = (patch: { cluster?: object; user?: object; context?: object; root?: object } = {}) =>
  JSON.stringify({
    apiVersion: 'v1',
    kind: 'Config',
    'current-context': 'main',
    contexts: [{ name: 'main', context: { cluster: 'c', user: 'u', ...patch.context } }],
    clusters: [{ name: 'c', cluster: { server: 'https://10.0.0.1:6443/', ...patch.cluster } }],
    users: [{ name: 'u', user: { token: 't', ...patch.user } }],
    ...patch.root,
  });

test('inline data is decoded and unknown fields are tolerated', () => {
  const text = config({
    cluster: { 'certificate-authority-data': base64(pem('CERTIFICATE')), extensions: [{ name: 'x' }] },
    user: {
      token: undefined,
      'client-certificate-data': base64(pem('CERTIFICATE')),
      'client-key-data': base64(pem('PRIVATE KEY')),
    },
    context: { namespace: 'kube-system' },
    root: { preferences: {}, future: { x: 1 } },
  });
  assert.deepEqual(parseKubeconfig(text, '/etc/k'), {
    server: 'https://10.0.0.1:6443',
    namespace: 'kube-system',
    ca: pem('CERTIFICATE'),
    cert: pem('CERTIFICATE'),
    key: pem('PRIVATE KEY'),
  });
});

test('files are found relative to the kubeconfig', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'portolan-kubeconfig-'));
  t.after(() => rmSync(directory, { recursive: true }));
  writeFileSync(join(directory, 'ca.crt'), pem('CERTIFICATE'));
  writeFileSync(
    join(directory, 'config'),
    config({ cluster: { 'certificate-authority': 'ca.crt' }, user: { tokenFile: 'token' } }),
  );
  const access = loadKubeconfig(join(directory, 'config'));
  assert.equal(access.ca, pem('CERTIFICATE'));
  assert.equal(access.tokenFile, join(directory, 'token'));
});

test('each broken kubeconfig is refused with the file and the key', () => {
  const cases: [string, string, string][] = [
    ['[]', 'CLIENT_KUBECONFIG_INVALID', '"."'],
    ['a: [', 'CLIENT_KUBECONFIG_UNREADABLE', 'not YAML'],
    ['{}', 'CLIENT_KUBECONFIG_INVALID', '"current-context" is missing'],
    [
      config({ root: { 'current-context': 'x' } }),
      'CLIENT_KUBECONFIG_INVALID',
      '"contexts" has no entry named "x"',
    ],
    [config({ root: { clusters: 7 } }), 'CLIENT_KUBECONFIG_INVALID', '"clusters" is missing, want a list'],
    [config({ context: { user: 'x' } }), 'CLIENT_KUBECONFIG_INVALID', '"users" has no entry named "x"'],
    [config({ cluster: { server: 'api' } }), 'CLIENT_KUBECONFIG_INVALID', '"clusters[0].cluster.server"'],
    [config({ cluster: { server: 'ftp://x' } }), 'CLIENT_KUBECONFIG_INVALID', 'scheme "ftp"'],
    [
      config({ cluster: { 'certificate-authority-data': '@@' } }),
      'CLIENT_KUBECONFIG_INVALID',
      '"clusters[0].cluster.certificate-authority-data" is not base64',
    ],
    [
      config({ cluster: { 'certificate-authority-data': base64('hello!') } }),
      'CLIENT_KUBECONFIG_INVALID',
      'is not PEM',
    ],
    [
      config({ cluster: { 'certificate-authority': '/nonexistent/ca' } }),
      'CLIENT_KUBECONFIG_INVALID',
      '"/nonexistent/ca", which cannot be read (ENOENT, no such file)',
    ],
    [
      config({ user: { 'client-certificate-data': base64(pem('CERTIFICATE')) } }),
      'CLIENT_KUBECONFIG_INVALID',
      '"users[0].user.client-key" is missing',
    ],
    [config({ user: { token: 7 } }), 'CLIENT_KUBECONFIG_INVALID', 'is a number, want a string'],
    [config({ user: { exec: {} } }), 'CLIENT_KUBECONFIG_UNSUPPORTED', 'users[0].user.exec'],
    [config({ cluster: { 'proxy-url': 'http://p' } }), 'CLIENT_KUBECONFIG_UNSUPPORTED', 'proxy-url'],
  ];
  for (const [text, code, part] of cases)
    assert.throws(
      () => parseKubeconfig(text, '/etc/k'),
      (error) => isNetError(error, code) && error.message.includes('/etc/k') && error.message.includes(part),
      `${code} ${part}`,
    );
  assert.throws(
    () => loadKubeconfig('/nonexistent/k'),
    (error) => isNetError(error, 'CLIENT_KUBECONFIG_UNREADABLE') && error.message.includes('ENOENT'),
  );
});

test('any text gives an access or an error of the catalogue', () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.json()), (text) => {
      try {
        parseKubeconfig(text, '/etc/k');
      } catch (error) {
        assert.ok(isNetError(error));
      }
    }),
  );
});

test('outside of a pod there is no in-cluster access', () => {
  assert.equal(inClusterAccess({}), undefined);
  assert.throws(
    () =>
      inClusterAccess(
        { KUBERNETES_SERVICE_HOST: '10.96.0.1', KUBERNETES_SERVICE_PORT: '443' },
        '/nonexistent',
      ),
    (error) => isNetError(error, 'CLIENT_KUBECONFIG_UNREADABLE'),
  );
});
