/** Pod links of kind `bridge`: what ADD makes, who reaches whom, what frames cannot do, repair, change of kinds. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseCidr } from '../../src/addr/index.ts';
import { NftGuard } from '../../src/kernel/nft/index.ts';
import { sourceLinkOf, sourcePart } from '../../src/podlink/index.ts';
import { CniNode, inNetns, ipJson } from '../lib/cni-node.ts';
import { PluginError } from '../lib/cnitool.ts';

const BRIDGE = 'portolan0';
const MAC = /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/;

interface Pod {
  id: string;
  netns: string;
}

interface PortRecord {
  ifname: string;
  master: string;
  hairpin: boolean;
  isolated: boolean;
  learning: boolean;
  flood: boolean;
  mcast_flood: boolean;
  bcast_flood: boolean;
  locked?: boolean;
}

/** `bridge -j` in the node's namespace: the oracle. */
function bridgeJson<T>(node: CniNode, ...args: string[]): T[] {
  return JSON.parse(inNetns(node.nodeName, 'bridge', '-j', '-d', ...args)) as T[];
}

const sysctl = (node: CniNode, name: string) => inNetns(node.nodeName, 'sysctl', '-n', name).trim();
const loss = (from: string, to: string) =>
  / 0% packet loss/.test(inNetns(from, 'sh', '-c', `ping -c1 -W1 ${to} || true`));

/** Both settings of br_netfilter, for IPv4, IPv6 and ARP, in this namespace. */
function callIptables(node: CniNode, value: 0 | 1): void {
  for (const name of ['iptables', 'ip6tables', 'arptables'])
    inNetns(node.nodeName, 'sysctl', '-qw', `net.bridge.bridge-nf-call-${name}=${value}`);
}

/** An address of the node's own, from which it speaks: gateways are no source. */
function giveAddress(node: CniNode): void {
  inNetns(node.nodeName, 'ip', 'addr', 'add', '192.0.2.1/32', 'dev', 'lo');
  inNetns(node.nodeName, 'ip', 'addr', 'add', '2001:db8::1/128', 'dev', 'lo', 'nodad');
}

/** Sends frames out of a pod's eth0: [target MAC, EtherType and payload in hexadecimal]. */
function sendFrames(
  netns: string,
  frames: readonly (readonly [to: string, rest: string])[],
  address = ipJson(netns, 'link', 'show', 'eth0')[0]!.address,
): void {
  const bytes = frames.map(([to, rest]) => to.replaceAll(':', '') + address!.replaceAll(':', '') + rest);
  inNetns(
    netns,
    'python3',
    '-c',
    `import socket,sys
s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW); s.bind(('eth0',0))
for f in sys.argv[1:]: s.send(bytes.fromhex(f))`,
    ...bytes,
  );
}

/** Counts what comes in by a pod's eth0: frames of one MAC, or with a target in a network. */
function countFrames(netns: string, match: string): () => number {
  const table = `c${counters++}`;
  inNetns(
    netns,
    'nft',
    `add table netdev ${table}; add chain netdev ${table} c { type filter hook ingress device "eth0" priority 0; }; add rule netdev ${table} c ${match} counter`,
  );
  return () => {
    const { nftables } = JSON.parse(inNetns(netns, 'nft', '-j', 'list', 'table', 'netdev', table)) as {
      nftables: { rule?: { expr: { counter?: { packets: number } }[] } }[];
    };
    return nftables.flatMap(
      ({ rule }) => rule?.expr.flatMap(({ counter }) => counter?.packets ?? []) ?? [],
    )[0]!;
  };
}
let counters = 0;

test('ADD makes an isolated port of a bridge with the gateways, DEL leaves the bridge, and CHECK is content', async () => {
  await using node = await CniNode.open({ kind: 'bridge' });
  const tool = node.tool();
  const pod = { id: 'web', netns: node.pod() };
  const result = await tool.add(pod);
  const [bridge, host, eth0] = result.interfaces;
  assert.equal(bridge!.name, BRIDGE);
  assert.match(bridge!.mac!, MAC);
  assert.deepEqual(result.ips, [
    { interface: 2, address: '10.244.1.2/24', gateway: '10.244.1.1' },
    { interface: 2, address: 'fd00:10:244:1::2/64', gateway: 'fd00:10:244:1::1' },
  ]);
  assert.deepEqual(result.routes, [
    { dst: '0.0.0.0/0', gw: '10.244.1.1' },
    { dst: '::/0', gw: 'fd00:10:244:1::1' },
  ]);
  const there = node.ip('-d', 'addr', 'show', BRIDGE)[0]!;
  assert.equal(there.address, bridge!.mac);
  assert.deepEqual(
    there.addr_info!.map((each) => `${each.local}/${each.prefixlen}`),
    ['10.244.1.1/24', 'fd00:10:244:1::1/64'],
  );
  assert.equal(there.mtu, 1450);
  const inside = ipJson(pod.netns, 'addr', 'show', 'eth0')[0]!;
  assert.deepEqual(
    inside.addr_info!.map((each) => `${each.local}/${each.prefixlen}`),
    ['10.244.1.2/24', 'fd00:10:244:1::2/64'],
  );
  assert.equal(inside.mtu, 1450);
  assert.equal(inside.address, eth0!.mac);
  const port = bridgeJson<PortRecord>(node, 'link').find((each) => each.ifname === host!.name)!;
  const { master, hairpin, isolated, learning, flood, mcast_flood, bcast_flood, locked } = port;
  assert.deepEqual(
    { master, hairpin, isolated, learning, flood, mcast_flood, bcast_flood, locked: locked ?? true },
    {
      master: BRIDGE,
      hairpin: true,
      isolated: true,
      learning: false,
      flood: false,
      mcast_flood: false,
      bcast_flood: false,
      locked: true,
    },
  );
  const fdb = bridgeJson<{ mac: string; ifname: string; state?: string; master?: string }>(node, 'fdb');
  assert.ok(
    fdb.some((each) => each.mac === eth0!.mac && each.ifname === host!.name && each.state === 'static'),
  );
  assert.equal(sysctl(node, `net.ipv4.conf.${BRIDGE}.send_redirects`), '0');
  assert.equal(sysctl(node, `net.ipv4.conf.${BRIDGE}.rp_filter`), '2');
  await tool.check(pod);
  await tool.status();
  await tool.gc([pod]);
  await tool.del(pod);
  assert.deepEqual(node.leftovers(), [BRIDGE]);
  assert.deepEqual(node.errors, []);
});

test('a network too small for a gateway, and a name that is taken, are refused', async () => {
  await using node = await CniNode.open({ kind: 'bridge', pools: [parseCidr('10.244.1.0/31')] });
  const tool = node.tool();
  const refused = (text: RegExp) => (error: unknown) =>
    error instanceof PluginError && text.test(`${error.message} ${error.details}`);
  await assert.rejects(tool.add({ id: 'a', netns: node.pod() }), refused(/no address left for the gateway/));
  node.store.setPools([parseCidr('10.244.1.0/24')]);
  execFileSync('ip', ['-n', node.nodeName, 'link', 'add', BRIDGE, 'type', 'bridge']);
  await assert.rejects(tool.add({ id: 'b', netns: node.pod() }), refused(/exists that is not ours/));
  execFileSync('ip', ['-n', node.nodeName, 'link', 'del', BRIDGE]);
  await tool.add({ id: 'c', netns: node.pod() });
  assert.deepEqual(node.leftovers().slice(0, 1), [BRIDGE]);
});

test('bridged and routed pods and their node reach each other, with br_netfilter and without', async () => {
  await using node = await CniNode.open({ kind: 'bridge' });
  const bridged = node.tool();
  const routed = node.tool({
    plugins: [{ type: 'portolan-cni', podLink: 'routed', capabilities: { ips: true, dns: true } }],
  });
  giveAddress(node);
  // As a distribution may have it: strict everywhere. The bridge must be served all the same.
  inNetns(node.nodeName, 'sysctl', '-qw', 'net.ipv4.conf.all.rp_filter=1');
  const a = { id: 'a', netns: node.pod() };
  const b = { id: 'b', netns: node.pod() };
  const c = { id: 'c', netns: node.pod() };
  const addresses = new Map<string, string[]>();
  for (const [tool, pod] of [
    [bridged, a],
    [bridged, b],
    [routed, c],
  ] as const) {
    const { ips } = await tool.add(pod);
    addresses.set(
      pod.netns,
      ips.map(({ address }) => address.split('/')[0]!),
    );
  }
  assert.equal(node.ip('route', 'show', '10.244.1.4')[0]!.dev?.startsWith('po'), true);
  for (const value of [0, 1] as const) {
    callIptables(node, value);
    for (const from of [a, b, c])
      for (const to of [a, b, c])
        for (const address of addresses.get(to.netns)!)
          assert.ok(loss(from.netns, address), `br_netfilter ${value}: ${from.id} -> ${address}`);
    for (const address of [...addresses.values()].flat()) assert.ok(loss(node.nodeName, address), address);
    for (const gateway of ['10.244.1.1', 'fd00:10:244:1::1']) assert.ok(loss(a.netns, gateway), gateway);
  }
  // By its own addresses, not by those of gateways, which policies do not know as the node's.
  for (const [target, want] of [
    ['10.244.1.2', '192.0.2.1'],
    ['fd00:10:244:1::2', '2001:db8::1'],
  ] as const)
    assert.match(inNetns(node.nodeName, 'ip', 'route', 'get', target), new RegExp(` src ${want} `));
  // Who believes that others are on its link is answered by the node, also for a routed pod.
  for (const target of ['10.244.1.3', '10.244.1.4']) {
    execFileSync('ip', ['-n', a.netns.split('/').at(-1)!, 'route', 'add', `${target}/32`, 'dev', 'eth0']);
    assert.ok(loss(a.netns, target), `${target} on link`);
    const [neigh] = ipJson(a.netns, 'neigh', 'show', target);
    assert.equal(neigh!.lladdr, node.ip('link', 'show', BRIDGE)[0]!.address);
  }
  // The kind belongs to the attachment: CHECK and DEL need not be told.
  for (const pod of [a, b, c]) await bridged.check(pod).catch((error) => assert.equal(pod, c, String(error)));
  await routed.check(c);
});

test('frames go from no pod to another, and no pod takes the address of another', async () => {
  await using node = await CniNode.open({ kind: 'bridge' });
  const tool = node.tool();
  const a = { id: 'a', netns: node.pod() };
  const b = { id: 'b', netns: node.pod() };
  const first = (await tool.add(a)).interfaces[2]!;
  const victim = (await tool.add(b)).interfaces[2]!;
  callIptables(node, 0);
  giveAddress(node);
  const ofA = countFrames(b.netns, `ether saddr ${first.mac}`);
  const pings = countFrames(b.netns, 'ip daddr 10.244.1.3 icmp type echo-request');
  const to = [victim.mac!, 'ff:ff:ff:ff:ff:ff', '01:00:5e:00:00:fb', '33:33:00:00:00:01'];
  // A datagram to b, and something that is not IP at all.
  const ip = `45000020000100004011${'0000'}0af401020af40103${'1f901f90000c0000'}61626364`;
  sendFrames(
    a.netns,
    to.flatMap((mac) => [[mac, `0800${ip}`] as const, [mac, '88b5deadbeef'] as const]),
  );
  // "10.244.1.3 is at a" and "10.244.1.99 is at a", as an answer and as an announcement, and the same for IPv6's MAC.
  const own = ipJson(a.netns, 'link', 'show', 'eth0')[0]!.address!.replaceAll(':', '');
  for (const address of ['0af40103', '0af40163'])
    sendFrames(
      a.netns,
      ['0001', '0002'].map(
        (operation) =>
          [
            'ff:ff:ff:ff:ff:ff',
            `0806000108000604${operation}${own}${address}ffffffffffff${address}`,
          ] as const,
      ),
    );
  await sleep(20);
  assert.equal(ofA(), 0, 'frames that reached the other pod');
  // What the node sends to 10.244.1.3 still arrives there, and an address that nobody has stays nobody's.
  assert.ok(loss(node.nodeName, '10.244.1.3'));
  assert.equal(pings(), 1);
  execFileSync('ip', ['-n', a.netns.split('/').at(-1)!, 'addr', 'add', '10.244.1.99/24', 'dev', 'eth0']);
  const unknown = countFrames(a.netns, 'ip daddr 10.244.1.99');
  inNetns(node.nodeName, 'sh', '-c', 'ping -c1 -W1 10.244.1.99 || true');
  assert.equal(unknown(), 0, 'an address that was not given out');
});

test('a pod on the bridge sends with no other addresses than its own, whatever MAC it claims', async () => {
  await using node = await CniNode.open({ kind: 'bridge' });
  const tool = node.tool();
  const [a, b, c] = ['a', 'b', 'c'].map((id) => ({ id, netns: node.pod() })) as [Pod, Pod, Pod];
  const bridge = (await tool.add(a)).interfaces[0]!.mac!;
  const victim = (await tool.add(b)).interfaces[2]!.mac!;
  await tool.add(c);
  using guard = new NftGuard({ netns: node.netns });
  for (const family of [4, 6] as const)
    guard.ensure(sourcePart(family, node.network.list().map(sourceLinkOf)));
  const forged = ['ip saddr 10.244.1.3', 'ip6 saddr fd00:10:244:1::3', 'ip saddr 203.0.113.5'].map((match) =>
    countFrames(c.netns, match),
  );
  const own = countFrames(c.netns, 'udp dport 82');
  const say = (source: string, target: string) =>
    inNetns(
      a.netns,
      'python3',
      '-c',
      `import socket,sys
s=socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET,socket.SOCK_DGRAM)
s.bind((sys.argv[1],0)); s.sendto(b'x',(sys.argv[2],82))`,
      source,
      target,
    );
  for (const address of ['10.244.1.3/32', '203.0.113.5/32', 'fd00:10:244:1::3/128'])
    inNetns(a.netns, 'ip', 'addr', 'add', address, 'dev', 'lo');
  say('10.244.1.3', '10.244.1.4');
  say('203.0.113.5', '10.244.1.4');
  say('fd00:10:244:1::3', 'fd00:10:244:1::4');
  // 10.244.1.3 to port 82 of 10.244.1.4, with the MAC of the pod that has that address.
  const datagram = '4500001c00010000401162e20af401030af401040053005200080000';
  sendFrames(a.netns, [[bridge, `0800${datagram}`]], victim);
  say('10.244.1.2', '10.244.1.4');
  say('fd00:10:244:1::2', 'fd00:10:244:1::4');
  assert.deepEqual(
    forged.map((count) => count()),
    [0, 0, 0],
  );
  assert.equal(own(), 2);
  const rules = inNetns(node.nodeName, 'nft', 'list', 'ruleset');
  assert.match(rules, /set source_ports \{\s*type ether_addr \. ipv4_addr/);
  assert.match(rules, /iifname "portolan0" ether saddr \. ip saddr != @source_ports goto source_other/);
  const counted = [...rules.matchAll(/counter packets (\d+) bytes \d+ drop comment "pods: a source/g)];
  assert.equal(
    counted.reduce((sum, [, packets]) => sum + Number(packets), 0),
    3,
  );
});

test('the bridge, its addresses and its ports are back when somebody changes or deletes them', async () => {
  await using node = await CniNode.open({ kind: 'bridge' });
  const tool = node.tool();
  const a = { id: 'a', netns: node.pod() };
  const b = { id: 'b', netns: node.pod() };
  const [, host, eth0] = (await tool.add(a)).interfaces;
  await tool.add(b);
  const link = host!.name;
  const damages: [command: string, ...args: string[]][] = [
    ['bridge', 'link', 'set', 'dev', link, 'isolated', 'off'],
    ['bridge', 'link', 'set', 'dev', link, 'learning', 'on'],
    ['bridge', 'fdb', 'del', eth0!.mac!, 'dev', link, 'master'],
    ['ip', 'link', 'set', link, 'nomaster'],
    ['ip', 'addr', 'del', '10.244.1.1/24', 'dev', BRIDGE],
    ['ip', 'addr', 'del', 'fd00:10:244:1::1/64', 'dev', BRIDGE],
    ['ip', 'link', 'set', BRIDGE, 'down'],
    ['ip', 'link', 'set', BRIDGE, 'address', '02:00:00:00:00:99'],
    ['ip', 'route', 'del', '10.244.1.2'],
    ['ip', 'link', 'del', link],
    ['ip', 'link', 'del', BRIDGE],
  ];
  const missing = async () => {
    const gateways = node
      .ip('addr', 'show', 'type', 'bridge')
      .flatMap((each) => each.addr_info?.map(({ local }) => local) ?? []);
    return [
      ...(await node.network.check({ containerId: 'a', ifname: 'eth0' }, a.netns)),
      ...['10.244.1.1', 'fd00:10:244:1::1'].filter((address) => !gateways.includes(address)),
    ];
  };
  for (const damage of damages) {
    const start = performance.now();
    inNetns(node.nodeName, ...damage);
    for (;;) {
      await sleep(5);
      const left = await missing();
      if (left.length === 0) break;
      assert.ok(performance.now() - start < 2000, `${damage.join(' ')}: ${left.join(', ')}`);
    }
    for (const target of ['10.244.1.3', 'fd00:10:244:1::3', '10.244.1.1'])
      assert.ok(loss(a.netns, target), `${damage.join(' ')}: a -> ${target}`);
  }
  // An address of a network that is not ours goes.
  inNetns(node.nodeName, 'ip', 'addr', 'add', '10.244.9.1/24', 'dev', BRIDGE);
  await sleep(150);
  assert.ok(!JSON.stringify(node.ip('addr', 'show', BRIDGE)).includes('10.244.9.1'));
  assert.deepEqual(node.errors, []);
});

test('pods keep their kind until they go, and the last one takes the bridge with it', async () => {
  await using node = await CniNode.open();
  const bridgeOnce = node.tool({
    plugins: [{ type: 'portolan-cni', podLink: 'bridge', capabilities: { ips: true, dns: true } }],
  });
  const old = { id: 'old', netns: node.pod() };
  const young = { id: 'young', netns: node.pod() };
  await bridgeOnce.add(old);
  await node.stopAgent();
  // The node has other networks meanwhile: the gateway of the old pod is still there.
  await node.startAgent();
  node.store.setPools([parseCidr('10.244.7.0/24'), parseCidr('fd00:10:244:7::/64')]);
  const tool = node.tool();
  const { ips } = await tool.add(young);
  assert.equal(ips[0]!.address, '10.244.7.2/32');
  await bridgeOnce.check(old);
  execFileSync('ip', ['-n', node.nodeName, 'link', 'del', BRIDGE]);
  for (let tries = 0; tries < 100 && !loss(old.netns, '10.244.7.2'); tries++) await sleep(10);
  assert.ok(loss(old.netns, '10.244.7.2') && loss(young.netns, 'fd00:10:244:1::2'));
  await bridgeOnce.del(old);
  for (let tries = 0; tries < 100 && node.ip('link').some((each) => each.ifname === BRIDGE); tries++)
    await sleep(10);
  await tool.del(young);
  assert.deepEqual(node.leftovers(), []);
});
