/**
 * What a CPU keeps of flows (bpf/include/lb_hot.h) when it has room for little: flows that share a line and differ in one
 * thing are told apart, kinds that differ in one thing are not taken for one another, and nothing goes to who is no
 * backend any more or does not fit.
 */
import assert from 'node:assert/strict';
import test, { after, before, describe } from 'node:test';
import { BACKEND } from '../../src/service/engines/ebpf/layout.ts';
import { AmongNodes, addressOf, ends, MTU, NODE_FAMILIES, shown } from '../lib/lb-among-nodes.ts';
import { frame, type Segment, TCP } from '../lib/packet.ts';
import { Random } from '../lib/packet-generator.ts';

/** So many packets that differ in one thing: the half of them has the line of the one they are beside. */
const MANY = 64;
const LINES = 2;

describe('what a CPU keeps of flows, apart', () => {
  const nodes = new AmongNodes();
  const [f] = NODE_FAMILIES;
  const { syn, ack, fromBackend, sized } = nodes.of(f);

  before(() => {
    nodes.open('pa');
    nodes.openEngine(true, LINES);
  });
  after(() => nodes.close());

  /** Where XDP sends it; undefined: nowhere, it passes as it is. */
  const byXdp = (s: Segment) => {
    const seen = nodes.runXdp(frame(s));
    const now = seen && shown(seen.data);
    return now === ends({ ...s, sourcePort: s.sourcePort!, targetPort: s.targetPort! }) ? undefined : now;
  };
  const flowOf = (s: Segment) =>
    [...nodes.natFlows()].find(
      ({ flow }) => flow.client_port === s.sourcePort && flow.protocol === (s.protocol === 'tcp' ? 6 : 17),
    )!.flow;
  /** A flow that a packet of each side was seen of. */
  function open(protocol: 'tcp' | 'udp' = 'tcp', vipPort = 80): { s: Segment; port: number } {
    const s = syn(f.nat, vipPort, { protocol });
    const port = Number(/ (\d+) > /.exec(byXdp(s) ?? shown(nodes.outside(s).data))![1]);
    assert.ok(byXdp(fromBackend(port, { protocol, flags: TCP.SYN | TCP.ACK })));
    return { s, port };
  }
  /** More often than a second ends: the table finds no port for some clients, by its own hash. */
  const withinOne = (work: () => void) => nodes.withinOneStamp(work, 10);
  /** The table no longer knows it: who still does is the CPU. */
  const onlyHot = (s: Segment) => nodes.changeNat(s, { client_port: 9, nat_port: 9 });
  /** Others, one after the other, beside a packet that the table is not asked about. */
  function beside(s: Segment, kept: Segment, where: string, others: readonly Segment[]): void {
    assert.equal(byXdp(kept), where);
    for (const other of others) assert.notEqual(byXdp(other), where, JSON.stringify(other));
    onlyHot(s);
    assert.equal(byXdp(kept), where, 'still kept');
  }
  const many = <T>(one: (at: number) => T) => Array.from({ length: MANY }, (_, at) => one(at));

  test('a client’s packet is its flow’s only if all of it is the same', () => {
    for (const change of [
      (at: number) => ({ to: `203.0.113.${100 + at}` }),
      (at: number) => ({ targetPort: 1000 + at }),
      (at: number) => ({ from: `172.20.0.${100 + at}` }),
      (at: number) => ({ sourcePort: 50_000 + at }),
    ])
      withinOne(() => {
        const { s, port } = open();
        beside(
          s,
          ack(s),
          `${f.own} ${port} > ${f.side} 8080`,
          many((at) => ack(s, change(at))),
        );
      });
    // In the same line for certain: a hash knows no protocols.
    withinOne(() => {
      const { s, port } = open();
      assert.ok(byXdp(ack(s)));
      onlyHot(s);
      const datagram: Segment = { ...s, protocol: 'udp' };
      assert.ok(byXdp(datagram));
      assert.equal(flowOf(datagram).protocol, 17, 'a flow of its own');
      assert.equal(byXdp(ack(s)), `${f.own} ${port} > ${f.side} 8080`);
    });
  });

  test('an answer is its flow’s only if all of it is the same', () => {
    for (const change of [
      (at: number) => ({ to: `172.30.0.${100 + at}` }),
      (at: number) => ({ from: `10.244.2.${100 + at}` }),
      (at: number) => ({ sourcePort: 9000 + at }),
      () => ({ protocol: 'udp' as const }),
    ])
      withinOne(() => {
        const { s, port } = open();
        nodes.forgetHot();
        beside(
          s,
          fromBackend(port),
          `${f.nat} 80 > ${f.client} ${s.sourcePort}`,
          many((at) => fromBackend(port, change(at))),
        );
      });
  });

  test('a flow that differs from another one’s kind in one thing takes nothing from it', () => {
    const fresh = new Uint8Array(flowOf(open().s).to_backend);
    const hop = (at: number, value: number) => {
      const bytes = fresh.slice();
      bytes[at] = value;
      return bytes;
    };
    // Behind the interface, the addresses of both ends; the last word has the MTU.
    const changes = [
      { source: addressOf('172.30.0.77') },
      { backend_id: 4242 },
      ...[0, 4, 8, 12].map((at) => ({ to_backend: hop(at, 0xfe) })),
      { to_backend: hop(16, 0xff) },
    ];
    for (const change of changes)
      withinOne(() => {
        const first = open();
        nodes.forgetHot();
        assert.ok(byXdp(ack(first.s)));
        const second = open();
        // Its hop is to be as old as the first one's.
        const { to_backend } = flowOf(first.s);
        const wanted =
          'to_backend' in change
            ? {
                to_backend: Uint8Array.from(change.to_backend, (byte, at) =>
                  at >= 18 ? to_backend[at]! : byte,
                ),
              }
            : change;
        nodes.changeNat(second.s, wanted);
        const before = byXdp(ack(second.s));
        assert.match(before!, / > 10\.244\.2\.2 8080$/);
        assert.equal(byXdp(ack(second.s)), before, 'by the table');
        // Were it kept, the table would not be asked.
        onlyHot(second.s);
        assert.notEqual(byXdp(ack(second.s)), before);
        onlyHot(first.s);
        assert.equal(byXdp(ack(first.s)), `${f.own} ${first.port} > ${f.side} 8080`);
      });
  });

  test('ports and protocols of a VIP that have one backend are kinds of their own', () => {
    const { outside_line } = nodes.frontendOf(f.nat, 80);
    nodes.contents.frontend([f.nat, 81, 'TCP'], { outside_line }, () =>
      nodes.contents.frontend([f.nat, 80, 'UDP'], { outside_line }, () => {
        for (const [protocol, vipPort] of [
          ['tcp', 81],
          ['udp', 80],
        ] as const)
          withinOne(() => {
            const first = open();
            nodes.forgetHot();
            assert.ok(byXdp(ack(first.s)));
            const second = open(protocol, vipPort);
            for (let times = 0; times < 3; times++) {
              assert.equal(byXdp(ack(second.s)), `${f.own} ${second.port} > ${f.side} 8080`);
              assert.equal(byXdp(ack(first.s)), `${f.own} ${first.port} > ${f.side} 8080`);
            }
            nodes.forgetHot();
            assert.ok(byXdp(fromBackend(first.port)));
            for (let times = 0; times < 3; times++)
              assert.equal(
                byXdp(fromBackend(second.port, { protocol })),
                `${f.nat} ${vipPort} > ${f.client} ${second.s.sourcePort}`,
              );
          });
      }),
    );
  });

  test('what is larger than the way takes is left to tc, which says so', () => {
    withinOne(() => {
      const { s, port } = open();
      const fits = sized(ack(s), MTU.side);
      assert.ok(byXdp(fits));
      assert.equal(byXdp(fits), `${f.own} ${port} > ${f.side} 8080`);
      assert.equal(byXdp(sized(ack(s), MTU.side + 1)), undefined);
      assert.ok(byXdp(ack(s)));
    });
  });

  test('datagrams leave a backend that is none any more at once; its answers still arrive', () => {
    const id = nodes.idOf(f.nat, 80, 'UDP');
    for (const change of [{ flags: 0 }, { port: 9999 }, { address: addressOf(f.tun) }])
      withinOne(() => {
        const { s, port } = open('udp');
        const there = `${f.own} ${port} > ${f.side} 8080`;
        // The answer is of the other kind, and there is room for one.
        nodes.forgetHot();
        assert.ok(byXdp(s));
        onlyHot(s);
        assert.equal(byXdp(s), there, 'kept');
        nodes.contents.backend(id, change, () => assert.notEqual(byXdp(s), there));
        nodes.forget();
        const other = open('udp');
        nodes.forgetHot();
        assert.ok(byXdp(fromBackend(other.port, { protocol: 'udp' })));
        onlyHot(other.s);
        nodes.contents.backend(id, change, () =>
          assert.equal(
            byXdp(fromBackend(other.port, { protocol: 'udp' })),
            `${f.nat} 80 > ${f.client} ${other.s.sourcePort}`,
          ),
        );
      });
  });

  test('each packet is counted once, for its backend while it is one', () => {
    const id = nodes.idOf(f.nat, 80);
    const packets = () => nodes.packetsOf(id);
    withinOne(() => {
      const { s, port } = open();
      assert.ok(byXdp(ack(s)));
      onlyHot(s);
      const before = packets();
      for (let times = 0; times < 5; times++) assert.ok(byXdp(ack(s)));
      assert.equal(packets() - before, 5);
      nodes.contents.backend(id, { flags: BACKEND.USED, port: 9999 }, () => assert.ok(byXdp(ack(s))));
      assert.equal(packets() - before, 5, 'of another one');
      assert.equal(byXdp(ack(s)), `${f.own} ${port} > ${f.side} 8080`);
      assert.equal(packets() - before, 6);
    });
    // A number that stands for nobody: none is counted, and the flow goes on.
    withinOne(() => {
      const { s, port } = open();
      nodes.changeNat(s, { backend_id: 0xff_ffff });
      assert.ok(byXdp(ack(s)));
      onlyHot(s);
      assert.equal(byXdp(ack(s)), `${f.own} ${port} > ${f.side} 8080`);
    });
    nodes.openEngine(false, LINES);
    try {
      withinOne(() => {
        for (const protocol of ['tcp', 'udp'] as const) {
          const { s, port } = open(protocol);
          nodes.forgetHot();
          for (let times = 0; times < 3; times++) assert.ok(byXdp(ack(s)));
          nodes.forgetHot();
          for (let times = 0; times < 3; times++) assert.ok(byXdp(fromBackend(port, { protocol })));
        }
        assert.equal(nodes.packetsOf(nodes.idOf(f.nat, 80)), 0);
      });
    } finally {
      nodes.openEngine(true, LINES);
    }
  });

  test('of flows that share lines each goes where it should, whatever is kept of the others', () => {
    const random = new Random(1);
    for (let round = 0; round < 20; round++)
      withinOne(() => {
        // The table has four ports for a backend and protocol, and by its own hash some client finds none free.
        const flows = Array.from({ length: 5 }, (_, at) => open(at % 2 === 0 ? 'udp' : 'tcp'));
        for (let packet = 0; packet < 200; packet++) {
          const { s, port } = random.pick(flows);
          const { protocol } = s;
          if (random.one(2)) assert.equal(byXdp(ack(s)), `${f.own} ${port} > ${f.side} 8080`);
          else
            assert.equal(byXdp(fromBackend(port, { protocol })), `${f.nat} 80 > ${f.client} ${s.sourcePort}`);
          if (packet % 50 === 49) nodes.forgetHot();
        }
      });
  });
});
