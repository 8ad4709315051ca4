/**
 * The table of flows to backends elsewhere (bpf/include/lb_nat_table.h), one packet at a time: whose a place is, when
 * ports are shared, being filled or taken by words that look alike, and what it says that it holds. How it grows:
 * service-nat-grow.test.ts.
 */
import assert from 'node:assert/strict';
import test, { after, before, describe } from 'node:test';
import { viewOf } from '../../src/codec/index.ts';
import { BACKEND, NAT_SLOTS, natFlowStruct } from '../../src/service/engines/ebpf/layout.ts';
import { numberOf } from '../lib/bpf.ts';
import { AmongNodes, addressOf, NAT_PORTS, NODE_FAMILIES } from '../lib/lb-among-nodes.ts';
import { u32 } from '../lib/lb-map-contents.ts';
import { readFrame, TCP } from '../lib/packet.ts';

describe('the table of flows to backends elsewhere', () => {
  const nodes = new AmongNodes();

  before(() => nodes.open('pt'));
  after(() => nodes.close());

  for (const f of NODE_FAMILIES) {
    const four = f.family === 'IPv4';
    const { syn, ack, fromBackend, natted } = nodes.of(f);

    test(`${f.family}: places that are being filled are nobody's to take, and ids that mean nobody end a flow of datagrams`, () => {
      const PENDING = 1 << 30;
      nodes.fillNat(PENDING | 5);
      for (let times = 0; times < 3; times++)
        assert.equal(
          nodes.counted('drop-nat-full', () => assert.equal(nodes.outside(syn(f.nat, 80)).verdict, 'drop')),
          1,
        );
      nodes.forget();
      for (const protocol of ['tcp', 'udp'] as const) {
        const s = ack(syn(f.nat, 80, { protocol }));
        natted({ ...s, flags: TCP.SYN });
        const [before] = [...nodes.natFlows()];
        nodes.changeNat(s, { backend_id: 0xff_ffff });
        natted(s);
        const [then] = [...nodes.natFlows()];
        assert.equal(then!.flow.backend_id, protocol === 'tcp' ? 0xff_ffff : before!.flow.backend_id);
        nodes.forget();
      }
    });

    test(`${f.family}: of two backends that share a place for their ways each gets its own`, () => {
      const hash = (address: Uint8Array) => {
        const view = viewOf(address);
        return Math.imul(view.getUint32(12, true) ^ view.getUint32(8, true), 2654435761) >>> 22;
      };
      const wanted = hash(addressOf(f.side));
      const [net, colon] = four ? ['10.244.', '.'] : ['fd00:10:244:2::', ':'];
      const same = Array.from({ length: 65_536 }, (_, at) =>
        four ? `${net}${at >> 8}${colon}${at & 255}` : `${net}${(at + 256).toString(16)}`,
      ).find(
        (text) => text !== f.side && !/^10\.244\.[1345]\./.test(text) && hash(addressOf(text)) === wanted,
      )!;
      nodes.forget();
      nodes.contents.backend(
        nodes.idOf(f.nat, 82),
        { address: addressOf(same), flags: BACKEND.USED | BACKEND.CLUSTER },
        () => {
          for (const targetPort of [80, 82, 80, 82]) {
            const { verdict, data } = nodes.outside(syn(f.nat, targetPort));
            assert.equal(verdict, 'redirect');
            assert.equal(readFrame(data).to, targetPort === 80 ? f.side : same);
          }
        },
      );
      nodes.forget();
    });

    test(`${f.family}: a port is free for a backend although another one’s flow there has the same hash`, () => {
      nodes.forget();
      natted(syn(f.nat, 80));
      const [one] = nodes.natFlows();
      const { lb_nat_heads, lb_nat_flows } = nodes.engine.maps;
      const words = viewOf(lb_nat_heads.get(u32(Math.floor(numberOf(one!.number) / NAT_SLOTS)))!);
      const word = words.getUint32((numberOf(one!.number) % NAT_SLOTS) * 4, true);
      nodes.forget();
      // At each port somebody else has the second place, with the word of this backend, and the first one is free.
      for (let at = 0; at < NAT_PORTS; at++) {
        const head = lb_nat_heads.get(u32(at))!;
        viewOf(head).setUint32(4, word, true);
        lb_nat_heads.set(u32(at), head);
        const flow = { ...one!.flow, backend: addressOf(f.tun), client_port: 9 };
        lb_nat_flows.set(u32(at * NAT_SLOTS + 1), natFlowStruct.encode(flow));
      }
      const s = syn(f.nat, 80);
      assert.equal(natted(s), natted(ack(s)));
      const [mine] = [...nodes.natFlows()].filter(({ flow }) => flow.client_port === s.sourcePort);
      assert.equal(numberOf(mine!.number) % NAT_SLOTS, 0);
      nodes.forget();
    });

    test(`${f.family}: what the table holds is counted by what it is`, () => {
      nodes.forget();
      const half = syn(f.nat, 80);
      natted(half);
      const whole = syn(f.nat, 80);
      const over = syn(f.nat, 80);
      for (const s of [whole, over]) {
        const targetPort = natted(s);
        nodes.outside(fromBackend(targetPort, { flags: TCP.SYN | TCP.ACK }), 'side');
        natted(ack(s));
      }
      natted(ack(over, { flags: TCP.RST | TCP.ACK }));
      assert.equal(nodes.outside(syn(f.nat, 80, { protocol: 'udp' })).verdict, 'redirect');
      const { used, confirmed, datagrams } = nodes.engine.nat.count();
      assert.deepEqual({ used, confirmed, datagrams }, { used: 4, confirmed: 1, datagrams: 1 });
      nodes.forget();
    });
  }
});
