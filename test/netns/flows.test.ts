/** Connection tracking entries and sockets of a namespace; conntrack(8) and ss(8) are the oracles. */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import test, { after, before } from 'node:test';
import { parseIp } from '../../src/addr/index.ts';
import { Conntrack } from '../../src/kernel/conntrack/index.ts';
import { createNetns, deleteNetns, type Netns, openNetns } from '../../src/kernel/netns/index.ts';
import { SocketDiag } from '../../src/kernel/sockdiag/index.ts';
import { eventually } from '../lib/until.ts';

const name = `pt-fl-${process.pid}`;
const peer = `${name}-b`;
let netns: Netns;
const children: ChildProcess[] = [];

function inside(where: string, command: string, ...args: string[]): string {
  return execFileSync('ip', ['netns', 'exec', where, command, ...args], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
}

function start(where: string, command: string, ...args: string[]): ChildProcess {
  const child = spawn('ip', ['netns', 'exec', where, command, ...args], { stdio: ['pipe', 'pipe', 'pipe'] });
  children.push(child);
  return child;
}

before(() => {
  netns = createNetns(name);
  createNetns(peer).close();
  execFileSync('ip', [
    '-n',
    name,
    'link',
    'add',
    'eth0',
    'type',
    'veth',
    'peer',
    'name',
    'eth0',
    'netns',
    peer,
  ]);
  for (const [where, last] of [
    [name, 1],
    [peer, 2],
  ] as const) {
    execFileSync('ip', ['-n', where, 'addr', 'add', `10.98.5.${last}/24`, 'dev', 'eth0']);
    execFileSync('ip', ['-n', where, 'addr', 'add', `fd98:5::${last}/64`, 'dev', 'eth0', 'nodad']);
    for (const device of ['lo', 'eth0']) execFileSync('ip', ['-n', where, 'link', 'set', device, 'up']);
  }
  execFileSync('ip', ['-n', name, 'route', 'add', '10.96.0.0/16', 'via', '10.98.5.2']);
  // Tracking begins with a rule that needs it; the NAT makes original and reply differ.
  execFileSync('ip', ['netns', 'exec', name, 'nft', '-f', '-'], {
    input: `table inet t {
 chain o {
  type nat hook output priority -100
  ct state new counter
  ip daddr 10.96.0.10 udp dport 53 dnat ip to 10.98.5.2:5353
 }
}
`,
  });
});

after(() => {
  for (const child of children) child.kill();
  netns?.close();
  deleteNetns(name);
  deleteNetns(peer);
});

/** Entries as conntrack(8) lists them, without timeouts. */
function listed(...args: string[]): string[] {
  return inside(name, 'conntrack', '-L', ...args)
    .split('\n')
    .filter(Boolean)
    .sort();
}

test('entries are listed, counted, filtered and deleted one by one', async () => {
  for (let port = 1; port <= 5; port++)
    start(name, 'socat', '-u', `SYSTEM:echo hello`, `UDP4-SENDTO:10.96.0.10:53,sourceport=${41000 + port}`);
  start(name, 'socat', '-u', `SYSTEM:echo hello`, `UDP4-SENDTO:10.98.5.2:9,sourceport=42000`);
  start(name, 'socat', '-u', `SYSTEM:echo hello`, `UDP6-SENDTO:[fd98:5::2]:9,sourceport=42006`);
  inside(name, 'ping', '-c', '1', '-W', '1', '10.98.5.2');
  await eventually(
    'all entries',
    () => listed('-f', 'ipv4', '-p', 'udp').length === 6 && listed('-f', 'ipv6').length >= 1,
  );

  using conntrack = Conntrack.open({ netns });
  const toService = conntrack.list({ protocol: 17, originalDestination: parseIp('10.96.0.10') });
  assert.deepEqual(
    toService
      .map(({ original, reply }) => `${original.sourcePort} ${reply.source}:${reply.sourcePort}`)
      .sort(),
    [1, 2, 3, 4, 5].map((port) => `${41000 + port} 10.98.5.2:5353`),
  );
  assert.equal(conntrack.list({ family: 6, protocol: 17 }).length, 1);
  assert.equal(conntrack.count(), conntrack.list().length);
  assert.ok(conntrack.list({ family: 4 }).length >= listed('-f', 'ipv4').length);

  const [first] = toService;
  assert.equal(conntrack.delete([first!]), 1);
  assert.equal(conntrack.delete([first!]), 0);
  assert.equal(listed('-f', 'ipv4', '-p', 'udp', '--orig-dst', '10.96.0.10').length, 4);
  assert.equal(
    conntrack.deleteMatching({ protocol: 17, replySource: parseIp('10.98.5.2'), replySourcePort: 5353 }),
    4,
  );
  assert.equal(listed('-f', 'ipv4', '-p', 'udp', '--orig-dst', '10.96.0.10').length, 0);
  // The other flows, ICMP among them, were not touched; ICMP can be deleted as well.
  assert.equal(listed('-f', 'ipv4', '-p', 'udp').length, 1);
  assert.equal(conntrack.deleteMatching({ protocol: 1, originalDestination: parseIp('10.98.5.2') }), 1);
  assert.equal(listed('-f', 'ipv4', '-p', 'icmp').length, 0);
});

test('connected UDP sockets of both families are destroyed by their remote, and their owner is told', async () => {
  const stale = start(name, 'socat', '-', 'UDP4-CONNECT:10.98.5.2:7001');
  const mapped = start(name, 'socat', '-', 'UDP6-CONNECT:[::ffff:10.98.5.2]:7001');
  const other = start(name, 'socat', '-', 'UDP4-CONNECT:10.98.5.2:7002');
  const six = start(name, 'socat', '-', 'UDP6-CONNECT:[fd98:5::2]:7001');
  const shown = () =>
    inside(name, 'ss', '-Huna')
      .split('\n')
      .filter((line) => /:700[12]/.test(line)).length;
  await eventually('four sockets', () => shown() === 4);

  using diag = SocketDiag.open({ netns });
  assert.equal(diag.list({ protocol: 'udp', remote: parseIp('10.98.5.2') }).length, 3);
  using here = SocketDiag.open();
  assert.equal(here.destroyConnected('udp', parseIp('10.98.5.2'), 7001), 0);
  assert.equal(diag.destroyConnected('udp', parseIp('10.98.5.2'), 7001), 2);
  await eventually('two sockets left', () => shown() === 2);
  // A destroyed socket wakes its owner, which ends with an error.
  await eventually('both owners ended', () => stale.exitCode !== null && mapped.exitCode !== null);
  assert.equal(other.exitCode, null);
  assert.equal(diag.destroyConnected('udp', parseIp('fd98:5::2'), 7001), 1);
  await eventually('the IPv6 owner ended', () => six.exitCode !== null);
  other.kill();
});

test('established TCP connections are listed and destroyed, listeners stay', async () => {
  start(peer, 'socat', 'TCP-LISTEN:7100,fork,reuseaddr', 'EXEC:cat');
  await eventually('a listener', () => inside(peer, 'ss', '-Hltn').includes(':7100'));
  const client = start(name, 'socat', '-', 'TCP4:10.98.5.2:7100');
  using diag = SocketDiag.open({ netns });
  const connected = () =>
    diag.list({ protocol: 'tcp', states: ['established'], remote: parseIp('10.98.5.2'), remotePort: 7100 });
  await eventually('a connection', () => connected().length === 1);
  const [socket] = connected();
  const [line] = inside(name, 'ss', '-Htn').split('\n');
  assert.match(line!, new RegExp(`10\\.98\\.5\\.1:${socket!.localPort} +10\\.98\\.5\\.2:7100`));
  assert.equal(diag.destroy([socket!]), 1);
  assert.equal(diag.destroy([socket!]), 0);
  await eventually('the client ended', () => client.exitCode !== null);
  using peerNetns = openNetns(peer);
  using there = SocketDiag.open({ netns: peerNetns });
  assert.equal(there.list({ protocol: 'tcp', states: ['listen'] }).length, 1);
});
