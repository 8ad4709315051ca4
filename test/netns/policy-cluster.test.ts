/** ClusterNetworkPolicy by real kubectls in a lab: tiers around NetworkPolicies, and who decided. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Lab, podOf, portolanCommand, startLab } from '../lib/lab.ts';

let lab: Lab;
let web: string;
before(async () => {
  lab = await startLab('--nodes', '2', '--no-demo');
  const httpd = ['busybox', 'httpd', '-f', '-p', '8080', '-h', '/usr/share'];
  await lab.apply([
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'blue', labels: { tenant: 'blue' } } },
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'red', labels: { tenant: 'red' } } },
    ...[
      podOf('web', httpd, { nodeName: 'node2', port: 8080 }),
      podOf('friend', ['sleep', '600'], { nodeName: 'node1' }),
    ].map((pod) => ({ ...pod, metadata: { ...pod.metadata, namespace: 'blue' } })),
    ...[podOf('other', ['sleep', '600'], { nodeName: 'node1' })].map((pod) => ({
      ...pod,
      metadata: { ...pod.metadata, namespace: 'red' },
    })),
  ]);
  for (const namespace of ['blue', 'red'])
    await lab.kubectl(['-n', namespace, 'wait', '--for=condition=Ready', 'pod', '--all', '--timeout=30s']);
  const pod = await lab.get<{ status: { podIP: string } }>('pod', 'web', '-n', 'blue');
  web = pod.status.podIP;
});
after(() => lab?.down());

async function reaches(namespace: string, pod: string): Promise<boolean> {
  const command = ['curl', '-s', '-o', '/dev/null', '--max-time', '1', `http://${web}:8080/`];
  const { status } = await lab.podExec('node1', `${namespace}/${pod}`, command);
  return status === 0;
}

async function until(want: { friend: boolean; other: boolean }): Promise<void> {
  let got = { friend: !want.friend, other: !want.other };
  for (let tries = 0; tries < 20; tries++) {
    got = { friend: await reaches('blue', 'friend'), other: await reaches('red', 'other') };
    if (got.friend === want.friend && got.other === want.other) return;
    await sleep(100);
  }
  assert.deepEqual(got, want);
}

const policy = (name: string, tier: string, ingress: object[]) => ({
  apiVersion: 'policy.networking.k8s.io/v1alpha2',
  kind: 'ClusterNetworkPolicy',
  metadata: { name },
  spec: { tier, priority: 10, subject: { namespaces: { matchLabels: { tenant: 'blue' } } }, ingress },
});
const own = { namespaces: { matchLabels: { tenant: 'blue' } } };

test('Admin denies, Pass hands over to NetworkPolicy, Baseline is for what nobody isolates', async () => {
  await until({ friend: true, other: true });
  await lab.apply(
    policy('tenants', 'Admin', [
      { name: 'own', action: 'Pass', from: [own] },
      { name: 'others', action: 'Deny', from: [{ namespaces: {} }] },
    ]),
  );
  await until({ friend: true, other: false });
  const table = await lab.kubectl(['get', 'cnp']);
  assert.match(table, /NAME +TIER +PRIORITY +AGE\ntenants +Admin +10 /);

  const [explained] = await lab.ask<{ allowed: boolean; reasons: string[] }[]>(
    'node2',
    ...['policy', 'explain', '--from', 'red/other', '--to', 'blue/web', '--port', '8080/tcp'],
  );
  assert.equal(explained?.allowed, false);
  assert.match(
    explained.reasons.join('; '),
    /denied by ClusterNetworkPolicy tenants ingress\[1\] "others" \(Admin tier\)/,
  );
  const { pods, rules } = await lab.ask<{ pods: string[]; rules: { rule: string; connections: number }[] }>(
    'node2',
    ...['policy', 'show', 'tenants'],
  );
  assert.deepEqual(pods, ['blue/web']);
  assert.ok(
    rules.some(({ rule, connections }) => rule === 'ingress[1]' && connections > 0),
    JSON.stringify(rules),
  );

  await lab.apply({
    apiVersion: 'networking.k8s.io/v1',
    kind: 'NetworkPolicy',
    metadata: { name: 'deny', namespace: 'blue' },
    spec: { podSelector: {} },
  });
  await until({ friend: false, other: false });
  await lab.apply(policy('tenants', 'Admin', [{ action: 'Accept', from: [own] }]));
  await until({ friend: true, other: false });

  await lab.kubectl(['delete', 'cnp', 'tenants']);
  await lab.kubectl(['delete', 'networkpolicy', 'deny', '-n', 'blue']);
  await until({ friend: true, other: true });
  await lab.apply(policy('default', 'Baseline', [{ action: 'Deny', from: [{ namespaces: {} }] }]));
  await until({ friend: false, other: false });
  await lab.kubectl(['delete', 'cnp', 'default']);
  await until({ friend: true, other: true });
});

test('what the schema refuses is refused with the path of the field', async () => {
  const wrong = policy('wrong', 'Middle', [{ action: 'Deny', from: [{}] }]);
  const { status, stderr } = await lab.tryKubectl(['apply', '-f', '-'], { input: JSON.stringify(wrong) });
  assert.equal(status, 1);
  assert.match(stderr, /spec\.tier: Unsupported value: "Middle"/);
  assert.match(stderr, /spec\.ingress\[0\]\.from\[0\]: Required value: set one of namespaces, pods/);
});

test('policy log -f names who was denied by what, and costs no rule when nobody follows', async () => {
  await lab.apply(
    policy('tenants', 'Admin', [{ name: 'others', action: 'Deny', from: [{ namespaces: {} }] }]),
  );
  await until({ friend: false, other: false });
  const logging = async () =>
    (await lab.mustExec('node2', ['nft', 'list', 'table', 'ip', 'portolan'])).includes('log prefix');
  assert.equal(await logging(), false);
  const counted = async () =>
    (
      await lab.ask<{ rules: { family: string; connections: number }[] }>(
        'node2',
        'policy',
        'show',
        'tenants',
      )
    ).rules.find(({ family }) => family === 'IPv4')!.connections;
  const before = await counted();
  assert.ok(before > 0);
  const follower = lab.start(lab.netns('node2'), lab.cgroup('node2'), [
    ...[
      'env',
      `PORTOLAN_STATE_DIR=/run/${lab.name}/node2`,
      ...portolanCommand,
      'policy',
      'log',
      '-f',
      '--json',
    ],
  ]);
  let text = '';
  follower.stdout.on('data', (part: Buffer) => {
    text += part.toString();
  });
  try {
    for (let tries = 0; tries < 50 && !(await logging()); tries++) await sleep(100);
    assert.equal(await logging(), true);
    await reaches('red', 'other');
    for (let tries = 0; tries < 30 && !text.includes('\n'); tries++) await sleep(100);
    const record = JSON.parse(text.split('\n')[0] ?? '') as Record<string, unknown>;
    const { time: _time, sourcePort: _port, from, ...rest } = record;
    assert.match(String(from), /^red\/other \(10\.244\./);
    assert.deepEqual(rest, {
      verdict: 'denied',
      direction: 'ingress',
      by: 'ClusterNetworkPolicy tenants ingress[0] others',
      to: `blue/web (${web})`,
      protocol: 'tcp',
      port: 8080,
    });
  } finally {
    follower.kill('SIGINT');
  }
  for (let tries = 0; tries < 50 && (await logging()); tries++) await sleep(100);
  assert.equal(await logging(), false);
  // Rules that report came and went beside those that count.
  const after = await counted();
  assert.ok(after > before, `${before} connections before somebody watched, ${after} afterwards`);
});
