/**
 * XDP opens flows by itself: to backends on other nodes, to backends here, and refusals. tcpdump is the witness: it sees
 * what comes out of XDP, before tc.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import test, { after, before, describe } from 'node:test';
import { writeNftParts } from '../../src/kernel/nft/index.ts';
import { type EbpfEngine, masqueradeParts, type NodeHook } from '../../src/service/engines/ebpf/index.ts';
import { serviceFacts } from '../../src/service/facts.ts';
import { aService } from '../../src/service/testing.ts';
import { capture } from '../lib/capture.ts';
import { applyAll, openEngine, plannerOf, slicesOf } from '../lib/service-engine.ts';
import { host, ServiceNode, type TestPod } from '../lib/services.ts';

const families = ['ip4', 'ip6'] as const;
type Family = (typeof families)[number];
const NODE = { ip4: '192.168.77.1', ip6: 'fd77::1' } as const;
/** The node's address on the link to the client. */
const EDGE = { ip4: '172.20.7.1', ip6: 'fd00:20:7::1' } as const;
const VIP = { ip4: '203.0.113.7', ip6: 'fd00:113::7' } as const;
/**
 * From one port: connections through several nodePorts, which all speak twice, then one after the other, each closed
 * before the next, and datagrams to each from one socket. Says who answered, or what went wrong.
 */
const ONE_PORT = String.raw`
import json, socket, sys
host, port, targets = sys.argv[1], int(sys.argv[2]), [int(word) for word in sys.argv[3].split(',')]
family = socket.AF_INET6 if ':' in host else socket.AF_INET
def connected(target, port):
    s = socket.socket(family, socket.SOCK_STREAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.settimeout(4); s.bind(('', port)); s.connect((host, target))
    return s, s.makefile('rb')
def attempt(work):
    try: return work()
    except OSError as e: return type(e).__name__
def hello(f): return f.readline().decode().split()[0]
out = {'together': [], 'said': [], 'again': [], 'datagrams': []}
open_ones = []
for target in targets:
    def begin():
        s, f = connected(target, port); open_ones.append((s, f))
        return hello(f)
    out['together'].append(attempt(begin))
for round in range(2):
    for at, (s, f) in enumerate(open_ones):
        text = 'line %d of %d\n' % (round, at)
        def say():
            s.sendall(text.encode())
            return f.readline().decode() == text
        out['said'].append(attempt(say))
for target in targets:
    def once():
        s, f = connected(target, port + 1)
        with s, f: return hello(f)
    out['again'].append(attempt(once))
u = socket.socket(family, socket.SOCK_DGRAM); u.settimeout(4); u.bind(('', port))
for round in range(2):
    for target in targets: u.sendto(b'x', (host, target))
    out['datagrams'].append(attempt(lambda: sorted(u.recvfrom(99)[1][1] for target in targets)))
print(json.dumps(out))
`;
const UNALLOCATED = { ip4: '10.96.9.9', ip6: 'fd00:10:96::999' } as const;

describe('new flows in XDP', () => {
  let node: ServiceNode;
  let engine: EbpfEngine;
  let outside: TestPod;
  let remote: TestPod;
  let pod: TestPod;

  /** A Service of type NodePort; its TCP and UDP port have one number. */
  function aNodePort(
    name: string,
    nodePort: number,
    more: { at?: TestPod; spec?: object; status?: object } = {},
  ) {
    const index = nodePort % 100;
    const ports = [
      { name: 'tcp', port: 80, nodePort, protocol: 'TCP' as const },
      { name: 'udp', port: 80, nodePort, protocol: 'UDP' as const },
    ];
    const facts = serviceFacts(
      aService(
        {
          type: more.status ? 'LoadBalancer' : 'NodePort',
          clusterIPs: [`10.96.0.${index}`, `fd00:10:96::${index}`],
          ports,
          ...more.spec,
        },
        { name },
        more.status as never,
      ),
    );
    const slices = slicesOf(more.at ? [more.at] : [], ports, {
      service: name,
      nodeNameOf: () => (more.at === remote ? 'node-b' : 'node-a'),
    });
    return { facts, slices };
  }

  function open(nodeHook: NodeHook): void {
    engine = openEngine(node, {
      sizes: { natPorts: 1024 },
      nodeHook,
    });
    engine.setServiceRanges(['10.96.0.0/16', 'fd00:10:96::/112']);
    for (let twice = 0; twice < 2; twice++) {
      engine.attachNodeInterface(outside.ifindex, EDGE);
      engine.attachNodeInterface(remote.ifindex, { ip4: '172.30.7.1', ip6: 'fd00:30:7::1' });
    }
    engine.attachPodLink(pod.ifindex);
    const made = [
      aNodePort('far', 30_001, { at: remote }),
      aNodePort('near', 30_002, { at: pod }),
      aNodePort('kept', 30_003, {
        at: pod,
        spec: { externalTrafficPolicy: 'Local' },
      }),
      aNodePort('none', 30_004),
      aNodePort('near-too', 30_008, { at: pod }),
      aNodePort('elsewhere', 30_005, {
        at: remote,
        spec: { externalTrafficPolicy: 'Local' },
      }),
      aNodePort('sticky', 30_006, {
        at: remote,
        spec: { sessionAffinity: 'ClientIP' },
      }),
      aNodePort('limited', 30_007, {
        at: remote,
        spec: { loadBalancerSourceRanges: ['198.51.100.0/24', 'fd00:51::/64'] },
        status: { loadBalancer: { ingress: [{ ip: VIP.ip4 }, { ip: VIP.ip6 }] } },
      }),
    ];
    const planner = plannerOf(
      made.map(({ facts }) => facts),
      made.flatMap(({ slices }) => slices),
      { nodePortAddresses: [NODE.ip4, NODE.ip6] },
    );
    applyAll(engine, planner);
  }

  before(async () => {
    node = ServiceNode.create('o');
    outside = node.addHost('out', 20);
    remote = node.addHost('rem', 30);
    pod = node.addPod('pod');
    for (const family of families) {
      await node.serve(remote.name, remote.netns, remote[family], 8080);
      await node.serve(pod.name, pod.netns, pod[family], 8080);
    }
    // Whole checksums, as a network card hands packets over.
    for (const { netns } of [outside, remote])
      execFileSync('ip', ['netns', 'exec', netns, 'ethtool', '-K', 'eth0', 'gro', 'on', 'tx', 'off']);
    execFileSync('ip', ['-n', outside.netns, '-b', '-'], {
      input: families
        .flatMap((family) =>
          [VIP[family], family === 'ip4' ? '10.96.0.0/16' : 'fd00:10:96::/112'].map(
            (to) => `route add ${to} via ${EDGE[family]}`,
          ),
        )
        .join('\n'),
    });
    writeNftParts(masqueradeParts(), { netns: node.netns });
    open('native');
    assert.deepEqual(
      engine.status().nodeHooks!.map(({ hook }) => hook),
      ['native', 'native'],
    );
  });

  after(async () => {
    engine?.remove();
    await node?.[Symbol.asyncDispose]();
  });

  const from = () => ({ netns: outside.netns, cgroup: false });
  const ask = (kind: 'tcp' | 'udp' | 'udp-connected', family: Family, port: number, times = 10) =>
    node.attempt(kind, from(), NODE[family], port, { times, timeout: 10 });
  /** What comes out of XDP at the client's link meanwhile, as tcpdump prints it. */
  async function passed(work: () => Promise<void>): Promise<string[]> {
    const wire = await capture(node.prefix, 'up20', `inbound and (tcp or udp)`);
    await work();
    return wire.stop();
  }
  /** How much counters of verdicts grow. */
  async function counted(names: readonly string[], work: () => Promise<void>): Promise<number[]> {
    const before = engine.counters();
    await work();
    const now = engine.counters();
    return names.map((name) => now[name]! - before[name]!);
  }

  for (const family of families) {
    for (const kind of ['tcp', 'udp'] as const) {
      test(`${kind} ${family}: a backend elsewhere is reached without the stack, from the first packet on`, async () => {
        // Neighbours are not known to begin with: the stack asks for them.
        await ask(kind, family, 30_001, 1);
        const [flows] = await counted(['forward-nat'], async () => {
          const seen = await passed(async () => {
            const answers = [...(await ask(kind, family, 30_001)), ...(await ask(kind, family, 30_006))];
            assert.ok(answers.every(({ result, server }) => result === 'ok' && server === 'rem'));
            const there = family === 'ip4' ? '172.30.7.1' : 'fd00:30:7::1';
            assert.ok(answers.every(({ client }) => host(client) === there));
          });
          assert.deepEqual(seen, []);
        });
        // A client may get a port again that it had.
        assert.ok(flows! >= 16 && flows! <= 20, `${flows} flows for 20 connections`);
      });

      test(`${kind} ${family}: a backend here is named in what XDP hands to the stack, and its client is hidden`, async () => {
        const [flows] = await counted(['forward-flow'], async () => {
          const seen = await passed(async () => {
            const answers = await ask(kind, family, 30_002);
            assert.ok(answers.every(({ result, server }) => result === 'ok' && server === 'pod'));
            const hidden = host(answers[0]!.client);
            assert.notEqual(hidden, outside[family]);
            // With policy Local it is not.
            const kept = await ask(kind, family, 30_003);
            assert.ok(kept.every(({ result }) => result === 'ok'));
            assert.ok(kept.every(({ client }) => host(client) === outside[family]));
          });
          // tcpdump shows a packet when the next one comes.
          assert.ok(seen.length >= 19);
          for (const line of seen) assert.match(line, new RegExp(` > ${pod[family]}\\.8080: `));
        });
        assert.ok(flows! >= 16 && flows! <= 20, `${flows} flows for 20 connections`);
      });
    }

    test(`${family}: megabytes to a backend here arrive as they were`, async () => {
      for (const port of [30_002, 30_003]) {
        const [large] = await node.attempt('tcp', from(), NODE[family], port, { size: 1 << 20, timeout: 5 });
        assert.equal(large!.result, 'ok');
      }
    });

    test(`${family}: rules of the stack still stand before a pod here`, async () => {
      const rule = `table inet guard {\n chain forward {\n type filter hook forward priority 0;\n ${
        family === 'ip4' ? 'ip' : 'ip6'
      } daddr ${pod[family]} counter drop\n }\n}\n`;
      node.exec(['nft', rule]);
      try {
        for (const [kind, port] of [
          ['tcp', 30_002],
          ['udp', 30_003],
        ] as const) {
          const [refused] = await node.attempt(kind, from(), NODE[family], port, { timeout: 0.3 });
          assert.equal(refused!.result, 'timeout');
        }
        assert.match(node.exec(['nft', 'list', 'table', 'inet', 'guard']), /packets [1-9]/);
      } finally {
        node.exec(['nft', 'delete', 'table', 'inet', 'guard']);
      }
      const [served] = await ask('tcp', family, 30_003, 1);
      assert.equal(served!.result, 'ok');
    });

    test(`${family}: nobody behind a Service: refused from XDP, and counted once`, async () => {
      const counts = await counted(['reject-no-endpoint'], async () => {
        const seen = await passed(async () => {
          for (const kind of ['tcp', 'udp-connected'] as const) {
            const answers = await ask(kind, family, 30_004, 3);
            assert.deepEqual([...new Set(answers.map(({ result }) => result))], ['ECONNREFUSED']);
          }
        });
        assert.deepEqual(seen, []);
      });
      assert.deepEqual(counts, [6]);
    });

    test(`${family}: a port that a ClusterIP has not is refused, an address that no Service has is silence`, async () => {
      const [clusterIp] = family === 'ip4' ? ['10.96.0.1'] : ['fd00:10:96::1'];
      const counts = await counted(['reject-unknown-port', 'drop-unallocated'], async () => {
        const seen = await passed(async () => {
          const [tcp] = await node.attempt('tcp', from(), clusterIp!, 99, { timeout: 5 });
          assert.equal(tcp!.result, 'ECONNREFUSED');
          const [udp] = await node.attempt('udp-connected', from(), clusterIp!, 99, { timeout: 5 });
          assert.equal(udp!.result, 'ECONNREFUSED');
          const [none] = await node.attempt('udp', from(), UNALLOCATED[family], 80, { timeout: 0.2 });
          assert.equal(none!.result, 'timeout');
        });
        assert.deepEqual(seen, []);
      });
      assert.deepEqual(counts, [2, 1]);
    });

    test(`${family}: policy Local without a backend here, and a client that may not come, are dropped in XDP`, async () => {
      const counts = await counted(['drop-no-local', 'drop-source-range'], async () => {
        const seen = await passed(async () => {
          const [none] = await node.attempt('udp', from(), NODE[family], 30_005, { timeout: 0.2 });
          assert.equal(none!.result, 'timeout');
          const [limited] = await node.attempt('udp', from(), VIP[family], 80, { timeout: 0.2 });
          assert.equal(limited!.result, 'timeout');
        });
        assert.deepEqual(seen, []);
      });
      assert.deepEqual(counts, [1, 1]);
    });

    test(`${family}: what is no Service's comes through as it is`, async () => {
      const seen = await passed(async () => {
        const plain = await node.attempt('tcp', from(), EDGE[family], 9, { times: 3, timeout: 5 });
        assert.ok(plain.every(({ result }) => result === 'ECONNREFUSED'));
      });
      assert.ok(seen.length >= 1);
    });
  }

  // A kernel chooses ports anew for each address and port that it connects to, so it comes to one that is in use there.
  for (const hook of ['tc', 'native'] as const)
    test(`${hook}: one port of a client through several Services to one pod: nothing meets`, () => {
      engine.close();
      open(hook);
      // Hidden, not hidden, hidden: to conntrack all three were one connection that is hidden or is not.
      const targets = [30_002, 30_003, 30_008];
      for (const family of families) {
        const port = 41_000 + (hook === 'tc' ? 0 : 10) + (family === 'ip4' ? 0 : 20);
        const words = ['python3', '-c', ONE_PORT, NODE[family], String(port), targets.join()];
        assert.deepEqual(JSON.parse(node.exec(words, outside.netns)), {
          together: targets.map(() => 'pod'),
          said: [...targets, ...targets].map(() => true),
          again: targets.map(() => 'pod'),
          datagrams: [targets, targets],
        });
      }
    });

  test('a flow that XDP opened goes on in tc, and one of tc in XDP', async () => {
    const held = [30_001, 30_002, 30_003].map((port) => node.hold(from(), NODE.ip4, port));
    for (const each of held) await each.ask();
    for (const hook of ['tc', 'generic', 'native'] as const) {
      engine.close();
      open(hook);
      for (const each of held) assert.equal(await each.ask(hook), `echo ${hook}`);
      held.push(node.hold(from(), NODE.ip6, 30_002), node.hold(from(), NODE.ip6, 30_001));
      for (const each of held.slice(-2)) await each.ask();
    }
    for (const each of held) assert.equal(await each.ask('end'), 'echo end');
  });

  test('while agents go and come back, no new connection fails and none breaks', async () => {
    engine.close();
    open('native');
    const held = [30_001, 30_002, 30_003].map((port) => node.hold(from(), NODE.ip4, port));
    for (const each of held) await each.ask();
    let restarting = true;
    const connect = async (port: number) => {
      const results = new Set<string>();
      do {
        const seen = await node.attempt('tcp', from(), NODE.ip4, port, { times: 200, timeout: 5 });
        for (const { result } of seen) results.add(result);
      } while (restarting);
      return [...results];
    };
    const clients = Promise.all([30_001, 30_002, 30_003].map(connect));
    // What is pinned outlives the process either way; a killed one closes nothing else.
    for (let times = 0; times < 3; times++) {
      engine.close();
      await new Promise((resolve) => setTimeout(resolve, 50));
      open('native');
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    restarting = false;
    assert.deepEqual(await clients, [['ok'], ['ok'], ['ok']]);
    for (const each of held) assert.equal(await each.ask('still'), 'echo still');
  });
});
