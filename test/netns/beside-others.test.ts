/**
 * A node with other people's firewalls: Services of both engines, masquerade and policies work beside them, or the
 * doctor names the rule that stands in the way. Bridged pods and br_netfilter are in cni-bridge.test.ts.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import test, { after, before, describe } from 'node:test';
import { FAMILIES, parseCidr, parseIp } from '../../src/addr/index.ts';
import { writeNftParts } from '../../src/kernel/nft/index.ts';
import { distPath } from '../../src/kernel/paths.ts';
import { filterPart } from '../../src/overlay/index.ts';
import {
  cleanupPolicies,
  namespaceLabels,
  type PodFacts,
  PolicyController,
  type PolicyFacts,
  policyFacts,
} from '../../src/policy/index.ts';
import { serviceFacts, sliceFacts } from '../../src/service/facts.ts';
import {
  EbpfEngine,
  masqueradeParts,
  NftablesEngine,
  type NodeServiceEngine,
} from '../../src/service/index.ts';
import { ServicePlanner } from '../../src/service/planner.ts';
import { aNode, aService, aSlice } from '../../src/service/testing.ts';
import type { FirewallReport } from '../../src/trace/firewall/index.ts';
import { attachmentOf, MemoryTable } from '../lib/policy-cluster.ts';
import { type Seen, ServiceNode, type TestPod } from '../lib/services.ts';

const VIP = { ip4: '10.96.0.10', ip6: 'fd00:10:96::10' } as const;
const NODE = { ip4: '192.168.77.1', ip6: 'fd77::1' } as const;
const CIDRS = { ip4: '10.244.7.0/24', ip6: 'fd00:10:244:7::/64' } as const;
const families = ['ip4', 'ip6'] as const;
type EngineName = 'ebpf' | 'nftables';

/** What a client sees: `socket` and `packets` of a pod to a ClusterIP, a nodePort, a pod to the outside. */
const WAYS = ['socket', 'packets', 'nodePort', 'masquerade'] as const;
type Way = (typeof WAYS)[number];

interface Stranger {
  readonly what: string;
  /** Commands in the node's namespace, or rules for `nft -f -`. */
  readonly make: readonly (readonly string[] | string)[];
  readonly undo: readonly (readonly string[])[];
  /** What does not work, as `ip4 socket`; all families and ways work otherwise. */
  readonly blocks: (engine: EngineName) => readonly string[];
  /** The chain that the doctor names. */
  readonly chain?: RegExp;
}

const all = (family: 'ip4' | 'ip6', ...ways: readonly Way[]) =>
  (ways.length > 0 ? ways : WAYS).map((way) => `${family} ${way}`);
const nothing = () => [];
const resetIptables = (program: string) => [
  [program, '-P', 'FORWARD', 'ACCEPT'],
  [program, '-F'],
  [program, '-X'],
  [program, '-t', 'nat', '-F'],
  [program, '-t', 'nat', '-X'],
];
/** Docker's rules as dockerd 20.10 writes them, with one published port. */
const docker = (program: string, policy: 'DROP' | 'ACCEPT') => [
  [program, '-P', 'FORWARD', policy],
  [program, '-N', 'DOCKER'],
  [program, '-N', 'DOCKER-USER'],
  [program, '-A', 'FORWARD', '-j', 'DOCKER-USER'],
  [
    program,
    '-A',
    'FORWARD',
    '-o',
    'docker0',
    '-m',
    'conntrack',
    '--ctstate',
    'RELATED,ESTABLISHED',
    '-j',
    'ACCEPT',
  ],
  [program, '-A', 'FORWARD', '-o', 'docker0', '-j', 'DOCKER'],
  [program, '-A', 'FORWARD', '-i', 'docker0', '!', '-o', 'docker0', '-j', 'ACCEPT'],
  [program, '-A', 'DOCKER-USER', '-j', 'RETURN'],
  [program, '-t', 'nat', '-N', 'DOCKER'],
  [program, '-t', 'nat', '-A', 'PREROUTING', '-m', 'addrtype', '--dst-type', 'LOCAL', '-j', 'DOCKER'],
  [
    program,
    '-t',
    'nat',
    '-A',
    'OUTPUT',
    '!',
    '-d',
    '127.0.0.0/8',
    '-m',
    'addrtype',
    '--dst-type',
    'LOCAL',
    '-j',
    'DOCKER',
  ],
  [
    program,
    '-t',
    'nat',
    '-A',
    'POSTROUTING',
    '-s',
    '172.17.0.0/16',
    '!',
    '-o',
    'docker0',
    '-j',
    'MASQUERADE',
  ],
  [
    program,
    '-t',
    'nat',
    '-A',
    'DOCKER',
    '!',
    '-i',
    'docker0',
    '-p',
    'tcp',
    '--dport',
    '8088',
    '-j',
    'DNAT',
    '--to',
    '172.17.0.2:80',
  ],
];
/** What firewalld 1.3 writes for its zone "public" with one interface; policies and rich rules left out. */
const FIREWALLD = `table inet firewalld {
  chain mangle_PREROUTING { type filter hook prerouting priority mangle + 10; policy accept;
    jump mangle_PREROUTING_ZONES
  }
  chain mangle_PREROUTING_ZONES { return
  }
  chain nat_PREROUTING { type nat hook prerouting priority dstnat + 10; policy accept;
    jump nat_ZONES
  }
  chain nat_POSTROUTING { type nat hook postrouting priority srcnat + 10; policy accept;
    jump nat_ZONES
  }
  chain nat_ZONES { return
  }
  chain filter_PREROUTING { type filter hook prerouting priority filter + 10; policy accept;
    icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
    meta nfproto ipv6 fib saddr . mark . iif oif missing drop
  }
  chain filter_INPUT { type filter hook input priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    ct state invalid drop
    icmpv6 type { nd-neighbor-advert, nd-neighbor-solicit, nd-router-advert, nd-redirect } accept
    tcp dport 22 ct state { new, untracked } accept
    reject with icmpx type admin-prohibited
  }
  chain filter_FORWARD { type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    ct state invalid drop
    ip6 daddr { ::/96, ::ffff:0.0.0.0/96, 2002::/24 } reject with icmpv6 type addr-unreachable
    jump filter_FORWARD_ZONES
    reject with icmpx type admin-prohibited
  }
  chain filter_FORWARD_ZONES { goto filter_FWD_public
  }
  chain filter_FWD_public { jump filter_FWD_public_allow
    reject with icmpx type admin-prohibited
  }
  chain filter_FWD_public_allow { oifname "up20" accept
  }
  chain filter_OUTPUT { type filter hook output priority filter + 10; policy accept;
    oifname "lo" accept
    ip6 daddr { ::/96, ::ffff:0.0.0.0/96, 2002::/24 } reject with icmpv6 type addr-unreachable
  }
}`;

const STRANGERS: readonly Stranger[] = [
  {
    what: "Docker's rules by iptables-nft and iptables-legacy, FORWARD accepted",
    make: [...docker('iptables-nft', 'ACCEPT'), ...docker('iptables-legacy', 'ACCEPT')],
    undo: [...resetIptables('iptables-nft'), ...resetIptables('iptables-legacy')],
    blocks: nothing,
  },
  {
    what: "Docker's FORWARD DROP by iptables-nft",
    make: docker('iptables-nft', 'DROP'),
    undo: resetIptables('iptables-nft'),
    blocks: () => all('ip4'),
    chain: /^ip filter FORWARD$/,
  },
  {
    what: "Docker's FORWARD DROP by iptables-legacy",
    make: docker('iptables-legacy', 'DROP'),
    undo: resetIptables('iptables-legacy'),
    blocks: () => all('ip4'),
    chain: /^filter FORWARD$/,
  },
  {
    what: 'firewalld with the uplink in zone public',
    make: [FIREWALLD],
    undo: [['nft', 'delete', 'table', 'inet', 'firewalld']],
    // It lets pass what conntrack translated, and what goes to the zone; eBPF translates before conntrack.
    blocks: (engine) =>
      engine === 'ebpf'
        ? [...all('ip4', 'socket', 'packets', 'nodePort'), ...all('ip6', 'socket', 'packets', 'nodePort')]
        : [],
    chain: /^inet firewalld filter_F/,
  },
  {
    what: 'tables of strangers with NAT, marks and accepts of their own, before and behind ours',
    make: [
      `table ip nat2 {
  chain pre { type nat hook prerouting priority -150; tcp dport 31999 dnat to 10.9.9.9 ; }
  chain post { type nat hook postrouting priority 50; ip saddr 10.9.0.0/16 masquerade ; }
}
table inet mine {
  chain early { type filter hook prerouting priority -350; meta mark set meta mark | 0x100 ; }
  chain forward { type filter hook forward priority -200; policy accept; ct state invalid drop ; accept ; }
  chain input { type filter hook input priority 0; policy drop;
    ct state established,related accept
    meta l4proto { icmp, ipv6-icmp } accept
    iifname "lo" accept
  }
}`,
    ],
    undo: [
      ['nft', 'delete', 'table', 'ip', 'nat2'],
      ['nft', 'delete', 'table', 'inet', 'mine'],
    ],
    blocks: nothing,
  },
];

for (const name of ['ebpf', 'nftables'] as const)
  describe(`beside other people's firewalls, ${name}`, () => {
    let node: ServiceNode;
    let engine: NodeServiceEngine;
    let policies: PolicyController;
    let client: TestPod;
    let shut: TestPod;
    let outside: TestPod;

    const inNode = (command: readonly string[] | string) =>
      typeof command === 'string'
        ? execFileSync('ip', ['netns', 'exec', node.prefix, 'nft', '-f', '-'], { input: command })
        : node.exec([...command]);

    before(async () => {
      node = ServiceNode.create(`b${name[0]}`);
      client = node.addPod('client');
      const server = node.addPod('server');
      shut = node.addPod('shut');
      outside = node.addHost('out', 20);
      node.ip('route add default via 172.20.7.9', 'route add default via fd00:20:7::9');
      const { netns } = node;
      engine =
        name === 'ebpf'
          ? EbpfEngine.open({ bpffsDir: node.bpffs, cgroupPath: node.cgroup, netns, nodeName: 'node-a' })
          : NftablesEngine.open({ netns, nodeName: 'node-a' });
      const overlay = FAMILIES.map((family) =>
        filterPart({
          family,
          clusterCidrs: [parseCidr(family === 4 ? '10.244.0.0/16' : 'fd00:10:244::/56')],
          ownCidrs: [parseCidr(CIDRS[`ip${family}`])],
          masquerade: true,
        }),
      );
      writeNftParts([...overlay, ...(name === 'ebpf' ? masqueradeParts() : [])], { netns });
      for (const { ifindex } of node.pods) engine.attachPodLink(ifindex);
      engine.attachNodeInterface(outside.ifindex, { ip4: '172.20.7.1', ip6: 'fd00:20:7::1' });
      engine.setServiceRanges(['10.96.0.0/16', 'fd00:10:96::/112']);
      const ports = [{ port: 80, nodePort: 30_080, protocol: 'TCP' as const }];
      const web = serviceFacts(aService({ type: 'NodePort', clusterIPs: [VIP.ip4, VIP.ip6], ports }));
      const slices = families.map((family) =>
        sliceFacts(aSlice([`${server[family]} node-a`], { name: `web-${family}` })),
      );
      const planner = new ServicePlanner(
        { services: new Map([[web.key, web]]), slices: new Map(slices.map((slice) => [slice.key, slice])) },
        aNode({ nodePortAddresses: [NODE.ip4, NODE.ip6] }),
      );
      assert.deepEqual([...(await engine.apply(planner.planAll())).failed], []);
      for (const family of families) {
        await node.serve('server', server.netns, server[family], 8080);
        await node.serve('out', outside.netns, outside[family], 8080);
      }
      policies = await isolate(server, [client]);
    });

    after(async () => {
      await policies?.close();
      engine?.remove();
      if (node) cleanupPolicies({ netns: node.netns });
      await node?.[Symbol.asyncDispose]();
    });

    /** Only these pods, and clients outside, reach the server. */
    async function isolate(server: TestPod, friends: readonly TestPod[]): Promise<PolicyController> {
      const table = {
        policies: new MemoryTable<PolicyFacts>(),
        pods: new MemoryTable<PodFacts>(),
        namespaces: new MemoryTable<Readonly<Record<string, string>>>(),
      };
      table.namespaces.set('default', namespaceLabels({ metadata: { name: 'default' } }));
      const controller = new PolicyController({ nodeName: 'node-a', ...table, netns: node.netns });
      await controller.start([]);
      for (const pod of node.pods) {
        const place = { name: pod.name, netns: pod.netns, ip4: parseIp(pod.ip4), ip6: parseIp(pod.ip6) };
        table.pods.set(`default/${pod.name}`, {
          namespace: 'default',
          name: pod.name,
          uid: `default/${pod.name}`,
          labels: { pod: pod.name },
          node: 'node-a',
          hostNetwork: false,
          ended: false,
          addresses: [place.ip4, place.ip6],
          ports: [],
        });
        await controller.isolate(attachmentOf(place, `default/${pod.name}`));
      }
      const from = [
        ...friends.map((pod) => ({ podSelector: { matchLabels: { pod: pod.name } } })),
        { ipBlock: { cidr: '172.20.0.0/16' } },
        { ipBlock: { cidr: 'fd00:20::/32' } },
      ];
      const facts = policyFacts({
        apiVersion: 'networking.k8s.io/v1',
        kind: 'NetworkPolicy',
        metadata: { namespace: 'default', name: 'web' },
        spec: { podSelector: { matchLabels: { pod: server.name } }, ingress: [{ from }] },
      });
      table.policies.set(facts.key, facts);
      await new Promise((resolve) => setImmediate(resolve));
      await controller.settled();
      return controller;
    }

    /** What works, as `ip4 socket`; and whether somebody came in whom the policy keeps out. */
    async function look(timeout: number): Promise<{ works: string[]; intruders: string[] }> {
      const each = (port: number, addresses: Readonly<Record<'ip4' | 'ip6', string>>) =>
        families.map((family) => [addresses[family], port] as const);
      const at = (pod: TestPod, cgroup = false) => ({ netns: pod.netns, cgroup });
      const asked = await Promise.all([
        node.attemptAll(at(client, true), each(80, VIP), { timeout }),
        node.attemptAll(at(client), [...each(80, VIP), ...each(8080, outside)], { timeout }),
        node.attemptAll(at(outside), each(30_080, NODE), { timeout }),
        node.attemptAll(at(shut), each(80, VIP), { timeout: 1 }),
      ]);
      const [socket, packets, nodePort, intruder] = asked as [Seen[], Seen[], Seen[], Seen[]];
      const ok = (seen: Seen | undefined) => seen?.result === 'ok';
      const hidden = (seen: Seen | undefined) => !/10\.244|fd00:10:244/.test(seen?.client ?? '10.244');
      const works = families.flatMap((family, at) => [
        ...(ok(socket[at]) ? [`${family} socket`] : []),
        ...(ok(packets[at]) ? [`${family} packets`] : []),
        ...(ok(nodePort[at]) ? [`${family} nodePort`] : []),
        ...(ok(packets[at + 2]) && hidden(packets[at + 2]) ? [`${family} masquerade`] : []),
      ]);
      return { works, intruders: families.filter((_, at) => ok(intruder[at])) };
    }

    /** What is there at once is enough; what should be there and is not gets more time, for the machine may be slow. */
    async function lookFor(expected: readonly string[]): Promise<Awaited<ReturnType<typeof look>>> {
      const first = await look(1);
      if (expected.every((way) => first.works.includes(way))) return first;
      const { works, intruders } = await look(5);
      return { works, intruders: [...first.intruders, ...intruders] };
    }

    function doctor(): FirewallReport {
      const words = [
        process.execPath,
        distPath('portolan.js'),
        ...['doctor', 'firewall', '--state-dir', '/nonexistent/x', '--json'],
        ...['--cluster-cidr', '10.244.0.0/16,fd00:10:244::/56'],
      ];
      try {
        return JSON.parse(inNode(words).toString()) as FirewallReport;
      } catch (error) {
        return JSON.parse((error as { stdout: string }).stdout) as FirewallReport;
      }
    }

    const everything = families.flatMap((family) => all(family));

    for (const { what, make, undo, blocks, chain } of STRANGERS) {
      const blocked = blocks(name);
      test(`${what}: ${blocked.length === 0 ? 'everything works' : 'the doctor names what is in the way'}`, async () => {
        for (const command of make) inNode(command);
        try {
          const expected = everything.filter((way) => !blocked.includes(way));
          const { works, intruders } = await lookFor(expected);
          assert.deepEqual(intruders, []);
          assert.deepEqual(works, expected);
          if (blocked.length === 0) return;
          const report = doctor();
          assert.equal(report.healthy, false);
          for (const family of families) {
            if (!blocked.some((way) => way.startsWith(family))) continue;
            const found = report.findings.filter(
              (one) =>
                one.says === 'drops' && one.family === `IPv${family.slice(2)}` && chain!.test(one.chain),
            );
            assert.ok(found.length > 0, JSON.stringify(report, null, 1));
          }
        } finally {
          for (const command of undo) inNode(command);
        }
      });
    }

    test('without strangers everything works again', async () => {
      assert.deepEqual(await lookFor(everything), { works: everything, intruders: [] });
      assert.deepEqual(doctor().findings, []);
    });
  });
