/**
 * The programs at pods' links and towards clients, on contents of maps that packets alone do not bring about: flows that
 * change hands, places that are all taken, entries that lead nowhere, ids that mean somebody else now.
 */
import assert from 'node:assert/strict';
import test, { after, before, describe } from 'node:test';
import { viewOf } from '../../src/codec/index.ts';
import { jiffiesPerSecond } from '../../src/kernel/bpf/index.ts';
import type { Flow } from '../../src/service/engines/ebpf/flow-table.ts';
import type { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import {
  encodeEndpoint,
  FLOW,
  flowStruct,
  flowTableStruct,
  frontendStruct,
  HOLD,
  passedKeyStruct,
  passedStruct,
  writeAddress,
} from '../../src/service/engines/ebpf/layout.ts';
import { MapContents, u32 } from '../lib/lb-map-contents.ts';
import { FRONTENDS, openWithFrontends } from '../lib/lb-programs.ts';
import { frame, ipPacket, type Read, readFrame, readIp, type Segment, TCP } from '../lib/packet.ts';
import { ServiceNode } from '../lib/services.ts';

const VERDICTS: Record<number, string> = { [0xffff_ffff]: 'next', 2: 'drop', 7: 'redirect' };
const NUMBER = { TCP: 6, UDP: 17 } as const;
type Program = 'lb_from_pod' | 'lb_to_pod' | 'lb_from_outside' | 'lb_to_outside' | 'lb_xdp';

const families = [
  {
    ...{
      family: 'IPv4',
      ...FRONTENDS.IPv4,
      pod: '10.244.1.5',
      backend: '10.244.2.2',
      hairpin: '169.254.112.111',
    },
    ...{ other: '10.244.1.6', error: [3, 3] as const },
  },
  {
    ...{ family: 'IPv6', ...FRONTENDS.IPv6, pod: 'fd00:10:244:1::5', backend: 'fd00:10:244:2::2' },
    ...{ hairpin: '100::706f', other: 'fd00:10:244:1::6', error: [1, 4] as const },
  },
] as const;
/** More ports of the VIP that lead to the same backend: more than a client's port has ways. */
const MORE_PORTS = [8081, 8082, 8083, 8084, 8085, 8086, 8087, 8088] as const;

function addressOf(text: string): Uint8Array {
  const bytes = new Uint8Array(16);
  writeAddress(bytes, 0, text);
  return bytes;
}

describe('programs and what their maps hold', () => {
  let node: ServiceNode;
  let engine: EbpfEngine;
  let contents: MapContents;
  let port = 40_000;

  before(() => {
    node = ServiceNode.create('ps');
    const backend = { ip4: families[0].backend, ip6: families[1].backend };
    // The smallest table: one chunk.
    engine = openWithFrontends(node, backend, 'node-b', { sizes: { flows: 8192, flowsLimit: 8192 } });
    contents = new MapContents(engine);
    using frontends = contents.frontends();
    for (const { vip } of families)
      for (const protocol of ['TCP', 'UDP'] as const)
        for (const more of MORE_PORTS)
          frontends.set(
            encodeEndpoint(vip, more, NUMBER[protocol]),
            frontends.get(encodeEndpoint(vip, protocol === 'TCP' ? 80 : 53, NUMBER[protocol]))!,
          );
  });

  after(async () => {
    engine?.remove();
    await node?.[Symbol.asyncDispose]();
  });

  function run(program: Program, bytes: Uint8Array) {
    const { returned, data } = engine.programs.get(program)!.run({ data: bytes });
    return { verdict: VERDICTS[returned] ?? String(returned), data };
  }
  /** The verdict, and whom the packet is from and to then. */
  function fate(program: Program, s: Segment): string {
    const { verdict, data } = run(program, frame(s));
    if (verdict !== 'next') return verdict;
    const p = readFrame(data);
    assert.deepEqual(p.wrong, []);
    return ends(p);
  }
  const ends = (p: Read) => `${p.from} ${p.sourcePort} > ${p.to} ${p.targetPort}`;
  function counted(name: string, work: () => void): number {
    const before = engine.counters()[name]!;
    work();
    return engine.counters()[name]! - before;
  }

  for (const f of families) {
    const syn = (more: Partial<Segment> = {}): Segment => ({
      ...{ from: f.pod, to: f.vip, protocol: 'tcp', sourcePort: ++port, targetPort: 80 },
      ...more,
    });
    const datagram = (more: Partial<Segment> = {}): Segment =>
      syn({ protocol: 'udp', targetPort: 53, ...more });
    const answerTo = ({ from, sourcePort, protocol }: Segment, more: Partial<Segment> = {}): Segment => ({
      ...{ from: f.backend, to: from, protocol, sourcePort: 8080, targetPort: sourcePort! },
      ...{ flags: TCP.SYN | TCP.ACK, ...more },
    });
    const errorAbout = (s: Segment, from: string, to: string): Segment => ({
      ...{ from, to, protocol: 'icmp', type: f.error[0], code: f.error[1], payload: ipPacket(s) },
    });
    const asItWas = (s: Segment) => `${s.from} ${s.sourcePort} > ${s.to} ${s.targetPort}`;
    const toBackend = (s: Segment) => `${s.from} ${s.sourcePort} > ${f.backend} 8080`;
    const idOfBackend = (): number => {
      const s = syn();
      fate('lb_from_pod', s);
      return flowOf(s).backend_id;
    };
    const flowOf = (s: Segment): Flow =>
      engine.flows.show({
        client: addressOf(s.from),
        clientPort: s.sourcePort!,
        vip: addressOf(s.to),
        vipPort: s.targetPort!,
        udp: s.protocol === 'udp',
      })!;
    const isOf = (s: Segment) => (flow: Flow) =>
      flow.client_port === s.sourcePort && Buffer.from(flow.client).equals(addressOf(s.from));

    if (f.family === 'IPv6')
      test('IPv6: a later fragment follows the first one, and nothing behind its headers is changed', () => {
        const sent = datagram({ payload: new Uint8Array(64).fill(5) });
        const whole = frame(sent);
        // RFC 8200, 4.5: next header, offset and M, identification.
        const part = (offset: number, more: number, id: number) => {
          const bytes = Uint8Array.from([
            ...whole.subarray(0, 54),
            ...[17, 0, (offset * 8) >> 8, ((offset * 8) & 0xff) | more, 0, 0, 0, id],
            ...whole.subarray(54 + offset * 8, offset === 0 ? 54 + 72 : undefined),
          ]);
          bytes[20] = 44;
          viewOf(bytes).setUint16(18, bytes.length - 54);
          return bytes;
        };
        const target = (bytes: Uint8Array) => Buffer.from(bytes.subarray(38, 54));
        assert.deepEqual(target(run('lb_from_pod', part(0, 1, 9)).data), Buffer.from(addressOf(f.backend)));
        const later = part(4, 0, 9);
        const { verdict, data } = run('lb_from_pod', later);
        assert.equal(verdict, 'next');
        assert.deepEqual(target(data), Buffer.from(addressOf(f.backend)));
        assert.deepEqual(Buffer.from(data.subarray(54)), Buffer.from(later.subarray(54)));
        assert.equal(run('lb_from_pod', part(4, 0, 10)).verdict, 'drop');
      });

    for (const [from, to] of [
      ['lb_from_pod', 'lb_to_pod'],
      ['lb_from_outside', 'lb_to_outside'],
    ] as const)
      test(`${f.family}: while flows change hands, ${from} lets go on, stand still or pass what it should`, () => {
        const known = syn();
        const ack = { ...known, flags: TCP.ACK };
        const answer = answerTo(known);
        const about = errorAbout({ ...answer, from: f.vip, sourcePort: 80 }, f.pod, f.vip);
        assert.equal(fate(from, known), toBackend(known));
        assert.equal(fate(to, answer), `${f.vip} 80 > ${f.pod} ${known.sourcePort}`);
        // Flows come from netfilter: what is unknown may soon be known.
        contents.held(HOLD.UNKNOWN, () => {
          assert.equal(fate(from, ack), toBackend(ack));
          const unknown = syn({ flags: TCP.ACK });
          assert.equal(
            counted('drop-hold', () => assert.equal(fate(from, unknown), 'drop')),
            1,
          );
          const opening = syn();
          assert.equal(fate(from, opening), toBackend(opening));
        });
        // Netfilter has what is unknown.
        contents.held(HOLD.PASS, () => {
          assert.equal(fate(from, ack), toBackend(ack));
          for (const s of [
            syn(),
            datagram(),
            syn({ targetPort: 81 }),
            syn({ to: f.nobody }),
            syn({ flags: TCP.ACK }),
          ])
            assert.equal(fate(from, s), asItWas(s));
        });
        // Known flows go to netfilter, and stand still meanwhile.
        contents.held(HOLD.KNOWN, () => {
          const times = counted('drop-hold', () => {
            assert.equal(fate(from, ack), 'drop');
            assert.equal(fate(to, answer), 'drop');
          });
          assert.equal(times, 2);
          const opening = syn();
          assert.equal(fate(from, opening), asItWas(opening));
          for (const [program, error] of [
            [from, about],
            [to, errorAbout({ ...known, to: f.backend, targetPort: 8080 }, f.other, f.pod)],
          ] as const) {
            const { verdict, data } = run(program, frame(error));
            assert.equal(verdict, 'next');
            assert.deepEqual(Buffer.from(data), Buffer.from(frame(error)));
          }
        });
        contents.held(HOLD.ALL, () => {
          assert.equal(fate(from, ack), asItWas(ack));
          assert.equal(fate(to, answer), asItWas(answer));
        });
        assert.equal(fate(from, ack), toBackend(ack));
      });

    test(`${f.family}: while flows change hands, XDP leaves all to tc, and a pod's answer to itself stands still`, () => {
      const known = syn({ from: f.other });
      assert.equal(fate('lb_from_outside', known), toBackend(known));
      for (const hold of [HOLD.UNKNOWN, HOLD.PASS, HOLD.KNOWN, HOLD.ALL])
        contents.held(hold, () => {
          for (const s of [known, syn()]) {
            const { returned, data } = engine.programs.get('lb_xdp')!.run({ data: frame(s) });
            assert.equal(returned, 2);
            assert.deepEqual(Buffer.from(data), Buffer.from(frame(s)));
          }
        });
      const own = syn({ from: f.backend });
      const { data } = run('lb_from_pod', frame(own));
      assert.equal(ends(readFrame(data)), `${f.hairpin} ${own.sourcePort} > ${f.backend} 8080`);
      const back = answerTo({ ...own, from: f.hairpin });
      contents.held(HOLD.KNOWN, () => assert.equal(fate('lb_from_pod', back), 'drop'));
      contents.held(HOLD.ALL, () => assert.equal(fate('lb_from_pod', back), asItWas(back)));
      assert.equal(fate('lb_from_pod', back), 'redirect');
    });

    test(`${f.family}: what netfilter translates passes for as long as it does, and while its backend serves`, () => {
      const { lb_passed } = engine.maps;
      const id = idOfBackend();
      const second = jiffiesPerSecond();
      const now = engine.flows.jiffies();
      const passes = (
        s: Segment,
        more: { idle?: number; seen?: number; backend_id?: number; port?: number },
      ) => {
        const protocol = NUMBER[s.protocol === 'tcp' ? 'TCP' : 'UDP'];
        const key = passedKeyStruct.encode({
          client: encodeEndpoint(s.from, s.sourcePort!, protocol),
          vip: encodeEndpoint(s.to, s.targetPort!, protocol),
        });
        const { port: backend_port = 8080, ...rest } = more;
        lb_passed.set(
          key,
          passedStruct.encode({
            ...{ backend: addressOf(f.backend), backend_port, backend_id: 0, seen: 0, idle: 0, ...rest },
          }),
        );
        const first = fate('lb_from_pod', s);
        assert.equal(fate('lb_from_pod', s), first);
        if (first === asItWas(s)) {
          const { seen } = passedStruct.decode(lb_passed.get(key)!);
          assert.ok((seen - now) >>> 0 < 60 * second, 'it is noted when it was seen');
        }
        lb_passed.delete(key);
        return first === asItWas(s);
      };
      const ack = () => syn({ flags: TCP.ACK });
      assert.ok(passes(ack(), {}));
      assert.ok(passes(ack(), { idle: 5 * second }), 'not seen yet');
      assert.ok(passes(ack(), { idle: 60 * second, seen: now - second }));
      assert.ok(!passes(ack(), { idle: 5 * second, seen: now - 6 * second }), 'idle for too long');
      assert.ok(passes(datagram(), { backend_id: id }));
      assert.ok(!passes(datagram(), { backend_id: id, port: 8081 }), 'the id is another backend by now');
      assert.ok(!passes(datagram(), { backend_id: 0xff_ffff }), 'there are not so many backends');
      const back = answerTo(syn({ from: f.hairpin }), { flags: TCP.ACK });
      assert.ok(passes({ ...back, to: f.hairpin }, {}), 'also a pod’s answer to itself');
    });

    test(`${f.family}: entries that lead nowhere make nobody a backend, and cost nothing else`, () => {
      const id = idOfBackend();
      using frontends = contents.frontends();
      const key = encodeEndpoint(f.vip, 80, NUMBER.TCP);
      const { inside_line: line } = frontendStruct.decode(frontends.get(key)!);
      const nobody = () =>
        assert.equal(
          counted('drop-no-backend', () => assert.equal(fate('lb_from_pod', syn()), 'drop')),
          1,
        );
      contents.firstOfTable(line, 0xff_ffff, nobody);
      contents.firstOfTable(line, 0, nobody);
      contents.frontend([f.vip, 80, 'TCP'], { inside_line: 0xff_fff0 }, nobody);
      contents.backend(id, { port: 0 }, nobody);
      // No frontends at all: nothing that is of a Service range leaves the node.
      const { lb_frontends } = engine.maps;
      lb_frontends.delete(u32(0));
      try {
        assert.equal(
          counted('drop-unallocated', () => assert.equal(fate('lb_from_pod', syn()), 'drop')),
          1,
        );
      } finally {
        lb_frontends.setFd(u32(0), frontends);
      }
      const next = syn();
      assert.equal(fate('lb_from_pod', next), toBackend(next));
    });

    test(`${f.family}: datagrams leave a backend whose id means another one, and affinity does so, too`, () => {
      const sent = datagram();
      fate('lb_from_pod', sent);
      const id = flowOf(sent).backend_id;
      const elsewhere = addressOf(f.other);
      for (const [change, want] of [
        [{ port: 8081 }, `${f.backend} 8081`],
        [{ address: elsewhere }, `${f.other} 8080`],
      ] as const)
        contents.backend(id, change, () =>
          assert.equal(fate('lb_from_pod', sent), `${f.pod} ${sent.sourcePort} > ${want}`),
        );
      assert.equal(fate('lb_from_pod', sent), toBackend(sent));
      // There are not so many backends: a datagram gets another one, a connection goes on where it went.
      for (const s of [sent, syn()]) {
        fate('lb_from_pod', s);
        contents.changeFlow(isOf(s), { backend_id: 0xff_ffff });
        assert.equal(fate('lb_from_pod', { ...s, flags: TCP.ACK }), toBackend(s));
        assert.equal(flowOf(s).backend_id, s === sent ? id : 0xff_ffff);
      }
      contents.frontend([f.vip, 80, 'TCP'], { affinity_s: 60 }, () => {
        const first = syn();
        assert.equal(fate('lb_from_pod', first), toBackend(first));
        const [sticky] = [...engine.maps.lb_affinities.keys()];
        const value = engine.maps.lb_affinities.get(sticky!)!;
        // Not seen since long: a choice anew, which is remembered from now on.
        const SEEN_AT = 8;
        const seen = viewOf(value).getBigUint64(SEEN_AT, true);
        viewOf(value).setBigUint64(SEEN_AT, seen - 61_000_000_000n, true);
        engine.maps.lb_affinities.set(sticky!, value);
        const idle = syn();
        assert.equal(fate('lb_from_pod', idle), toBackend(idle));
        assert.ok(viewOf(engine.maps.lb_affinities.get(sticky!)!).getBigUint64(SEEN_AT, true) >= seen);
        const nobody = engine.maps.lb_affinities.get(sticky!)!;
        viewOf(nobody).setUint32(0, 0xff_ffff, true);
        engine.maps.lb_affinities.set(sticky!, nobody);
        const second = syn();
        assert.equal(fate('lb_from_pod', second), toBackend(second));
        contents.backend(flowOf(second).backend_id, { service: 77 }, () => {
          const third = syn();
          assert.equal(fate('lb_from_pod', third), toBackend(third));
        });
      });
      for (const old of [...engine.maps.lb_affinities.keys()]) engine.maps.lb_affinities.delete(old);
    });

    test(`${f.family}: a flow of another client with the same hash is not taken for one's own`, () => {
      for (const [from, to] of [
        ['lb_from_pod', 'lb_to_pod'],
        ['lb_from_outside', 'lb_to_outside'],
      ] as const)
        for (const change of [
          { client: addressOf(f.other) },
          { client_port: 9 },
          { vip_port: 79 },
          { vip: addressOf(f.other) },
        ]) {
          const sent = syn();
          fate(from, sent);
          contents.changeFlow(isOf(sent), change);
          assert.equal(fate(from, { ...sent, flags: TCP.ACK }), 'redirect');
          const answer = answerTo(sent);
          const shown = fate(to, answer);
          if (!('vip' in change || 'vip_port' in change)) assert.equal(shown, asItWas(answer));
        }
    });

    test(`${f.family}: of a pod's port to nine frontends of one backend each connection has its own, or none`, () => {
      // By its first way it would be port 100, which is nobody's to take.
      const sourcePort = (1 << 13) + 100;
      const targets = [80, 8080, ...MORE_PORTS];
      const open = targets.map((targetPort) => ({
        targetPort,
        at: fate('lb_from_pod', syn({ sourcePort, targetPort })),
      }));
      const ports = open.filter(({ at }) => at !== 'drop').map(({ at }) => Number(/ (\d+) > /.exec(at)![1]));
      assert.deepEqual(
        ports.sort((a, b) => a - b),
        [0, 2, 3, 4, 5, 6, 7].map((way) => sourcePort ^ (way << 13)).sort((a, b) => a - b),
      );
      for (const { targetPort, at } of open) {
        if (at === 'drop') continue;
        const seen = Number(/ (\d+) > /.exec(at)![1]);
        const packet = syn({ sourcePort: seen, targetPort: 8080, to: f.backend });
        assert.equal(fate('lb_to_pod', answerTo(packet)), `${f.vip} ${targetPort} > ${f.pod} ${sourcePort}`);
        // Errors about what the backend saw, and about what the pod saw.
        const told = readFrame(run('lb_to_pod', frame(errorAbout(packet, f.other, f.pod))).data);
        assert.equal(ends(readIp(told.payload)), `${f.pod} ${sourcePort} > ${f.vip} ${targetPort}`);
        const shown = { ...answerTo(packet), from: f.vip, sourcePort: targetPort, targetPort: sourcePort };
        const asked = readFrame(run('lb_from_pod', frame(errorAbout(shown, f.pod, f.vip))).data);
        assert.equal(ends(readIp(asked.payload)), `${f.backend} 8080 > ${f.pod} ${seen}`);
        assert.equal(asked.to, f.backend);
      }
      assert.equal(
        counted('drop-flows-full', () => fate('lb_from_pod', syn({ sourcePort, targetPort: 8088 }))),
        1,
      );
      // Of datagrams the last way is taken over: its flow had an answer, or will not get one.
      const sent = [53, ...MORE_PORTS].map((targetPort) =>
        fate('lb_from_pod', datagram({ sourcePort: 39_000, targetPort })),
      );
      assert.equal(sent.filter((at) => at === 'drop').length, 0);
      assert.equal(new Set(sent).size, 8);
    });

    test(`${f.family}: at nodes each of a client's connections from one port to one backend has its own, too`, () => {
      const sourcePort = ++port;
      const seen = [80, 8080, 8081, 8082].map((targetPort) => {
        const [, own] = / (\d+) > .* 8080$/.exec(fate('lb_from_outside', syn({ sourcePort, targetPort })))!;
        return { targetPort, own: Number(own) };
      });
      assert.equal(new Set(seen.map(({ own }) => own)).size, 4);
      const { lb_links } = engine.maps;
      const used = lb_links.get(u32(0))!.slice();
      // An earlier version noted only that there was more than one way.
      for (const note of [used, u32(3)]) {
        lb_links.set(u32(0), note);
        for (const { targetPort, own } of seen)
          assert.equal(
            fate('lb_to_outside', answerTo(syn({ sourcePort: own }))),
            `${f.vip} ${targetPort} > ${f.pod} ${sourcePort}`,
          );
      }
      lb_links.set(u32(0), used);
    });

    test(`${f.family}: in a table that has grown XDP finds flows wherever they may lie`, () => {
      const { lb_flow_table } = engine.maps;
      const before = lb_flow_table.get(u32(0))!.slice();
      // As if it had begun with one set: all others may have flows in those that they were split from.
      const first = flowTableStruct.encode({ ...flowTableStruct.decode(before), first: 1 });
      for (const [tried, settled] of [
        [0, 0],
        [0, 1],
        [3, 1],
      ] as const) {
        contents.markSets({ tried, settled });
        lb_flow_table.set(u32(0), first);
        try {
          for (const known of [true, false]) {
            const s = syn({ from: f.other });
            if (known) assert.equal(fate('lb_from_outside', s), toBackend(s));
            const { returned, data } = engine.programs.get('lb_xdp')!.run({ data: frame(s) });
            assert.equal(returned, 2);
            // Behind a word for tc, where it is not left to it as it was.
            const packet = data.length === frame(s).length ? data : data.subarray(4);
            assert.equal(ends(readFrame(packet)), packet === data ? asItWas(s) : toBackend(s));
            assert.equal(
              fate('lb_from_outside', { ...s, flags: TCP.ACK }),
              known || packet !== data ? toBackend(s) : 'redirect',
            );
          }
        } finally {
          lb_flow_table.set(u32(0), before);
        }
      }
      contents.fillFlows();
    });

    test(`${f.family}: where all places are taken, a new flow gets that of who loses least by it, or none`, () => {
      const second = jiffiesPerSecond();
      const ages: readonly (readonly [what: string, flags: number, idleS: number, given: boolean])[] = [
        ['being filled', 0, 1, false],
        ['left half filled', 0, 61, true],
        ['a connection', FLOW.USED | FLOW.REPLIED | FLOW.CONFIRMED, 3600, false],
        ['a connection of yesterday', FLOW.USED | FLOW.REPLIED | FLOW.CONFIRMED, 6 * 3600 + 1, true],
        ['a handshake', FLOW.USED, 0, true],
        ['just reset', FLOW.USED | FLOW.CONFIRMED | FLOW.RESET, 0, false],
        ['a handshake just refused', FLOW.USED | FLOW.RESET, 0, false],
        ['reset', FLOW.USED | FLOW.CONFIRMED | FLOW.RESET, 3, true],
        ['closed by both', FLOW.USED | FLOW.CONFIRMED | FLOW.FIN_CLIENT | FLOW.FIN_BACKEND, 3, true],
        ['closed by one', FLOW.USED | FLOW.CONFIRMED | FLOW.FIN_CLIENT, 3, false],
        ['a question', FLOW.USED | FLOW.UDP, 5, false],
        ['a question without an answer', FLOW.USED | FLOW.UDP, 16, true],
        ['a question just answered', FLOW.USED | FLOW.UDP | FLOW.REPLIED, 0, false],
        ['a question with its answer', FLOW.USED | FLOW.UDP | FLOW.REPLIED, 4, true],
        ['datagrams both ways', FLOW.USED | FLOW.UDP | FLOW.REPLIED | FLOW.CONFIRMED, 100, false],
        ['datagrams of old', FLOW.USED | FLOW.UDP | FLOW.REPLIED | FLOW.CONFIRMED, 181, true],
      ];
      const some = syn({ from: f.other });
      fate('lb_from_pod', some);
      const flow = flowOf(some);
      try {
        for (const [what, flags, idleS, given] of ages) {
          contents.fillFlows({ ...flow, flags, seen: (engine.flows.jiffies() - idleS * second) >>> 0 });
          for (const program of ['lb_from_pod', 'lb_from_outside'] as const) {
            const s = syn();
            const refused = counted('drop-flows-full', () =>
              assert.equal(fate(program, s), given ? toBackend(s) : 'drop', what),
            );
            assert.equal(refused, given ? 0 : 1, what);
          }
          const put = { ...flow, client_port: ++port, flags: FLOW.USED };
          assert.equal(engine.flows.put(flowBytes(put)), given, what);
        }
      } finally {
        contents.fillFlows();
      }
    });

    test(`${f.family}: the agent's hands in the table do what they are asked, and refuse what is cut`, () => {
      contents.fillFlows();
      for (const name of ['lb_flow_sweep', 'lb_flow_edit'])
        for (const length of [14, 16, 20]) {
          const data = new Uint8Array(length).fill(7);
          assert.deepEqual(Buffer.from(engine.programs.get(name)!.run({ data }).data), Buffer.from(data));
        }
      const sent = syn();
      fate('lb_from_pod', sent);
      const flow = flowOf(sent);
      // Again with the same backend: what is known is added.
      assert.ok(engine.flows.put(flowBytes({ ...flow, flags: FLOW.USED | FLOW.REPLIED })));
      assert.equal(flowOf(sent).flags, FLOW.USED | FLOW.REPLIED);
      // With another one: a flow beside it.
      for (const other of [{ backend_port: 8081 }, { backend: addressOf(f.other) }]) {
        const before = engine.flows.count().used;
        assert.ok(engine.flows.put(flowBytes({ ...flow, ...other })));
        assert.equal(engine.flows.count().used, before + 1);
      }
      const name = {
        client: addressOf(f.other),
        clientPort: 1,
        vip: addressOf(f.vip),
        vipPort: 80,
        udp: false,
      };
      assert.equal(engine.flows.show(name), undefined);
      engine.flows.cut(name);
      contents.changeFlow(isOf(sent), { flags: 0 });
      assert.equal(engine.flows.count().freed, 0, 'it may be filled just now');
      contents.changeFlow((other) => other.flags === 0 && isOf(sent)(other), {
        seen: (engine.flows.jiffies() - 61 * jiffiesPerSecond()) >>> 0,
      });
      assert.equal(engine.flows.count().freed, 1);
      engine.flows.clear();
    });
  }

  test('all eight Service ranges count, and an IPv6 address that looks like IPv4 for a word is none', () => {
    const some = [1, 2, 3, 4, 5, 6].map((net) => `10.${100 + net}.0.0/16`);
    try {
      engine.setServiceRanges([...some, '10.96.0.0/16', 'fd00:10:96::/112']);
      const sent = { protocol: 'tcp', sourcePort: ++port, targetPort: 80 } as const;
      for (const to of ['10.106.0.1', 'fd00:10:96::99'])
        assert.equal(
          fate('lb_from_pod', { ...sent, from: to.includes(':') ? 'fd00::1' : '10.244.1.5', to }),
          'drop',
        );
      assert.match(
        fate('lb_from_pod', { ...sent, from: '10.244.1.5', to: '10.107.0.1' }),
        /> 10\.107\.0\.1 80/,
      );
    } finally {
      engine.setServiceRanges(['10.96.0.0/16', 'fd00:10:96::/112']);
    }
    for (const from of ['::1:0:0:0:5', '::1:0:0:0:0:5', '::2:ffff:0:0:5'])
      assert.match(
        fate('lb_from_pod', {
          from,
          to: FRONTENDS.IPv6.vip,
          protocol: 'tcp',
          sourcePort: ++port,
          targetPort: 80,
        }),
        /> fd00:10:244:2::2 8080/,
      );
  });
});

const flowBytes = (flow: Flow): Uint8Array => flowStruct.encode(flow);
