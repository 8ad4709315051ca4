/**
 * What people do with kubectl beyond the everyday: kinds that are not served, pruning, cascades, selectors, waiting,
 * and the many changes that a Service may go through. Two generations of kubectl, TLS on loopback; stderr must be
 * empty unless a case says otherwise.
 */
import assert from 'node:assert/strict';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, suite, test } from 'node:test';
import { serverForFile } from '../lib/api-server.ts';
import { type Kubectl, kubectls, type Outcome, runKubectl, spawnKubectl } from '../lib/kubectl.ts';

const { directory, kubeconfig } = serverForFile('users');

const pod = (name: string, labels: object = { app: name }, spec: object = {}) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, labels },
  spec: { containers: [{ name: 'main', image: 'busybox' }], ...spec },
});
const service = (name: string, spec: object) => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { name, labels: { app: name } },
  spec,
});
const deployment = {
  apiVersion: 'apps/v1',
  kind: 'Deployment',
  metadata: { name: 'web' },
  spec: {
    selector: { matchLabels: { app: 'web' } },
    template: { metadata: { labels: { app: 'web' } }, spec: { containers: [{ name: 'c', image: 'x' }] } },
  },
};
const list = (...items: object[]) => JSON.stringify({ apiVersion: 'v1', kind: 'List', items });

/** Splits a command line at blanks; no argument here has any, or it is given as an array. */
const words = (line: string | readonly string[]) =>
  typeof line === 'string' ? line.split(' ').filter((word) => word !== '') : [...line];

async function until(holds: () => boolean | Promise<boolean>, what = 'the condition'): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (!(await holds())) {
    if (Date.now() > deadline) assert.fail(`timed out waiting for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
}

for (const kubectl of kubectls()) suite(`kubectl ${kubectl.version}`, () => cases(kubectl));

function cases(kubectl: Kubectl): void {
  const modern = kubectl.version !== '1.20';
  const space = `u${kubectl.version.replace('.', '')}`;
  const options = { kubeconfig, home: join(directory, `home-${space}`) };
  const plain = (line: string | readonly string[], input = ''): Promise<Outcome> =>
    runKubectl(kubectl, { ...options, input }, words(line));
  const run = (line: string | readonly string[], input?: string) =>
    plain(['-n', space, ...words(line)], input);
  /** Must succeed and say nothing on stderr. @returns stdout */
  const ok = async (line: string | readonly string[], input?: string): Promise<string> => {
    const { status, stdout, stderr } = await run(line, input);
    assert.deepEqual({ line, status, stderr }, { line, status: 0, stderr: '' });
    return stdout.trimEnd();
  };
  /** Must fail. @returns stderr */
  const refused = async (line: string | readonly string[], input?: string): Promise<string> => {
    const { status, stdout, stderr } = await run(line, input);
    assert.notEqual(status, 0, `${String(line)} should fail, but printed ${stdout}`);
    return stderr.trimEnd();
  };
  const create = (...items: object[]) => ok('create -f -', list(...items));
  const get = (what: string, path: string) => ok(`get ${what} -o jsonpath=${path}`);

  before(async () => {
    assert.equal((await plain(`create namespace ${space}`)).status, 0);
  });

  test('apply --prune without an allow list looks through kinds that are not here, too', async () => {
    const folder = join(directory, `prune-${space}`);
    mkdirSync(folder);
    const label = { app: `prune-${space}` };
    const map = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'kept', labels: label } };
    const svc = { ...service('kept', { ports: [{ port: 80 }] }), metadata: { name: 'kept', labels: label } };
    writeFileSync(join(folder, 'kept.json'), list(map, svc));
    writeFileSync(join(folder, 'left.json'), JSON.stringify(pod('left', label)));
    await ok(`apply -f ${folder}`);
    rmSync(join(folder, 'left.json'));
    const { status, stdout, stderr } = await run(`apply --prune -l app=prune-${space} -f ${folder}`);
    assert.deepEqual(
      [status, stdout.trimEnd()],
      [0, 'configmap/kept unchanged\nservice/kept unchanged\npod/left pruned'],
      stderr,
    );
    // The modern client says so to everyone who names a namespace.
    assert.match(
      stderr,
      modern ? /^[^\n]*Deprecated: kubectl apply will no longer prune non-name[^\n]*\n$/ : /^$/,
    );
    await ok(`delete -f ${folder}`);
  });

  test('kinds that are not served are empty, and say what to use instead', async () => {
    const empty = { status: 0, stdout: '', stderr: `No resources found in ${space} namespace.\n` };
    for (const kind of ['deploy', 'ing', 'secrets', 'pvc', 'sts', 'ds', 'rs', 'jobs', 'cj', 'rc', 'all'])
      assert.deepEqual({ kind, ...(await run(`get ${kind}`)) }, { kind, ...empty });
    assert.equal((await run('get pv')).stderr, 'No resources found\n');
    const why = 'Deployments are not served by this API server yet: create Pods instead';
    const manifest = JSON.stringify(deployment);
    assert.equal(
      await refused('create deployment x --image=y'),
      `error: failed to create deployment: ${why}`,
    );
    for (const line of [
      'apply -f -',
      'apply --server-side -f -',
      'apply --dry-run=server -f -',
      'create -f -',
    ])
      assert.match(
        await refused(line, manifest),
        new RegExp(`^Error from server \\(MethodNotAllowed\\): .*${why}$`),
      );
    assert.match(
      await refused('create secret generic a --from-literal=a=b'),
      /use a ConfigMap for what is not secret/,
    );
    const missing = 'deployments.apps "web" not found';
    for (const line of [
      'get deploy web',
      'scale deploy/web --replicas=2',
      'rollout status deploy/web',
      'rollout restart deploy/web',
      'set image deploy/web c=y',
      'expose deploy web --port=80',
      'delete deploy web',
    ])
      assert((await refused(line)).endsWith(missing), line);
    await ok('delete deploy web --ignore-not-found');
    assert.match((await run('explain deployment')).stdout, new RegExp(why));
  });
}
