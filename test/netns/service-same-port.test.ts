/**
 * One port of a client through several Services to one and the same backend, by packets: to the backend all of it would
 * be one connection. A kernel may choose so, as the Services' addresses differ; a DNS client with two servers does.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import test, { after, before, describe } from 'node:test';
import { promisify } from 'node:util';
import type { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import { serviceFacts } from '../../src/service/facts.ts';
import { aService } from '../../src/service/testing.ts';
import { frame, ipPacket, readFrame, readIp, type Segment, TCP } from '../lib/packet.ts';
import { applyAll, openEngine, plannerOf, slicesOf } from '../lib/service-engine.ts';
import { ServiceNode, type TestPod } from '../lib/services.ts';

const run = promisify(execFile);

const VIPS = {
  ip4: Array.from({ length: 9 }, (_, at) => `10.96.0.${11 + at}`),
  ip6: Array.from({ length: 9 }, (_, at) => `fd00:10:96::${11 + at}`),
} as const;

/** Opens a connection to each VIP from one port, and speaks on all of them in turn, twice. */
const STREAMS = String.raw`
import json, socket, sys
port, vips = int(sys.argv[1]), sys.argv[2].split(',')
family = socket.AF_INET6 if ':' in vips[0] else socket.AF_INET
open_ones, out = [], []
for vip in vips:
    s = socket.socket(family, socket.SOCK_STREAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.settimeout(4); s.bind(('', port))
    try:
        s.connect((vip, 80)); f = s.makefile('rb'); out.append(f.readline().decode().split()[0]); open_ones.append((s, f))
    except OSError as e: out.append(type(e).__name__)
for round in range(2):
    for at, (s, f) in enumerate(open_ones):
        text = 'line %d of %d\n' % (round, at)
        try: s.sendall(text.encode()); out.append('same' if f.readline().decode() == text else 'other')
        except OSError as e: out.append(type(e).__name__)
print(json.dumps(out))
`;

/** Asks each VIP in turn from one socket, three times; says who each answer seems to come from. */
const DATAGRAMS = `
import json, socket, sys
port, vips = int(sys.argv[1]), sys.argv[2].split(',')
s = socket.socket(socket.AF_INET6 if ':' in vips[0] else socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2); s.bind(('', port))
out = []
for round in range(3):
    for vip in vips: s.sendto(b'x', (vip, 80))
    got = []
    try:
        for vip in vips: got.append(s.recvfrom(100)[1][0])
    except OSError as e: got.append(type(e).__name__)
    out.append(sorted(got))
print(json.dumps(out))
`;

/** Serves a connection and ends it late: the client has long gone through another VIP then. */
const SLOW_SERVER = String.raw`
import socket, sys, threading, time
l = socket.socket(socket.AF_INET6, socket.SOCK_STREAM); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
l.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0); l.bind(('::', 8081)); l.listen(8)
def one(c):
    c.sendall(b'hello\n'); c.recv(1); time.sleep(0.5); c.close()
print('ready', flush=True)
while True: threading.Thread(target=one, args=(l.accept()[0],)).start()
`;

/** One connection after the other from one port, each closed before the next; how long each took. */
const AGAIN = `
import json, socket, sys, time
port, vips = int(sys.argv[1]), sys.argv[2].split(',')
out = []
for vip in vips:
    start = time.time()
    s = socket.socket(socket.AF_INET6 if ':' in vip else socket.AF_INET, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.settimeout(5); s.bind(('', port))
    try: s.connect((vip, 81)); out.append(s.makefile('rb').readline().decode().strip())
    except OSError as e: out.append(type(e).__name__)
    s.close()
print(json.dumps(out))
`;

describe('one port of a client through several Services', () => {
  let node: ServiceNode;
  let engine: EbpfEngine;
  let client: TestPod;
  let server: TestPod;
  const families = ['ip4', 'ip6'] as const;
  let port = 45_000;
  const slows: ChildProcess[] = [];

  before(async () => {
    node = ServiceNode.create('sp');
    client = node.addPod('client');
    server = node.addPod('server');
    for (const pod of [client, server]) {
      for (const family of families) await node.serve(pod.name, pod.netns, pod[family], 8080);
      const slow = spawn('ip', ['netns', 'exec', pod.netns, 'python3', '-c', SLOW_SERVER]);
      slows.push(slow);
      await once(slow.stdout, 'data');
    }
    engine = openEngine(node);
    engine.setServiceRanges(['10.96.0.0/16', 'fd00:10:96::/112']);
    for (const pod of node.pods) engine.attachPodLink(pod.ifindex);
  });

  after(async () => {
    for (const slow of slows) slow.kill('SIGKILL');
    engine?.remove();
    await node?.[Symbol.asyncDispose]();
  });

  /** All Services lead to this pod. */
  function lead(pod: TestPod): void {
    const ports = [
      { name: 'tcp', port: 80, protocol: 'TCP' as const },
      { name: 'udp', port: 80, protocol: 'UDP' as const },
      { name: 'slow', port: 81, protocol: 'TCP' as const, targetPort: 8081 },
    ];
    const services = VIPS.ip4.map((vip, at) =>
      serviceFacts(
        aService(
          {
            clusterIPs: [vip, VIPS.ip6[at]!],
            ports,
          },
          { name: `s${at}` },
        ),
      ),
    );
    const slices = services.flatMap(({ key }) => slicesOf([pod], ports, { service: key.slice(8) }));
    applyAll(engine, plannerOf(services, slices));
  }

  const python = async (script: string, vips: readonly string[]) => {
    const { stdout } = await run('ip', [
      ...['netns', 'exec', client.netns, 'python3', '-c', script],
      ...[String(++port), vips.join()],
    ]);
    return JSON.parse(stdout) as unknown;
  };

  for (const [who, pod] of [
    ['another pod', () => server],
    ['itself', () => client],
  ] as const)
    for (const family of families) {
      const vips = VIPS[family].slice(0, 3);
      test(`${family}: connections to ${who} at the same time are kept apart`, async () => {
        lead(pod());
        assert.deepEqual(await python(STREAMS, vips), [
          ...vips.map(() => pod().name),
          ...[...vips, ...vips].map(() => 'same'),
        ]);
      });

      test(`${family}: datagrams to ${who} are answered by whom they were sent to`, async () => {
        lead(pod());
        assert.deepEqual(
          await python(DATAGRAMS, vips),
          Array.from({ length: 3 }, () => vips.toSorted()),
        );
      });

      test(`${family}: a connection to ${who} that is closing does not take the answers of the next one`, async () => {
        lead(pod());
        assert.deepEqual(
          await python(AGAIN, vips),
          vips.map(() => 'hello'),
        );
      });
    }

  /** Runs a program as for link lo, which no other test uses. */
  const through = (program: 'lb_from_pod' | 'lb_to_pod', s: Segment) => {
    const { returned, data } = engine.programs.get(program)!.run({ data: frame(s) });
    return { returned, packet: readFrame(data) };
  };
  const DROP = 2;

  for (const family of families) {
    const vips = VIPS[family];
    const from = family === 'ip4' ? '10.244.9.9' : 'fd00:10:244:9::9';
    const syn = (to: string, sourcePort: number): Segment => ({
      ...{ from, to, protocol: 'tcp', sourcePort, targetPort: 80 },
    });

    test(`${family}: an ICMP error about a packet with another port names what was sent, both ways`, () => {
      lead(server);
      const own = ++port;
      const datagram = (to: string): Segment => ({ ...syn(to, own), protocol: 'udp' });
      const first = through('lb_from_pod', datagram(vips[0]!)).packet;
      const second = through('lb_from_pod', datagram(vips[1]!)).packet;
      assert.equal(first.sourcePort, own);
      assert.notEqual(second.sourcePort, own);
      assert.deepEqual([second.to, second.targetPort, second.wrong], [server[family], 8080, []]);
      const [type, code] = family === 'ip4' ? [3, 3] : [1, 4];
      const told = through('lb_to_pod', {
        ...{ from: server[family], to: from, protocol: 'icmp', type, code },
        payload: ipPacket({ ...datagram(server[family]), sourcePort: second.sourcePort, targetPort: 8080 }),
      }).packet;
      assert.deepEqual([told.from, told.wrong], [vips[1], []]);
      const about = readIp(told.payload);
      assert.deepEqual([about.from, about.sourcePort, about.to, about.targetPort], [from, own, vips[1], 80]);
      const complaint = through('lb_from_pod', {
        ...{ from, to: vips[1]!, protocol: 'icmp', type, code },
        payload: ipPacket({
          ...{ from: vips[1]!, to: from, protocol: 'udp', sourcePort: 80, targetPort: own },
        }),
      }).packet;
      assert.deepEqual([complaint.to, complaint.wrong], [server[family], []]);
      const shown = readIp(complaint.payload);
      assert.deepEqual(
        [shown.from, shown.sourcePort, shown.to, shown.targetPort],
        [server[family], 8080, from, second.sourcePort],
      );
    });

    test(`${family}: of nine connections eight are kept apart, and the ninth comes when one is over`, () => {
      lead(server);
      // Its low 13 bits are 4,040: none of its ways is below 1,024.
      const own = 4040 + 5 * 8192;
      const open = vips.slice(0, 8).map((vip) => through('lb_from_pod', syn(vip, own)).packet);
      assert.equal(new Set(open.map(({ sourcePort }) => sourcePort)).size, 8);
      const full = () => engine.counters()['drop-flows-full']!;
      const before = full();
      assert.equal(through('lb_from_pod', syn(vips[8]!, own)).returned, DROP);
      assert.equal(full(), before + 1);
      // A SYN that is repeated stays by its port.
      assert.equal(through('lb_from_pod', syn(vips[5]!, own)).packet.sourcePort, open[5]!.sourcePort);
      through('lb_from_pod', { ...syn(vips[3]!, own), flags: TCP.RST });
      assert.equal(through('lb_from_pod', syn(vips[8]!, own)).packet.sourcePort, open[3]!.sourcePort);
      // Where a way leads below 1,024 it is left out.
      const low = 100 + 5 * 8192;
      const few = vips.slice(0, 8).map((vip) => through('lb_from_pod', syn(vip, low)));
      assert.deepEqual(
        few.map(({ returned }) => returned === DROP),
        few.map((_, at) => at === 7),
      );
      assert.ok(few.slice(0, 7).every(({ packet }) => packet.sourcePort >= 1024));
    });

    test(`${family}: where an earlier version noted only that there are ways, all are looked at`, () => {
      lead(server);
      const own = ++port;
      const open = vips.slice(0, 3).map((vip) => through('lb_from_pod', syn(vip, own)).packet);
      const { lb_links } = engine.maps;
      const LO = Uint8Array.of(1, 0, 0, 0);
      const now = lb_links.get(LO)!;
      lb_links.set(LO, Uint8Array.of(0b11, 0, 0, 0));
      try {
        for (const [at, { sourcePort: targetPort }] of open.entries()) {
          const answer = { from: server[family], to: from, protocol: 'tcp', sourcePort: 8080, targetPort };
          const { packet } = through('lb_to_pod', { ...answer, flags: TCP.SYN | TCP.ACK } as Segment);
          assert.deepEqual([packet.from, packet.targetPort], [vips[at], own]);
        }
      } finally {
        lb_links.set(LO, now);
      }
    });

    test(`${family}: another client's port is never taken: whoever comes second moves`, () => {
      lead(server);
      const own = ++port;
      through('lb_from_pod', syn(vips[0]!, own));
      const moved = through('lb_from_pod', syn(vips[1]!, own)).packet.sourcePort;
      // The client now uses that port itself, for the first VIP.
      const third = through('lb_from_pod', syn(vips[0]!, moved)).packet;
      assert.notEqual(third.sourcePort, moved);
      for (const [seen, vip, at] of [
        [own, vips[0], own],
        [moved, vips[1], own],
        [third.sourcePort, vips[0], moved],
      ] as const) {
        const { packet } = through('lb_to_pod', {
          ...{ from: server[family], to: from, protocol: 'tcp', sourcePort: 8080, targetPort: seen },
          flags: TCP.SYN | TCP.ACK,
        });
        assert.deepEqual(
          [packet.from, packet.sourcePort, packet.targetPort, packet.wrong],
          [vip, 80, at, []],
        );
      }
    });
  }
});
