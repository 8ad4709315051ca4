/**
 * Direct server return without another packet around: an option in the header tells the backend's node which VIP it has
 * to answer as, and whoever is no node is not believed.
 *
 *     client 172.20.7.9 ── up20 a ab ── ba b po2 ── pod "web", "far"
 *              172.41.0.9 ──────────────── cl b         routes to "far" lead through VXLAN between a and b
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import test, { after, before, describe } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import type { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import { FORWARDING_ANNOTATION, serviceFacts } from '../../src/service/facts.ts';
import { aService } from '../../src/service/testing.ts';
import { capture } from '../lib/capture.ts';
import { type Told, withOption } from '../lib/dsr-option.ts';
import { frame, type Segment } from '../lib/packet.ts';
import { applyAll, openEngine, plannerOf, slicesOf } from '../lib/service-engine.ts';
import { host, ServiceNode, type TestPod } from '../lib/services.ts';
import { BETWEEN, EDGE, joinNodes } from '../lib/two-nodes.ts';

const VIPS = {
  web: { ip4: '203.0.113.7', ip6: 'fd00:113::7' },
  far: { ip4: '203.0.113.8', ip6: 'fd00:113::8' },
} as const;
const NODE_A = BETWEEN.a;
const NODE_PORT = 30_080;
/** Address of a at the client's link: its nodePorts. */
const FRONT = EDGE.a;
const families = ['ip4', 'ip6'] as const;
const OPTION_BYTES = { ip4: 12, ip6: 40 } as const;
const ports = [
  { name: 'tcp', port: 80, protocol: 'TCP' as const, nodePort: NODE_PORT },
  { name: 'udp', port: 53, protocol: 'UDP' as const, nodePort: NODE_PORT },
];
type Name = keyof typeof VIPS;

describe('direct server return by an option', () => {
  let a: ServiceNode;
  let b: ServiceNode;
  let client: TestPod;
  let own: TestPod;
  const pods = {} as Record<Name, TestPod>;
  let first: EbpfEngine;
  let second: EbpfEngine;

  function program(engine: EbpfEngine, nodeName: string, forwarding: string, more: object = {}): void {
    const services = (['web', 'far'] as const).map((name, at) =>
      serviceFacts(
        aService(
          {
            type: 'LoadBalancer',
            clusterIPs: [`10.96.0.1${at}`, `fd00:10:96::1${at}`],
            ports: ports.map((port) => ({ ...port, nodePort: port.nodePort + at })),
            ...more,
          },
          { name, annotations: { [FORWARDING_ANNOTATION]: forwarding } },
          { loadBalancer: { ingress: [{ ip: VIPS[name].ip4 }, { ip: VIPS[name].ip6 }] } },
        ),
      ),
    );
    const slices = (['web', 'far'] as const).flatMap((service) =>
      slicesOf([pods[service]], ports, { service, nodeNameOf: () => 'node-b' }),
    );
    const nodePortAddresses = nodeName === 'node-a' ? [FRONT.ip4, FRONT.ip6] : [BETWEEN.b.ip4];
    applyAll(engine, plannerOf(services, slices, { nodeName, nodePortAddresses }));
  }

  function open(node: ServiceNode, nodeName: string, forwarding = 'dsr-option'): EbpfEngine {
    const engine = openEngine(node, { nodeName, sizes: { natPorts: 1024 }, nodeHook: 'tc' });
    program(engine, nodeName, forwarding);
    return engine;
  }

  function openFirst(forwarding?: string): EbpfEngine {
    const engine = open(a, 'node-a', forwarding);
    engine.attachNodeInterface(client.ifindex, FRONT);
    engine.attachNodeInterface(a.link('ab').ifindex, NODE_A);
    engine.attachOverlay(a.link('vx').ifindex, { ip4: '172.42.0.1', ip6: 'fd00:42:1::' });
    engine.attachPodLink(own.ifindex);
    return engine;
  }

  function openSecond(forwarding?: string): EbpfEngine {
    const engine = open(b, 'node-b', forwarding);
    for (const pod of Object.values(pods)) engine.attachPodLink(pod.ifindex);
    engine.attachNodeInterface(b.link('ba').ifindex, BETWEEN.b);
    engine.attachNodeInterface(b.link('cl').ifindex, EDGE.b);
    engine.attachOverlay(b.link('vx').ifindex, { ip4: '172.42.0.2', ip6: 'fd00:42:2::' });
    engine.setPeers([NODE_A.ip4, NODE_A.ip6, FRONT.ip4, FRONT.ip6]);
    return engine;
  }

  before(async () => {
    a = ServiceNode.create('oa', 7);
    b = ServiceNode.create('ob', 8);
    client = a.addHost('out', 20);
    own = a.addPod('own');
    for (const name of ['web', 'far'] as const) {
      pods[name] = b.addPod(name);
      for (const family of families) await b.serve(name, pods[name].netns, pods[name][family], 8080);
    }
    joinNodes(a, b, client);
    const vxlan = (here: number, there: number, link: string) => [
      `link add vx type vxlan id 5 dstport 8472 local 172.40.0.${here} remote 172.40.0.${there} dev ${link}`,
      `addr add 172.42.0.${here}/24 dev vx`,
      // As flannel numbers tunnels: the last 32 bits are zero.
      `addr add fd00:42:${here}::/32 dev vx nodad`,
      'link set vx up',
    ];
    a.ip(
      ...vxlan(1, 2, 'ab'),
      `route add ${pods.far.ip4}/32 via 172.42.0.2`,
      `route add ${pods.far.ip6}/128 via fd00:42:2::`,
    );
    b.ip(...vxlan(2, 1, 'ba'));
    a.ipAt(
      client.netns,
      `route add 203.0.113.0/24 via ${FRONT.ip4}`,
      `route add fd00:113::/64 via ${FRONT.ip6}`,
      `route add 10.244.8.0/24 via ${FRONT.ip4}`,
    );
    first = openFirst();
    second = openSecond();
    // As the agent does: b knows its neighbours before anybody asks.
    for (const address of Object.values(NODE_A)) b.ip(`neigh replace ${address} dev ba use`);
  });

  after(async () => {
    first?.remove();
    second?.remove();
    await a?.[Symbol.asyncDispose]();
    await b?.[Symbol.asyncDispose]();
  });

  const from = () => ({ netns: client.netns, cgroup: false });

  for (const family of families)
    for (const [name, way] of [
      ['web', 'by a route'],
      ['far', 'inside VXLAN'],
    ] as const)
      for (const kind of ['tcp', 'udp', 'udp-connected'] as const)
        test(`${kind} ${family} ${way}: backend sees client, client sees VIP, and the pod sees no option`, async () => {
          const link = name === 'web' ? 'ab' : 'vx';
          const ip = family === 'ip4' ? 'ip' : 'ip6';
          const filter = `${ip} and not multicast and net ${family === 'ip4' ? '10.244.8.0/24' : 'fd00:10:244:8::/64'}`;
          const wire = await capture(a.prefix, link, filter, ['-v']);
          const inside = await capture(pods[name].netns, 'eth0', filter, ['-v']);
          const seen = await a.attempt(kind, from(), VIPS[name][family], kind === 'tcp' ? 80 : 53, {
            times: 5,
          });
          const lines = (await wire.stop()).join('\n');
          const within = (await inside.stop()).join('\n');
          assert.deepEqual([...new Set(seen.map((s) => s.result))], ['ok']);
          assert.deepEqual([...new Set(seen.map((s) => host(s.client)))], [client[family]]);
          assert.ok(seen.every((s) => s.peer!.includes(VIPS[name][family])));
          const option = family === 'ip4' ? /options \(unknown 158\)/g : /DSTOPT/g;
          // SYN and ACK of each connection, and perhaps the packet with which a second begins; each datagram.
          const told = lines.match(option)?.length ?? 0;
          const times = kind === 'tcp' ? [10, 12] : [5, 5];
          assert.ok(told >= times[0]! && told <= times[1]!, `${told} told:\n${lines}`);
          assert.ok(!lines.includes(`${pods[name][family]}.8080 > `), lines);
          assert.ok(within.includes(`${pods[name][family]}.8080`) && !option.test(within), within);
        });

  for (const family of families) {
    test(`${family}: a megabyte goes through with whole packets; a datagram too large is answered with what fits`, async () => {
      const before = first.counters()['reject-too-big']!;
      const wire = await capture(a.prefix, 'ab', family === 'ip4' ? 'ip and tcp' : 'ip6 and tcp');
      const [large] = await a.attempt('tcp', from(), VIPS.web[family], 80, { size: 1 << 20, timeout: 8 });
      await wire.stop();
      assert.equal(large!.result, 'ok');
      assert.equal(first.counters()['reject-too-big'], before);
      // The largest datagram of the link has no room for the option. The first one is lost to that answer.
      const size = 1500 - (family === 'ip4' ? 28 : 48);
      await a.attempt('udp', from(), VIPS.web[family], 53, { size, timeout: 0.3 });
      assert.ok(first.counters()['reject-too-big']! > before);
      const path = execFileSync('ip', ['-n', client.netns, 'route', 'get', VIPS.web[family]], {
        encoding: 'utf8',
      });
      assert.match(path, new RegExp(`mtu ${1500 - OPTION_BYTES[family]}`));
      const [again] = await a.attempt('udp', from(), VIPS.web[family], 53, { size });
      assert.equal(again!.result, 'ok');
      const [fragments] = await a.attempt('udp', from(), VIPS.web[family], 53, { size: 4000 });
      assert.equal(fragments!.result, 'ok');
      execFileSync('ip', ['-n', client.netns, family === 'ip4' ? '-4' : '-6', 'route', 'flush', 'cache']);
    });

    test(`${family}: a client's own options stay beside it, and many datagrams in one packet each get it`, async () => {
      const own =
        family === 'ip4'
          ? "s.setsockopt(0, 4, b'\\x07\\x07\\x04\\x00\\x00\\x00\\x00\\x00')" // IP_OPTIONS: record route
          : "s.setsockopt(41, 59, b'\\x00\\x00\\x01\\x04\\x00\\x00\\x00\\x00')"; // IPV6_DSTOPTS: padding
      const ask = (lines: string) =>
        a.exec(
          [
            'python3',
            '-c',
            `import socket
s = socket.socket(socket.${family === 'ip4' ? 'AF_INET' : 'AF_INET6'}, socket.SOCK_DGRAM); s.settimeout(2)
s.connect(('${VIPS.web[family]}', 53))
${lines}`,
          ],
          client.netns,
        );
      const inside = await capture(pods.web.netns, 'eth0', 'udp or ip6', ['-v']);
      assert.match(ask(`${own}; s.send(b'x' * 9); print(s.recv(99).decode())`), / 9$/m);
      const within = (await inside.stop()).join('\n');
      assert.match(within, family === 'ip4' ? /options \(RR/ : /DSTOPT/);
      assert.doesNotMatch(within, /158|0x5e/);
      // UDP_SEGMENT
      const many = ask(
        `s.setsockopt(17, 103, 1000); s.send(b'x' * 4500)\nprint([s.recv(99).decode().split()[2] for _ in range(5)])`,
      );
      assert.match(many, /'1000', '1000', '1000', '1000', '500'/);
      if (family === 'ip6') return;
      // 60 bytes of header are all that there is.
      const before = first.counters()['drop-rewrite']!;
      ask(`s.setsockopt(0, 4, b'\\x01' * 32); s.send(b'x')`);
      assert.equal(first.counters()['drop-rewrite'], before + 1);
    });

    test(`${family}: a nodePort of one node is answered by the other, with affinity, too`, async () => {
      for (const engine of [first, second])
        program(engine, engine === first ? 'node-a' : 'node-b', 'dsr-option', {
          sessionAffinity: 'ClientIP',
        });
      for (const kind of ['tcp', 'udp'] as const) {
        const [seen] = await a.attempt(kind, from(), FRONT[family], NODE_PORT);
        assert.equal(seen!.result, 'ok');
        assert.equal(host(seen!.client), client[family]);
      }
      for (const engine of [first, second])
        program(engine, engine === first ? 'node-a' : 'node-b', 'dsr-option');
    });

    test(`${family}: a node that forgot a flow is told again within two seconds, and agents may be started anew`, async () => {
      const talker = a.hold(from(), VIPS.web[family], 80);
      assert.match(await talker.ask(), /^web/);
      second.flows.clear();
      await wait(1100);
      assert.equal(await talker.ask('hello'), 'echo hello');
      first.close();
      second.close();
      second = openSecond();
      assert.equal(
        await talker.ask('to the new agent of the backend'),
        'echo to the new agent of the backend',
      );
      first = openFirst();
      assert.equal(await talker.ask('to both'), 'echo to both');
      const [seen] = await a.attempt('tcp', from(), VIPS.web[family], 80);
      assert.equal(seen!.result, 'ok');
    });

    test(`${family}: connections go on while the annotation changes, new ones go the new way`, async () => {
      const talkers = [];
      for (const [forwarding, sees] of [
        ['dsr-option', client[family]],
        ['dsr-ipip', client[family]],
        ['snat', NODE_A[family]],
        ['dsr-option', client[family]],
      ] as const) {
        program(first, 'node-a', forwarding);
        program(second, 'node-b', forwarding);
        const talker = a.hold(from(), VIPS.web[family], 80);
        assert.equal(host((await talker.ask()).split(' ')[1]), sees, forwarding);
        talkers.push(talker);
        for (const each of talkers) assert.equal(await each.ask(forwarding), `echo ${forwarding}`);
      }
      await wait(1100);
      for (const each of talkers) assert.equal(await each.ask('late'), 'echo late');
    });

    test(`${family}: nobody but a node is believed`, async () => {
      const told: Told = { vip: VIPS.web[family], port: 53, node: NODE_A[family] };
      const macs = (netns: string, link: string, from = netns, out = link) => ({
        target: a.link(link, netns).address,
        source: a.link(out, from).address,
      });
      const segment = (sourcePort: number, to: string): Segment => ({
        from: client[family],
        to,
        protocol: 'udp',
        sourcePort,
        targetPort: 8080,
        payload: Buffer.from('evil'),
      });
      const send = (
        netns: string,
        link: string,
        frameOf: Uint8Array,
        mac: { source: string; target: string },
      ) => {
        const bytes = Buffer.from(frameOf);
        Buffer.from(mac.target.replaceAll(':', ''), 'hex').copy(bytes, 0);
        Buffer.from(mac.source.replaceAll(':', ''), 'hex').copy(bytes, 6);
        const code = `import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('${link}', 0)); s.send(bytes.fromhex('${bytes.toString('hex')}'))`;
        a.exec(['python3', '-c', code], netns);
      };
      const web = pods.web[family];
      const attempts: { who: string; counts: EbpfEngine | undefined; run: (port: number) => void }[] = [
        {
          who: 'the node itself',
          counts: undefined,
          run: (port) =>
            send(
              a.prefix,
              'ab',
              withOption(frame(segment(port, web)), told),
              macs(b.prefix, 'ba', a.prefix, 'ab'),
            ),
        },
        {
          who: 'another host on the link of the nodes',
          counts: second,
          run: (port) =>
            send(a.prefix, 'ab', withOption(frame(segment(port, web)), told), {
              ...macs(b.prefix, 'ba'),
              source: '02:00:00:00:be:ef',
            }),
        },
        {
          who: 'another host that names itself',
          counts: second,
          run: (port) =>
            send(
              a.prefix,
              'ab',
              withOption(frame(segment(port, web)), {
                ...told,
                node: family === 'ip4' ? '172.40.0.66' : 'fd00:40::66',
              }),
              macs(b.prefix, 'ba', a.prefix, 'ab'),
            ),
        },
        {
          who: 'a client on its own link',
          counts: second,
          run: (port) =>
            send(
              client.netns,
              'eth1',
              withOption(frame(segment(port, web)), told),
              macs(b.prefix, 'cl', client.netns, 'eth1'),
            ),
        },
        {
          who: 'a client behind another node, which does not pass it on',
          counts: first,
          run: (port) =>
            send(
              client.netns,
              'eth0',
              withOption(frame(segment(port, web)), told),
              macs(a.prefix, 'up20', client.netns, 'eth0'),
            ),
        },
        {
          who: 'a pod of another node',
          counts: first,
          run: (port) =>
            send(
              own.netns,
              'eth0',
              withOption(frame({ ...segment(port, web), from: own[family] }), told),
              macs(a.prefix, 'po2', own.netns, 'eth0'),
            ),
        },
      ];
      let port = 7000;
      for (const { who, counts, run } of attempts) {
        port++;
        const inside = await capture(pods.web.netns, 'eth0', `udp src port ${port}`);
        const before = counts?.counters()['drop-option'] ?? 0;
        run(port);
        assert.equal((await inside.stop()).length, counts ? 0 : 1, who);
        if (counts) assert.equal(counts.counters()['drop-option'], before + 1, who);
      }
      // A node that is believed still gives no pod the look of what no Service is.
      const before = second.counters()['drop-direct']!;
      send(
        a.prefix,
        'ab',
        withOption(frame(segment(7999, web)), { ...told, port: 99 }),
        macs(b.prefix, 'ba', a.prefix, 'ab'),
      );
      assert.equal(second.counters()['drop-direct'], before + 1);
    });
  }
});
