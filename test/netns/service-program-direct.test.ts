/**
 * Direct return, one packet at a time: packets that are just as large as what they travel by lets them be, options that
 * leave no room, what other nodes pass on and tell, and what they pass on wrongly.
 */
import assert from 'node:assert/strict';
import test, { after, before, describe } from 'node:test';
import { viewOf } from '../../src/codec/index.ts';
import { encodeEndpoint, FLOW, FRONTEND, flowTableStruct } from '../../src/service/engines/ebpf/layout.ts';
import { withOption } from '../lib/dsr-option.ts';
import {
  AmongNodes,
  addressOf,
  ends,
  MTU,
  NODE_FAMILIES,
  readOuter,
  shown,
  toldIn,
  withFiller,
  wrap,
} from '../lib/lb-among-nodes.ts';
import { u32 } from '../lib/lb-map-contents.ts';
import { frame, ipPacket, readFrame, readIp, type Segment, TCP } from '../lib/packet.ts';

describe('programs of a node with direct return', () => {
  const nodes = new AmongNodes();

  before(() => nodes.open('pd'));
  after(() => nodes.close());

  for (const f of NODE_FAMILIES) {
    const four = f.family === 'IPv4';
    const { syn, ack, sized, mayFragment, fits, flow } = nodes.of(f);

    test(`${f.family}: what travels inside another packet has to fit with it, or to be fragmented in a tunnel`, () => {
      for (const [targetPort, backend, mtu] of [
        [80, f.side, MTU.side],
        [81, f.tun, MTU.tun],
      ] as const) {
        const s = syn(f.ipip, targetPort);
        const { verdict, data } = nodes.outside(s);
        assert.equal(verdict, 'redirect');
        assert.equal(
          ends(readIp(data.subarray(14 + f.header))),
          `${f.client} ${s.sourcePort} > ${f.ipip} ${targetPort}`,
        );
        assert.equal(readOuter(data).to, backend);
        const whole = mtu - f.header;
        assert.equal(readOuter(nodes.outside(sized(ack(s), whole)).data).to, backend);
        assert.equal(fits(nodes.outside(sized(ack(s), whole + 1)).data), whole);
        // XDP leaves what is too large to tc.
        if (targetPort === 80) {
          assert.equal(readOuter(nodes.runXdp(frame(sized(ack(s), whole)))!.data).to, backend);
          assert.equal(nodes.runXdp(frame(sized(ack(s), whole + 1))), undefined);
        }
        if (!four) continue;
        const large = nodes.outside(mayFragment(sized(ack(s), whole + 1)));
        if (targetPort === 80) assert.equal(fits(large.data), whole);
        else assert.equal(readOuter(large.data).to, backend);
      }
    });

    test(`${f.family}: what is told by an option has to fit with it; where it need not be told it is left out`, () => {
      const more = four ? 12 : 40;
      for (const [targetPort, backend, mtu] of [
        [80, f.side, MTU.side],
        [81, f.tun, MTU.tun],
      ] as const) {
        const opening = () => {
          const s = syn(f.option, targetPort);
          const { verdict, data } = nodes.outside(s);
          assert.equal(verdict, 'redirect');
          assert.equal(toldIn(data), true);
          assert.equal(readOuter(data).to, backend);
          return s;
        };
        const is = (data: Uint8Array, told: boolean) =>
          assert.deepEqual([readOuter(data).to, toldIn(data)], [backend, told]);
        is(nodes.outside(sized(ack(opening()), mtu - more)).data, true);
        // The client complains about an answer: its backend hears of it. When it was told is no way of its flow.
        const complaining = opening();
        nodes.outside(ack(complaining));
        const complaint = nodes.outside({
          ...{ from: f.client, to: f.option, protocol: 'icmp', type: f.error[0], code: f.error[1] },
          payload: ipPacket({
            ...{ from: f.option, to: f.client, protocol: 'tcp', flags: TCP.ACK },
            ...{ sourcePort: targetPort, targetPort: complaining.sourcePort! },
          }),
        });
        assert.equal(readFrame(complaint.data).to, backend);
        assert.equal(
          ends(readIp(readFrame(complaint.data).payload)),
          `${backend} 8080 > ${f.client} ${complaining.sourcePort}`,
        );
        // The same packet is not told again within a second, more or less.
        const s = opening();
        is(nodes.outside(sized(ack(s), mtu)).data, false);
        assert.equal(fits(nodes.outside(sized(ack(opening()), mtu + 1)).data), mtu);
        const datagram = syn(f.option, targetPort, { protocol: 'udp' });
        is(nodes.outside(sized(datagram, mtu - more)).data, true);
        assert.equal(fits(nodes.outside(sized(datagram, mtu - more + 1)).data), mtu - more);
        if (!four) continue;
        const large = nodes.outside(mayFragment(sized(datagram, mtu - more + 1)));
        if (targetPort === 80) assert.equal(fits(large.data), mtu - more);
        else is(large.data, true);
        // No room among other options: what opens a connection is lost, what goes on does without.
        const full = withFiller(frame(ack(opening())), 40);
        is(nodes.run('lb_from_outside', full).data, false);
        const lost = nodes.counted('drop-rewrite', () =>
          assert.equal(
            nodes.run('lb_from_outside', withFiller(frame(syn(f.option, 80)), 32)).verdict,
            'drop',
          ),
        );
        assert.equal(lost, 1);
      }
      // Lengths that say more than fits, or less than there is.
      const lost = (bytes: Uint8Array, length: number, work: (bytes: Uint8Array) => { verdict: string }) => {
        viewOf(bytes).setUint16(four ? 16 : 18, length);
        assert.equal(
          nodes.counted('drop-rewrite', () => assert.equal(work(bytes).verdict, 'drop')),
          1,
        );
      };
      nodes.contents.backend(nodes.idOf(f.option, 80), { address: addressOf(f.router) }, () =>
        lost(frame(syn(f.option, 80)), 0xffff, (bytes) => nodes.run('lb_from_outside', bytes, 'out', true)),
      );
      const told = { vip: f.option, port: 80, node: f.peer };
      lost(withOption(frame(syn(f.pod, 8080)), told), 8, (bytes) =>
        nodes.run('lb_from_overlay', bytes, 'tun'),
      );
      nodes.forget();
      // The kernel makes no packet of many segments longer or shorter that is none of TCP as it knows it.
      const many = withOption(frame(syn(f.pod, 8080)), told);
      assert.equal(
        nodes.counted('drop-rewrite', () =>
          assert.equal(nodes.run('lb_from_overlay', many, 'tun', true).verdict, 'drop'),
        ),
        1,
      );
      const far = addressOf(f.router);
      for (const to of [f.option, f.ipip])
        nodes.contents.backend(nodes.idOf(to, 80), { address: far }, () => {
          const times = nodes.counted('drop-rewrite', () =>
            assert.equal(nodes.run('lb_from_outside', frame(syn(to, 80)), 'out', true).verdict, 'drop'),
          );
          assert.equal(times, 1);
        });
      nodes.forget();
    });

    test(`${f.family}: a Service is served directly only where the other node can come to the same choice`, () => {
      const { flags } = nodes.frontendOf(f.ipip, 80);
      const kind = (number: number) =>
        (flags & ~(15 << FRONTEND.KIND_SHIFT)) | (number << FRONTEND.KIND_SHIFT);
      const hashless = flags & ~FRONTEND.OUTSIDE_HASH;
      for (const [what, change, direct] of [
        ['load balancer', {}, true],
        ['external address', { flags: kind(3) }, true],
        ['cluster address', { flags: kind(0) }, false],
        ['nodePort', { flags: kind(1) }, false],
        ['hostPort', { flags: kind(4) }, false],
        ['chosen at random', { flags: hashless }, false],
        ['with affinity', { affinity_s: 60 }, false],
        ['nodePort, told', { flags: kind(1) | FRONTEND.DSR_OPTION }, true],
      ] as const)
        nodes.contents.frontend([f.ipip, 80, 'TCP'], change, () => {
          nodes.forget();
          const { verdict } = nodes.outside(syn(f.ipip, 80));
          assert.equal(verdict, 'redirect');
          assert.equal([...nodes.natFlows()].length, direct ? 0 : 1, what);
        });
      for (const old of [...nodes.engine.maps.lb_affinities.keys()])
        nodes.engine.maps.lb_affinities.delete(old);
      nodes.forget();
    });

    test(`${f.family}: in a table that has grown flows are opened and go on wherever others may lie`, () => {
      const { lb_flow_table } = nodes.engine.maps;
      const before = lb_flow_table.get(u32(0))!.slice();
      for (const [tried, settled] of [
        [0, 0],
        [0, 1],
        [3, 1],
      ] as const) {
        nodes.contents.markSets({ tried, settled });
        // As if it had begun with one set.
        lb_flow_table.set(u32(0), flowTableStruct.encode({ ...flowTableStruct.decode(before), first: 1 }));
        const s = syn(f.ipip, 80);
        for (const packet of [s, ack(s)]) assert.equal(readOuter(nodes.outside(packet).data).to, f.side);
        assert.equal(flow(s).flags & FLOW.DIRECT, FLOW.DIRECT);
        lb_flow_table.set(u32(0), before);
      }
      nodes.forget();
    });

    test(`${f.family}: what another node passes on goes to the backend that it names, if that is the Service's`, () => {
      const wrapped = (s: Segment, to = f.pod) => wrap(frame(s), f.peer, to);
      const s = syn(f.ipip, 82);
      const take = (bytes: Uint8Array) => nodes.run('lb_from_overlay', bytes, 'tun');
      assert.equal(shown(take(wrapped(s)).data), `${f.client} ${s.sourcePort} > ${f.pod} 8080`);
      assert.equal(shown(take(wrapped(ack(s))).data), `${f.client} ${s.sourcePort} > ${f.pod} 8080`);
      const refused = (name: string, bytes: Uint8Array) =>
        assert.equal(
          nodes.counted(name, () => assert.equal(take(bytes).verdict, 'drop')),
          1,
          name,
        );
      // A connection anew on a port whose last one is over.
      assert.equal(take(wrapped(ack(s, { flags: TCP.ACK | TCP.RST }))).verdict, 'next');
      assert.notEqual(flow(s).flags & FLOW.RESET, 0);
      assert.equal(shown(take(wrapped(s)).data), `${f.client} ${s.sourcePort} > ${f.pod} 8080`);
      assert.equal(flow(s).flags & FLOW.RESET, 0);
      // Cut at any byte of the packet inside: somebody else's, and as it was.
      const whole = wrapped(s);
      for (let length = 14 + f.header; length < 14 + 2 * f.header + 4; length++) {
        const cut = whole.subarray(0, length);
        const { verdict, data } = take(cut);
        assert.equal(verdict, 'next');
        assert.deepEqual(Buffer.from(data), Buffer.from(cut));
      }
      // To another one of this node than the Service has.
      refused('drop-direct', wrapped(ack(s), f.other));
      refused('drop-direct', wrapped(syn(f.ipip, 82), f.other));
      // The Service has nobody by now.
      nodes.contents.frontend([f.ipip, 82, 'TCP'], { outside_size: 0 }, () => {
        const lonely = syn(f.ipip, 82);
        const times = nodes.counted('reject-no-endpoint', () =>
          assert.equal(take(wrapped(lonely)).verdict, 'redirect'),
        );
        assert.equal(times, 1);
        assert.equal(
          readFrame(nodes.runner.observed.bytes.slice(0, nodes.runner.observed.length)).flags & TCP.RST,
          TCP.RST,
        );
      });
      // No place for its flow.
      const known = { ...flow(s), flags: FLOW.USED | FLOW.CONFIRMED };
      nodes.contents.fillFlows(known);
      refused('drop-flows-full', wrapped(syn(f.ipip, 82)));
      nodes.forget();
      // This node took the connection itself and sent it on: it does not come back.
      const own = syn(f.ipip, 80);
      assert.equal(nodes.outside(own).verdict, 'redirect');
      refused('drop-direct', wrapped(ack(own), f.side));
      nodes.forget();
    });

    test(`${f.family}: of what comes by another node to one pod from one port the first connection has the answers`, () => {
      const sourcePort = nodes.nextPort();
      const PORTS = [83, 84, 85, 86, 87];
      using frontends = nodes.contents.frontends();
      for (const more of PORTS)
        frontends.set(encodeEndpoint(f.ipip, more, 6), frontends.get(encodeEndpoint(f.ipip, 82, 6))!);
      const take = (targetPort: number, flags: number = TCP.SYN) => {
        const bytes = wrap(frame(syn(f.ipip, targetPort, { sourcePort, flags })), f.peer, f.pod);
        const { verdict, data } = nodes.run('lb_from_overlay', bytes, 'tun');
        assert.equal(verdict, 'next');
        assert.equal(shown(data), `${f.client} ${sourcePort} > ${f.pod} 8080`);
      };
      const answered = () => {
        const s: Segment = {
          from: f.pod,
          to: f.client,
          protocol: 'tcp',
          sourcePort: 8080,
          targetPort: sourcePort,
        };
        return shown(nodes.run('lb_to_outside', frame({ ...s, flags: TCP.SYN | TCP.ACK })).data);
      };
      nodes.forget();
      for (const targetPort of [82, 83, 84, 85]) take(targetPort);
      assert.equal(answered(), `${f.ipip} 82 > ${f.client} ${sourcePort}`);
      // After 254 of them nobody counts on.
      nodes.contents.changeFlow((flow) => flow.client_port === sourcePort && flow.vip_port === 85, {}, 255);
      take(86);
      assert.equal(answered(), `${f.ipip} 82 > ${f.client} ${sourcePort}`);
      // One that is over goes when the next one comes, which may be the same again.
      take(82, TCP.RST | TCP.ACK);
      take(87);
      assert.equal(answered(), `${f.ipip} 83 > ${f.client} ${sourcePort}`);
      take(83, TCP.RST | TCP.ACK);
      take(83);
      for (const more of PORTS) frontends.delete(encodeEndpoint(f.ipip, more, 6));
      nodes.forget();
    });

    test(`${f.family}: what another node tells of a flow counts until it tells something else`, () => {
      const sourcePort = nodes.nextPort();
      const told = (more: Partial<Segment> = {}) =>
        nodes.run(
          'lb_from_overlay',
          withOption(frame(syn(f.pod, 8080, { sourcePort, ...more })), {
            vip: f.option,
            port: 80,
            node: f.peer,
          }),
          'tun',
        );
      const is = (got: { verdict: string; data: Uint8Array }, to: string) => {
        assert.equal(got.verdict, 'next');
        assert.equal(shown(got.data), `${f.client} ${sourcePort} > ${to}`);
        const [only, ...more] = [...nodes.engine.flows.all()].filter(
          ({ flow }) => flow.client_port === sourcePort,
        );
        assert.equal(more.length, 0);
        return only!.flow;
      };
      nodes.forget();
      is(told(), `${f.pod} 8080`);
      assert.equal(is(told({ flags: TCP.ACK }), `${f.pod} 8080`).flags & FLOW.FIN_CLIENT, 0);
      is(told(), `${f.pod} 8080`);
      assert.notEqual(is(told({ flags: TCP.ACK | TCP.RST }), `${f.pod} 8080`).flags & FLOW.RESET, 0);
      // A connection anew.
      assert.equal(is(told(), `${f.pod} 8080`).flags & FLOW.RESET, 0);
      assert.equal(is(told({ targetPort: 8081 }), `${f.pod} 8081`).backend_port, 8081);
      is(told({ to: f.other, targetPort: 8081 }), `${f.other} 8081`);
      nodes.forget();
      // This node sent it on before: from here on it is served here.
      assert.equal(toldIn(nodes.outside(syn(f.option, 80, { sourcePort })).data), true);
      assert.equal(is(told(), `${f.pod} 8080`).flags & FLOW.DIRECT, 0);
      nodes.forget();
    });

    if (four)
      test('IPv4: of a fragmented datagram the first fragment tells, the later ones follow it, and none of them is believed', () => {
        const s = syn(f.option, 80, { protocol: 'udp', payload: new Uint8Array(64) });
        for (const offset of [0, 9]) {
          const { verdict, data } = nodes.outside({ ...s, fragment: { offset, more: offset === 0, id: 98 } });
          assert.equal(verdict, 'redirect');
          assert.deepEqual([readOuter(data).to, toldIn(data)], [f.side, offset === 0]);
        }
        const told = (offset: number) => {
          const fragment = { offset, more: offset === 0, id: 97 };
          const bytes = frame({ ...s, to: f.pod, targetPort: 8080, fragment });
          return nodes.run(
            'lb_from_overlay',
            withOption(bytes, { vip: f.option, port: 80, node: f.peer }),
            'tun',
          );
        };
        assert.equal(told(0).verdict, 'next');
        assert.equal(
          nodes.counted('drop-option', () => assert.equal(told(9).verdict, 'drop')),
          1,
        );
        const later = frame({ ...s, to: f.pod, fragment: { offset: 9, more: false, id: 98 } });
        const times = nodes.counted('drop-option', () =>
          nodes.run('lb_from_overlay', withOption(later, { vip: f.option, port: 80, node: f.peer }), 'tun'),
        );
        assert.equal(times, 1);
        nodes.forget();
      });
  }
});
