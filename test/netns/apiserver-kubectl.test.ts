/**
 * Everyday work with two generations of real kubectl against the API server, over TLS on loopback. Whatever kubectl
 * has to complain about goes to stderr, so stderr must be empty unless a case says otherwise.
 */
import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { before, suite, test } from 'node:test';
import { serverForFile } from '../lib/api-server.ts';
import { type Kubectl, kubectls, type Outcome, runKubectl, spawnKubectl } from '../lib/kubectl.ts';
import { until } from '../lib/until.ts';

const { directory, kubeconfig } = serverForFile('kubectl');

const pod = (name: string, more: object = {}) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, labels: { app: name }, ...((more as { metadata?: object }).metadata ?? {}) },
  spec: { containers: [{ name: 'main', image: 'busybox' }], ...((more as { spec?: object }).spec ?? {}) },
});
const service = (name: string, spec: object) => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { name, labels: { app: name } },
  spec,
});
const list = (...items: object[]) => JSON.stringify({ apiVersion: 'v1', kind: 'List', items });

for (const kubectl of kubectls()) suite(`kubectl ${kubectl.version}`, () => cases(kubectl));

function cases(kubectl: Kubectl): void {
  const space = `k${kubectl.version.replace('.', '')}`;
  const newer = kubectl.version !== '1.20';
  const options = { kubeconfig, home: join(directory, `home-${space}`) };
  const any = (args: string[], input?: string): Promise<Outcome> =>
    runKubectl(kubectl, { ...options, ...(input !== undefined && { input }) }, ['-n', space, ...args]);
  /** Must succeed and say nothing on stderr. @returns stdout */
  const ok = async (line: string, input?: string): Promise<string> => {
    const { status, stdout, stderr } = await any(words(line), input);
    assert.deepEqual({ line, status, stderr }, { line, status: 0, stderr: '' });
    return stdout.trimEnd();
  };
  /** Must fail. @returns stderr */
  const refused = async (line: string, input?: string): Promise<string> => {
    const { status, stderr } = await any(words(line), input);
    assert.notEqual(status, 0, line);
    return stderr.trimEnd();
  };
  const nowNothing = async (kind: string) => assert.equal(await ok(`get ${kind} -o name`), '');

  before(async () => {
    await ok(`create namespace ${space}`);
  });

  test('version, discovery, cluster-info and auth answer', async () => {
    assert.match(await ok('version'), /v1\.32\.0\+portolan/);
    // Kinds that cannot be created are known, but never here.
    const kinds = await ok('api-resources --no-headers -o name --verbs=list,create');
    assert.deepEqual(
      kinds.split('\n').filter((name) => !name.includes('review')),
      [
        'configmaps',
        'endpoints',
        'events',
        'namespaces',
        'nodes',
        'pods',
        'services',
        'leases.coordination.k8s.io',
        'endpointslices.discovery.k8s.io',
        'events.events.k8s.io',
        'networkpolicies.networking.k8s.io',
        'servicecidrs.networking.k8s.io',
        'clusternetworkpolicies.policy.networking.k8s.io',
        'nodenetworkpolicies.policy.portolan.dev',
      ],
    );
    assert.equal(await ok('auth can-i create pods'), 'yes');
    assert.match(await ok('cluster-info'), /127\.0\.0\.1/);
    assert.match(await ok('get --raw /readyz'), /ok/);
  });

  test('create, get in every output form, describe and delete', async () => {
    await ok('create configmap conf --from-literal=a=1 --from-literal=b=2');
    await ok('create service clusterip svc --tcp=80:8080');
    await ok('run web --image=busybox --restart=Never --labels=app=web');
    assert.match(await ok('get cm conf'), /^NAME +DATA +AGE\nconf +2 +\d+s$/);
    assert.match(
      await ok('get pods -o wide'),
      /^NAME +READY +STATUS +RESTARTS +AGE +IP +NODE +NOMINATED NODE +READINESS GATES\nweb +0\/1 +Pending +0 +\d+s +<none> +<none> +<none> +<none>$/,
    );
    assert.match(
      await ok('get svc svc'),
      /^NAME +TYPE +CLUSTER-IP +EXTERNAL-IP +PORT\(S\) +AGE\nsvc +ClusterIP +10\.96\.\d+\.\d+ +<none> +80\/TCP +\d+s$/,
    );
    assert.match(await ok('get svc svc -o yaml'), /\nkind: Service\n/);
    assert.equal(JSON.parse(await ok('get cm conf -o json')).data.b, '2');
    assert.equal(
      await ok('get pod web -o jsonpath={.status.phase}/{.status.qosClass}'),
      'Pending/BestEffort',
    );
    assert.equal(await ok('get pods -o custom-columns=N:.metadata.name --no-headers'), 'web');
    assert.equal(await ok('get pods -l app=web,x!=y -o name'), 'pod/web');
    assert.equal(
      await ok('get pods --field-selector=status.phase=Pending,spec.nodeName= -o name'),
      'pod/web',
    );
    await ok('get pods --field-selector=metadata.name=nobody -o name');
    assert.match(await ok('get pods --sort-by=.metadata.name --show-labels'), /app=web/);
    assert.match(await ok('get pods,svc -A -o wide'), /kubernetes/);
    assert.match(await ok('describe pod web'), /QoS Class: +BestEffort/);
    assert.match(await ok('describe svc svc'), /Port: +80-8080 +80\/TCP/);
    assert.match(await ok('describe cm conf'), /\nb:\n----\n2\n/);
    assert.match(await ok(`describe namespace ${space}`), /Status: +Active/);
    assert.match(
      await refused('create configmap conf --from-literal=a=1'),
      /configmaps "conf" already exists/,
    );
    assert.match(
      await refused('get pod nobody'),
      /^Error from server \(NotFound\): pods "nobody" not found$/,
    );
    await ok('delete pod/web svc/svc cm/conf');
    await nowNothing('pods,svc,cm');
  });

  test('apply creates, leaves unchanged, changes, and prunes what left the set', async () => {
    const a = {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'one', labels: { set: 'p' } },
      data: { k: '1' },
    };
    const b = { ...a, metadata: { name: 'two', labels: { set: 'p' } } };
    const allow = newer ? '--prune-allowlist' : '--prune-whitelist';
    assert.equal(await ok('apply -f -', list(a, b)), 'configmap/one created\nconfigmap/two created');
    assert.equal(await ok('apply -f -', list(a, b)), 'configmap/one unchanged\nconfigmap/two unchanged');
    assert.equal(
      await ok('apply --dry-run=server -f -', list({ ...a, data: { k: '2' } })),
      'configmap/one configured (server dry run)',
    );
    assert.equal(await ok('get cm one -o jsonpath={.data.k}'), '1');
    const pruned = await any(
      words(`apply --prune ${allow}=core/v1/ConfigMap -l set=p -f -`),
      list({ ...a, data: { k: '2' } }),
    );
    assert.equal(pruned.status, 0, pruned.stderr);
    assert.equal(pruned.stdout.trimEnd(), 'configmap/one configured\nconfigmap/two pruned');
    assert.equal(await ok('get cm -o name -l set=p'), 'configmap/one');
    await ok('delete cm -l set=p');
  });

  test('patches of all types, label, annotate, edit conflicts', async () => {
    await ok(
      'create -f -',
      JSON.stringify(service('web', { ports: [{ name: 'a', port: 80 }], selector: { app: 'web' } })),
    );
    const patch = (type: string, value: object) =>
      any(['patch', 'svc', 'web', `--type=${type}`, '-p', JSON.stringify(value)]).then((out) => {
        assert.deepEqual([out.status, out.stderr], [0, ''], JSON.stringify(out));
      });
    await patch('strategic', { spec: { ports: [{ name: 'b', port: 81 }] } });
    assert.equal(await ok('get svc web -o jsonpath={.spec.ports[*].port}'), '81 80');
    await patch('merge', { spec: { ports: [{ name: 'c', port: 82 }] } });
    await patch('json', [{ op: 'replace', path: '/spec/ports/0/port', value: 83 }]);
    assert.equal(await ok('get svc web -o jsonpath={.spec.ports[*].port}'), '83');
    await ok('label svc web tier=front');
    await ok('annotate svc web note=hello');
    assert.match(await refused('label svc web tier=back'), /already has a value/);
    assert.equal(
      await ok('get svc web -o jsonpath={.metadata.labels.tier}/{.metadata.annotations.note}'),
      'front/hello',
    );
    const stale = JSON.parse(await ok('get svc web -o json'));
    await ok('label svc web more=yes');
    assert.match(
      await refused('replace -f -', JSON.stringify(stale)),
      /the object has been modified; please apply your changes to the latest version/,
    );
    await ok('delete svc web');
  });

  test('server-side apply keeps owners and tells of conflicts', async () => {
    const mine = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'ssa' }, data: { a: '1' } };
    assert.equal(
      await ok('apply --server-side -f -', JSON.stringify(mine)),
      'configmap/ssa serverside-applied',
    );
    const theirs = JSON.stringify({ ...mine, data: { a: '2' } });
    const conflict = await refused('apply --server-side --field-manager=other -f -', theirs);
    assert.match(conflict, /Apply failed with 1 conflict: conflict with "kubectl": \.data\.a/);
    await ok('apply --server-side --field-manager=other --force-conflicts -f -', theirs);
    assert.equal(await ok('get cm ssa -o jsonpath={.data.a}'), '2');
    await ok('delete cm ssa');
  });

  test('faults are told with their paths; unknown fields are refused', async () => {
    const bad = service('bad', { ports: [{ port: 0 }], type: 'Nope' });
    const told = await refused('create -f -', JSON.stringify(bad));
    assert.match(told, /The Service "bad" is invalid/);
    assert.match(told, /spec\.ports\[0\]\.port: Invalid value: 0: must be between 1 and 65535, inclusive/);
    assert.match(told, /spec\.type: Unsupported value: "Nope"/);
    const misspelt = service('bad', { ports: [{ port: 80, targetprot: 1 }] });
    assert.match(
      await refused('create -f -', JSON.stringify(misspelt)),
      newer
        ? /strict decoding error: unknown field "spec\.ports\[0\]\.targetprot"/
        : /unknown field "targetprot"/,
    );
    const warned = await any(
      ['create', '--validate=false', '--dry-run=server', '-f', '-'],
      JSON.stringify(misspelt),
    );
    assert.equal(warned.status, 0);
    await nowNothing('svc');
    assert.match(
      await refused(`-n nowhere create configmap x --from-literal=a=b`),
      /namespaces "nowhere" not found/,
    );
  });

  test('ClusterIPs and node ports are chosen, kept, refused twice, and given back', async () => {
    const ip = kubectl.version === '1.20' ? '10.96.0.20' : '10.96.0.32';
    await ok(
      'create -f -',
      JSON.stringify(
        service('fixed', { clusterIP: ip, type: 'NodePort', ports: [{ port: 80, nodePort: 30080 }] }),
      ),
    );
    assert.match(
      await refused(
        'create -f -',
        JSON.stringify(service('again', { clusterIP: ip, ports: [{ port: 80 }] })),
      ),
      /failed to allocate IP .*: provided IP is already allocated/,
    );
    assert.match(
      await refused(
        'create -f -',
        JSON.stringify(service('again', { type: 'NodePort', ports: [{ port: 80, nodePort: 30080 }] })),
      ),
      /spec\.ports\[0\]\.nodePort: Invalid value: 30080: provided port is already allocated/,
    );
    assert.match(
      await refused(
        'create -f -',
        JSON.stringify(service('again', { clusterIP: '10.97.0.1', ports: [{ port: 80 }] })),
      ),
      /not in the valid range/,
    );
    assert.match(
      await refused(
        'create -f -',
        JSON.stringify(service('again', { type: 'NodePort', ports: [{ port: 80, nodePort: 80 }] })),
      ),
      /The range of valid ports is 30000-32767/,
    );
    await ok(
      'create -f -',
      JSON.stringify(service('dual', { ipFamilyPolicy: 'RequireDualStack', ports: [{ port: 80 }] })),
    );
    assert.match(
      await ok('get svc dual -o jsonpath={.spec.clusterIPs[*]}'),
      /^10\.96\.\d+\.\d+ fd00:10:96::[0-9a-f:]+$/,
    );
    await ok(`patch svc fixed -p {"spec":{"type":"ClusterIP"}}`);
    assert.equal(await ok('get svc fixed -o jsonpath={.spec.clusterIP}/{.spec.ports[0].nodePort}'), `${ip}/`);
    await ok('delete svc fixed dual');
    await ok(
      'create -f -',
      JSON.stringify(
        service('again', { clusterIP: ip, type: 'NodePort', ports: [{ port: 80, nodePort: 30080 }] }),
      ),
    );
    await ok('delete svc again');
  });

  test('finalizers, grace and propagation decide when an object goes', async () => {
    const held = {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'held', finalizers: ['example.com/hold'] },
    };
    await ok('create -f -', JSON.stringify(held));
    await ok('delete cm held --wait=false');
    assert.notEqual(await ok('get cm held -o jsonpath={.metadata.deletionTimestamp}'), '');
    await ok(`patch cm held --type=merge -p {"metadata":{"finalizers":null}}`);
    await nowNothing('cm');

    await ok('create -f -', JSON.stringify(pod('bound', { spec: { nodeName: 'n1' } })));
    await ok('delete pod bound --wait=false --grace-period=7');
    assert.equal(await ok('get pod bound -o jsonpath={.metadata.deletionGracePeriodSeconds}'), '7');
    assert.match(await ok('get pod bound'), /Terminating/);
    const forced = await any(words('delete pod bound --grace-period=0 --force'));
    assert.equal(forced.status, 0, forced.stderr);
    await nowNothing('pods');

    const tree = async (name: string) => {
      await ok(`create configmap ${name}`);
      const uid = await ok(`get cm ${name} -o jsonpath={.metadata.uid}`);
      const owner = { apiVersion: 'v1', kind: 'ConfigMap', name, uid, blockOwnerDeletion: true };
      await ok(
        'create -f -',
        JSON.stringify({ ...held, metadata: { name: `${name}-child`, ownerReferences: [owner] } }),
      );
    };
    await tree('back');
    await ok('delete cm back --cascade=background');
    await until(async () => (await ok('get cm -o name')) === '');
    await tree('fore');
    await ok('delete cm fore --cascade=foreground');
    await nowNothing('cm');
    await tree('orph');
    await ok('delete cm orph --cascade=orphan');
    await until(async () => (await ok('get cm orph-child -o jsonpath={.metadata.ownerReferences}')) === '');
    await ok('delete cm orph-child');
  });

  test('get -w follows, wait waits, events are listed', async () => {
    const watching = spawnKubectl(kubectl, { ...options, timeoutMs: 20_000 }, [
      '-n',
      space,
      'get',
      'pods',
      '-w',
      '-o',
      'wide',
    ]);
    let seen = '';
    watching.stdout!.on('data', (chunk) => {
      seen += String(chunk);
    });
    const exited = new Promise((resolve) => watching.once('exit', resolve));
    try {
      await ok('create -f -', JSON.stringify(pod('seen')));
      await until(async () => /seen +0\/1 +Pending/.test(seen));
      const waiting = ok('wait --for=condition=Ready pod/seen --timeout=10s');
      const status = {
        phase: 'Running',
        podIP: '10.244.1.9',
        podIPs: [{ ip: '10.244.1.9' }],
        conditions: [{ type: 'Ready', status: 'True' }],
        containerStatuses: [
          {
            name: 'main',
            ready: true,
            restartCount: 0,
            image: 'busybox',
            imageID: '',
            state: { running: {} },
          },
        ],
      };
      // 1.20 has no --subresource: the newer one writes the status for both.
      const writer = kubectls().find((k) => k.version === '1.32')!;
      const patched = await runKubectl(writer, options, [
        '-n',
        space,
        'patch',
        'pod',
        'seen',
        '--subresource=status',
        '--type=merge',
        '-p',
        JSON.stringify({ status }),
      ]);
      assert.equal(patched.status, 0, patched.stderr);
      assert.equal(await waiting, 'pod/seen condition met');
      await until(async () => /seen +1\/1 +Running +0 +\d+s +10\.244\.1\.9/.test(seen));
      const uid = await ok('get pod seen -o jsonpath={.metadata.uid}');
      const event = {
        apiVersion: 'v1',
        kind: 'Event',
        metadata: { name: 'seen.1', namespace: space },
        involvedObject: { apiVersion: 'v1', kind: 'Pod', name: 'seen', namespace: space, uid },
        reason: 'Started',
        message: 'Started container main',
        type: 'Normal',
        source: { component: 'agent', host: 'n1' },
        firstTimestamp: new Date().toISOString().replace(/\.\d+/, ''),
        lastTimestamp: new Date().toISOString().replace(/\.\d+/, ''),
        count: 1,
      };
      await ok('create -f -', JSON.stringify(event));
      assert.match(
        await ok('get events'),
        /^LAST SEEN +TYPE +REASON +OBJECT +MESSAGE\n\d+s +Normal +Started +pod\/seen +Started container main$/,
      );
      assert.match(await ok('describe pod seen'), /Normal +Started +\S+ +agent +Started container main/);
      assert.match(
        await ok('get events.v1.events.k8s.io -o jsonpath={.items[0].note}'),
        /Started container main/,
      );
      if (newer) assert.match(await ok('events --for pod/seen'), /Started container main/);
      const deleting = ok('wait --for=delete pod/seen --timeout=10s');
      // kubectl has to have looked once before the pod goes.
      await new Promise((resolve) => setTimeout(resolve, 700));
      await ok('delete pod seen');
      await deleting;
    } finally {
      watching.kill();
      await exited;
    }
  });

  test('Endpoints are computed from EndpointSlices, or become slices when somebody writes them', async () => {
    const slice = {
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: { name: 'web-1', labels: { 'kubernetes.io/service-name': 'web' } },
      addressType: 'IPv4',
      endpoints: [{ addresses: ['10.244.1.2'] }, { addresses: ['10.244.1.3'], conditions: { ready: false } }],
      ports: [{ name: 'http', port: 8080, protocol: 'TCP' }],
    };
    await ok(
      'create -f -',
      list(service('web', { ports: [{ name: 'http', port: 80, targetPort: 8080 }] }), slice),
    );
    assert.match(await ok('get endpoints web'), /web +10\.244\.1\.2:8080 /);
    assert.match(await ok('get endpointslices'), /web-1 +IPv4 +8080 +10\.244\.1\.2,10\.244\.1\.3 /);
    assert.match(await ok('describe svc web'), /Endpoints: +10\.244\.1\.2:8080/);
    assert.match(await ok('describe endpoints web'), /NotReadyAddresses: +10\.244\.1\.3/);
    assert.match(
      await refused('delete endpoints web'),
      /computed from EndpointSlices .* write those instead/,
    );
    const own = (ip: string) => ({
      apiVersion: 'v1',
      kind: 'Endpoints',
      metadata: { name: 'own' },
      subsets: [{ addresses: [{ ip }], ports: [{ name: 'http', port: 8080 }] }],
    });
    const ofOwn =
      'get endpointslices -l kubernetes.io/service-name=own -o jsonpath={.items[*].endpoints[*].addresses}';
    await ok('apply -f -', list(service('own', { ports: [{ name: 'http', port: 80 }] }), own('192.0.2.7')));
    await until(async () => (await ok(ofOwn)) === '["192.0.2.7"]');
    assert.match(await ok('describe svc own'), /Endpoints: +192\.0\.2\.7:8080/);
    await ok('apply -f -', list(own('192.0.2.8')));
    await until(async () => (await ok(ofOwn)) === '["192.0.2.8"]');
    assert.match(await ok('get endpoints'), /own +192\.0\.2\.8:8080 .*\nweb +10\.244\.1\.2:8080 /);
    await ok('delete svc/own svc/web endpointslice/web-1');
    await until(async () => (await ok('get endpoints -o name')) === '');
    assert.equal(await ok(ofOwn), '');
  });

  test('a deleted namespace takes everything in it along; some namespaces stay', async () => {
    const other = `${space}-gone`;
    await ok(`create namespace ${other}`);
    await ok(`-n ${other} create configmap x --from-literal=a=b`);
    await ok(`-n ${other} run p --image=busybox`);
    // Without -n: kubectl warns about deleting cluster-scoped objects with it.
    const gone = await runKubectl(kubectl, options, ['delete', 'namespace', other, '--timeout=20s']);
    assert.deepEqual([gone.status, gone.stderr], [0, '']);
    assert.match(await refused(`get namespace ${other}`), /not found/);
    assert.equal(await ok(`get cm -A -o name --field-selector=metadata.namespace=${other}`), '');
    assert.match(await refused('delete namespace kube-system'), /this namespace may not be deleted/);
  });
}

/** Splits a command line at blanks; JSON arguments here have none. */
const words = (line: string) => line.split(' ').filter((word) => word !== '');

test('every file of the data directory is private', () => {
  for (const name of [
    'admin.kubeconfig',
    'store.db',
    'pki/ca.key',
    'pki/ca.crt',
    'pki/server.key',
    'pki/admin.key',
  ])
    assert.equal(statSync(join(directory, 'data', name)).mode & 0o777, 0o600, name);
});
