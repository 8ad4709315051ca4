import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import test, { after, before } from 'node:test';
import { parseCidr } from '../../src/addr/index.ts';
import { type Lease, OverlayReconciler } from '../../src/overlay/index.ts';
import { capture } from '../lib/capture.ts';
import { inside, pings, type TestNet, type TestNode, testNet, until } from '../lib/overlay-net.ts';

let net: TestNet;
const overlays: OverlayReconciler[] = [];
const leases = new Map<string, Lease>();
/** A host outside the cluster: the namespace of the underlay, with an address of its own. */
const OUTSIDE4 = '10.9.9.9';
const OUTSIDE6 = 'fd00:9::9';

before(async () => {
  net = testNet('ptr', 2);
  net.ip(net.underlay, `addr add ${OUTSIDE4}/32 dev lo`);
  net.ip(net.underlay, `addr add ${OUTSIDE6}/128 dev lo nodad`);
  for (const node of net.nodes) {
    const overlay = new OverlayReconciler({
      config: {
        node: node.name,
        backend: 'vxlan',
        podCidrs: [parseCidr(node.podCidr4), parseCidr(node.podCidr6)],
        clusterCidrs: [parseCidr('10.244.0.0/16'), parseCidr('fd00:10:244::/48')],
        directRouting: false,
      },
      netns: node.ns,
      onLease: (lease) => leases.set(node.name, lease),
    });
    overlays.push(overlay);
    overlay.start();
  }
  await until(() => leases.size === 2);
  for (const overlay of overlays) overlay.setLeases([...leases.values()]);
  await Promise.all(overlays.map((overlay) => overlay.settled()));
});

after(async () => {
  for (const overlay of overlays) await overlay.stop();
  net?.close();
});

const nft = (node: TestNode, ...args: string[]) => inside(node.netns, 'nft', ...args);
/** Both tables; the order of tables is that of their making. */
const rules = (node: TestNode) =>
  ['ip', 'ip6']
    .map((family) => {
      try {
        return nft(node, '-s', 'list', 'table', family, 'portolan');
      } catch {
        return `no ${family}`;
      }
    })
    .join('\n');

/** Sends a datagram and waits for the answer; empty when there is none, or an ICMP error as nobody listens yet. */
function ask(from: string, to: string): string {
  try {
    return execFileSync('ip', ['netns', 'exec', from, 'socat', '-t0.6', '-', to], {
      input: 'x',
      encoding: 'utf8',
      stdio: ['pipe', 'pipe', 'ignore'],
    }).trim();
  } catch {
    return '';
  }
}

/** One datagram to a listener; answers the source address that it saw. */
async function sourceSeen(listenIn: string, at: string, sendFrom: string, bind?: string): Promise<string> {
  const six = at.includes(':');
  const server = spawn(
    'ip',
    [
      'netns',
      'exec',
      listenIn,
      'socat',
      `-T1`,
      `UDP${six ? 6 : 4}-RECVFROM:7777,fork,reuseaddr,bind=${six ? `[${at}]` : at}`,
      'SYSTEM:echo $SOCAT_PEERADDR',
    ],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  try {
    const probe = six ? `[${at}]` : at;
    for (let tries = 0; tries < 20; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 60));
      const seen = ask(
        sendFrom,
        `UDP${six ? 6 : 4}:${probe}:7777${bind ? `,bind=${six ? `[${bind}]` : bind}` : ''}`,
      );
      if (seen) return seen.replace(/[[\]]/g, '').replace(/(^|:)0+(?=[0-9a-f])/g, '$1');
    }
    return '';
  } finally {
    server.kill();
  }
}

test('a pod that talks to the outside does so with the address of its node', async () => {
  const [one] = net.nodes as [TestNode];
  assert.equal(await sourceSeen(net.underlay, OUTSIDE4, one.pod.netns), one.ip4);
  assert.match(await sourceSeen(net.underlay, OUTSIDE6, one.pod.netns), /^fd00:192:/);
});

test("what belongs to no connection does not leave with a pod's address", async () => {
  const [one] = net.nodes as [TestNode];
  const wire = await capture(net.underlay, 'any', `tcp and (dst host ${OUTSIDE4} or dst host ${OUTSIDE6})`);
  // A reset that nobody waits for: connection tracking cannot place it, so NAT leaves it as it is.
  for (const [family, to] of [
    ['AF_INET', OUTSIDE4],
    ['AF_INET6', OUTSIDE6],
  ] as const)
    inside(
      one.pod.netns,
      'python3',
      '-c',
      [
        'import socket, struct',
        `s = socket.socket(socket.${family}, socket.SOCK_RAW, socket.IPPROTO_TCP)`,
        family === 'AF_INET6' ? 's.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, 16)' : '',
        `s.connect(('${to}', 0))`,
        "segment = struct.pack('!HHIIBBHHH', 4444, 7777, 1, 0, 0x50, 0x04, 0, 0, 0)",
        family === 'AF_INET'
          ? `words = struct.unpack('!16H', socket.inet_aton(s.getsockname()[0]) + socket.inet_aton('${to}') + struct.pack('!HH', 6, 20) + segment); total = sum(words); total = (total >> 16) + (total & 0xffff); total += total >> 16; segment = segment[:16] + struct.pack('!H', ~total & 0xffff) + segment[18:]`
          : '',
        's.send(segment)',
      ].join('\n'),
    );
  const dropped = (family: string) =>
    /counter packets (\d+) .*of no connection/.exec(
      nft(one, 'list', 'chain', family, 'portolan', 'overlay_forward'),
    )?.[1];
  await until(() => dropped('ip') === '1' && dropped('ip6') === '1');
  assert.deepEqual(await wire.stop(), []);
});

test('pods see the address of the pod that talks to them, on other nodes too', async () => {
  const [one, two] = net.nodes as [TestNode, TestNode];
  assert.equal(await sourceSeen(two.pod.netns, two.pod.ip4, one.pod.netns), one.pod.ip4);
});

test('what is masqueraded never has a port that could be a nodePort: its answers would go to a Service', async () => {
  const [one] = net.nodes as [TestNode];
  const python = (netns: string, lines: readonly string[]) => [
    'netns',
    'exec',
    netns,
    'python3',
    '-c',
    lines.join('\n'),
  ];
  for (const [family, to] of [
    ['AF_INET', OUTSIDE4],
    ['AF_INET6', OUTSIDE6],
  ] as const) {
    const server = spawn(
      'ip',
      python(net.underlay, [
        'import socket',
        `s = socket.socket(socket.${family}, socket.SOCK_DGRAM)`,
        `s.bind(('${to}', 7777))`,
        "print('bound', flush=True)",
        'while True:',
        '    _, client = s.recvfrom(9)',
        '    s.sendto(str(client[1]).encode(), client)',
      ]),
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    try {
      await once(server.stdout, 'data');
      const seen = execFileSync(
        'ip',
        python(one.pod.netns, [
          'import socket',
          'for _ in range(300):',
          `    s = socket.socket(socket.${family}, socket.SOCK_DGRAM)`,
          '    s.settimeout(5)',
          `    s.sendto(b'x', ('${to}', 7777))`,
          '    print(s.recv(9).decode())',
          '    s.close()',
        ]),
        { encoding: 'utf8' },
      )
        .trim()
        .split('\n')
        .map(Number);
      assert.equal(seen.length, 300);
      assert.ok(new Set(seen).size > 200, 'ports are random');
      assert.deepEqual(
        seen.filter((port) => port < 32_768),
        [],
      );
    } finally {
      server.kill();
      await once(server, 'exit');
    }
  }
});

test('a client outside reaches a pod of this node with its own address', async () => {
  const [one] = net.nodes as [TestNode];
  net.ip(net.underlay, `route replace ${one.podCidr4} via ${one.ip4}`);
  assert.equal(await sourceSeen(one.pod.netns, one.pod.ip4, net.underlay, OUTSIDE4), OUTSIDE4);
});

test('a client outside behind node 1 reaches a pod on node 2: masqueraded to the tunnel address (flannel nftables: answer lost)', async () => {
  const [one, two] = net.nodes as [TestNode, TestNode];
  net.ip(net.underlay, `route replace ${two.podCidr4} via ${one.ip4}`);
  net.ip(net.underlay, `-6 route replace ${two.podCidr6} via ${one.ip6}`);
  assert.equal(await sourceSeen(two.pod.netns, two.pod.ip4, net.underlay, OUTSIDE4), '10.244.1.0');
  assert.ok(pings(net.underlay, two.pod.ip6));
});

test('a packet with the mark of kube-proxy is left to kube-proxy, also when it has other marks', async () => {
  const [one] = net.nodes as [TestNode];
  nft(one, 'add table ip pt_mark');
  nft(one, 'add chain ip pt_mark forward { type filter hook forward priority 0 ; }');
  nft(one, 'add rule ip pt_mark forward ip daddr 10.9.9.9 meta mark set 0x4001');
  try {
    net.ip(net.underlay, `route replace ${one.podCidr4} via ${one.ip4}`);
    assert.equal(await sourceSeen(net.underlay, OUTSIDE4, one.pod.netns), one.pod.ip4);
  } finally {
    nft(one, 'delete table ip pt_mark');
  }
});

const breakages: readonly [string, string[]][] = [
  ['the whole table', ['delete', 'table', 'ip', 'portolan']],
  ['the IPv6 table', ['delete', 'table', 'ip6', 'portolan']],
  ['everything', ['flush', 'ruleset']],
  ['the rules of a chain', ['flush', 'chain', 'ip', 'portolan', 'overlay_postrouting']],
  [
    'an element of the set of peers',
    ['delete', 'element', 'ip', 'portolan', 'overlay_peers', '{ 192.168.0.2 }'],
  ],
  [
    'order: a foreign rule at the head of the own chain',
    ['insert', 'rule', 'ip', 'portolan', 'overlay_postrouting', 'masquerade'],
  ],
];
for (const [what, command] of breakages)
  test(`${what}: restored soon after somebody's "nft ${command.slice(0, 2).join(' ')}"`, async () => {
    const node = net.nodes[0]!;
    const want = rules(node);
    nft(node, ...command);
    const start = performance.now();
    while (performance.now() - start < 1500) {
      await new Promise((resolve) => setTimeout(resolve, 10));
      await overlays[0]!.settled();
      if (rules(node) === want) break;
    }
    const took = performance.now() - start;
    assert.equal(rules(node), want);
    // Five times what is promised, for a machine under load; `npm run bench -- overlay` measures.
    assert.ok(took < 1000, `took ${took} ms, one process of the oracle among it`);
  });

test('changes in other tables start nothing', async () => {
  const node = net.nodes[0]!;
  await overlays[0]!.settled();
  const { changes } = overlays[0]!.status();
  nft(node, 'add', 'table', 'ip', 'pt_other');
  nft(node, 'delete', 'table', 'ip', 'pt_other');
  await overlays[0]!.settled();
  assert.equal(overlays[0]!.status().changes, changes);
});

test('a VXLAN packet from somebody who is no peer is dropped and counted, one with a forged own source too', async () => {
  const [one, two] = net.nodes as [TestNode, TestNode];
  // VXLAN header (VNI 1), Ethernet to the VTEP of node 1, then an ICMP echo request with the source of a pod of node 2.
  const mac = leases.get(one.name)!.endpoints[4]!.vtep!.mac.replaceAll(':', '');
  const build = (source: string) => {
    const ip = Buffer.from('4500001c000100004001000000000000000000000800f7ff00000000', 'hex');
    const put = (at: number, address: string) => {
      for (const [i, part] of address.split('.').entries()) ip.writeUInt8(Number(part), at + i);
    };
    put(12, source);
    put(16, one.pod.ip4);
    let sum = 0;
    for (let at = 0; at < 20; at += 2) sum += ip.readUInt16BE(at);
    ip.writeUInt16BE(~((sum & 0xffff) + (sum >> 16)) & 0xffff, 10);
    return Buffer.concat([Buffer.from(`0800000000000100${mac}0200000000010800`, 'hex'), ip]);
  };
  const send = (from: string, packet: Buffer) =>
    execFileSync('ip', ['netns', 'exec', from, 'socat', '-u', '-', `UDP4-SENDTO:${one.ip4}:8472`], {
      input: packet,
    });
  const dropped = (chain: string) =>
    Number(/counter packets (\d+)/.exec(nft(one, 'list', 'chain', 'ip', 'portolan', chain))?.[1]);
  const inPod = () =>
    Number(
      /(\d+)/.exec(inside(one.pod.netns, 'sh', '-c', "awk '/^Icmp: [0-9]/{print $2}' /proc/net/snmp"))![1],
    );

  const before = inPod();
  send(two.netns, build(two.pod.ip4));
  await until(() => inPod() === before + 1, 1000, 'the packet of a peer arrives');
  send(net.underlay, build(two.pod.ip4));
  await until(() => dropped('overlay_input') === 1, 1000, 'the stranger is counted');
  send(two.netns, build('10.244.1.77'));
  await until(() => dropped('overlay_prerouting') === 1, 1000, 'the forgery is counted');
  assert.equal(inPod(), before + 1);
});

test('a foreign chain that drops forwarded packets by policy is named in the status', async () => {
  const node = net.nodes[0]!;
  nft(node, 'add table ip pt_fw');
  nft(node, 'add chain ip pt_fw FORWARD { type filter hook forward priority 0 ; policy drop ; }');
  try {
    await until(() => overlays[0]!.status().warnings.length > 0, 1500, 'the warning');
    const [warning] = overlays[0]!.status().warnings;
    assert.equal(warning!.code, 'NFT_FOREIGN_DROP');
    assert.match(warning!.message, /"ip pt_fw FORWARD"/);
  } finally {
    nft(node, 'delete table ip pt_fw');
  }
  await until(() => overlays[0]!.status().warnings.length === 0, 1500, 'the end of the warning');
});
