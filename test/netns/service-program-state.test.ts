/**
 * The programs at pods' links and towards clients, on contents of maps that packets alone do not bring about: flows that
 * change hands, entries that lead nowhere, ids that mean somebody else now.
 */
import assert from 'node:assert/strict';
import test, { describe } from 'node:test';
import { viewOf } from '../../src/codec/index.ts';
import { jiffiesPerSecond } from '../../src/kernel/bpf/index.ts';
import {
  encodeEndpoint,
  frontendStruct,
  HOLD,
  passedKeyStruct,
  passedStruct,
} from '../../src/service/engines/ebpf/layout.ts';
import { u32 } from '../lib/lb-map-contents.ts';
import { addressOf, asItWas, ends, families, isOf, NUMBER, programScene } from '../lib/lb-program-scene.ts';
import { FRONTENDS } from '../lib/lb-programs.ts';
import { frame, readFrame, type Segment, TCP } from '../lib/packet.ts';

describe('programs and what their maps hold', () => {
  const scene = programScene('ps');
  const { run, fate, counted, nextPort } = scene;

  for (const f of families) {
    const { syn, datagram, answerTo, errorAbout, toBackend, idOfBackend, flowOf } = scene.of(f);

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
        scene.contents.held(HOLD.UNKNOWN, () => {
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
        scene.contents.held(HOLD.PASS, () => {
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
        scene.contents.held(HOLD.KNOWN, () => {
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
        scene.contents.held(HOLD.ALL, () => {
          assert.equal(fate(from, ack), asItWas(ack));
          assert.equal(fate(to, answer), asItWas(answer));
        });
        assert.equal(fate(from, ack), toBackend(ack));
      });

    test(`${f.family}: while flows change hands, XDP leaves all to tc, and a pod's answer to itself stands still`, () => {
      const known = syn({ from: f.other });
      assert.equal(fate('lb_from_outside', known), toBackend(known));
      for (const hold of [HOLD.UNKNOWN, HOLD.PASS, HOLD.KNOWN, HOLD.ALL])
        scene.contents.held(hold, () => {
          for (const s of [known, syn()]) {
            const { returned, data } = scene.engine.programs.get('lb_xdp')!.run({ data: frame(s) });
            assert.equal(returned, 2);
            assert.deepEqual(Buffer.from(data), Buffer.from(frame(s)));
          }
        });
      const own = syn({ from: f.backend });
      const { data } = run('lb_from_pod', frame(own));
      assert.equal(ends(readFrame(data)), `${f.hairpin} ${own.sourcePort} > ${f.backend} 8080`);
      const back = answerTo({ ...own, from: f.hairpin });
      scene.contents.held(HOLD.KNOWN, () => assert.equal(fate('lb_from_pod', back), 'drop'));
      scene.contents.held(HOLD.ALL, () => assert.equal(fate('lb_from_pod', back), asItWas(back)));
      assert.equal(fate('lb_from_pod', back), 'redirect');
    });

    test(`${f.family}: what netfilter translates passes for as long as it does, and while its backend serves`, () => {
      const { lb_passed } = scene.engine.maps;
      const id = idOfBackend();
      const second = jiffiesPerSecond();
      const now = scene.engine.flows.jiffies();
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
      using frontends = scene.contents.frontends();
      const key = encodeEndpoint(f.vip, 80, NUMBER.TCP);
      const { inside_line: line } = frontendStruct.decode(frontends.get(key)!);
      const nobody = () =>
        assert.equal(
          counted('drop-no-backend', () => assert.equal(fate('lb_from_pod', syn()), 'drop')),
          1,
        );
      scene.contents.firstOfTable(line, 0xff_ffff, nobody);
      scene.contents.firstOfTable(line, 0, nobody);
      scene.contents.frontend([f.vip, 80, 'TCP'], { inside_line: 0xff_fff0 }, nobody);
      scene.contents.backend(id, { port: 0 }, nobody);
      // No frontends at all: nothing that is of a Service range leaves the node.
      const { lb_frontends } = scene.engine.maps;
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
        scene.contents.backend(id, change, () =>
          assert.equal(fate('lb_from_pod', sent), `${f.pod} ${sent.sourcePort} > ${want}`),
        );
      assert.equal(fate('lb_from_pod', sent), toBackend(sent));
      // There are not so many backends: a datagram gets another one, a connection goes on where it went.
      for (const s of [sent, syn()]) {
        fate('lb_from_pod', s);
        scene.contents.changeFlow(isOf(s), { backend_id: 0xff_ffff });
        assert.equal(fate('lb_from_pod', { ...s, flags: TCP.ACK }), toBackend(s));
        assert.equal(flowOf(s).backend_id, s === sent ? id : 0xff_ffff);
      }
      scene.contents.frontend([f.vip, 80, 'TCP'], { affinity_s: 60 }, () => {
        const first = syn();
        assert.equal(fate('lb_from_pod', first), toBackend(first));
        const [sticky] = [...scene.engine.maps.lb_affinities.keys()];
        const value = scene.engine.maps.lb_affinities.get(sticky!)!;
        // Not seen since long: a choice anew, which is remembered from now on.
        const SEEN_AT = 8;
        const seen = viewOf(value).getBigUint64(SEEN_AT, true);
        viewOf(value).setBigUint64(SEEN_AT, seen - 61_000_000_000n, true);
        scene.engine.maps.lb_affinities.set(sticky!, value);
        const idle = syn();
        assert.equal(fate('lb_from_pod', idle), toBackend(idle));
        assert.ok(viewOf(scene.engine.maps.lb_affinities.get(sticky!)!).getBigUint64(SEEN_AT, true) >= seen);
        const nobody = scene.engine.maps.lb_affinities.get(sticky!)!;
        viewOf(nobody).setUint32(0, 0xff_ffff, true);
        scene.engine.maps.lb_affinities.set(sticky!, nobody);
        const second = syn();
        assert.equal(fate('lb_from_pod', second), toBackend(second));
        scene.contents.backend(flowOf(second).backend_id, { service: 77 }, () => {
          const third = syn();
          assert.equal(fate('lb_from_pod', third), toBackend(third));
        });
      });
      for (const old of [...scene.engine.maps.lb_affinities.keys()])
        scene.engine.maps.lb_affinities.delete(old);
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
          scene.contents.changeFlow(isOf(sent), change);
          assert.equal(fate(from, { ...sent, flags: TCP.ACK }), 'redirect');
          const answer = answerTo(sent);
          const shown = fate(to, answer);
          if (!('vip' in change || 'vip_port' in change)) assert.equal(shown, asItWas(answer));
        }
    });
  }

  test('all eight Service ranges count, and an IPv6 address that looks like IPv4 for a word is none', () => {
    const some = [1, 2, 3, 4, 5, 6].map((net) => `10.${100 + net}.0.0/16`);
    try {
      scene.engine.setServiceRanges([...some, '10.96.0.0/16', 'fd00:10:96::/112']);
      const sent = { protocol: 'tcp', sourcePort: nextPort(), targetPort: 80 } as const;
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
      scene.engine.setServiceRanges(['10.96.0.0/16', 'fd00:10:96::/112']);
    }
    for (const from of ['::1:0:0:0:5', '::1:0:0:0:0:5', '::2:ffff:0:0:5'])
      assert.match(
        fate('lb_from_pod', {
          from,
          to: FRONTENDS.IPv6.vip,
          protocol: 'tcp',
          sourcePort: nextPort(),
          targetPort: 80,
        }),
        /> fd00:10:244:2::2 8080/,
      );
  });
});
