/**
 * Large answers on connections that are used again. Node's HTTP server stops reading from a client whose answer it
 * believes unsent; what the client sent meanwhile was then taken for a broken request, and the connection cut
 * ("Parse Error: Paused"): kubectl said EOF at the request after a large one.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { parse } from 'yaml';
import { startApiServer } from '../../src/apiserver/index.ts';

const ROUNDS = 20;

/**
 * Reads a large object and writes a smaller one, by turns on one connection. Headers and body are records of their own,
 * as from other clients; a request that fails is counted and the connection made anew.
 */
const CLIENT = `
import http.client, json, ssl, sys
folder, port, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
tls = ssl.create_default_context(cafile=folder + "/ca.pem")
tls.load_cert_chain(folder + "/cert.pem", folder + "/key.pem")
path = "/api/v1/namespaces/default/configmaps"
body = lambda name, size: json.dumps({"metadata": {"name": name}, "data": {"text": "x" * size}})
kinds = {"content-type": "application/json"}
connect = lambda: http.client.HTTPSConnection("127.0.0.1", port, context=tls)
def ask(connection, *request):
    connection.request(*request)
    answer = connection.getresponse()
    answer.read()
    return answer.status
there = connect()
statuses = [ask(there, "POST", path, body("large", 900_000), kinds), ask(there, "POST", path, body("small", 60_000), kinds)]
failures = []
for _ in range(rounds):
    try:
        statuses.append(ask(there, "GET", path + "/large"))
        statuses.append(ask(there, "PUT", path + "/small", body("small", 60_000), kinds))
    except (http.client.HTTPException, OSError) as failure:
        failures.append(repr(failure))
        there = connect()
print(json.dumps({"statuses": sorted(set(statuses)), "failures": failures}))
`;

test('a request with a body that follows a large answer is served, every time', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'portolan-large-'));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const sleeping = new Int32Array(new SharedArrayBuffer(4));
  const server = await startApiServer({
    dataDir: directory,
    listen: [{ host: '127.0.0.1', port: 0 }],
    // What a busy server does after an answer, for its watchers: the next request is there before it has looked
    // whether the answer is sent.
    log: (_, _fields, message) => void (message === 'request' && Atomics.wait(sleeping, 0, 0, 20)),
  });
  t.after(() => server.close());
  const { clusters, users } = parse(readFileSync(join(directory, 'admin.kubeconfig'), 'utf8')) as {
    clusters: { cluster: { server: string; 'certificate-authority-data': string } }[];
    users: { user: { 'client-certificate-data': string; 'client-key-data': string } }[];
  };
  const { cluster } = clusters[0]!;
  const { user } = users[0]!;
  const file = (name: string, base64: string) =>
    writeFileSync(join(directory, name), Buffer.from(base64, 'base64'));
  file('ca.pem', cluster['certificate-authority-data']);
  file('cert.pem', user['client-certificate-data']);
  file('key.pem', user['client-key-data']);
  const { port } = new URL(cluster.server);
  const { stdout } = await promisify(execFile)('python3', ['-c', CLIENT, directory, port, String(ROUNDS)]);
  assert.deepEqual(JSON.parse(stdout), { statuses: [200, 201], failures: [] });
});
