/**
 * Apply, patch, explain and validation as people use them: two generations of kubectl against the real API server
 * over TLS, on loopback. Nothing but what is expected may appear on stderr.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, suite, test } from 'node:test';
import { promisify } from 'node:util';
import { serverForFile } from '../lib/api-server.ts';
import { type Kubectl, kubectls, type Outcome, runKubectl } from '../lib/kubectl.ts';

const { directory, kubeconfig } = serverForFile('apply');

/** Runs kubectl in a child process of its own, while the server runs in this one: so never synchronously. */
function runner(kubectl: Kubectl, namespace: string) {
  const options = {
    kubeconfig,
    home: join(directory, `home-${kubectl.version}`),
  };
  const run = (args: readonly string[], input = ''): Promise<Outcome> =>
    runKubectl(kubectl, { ...options, input }, ['--namespace', namespace, ...args]);
  return {
    run,
    /** What it prints; fails when it fails or when anything is on stderr. */
    async ok(args: readonly string[], input?: string): Promise<string> {
      const { status, stdout, stderr } = await run(args, input);
      assert.deepEqual({ args, status, stderr }, { args, status: 0, stderr: '' }, stdout);
      return stdout.trim();
    },
    /** What it says when it fails. */
    async fails(args: readonly string[], input?: string): Promise<string> {
      const { status, stdout, stderr } = await run(args, input);
      assert.notEqual(status, 0, `${args.join(' ')} should fail, but printed ${stdout}`);
      return stderr.trim();
    },
  };
}

const configMap = (name: string, data: object, labels?: object) =>
  JSON.stringify({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name, labels }, data });
const service = (spec: object, name = 'web') =>
  JSON.stringify({ apiVersion: 'v1', kind: 'Service', metadata: { name }, spec });
const pod = (spec: object, name = 'web') =>
  JSON.stringify({ apiVersion: 'v1', kind: 'Pod', metadata: { name }, spec });
const list = (...items: string[]) => `{"apiVersion":"v1","kind":"List","items":[${items.join()}]}`;
const stdin = ['-f', '-'];

for (const kubectl of kubectls()) {
  const modern = kubectl.version !== '1.20';
  const namespace = `apply-${kubectl.version.replace('.', '-')}`;
  const { ok, fails, run } = runner(kubectl, namespace);
  const get = (what: string, path: string) => ok(['get', ...what.split(' '), '-o', `jsonpath=${path}`]);
  const managers = async (what: string) =>
    JSON.parse(
      await ok(['get', ...what.split(' '), '-o', 'json', ...(modern ? ['--show-managed-fields'] : [])]),
    ).metadata.managedFields as { manager: string; operation: string; fieldsV1: object }[];

  suite(`kubectl ${kubectl.version}`, { concurrency: 1 }, () => {
    before(() => ok(['create', 'namespace', namespace]));

    test('apply creates, finds nothing to do, changes what differs and removes what is left out', async () => {
      const first = list(
        configMap('conf', { a: '1', b: '2' }),
        service({
          ports: [
            { name: 'http', port: 80 },
            { name: 'dns', port: 53, protocol: 'UDP' },
          ],
        }),
      );
      assert.equal(await ok(['apply', ...stdin], first), 'configmap/conf created\nservice/web created');
      assert.equal(await ok(['apply', ...stdin], first), 'configmap/conf unchanged\nservice/web unchanged');
      const second = list(
        configMap('conf', { a: '9' }),
        service({
          ports: [
            { name: 'http', port: 81 },
            { name: 'dns', port: 53, protocol: 'UDP' },
          ],
        }),
      );
      assert.match((await run(['diff', ...stdin], second)).stdout, /^-\s+port: 80\n\+\s+port: 81$/m);
      assert.equal(
        await ok(['apply', ...stdin], second),
        'configmap/conf configured\nservice/web configured',
      );
      assert.equal(await get('configmap conf', '{.data}'), '{"a":"9"}');
      assert.equal(await get('service web', '{.spec.ports[*].port}'), '81 53');
      assert.match(await ok(['apply', 'view-last-applied', 'configmap', 'conf', '-o', 'json']), /"a": "9"/);
      assert.equal(
        await ok(['apply', '--dry-run=server', ...stdin], first),
        'configmap/conf configured (server dry run)\nservice/web configured (server dry run)',
      );
      assert.equal(await get('configmap conf', '{.data}'), '{"a":"9"}');
    });

    test('server-side apply shares, refuses and takes over fields', async () => {
      const apply = (manager: string, ...more: string[]) => [
        'apply',
        '--server-side',
        `--field-manager=${manager}`,
        ...more,
        ...stdin,
      ];
      assert.equal(
        await ok(apply('alice'), configMap('shared', { a: '1', b: '2' })),
        'configmap/shared serverside-applied',
      );
      assert.equal(
        await ok(apply('alice'), configMap('shared', { a: '1', b: '2' })),
        'configmap/shared serverside-applied',
      );
      const version = await get('configmap shared', '{.metadata.resourceVersion}');
      await ok(apply('alice'), configMap('shared', { a: '1', b: '2' }));
      assert.equal(await get('configmap shared', '{.metadata.resourceVersion}'), version);
      await ok(apply('bob'), configMap('shared', { b: '2', c: '3' }));
      assert.match(
        await fails(apply('bob'), configMap('shared', { a: 'other', b: '2', c: '3' })),
        /Apply failed with 1 conflict: conflict with "alice": \.data\.a\n/,
      );
      await ok(apply('bob', '--force-conflicts'), configMap('shared', { a: 'other', c: '3' }));
      assert.deepEqual(
        (await managers('configmap shared')).map((m) => [m.manager, m.operation, m.fieldsV1]),
        [
          ['alice', 'Apply', { 'f:data': { 'f:b': {} } }],
          ['bob', 'Apply', { 'f:data': { 'f:a': {}, 'f:c': {} } }],
        ],
      );
      await ok(apply('bob'), configMap('shared', { c: '3' }));
      assert.equal(await get('configmap shared', '{.data}'), '{"b":"2","c":"3"}');
    });

    test('a conflict with an update tells the version, several are listed', async () => {
      await ok(
        ['create', ...stdin],
        service({ type: 'NodePort', ports: [{ port: 80, name: 'a' }] }, 'clash'),
      );
      const refused = await fails(
        ['apply', '--server-side', '--field-manager=alice', ...stdin],
        service({ type: 'ClusterIP', ports: [{ port: 80, name: 'b' }] }, 'clash'),
      );
      assert.match(
        refused,
        /Apply failed with 2 conflicts: conflicts with "kubectl-create" using v1:\n- \.spec\.type\n- \.spec\.ports\[port=80,protocol="TCP"\]\.name\n/,
      );
    });

    test('an object moves from client-side to server-side apply without a word', async () => {
      await ok(['apply', ...stdin], configMap('moving', { a: '1' }));
      await ok(['apply', '--server-side', ...stdin], configMap('moving', { a: '2' }));
      await ok(['apply', '--server-side', ...stdin], configMap('moving', { b: '3' }));
      assert.match(await get('configmap moving', '{.data}'), /"b":"3"/);
      await ok(['apply', '--server-side', '--dry-run=server', ...stdin], configMap('moving', { b: '3' }));
      await ok(['apply', ...stdin], configMap('moving', { b: '4' }));
      assert.match(await get('configmap moving', '{.data}'), /"b":"4"/);
    });

    test('apply --prune deletes what is no longer in the manifests', async () => {
      const prune = [
        'apply',
        '--prune',
        '-l',
        'set=p',
        modern ? '--prune-allowlist=core/v1/ConfigMap' : '--prune-whitelist=core/v1/ConfigMap',
        '--namespace',
        namespace,
        ...stdin,
      ];
      const [one, two] = [
        configMap('p1', { a: '1' }, { set: 'p' }),
        configMap('p2', { a: '1' }, { set: 'p' }),
      ];
      await ok(prune, list(one, two));
      assert.equal(await ok(prune, list(one)), 'configmap/p1 unchanged\nconfigmap/p2 pruned');
    });

    test('patches of all types change what they say', async () => {
      const patch = (type: string, change: unknown) => [
        'patch',
        'service',
        'web',
        '--type',
        type,
        '-p',
        JSON.stringify(change),
      ];
      await ok(patch('json', [{ op: 'replace', path: '/spec/ports/0/port', value: 8080 }]));
      await ok(patch('merge', { spec: { sessionAffinity: 'ClientIP' } }));
      await ok(patch('strategic', { spec: { ports: [{ port: 8080, name: 'renamed' }] } }));
      assert.equal(
        await get(
          'service web',
          '{.spec.sessionAffinityConfig.clientIP.timeoutSeconds} {.spec.ports[*].name}',
        ),
        '10800 renamed dns',
      );
      assert.match(await ok(patch('merge', {})), /service\/web patched \(no change\)/);
      assert.match(
        await fails(patch('json', [{ op: 'remove', path: '/spec/nothing' }])),
        /invalid: .*\/spec\/nothing/,
      );
      assert.match(
        await fails(patch('strategic', { spec: { ports: [{ name: 'x' }] } })),
        /does not contain declared merge key: port/,
      );
      assert.match(
        await fails(patch('merge', { spec: { type: 'Nope' } })),
        /The Service "web" is invalid: .*spec\.type: Unsupported value: "Nope": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"/s,
      );
      const { stderr } = await run(patch('merge', { spec: { foo: 1 } }));
      assert.equal(stderr, 'Warning: unknown field "spec.foo"\n');
    });

    test('a pod may change its image only; label, annotate and replace work as ever', async () => {
      await ok(
        ['apply', ...stdin],
        pod({ containers: [{ name: 'c', image: 'nginx', env: [{ name: 'A', value: 'b' }] }] }),
      );
      await ok(['set', 'image', 'pod/web', 'c=nginx:2']);
      await ok(['label', 'pod', 'web', 'x=y']);
      await ok(['label', 'pod', 'web', 'x-']);
      await ok(['annotate', 'pod', 'web', 'note=hello']);
      assert.match(
        await fails(['patch', 'pod', 'web', '-p', '{"spec":{"hostname":"h"}}']),
        /^The Pod "web" is invalid: spec: Forbidden: pod updates may not change fields other than `spec\.containers\[\*\]\.image`.*\nchanged: spec\.hostname$/,
      );
      const file = join(directory, `conf-${kubectl.version}.json`);
      writeFileSync(
        file,
        (await ok(['get', 'configmap', 'conf', '-o', 'json'])).replace('"a": "9"', '"a": "10"'),
      );
      assert.equal(await ok(['replace', '-f', file]), 'configmap/conf replaced');
      assert.match(
        await fails(['replace', '-f', file]),
        /Operation cannot be fulfilled on configmaps "conf": the object has been modified/,
      );
      await ok(['delete', 'pod', 'web', '--wait=false']);
    });

    test('bad manifests are refused with the path of every fault', async () => {
      const cases: [string, RegExp][] = [
        [
          service({ ports: [{ port: 99999 }, { port: 1 }] }, 'Bad_Name'),
          /The Service "Bad_Name" is invalid: \n\* metadata\.name: Invalid value: "Bad_Name": a DNS-1035 label must.*\n\* spec\.ports\[0\]\.name: Required value\n\* spec\.ports\[0\]\.port: Invalid value: 99999: must be between 1 and 65535, inclusive\n.*\n\* spec\.ports\[1\]\.name: Required value$/,
        ],
        [
          pod(
            {
              containers: [
                { name: 'a', image: 'x', ports: [{ containerPort: 80, protocol: 'HTTP' }] },
                { name: 'a', image: 'z' },
              ],
            },
            'bad',
          ),
          /The Pod "bad" is invalid: \n\* spec\.containers\[0\]\.ports\[0\]\.protocol: Unsupported value: "HTTP".*\n\* spec\.containers\[1\]\.name: Duplicate value: "a"$/,
        ],
        [
          JSON.stringify({
            apiVersion: 'networking.k8s.io/v1',
            kind: 'NetworkPolicy',
            metadata: { name: 'np' },
            spec: { podSelector: {}, ingress: [{ from: [{ ipBlock: { cidr: '10.0.0.0/33' } }] }] },
          }),
          /spec\.ingress\[0\]\.from\[0\]\.ipBlock\.cidr: Invalid value: "10\.0\.0\.0\/33": must be a valid CIDR value/,
        ],
        [
          configMap('typed', { a: 1 }),
          modern
            ? /cannot unmarshal number into Go struct field ConfigMap\.data of type string/
            : /ConfigMap\.data/,
        ],
      ];
      for (const [manifest, want] of cases) assert.match(await fails(['create', ...stdin], manifest), want);
    });

    test('unknown fields are refused by create and apply, on either side', async () => {
      const bad = service({ ports: [{ port: 80, prot: 'TCP' }], selektor: {} }, 'unknown');
      const want = modern
        ? /strict decoding error: unknown field "spec\.ports\[0\]\.prot", unknown field "spec\.selektor"/
        : /unknown field "prot" in io\.k8s\.api\.core\.v1\.ServicePort, .*unknown field "selektor" in io\.k8s\.api\.core\.v1\.ServiceSpec/;
      for (const verb of [['create'], ['apply'], ['apply', '--server-side']])
        assert.match(await fails([...verb, ...stdin], bad), want);
      const { stderr, stdout } = await run(['create', '--validate=false', ...stdin], bad);
      assert.equal(stdout, 'service/unknown created\n');
      // Without fieldValidation the server warns; the modern client then asks it to ignore.
      assert.equal(
        stderr,
        modern ? '' : 'Warning: unknown field "spec.ports[0].prot"\nWarning: unknown field "spec.selektor"\n',
      );
    });

    test('members that occur twice are named', async () => {
      const twice =
        '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"twice"},"data":{"a":"1","a":"2"}}';
      const path = `/api/v1/namespaces/${namespace}/configmaps?fieldValidation=Strict`;
      assert.match(
        await fails(['create', '--raw', path, ...stdin], twice),
        /strict decoding error: duplicate field "data\.a"/,
      );
    });

    test('edit sends what changed, and tells when it was refused', async () => {
      const home = join(directory, `home-${kubectl.version}`);
      const edit = async (from: string, to: string): Promise<string> => {
        const editor = `sed -i 's/${from}/${to}/'`;
        const args = [
          '--kubeconfig',
          join(directory, 'data', 'admin.kubeconfig'),
          '-n',
          namespace,
          'edit',
          'service',
          'web',
        ];
        const env = {
          PATH: process.env['PATH'] ?? '',
          HOME: home,
          TERM: 'dumb',
          TMPDIR: directory,
          EDITOR: editor,
        };
        const done = await promisify(execFile)(kubectl.path, args, { env }).catch(
          (error: unknown) => error as Outcome,
        );
        return done.stdout + done.stderr;
      };
      assert.match(await edit('sessionAffinity: ClientIP', 'sessionAffinity: None'), /service\/web edited/);
      // The reason stands in the copy that the editor would show again.
      const refused = await edit('type: ClusterIP', 'type: Sometimes');
      const copy = /stored to "(.*)"/.exec(refused)?.[1];
      assert(copy, refused);
      assert.match(readFileSync(copy, 'utf8'), /# \* spec\.type: Unsupported value: "Sometimes"/);
    });

    if (modern)
      test('the status is patched through its subresource', async () => {
        await ok(['apply', ...stdin], pod({ containers: [{ name: 'c', image: 'nginx' }] }, 'phased'));
        const status = { phase: 'Running', podIP: '10.244.0.9', podIPs: [{ ip: '10.244.0.9' }] };
        await ok([
          'patch',
          'pod',
          'phased',
          '--subresource=status',
          '--type=merge',
          '-p',
          JSON.stringify({ status, spec: { hostname: 'x' } }),
        ]);
        assert.equal(
          await get('pod phased', '{.status.phase} {.status.podIP} {.spec.hostname}'),
          'Running 10.244.0.9',
        );
        assert.deepEqual(
          (await managers('pod phased')).map((m) => [
            m.manager,
            (m as { subresource?: string }).subresource ?? '',
          ]),
          [
            ['kubectl-client-side-apply', ''],
            ['kubectl-patch', 'status'],
          ],
        );
        await ok(['delete', 'pod', 'phased', '--grace-period=0', '--wait=false']);
      });

    test('imperative create works, in whatever form the client sends it', async () => {
      assert.equal(await ok(['create', 'configmap', 'made', '--from-literal=a=b']), 'configmap/made created');
      assert.equal(await get('configmap made', '{.data}'), '{"a":"b"}');
      assert.equal(
        await ok(['create', 'service', 'clusterip', 'made', '--tcp=80:8080']),
        'service/made created',
      );
      assert.equal(await get('service made', '{.spec.ports[0].targetPort} {.spec.type}'), '8080 ClusterIP');
      assert.equal(
        await ok(['create', 'service', 'externalname', 'named', '--external-name=example.com']),
        'service/named created',
      );
    });

    test('slices and service networks are described through the version that this kubectl knows', async () => {
      const slice = {
        apiVersion: 'discovery.k8s.io/v1',
        kind: 'EndpointSlice',
        metadata: { name: 'zoned' },
        addressType: 'IPv4',
        endpoints: [{ addresses: ['10.1.2.3'], zone: 'a' }],
        ports: [{ name: '', port: 80 }],
      };
      await ok(['create', ...stdin], JSON.stringify(slice));
      const beta = ['get', 'endpointslices.v1beta1.discovery.k8s.io', 'zoned', '-o', 'json'];
      await ok(['replace', ...stdin], await ok(beta));
      assert.equal(
        await get('endpointslice zoned', '{.apiVersion} {.endpoints[0].zone}'),
        'discovery.k8s.io/v1 a',
      );
      const zone = modern ? /Zone:\s+a/ : /Topology:\s+topology\.kubernetes\.io\/zone=a/;
      assert.match(await ok(['describe', 'endpointslice', 'zoned']), zone);
      assert.match(await ok(['describe', 'servicecidr', 'kubernetes']), /10\.96\.0\.0\/16/);
    });

    test('explain knows every kind', async () => {
      assert.match(await ok(['explain', 'service.spec.ports']), /nodePort\s+<integer>/);
      assert.match(
        await ok(['explain', 'pod.spec.containers.livenessProbe.httpGet']),
        /port\s+<\S+> -required-/,
      );
      const kinds = [
        'pods',
        'nodes',
        'namespaces',
        'configmaps',
        'endpoints',
        'endpointslices',
        'events',
        'leases',
        'networkpolicies',
        'servicecidrs',
      ];
      for (const kind of kinds) assert.match(await ok(['explain', kind]), /FIELDS:/);
    });
  });
}
