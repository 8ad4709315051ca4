import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { statSync } from 'node:fs';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseCidr } from '../../src/addr/index.ts';
import { deleteNetns } from '../../src/kernel/netns/index.ts';
import { CniNode, inNetns, ipJson } from '../lib/cni-node.ts';
import { execPlugin, PluginError } from '../lib/cnitool.ts';

const refused = (code: number, text: RegExp) => (error: unknown) => {
  assert.ok(error instanceof PluginError, String(error));
  assert.equal(error.code, code, error.message);
  assert.match(`${error.message} ${error.details}`, text);
  return true;
};

test('a round of add, check, status, gc, del exits 0 and leaves nothing (cni-004, 010, 020)', async () => {
  await using node = await CniNode.open();
  const tool = node.tool();
  const pod = { id: 'web', netns: node.pod() };
  const result = await tool.add(pod);
  const hostLink = result.interfaces[0]!.name;
  assert.match(hostLink, /^po[0-9a-f]{11}$/);
  const host = node.ip('link', 'show', hostLink)[0]!;
  const eth0 = ipJson(pod.netns, 'addr', 'show', 'eth0')[0]!;
  assert.deepEqual(result, {
    cniVersion: '1.1.0',
    interfaces: [
      { name: hostLink, mac: host.address, mtu: 1450 },
      { name: 'eth0', mac: eth0.address, mtu: 1450, sandbox: pod.netns },
    ],
    ips: [
      { interface: 1, address: '10.244.1.2/32', gateway: '169.254.1.1' },
      { interface: 1, address: 'fd00:10:244:1::2/128', gateway: 'fe80::1' },
    ],
    routes: [
      { dst: '0.0.0.0/0', gw: '169.254.1.1' },
      { dst: '::/0', gw: 'fe80::1' },
    ],
    dns: {},
  });
  assert.equal(eth0.mtu, 1450);
  assert.equal(host.mtu, 1450);
  assert.deepEqual(
    eth0
      .addr_info!.filter((each) => each.scope === 'global')
      .map((each) => `${each.local}/${each.prefixlen}`),
    ['10.244.1.2/32', 'fd00:10:244:1::2/128'],
  );
  assert.ok(ipJson(pod.netns, 'link', 'show', 'lo')[0]!.flags!.includes('UP'));
  assert.equal(node.ip('route', 'show', '10.244.1.2')[0]!.dev, hostLink);
  await tool.check(pod);
  await tool.status();
  await tool.gc([pod]);
  await tool.check(pod);
  await tool.del(pod);
  assert.deepEqual(tool.cached(), []);
  assert.deepEqual(node.leftovers(), []);
  assert.deepEqual(
    ipJson(pod.netns, 'link').map((link) => link.ifname),
    ['lo'],
  );
  await tool.del(pod);
  assert.equal(statSync(node.socketPath).mode & 0o777, 0o600);
});

test('two pods and their node reach each other over IPv4 and IPv6 at once, without NAT', async () => {
  await using node = await CniNode.open();
  const tool = node.tool();
  const a = { id: 'a', netns: node.pod() };
  const b = { id: 'b', netns: node.pod() };
  await tool.add(a);
  const { ips } = await tool.add(b);
  for (const { address } of ips) {
    const target = address.split('/')[0]!;
    assert.match(inNetns(a.netns, 'ping', '-c1', '-W1', target), / 0% packet loss/);
  }
  // The node needs an address of its own to speak from.
  execFileSync('ip', ['-n', node.nodeName, 'addr', 'add', '192.0.2.1/32', 'dev', 'lo']);
  execFileSync('ip', ['-n', node.nodeName, '-6', 'addr', 'add', '2001:db8::1/128', 'dev', 'lo', 'nodad']);
  for (const { address } of ips)
    assert.match(inNetns(node.nodeName, 'ping', '-c1', '-W1', address.split('/')[0]!), / 0% packet loss/);
  assert.match(inNetns(a.netns, 'ping', '-c1', '-W1', '192.0.2.1'), / 0% packet loss/);
});

test('results are written in the version that was asked for (cni-004)', async () => {
  await using node = await CniNode.open({ pools: [parseCidr('10.244.1.0/24')] });
  for (const cniVersion of ['0.3.1', '0.4.0', '1.0.0', '1.1.0']) {
    const tool = node.tool({ cniVersion });
    const pod = { id: `v${cniVersion}`, netns: node.pod() };
    const result = await tool.add(pod);
    assert.equal(result.cniVersion, cniVersion);
    assert.equal(result.ips[0]!.version, cniVersion.startsWith('0.') ? '4' : undefined);
    assert.equal(result.interfaces[1]!.mtu, cniVersion === '1.1.0' ? 1450 : undefined);
    if (cniVersion === '0.3.1') await assert.rejects(tool.check(pod), refused(1, /CHECK came with 0\.4\.0/));
    else await tool.check(pod);
    if (cniVersion !== '1.1.0') await assert.rejects(tool.status(), refused(1, /STATUS came with 1\.1\.0/));
    await tool.del(pod);
  }
  assert.deepEqual(node.leftovers(), []);
});

test('VERSION needs nothing but its name, and the same is answered without an agent (cni-001)', async () => {
  await using node = await CniNode.open();
  const versions = ['0.3.1', '0.4.0', '1.0.0', '1.1.0'];
  const ask = () => execPlugin(node.plugin, { CNI_COMMAND: 'VERSION' }, '{"cniVersion":"1.0.0"}');
  const up = await ask();
  assert.equal(up.status, 0);
  assert.deepEqual(JSON.parse(up.stdout), { cniVersion: '1.0.0', supportedVersions: versions });
  await node.server.close();
  const down = await ask();
  assert.equal(down.status, 0);
  assert.deepEqual(JSON.parse(down.stdout), { cniVersion: '1.1.0', supportedVersions: versions });
});

test('without an agent every verb says "try again", STATUS "not available" (cni-012)', async () => {
  await using node = await CniNode.open();
  const tool = node.tool();
  const pod = { id: 'web', netns: node.pod() };
  await node.server.close();
  await assert.rejects(tool.add(pod), refused(11, /does not answer.*cni\.sock.*portolan agent/));
  await assert.rejects(tool.del(pod), refused(11, /./));
  await assert.rejects(tool.status(), refused(50, /does not answer/));
});

test('missing and wrong variables are code 4 and are named (cni-002)', async () => {
  await using node = await CniNode.open();
  const full: Record<string, string> = {
    CNI_COMMAND: 'ADD',
    CNI_CONTAINERID: 'web',
    CNI_NETNS: node.pod(),
    CNI_IFNAME: 'eth0',
    CNI_PATH: node.binDir,
  };
  const stdin = JSON.stringify({ cniVersion: '1.1.0', name: 'n', type: 'portolan-cni' });
  const cases: [Record<string, string | undefined>, RegExp][] = [
    [{ CNI_IFNAME: undefined, CNI_NETNS: undefined }, /CNI_NETNS, CNI_IFNAME/],
    [{ CNI_CONTAINERID: '' }, /CNI_CONTAINERID/],
    [{ CNI_COMMAND: undefined }, /CNI_COMMAND is missing/],
    [{ CNI_COMMAND: 'FLY' }, /"FLY"/],
    [{ CNI_CONTAINERID: '../x' }, /CNI_CONTAINERID "\.\.\/x"/],
    [{ CNI_IFNAME: 'a-name-too-long-for-linux' }, /15 bytes/],
    [{ CNI_ARGS: 'oops' }, /CNI_ARGS/],
  ];
  for (const [change, text] of cases) {
    const env = Object.fromEntries(
      Object.entries({ ...full, ...change }).filter(
        (pair): pair is [string, string] => pair[1] !== undefined,
      ),
    );
    const run = await execPlugin(node.plugin, env, stdin);
    assert.equal(run.status, 1);
    assert.throws(
      () => {
        throw new PluginError(run);
      },
      refused(4, text),
    );
  }
  assert.deepEqual(node.leftovers(), []);
});

test('bad configurations have the codes of the specification (cni-003)', async () => {
  await using node = await CniNode.open();
  const env = {
    CNI_COMMAND: 'ADD',
    CNI_CONTAINERID: 'web',
    CNI_NETNS: node.pod(),
    CNI_IFNAME: 'eth0',
    CNI_PATH: node.binDir,
  };
  const base = { cniVersion: '1.1.0', name: 'n', type: 'portolan-cni' };
  const cases: [string, number, RegExp][] = [
    ['not JSON', 6, /decode/],
    ['', 6, /empty/],
    ['[]', 6, /no JSON object/],
    [JSON.stringify({ ...base, cniVersion: '9.9.9' }), 1, /9\.9\.9.*0\.3\.1/],
    [JSON.stringify({ name: 'n', type: 'portolan-cni' }), 1, /without "cniVersion"/],
    [JSON.stringify({ ...base, mtuu: 1400 }), 2, /"mtuu" with value 1400.*"mtu"/],
    [JSON.stringify({ ...base, ipam: { type: 'host-local' } }), 2, /ipam\.type.*host-local/],
    [JSON.stringify({ ...base, runtimeConfig: { bandwidth: { ingressRate: 1 } } }), 2, /bandwidth/],
    [JSON.stringify({ ...base, runtimeConfig: { portMappings: [{ hostPort: 80 }] } }), 7, /portMappings/],
    // Nobody serves them at this node.
    [
      JSON.stringify({ ...base, runtimeConfig: { portMappings: [{ hostPort: 80, containerPort: 80 }] } }),
      2,
      /portMappings/,
    ],
    [JSON.stringify({ ...base, name: '-bad' }), 7, /name/],
    [JSON.stringify({ ...base, mtu: '1400' }), 7, /mtu/],
    [JSON.stringify({ ...base, ipMasq: 'yes' }), 7, /ipMasq/],
    [JSON.stringify({ ...base, prevResult: { ips: 'x' } }), 7, /prevResult/],
  ];
  for (const [stdin, code, text] of cases) {
    const run = await execPlugin(node.plugin, env, stdin);
    assert.equal(run.status, 1, stdin);
    refused(code, text)(new PluginError(run));
  }
  const known = {
    ...base,
    ipam: {},
    dns: {},
    ipMasq: true,
    args: { labels: [] },
    'cni.dev/later': 1,
    mtu: 1400,
  };
  const run = await execPlugin(node.plugin, env, JSON.stringify(known));
  assert.equal(run.status, 0, run.stdout);
  assert.equal(JSON.parse(run.stdout).interfaces[1].mtu, 1400);
});

test("a second ADD, a taken name, a missing and the node's own namespace are refused (cni-005)", async () => {
  await using node = await CniNode.open();
  const tool = node.tool();
  const pod = { id: 'web', netns: node.pod() };
  await tool.add(pod);
  await assert.rejects(tool.add(pod), refused(100, /attached with 10\.244\.1\.2/));
  await tool.check(pod);
  const taken = { id: 'taken', netns: node.pod() };
  execFileSync('ip', ['-n', taken.netns.split('/').at(-1)!, 'link', 'add', 'eth0', 'type', 'bridge']);
  await assert.rejects(tool.add(taken), refused(100, /has an interface "eth0" already/));
  await assert.rejects(tool.add({ id: 'none', netns: '/run/netns/none' }), refused(3, /does not exist/));
  await assert.rejects(tool.add({ id: 'own', netns: node.netns.path }), refused(8, /the node itself/));
  await assert.rejects(tool.add({ id: 'own', netns: '/proc/self/ns/net' }), refused(8, /the node itself/));
  assert.equal(node.store.list().length, 1);
  await tool.del(pod);
  assert.deepEqual(node.leftovers(), []);
});

test('DEL succeeds for the unknown, twice, without namespace and after it is gone (cni-008)', async () => {
  await using node = await CniNode.open();
  const tool = node.tool();
  await tool.del({ id: 'unknown', netns: '' });
  const pod = { id: 'web', netns: node.pod() };
  await tool.add(pod);
  await tool.del({ ...pod, netns: '' });
  await tool.del(pod);
  const gone = { id: 'gone', netns: node.pod() };
  await tool.add(gone);
  deleteNetns(gone.netns.split('/').at(-1)!);
  await tool.del(gone);
  assert.deepEqual(node.leftovers(), []);
});

test('a late DEL of an old container leaves the newer one alone (cni-019)', async () => {
  await using node = await CniNode.open({ pools: [parseCidr('10.244.1.0/30')] });
  const tool = node.tool();
  const old = { id: 'old', netns: node.pod() };
  const young = { id: 'young', netns: node.pod() };
  const first = await tool.add(old);
  await tool.del(old);
  const second = await tool.add(young);
  assert.equal(second.ips[0]!.address, first.ips[0]!.address);
  await tool.del(old);
  await tool.check(young);
});

test('CHECK names what was taken away, in the pod and at the node (cni-010, 011)', async () => {
  // A pass of the reconciler would repair the node's side before CHECK sees it.
  await using node = await CniNode.open();
  node.network.resync = () => {};
  const tool = node.tool();
  const pod = { id: 'web', netns: node.pod() };
  const name = pod.netns.split('/').at(-1)!;
  await tool.add(pod);
  const cases: [string[], RegExp][] = [
    [['addr', 'del', '10.244.1.2/32', 'dev', 'eth0'], /address 10\.244\.1\.2\/32 is missing/],
    [['route', 'del', 'default'], /default route over 169\.254\.1\.1/],
    [['-6', 'route', 'del', 'default'], /default route over fe80::1/],
    [['neigh', 'del', '169.254.1.1', 'dev', 'eth0'], /neighbour 169\.254\.1\.1/],
    [['link', 'set', 'eth0', 'down'], /eth0 is down/],
    [['link', 'set', 'eth0', 'mtu', '1300'], /mtu 1300/],
    [['link', 'set', 'lo', 'down'], /lo is down/],
  ];
  for (const [command, text] of cases) {
    execFileSync('ip', ['-n', name, ...command]);
    await assert.rejects(tool.check(pod), refused(102, text));
    await node.network.add({ containerId: 'web', ifname: 'eth0', netns: pod.netns, ifAttached: 'ensure' });
    await tool.check(pod);
  }
  const quiet = node.tool({ disableCheck: true });
  await quiet.check({ id: 'nobody', netns: '' });
  assert.deepEqual(quiet.runs, []);
});

test('STATUS is 50 when addresses ran out and when the node says so, 51 when pods are hit too (cni-012)', async () => {
  const health: { cannotAdd?: string; podsLimited?: string } = {};
  await using node = await CniNode.open({ pools: [parseCidr('10.244.1.0/30')], health: () => health });
  const tool = node.tool();
  await tool.status();
  await tool.add({ id: 'one', netns: node.pod() });
  await assert.rejects(tool.status(), refused(50, /all 1 usable addresses are taken/));
  await assert.rejects(tool.add({ id: 'two', netns: node.pod() }), refused(11, /usable addresses are taken/));
  health.cannotAdd = 'the API server was never reached';
  await assert.rejects(tool.status(), refused(50, /never reached/));
  health.podsLimited = 'the overlay has no device';
  await assert.rejects(tool.status(), refused(51, /no device/));
});

test('GC frees all attachments of its network that are not listed (cni-013)', async () => {
  await using node = await CniNode.open();
  const tool = node.tool();
  const pods = [];
  for (const id of ['keep', 'lost1', 'lost2']) {
    const pod = { id, netns: node.pod() };
    pods.push(pod);
    await tool.add(pod);
  }
  const other = node.tool({ name: 'other' });
  await other.add({ id: 'foreign', netns: node.pod() });
  await node.network.add({ containerId: 'own', ifname: 'eth0', netns: node.pod() });
  // A runtime whose cache was lost: no DEL comes, only GC.
  await node.tool().gc([pods[0]!]);
  assert.deepEqual(
    node.store
      .list()
      .map((each) => each.containerId)
      .sort(),
    ['foreign', 'keep', 'own'],
  );
  await tool.check(pods[0]!);
  const run = await execPlugin(
    node.plugin,
    { CNI_COMMAND: 'GC', CNI_PATH: node.binDir },
    JSON.stringify({ cniVersion: '1.1.0', name: 'portolan', type: 'portolan-cni' }),
  );
  refused(7, /valid-attachments/)(new PluginError(run));
});

test('capabilities come only when declared, CNI_ARGS tell the pod, addresses can be asked for (cni-014, 017)', async () => {
  await using node = await CniNode.open();
  const tool = node.tool();
  const capabilityArgs = {
    ips: ['10.244.1.99/24'],
    dns: { servers: ['10.96.0.10'], searches: ['svc.cluster.local'], options: ['ndots:5'] },
    bandwidth: { ingressRate: 1_000_000 },
  };
  const args =
    'IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u-1;K8S_POD_INFRA_CONTAINER_ID=x;Z=1';
  const result = await tool.add({ id: 'web', netns: node.pod(), capabilityArgs, args });
  assert.equal(result.ips[0]!.address, '10.244.1.99/32');
  assert.deepEqual(result.dns, {
    nameservers: ['10.96.0.10'],
    search: ['svc.cluster.local'],
    options: ['ndots:5'],
  });
  assert.deepEqual(node.store.list()[0]!.pod, { namespace: 'default', name: 'web', uid: 'u-1' });
  await assert.rejects(
    tool.add({ id: 'b', netns: node.pod(), capabilityArgs }),
    refused(101, /10\.244\.1\.99/),
  );
});

test('in a chain, the results of others go through with ours behind them (cni-007, 009)', async () => {
  await using node = await CniNode.open();
  const tool = node.tool(
    {
      cniVersion: '1.0.0',
      plugins: [{ type: 'loopback' }, { type: 'portolan-cni' }, { type: 'tuning', mtu: 1400 }],
    },
    ['/usr/lib/cni'],
  );
  const pod = { id: 'web', netns: node.pod() };
  const result = await tool.add(pod);
  assert.deepEqual(
    result.ips.map((ip) => [ip.address, result.interfaces[ip.interface!]?.name]),
    [
      ['127.0.0.1/8', 'lo'],
      ['::1/128', 'lo'],
      ['10.244.1.2/32', 'eth0'],
      ['fd00:10:244:1::2/128', 'eth0'],
    ],
  );
  await tool.del(pod);
  assert.deepEqual(
    tool.runs.filter((run) => run.startsWith('DEL')),
    ['DEL tuning', 'DEL portolan-cni', 'DEL loopback'],
  );
  assert.deepEqual(node.leftovers(), []);
});

test('links, routes, neighbours and settings that someone deletes are back soon', async () => {
  const attached: number[] = [];
  await using node = await CniNode.open({ beforeReady: (_, link) => void attached.push(link.ifindex) });
  const tool = node.tool();
  const a = { id: 'a', netns: node.pod() };
  const b = { id: 'b', netns: node.pod() };
  const link = (await tool.add(a)).interfaces[0]!.name;
  await tool.add(b);
  const ping = () => inNetns(b.netns, 'ping', '-c1', '-W1', '10.244.1.2');
  const damages: string[][] = [
    ['route', 'del', '10.244.1.2'],
    ['-6', 'route', 'del', 'fd00:10:244:1::2'],
    ['neigh', 'del', '10.244.1.2', 'dev', link],
    ['link', 'set', link, 'down'],
    ['link', 'set', link, 'mtu', '1280'],
    ['link', 'del', link],
  ];
  for (const damage of damages) {
    const start = performance.now();
    execFileSync('ip', ['-n', node.nodeName, ...damage]);
    let tookMs = 0;
    for (;;) {
      await sleep(5);
      tookMs = performance.now() - start;
      if ((await node.network.check({ containerId: 'a', ifname: 'eth0' }, a.netns)).length === 0) break;
      // Five times what is promised, for a machine under load.
      assert.ok(tookMs < 1000, `${damage.join(' ')}: not repaired`);
    }
    assert.match(ping(), / 0% packet loss/);
  }
  assert.equal(attached.length, 3, 'programs are attached again to the new link');
  assert.equal(attached[2], node.ip('link', 'show', link)[0]!.ifindex);
  // A link with a name of ours that nobody knows goes; one of another name stays.
  execFileSync('ip', [
    '-n',
    node.nodeName,
    'link',
    'add',
    'po00000000000',
    'type',
    'veth',
    'peer',
    'name',
    'other0',
  ]);
  await sleep(100);
  assert.ok(!node.ip('link').some((each) => each.ifname === 'po00000000000'));
  assert.deepEqual(node.errors, []);
});
