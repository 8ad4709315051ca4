/** Other people's firewalls: the doctor names the rule, and a real packet shows that it is right. */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { join } from 'node:path';
import test, { after, afterEach, before } from 'node:test';
import { distPath } from '../../src/kernel/paths.ts';
import type { FirewallReport } from '../../src/trace/firewall/index.ts';
import { type Place, type PolicyNet, type PolicyNode, policyNet } from '../lib/policy-net.ts';

const run = (command: string, ...args: string[]) => execFileSync(command, args, { encoding: 'utf8' });

let net: PolicyNet;
let node1: PolicyNode;
let node2: PolicyNode;
before(() => {
  net = policyNet('pdf', 2, 2);
  [node1, node2] = net.nodes as [PolicyNode, PolicyNode];
  // Pod links are known by their names.
  run('ip', '-n', node1.netns, 'link', 'set', 'po0', 'down');
  run('ip', '-n', node1.netns, 'link', 'set', 'po0', 'name', 'po0123456789a');
  run('ip', '-n', node1.netns, 'link', 'set', 'po0123456789a', 'up');
  const [ip4, ip6] = [node1.pods[0]!.ip4, node1.pods[0]!.ip6];
  for (const [address, bits] of [
    [ip4, 32],
    [ip6, 128],
  ] as const) {
    run('ip', '-n', node1.netns, 'route', 'replace', `${address}/${bits}`, 'dev', 'po0123456789a');
    const neigh = ['lladdr', '02:00:00:00:01:10', 'dev', 'po0123456789a', 'nud', 'permanent'];
    run('ip', '-n', node1.netns, 'neigh', 'replace', String(address), ...neigh);
  }
});
after(() => net?.close());
afterEach(() => {
  inNode('nft', 'flush', 'ruleset');
  for (const program of ['iptables-legacy', 'ip6tables-legacy']) {
    inNode(program, '-P', 'FORWARD', 'ACCEPT');
    inNode(program, '-F');
    inNode(program, '-X');
  }
  net.forgetConnections();
});

const inNode = (...args: string[]) => run('ip', 'netns', 'exec', node1.netns, ...args);
const nft = (script: string) =>
  execFileSync('ip', ['netns', 'exec', node1.netns, 'nft', '-f', '-'], { encoding: 'utf8', input: script });

function doctor(...args: string[]): FirewallReport {
  const words = [distPath('portolan.js'), 'doctor', 'firewall', '--state-dir', join('/nonexistent', 'x')];
  try {
    const cidrs = ['--cluster-cidr', '10.244.0.0/16,fd00:10:244::/56'];
    return JSON.parse(inNode(process.execPath, ...words, ...cidrs, '--json', ...args)) as FirewallReport;
  } catch (error) {
    return JSON.parse((error as { stdout: string }).stdout) as FirewallReport;
  }
}

/** Whether first packets between pods of two nodes arrive, by family: both ways. */
const arrive = (family: 4 | 6) =>
  net.send(
    [
      [node1.pods[0]!, node2.pods[0]!],
      [node2.pods[0]!, node1.pods[0]!],
    ].map(([from, to]) => ({ from: from!, to: to!, family, protocol: 'TCP' as const, port: 80 })),
  );

const DROPPED: readonly {
  readonly what: string;
  readonly make: () => void;
  readonly chain: RegExp;
  readonly rule: RegExp;
  readonly remedy: RegExp;
}[] = [
  {
    what: "Docker's FORWARD DROP by iptables-nft",
    make: () => {
      inNode('iptables-nft', '-P', 'FORWARD', 'DROP');
      inNode('iptables-nft', '-N', 'DOCKER-USER');
      inNode('iptables-nft', '-A', 'FORWARD', '-j', 'DOCKER-USER');
      inNode('iptables-nft', '-A', 'FORWARD', '-i', 'docker0', '-j', 'ACCEPT');
    },
    chain: /^ip filter FORWARD$/,
    rule: /^policy drop$/,
    remedy: /^iptables -I FORWARD -s 10\.244\.0\.0\/16 -j ACCEPT/,
  },
  {
    what: 'a drop of iptables-legacy',
    make: () => {
      inNode('iptables-legacy', '-N', 'BLOCK');
      inNode('iptables-legacy', '-A', 'FORWARD', '-p', 'tcp', '-j', 'BLOCK');
      inNode('iptables-legacy', '-A', 'BLOCK', '-d', '10.244.0.0/16', '-j', 'DROP');
    },
    chain: /^filter BLOCK$/,
    rule: /^-A BLOCK -d 10\.244\.0\.0\/16 -j DROP$/,
    remedy: /^iptables-legacy -I FORWARD/,
  },
  {
    what: 'a ruleset like that of firewalld: zones by verdict map, reject at the end',
    make: () =>
      nft(`table inet firewalld {
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept
    iifname "lo" accept
    jump filter_FORWARD_ZONES
    ct state { invalid } drop
    reject with icmpx type admin-prohibited
  }
  chain filter_FORWARD_ZONES {
    iifname vmap { "eth7" : goto filter_FWD_trusted }
    goto filter_FWD_public
  }
  chain filter_FWD_public { oifname "eth9" accept
  }
  chain filter_FWD_trusted { accept
  }
}`),
    chain: /^inet firewalld filter_FORWARD$/,
    rule: /^reject$/,
    remedy: /^firewall-cmd --permanent --zone=trusted --add-source=10\.244\.0\.0\/16/,
  },
  {
    what: 'a table of higher priority, by an address set',
    make: () =>
      nft(`table ip strict {
  set bad { type ipv4_addr; flags interval; elements = { 10.240.0.0/12 }
  }
  chain first { type filter hook forward priority -200; policy accept;
    ip saddr @bad counter drop comment "no pods here"
  }
}`),
    chain: /^ip strict first$/,
    rule: /^ip saddr @bad drop$/,
    remedy: /^nft insert rule ip strict first ip saddr 10\.244\.0\.0\/16 accept/,
  },
];

for (const { what, make, chain, rule, remedy } of DROPPED)
  test(`${what}: the rule is named, and packets really do not arrive`, () => {
    assert.deepEqual([arrive(4), doctor().findings], [[true, true], []]);
    net.forgetConnections();
    make();
    const report = doctor();
    assert.ok(arrive(4).includes(false));
    assert.equal(report.healthy, false);
    const found = report.findings.find(
      ({ probe, family }) => probe === 'a pod to a pod of another node' && family === 'IPv4',
    );
    assert.ok(found, JSON.stringify(report, null, 1));
    assert.equal(found.says, 'drops');
    assert.match(found.chain, chain);
    assert.match(found.rule, rule);
    assert.match(found.remedy, remedy);
    if (!/firewalld/.test(what)) assert.ok(report.findings.every(({ family }) => family === 'IPv4'));
  });

test('the remedy helps: what it accepts arrives, and nothing is found any more', () => {
  nft('table inet wall {\n chain wall_forward { type filter hook forward priority 0; policy drop; }\n}');
  assert.deepEqual([...arrive(4), ...arrive(6)], [false, false, false, false]);
  const { findings } = doctor();
  const remedies = new Set(
    findings.filter(({ says }) => says === 'drops').flatMap(({ remedy }) => remedy.split('; ')),
  );
  for (const remedy of remedies) inNode(...remedy.split(' '));
  assert.deepEqual([...arrive(4), ...arrive(6)], [true, true, true, true]);
  assert.deepEqual(doctor().findings, []);
});

test('what hangs on a mark may drop; own tables, accepts and rules for others are no findings', () => {
  const chain = (table: string, rules: string) =>
    nft(
      `table ip ${table} {\nchain ${table}_c { type filter hook forward priority 0; policy accept;\n${rules}\n}\n}\n`,
    );
  chain('portolan', 'ip saddr 10.244.1.10 drop');
  chain('maybe', 'meta mark 7 drop');
  chain('other', 'ip saddr 172.17.0.0/16 drop\noifname "docker0" drop\nudp dport 53 drop');
  const { findings, healthy, notes } = doctor();
  assert.equal(healthy, true);
  assert.ok(findings.length > 0);
  for (const { says, chain, rule } of findings)
    assert.deepEqual([says, chain, rule], ['may drop', 'ip maybe maybe_c', 'meta mark 7 drop']);
  assert.match(notes.join(), /br_netfilter is (not )?loaded/);
});

test('what drops packets of bridged pods is named, and does so', () => {
  const own = policyNet('pdb', 1, 2, 'bridge');
  const [all, before] = [net, node1];
  try {
    net = own;
    node1 = own.nodes[0]!;
    const [a, b] = node1.pods as [Place, Place];
    const arrives = () =>
      ([4, 6] as const).map((family) => {
        own.forgetConnections();
        return own.send([{ from: a, to: b, family, protocol: 'TCP', port: 80 }])[0];
      });
    const told = () =>
      doctor()
        .findings.filter(({ says }) => says === 'drops')
        .map(({ probe, family }) => `${probe}, ${family}`);
    assert.deepEqual([arrives(), told()], [[true, true], []]);
    // As firewalld's IPv6_rpfilter=strict.
    nft(
      'table inet wall {\n chain c { type filter hook prerouting priority 0; policy accept;\n meta nfproto ipv6 fib saddr . mark . iif oif missing drop\n }\n}',
    );
    assert.deepEqual([arrives(), told()], [[true, false], ['a bridged pod, on its way in, IPv6']]);
    inNode('nft', 'flush', 'ruleset');
    nft(
      'table bridge wall {\n chain c { type filter hook input priority 0; policy drop;\n ether type arp accept\n }\n}',
    );
    assert.deepEqual(
      [arrives(), told()],
      [[false, false], [4, 6].map((family) => `a frame of a bridged pod to its node, IPv${family}`)],
    );
    assert.match(doctor().notes.join(), /pods are isolated ports of portolan0/);
    for (const remedy of new Set(doctor().findings.map((each) => each.remedy))) inNode(...remedy.split(' '));
    assert.deepEqual([arrives(), told()], [[true, true], []]);
  } finally {
    [net, node1] = [all, before];
    own.close();
  }
});

interface Traced {
  readonly packets: number;
  readonly dropped: number;
  readonly traced: readonly {
    readonly from: string;
    readonly to: string;
    readonly steps: readonly { readonly chain: string; readonly rule: string; readonly verdict: string }[];
    readonly droppedBy?: { readonly chain: string; readonly rule: string; readonly handle?: number };
  }[];
}

/** Starts a trace of packets from one pod to another; resolves when it watches. */
async function tracing(family: 4 | 6, ...args: string[]) {
  const address = (place: { ip4: unknown; ip6: unknown }) => String(family === 4 ? place.ip4 : place.ip6);
  const [from, to] = [address(node1.pods[0]!), address(node2.pods[0]!)];
  const target = family === 4 ? `${to}:80` : `[${to}]:80`;
  const words = ['doctor', 'firewall', '--trace', '--from', from, '--to', target, '--json', ...args];
  const child = spawn(
    'ip',
    ['netns', 'exec', node1.netns, process.execPath, distPath('portolan.js'), ...words],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
  let output = '';
  let errors = '';
  child.stdout.on('data', (chunk) => {
    output += chunk;
  });
  await new Promise<void>((resolve, reject) => {
    child.stderr.on('data', (chunk) => {
      errors += chunk;
      if (errors.includes('watching')) resolve();
    });
    child.on('close', () => reject(new Error(errors)));
  });
  const result = async () => {
    const code = await ended;
    return { code, ...(JSON.parse(output) as Traced) };
  };
  return { child, ended, result, from, to };
}

const tables = () => inNode('nft', 'list', 'tables');

for (const family of [4, 6] as const)
  test(`--trace follows a packet to the rule that drops it, there and back, IPv${family}`, async () => {
    const ip = family === 4 ? 'ip' : 'ip6';
    nft(`table inet strangers {
  chain way {
    type filter hook forward priority 0; policy accept;
    ct state new jump deeper
  }
  chain deeper {
    counter
    ${ip} daddr ${family === 4 ? node2.pods[0]!.ip4 : node2.pods[0]!.ip6} tcp dport 80 counter drop comment "nobody goes there"
  }
}
`);
    const { result, from, to } = await tracing(family, '--packets', '1', '--seconds', '20');
    arrive(family);
    const { code, packets, dropped, traced } = await result();
    assert.deepEqual([code, packets, dropped], [1, 1, 1]);
    const [packet] = traced;
    assert.ok(packet!.from.includes(from) && packet!.to.includes(to), JSON.stringify(packet));
    assert.equal(packet!.droppedBy?.chain, 'inet strangers deeper');
    assert.match(packet!.droppedBy!.rule, /daddr .* dport 80 drop "nobody goes there"/);
    // The handle is that which nft shows.
    const listed = inNode('nft', '-a', 'list', 'chain', 'inet', 'strangers', 'deeper');
    const handle = /nobody goes there" # handle (\d+)/.exec(listed)![1];
    assert.equal(packet!.droppedBy?.handle, Number(handle));
    assert.deepEqual(
      packet!.steps.map(({ chain, verdict }) => `${chain}: ${verdict}`),
      ['inet strangers way: jump deeper', 'inet strangers deeper: continue', 'inet strangers deeper: drop'],
    );
    assert.doesNotMatch(tables(), /portolan/);
  });

test('--trace tells of packets that pass, and leaves nothing when it is killed', async () => {
  nft('table ip strangers {\n chain way {\n type filter hook forward priority 0; policy accept;\n }\n}\n');
  const { result } = await tracing(4, '--packets', '1', '--seconds', '20');
  arrive(4);
  const { code, traced } = await result();
  assert.equal(code, 0);
  assert.deepEqual(
    traced.map(({ steps, droppedBy }) => [steps.map(({ chain, rule }) => `${chain} ${rule}`), droppedBy]),
    [[['ip strangers way policy'], undefined]],
  );
  const killed = await tracing(4);
  assert.match(tables(), /table ip portolan-trace-\d+/);
  killed.child.kill('SIGKILL');
  await killed.ended;
  const before = performance.now();
  while (/portolan-trace/.test(tables()) && performance.now() - before < 5000)
    await new Promise((resolve) => setTimeout(resolve, 20));
  assert.doesNotMatch(tables(), /portolan-trace/);
});
