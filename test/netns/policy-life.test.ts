/** Network policy in time: before the first sync, while pods start, when policies come under open connections, when others edit. */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { createServer, type Server, Socket } from 'node:net';
import test, { after, afterEach, before } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { openNetns } from '../../src/kernel/netns/index.ts';
import { listenInNetns } from '../../src/kernel/socket/listen.ts';
import { checked, ERRNO, NR, sys, sysInNetns } from '../../src/kernel/syscall/index.ts';
import { cleanupPolicies } from '../../src/policy/index.ts';
import { attachmentOf, MemoryTable, PolicyCluster } from '../lib/policy-cluster.ts';
import {
  type Place,
  type PolicyNet,
  type PolicyNode,
  type ProbePacket,
  policyNet,
} from '../lib/policy-net.ts';

let net: PolicyNet;
let node1: PolicyNode;
let node2: PolicyNode;
const open: { close(): unknown }[] = [];
before(() => {
  net = policyNet('ppl', 2, 3);
  [node1, node2] = net.nodes as [PolicyNode, PolicyNode];
});
after(() => net?.close());
afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each.close();
  for (const node of net.nodes) await cleanupPolicies({ netns: node.ns });
  net.forgetConnections();
});

const DENY = { podSelector: {}, policyTypes: ['Ingress' as const] };

async function started(options?: { cutEstablished?: boolean }): Promise<PolicyCluster> {
  const cluster = new PolicyCluster(net, options);
  open.push(cluster);
  await cluster.start();
  return cluster;
}

function reaches(from: Place, to: Place, port = 80): string {
  const probes = ([4, 6] as const).flatMap((family) =>
    (['TCP', 'UDP', 'SCTP'] as const).map((protocol): ProbePacket => ({ from, to, family, protocol, port })),
  );
  const got = net.send(probes);
  if (got.every((each) => each)) return 'all';
  return got.some((each) => each)
    ? `some: ${probes.flatMap(({ family, protocol }, at) => (got[at] ? [`${protocol}${family}`] : []))}`
    : 'none';
}

const nft = (node: PolicyNode, ...args: string[]) =>
  execFileSync('ip', ['netns', 'exec', node.netns, 'nft', ...args], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
/** Both tables, in an order that does not depend on the order of making; a missing one is empty. */
const listing = (node: PolicyNode) =>
  ['ip', 'ip6']
    .flatMap((family) => {
      try {
        return nft(node, '-s', 'list', 'table', family, 'portolan').split('\n').sort();
      } catch {
        return [`no ${family}`];
      }
    })
    .join('\n');

async function until(condition: () => boolean, ms = 2000): Promise<number> {
  const began = performance.now();
  while (!condition()) {
    if (performance.now() - began > ms) throw new Error(`not within ${ms} ms`);
    await sleep(2);
  }
  return performance.now() - began;
}

test('without a policy for its pods a node has no chain or set of ours, before and after', async () => {
  const cluster = await started();
  await cluster.pod('x/a', node1.pods[0]!);
  await cluster.pod('y/b', node2.pods[0]!);
  assert.doesNotMatch(nft(node1, 'list', 'ruleset'), /policy_/);
  cluster.apply('x', 'deny', DENY);
  await cluster.settled();
  assert.match(nft(node1, 'list', 'ruleset'), /np default deny ingress: isolated by x\/deny/);
  assert.doesNotMatch(nft(node2, 'list', 'ruleset'), /policy_/, 'the policy selects nothing of node 2');
  cluster.policies.delete('x/deny');
  await cluster.settled();
  assert.doesNotMatch(nft(node1, 'list', 'ruleset'), /policy_/);
});

test('a node reaches its own isolated pods always, another node only when an ipBlock allows it', async () => {
  const cluster = await started();
  await cluster.pod('x/a', node1.pods[0]!);
  cluster.apply('x', 'deny', { podSelector: {}, policyTypes: ['Ingress', 'Egress'] });
  await cluster.settled();
  assert.equal(reaches(node1, node1.pods[0]!), 'all');
  assert.equal(reaches(node2, node1.pods[0]!), 'none');
  assert.equal(reaches(node1.pods[0]!, node1), 'none', 'egress to its own node is egress');
  cluster.apply('x', 'node2', {
    podSelector: {},
    policyTypes: ['Ingress'],
    ingress: [{ from: [`${node2.ip4}/32`, `${node2.ip6}/128`].map((cidr) => ({ ipBlock: { cidr } })) }],
  });
  await cluster.settled();
  assert.equal(reaches(node2, node1.pods[0]!), 'all');
  assert.equal(reaches(node2.pods[0]!, node1.pods[0]!), 'none');
});

test('a pod is closed until its labels are known when its namespace has policies, and open at once when not', async () => {
  const cluster = await started();
  await cluster.pod('x/a', node1.pods[0]!);
  cluster.apply('x', 'web', { podSelector: { matchLabels: { app: 'web' } } });
  await cluster.settled();
  const [controller] = cluster.controllers;
  const began = performance.now();
  await controller!.isolate(attachmentOf(node1.pods[1]!, 'x/new', 'pending'));
  const ms = performance.now() - began;
  assert.equal(reaches(node1.pods[0]!, node1.pods[1]!), 'none');
  assert.equal(reaches(node1.pods[1]!, node1.pods[0]!), 'none');
  await controller!.isolate(attachmentOf(node1.pods[2]!, 'y/new', 'pending'));
  assert.equal(reaches(node1.pods[0]!, node1.pods[2]!), 'all');
  const facts = { ...cluster.pods.items.get('x/a')!, name: 'new', uid: 'x/new', addresses: [] };
  cluster.pods.set('x/new', { ...facts, labels: { app: 'db' } });
  await cluster.settled();
  assert.equal(reaches(node1.pods[0]!, node1.pods[1]!), 'all');
  // The same name with another uid is another pod.
  cluster.pods.set('x/new', { ...facts, uid: 'later' });
  await cluster.settled();
  assert.equal(reaches(node1.pods[0]!, node1.pods[1]!), 'none');
  assert.ok(ms < 500, `isolated in ${ms} ms`);
});

test('pods come and go and change labels by elements alone, in milliseconds', async () => {
  const cluster = await started();
  for (const at of [0, 1]) await cluster.pod(`x/p${at}`, node1.pods[at]!, { labels: { app: 'web' } });
  cluster.apply('x', 'web', {
    podSelector: { matchLabels: { app: 'web' } },
    ingress: [{ from: [{ podSelector: { matchLabels: { role: 'client' } } }] }],
  });
  await cluster.settled();
  await cluster.pod('x/client', node2.pods[0]!);
  await cluster.settled();
  const rules = () => nft(node1, '-t', '-a', 'list', 'ruleset').replace(/packets \d+ bytes \d+/g, '');
  const before = rules();
  const times: number[] = [];
  for (let round = 0; round < 10; round++) {
    const began = performance.now();
    cluster.label('x/client', round % 2 === 0 ? { role: 'client' } : {});
    await cluster.settled();
    times.push(performance.now() - began);
    assert.equal(reaches(node2.pods[0]!, node1.pods[0]!), round % 2 === 0 ? 'all' : 'none');
    net.forgetConnections();
  }
  await cluster.pod('x/p2', node1.pods[2]!, { labels: { app: 'web' } });
  assert.equal(reaches(node2.pods[0]!, node1.pods[2]!), 'none');
  assert.equal(rules(), before, 'no rule and no handle has changed');
  const median = times.sort((a, b) => a - b)[5]!;
  // Milliseconds, which test/bench measures; programming all anew or asking by a clock would take longer anywhere.
  assert.ok(median < 250, `a label took ${median} ms`);
});

test('before the first sync nothing that was closed opens, and what starts is closed', async () => {
  const first = await started();
  await first.pod('x/a', node1.pods[0]!);
  first.apply('x', 'deny', DENY);
  await first.settled();
  await first.close();
  open.length = 0;
  const later = new PolicyCluster(net);
  open.push(later);
  const policies = new MemoryTable<never>(false);
  const { PolicyController } = await import('../../src/policy/index.ts');
  const controller = new PolicyController({
    nodeName: 'node1',
    policies,
    pods: later.pods,
    namespaces: later.namespaces,
    netns: node1.ns,
  });
  open.push(controller);
  const starting = controller.start([attachmentOf(node1.pods[0]!, 'x/a')]);
  await controller.isolate(attachmentOf(node1.pods[1]!, 'y/b', 'pending'));
  assert.equal(reaches(node2.pods[0]!, node1.pods[0]!), 'none');
  assert.equal(reaches(node2.pods[0]!, node1.pods[1]!), 'none');
  assert.equal(reaches(node2.pods[0]!, node1.pods[2]!), 'all');
  // The cluster turns out to have no policy.
  policies.sync();
  await starting;
  assert.equal(reaches(node2.pods[0]!, node1.pods[0]!), 'all');
  assert.equal(reaches(node2.pods[0]!, node1.pods[1]!), 'all');
  assert.doesNotMatch(nft(node1, 'list', 'ruleset'), /policy_/);
});

test('an agent that starts again writes nothing when nothing has changed, and only what differs when something has', async () => {
  const first = await started();
  const [a, b, c] = node1.pods as [Place, Place, Place];
  await first.pod('x/a', a, { labels: { app: 'a' } });
  await first.pod('x/b', b);
  const from = { ipBlock: { cidr: `${node2.pods[0]!.ip4}/32` } };
  const some = {
    podSelector: { matchLabels: { app: 'a' } },
    ingress: [{ from: [from], ports: [{ port: 80 }] }],
  };
  first.apply('x', 'some', some);
  first.apply('x', 'deny', DENY);
  await first.settled();
  assert.match(reaches(node2.pods[0]!, a), /^some: TCP4$/);
  const before = nft(node1, '-a', 'list', 'ruleset');
  assert.match(before, /counter packets [1-9]\d* .*comment "np x\/some ingress\[0\]"/);
  await first.close();
  open.length = 0;

  const later = new PolicyCluster(net);
  open.push(later);
  later.inherit(first);
  await later.start();
  assert.equal(nft(node1, '-a', 'list', 'ruleset'), before, 'handles and counters are what they were');
  assert.equal(later.controllers[0]!.engine.transactions, 0);
  later.apply('x', 'some', { ...some, ingress: [] });
  await later.settled();
  assert.equal(reaches(node2.pods[0]!, a), 'none');
  assert.equal(reaches(node2.pods[0]!, c), 'all');
});

test('rules that somebody edits while no agent runs are put right by the next one', async () => {
  const first = await started();
  await first.pod('x/a', node1.pods[0]!);
  first.apply('x', 'deny', DENY);
  await first.settled();
  const wanted = listing(node1);
  await first.close();
  open.length = 0;
  const chain = /chain (policy_in_\w+)/.exec(nft(node1, 'list', 'table', 'ip', 'portolan'))![1]!;
  const handle = /drop comment .* # handle (\d+)/.exec(
    nft(node1, '-a', 'list', 'chain', 'ip', 'portolan', chain),
  )![1]!;
  const dropComment = /comment "(np default deny.*?)"/.exec(
    nft(node1, 'list', 'chain', 'ip', 'portolan', chain),
  )![1]!;
  nft(
    node1,
    'replace',
    'rule',
    'ip',
    'portolan',
    chain,
    'handle',
    handle,
    'counter',
    'accept',
    'comment',
    `"${dropComment}"`,
  );
  nft(node1, 'add', 'chain', 'ip6', 'portolan', 'policy_forward', '{ policy drop; }');
  assert.notEqual(listing(node1), wanted);
  const later = new PolicyCluster(net);
  open.push(later);
  later.inherit(first);
  await later.start();
  assert.equal(listing(node1), wanted);
});

test('whatever others delete or edit of ours is back soon', async () => {
  const cluster = await started();
  await cluster.pod('x/a', node1.pods[0]!);
  cluster.apply('x', 'deny', DENY);
  await cluster.settled();
  // Order of chains and sets is that of their making.
  const wanted = listing(node1);
  const edits: [string, string[]][] = [
    ['the table is deleted', ['delete', 'table', 'ip', 'portolan']],
    ['a rule is put before ours', ['insert', 'rule', 'ip', 'portolan', 'policy_forward', 'accept']],
    ['a chain is emptied', ['flush', 'chain', 'ip', 'portolan', 'policy_forward']],
    [
      'an element is deleted',
      ['delete', 'element', 'ip', 'portolan', 'policy_ingress', `{ ${node1.pods[0]!.ip4} }`],
    ],
    ['everything is flushed', ['flush', 'ruleset']],
    ['a chain of our prefix is added', ['add', 'chain', 'ip', 'portolan', 'policy_mine']],
  ];
  for (const [what, args] of edits) {
    const began = performance.now();
    nft(node1, ...args);
    const nftMs = performance.now() - began;
    const ms = await until(() => listing(node1) === wanted).catch((error: Error) => {
      throw new Error(`${what}: ${error.message}\n${listing(node1)}`);
    });
    // 200 ms where there is nothing else to do and nft starts within 10 ms; five times that under load, as elsewhere.
    const limit = Math.max(1000, 60 * nftMs);
    assert.ok(ms < limit, `${what}: back after ${Math.round(ms)} ms, limit ${Math.round(limit)} ms`);
    assert.equal(reaches(node2.pods[0]!, node1.pods[0]!), 'none', what);
  }
});

test('open connections that a new policy forbids are cut, replies of others go on; a switch leaves them', async () => {
  // As on a node with masquerade: connections are tracked before there is a policy.
  for (const node of net.nodes)
    nft(
      node,
      'add table inet t; add chain inet t c { type filter hook forward priority 9; }; add rule inet t c ct state new',
    );
  for (const cutEstablished of [true, false]) {
    const cluster = await started({ cutEstablished });
    await cluster.pod('x/server', node1.pods[0]!);
    await cluster.pod('x/client', node1.pods[1]!);
    await cluster.pod('y/far', node2.pods[0]!);
    for (const six of [false, true]) {
      const into = await conversation(node2.pods[0]!, node1.pods[0]!, six);
      const out = await conversation(node1.pods[1]!, node2.pods[0]!, six);
      assert.deepEqual([await into.talks(), await out.talks()], [true, true]);
      cluster.apply('x', 'deny', DENY);
      await cluster.settled();
      await sleep(100);
      assert.equal(await into.talks(), !cutEstablished, 'into the isolated pod');
      assert.equal(await out.talks(), true, 'from the pod that is isolated for ingress');
      cluster.policies.delete('x/deny');
      await cluster.settled();
    }
    await cluster.close();
    for (const each of open.splice(0).reverse()) await each.close();
  }
});

/** Sends all the time, asked or not, as an API server does to a watcher. */
const PUSHES = `
import socket, threading, time
def push(there):
    while True:
        there.sendall(b"tick")
        time.sleep(0.05)
server = socket.create_server(("", 9100))
print("ready", flush=True)
while True:
    threading.Thread(target=push, args=(server.accept()[0],), daemon=True).start()
`;
/** Says once that it hears something, and once that it hears nothing for a second. */
const LISTENS = `
import socket, sys
there = socket.create_connection((sys.argv[1], 9100), 5)
there.settimeout(1)
print("hears", there.recv(4), flush=True)
try:
    while there.recv(4096): pass
except TimeoutError:
    print("nothing more", flush=True)
`;

test('a connection to its node that a pod may not have any more is cut, though the node goes on sending', async (t) => {
  const run = (netns: string, code: string, ...args: string[]) => {
    const child = spawn('ip', ['netns', 'exec', netns, 'python3', '-u', '-c', code, ...args]);
    t.after(() => child.kill());
    let told = '';
    child.stdout.on('data', (data) => {
      told += data;
    });
    return () => told;
  };
  const cluster = await started();
  await cluster.pod('x/a', node1.pods[0]!);
  const server = run(node1.netns, PUSHES);
  await until(() => server() !== '', 5000);
  const client = run(node1.pods[0]!.netns, LISTENS, String(node1.ip4));
  await until(() => client() !== '', 5000);
  cluster.apply('x', 'deny', { podSelector: {}, policyTypes: ['Egress'] });
  await cluster.settled();
  await until(() => client().includes('nothing more'), 10_000);
});

/** A TCP connection with an echo at its end. */
async function conversation(from: Place, to: Place, six: boolean) {
  const space = openNetns(to.netns);
  const port = 7000 + Math.floor(Math.random() * 1000);
  const address = String(six ? to.ip6 : to.ip4);
  const server: Server = createServer((socket) => socket.on('error', () => {}).pipe(socket));
  const sockets: Socket[] = [];
  server.on('connection', (socket) => sockets.push(socket));
  server.listen({ fd: listenInNetns(space, address, port) });
  space.close();
  const client = await dial(from, address, port, six);
  open.push({
    close: () => {
      client.destroy();
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  });
  return {
    /** Whether a byte comes back, within two retransmissions. */
    talks: () =>
      new Promise<boolean>((resolve) => {
        const timer = setTimeout(() => done(false), 700);
        const done = (answer: boolean) => {
          clearTimeout(timer);
          client.removeAllListeners('data');
          resolve(answer);
        };
        client.once('data', () => done(true));
        client.write('x');
      }),
  };
}

async function dial(from: Place, address: string, port: number, six: boolean): Promise<Socket> {
  const space = openNetns(from.netns);
  const family = six ? 10 : 2;
  const SOCK_STREAM_NONBLOCK_CLOEXEC = 1 | 0o4000 | 0o2000000;
  const fd = checked(
    'open',
    address,
    sysInNetns(space.fd, NR.socket, family, SOCK_STREAM_NONBLOCK_CLOEXEC, 0),
  );
  space.close();
  const name = new Uint8Array(six ? 28 : 16);
  const view = new DataView(name.buffer);
  view.setUint16(0, family, true);
  view.setUint16(2, port);
  const { parseIp } = await import('../../src/addr/index.ts');
  name.set(parseIp(address).toBytes(), six ? 8 : 4);
  const result = sys(NR.connect, fd, name, name.length);
  if (result !== 0 && result !== -ERRNO.EINPROGRESS) throw new Error(`connect: ${result}`);
  await sleep(50);
  return new Socket({ fd, readable: true, writable: true }).on('error', () => {});
}
