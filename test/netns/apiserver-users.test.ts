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
import { eventually } from '../lib/until.ts';

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

  test('watches of pods and events show every change as it comes', async () => {
    const follow = (line: string) => {
      const child = spawnKubectl(kubectl, { ...options, timeoutMs: 20_000 }, ['-n', space, ...words(line)]);
      const seen = { text: '' };
      child.stdout!.on('data', (chunk) => {
        seen.text += String(chunk);
      });
      const exited = new Promise((resolve) => child.once('exit', resolve));
      return {
        seen,
        stop: async () => {
          child.kill();
          await exited;
        },
      };
    };
    await create(pod('first'));
    const pods = follow('get pods -w --output-watch-events');
    const events = follow('get events -w --no-headers');
    try {
      await eventually('the first pod', () => /ADDED +first/.test(pods.seen.text));
      await create(pod('second'));
      await ok('label pod second more=yes');
      await ok('delete pod second --now');
      await eventually('the end of the second pod', () => /DELETED +second/.test(pods.seen.text));
      assert.match(
        pods.seen.text,
        /^EVENT +NAME .*\nADDED +first .*\nADDED +second .*\nMODIFIED +second .*\n(MODIFIED +second .*\n)*DELETED +second .*\n$/,
      );
      const event = {
        apiVersion: 'v1',
        kind: 'Event',
        metadata: { name: 'second.1' },
        involvedObject: { kind: 'Pod', name: 'second', namespace: space },
        reason: 'Killing',
        message: 'Stopping container main',
        type: 'Normal',
        lastTimestamp: new Date().toISOString().replace(/\.\d+/, ''),
      };
      // The event's namespace must be that of its object.
      await create({ ...event, metadata: { ...event.metadata, namespace: space } });
      await eventually('the event', () =>
        /Normal +Killing +pod\/second +Stopping container main/.test(events.seen.text),
      );
    } finally {
      await pods.stop();
      await events.stop();
    }
    await ok('delete pod first --now');
  });

  test('selectors of every form choose, pages and outputs of every form show', async () => {
    const five = [1, 2, 3, 4, 5].map((n) => pod(`p${n}`, { app: `a${n % 2}`, n: String(n), tier: 't' }));
    await create(...five);
    const chosen = async (...selector: string[]) =>
      (await ok(['get', 'pods', ...selector, '-o', 'name'])).replaceAll('pod/p', '').replaceAll('\n', '');
    for (const [selector, want] of [
      ['app=a1', '135'],
      ['app==a0', '24'],
      ['app!=a1', '24'],
      ['n in (1,2)', '12'],
      ['n notin (1,2)', '345'],
      ['n', '12345'],
      ['!n', ''],
      ['n!=3,app in (a1)', '15'],
      ['n>3', '45'],
      ['n<3', '12'],
    ] as const)
      assert.equal(await chosen('-l', selector), want, selector);
    for (const [selector, want] of [
      ['status.phase=Pending', '12345'],
      ['status.phase!=Pending', ''],
      ['spec.nodeName=', '12345'],
      ['spec.nodeName=n1', ''],
      ['metadata.name!=p1', '2345'],
      ['metadata.name=p1,status.phase=Pending', '1'],
    ] as const)
      assert.equal(await chosen('--field-selector', selector), want, selector);
    assert.match(
      await refused('get pods --field-selector spec.foo=1'),
      /"spec\.foo" is not a known field selector: only "metadata\.name", .*"spec\.nodeName"/,
    );
    assert.match(await refused(['get', 'pods', '-l', 'a b']), /unable to parse requirement/);
    assert.equal(await chosen('--chunk-size=2', '-l', 'tier=t'), '12345');
    assert.equal((await ok('get pods --chunk-size=2')).split('\n').length, 6);
    assert.match(await ok('get pods -L app,n --show-labels'), /\np1 .* a1 +1 +app=a1,n=1,tier=t\n/);
    assert.match(await ok('get pods --server-print=false'), /^NAME +AGE\np1 +\d+s\n/);
    assert.match(await ok('get pods -o wide --no-headers'), /^p1 +0\/1 +Pending +0 +\d+s( +<none>){4}\n/);
    assert.equal(
      await ok(['get', 'pods', '-o', 'go-template={{range .items}}{{.metadata.name}} {{end}}']),
      'p1 p2 p3 p4 p5',
    );
    assert.match(
      await ok('get pods --sort-by=.metadata.labels.app -o custom-columns=N:.metadata.name,X:.foo'),
      /^N +X\np2 +<none>\np4 +<none>\np1 /,
    );
    assert.equal(await ok('delete pods --all --now').then((text) => text.split('\n').length), 5);
    assert.equal(await chosen(), '');
  });

  test('labels and annotations are set, kept from overwriting, removed, and guarded by a version', async () => {
    await ok('create configmap marked');
    for (const verb of ['label', 'annotate']) {
      await ok(`${verb} cm marked key=1`);
      assert.match(await refused(`${verb} cm marked key=2`), /already has a value/);
      await ok(`${verb} cm marked key=2 --overwrite`);
      const version = await get('cm marked', '{.metadata.resourceVersion}');
      assert.match(await refused(`${verb} cm marked other=1 --resource-version=1`), /has been modified/);
      await ok(`${verb} cm marked other=1 --resource-version=${version}`);
      await ok(`${verb} cm marked key- other-`);
      assert.equal(await get('cm marked', `{.metadata.${verb}s.key}{.metadata.annotations.key}`), '');
    }
    assert.match(
      await refused(['label', 'cm', 'marked', 'bad key=1']),
      /metadata\.labels: Invalid value: "bad key"/,
    );
    await ok('delete cm marked');
  });

  test('wait ends with the condition or in time', async () => {
    await create(pod('slow'));
    assert.match(
      await refused('wait --for=condition=Ready pod/slow --timeout=1s'),
      /timed out waiting for the condition on pods\/slow/,
    );
    assert.match(
      await refused('wait --for=delete pod/slow --timeout=1s'),
      /timed out waiting for the condition/,
    );
    if (modern) {
      assert.equal(
        await ok('wait --for=jsonpath={.status.phase}=Pending pod/slow'),
        'pod/slow condition met',
      );
      const coming = ok('wait --for=create cm/coming --timeout=10s');
      await ok('create configmap coming');
      assert.equal(await coming, 'configmap/coming condition met');
      await ok('delete cm coming');
    }
    const forced = await run('delete pod slow --grace-period=0 --force');
    assert.deepEqual([forced.status, forced.stdout], [0, 'pod "slow" force deleted\n']);
    assert.match(forced.stderr, /^[Ww]arning: Immediate deletion does not wait[^\n]*\n$/);
  });

  test('files become a ConfigMap, edited and replaced by force; a pod is run and exposed', async () => {
    const file = join(directory, `${space}.txt`);
    const binary = join(directory, `${space}.bin`);
    writeFileSync(file, 'hello\n');
    writeFileSync(binary, Buffer.from([255, 0, 1]));
    await ok(`create configmap files --from-file=text=${file} --from-file=bin=${binary}`);
    assert.equal(await get('cm files', '{.data.text}{.binaryData.bin}'), 'hello\n/wAB');
    const before = await get('cm files', '{.metadata.uid}');
    const manifest = await ok('get cm files -o json');
    assert.equal(
      await ok('replace --force -f -', manifest),
      'configmap "files" deleted\nconfigmap/files replaced',
    );
    assert.notEqual(await get('cm files', '{.metadata.uid}'), before);
    assert.match(await ok('describe cm files'), /text:\n----\nhello/);
    await ok('delete cm files');
    await ok('run web --image=busybox --port=8080 --labels=app=web,tier=front');
    assert.equal(await ok('expose pod web --port=80 --target-port=8080'), 'service/web exposed');
    assert.equal(
      await get('svc web', '{.spec.selector}{.spec.ports[0].targetPort}'),
      '{"app":"web","tier":"front"}8080',
    );
    await ok('set selector svc web app=other');
    assert.equal(await get('svc web', '{.spec.selector}'), '{"app":"other"}');
    assert.match(await ok('set image pod/web web=nginx:2'), /image updated/);
    await ok('delete pod/web svc/web --now');
  });

  test('an admin sees the cluster as another user would', async () => {
    assert.match(
      await refused('get pods --as=bob'),
      /^Error from server \(Forbidden\): pods is forbidden: User "bob" cannot list resource "pods" in API group ""/,
    );
    const node = '--as=system:node:n1 --as-group=system:nodes';
    assert.match(await refused(`create configmap x ${node}`), /cannot create resource "configmaps"/);
    assert.equal((await run(`get pods ${node}`)).status, 0);
    assert.match((await run('auth can-i delete pods --as=bob')).stdout, /^no/);
    assert.equal(await ok('auth can-i delete pods'), 'yes');
    assert.match(await ok('auth can-i --list'), /\*\.\* +\[\] +\[\] +\[\*\]/);
    if (modern) assert.match(await ok(`auth whoami ${node}`), /system:node:n1\s+Groups +\[system:nodes /);
  });

  test('cluster-info dump, api-versions and describe find every kind that they ask for', async () => {
    const dump = join(directory, `dump-${space}`);
    await ok(`cluster-info dump --namespaces=${space} --output-directory=${dump}`);
    assert.match(await ok('api-versions'), /\napps\/v1\n.*\ndiscovery\.k8s\.io\/v1\n.*\nv1$/s);
    const net = {
      apiVersion: 'networking.k8s.io/v1',
      kind: 'NetworkPolicy',
      metadata: { name: 'np' },
      spec: {
        podSelector: {},
        ingress: [{ from: [{ ipBlock: { cidr: '10.0.0.0/8' } }], ports: [{ port: 80 }] }],
      },
    };
    const lease = {
      apiVersion: 'coordination.k8s.io/v1',
      kind: 'Lease',
      metadata: { name: 'l' },
      spec: { holderIdentity: 'me' },
    };
    await create(net, lease, pod('told', { app: 'told' }, { nodeName: `node-${space}` }));
    const node = { apiVersion: 'v1', kind: 'Node', metadata: { name: `node-${space}` } };
    await create({ ...node, status: { capacity: { cpu: '2' }, allocatable: { cpu: '2' } } });
    assert.match(
      await ok('describe netpol np'),
      /To Port: 80\/TCP\n +From:\n +IPBlock:\n +CIDR: 10\.0\.0\.0\/8/,
    );
    assert.match(await ok('describe lease l'), /Holder Identity: +me/);
    assert.match(await ok('describe pod told'), /Node: +node-/);
    assert.match(await ok(`describe node node-${space}`), new RegExp(`${space} +told +0 \\(0%\\)`));
    assert.match(await ok('describe servicecidr kubernetes'), /10\.96\.0\.0\/16/);
    await ok(`cordon node-${space}`);
    assert.match(await ok(`get node node-${space}`), /SchedulingDisabled/);
    await ok(`uncordon node-${space}`);
    const drained = await run(`drain node-${space} --force --grace-period=0 --timeout=10s`);
    assert.equal(drained.status, 0, drained.stderr);
    assert.equal(await ok('get pods -o name'), '');
    await ok('delete netpol/np lease/l');
    assert.equal((await plain(`delete node node-${space}`)).status, 0);
  });

  test('a deleted way to the API server is back at once', async () => {
    const uid = () =>
      plain('-n default get svc kubernetes -o jsonpath={.metadata.uid}').then(({ stdout }) => stdout);
    const before = await uid();
    assert.equal((await plain('-n default delete svc kubernetes')).status, 0);
    await eventually('the Service', async () => !['', before].includes(await uid()));
    assert.equal((await plain('-n default delete endpointslice kubernetes')).status, 0);
    await eventually(
      'the slice',
      async () => (await plain('-n default get endpointslice kubernetes -o name')).status === 0,
    );
    assert.equal(
      (await plain('-n default get svc kubernetes -o jsonpath={.spec.clusterIP}')).stdout,
      '10.96.0.1',
    );
  });

  suite('a Service changes', () => {
    const brief = (name: string) =>
      get(
        `svc ${name}`,
        '{.spec.type}|{.spec.clusterIPs[*]}|{.spec.ipFamilyPolicy}|{.spec.ports[*].nodePort}|{.spec.healthCheckNodePort}',
      );
    const patch = (name: string, spec: object) =>
      ok(['patch', 'svc', name, '-p', JSON.stringify({ spec })]).then(() => brief(name));
    const denied = (name: string, spec: object) =>
      refused(['patch', 'svc', name, '-p', JSON.stringify({ spec })]);
    const V4 = '10\\.96\\.\\d+\\.\\d+';
    const V6 = 'fd00:10:96::[0-9a-f:]+';
    /** Succeeds only while nobody has the node port. */
    const isFree = async (nodePort: string) => {
      await create(service('probe', { type: 'NodePort', ports: [{ port: 1, nodePort: Number(nodePort) }] }));
      await ok('delete svc probe');
    };

    test('its families: PreferDualStack adds an address and SingleStack gives it back', async () => {
      await create(service('fam', { ports: [{ port: 80 }] }));
      const [, first] = (await brief('fam')).split('|');
      const two = await patch('fam', { ipFamilyPolicy: 'PreferDualStack' });
      assert.match(two, new RegExp(`^ClusterIP\\|${first} ${V6}\\|PreferDualStack\\|`));
      const second = two.split('|')[1]!.split(' ')[1]!;
      assert.match(await denied('fam', { ipFamilies: ['IPv6', 'IPv4'] }), /may not change once set/);
      assert.equal(await patch('fam', { ipFamilyPolicy: 'SingleStack' }), `ClusterIP|${first}|SingleStack||`);
      await create(service('heir', { clusterIP: second, ports: [{ port: 80 }] }));
      assert.match(
        await denied('fam', { ipFamilyPolicy: 'RequireDualStack', clusterIPs: [first, second] }),
        /provided IP is already allocated/,
      );
      assert.match(
        await patch('fam', { ipFamilyPolicy: 'RequireDualStack' }),
        new RegExp(`^ClusterIP\\|${first} ${V6}\\|RequireDualStack\\|`),
      );
      assert.match(
        await patch('fam', { ipFamilyPolicy: 'SingleStack', ipFamilies: ['IPv4'] }),
        new RegExp(`^ClusterIP\\|${first}\\|SingleStack`),
      );
      assert.match(await denied('fam', { ipFamilies: ['IPv6'] }), /may not change once set/);
      await ok('delete svc fam heir');
    });

    test('its type: addresses and ports come and go with it', async () => {
      await create(service('kind', { ports: [{ port: 80 }] }));
      const [, ip] = (await brief('kind')).split('|') as [string, string];
      const asNodePort = await patch('kind', { type: 'NodePort' });
      assert.match(asNodePort, new RegExp(`^NodePort\\|${ip}\\|SingleStack\\|3\\d{4}\\|$`));
      const nodePort = asNodePort.split('|')[3]!;
      assert.equal(
        await patch('kind', { type: 'LoadBalancer' }),
        `LoadBalancer|${ip}|SingleStack|${nodePort}|`,
      );
      const local = await patch('kind', { externalTrafficPolicy: 'Local' });
      assert.match(local, new RegExp(`^LoadBalancer\\|${ip}\\|SingleStack\\|${nodePort}\\|3\\d{4}$`));
      const health = local.split('|')[4]!;
      assert.match(await denied('kind', { healthCheckNodePort: 31998 }), /field is immutable/);
      assert.match(
        await refused(
          'create -f -',
          list(service('thief', { type: 'NodePort', ports: [{ port: 1, nodePort: Number(health) }] })),
        ),
        /provided port is already allocated/,
      );
      await patch('kind', { externalTrafficPolicy: 'Cluster' });
      await isFree(health);
      assert.equal(await patch('kind', { type: 'ClusterIP' }), `ClusterIP|${ip}|SingleStack||`);
      assert.equal(await get('svc kind', '{.spec.externalTrafficPolicy}'), '');
      await isFree(nodePort);
      assert.equal(
        await patch('kind', { type: 'ExternalName', externalName: 'example.com' }),
        'ExternalName||||',
      );
      await create(service('heir', { clusterIP: ip, ports: [{ port: 80 }] }));
      const back = await patch('kind', { type: 'ClusterIP', externalName: null });
      assert.match(back, new RegExp(`^ClusterIP\\|${V4}\\|SingleStack\\|\\|$`));
      assert.notEqual(back.split('|')[1], ip);
      assert.match(await denied('kind', { clusterIP: 'None' }), /may not change once set/);
      await ok('delete svc kind heir');
    });

    test('a load balancer without node ports gets none, and gives up those that are taken out', async () => {
      await create(
        service('lb', { type: 'LoadBalancer', allocateLoadBalancerNodePorts: false, ports: [{ port: 80 }] }),
      );
      assert.match(await brief('lb'), new RegExp(`^LoadBalancer\\|${V4}\\|SingleStack\\|\\|$`));
      const nodePort = (await patch('lb', { allocateLoadBalancerNodePorts: true })).split('|')[3]!;
      assert.match(nodePort, /^3\d{4}$/);
      // It keeps what it has until the ports say otherwise.
      assert.equal((await patch('lb', { allocateLoadBalancerNodePorts: false })).split('|')[3], nodePort);
      assert.equal((await patch('lb', { ports: [{ port: 80, nodePort: 0 }] })).split('|')[3], '');
      await isFree(nodePort);
      assert.match(await denied('lb', { loadBalancerClass: 'a.b/c' }), /may not change once set/);
      await ok('delete svc lb');
    });

    test('a port of two protocols has one node port; headless has no address', async () => {
      const both = [
        { name: 'udp', port: 53, protocol: 'UDP' },
        { name: 'tcp', port: 53, protocol: 'TCP' },
        { name: 'metrics', port: 9153, protocol: 'TCP' },
      ];
      await create(service('dns', { type: 'NodePort', ports: both }));
      const [udp, tcp, metrics] = (await get('svc dns', '{.spec.ports[*].nodePort}')).split(' ');
      assert.equal(udp, tcp);
      assert.notEqual(udp, metrics);
      await ok('delete svc dns');
      await create(
        service('headless', { clusterIP: 'None', selector: { a: 'b' }, ipFamilyPolicy: 'PreferDualStack' }),
      );
      assert.equal(
        await get('svc headless', '{.spec.clusterIPs}{.spec.ipFamilies}'),
        '["None"]["IPv4","IPv6"]',
      );
      assert.match(
        await denied('headless', { type: 'NodePort' }),
        /may not be set to 'None' for NodePort services/,
      );
      await ok('delete svc headless');
    });

    test('and what cannot be is refused with its path', async () => {
      for (const [name, spec, want] of [
        [
          'port',
          { ports: [{ port: 70000 }] },
          /spec\.ports\[0\]\.port: Invalid value: 70000: must be between 1 and/,
        ],
        [
          'forbidden',
          { ports: [{ port: 80, nodePort: 30001 }] },
          /nodePort: Forbidden: may not be used when `type` is/,
        ],
        ['1digit', { ports: [{ port: 80 }] }, /metadata\.name: Invalid value: "1digit": a DNS-1035 label/],
        [
          'taken',
          { clusterIP: '10.96.0.1', ports: [{ port: 80 }] },
          /failed to allocate IP 10\.96\.0\.1: provided IP is/,
        ],
        [
          'address',
          { clusterIP: '10.300.0.1', ports: [{ port: 80 }] },
          /clusterIPs\[0\]: .*must be a valid IP address/,
        ],
        ['nowhere', { type: 'ExternalName' }, /spec\.externalName: Required value/],
        [
          'local',
          { externalTrafficPolicy: 'Local', ports: [{ port: 80 }] },
          /only be set for externally-accessible/,
        ],
        [
          'health',
          { healthCheckNodePort: 30000, ports: [{ port: 80 }] },
          /spec\.healthCheckNodePort: Invalid value/,
        ],
        ['empty', { ports: [] }, /spec\.ports: Required value/],
        [
          'range',
          { type: 'NodePort', ports: [{ port: 1, nodePort: 80 }] },
          /range of valid ports is 30000-32767/,
        ],
        [
          'twice',
          { type: 'NodePort', ports: [53, 54].map((port) => ({ name: `p${port}`, port, nodePort: 30054 })) },
          /spec\.ports\[1\]: Duplicate value|already allocated/,
        ],
      ] as const)
        assert.match(await refused('create -f -', JSON.stringify(service(name, spec))), want, name);
      assert.equal(await ok('get svc -o name'), '');
    });
  });
}
