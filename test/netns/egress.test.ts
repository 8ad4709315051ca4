/**
 * Egress addresses of namespaces: a host outside says with which address it sees pods of three nodes, which reach each
 * other by the tunnel; tcpdump on the wire says that no packet left with another one.
 */
import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';
import { startAgain, stopProcess } from '../../src/lab/restart.ts';
import {
  ALL,
  agentOf,
  annotate,
  ask,
  BOTH,
  closeEgressLab,
  FAMILIES,
  going,
  held,
  isClosed,
  isSeenAs,
  lab,
  MOVABLE,
  NODES,
  OUTSIDE,
  OWN,
  openEgressLab,
  ownAddresses,
  rowOf,
  rows,
  seen,
  watchSources,
} from '../lib/egress-lab.ts';
import { podOf, portolanCommand } from '../lib/lab.ts';
import { until } from '../lib/until.ts';

before(openEgressLab);
after(closeEgressLab);

test('pods of all nodes leave with the address of their namespace, in both families, and nobody else does', async () => {
  assert.equal(await seen('node1', 'shop/node1'), '172.31.0.11');
  assert.deepEqual(await rows('node1'), []);
  await held();
  await Promise.all(
    ALL.flatMap(([node, pod]) =>
      FAMILIES.map(async (family) =>
        assert.equal(await seen(node, pod, { family, protocol: 'UDP' }), MOVABLE[family], `${pod} by UDP`),
      ),
    ),
  );
  assert.equal(await seen('node2', 'default/other'), '172.31.0.12', 'a pod of another namespace');
  // A pod sees pods and Services as ever: with its own address.
  const { status } = await lab.get<{ status: { podIP: string } }>('pod', '-n', 'shop', 'node1');
  const echo = await lab.get<{ status: { podIP: string } }>('pod', 'echo');
  const service = await lab.get<{ spec: { clusterIP: string } }>('service', 'echo');
  for (const address of [echo.status.podIP, service.spec.clusterIP]) {
    const peer = await until(() => ask('node1', 'shop/node1', address), { what: address });
    assert.equal(peer.split(' ')[0], status.podIP, `to ${address}`);
  }
  const host = await lab.exec('node1', ['sh', '-c', `echo x | socat -t5 -T5 - TCP:${OUTSIDE[4]}:7000`]);
  assert.match(host.stdout, /^172\.31\.0\.11 /, 'the node, and pods in its network');
});

test('one node holds the address, the others send there, and everybody can read it', async () => {
  await held();
  const all = await Promise.all(NODES.map((node) => rowOf(node)));
  const holder = all[0]?.holder;
  assert.deepEqual(
    all.map((row) => [row?.address, row?.state, row?.holder, row?.pods]),
    NODES.map((node) => [MOVABLE[4], node === holder ? 'here' : 'via', holder, 1]),
  );
  const events = await lab.get<{ items: { reason: string; message: string }[] }>('events', '-n', 'shop');
  assert.ok(
    events.items.some(
      ({ reason, message }) => reason === 'EgressAddressHeld' && message === `${holder} holds ${MOVABLE[4]}`,
    ),
  );
  const away = NODES.find((node) => node !== holder)!;
  const rules = await lab.jsonExec<{ priority: number; fwmark?: string; protocol?: string }[]>(away, [
    'ip',
    '-j',
    'rule',
  ]);
  assert.deepEqual(
    rules.filter(({ priority }) => priority === 1250).map(({ fwmark }) => fwmark),
    ['0x1000000'],
  );
  assert.deepEqual(await lab.ask(away, 'egress', 'plan'), []);
  const explain = (from: string) =>
    lab.cli('exec', away, '--', ...portolanCommand, 'egress', 'explain', '--from', from, '--to', OUTSIDE[4]);
  const leaves = new RegExp(`leaves as ${MOVABLE[4]}.*routed to ${holder}`, 's');
  assert.match((await explain(`shop/${away}`)).stdout, leaves);
  const cases: [string, RegExp][] = [
    [`shop/${holder}`, new RegExp(`leaves as ${MOVABLE[4]}.*is on ${holder}`, 's')],
    ['shop/host', /leaves as its node.*network of its node node1/s],
    ['default', /leaves as its node.*asks for no IPv4/s],
    ['shpo', /^error\[EGRESS_NO_SUCH_NAMESPACE\].*"shpo".*kubectl get namespaces/ms],
    [away, new RegExp(`^error\\[EGRESS_NO_SUCH_NAMESPACE\\].*"shop/${away}"`, 'ms')],
    ['shop/nobody', /^error\[EGRESS_NO_SUCH_POD\].*"nobody".*"shop"/ms],
  ];
  await Promise.all(
    cases.map(async ([from, want]) => {
      const { stdout, stderr, status } = await explain(from);
      assert.match(stdout + stderr, want);
      assert.equal(status, want.source.includes('error') ? 1 : 0, from);
    }),
  );
});

test('somebody deletes our rule, route or marks: nothing leaves with another address, and it is back at once', async (t) => {
  await held();
  const holder = (await rowOf('node1'))!.holder!;
  const away = NODES.find((node) => node !== holder)!;
  const plan = () => lab.ask<string[]>(away, 'egress', 'plan');
  const whole = (command: readonly string[]) =>
    until(async () => (await plan()).length === 0 && (await seen(away, `shop/${away}`)) === MOVABLE[4], {
      what: command.join(' '),
    });
  const commands = [
    ['ip', 'rule', 'del', 'priority', '1250'],
    ...((await rowOf(away, 6))?.state === 'via' ? [['ip', '-6', 'rule', 'del', 'priority', '1250']] : []),
    ['ip', 'route', 'flush', 'table', '25001'],
    ['nft', 'flush', 'chain', 'ip', 'portolan', 'egress_prerouting'],
  ];
  const sources = await watchSources(async () => {
    // Somebody who goes on sending meanwhile, each time from another port.
    const flood = await going(
      t,
      away,
      `shop/${away}`,
      `while true; do echo x | socat -u - UDP:${OUTSIDE[4]}:7000; done`,
    );
    for (const command of commands) {
      await lab.mustExec(away, command);
      await whole(command);
    }
    await flood.stop();
  });
  assert.deepEqual([...sources], [MOVABLE[4]]);
  // Without any table nobody translates anything for a moment; it is back as well.
  const table = ['nft', 'delete', 'table', 'ip', 'portolan'];
  await lab.mustExec(away, table);
  await whole(table);
});

test('the holder is killed: pods of other nodes leave by its successor with the same address', async (t) => {
  await held();
  const holder = (await rowOf('node1'))!.holder!;
  const [away, other] = NODES.filter((node) => node !== holder);
  const killedAt = performance.now();
  t.after(() => startAgain(lab.name, holder));
  process.kill(agentOf(holder), 'SIGKILL');
  const next = await until(
    async () => {
      const now = (await rowOf(away!))?.holder;
      return now !== holder && now;
    },
    { everyMs: 20, what: 'a successor' },
  );
  await until(async () => (await seen(other!, `shop/${other}`)) === MOVABLE[4], {
    what: 'with the address',
  });
  console.log(`fail-over took ${Math.round(performance.now() - killedAt)} ms`);
  assert.ok([away, other].includes(next as (typeof NODES)[number]));
  const restart = await lab.cli('restart', holder);
  assert.equal(restart.status, 0, restart.stderr);
  await until(async () => (await rowOf(holder))?.state === 'via', { what: 'the old holder gives way' });
  await isSeenAs(MOVABLE, ALL, 'after the restart');
});

test('an annotation that changes cuts what is open, and no packet has the old address afterwards', async (t) => {
  const next = { 4: '172.31.0.241', 6: 'fd00:172:31::241' } as const;
  await held();
  const long = await going(
    t,
    'node1',
    'shop/node1',
    `while true; do echo x; sleep 0.05; done | socat -t1 - TCP:${OUTSIDE[4]}:7000`,
  );
  await until(() => long.said().includes(MOVABLE[4]), { what: 'an open connection' });
  await annotate(`${next[4]},${next[6]}`);
  await isSeenAs(next, ALL, 'changed');
  const sources = await watchSources(async () => {
    await isSeenAs(next, ALL, 'still');
    await long.stop();
  });
  assert.deepEqual([...sources].sort(), [next[4], next[6]].sort());
  assert.doesNotMatch(long.said(), /172\.31\.0\.241/, 'a connection does not change its address');
});

test('an address of a node is its own, and it is closed when that takes it away', async (t) => {
  const change = (verb: 'add' | 'del') => ownAddresses('node2', verb);
  t.after(() => change('del').catch(() => {}));
  await annotate(`${OWN[4]},${OWN[6]}`);
  await until(async () => (await rowOf('node1'))?.state === 'closed', { what: 'nobody holds it yet' });
  await change('add');
  await isSeenAs(OWN, ALL, 'added');
  assert.equal((await rowOf('node3'))?.holder, 'node2');

  await change('del');
  for (const node of NODES)
    await until(async () => (await rowOf(node))?.state === 'closed', { what: 'taken away' });
  const sources = await watchSources(async () => {
    await Promise.all(ALL.map(([node, pod]) => isClosed(node, pod)));
  });
  assert.deepEqual([...sources], []);
  const row = await rowOf('node1');
  assert.equal(row?.why, `no node holds ${OWN[4]}: no link of this node is in its network`);
  assert.ok(row.dropped > 0, 'counted');
  await until(
    async () =>
      (await lab.get<{ items: { reason: string; message: string }[] }>('events', '-n', 'shop')).items.some(
        ({ reason, message }) =>
          reason === 'EgressAddressUnavailable' && message.includes(`${OWN[4]}: no link`),
      ),
    { what: 'an Event' },
  );
});

test('an agent dies and starts while the API server is away: what runs goes on, and new connections work', async (t) => {
  const recover = async () => {
    await startAgain(lab.name, 'apiserver', 60);
    await startAgain(lab.name, 'node2', 60);
  };
  t.after(async () => {
    await recover();
    await ownAddresses('node2', 'del').catch(() => {});
  });
  await ownAddresses('node2', 'add');
  await annotate(`${OWN[4]},${OWN[6]}`);
  await isSeenAs(OWN, ALL, 'added');
  const long = await going(
    t,
    'node1',
    'shop/node1',
    `while true; do echo x; sleep 0.05; done | socat -t1 - TCP:${OUTSIDE[4]}:7000`,
  );
  await until(() => long.said().length > 0, { what: 'an open connection' });
  await stopProcess(lab.name, 'apiserver', true);
  await stopProcess(lab.name, 'node2', true);
  const alone = await watchSources(async () => {
    await startAgain(lab.name, 'node2', 60);
    await until(async () => (await rowOf('node2'))?.state === 'here', { what: 'the agent, without the API' });
    const before = long.said().length;
    await until(() => long.said().length > before + 100, { what: 'the open connection' });
    await Promise.all(ALL.map(async ([node, pod]) => assert.equal(await seen(node, pod), OWN[4], pod)));
  });
  await recover();
  await long.stop();
  assert.deepEqual([...alone], [OWN[4]]);
  assert.equal(new Set(long.said().match(/\S+ \d+$/gm)).size, 1, 'one address, one port');
  await annotate(BOTH);
  await isSeenAs(MOVABLE, ALL, 'nodes hear of a change again');
});

test('an annotation that cannot be read closes its namespace and says why', async () => {
  await annotate('192.0.2.50;nonsense');
  await until(async () => (await rowOf('node1'))?.why?.includes('no IP address'), { what: 'the reason' });
  const sources = await watchSources(async () => {
    await Promise.all(FAMILIES.map((family) => isClosed('node1', 'shop/node1', family)));
  });
  assert.deepEqual([...sources], []);
  assert.ok((await rowOf('node1'))!.dropped > 0, 'counted');
  await until(
    async () =>
      (await lab.get<{ items: { reason: string; message: string }[] }>('events', '-n', 'shop')).items.some(
        ({ reason, message }) => reason === 'EgressAddressWrong' && message.includes('nonsense'),
      ),
    { what: 'an Event' },
  );
  const status = await lab.ask<{ problems: { object: string }[] }>('node1', 'status');
  assert.ok(status.problems.some(({ object }) => object === 'egress address of namespace shop'));
});

test('an address that somebody has on the link is not taken from it', async () => {
  await annotate('172.31.0.1,fd00:172:31::1');
  for (const family of FAMILIES)
    await until(
      async () =>
        /^no node holds .*: ([0-9a-f]{2}:){5}[0-9a-f]{2} has it on the link$/.test(
          (await rowOf('node1', family))?.why ?? '',
        ),
      {
        what: `the reason, IPv${family}`,
      },
    );
  const { items } = await lab.get<{ items: { metadata: { name: string } }[] }>('leases', '-n', 'kube-system');
  assert.deepEqual(
    items
      .map(({ metadata }) => metadata.name)
      .filter((name) => /^portolan-l2-(172\.31\.0\.1|fd00-172-31-.*-1)$/.test(name)),
    [],
  );
});

test('a pod that starts in such a namespace never leaves with another address', async () => {
  await held();
  const shout = `while true; do echo x | socat -t0.2 - UDP:${OUTSIDE[4]}:7000; done`;
  const sources = await watchSources(async () => {
    await lab.apply(
      NODES.map((nodeName) => {
        const pod = podOf(`late-${nodeName}`, ['sh', '-c', shout], { nodeName });
        return { ...pod, metadata: { ...pod.metadata, namespace: 'shop' } };
      }),
    );
    await lab.kubectl(['wait', '-n', 'shop', '--for=condition=Ready', 'pod', '--all', '--timeout=60s']);
    await isSeenAs(
      MOVABLE,
      NODES.map((node) => [node, `shop/late-${node}`]),
      'late',
    );
  });
  assert.deepEqual([...sources].sort(), [MOVABLE[4], MOVABLE[6]].sort());
});

test('without the annotation nothing of it is left, and cleanup removes what is there', async () => {
  await held();
  await annotate(undefined);
  await isSeenAs({ 4: '172.31.0.11', 6: 'fd00:172:31::b' }, ALL.slice(0, 1), 'masqueraded again');
  const left = async (node: string) =>
    [
      await lab.mustExec(node, [
        'sh',
        '-c',
        'ip rule; ip -6 rule; ip route show table all; ip -6 route show table all',
      ]),
      await lab.mustExec(node, ['nft', 'list', 'ruleset']),
    ]
      .join('\n')
      .split('\n')
      .filter((line) => /egress|2500\d|fwmark/.test(line));
  for (const node of NODES)
    await until(async () => (await left(node)).length === 0, { what: `nothing left on ${node}` });
  await annotate(BOTH);
  await isSeenAs(MOVABLE, ALL, 'again');
  const away = NODES.find((node) => node !== undefined && node !== 'node1')!;
  await stopProcess(lab.name, away, false);
  const flags = ['--cni-bin-dir', '/nonexistent', '--cni-conf-dir', '/nonexistent'];
  const cleanup = (...more: string[]) =>
    lab.cli('exec', away, '--', ...portolanCommand, 'cleanup', ...flags, ...more);
  const done = await cleanup();
  assert.equal(done.status, 0, done.stderr);
  assert.deepEqual(await left(away), []);
  const again = await cleanup('--dry-run');
  assert.equal(again.stdout.trim(), 'nothing to remove');
});
