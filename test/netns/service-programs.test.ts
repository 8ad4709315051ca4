/** The packet programs alone, by BPF_PROG_TEST_RUN: built packets in, verdicts and packets out. */
import assert from 'node:assert/strict';
import test, { after, before, describe } from 'node:test';
import type { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import { withOption } from '../lib/dsr-option.ts';
import { FRONTENDS, openWithFrontends } from '../lib/lb-programs.ts';
import { frame, ipPacket, type Read, readFrame, readIp, type Segment, TCP } from '../lib/packet.ts';
import { ServiceNode } from '../lib/services.ts';

const NEXT = 0xffff_ffff;
const DROP = 2;
const REDIRECT = 7;
const NAMES: Record<number, string> = { [NEXT]: 'next', [DROP]: 'drop', [REDIRECT]: 'redirect' };

const families = [
  {
    family: 'IPv4',
    ...FRONTENDS.IPv4,
    pod: '10.244.1.5',
    backend: '10.244.2.2',
    router: '192.168.0.254',
  },
  {
    family: 'IPv6',
    ...FRONTENDS.IPv6,
    pod: 'fd00:10:244:1::5',
    backend: 'fd00:10:244:2::2',
    router: 'fd00::fe',
  },
] as const;

describe('packet programs', () => {
  let node: ServiceNode;
  let engine: EbpfEngine;
  let port = 40_000;

  before(() => {
    node = ServiceNode.create('p');
    engine = openWithFrontends(node, { ip4: families[0].backend, ip6: families[1].backend }, 'node-b');
  });

  after(async () => {
    engine?.remove();
    await node?.[Symbol.asyncDispose]();
  });

  function run(
    program: 'lb_from_pod' | 'lb_to_pod',
    packet: Uint8Array,
  ): { verdict: string; data: Uint8Array } {
    const { returned, data } = engine.programs.get(program)!.run({ data: packet });
    return { verdict: NAMES[returned] ?? String(returned), data };
  }
  const fromPod = (s: Segment) => {
    const { verdict, data } = run('lb_from_pod', frame(s));
    return { verdict, packet: readFrame(data) };
  };
  const toPod = (s: Segment) => {
    const { verdict, data } = run('lb_to_pod', frame(s));
    return { verdict, packet: readFrame(data) };
  };
  const shown = (p: Read) => `${p.from} ${p.sourcePort} > ${p.to} ${p.targetPort}`;

  for (const f of families) {
    const syn = (more: Partial<Segment> = {}): Segment => ({
      from: f.pod,
      to: f.vip,
      protocol: 'tcp',
      sourcePort: ++port,
      targetPort: 80,
      ...more,
    });

    test(`${f.family}: a SYN goes to a backend, and its answer comes from the VIP`, () => {
      const first = syn({ payload: Buffer.from('abc') });
      const { verdict, packet } = fromPod(first);
      assert.equal(verdict, 'next');
      assert.equal(shown(packet), `${f.pod} ${first.sourcePort} > ${f.backend} 8080`);
      assert.deepEqual(packet.wrong, []);
      assert.equal(Buffer.from(packet.payload).toString(), 'abc');
      const answer = toPod({
        from: f.backend,
        to: f.pod,
        protocol: 'tcp',
        sourcePort: 8080,
        targetPort: first.sourcePort!,
        flags: TCP.SYN | TCP.ACK,
      });
      assert.equal(answer.verdict, 'next');
      assert.equal(shown(answer.packet), `${f.vip} 80 > ${f.pod} ${first.sourcePort}`);
      assert.deepEqual(answer.packet.wrong, []);
      const next = fromPod({ ...first, flags: TCP.ACK });
      assert.equal(shown(next.packet), `${f.pod} ${first.sourcePort} > ${f.backend} 8080`);
    });

    test(`${f.family}: datagrams keep their checksum right, and one without stays without`, () => {
      for (const noChecksum of [false, true]) {
        const { verdict, packet } = fromPod(
          syn({ protocol: 'udp', targetPort: 53, noChecksum, payload: Buffer.from('odd') }),
        );
        assert.equal(verdict, 'next');
        assert.equal(packet.to, f.backend);
        assert.deepEqual(packet.wrong, []);
      }
    });

    test(`${f.family}: what is for nobody of ours passes as it was`, () => {
      for (const packet of [
        frame(syn({ to: f.router })),
        frame(syn({ to: f.backend, protocol: 'udp' })),
        frame(syn({ to: f.router, protocol: 'icmp', type: f.family === 'IPv4' ? 8 : 128 })),
      ]) {
        const { verdict, data } = run('lb_from_pod', packet);
        assert.equal(verdict, 'next');
        assert.deepEqual(data, packet);
        const back = run('lb_to_pod', packet);
        assert.equal(back.verdict, 'next');
        assert.deepEqual(back.data, packet);
      }
    });

    test(`${f.family}: without endpoints a SYN is answered by a reset, as RFC 9293 words it`, () => {
      const packet = syn({ to: f.empty, sequence: 77, payload: Buffer.from('data') });
      const { verdict, packet: answer } = fromPod(packet);
      assert.equal(verdict, 'redirect');
      assert.equal(shown(answer), `${f.empty} 80 > ${f.pod} ${packet.sourcePort}`);
      assert.equal(answer.flags, TCP.RST | TCP.ACK);
      assert.equal(answer.sequence, 0);
      assert.equal(answer.acknowledged, 77 + 4 + 1);
      assert.deepEqual(answer.wrong, []);
      assert.deepEqual(answer.macs, { target: [2, 0, 0, 0, 0, 1], source: [2, 0, 0, 0, 0, 2] });
    });

    test(`${f.family}: a segment of no connection is reset with the sequence that it acknowledges`, () => {
      const { verdict, packet } = fromPod(syn({ flags: TCP.ACK | TCP.PSH, acknowledged: 4242 }));
      assert.equal(verdict, 'redirect');
      assert.equal(packet.flags, TCP.RST);
      assert.equal(packet.sequence, 4242);
      assert.deepEqual(packet.wrong, []);
      assert.equal(fromPod(syn({ flags: TCP.RST })).verdict, 'drop');
    });

    test(`${f.family}: without endpoints a datagram is answered by port unreachable with its head in it`, () => {
      const sent = syn({
        to: f.empty,
        protocol: 'udp',
        targetPort: 53,
        payload: new Uint8Array(600).fill(1),
      });
      const { verdict, packet } = fromPod(sent);
      assert.equal(verdict, 'redirect');
      assert.deepEqual([packet.from, packet.to], [f.empty, f.pod]);
      assert.deepEqual([packet.type, packet.code], f.unreachable);
      assert.deepEqual(packet.wrong, []);
      assert.deepEqual(packet.payload, ipPacket(sent).subarray(0, packet.payload.length));
      assert.equal(packet.payload.length, f.family === 'IPv4' ? 28 : 48);
    });

    test(`${f.family}: policy Local without local endpoints drops, and counts it`, () => {
      const before = engine.counters()['drop-no-local']!;
      assert.equal(fromPod(syn({ to: f.lost })).verdict, 'drop');
      assert.equal(fromPod(syn({ to: f.lost, protocol: 'udp', targetPort: 53 })).verdict, 'drop');
      assert.equal(engine.counters()['drop-no-local'], before + 2);
    });

    test(`${f.family}: a wrong port, a ping and a foreign protocol of a VIP are refused, a free address is dropped`, () => {
      assert.equal(fromPod(syn({ targetPort: 81 })).packet.flags & TCP.RST, TCP.RST);
      const ping = fromPod(
        syn({ protocol: 'icmp', type: f.family === 'IPv4' ? 8 : 128, payload: new Uint8Array(16) }),
      );
      assert.equal(ping.verdict, 'redirect');
      assert.deepEqual([ping.packet.type, ping.packet.code], f.unreachable);
      const before = engine.counters()['drop-unallocated']!;
      assert.equal(fromPod(syn({ to: f.nobody })).verdict, 'drop');
      assert.equal(engine.counters()['drop-unallocated'], before + 1);
    });

    test(`${f.family}: what another proxy serves passes as it is, on any port and of any protocol`, () => {
      const type = f.family === 'IPv4' ? 8 : 128;
      for (const sent of [
        syn({ to: f.notOurs }),
        syn({ to: f.notOurs, protocol: 'udp', targetPort: 9 }),
        syn({ to: f.notOurs, protocol: 'icmp', type, payload: new Uint8Array(16) }),
      ])
        assert.equal(fromPod(sent).verdict, 'next');
    });

    test(`${f.family}: an ICMP error about a translated packet names the VIP again`, () => {
      const sent = syn({ protocol: 'udp', targetPort: 53, payload: new Uint8Array(32) });
      const translated = fromPod(sent).packet;
      const inner = ipPacket({ ...sent, to: f.backend, targetPort: translated.targetPort });
      const [type, code] = f.unreachable;
      for (const reporter of [f.backend, f.router]) {
        const { verdict, packet } = toPod({
          from: reporter,
          to: f.pod,
          protocol: 'icmp',
          type,
          code,
          payload: inner,
        });
        assert.equal(verdict, 'next');
        assert.equal(packet.from, reporter === f.backend ? f.vip : reporter);
        assert.deepEqual(packet.wrong, []);
        const about = readIp(packet.payload);
        assert.equal(shown(about), `${f.pod} ${sent.sourcePort} > ${f.vip} 53`);
        assert.ok(!about.wrong.includes('ip'));
      }
    });

    test(`${f.family}: an ICMP error of the pod about an answer goes to the backend`, () => {
      const sent = syn({ protocol: 'udp', targetPort: 53 });
      fromPod(sent);
      const [type, code] = f.unreachable;
      const inner = ipPacket({
        from: f.vip,
        to: f.pod,
        protocol: 'udp',
        sourcePort: 53,
        targetPort: sent.sourcePort!,
      });
      const { verdict, packet } = fromPod({
        from: f.pod,
        to: f.vip,
        protocol: 'icmp',
        type,
        code,
        payload: inner,
      });
      assert.equal(verdict, 'next');
      assert.deepEqual(packet.wrong, []);
      assert.equal(packet.to, f.backend);
      assert.equal(shown(readIp(packet.payload)), `${f.backend} 8080 > ${f.pod} ${sent.sourcePort}`);
      const lost = { from: f.pod, to: f.vip, protocol: 'icmp' as const, type, code };
      assert.equal(
        fromPod({ ...lost, payload: inner.map((b, at) => (at === inner.length - 6 ? 1 : b)) }).verdict,
        'drop',
      );
    });

    test(`${f.family}: what only nodes say is dropped when a pod says it, and nothing else that looks like it`, () => {
      const told = withOption(frame(syn({ to: f.router, protocol: 'udp' })), {
        vip: f.vip,
        port: 80,
        node: f.router,
      });
      const before = engine.counters()['drop-option']!;
      assert.equal(run('lb_from_pod', told).verdict, 'drop');
      assert.equal(engine.counters()['drop-option'], before + 1);
      // Each byte that makes it what it is: type, length, and in IPv6 the header's length and the mark.
      const at = f.family === 'IPv4' ? [34, 35] : [55, 56, 57, 60, 61];
      for (const place of at) {
        const other = told.slice();
        other[place]! ^= 0x01;
        const { verdict, data } = run('lb_from_pod', other);
        assert.equal(verdict, 'next', `byte ${place}`);
        assert.deepEqual(data, other);
      }
      assert.equal(engine.counters()['drop-option'], before + 1);
    });

    test(`${f.family}: a packet cut at any byte is never a fault`, () => {
      // A test run takes no packet without a whole IP header.
      for (const whole of [
        frame(syn()),
        frame(syn({ protocol: 'udp', targetPort: 53 })),
        frame(syn({ to: f.empty, protocol: 'udp', targetPort: 53 })),
        frame(syn({ protocol: 'icmp', type: 3, payload: ipPacket(syn()) })),
      ])
        for (let length = f.family === 'IPv4' ? 34 : 54; length <= whole.length; length++) {
          run('lb_from_pod', whole.subarray(0, length));
          run('lb_to_pod', whole.subarray(0, length));
        }
    });
  }

  test('later fragments follow the first one, and alone they are dropped', () => {
    const sent: Segment = {
      from: '10.244.1.5',
      to: '10.96.0.10',
      protocol: 'udp',
      sourcePort: ++port,
      targetPort: 53,
      payload: new Uint8Array(64),
      fragment: { offset: 0, more: true, id: 9 },
    };
    assert.equal(fromPod(sent).packet.to, '10.244.2.2');
    const later = frame({ ...sent, fragment: { offset: 9, more: false, id: 9 } });
    const { verdict, data } = run('lb_from_pod', later);
    assert.equal(verdict, 'next');
    assert.equal(readFrame(data).to, '10.244.2.2');
    assert.ok(!readFrame(data).wrong.includes('ip'));
    assert.deepEqual(data.subarray(34), later.subarray(34));
    const before = engine.counters()['drop-fragment']!;
    assert.equal(
      run('lb_from_pod', frame({ ...sent, fragment: { offset: 9, more: false, id: 10 } })).verdict,
      'drop',
    );
    assert.equal(engine.counters()['drop-fragment'], before + 1);
  });

  test('a client port that speaks to several VIPs keeps their answers apart', () => {
    const sourcePort = ++port;
    const common = { protocol: 'udp' as const, sourcePort, targetPort: 53 };
    fromPod({ ...common, from: '10.244.1.5', to: '10.96.0.10' });
    const tcp = fromPod({
      from: '10.244.1.5',
      to: '10.96.0.10',
      protocol: 'tcp',
      sourcePort,
      targetPort: 80,
    });
    assert.equal(tcp.packet.to, '10.244.2.2');
    for (const protocol of ['udp', 'tcp'] as const) {
      const { packet } = toPod({
        from: '10.244.2.2',
        to: '10.244.1.5',
        protocol,
        sourcePort: 8080,
        targetPort: sourcePort,
        flags: TCP.ACK,
      });
      assert.equal(packet.sourcePort, protocol === 'udp' ? 53 : 80);
    }
  });

  test('a client port that was used through a VIP may be used for the backend directly', () => {
    const sourcePort = ++port;
    const through = {
      from: '10.244.1.5',
      to: '10.96.0.10',
      protocol: 'tcp' as const,
      sourcePort,
      targetPort: 80,
    };
    const answer = {
      from: '10.244.2.2',
      to: '10.244.1.5',
      protocol: 'tcp' as const,
      sourcePort: 8080,
      targetPort: sourcePort,
      flags: TCP.SYN | TCP.ACK,
    };
    fromPod(through);
    assert.equal(toPod(answer).packet.from, '10.96.0.10');
    toPod({ ...answer, flags: TCP.RST });
    const direct = { ...through, to: '10.244.2.2', targetPort: 8080 };
    assert.equal(fromPod(direct).packet.to, '10.244.2.2');
    assert.equal(toPod(answer).packet.from, '10.244.2.2');
  });

  test('two VIPs before one backend do not mix up a client port that is used for one after the other', () => {
    const sourcePort = ++port;
    const to = (targetPort: number) => ({
      from: '10.244.1.5',
      to: '10.96.0.10',
      protocol: 'tcp' as const,
      sourcePort,
      targetPort,
    });
    const answer = {
      from: '10.244.2.2',
      to: '10.244.1.5',
      protocol: 'tcp' as const,
      sourcePort: 8080,
      targetPort: sourcePort,
      flags: TCP.SYN | TCP.ACK,
    };
    fromPod(to(80));
    fromPod({ ...to(80), flags: TCP.RST });
    fromPod(to(8080));
    assert.equal(toPod(answer).packet.sourcePort, 8080);
  });

  test('explainPacket() tells what the loaded program does with a packet, names the entries and leaves no flow', () => {
    const ask = (target: string, targetPort: number, client: 'pod' | 'outside' = 'pod') =>
      engine.explainPacket({ client, source: '10.244.1.77', target, targetPort, protocol: 'TCP' });
    const forward = ask('10.96.0.10', 80);
    assert.equal(forward.verdict, 'forward');
    assert.equal(forward.backend, '10.244.2.2:8080');
    assert.equal(forward.reason, 'forward-flow');
    assert.match(
      forward.entries.join('\n'),
      /^lb_frontends\[10\.96\.0\.10:80\/TCP\] = id \d+, service \d+.*\nlb_tables\[\d+\] entry 0 of 1 = \d+\nlb_backends\[\d+\] = 10\.244\.2\.2:8080/,
    );
    assert.equal(ask('10.96.0.10', 80, 'outside').masquerade, true);
    assert.deepEqual(
      [ask('10.96.0.11', 80).verdict, ask('10.96.0.11', 80).reason],
      ['reject', 'reject-no-endpoint'],
    );
    assert.deepEqual(
      [ask('10.96.0.12', 80).verdict, ask('10.96.0.12', 80).reason],
      ['drop', 'drop-no-local'],
    );
    assert.deepEqual(
      [ask('10.96.0.10', 81).verdict, ask('10.96.0.10', 81).reason],
      ['reject', 'reject-unknown-port'],
    );
    assert.deepEqual(
      [ask('10.96.0.99', 80).verdict, ask('10.96.0.99', 80).reason],
      ['drop', 'drop-unallocated'],
    );
    assert.equal(ask('192.0.2.1', 80).verdict, 'pass');
    const six = { source: 'fd00::77', target: 'fd00:10:96::10', targetPort: 80, protocol: 'TCP' as const };
    assert.equal(engine.explainPacket({ client: 'pod', ...six }).backend, '[fd00:10:244:2::2]:8080');
    const other = engine.explainPacket({ client: 'pod', ...six, target: 'fd00:10:96::98' });
    assert.equal(other.verdict, 'pass');
    assert.match(other.entries.at(-1)!, /a ClusterIP that another proxy serves/);
    const node = engine.explainPacket({ client: 'node', ...six, source: '::1' });
    assert.deepEqual([node.reason, node.backend], ['forward-socket', '[fd00:10:244:2::2]:8080']);
    const flows = [...engine.flows.all()].filter(
      ({ flow }) => flow.client[15] === 77 || flow.client[15] === 1,
    );
    assert.deepEqual(flows, []);
  });

  test('programs stay within their budgets of instructions', () => {
    // Loaded instructions, and those that the verifier walks through; Katran: 3,165 and 88,879.
    const budgets: Record<string, readonly [loaded: number, verified: number]> = {
      lb_connect4: [790, 2100],
      lb_connect6: [820, 2100],
      lb_sendmsg4: [1000, 8600],
      lb_sendmsg6: [1030, 8600],
      lb_recvmsg4: [190, 1900],
      lb_recvmsg6: [230, 2300],
      lb_getpeername4: [190, 1900],
      lb_getpeername6: [230, 2300],
      lb_sock_release: [80, 120],
      lb_from_pod: [6800, 95_000],
      lb_to_pod: [2300, 48_000],
      lb_from_outside: [18_400, 320_000],
      lb_from_overlay: [10_600, 130_000],
      lb_xdp: [13_000, 310_000],
      lb_flow_sweep: [1500, 90_000],
      lb_flow_edit: [1500, 90_000],
      lb_nat_sweep: [450, 45_000],
      lb_to_outside: [2300, 48_000],
    };
    for (const [name, program] of engine.programs) {
      const { translatedBytes, verifiedInstructions } = program.info();
      const [loaded, verified] = budgets[name]!;
      assert.ok(translatedBytes / 8 <= loaded, `${name} has ${translatedBytes / 8} instructions`);
      assert.ok(verifiedInstructions <= verified, `${name}: ${verifiedInstructions} verified`);
    }
    assert.equal(engine.programs.size, Object.keys(budgets).length);
  });
});
