/**
 * The programs at a node's links, one packet at a time, with other nodes around: flows to backends elsewhere whose records
 * changed or whose way ends, and contents of maps that packets do not bring about. Direct return:
 * service-program-direct.test.ts.
 */
import assert from 'node:assert/strict';
import test, { after, before, describe } from 'node:test';
import { viewOf } from '../../src/codec/index.ts';
import { BACKEND, HOLD } from '../../src/service/engines/ebpf/layout.ts';
import { encodeInterface, INTERFACE, natConstants } from '../../src/service/engines/ebpf/nat.ts';
import { AmongNodes, addressOf, ends, MTU, NAT_PORTS, NODE_FAMILIES, shown } from '../lib/lb-among-nodes.ts';
import { u32 } from '../lib/lb-map-contents.ts';
import { frame, ipPacket, readFrame, readIp, type Segment, TCP } from '../lib/packet.ts';

describe('programs of a node among others', () => {
  const nodes = new AmongNodes();

  before(() => nodes.open('pn'));
  after(() => nodes.close());

  for (const f of NODE_FAMILIES) {
    const four = f.family === 'IPv4';
    const { syn, ack, fromBackend, sized, mayFragment, fits, natted } = nodes.of(f);
    const addressText = (text: string) => Buffer.from(addressOf(text)).toString('hex');
    const outside2 = (bytes: Uint8Array) => {
      const { verdict, data } = nodes.run('lb_from_outside', bytes, 'side');
      assert.equal(verdict, 'redirect');
      return data;
    };

    test(`${f.family}: where no way leads, or by a link that is no node's, nothing is sent`, () => {
      nodes.contents.frontend([f.option, 82, 'TCP'], {}, () => {
        const id = nodes.idOf(f.option, 82);
        nodes.contents.backend(id, { flags: BACKEND.USED | BACKEND.CLUSTER }, () => {
          for (const to of [f.option, f.ipip]) {
            const other = nodes.idOf(to, 82);
            nodes.contents.backend(other, { flags: BACKEND.USED | BACKEND.CLUSTER }, () => {
              const times = nodes.counted('drop-no-route', () =>
                assert.equal(nodes.outside(syn(to, 82)).verdict, 'drop'),
              );
              assert.equal(times, 1);
            });
          }
        });
      });
      nodes.forget();
      const s = syn(f.nat, 80);
      const seenPort = natted(s);
      const bits = four ? 32 : 128;
      // An interface that is no node's any more, and fragments no more than others.
      const { lb_interfaces } = nodes.engine.maps;
      const side = lb_interfaces.get(u32(nodes.links.get('side')!))!.slice();
      lb_interfaces.delete(u32(nodes.links.get('side')!));
      const large = sized(ack(s), MTU.side + 1);
      assert.equal(fits(nodes.outside(four ? mayFragment(large) : large).data), MTU.side);
      lb_interfaces.set(u32(nodes.links.get('side')!), side);
      nodes.changeNat(s, { to_backend: new Uint8Array(20) });
      nodes.withRoute(`${f.side}/${bits}`, () => {
        assert.equal(
          nodes.counted('drop-no-route', () => assert.equal(nodes.outside(ack(s)).verdict, 'drop')),
          1,
        );
      });
      assert.equal(natted(ack(s)), seenPort);
      const about: Segment = {
        ...{ from: f.peer, to: f.own, protocol: 'icmp', type: f.error[0], code: f.error[1] },
        payload: ipPacket(ack({ ...s, from: f.own, sourcePort: seenPort, to: f.side, targetPort: 8080 })),
      };
      const told = nodes.outside(about, 'side');
      assert.equal(told.verdict, 'redirect');
      assert.equal(ends(readIp(readFrame(told.data).payload)), `${f.client} ${s.sourcePort} > ${f.nat} 80`);
      nodes.withRoute(`${f.client}/${bits}`, () => {
        // The link's own route to its neighbour is as narrow: it must not be the better one.
        assert.equal(
          nodes.counted('drop-no-route', () =>
            assert.equal(nodes.outside({ ...about }, 'side').verdict, 'drop'),
          ),
          1,
        );
      });
      nodes.forget();
    });

    if (!four)
      test('IPv6: what is too large behind an extension header is told with the ports and where it was', () => {
        nodes.forget();
        const s = syn(f.nat, 80);
        natted(s);
        const plain = frame(sized(ack(s, { sequence: 0x1234_5678 }), MTU.side));
        const HEADERS = 14 + 40;
        const OPTIONS = 60;
        const large = Uint8Array.from([
          ...plain.subarray(0, HEADERS),
          ...[plain[20]!, 0, 1, 4, 0, 0, 0, 0],
          ...plain.subarray(HEADERS),
        ]);
        large[20] = OPTIONS;
        viewOf(large).setUint16(18, viewOf(plain).getUint16(18) + 8);
        const { data } = nodes.run('lb_from_outside', large);
        assert.equal(fits(data), MTU.side);
        const kept = data.subarray(HEADERS + 8);
        assert.deepEqual(kept, large.subarray(14, 14 + kept.length));
        assert.ok(kept.length >= 40 + 8 + 8);
        assert.equal(viewOf(kept).getUint32(40 + 8 + 4), 0x1234_5678);
      });

    test(`${f.family}: a flow to a backend elsewhere is known by all that it is, not by its place`, () => {
      for (const change of [
        { client: addressOf(f.router) },
        { vip: addressOf(f.ipip) },
        { vip_port: 79 },
        { client_port: 9 },
        { protocol: 17 },
      ]) {
        nodes.forget();
        const s = syn(f.nat, 80);
        const first = natted(s);
        nodes.changeNat(s, change);
        const second = natted(ack(s));
        assert.equal([...nodes.natFlows()].length, 2, JSON.stringify(Object.keys(change)));
        // Towards another protocol of the backend the same port is another one.
        if (!('protocol' in change)) assert.notEqual(second, first, JSON.stringify(Object.keys(change)));
      }
      for (const change of [
        { backend: addressOf(f.tun) },
        { backend_port: 8081 },
        { source: addressOf(f.pod) },
        { nat_port: 9 },
        { protocol: 17 },
      ]) {
        nodes.forget();
        const s = syn(f.nat, 80);
        const seenPort = natted(s);
        const answer = frame(fromBackend(seenPort, { flags: TCP.SYN | TCP.ACK }));
        assert.equal(shown(outside2(answer)), `${f.nat} 80 > ${f.client} ${s.sourcePort}`);
        nodes.changeNat(s, change);
        const { verdict, data } = nodes.run('lb_from_outside', answer, 'side');
        assert.equal(verdict, 'next');
        assert.deepEqual(Buffer.from(data), Buffer.from(answer));
      }
      nodes.forget();
    });

    test(`${f.family}: flows to backends elsewhere stand still while flows change hands, in all programs`, () => {
      nodes.forget();
      const s = syn(f.nat, 80);
      const seenPort = natted(s);
      const answer = fromBackend(seenPort, { flags: TCP.SYN | TCP.ACK });
      const about: Segment = {
        ...{ from: f.peer, to: f.own, protocol: 'icmp', type: f.error[0], code: f.error[1] },
        payload: ipPacket({ ...answer, from: f.own, to: f.side, sourcePort: seenPort, targetPort: 8080 }),
      };
      nodes.contents.held(HOLD.KNOWN, () => {
        assert.equal(nodes.runXdp(frame(ack(s))), undefined);
        const times = nodes.counted('drop-hold', () => {
          assert.equal(nodes.outside(ack(s)).verdict, 'drop');
          assert.equal(nodes.run('lb_from_overlay', frame(answer), 'tun').verdict, 'drop');
        });
        assert.equal(times, 2);
        assert.equal(nodes.outside(about, 'side').verdict, 'next');
      });
      nodes.contents.held(HOLD.ALL, () => {
        assert.equal(shown(nodes.outside(ack(s)).data), `${f.client} ${s.sourcePort} > ${f.nat} 80`);
        assert.equal(nodes.run('lb_from_overlay', frame(answer), 'tun').verdict, 'next');
      });
      assert.equal(
        shown(nodes.run('lb_from_overlay', frame(answer), 'tun').data),
        `${f.nat} 80 > ${f.client} ${s.sourcePort}`,
      );
      // An answer to a port of an earlier range is for tc to find.
      nodes.changeNat(s, { nat_port: (seenPort + 20_000 * NAT_PORTS) & 0xffff });
      assert.equal(
        nodes.runXdp(frame({ ...answer, targetPort: (seenPort + 20_000 * NAT_PORTS) & 0xffff })),
        undefined,
      );
      nodes.forget();
    });

    test(`${f.family}: a datagram whose sum becomes 0 gets 0xffff, which is the same and does not mean "none"`, () => {
      for (const [program, to] of [
        ['lb_xdp', f.nat],
        ['lb_from_outside', f.nat],
      ] as const) {
        const s = syn(to, 80, { protocol: 'udp', payload: new Uint8Array(2) });
        const send = (payload: Uint8Array) => {
          const bytes = frame({ ...s, payload });
          const got = program === 'lb_xdp' ? nodes.runXdp(bytes)! : nodes.run(program, bytes);
          assert.equal(got.verdict, 'redirect');
          return got.data;
        };
        // Ones' complement sums: whatever the sum is without the two bytes, they make up for it.
        const at = 14 + f.header + 6;
        const sum = viewOf(send(new Uint8Array(2))).getUint16(at);
        const data = send(Uint8Array.from([sum >> 8, sum & 255]));
        assert.equal(viewOf(data).getUint16(at), 0xffff);
        assert.deepEqual(readFrame(data).wrong, []);
        nodes.forget();
      }
    });

    if (four)
      test('IPv4: a later fragment that can go no further is dropped and answered by nobody', () => {
        const s = syn(f.nat, 80, { protocol: 'udp', payload: new Uint8Array(64) });
        const part = (offset: number, ttl: number): Segment => ({
          ...{ ...s, ttl, fragment: { offset, more: offset === 0, id: 99 } },
        });
        assert.equal(nodes.outside(part(0, 64)).verdict, 'redirect');
        assert.equal(
          nodes.counted('drop-hop-limit', () => assert.equal(nodes.outside(part(9, 1)).verdict, 'drop')),
          1,
        );
        nodes.forget();
      });

    if (four)
      test('IPv4: what may be fragmented and is too large goes into a tunnel, which cuts what it sends', () => {
        const toTunnel = syn(f.nat, 81);
        assert.equal(nodes.outside(toTunnel).verdict, 'redirect');
        assert.equal(readFrame(nodes.outside(mayFragment(sized(ack(toTunnel), MTU.tun + 1))).data).to, f.tun);
        nodes.forget();
      });

    /** Of an IPv6 link's address the last words may be zero. */
    if (!four)
      test('IPv6: a link’s address is one also when it ends with zeros', () => {
        const ifindex = nodes.links.get('side')!;
        const { lb_interfaces } = nodes.engine.maps;
        const before = lb_interfaces.get(u32(ifindex))!.slice();
        try {
          for (const [at, ip6] of ['fd00:30:0:0:1::', 'fd00:30:1::', 'fd00:30::'].entries()) {
            lb_interfaces.set(u32(ifindex), encodeInterface({ ip6 }, 0));
            const { verdict, data } = nodes.outside(syn(f.nat, 80), ['tun', 'po', 'side'][at]);
            assert.equal(verdict, 'redirect');
            assert.equal(addressText(readFrame(data).from), addressText(ip6));
            nodes.forget();
          }
        } finally {
          lb_interfaces.set(u32(ifindex), before);
        }
      });
  }

  test('XDP turns back at the same interface what its driver can, and redirects the rest', () => {
    const f = NODE_FAMILIES[0];
    const LO = u32(1);
    const TX = 3;
    const REDIRECT = 4;
    const { lb_interfaces } = nodes.engine.maps;
    const action = (bytes: Uint8Array) => nodes.engine.programs.get('lb_xdp')!.run({ data: bytes }).returned;
    const refused = () =>
      nodes.contents.frontend([f.nat, 80, 'TCP'], { outside_size: 0 }, () =>
        action(
          frame({ from: f.client, to: f.nat, protocol: 'tcp', sourcePort: nodes.nextPort(), targetPort: 80 }),
        ),
      );
    assert.equal(refused(), REDIRECT);
    try {
      for (const [flags, want] of [
        [INTERFACE.XDP, REDIRECT],
        [INTERFACE.XDP | INTERFACE.TX, TX],
      ] as const) {
        lb_interfaces.set(LO, encodeInterface({}, flags));
        assert.equal(refused(), want);
      }
    } finally {
      lb_interfaces.delete(LO);
    }
  });

  test('a flow whose way leads back by the interface that its packets come by is turned back or redirected', () => {
    const f = NODE_FAMILIES[0];
    const s: Segment = {
      from: f.client,
      to: f.nat,
      protocol: 'tcp',
      sourcePort: nodes.nextPort(),
      targetPort: 80,
    };
    assert.equal(nodes.run('lb_from_outside', frame(s)).verdict, 'redirect');
    // As a look at the routes leaves it: LB_HOP_XDP and LB_HOP_TX above a tick of about a second.
    const shift = Number(
      natConstants(nodes.node.netns, nodes.engine.maps.lb_nat_heads, NAT_PORTS)['lb_tick_shift'],
    );
    const hopBy = (flags: number) => {
      const hop = new Uint8Array(20);
      viewOf(hop).setUint32(0, 1, true);
      viewOf(hop).setUint16(16, 1500, true);
      viewOf(hop).setUint16(18, ((nodes.engine.flows.jiffies() >>> shift) & 0x3fff) | flags, true);
      return hop;
    };
    const action = (flags: number) => {
      nodes.changeNat(s, { to_backend: hopBy(flags) });
      return nodes.engine.programs.get('lb_xdp')!.run({ data: frame({ ...s, flags: TCP.ACK }) }).returned;
    };
    const [PASS, TX, REDIRECT] = [2, 3, 4];
    // A tick may end between both.
    const becomes = (flags: number, want: number) =>
      assert.ok(
        [1, 2, 3].some(() => action(flags) === want),
        `${flags.toString(16)}: not ${want}`,
      );
    becomes(0xc000, TX);
    becomes(0x8000, REDIRECT);
    becomes(0, PASS);
    nodes.forget();
  });

  test('a pod’s link with a number that ends like that of all nodes’ links has a place of its own', () => {
    nodes.node.ip('link add pt4096 index 4096 type veth peer name pt4096-far');
    const f = NODE_FAMILIES[0];
    const s: Segment = {
      from: f.pod,
      to: f.nat,
      protocol: 'tcp',
      sourcePort: nodes.nextPort(),
      targetPort: 80,
    };
    nodes.runner.input.set(frame(s));
    const { fd } = nodes.engine.programs.get('lb_from_pod')!;
    assert.equal(nodes.runner.run(fd, frame(s).length, { gso: false, complete: false, ifindex: 4096 }), 0);
    assert.equal(shown(nodes.seen().data), `${f.pod} ${s.sourcePort} > ${f.side} 8080`);
    assert.equal(viewOf(nodes.engine.maps.lb_links.get(u32(4095))!).getUint32(0, true), 1);
    nodes.node.ip('link del pt4096');
    nodes.forget();
  });

  test('who is not to count packets counts none, and without ports of its own a node serves all the same', () => {
    nodes.openEngine(false);
    for (const f of NODE_FAMILIES) {
      const { syn, ack, natted } = nodes.of(f);
      const s = syn(f.nat, 80);
      assert.equal(natted(s), natted(ack(s)));
      const here = syn(f.nat, 82);
      for (const packet of [here, ack(here)])
        assert.equal(shown(nodes.outside(packet).data), `${f.client} ${here.sourcePort} > ${f.pod} 8080`);
    }
    for (const [, { packets, bytes }] of nodes.engine.portCounts())
      assert.deepEqual([packets, bytes], [0, 0]);
    nodes.node.exec(['sysctl', '-qw', 'net.ipv4.ip_local_port_range=1024 65535'], nodes.node.prefix);
    nodes.openEngine();
    for (const f of NODE_FAMILIES) {
      const s: Segment = {
        from: f.client,
        to: f.nat,
        protocol: 'tcp',
        sourcePort: nodes.nextPort(),
        targetPort: 80,
      };
      for (const flags of [TCP.SYN, TCP.ACK]) {
        const { verdict, data } = nodes.run('lb_from_outside', frame({ ...s, flags }));
        assert.equal(verdict, 'next');
        assert.equal(shown(data), `${f.client} ${s.sourcePort} > ${f.side} 8080`);
        assert.notEqual(nodes.runner.mark, 0, 'netfilter hides the client behind the node');
      }
    }
    assert.deepEqual([...nodes.natFlows()], []);
  });
});
