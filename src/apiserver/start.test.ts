import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { isNetError } from '../errors/net-error.ts';
import {
  type ApiServer,
  type ApiServerOptions,
  issueControllerKubeconfig,
  issueNodeKubeconfig,
  issueToken,
  startApiServer,
} from './index.ts';

interface Credentials {
  cert?: string;
  key?: string;
  token?: string;
}

function folder() {
  const path = mkdtempSync(join(tmpdir(), 'portolan-start-'));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

const start = (dataDir: string, more: Partial<ApiServerOptions> = {}) =>
  startApiServer({ dataDir, listen: [{ host: '127.0.0.1', port: 0 }], ...more });

function get(server: ApiServer, dataDir: string, path: string, who: Credentials): Promise<number> {
  const ca = readFileSync(join(dataDir, 'pki/ca.crt'));
  const { cert, key, token } = who;
  return new Promise((resolve, reject) => {
    const sent = request(
      new URL(path, server.url),
      {
        ca,
        agent: false,
        ...(cert && { cert, key }),
        headers: token ? { authorization: `Bearer ${token}` } : {},
      },
      (message) => message.resume().on('end', () => resolve(message.statusCode ?? 0)),
    );
    sent.on('error', reject);
    sent.end();
  });
}

const codeOf = (code: string) => (error: unknown) => {
  assert.ok(isNetError(error, code), String(error));
  assert.notEqual(error.remedy, '');
  return true;
};

test('credentials are made once, private, and each opens what it should', async () => {
  using dir = folder();
  const token = issueToken(dir.path, 'robot', ['system:masters']);
  let server = await start(dir.path, { advertise: ['192.0.2.7'], names: ['api.example.com'] });
  try {
    const pki = join(dir.path, 'pki');
    for (const name of readdirSync(pki)) assert.equal(statSync(join(pki, name)).mode & 0o777, 0o600, name);
    const certificate = new X509Certificate(readFileSync(join(pki, 'server.crt')));
    for (const name of ['kubernetes.default.svc', 'localhost', 'api.example.com'])
      assert.ok(certificate.checkHost(name), name);
    for (const ip of ['127.0.0.1', '10.96.0.1', '192.0.2.7']) assert.ok(certificate.checkIP(ip), ip);
    const decode = (text: string) => Buffer.from(text, 'base64').toString();
    const pair = (config: Awaited<ReturnType<typeof issueNodeKubeconfig>>) => {
      const { user } = config.users[0]!;
      return { cert: decode(user['client-certificate-data']), key: decode(user['client-key-data']) };
    };
    const admin = {
      cert: readFileSync(join(pki, 'admin.crt'), 'utf8'),
      key: readFileSync(join(pki, 'admin.key'), 'utf8'),
    };
    const node = pair(await issueNodeKubeconfig(dir.path, 'n1', server.url));
    const controller = pair(await issueControllerKubeconfig(dir.path, server.url));
    using other = folder();
    const elsewhere = await start(other.path);
    const foreign = {
      cert: readFileSync(join(other.path, 'pki/admin.crt'), 'utf8'),
      key: readFileSync(join(other.path, 'pki/admin.key'), 'utf8'),
    };
    await elsewhere.close();
    const statuses = async (path: string) => {
      const all: number[] = [];
      for (const who of [admin, { token }, node, controller, {}, { token: 'wrong' }, foreign])
        all.push(await get(server, dir.path, path, who));
      return all;
    };
    assert.deepEqual(await statuses('/api/v1/pods'), [200, 200, 200, 200, 401, 401, 401]);
    assert.deepEqual(await statuses('/readyz'), [200, 200, 200, 200, 200, 401, 401]);
    await server.close();
    server = await start(dir.path, { advertise: ['192.0.2.7'] });
    assert.equal(await get(server, dir.path, '/api/v1/pods', admin), 200);
  } finally {
    await server.close();
  }
});

test('close() ends watches in good order', async () => {
  using dir = folder();
  const server = await start(dir.path);
  const admin = {
    cert: readFileSync(join(dir.path, 'pki/admin.crt'), 'utf8'),
    key: readFileSync(join(dir.path, 'pki/admin.key'), 'utf8'),
  };
  const watching = get(server, dir.path, '/api/v1/pods?watch=1', admin);
  await new Promise((resolve) => setTimeout(resolve, 100));
  const began = performance.now();
  await server.close();
  assert.equal(await watching, 200);
  assert.ok(performance.now() - began < 1500);
});

test('a start that can not work says why', async () => {
  using dir = folder();
  const overlap = { serviceCidrs: ['10.96.0.0/16'], clusterCidrs: ['10.96.128.0/17'] };
  await assert.rejects(start(dir.path, overlap), codeOf('API_CIDR_OVERLAP'));
  await assert.rejects(
    start(dir.path, { serviceCidrs: ['10.96.0.0/16', '10.97.0.0/16'] }),
    codeOf('API_BAD_CIDR'),
  );
  await assert.rejects(start(dir.path, { serviceCidrs: ['10.96.0.0/99'] }), codeOf('API_BAD_CIDR'));
  await assert.rejects(start('/proc/no/such'), codeOf('API_DATA_DIR'));
  const server = await start(dir.path);
  using other = folder();
  try {
    await assert.rejects(start(other.path, { listen: [server.addresses[0]!] }), codeOf('API_PORT_IN_USE'));
    await assert.rejects(
      start(other.path, { listen: [{ host: '192.0.2.55', port: 0 }] }),
      codeOf('API_LISTEN_FAILED'),
    );
    await assert.rejects(start(dir.path), codeOf('STORE_IN_USE'));
  } finally {
    await server.close();
  }
  await assert.rejects(
    start(dir.path, { serviceCidrs: ['10.50.0.0/16'] }),
    codeOf('API_SERVICE_CIDR_CHANGED'),
  );
  writeFileSync(join(dir.path, 'pki/ca.crt'), 'not a certificate');
  chmodSync(join(dir.path, 'pki/ca.crt'), 0o600);
  await assert.rejects(start(dir.path), codeOf('API_PKI_DAMAGED'));
});
