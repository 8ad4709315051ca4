/**
 * What a CPU keeps of flows to backends elsewhere (bpf/include/lb_hot.h), one packet at a time: it is used, for no longer
 * than the flow has its place, and it knows flows apart. Beside the reference: service-fuzz-node.test.ts.
 */
import assert from 'node:assert/strict';
import test, { after, before, describe } from 'node:test';
import { viewOf } from '../../src/codec/index.ts';
import { HOLD } from '../../src/service/engines/ebpf/layout.ts';
import { AmongNodes, NODE_FAMILIES, shown } from '../lib/lb-among-nodes.ts';
import { u32 } from '../lib/lb-map-contents.ts';
import { frame, type Segment, TCP } from '../lib/packet.ts';

const CONFIRMED = 1 << 1;

describe('what a CPU keeps of flows', () => {
  const nodes = new AmongNodes();
  const [f] = NODE_FAMILIES;
  const { syn, ack, fromBackend } = nodes.of(f);

  before(() => {
    nodes.open('ph');
    // One kind of flow at a time.
    nodes.openEngine(true, 16);
  });
  after(() => nodes.close());

  const byXdp = (s: Segment) => {
    const seen = nodes.runXdp(frame(s));
    return seen && shown(seen.data);
  };
  const flowOf = (s: Segment) =>
    [...nodes.natFlows()].find(({ flow }) => flow.client_port === s.sourcePort)!.flow;
  /** Opens a connection in XDP, up to the client's first packet after the answer. */
  const open = (): { s: Segment; port: number } => {
    const s = syn(f.nat, 80);
    assert.ok(byXdp(s));
    const { nat_port: port } = flowOf(s);
    assert.ok(byXdp(fromBackend(port, { flags: TCP.SYN | TCP.ACK })));
    assert.ok(byXdp(ack(s)));
    return { s, port };
  };
  const epoch = () => {
    const value = viewOf(nodes.engine.maps.lb_nat_epoch.get(u32(0))!);
    return { freed: value.getUint32(0, true), kept: value.getUint32(4, true) };
  };
  const withinOne = (work: () => void) => nodes.withinOneStamp(work, 5);
  /** While `work` runs, new connections go to the same backend at port 8081. */
  function elsewhere(work: () => void): void {
    const id = nodes.idOf(f.ipip, 80);
    const { outside_line } = nodes.frontendOf(f.ipip, 80);
    nodes.contents.backend(id, { port: 8081 }, () =>
      nodes.contents.frontend([f.nat, 80, 'TCP'], { outside_line }, work),
    );
  }

  test('a packet of a known flow needs nothing of the table, in both directions, until the epoch is over', () => {
    withinOne(() => {
      const { s, port } = open();
      const there = `${f.own} ${port} > ${f.side} 8080`;
      assert.equal(byXdp(ack(s)), there);
      // The table's flow is no longer the client's.
      nodes.changeNat(s, { client_port: 9 });
      assert.equal(byXdp(ack(s)), there);
      nodes.forgetHot();
      assert.notEqual(byXdp(ack(s)), there);
      nodes.forget();
      const again = open();
      nodes.forgetHot();
      const back = `${f.nat} 80 > ${f.client} ${again.s.sourcePort}`;
      assert.equal(byXdp(fromBackend(again.port)), back);
      nodes.changeNat(again.s, { nat_port: 9 });
      assert.equal(byXdp(fromBackend(again.port)), back);
    });
  });

  test('nothing is kept of packets that say something about their flow', () => {
    const s = syn(f.nat, 80);
    byXdp(s);
    // Before the answer, as where the opening went by another node.
    byXdp(ack(s));
    byXdp(ack(s));
    byXdp(fromBackend(flowOf(s).nat_port));
    assert.equal(flowOf(s).flags & CONFIRMED, 0);
    byXdp(ack(s));
    assert.equal(flowOf(s).flags & CONFIRMED, CONFIRMED);
    byXdp(ack(s));
    byXdp(ack(s, { flags: TCP.FIN | TCP.ACK }));
    byXdp(fromBackend(flowOf(s).nat_port, { flags: TCP.RST | TCP.ACK }));
    assert.equal(flowOf(s).flags & 0x1c, 0x14, 'FIN of the client, and a reset');
  });

  test('a client that opens a connection by the same port at once is not led to where the last one went', () => {
    withinOne(() => {
      const { s } = open();
      const { freed } = epoch();
      byXdp(ack(s));
      byXdp(ack(s, { flags: TCP.RST | TCP.ACK }));
      elsewhere(() => {
        // As if it came by another CPU, which keeps nothing of it.
        assert.equal(nodes.outside(s).verdict, 'redirect');
        assert.equal(epoch().freed, freed + 1);
        assert.match(byXdp(ack(s))!, / > 10\.244\.2\.2 8081$/);
      });
    });
  });

  test('a flow whose kind finds no room this second goes by the table, and takes nobody else along', () => {
    withinOne(() => {
      const { s } = open();
      assert.match(byXdp(ack(s))!, / > 10\.244\.2\.2 8080$/);
      const { kept } = epoch();
      elsewhere(() => {
        const other = syn(f.nat, 80);
        assert.ok(byXdp(other));
        byXdp(fromBackend(flowOf(other).nat_port, { sourcePort: 8081, flags: TCP.SYN | TCP.ACK }));
        for (let times = 0; times < 3; times++) {
          assert.match(byXdp(ack(other))!, / > 10\.244\.2\.2 8081$/);
          assert.match(byXdp(ack(s))!, / > 10\.244\.2\.2 8080$/);
        }
      });
      assert.equal(epoch().kept, kept);
    });
  });

  test('while flows change hands, it stands still like the table', () => {
    withinOne(() => {
      const { s } = open();
      assert.ok(byXdp(ack(s)));
      nodes.contents.held(HOLD.KNOWN, () => assert.equal(byXdp(ack(s)), undefined));
      assert.ok(byXdp(ack(s)));
    });
  });
});
