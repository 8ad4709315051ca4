import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import test, { after, before } from 'node:test';
import { Cidr, parseIp } from '../../src/addr/index.ts';
import { createNetns, deleteNetns, type Netns } from '../../src/kernel/netns/index.ts';
import { deleteRoute, Rtnl, type RtnlEvent, RtnlMonitor, replaceRoute } from '../../src/kernel/rtnl/index.ts';
import { until } from '../lib/overlay-net.ts';

const name = `pt-mon${process.pid}`;
let ns: Netns;
const ip = (command: string) => execFileSync('ip', ['-n', name, ...command.split(' ')]);

before(() => {
  ns = createNetns(name);
});
after(() => {
  ns.close();
  deleteNetns(name);
});

function told({ topic, deleted, ...event }: RtnlEvent): string {
  const sign = deleted ? '-' : '+';
  if ('link' in event) return `${sign}link ${event.link.name}`;
  if ('addr' in event) return `${sign}addr ${event.addr.address}/${event.addr.prefixLength}`;
  if ('route' in event) return `${sign}route ${event.route.destination} table ${event.route.table}`;
  if ('neigh' in event) return `${sign}neigh ${event.neigh.destination}`;
  if ('fdb' in event) return `${sign}fdb ${event.fdb.mac}`;
  if ('rule' in event) return `${sign}rule ${event.rule.family} ${event.rule.priority}`;
  return topic;
}

test('a monitor tells changes of every table in both families, whoever makes them', async () => {
  const seen: string[] = [];
  using _monitor = new RtnlMonitor({
    netns: ns,
    onEvent: (event) => seen.push(told(event)),
    onResync: () => seen.push('resync'),
  });
  ip('link add v0 type veth peer name v1');
  ip('link set v0 up');
  ip('link set v1 up');
  ip('addr add 192.0.2.1/24 dev v0');
  ip('addr add 2001:db8::1/64 dev v0 nodad');
  ip('route add 10.0.0.0/8 via 192.0.2.2');
  ip('-6 route add fd00::/8 via 2001:db8::2');
  ip('neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev v0');
  ip('rule add priority 77 lookup 77');
  ip('-6 rule add priority 78 lookup 78');
  ip('link add vx type vxlan id 7 dstport 4789 local 192.0.2.1');
  execFileSync('bridge', [
    '-n',
    name,
    'fdb',
    'add',
    '02:00:00:00:00:09',
    'dev',
    'vx',
    'dst',
    '192.0.2.9',
    'self',
    'permanent',
  ]);
  ip('route del 10.0.0.0/8');
  ip('rule del priority 77');
  ip('link del v0');
  const want = [
    '+link v0',
    '+addr 192.0.2.1/24',
    '+addr 2001:db8::1/64',
    '+route 10.0.0.0/8 table 254',
    '+route fd00::/8 table 254',
    '+neigh 192.0.2.2',
    '+rule 4 77',
    '+rule 6 78',
    '+fdb 02:00:00:00:00:09',
    '-route 10.0.0.0/8 table 254',
    '-rule 4 77',
    '-link v0',
  ];
  await until(
    () => want.every((line) => seen.includes(line)),
    1500,
    `${want.filter((line) => !seen.includes(line))}`,
  );
  assert.ok(!seen.includes('resync'));
});

test('when the kernel drops notifications the monitor says so, subscribes anew and goes on', async () => {
  ip('link set lo up');
  const seen: string[] = [];
  const resyncs: string[] = [];
  using _monitor = new RtnlMonitor({
    netns: ns,
    topics: ['route', 'addr'],
    onEvent: (event) => seen.push(told(event)),
    onResync: (reason) => resyncs.push(reason),
  });
  using rtnl = Rtnl.open({ netns: ns });
  // More than the receive buffer holds, while this thread is too busy to read.
  const routes = Array.from({ length: 40_000 }, (_, at) => ({
    destination: Cidr.host(parseIp('10.0.0.0').plus(at)),
    oif: 1,
    table: 99,
  }));
  rtnl.mustApply(...routes.map(replaceRoute));
  await until(() => resyncs.length > 0, 2000, 'a resync');
  assert.deepEqual(resyncs, ['the kernel dropped notifications']);
  seen.length = 0;
  ip('addr add 203.0.113.1/32 dev lo');
  await until(() => seen.includes('+addr 203.0.113.1/32'), 1000, 'the address');
  rtnl.mustApply(...routes.map(deleteRoute));
});

test('a dump of a table that changes meanwhile is whole all the same', async () => {
  using rtnl = Rtnl.open({ netns: ns });
  const routes = Array.from({ length: 3_000 }, (_, at) => ({
    destination: Cidr.host(parseIp('10.9.0.0').plus(at)),
    oif: 1,
    table: 98,
  }));
  rtnl.mustApply(...routes.map(replaceRoute));
  for (let round = 0; round < 5; round++) {
    rtnl.apply([replaceRoute({ destination: Cidr.host(parseIp('10.99.0.1')), oif: 1, table: 97 })]);
    assert.equal(rtnl.routes({ table: 98 }).length, 3_000);
  }
  rtnl.mustApply(...routes.map(deleteRoute));
});

test('changes over sockets that are ignored are not told, those of others and of the kernel are', async () => {
  const seen: string[] = [];
  using mine = Rtnl.open({ netns: ns });
  using second = Rtnl.open({ netns: ns });
  using other = Rtnl.open({ netns: ns });
  using _monitor = new RtnlMonitor({
    netns: ns,
    topics: ['link', 'route'],
    ignore: [mine.port, second.port],
    onEvent: (event) => seen.push(told(event)),
    onResync: () => seen.push('resync'),
  });
  const route = (octet: number) => ({
    destination: Cidr.host(parseIp(`10.8.0.${octet}`)),
    oif: 1,
    table: 96,
  });
  mine.mustApply(replaceRoute(route(1)), replaceRoute(route(2)));
  second.mustApply(deleteRoute(route(1)));
  other.mustApply(deleteRoute(route(2)), replaceRoute(route(3)));
  mine.mustApply(deleteRoute(route(3)));
  mine.createLink({ kind: 'veth', name: 'q0', up: true, peer: { name: 'q1', up: true } });
  ip('link set q1 mtu 1400');
  await until(() => seen.includes('+link q1'), 1500, 'the change of another process');
  const routes = seen.filter((line) => line.includes('10.8.0.'));
  assert.deepEqual(routes, ['-route 10.8.0.2/32 table 96', '+route 10.8.0.3/32 table 96']);
  assert.ok(!seen.includes('resync'));
  ip('link del q0');
});
