import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import test, { after, before } from 'node:test';
import { Cidr, parseCidr, parseIp, parseMac } from '../../src/addr/index.ts';
import { isNetError, kernelCause } from '../../src/errors/index.ts';
import { createNetns, deleteNetns, type Netns } from '../../src/kernel/netns/index.ts';
import {
  addRoute,
  changeBridgePort,
  changeLink,
  deleteAddr,
  deleteFdb,
  deleteLink,
  deleteNeigh,
  deleteRoute,
  deleteRule,
  ensureRule,
  RT_TABLE,
  RTPROT_PORTOLAN,
  Rtnl,
  replaceAddr,
  replaceFdb,
  replaceNeigh,
  replaceRoute,
} from '../../src/kernel/rtnl/index.ts';
import { ensureSysctl, readSysctl, writeSysctl } from '../../src/kernel/sysctl/index.ts';

const nameA = `pt-rtnl-a${process.pid}`;
const nameB = `pt-rtnl-b${process.pid}`;
let a: Netns;
let b: Netns;
let rtnl: Rtnl;

type Json = Record<string, unknown>;
const ip = (...args: string[]) =>
  JSON.parse(execFileSync('ip', ['-n', nameA, '-d', '-j', ...args], { encoding: 'utf8' }) || '[]') as Json[];
const run = (command: string, ...args: string[]) => execFileSync(command, args, { encoding: 'utf8' });

before(() => {
  a = createNetns(nameA);
  b = createNetns(nameB);
  rtnl = Rtnl.open({ netns: a });
  rtnl.mustApply(changeLink(1, { up: true }));
});
after(() => {
  rtnl.close();
  a.close();
  b.close();
  deleteNetns(nameA);
  deleteNetns(nameB);
});

test('a veth is made with its peer, named and addressed, inside another namespace in one message', () => {
  const link = rtnl.createLink({
    name: 'po1',
    kind: 'veth',
    mtu: 1450,
    up: true,
    alias: 'default/web',
    mac: parseMac('02:00:00:00:00:01'),
    peer: { name: 'eth0', netns: b.fd, mtu: 1450, mac: parseMac('02:00:00:00:00:02') },
  });
  const [seen] = ip('link', 'show', 'po1');
  assert.equal(seen!['ifindex'], link.ifindex);
  assert.equal(seen!['mtu'], 1450);
  assert.equal(seen!['address'], '02:00:00:00:00:01');
  assert.equal(seen!['ifalias'], 'default/web');
  assert.ok((seen!['flags'] as string[]).includes('UP'));
  const inner = JSON.parse(run('ip', '-n', nameB, '-j', 'link', 'show', 'eth0')) as Json[];
  assert.equal(inner[0]!['address'], '02:00:00:00:00:02');
  assert.equal(inner[0]!['mtu'], 1450);
  assert.equal(link.kind, 'veth');
  assert.equal(link.lowerIfindex, inner[0]!['ifindex']);
  assert.notEqual(link.lowerNetnsId, undefined);
  assert.deepEqual(
    rtnl.link('po1'),
    rtnl.links().find((one) => one.name === 'po1'),
  );
});

test('creating a link whose name is taken says what holds it; deleting an absent one succeeds', () => {
  assert.throws(
    () => rtnl.createLink({ name: 'po1', kind: 'bridge' }),
    (error) =>
      isNetError(error, 'RTNL_LINK_EXISTS') &&
      /"po1".*kind "veth"/.test(error.message) &&
      kernelCause(error)?.name === 'EEXIST',
  );
  assert.throws(
    () => rtnl.createLink({ name: 'a-name-far-too-long', kind: 'bridge' }),
    (error) => isNetError(error, 'RTNL_BAD_LINK_NAME'),
  );
  rtnl.mustApply(deleteLink('pt-absent'), deleteLink(9999));
  assert.equal(rtnl.link('pt-absent'), undefined);
  assert.equal(rtnl.link(9999), undefined);
  assert.throws(
    () => rtnl.mustApply(changeLink(9999, { up: true })),
    (error) => isNetError(error, 'RTNL_NO_SUCH_LINK'),
  );
});

test('a bridge takes ports, sets hairpin on them, and lets them go', () => {
  const bridge = rtnl.createLink({
    name: 'br0',
    kind: 'bridge',
    up: true,
    bridge: { stpState: 0, forwardDelayCs: 200 },
  });
  const port = rtnl.link('po1')!;
  rtnl.mustApply(
    changeLink(port.ifindex, { master: bridge.ifindex }),
    changeBridgePort(port.ifindex, { hairpin: true }),
  );
  assert.equal(ip('link', 'show', 'po1')[0]!['master'], 'br0');
  const data = (ip('link', 'show', 'po1')[0]!['linkinfo'] as Json)['info_slave_data'] as Json;
  assert.equal(data['hairpin'], true);
  assert.equal(rtnl.link('po1')!.bridgePort?.hairpin, true);
  assert.equal(rtnl.link('br0')!.bridge?.forwardDelayCs, 200);
  rtnl.mustApply(changeLink(port.ifindex, { master: 0 }), deleteLink('br0'));
  assert.equal(ip('link', 'show', 'po1')[0]!['master'], undefined);
});

test('a vxlan link has every attribute that flannel sets, in both families', () => {
  const lower = rtnl.createLink({
    name: 'under',
    kind: 'veth',
    up: true,
    peer: { name: 'far', netns: b.fd, up: true },
  });
  rtnl.mustApply(
    replaceAddr({ ifindex: lower.ifindex, address: parseIp('192.0.2.1'), prefixLength: 24 }),
    replaceAddr({ ifindex: lower.ifindex, address: parseIp('2001:db8::1'), prefixLength: 64 }),
  );
  rtnl.createLink({
    name: 'flannel.1',
    kind: 'vxlan',
    mac: parseMac('02:11:22:33:44:55'),
    mtu: 1450,
    up: true,
    addrGenMode: 'none',
    vxlan: { vni: 1, local: parseIp('192.0.2.1'), lowerIfindex: lower.ifindex },
  });
  rtnl.createLink({
    name: 'flannel-v6.1',
    kind: 'vxlan',
    vxlan: { vni: 1, local: parseIp('2001:db8::1'), lowerIfindex: lower.ifindex, port: 8473 },
  });
  const v4 = (ip('link', 'show', 'flannel.1')[0]!['linkinfo'] as Json)['info_data'] as Json;
  assert.equal(v4['id'], 1);
  assert.equal(v4['local'], '192.0.2.1');
  assert.equal(v4['link'], 'under');
  assert.equal(v4['port'], 8472);
  assert.equal(v4['learning'], false);
  assert.equal(v4['udp_csum'], true);
  assert.equal(v4['ttl'] ?? 0, 0);
  assert.equal(ip('link', 'show', 'flannel.1')[0]!['inet6_addr_gen_mode'], 'none');
  const v6 = (ip('link', 'show', 'flannel-v6.1')[0]!['linkinfo'] as Json)['info_data'] as Json;
  assert.equal(v6['local6'], '2001:db8::1');
  assert.equal(v6['port'], 8473);
  const read = rtnl.link('flannel.1')!;
  assert.equal(read.kind, 'vxlan');
  assert.equal(read.addrGenMode, 'none');
  assert.equal(String(read.vxlan?.local4), '192.0.2.1');
  assert.equal(read.vxlan?.learning, false);
  assert.equal(read.vxlan?.lowerIfindex, lower.ifindex);
});

test('addresses are set, listed as ip(8) lists them, and deleted twice without error', () => {
  const { ifindex } = rtnl.link('flannel.1')!;
  const spec = { ifindex, address: parseIp('10.244.1.0'), prefixLength: 32 };
  rtnl.mustApply(replaceAddr(spec), replaceAddr(spec));
  const info = ip('addr', 'show', 'dev', 'flannel.1')[0]!['addr_info'] as Json[];
  assert.deepEqual(
    info.map((one) => `${one['local']}/${one['prefixlen']} ${one['scope']}`),
    ['10.244.1.0/32 global'],
  );
  assert.deepEqual(
    rtnl.addrs({ ifindex }).map((addr) => `${addr.address}/${addr.prefixLength} ${addr.permanent}`),
    ['10.244.1.0/32 true'],
  );
  const v6 = { ifindex, address: parseIp('fd00::1'), prefixLength: 128 };
  rtnl.mustApply(replaceAddr(v6));
  assert.equal(rtnl.addrs({ ifindex, family: 6 })[0]?.tentative, false);
  rtnl.mustApply(deleteAddr(v6), deleteAddr(v6));
  assert.equal(rtnl.addrs({ ifindex }).length, 1);
});

test('routes have our protocol number, onlink, table, source, metric and MTU, and read back as written', () => {
  const { ifindex } = rtnl.link('flannel.1')!;
  const under = rtnl.link('under')!.ifindex;
  rtnl.mustApply(
    addRoute({
      destination: parseCidr('10.244.2.0/24'),
      gateway: parseIp('10.244.2.0'),
      oif: ifindex,
      onlink: true,
    }),
    replaceRoute({
      destination: parseCidr('10.9.0.0/16'),
      gateway: parseIp('192.0.2.7'),
      oif: under,
      source: parseIp('192.0.2.1'),
      metric: 77,
      mtu: 1400,
      table: 1234,
    }),
    replaceRoute({ destination: parseCidr('10.8.0.0/16'), type: 'blackhole' }),
    replaceRoute({ destination: parseCidr('fd00:8::/64'), type: 'unreachable', oif: 1 }),
    replaceRoute({ destination: parseCidr('fd00:9::/64'), gateway: parseIp('2001:db8::9'), oif: under }),
    replaceRoute({
      destination: parseCidr('10.7.0.0/16'),
      nexthops: [
        { ifindex: under, gateway: parseIp('192.0.2.8') },
        { ifindex: under, gateway: parseIp('192.0.2.9') },
      ],
    }),
    replaceRoute({ destination: parseCidr('10.6.0.0/16'), gateway: parseIp('2001:db8::6'), oif: under }),
  );
  const [overlay] = ip('route', 'show', '10.244.2.0/24');
  assert.equal(overlay!['protocol'], '250');
  assert.deepEqual(overlay!['flags'], ['onlink']);
  const [tabled] = ip('route', 'show', 'table', '1234');
  assert.equal(tabled!['metric'], 77);
  assert.equal(tabled!['prefsrc'], '192.0.2.1');
  assert.match(JSON.stringify(tabled!['metrics']), /1400/);
  assert.equal(ip('route', 'show', '10.8.0.0/16')[0]!['type'], 'blackhole');
  assert.equal(ip('-6', 'route', 'show', 'fd00:8::/64')[0]!['type'], 'unreachable');
  assert.equal((ip('route', 'show', '10.7.0.0/16')[0]!['nexthops'] as Json[]).length, 2);
  assert.equal((ip('route', 'show', '10.6.0.0/16')[0]!['via'] as Json)['host'], '2001:db8::6');

  const own = rtnl.routes({ protocol: RTPROT_PORTOLAN });
  assert.deepEqual(
    own.map((route) => `${route.type} ${route.destination}`).sort(),
    [
      'blackhole 10.8.0.0/16',
      'unicast 10.244.2.0/24',
      'unicast 10.6.0.0/16',
      'unicast 10.7.0.0/16',
      'unicast 10.9.0.0/16',
      'unicast fd00:9::/64',
      'unreachable fd00:8::/64',
    ].sort(),
  );
  assert.equal(own.find((route) => String(route.destination) === '10.7.0.0/16')!.nexthops?.length, 2);
  assert.equal(rtnl.routes({ table: 1234 })[0]!.mtu, 1400);
  assert.deepEqual(rtnl.routes({ table: 4321 }), []);
  assert.equal(String(rtnl.lookup(parseIp('10.244.2.9'))!.gateway), '10.244.2.0');
  assert.equal(rtnl.lookup(parseIp('10.8.0.1')), undefined);

  rtnl.mustApply(...own.map((route) => deleteRoute(route)), ...own.map((route) => deleteRoute(route)));
  assert.deepEqual(rtnl.routes({ protocol: RTPROT_PORTOLAN }), []);
});

test('a route that cannot be made says why, and those beside it in the batch are made', () => {
  const under = rtnl.link('under')!.ifindex;
  const outcomes = rtnl.apply([
    addRoute({ destination: parseCidr('10.1.0.0/16'), gateway: parseIp('192.0.2.2'), oif: under }),
    addRoute({ destination: parseCidr('10.2.0.0/16'), gateway: parseIp('203.0.113.1'), oif: under }),
    addRoute({ destination: parseCidr('10.1.0.0/16'), gateway: parseIp('192.0.2.3'), oif: under }),
    addRoute({ destination: parseCidr('10.3.0.0/16'), gateway: parseIp('192.0.2.2'), oif: under }),
  ]);
  assert.deepEqual(
    outcomes.map((outcome) => outcome.error?.code),
    [undefined, 'RTNL_GATEWAY_UNREACHABLE', 'RTNL_EXISTS', undefined],
  );
  assert.match(outcomes[1]!.error!.message, /ip route add 10\.2\.0\.0\/16 via 203\.0\.113\.1 dev under/);
  assert.equal(kernelCause(outcomes[1]!.error)?.message, 'Nexthop has invalid gateway');
  assert.equal(ip('route', 'show', 'proto', '250').length, 2);
});

test('ten thousand routes are made, listed and deleted in batches', () => {
  const under = rtnl.link('under')!.ifindex;
  const routes = Array.from({ length: 10_000 }, (_, at) => ({
    destination: Cidr.host(parseIp('10.128.0.0').plus(at)),
    oif: under,
    table: 77,
  }));
  rtnl.mustApply(...routes.map(replaceRoute));
  assert.equal(rtnl.routes({ table: 77 }).length, 10_000);
  assert.equal(run('ip', '-n', nameA, 'route', 'show', 'table', '77').trim().split('\n').length, 10_000);
  rtnl.mustApply(...routes.map(deleteRoute));
  assert.equal(rtnl.routes({ table: 77 }).length, 0);
});

test('neighbours and FDB entries are permanent and replaced in place', () => {
  const { ifindex } = rtnl.link('flannel.1')!;
  const mac = parseMac('02:aa:aa:aa:aa:01');
  const other = parseMac('02:aa:aa:aa:aa:02');
  for (const address of ['10.244.2.0', 'fd00:2::']) {
    rtnl.mustApply(replaceNeigh({ ifindex, destination: parseIp(address), mac }));
    rtnl.mustApply(replaceNeigh({ ifindex, destination: parseIp(address), mac: other }));
  }
  assert.deepEqual(
    ip('neigh', 'show', 'dev', 'flannel.1')
      .map((one) => `${one['dst']} ${one['lladdr']} ${one['state']}`)
      .sort(),
    [`10.244.2.0 ${other} PERMANENT`, `fd00:2:: ${other} PERMANENT`],
  );
  assert.deepEqual(
    rtnl
      .neighs({ ifindex })
      .filter((one) => one.permanent)
      .map((one) => `${one.destination} ${one.mac} ${one.permanent}`)
      .sort(),
    [`10.244.2.0 ${other} true`, `fd00:2:: ${other} true`],
  );
  rtnl.mustApply(replaceFdb({ ifindex, mac, destination: parseIp('192.0.2.2') }));
  rtnl.mustApply(replaceFdb({ ifindex, mac, destination: parseIp('192.0.2.3') }));
  const fdb = JSON.parse(run('bridge', '-n', nameA, '-j', 'fdb', 'show', 'dev', 'flannel.1')) as Json[];
  assert.deepEqual(
    fdb.map((one) => `${one['mac']} ${one['dst']} ${one['state']} ${JSON.stringify(one['flags'])}`),
    [`${mac} 192.0.2.3 permanent ["self"]`],
  );
  assert.deepEqual(
    rtnl.fdb({ ifindex }).map((one) => `${one.mac} ${one.destination} ${one.permanent} ${one.self}`),
    [`${mac} 192.0.2.3 true true`],
  );
  rtnl.mustApply(
    deleteFdb({ ifindex, mac, destination: parseIp('192.0.2.3') }),
    deleteFdb({ ifindex, mac, destination: parseIp('192.0.2.3') }),
    ...rtnl.neighs({ ifindex }).flatMap((one) => [deleteNeigh(one), deleteNeigh(one)]),
  );
  assert.equal(
    rtnl.fdb({ ifindex }).length + rtnl.neighs({ ifindex }).filter((one) => one.permanent).length,
    0,
  );
});

test('rules are added once, read back, and deleted', () => {
  const rule = {
    family: 4 as const,
    priority: 900,
    from: parseCidr('10.244.1.0/24'),
    mark: 0x4000,
    mask: 0x4000,
    table: 1234,
    suppressPrefixLength: 0,
  };
  rtnl.mustApply(
    ensureRule(rule),
    ensureRule(rule),
    ensureRule({ ...rule, family: 6, from: parseCidr('fd00::/64') }),
  );
  const [seen, ...rest] = ip('rule', 'show', 'priority', '900');
  assert.equal(rest.length, 0);
  assert.equal(
    `${seen!['src']}/${seen!['srclen']} ${seen!['fwmark']}/${seen!['fwmask']} ${seen!['table']}`,
    '10.244.1.0/24 0x4000/0x4000 1234',
  );
  const read = rtnl.rules(4).find((one) => one.priority === 900)!;
  assert.equal(read.protocol, RTPROT_PORTOLAN);
  assert.equal(read.suppressPrefixLength, 0);
  assert.equal(String(read.from), '10.244.1.0/24');
  assert.equal(rtnl.rules().filter((one) => one.table === RT_TABLE.MAIN).length, 2);
  rtnl.mustApply(
    ...rtnl
      .rules()
      .filter((one) => one.priority === 900)
      .map(deleteRule),
    deleteRule(rule),
  );
  assert.equal(ip('rule', 'show', 'priority', '900').length, 0);
});

test('sysctl settings are those of the namespace that was asked for', () => {
  const before = readSysctl('net/ipv4/ip_forward');
  writeSysctl('net/ipv4/ip_forward', 1, { netns: a });
  assert.equal(run('ip', 'netns', 'exec', nameA, 'sysctl', '-n', 'net.ipv4.ip_forward').trim(), '1');
  assert.equal(
    run('ip', 'netns', 'exec', nameB, 'sysctl', '-n', 'net.ipv4.ip_forward').trim(),
    readSysctl('net/ipv4/ip_forward', { netns: b }),
  );
  assert.equal(readSysctl('net/ipv4/ip_forward'), before);
  assert.equal(ensureSysctl('net/ipv4/conf/flannel.1/rp_filter', 2, { netns: a }), true);
  assert.equal(ensureSysctl('net/ipv4/conf/flannel.1/rp_filter', 2, { netns: a }), false);
  assert.equal(ensureSysctl('net/ipv4/conf/absent/rp_filter', 2, { netns: a }), false);
  assert.throws(
    () => writeSysctl('net/ipv4/conf/absent/rp_filter', 2, { netns: a }),
    (error) => isNetError(error, 'KERNEL_FEATURE_MISSING'),
  );
});
