/** lb_xdp alone, by BPF_PROG_TEST_RUN: what it refuses, drops, passes and hands to the stack, as packets. */
import assert from 'node:assert/strict';
import test, { after, before, describe } from 'node:test';
import { viewOf } from '../../src/codec/index.ts';
import type { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import { FRONTENDS, openWithFrontends } from '../lib/lb-programs.ts';
import { checksum, frame, readFrame, readIp, type Segment, TCP } from '../lib/packet.ts';
import { ServiceNode } from '../lib/services.ts';

/** Bytes of the word in a packet's metadata, which a test run shows in front of it. */
const WORD = 4;
const NAMES: Record<number, string> = { 0: 'aborted', 1: 'drop', 2: 'pass', 3: 'tx', 4: 'redirect' };

const families = [
  {
    family: 'IPv4',
    ...FRONTENDS.IPv4,
    client: '198.51.100.7',
    backend: '10.244.1.2',
  },
  {
    family: 'IPv6',
    ...FRONTENDS.IPv6,
    client: 'fd00:51::7',
    backend: 'fd00:10:244:1::2',
  },
] as const;

describe('lb_xdp', () => {
  let node: ServiceNode;
  let engine: EbpfEngine;
  let port = 40_000;

  before(() => {
    node = ServiceNode.create('xp');
    engine = openWithFrontends(node, { ip4: families[0].backend, ip6: families[1].backend }, 'node-a');
  });

  after(async () => {
    engine?.remove();
    await node?.[Symbol.asyncDispose]();
  });

  function run(sent: Uint8Array) {
    const { returned, data } = engine.programs.get('lb_xdp')!.run({ data: sent });
    return {
      action: NAMES[returned],
      data,
      get packet() {
        return readFrame(data);
      },
    };
  }
  /** How one counter grows. */
  function counted(name: string, work: () => void): number {
    const before = engine.counters()[name]!;
    work();
    return engine.counters()[name]! - before;
  }

  for (const f of families) {
    const syn = (more: Partial<Segment> = {}): Segment => ({
      from: f.client,
      to: f.vip,
      protocol: 'tcp',
      sourcePort: ++port,
      targetPort: 80,
      ...more,
    });

    test(`${f.family}: a SYN to a Service without endpoints is answered by a reset`, () => {
      const grown = counted('reject-no-endpoint', () => {
        const sent = syn({ to: f.empty, sequence: 4711, payload: Buffer.from('abcde') });
        const { action, packet } = run(frame(sent));
        // Where XDP_TX is known to work the agent says so; here it knows nothing of the interface.
        assert.equal(action, 'redirect');
        assert.deepEqual(packet.wrong, []);
        assert.equal(`${packet.from} ${packet.sourcePort} > ${packet.to}`, `${f.empty} 80 > ${f.client}`);
        assert.equal(packet.targetPort, sent.sourcePort);
        assert.equal(packet.flags, TCP.RST | TCP.ACK);
        assert.equal(packet.acknowledged, 4711 + 1 + 5);
      });
      assert.equal(grown, 1);
    });

    test(`${f.family}: a datagram to a Service without endpoints is answered by an error with its head in it`, () => {
      const sent = syn({ to: f.empty, protocol: 'udp', targetPort: 53, payload: Buffer.alloc(900, 'x') });
      const { action, packet } = run(frame(sent));
      assert.equal(action, 'redirect');
      assert.deepEqual(packet.wrong, []);
      assert.equal(`${packet.from} > ${packet.to}`, `${f.empty} > ${f.client}`);
      assert.deepEqual([packet.type, packet.code], [...f.unreachable]);
      const inside = readIp(packet.payload);
      assert.equal(
        `${inside.from} ${inside.sourcePort} > ${inside.to} ${inside.targetPort}`,
        `${f.client} ${sent.sourcePort} > ${f.empty} 53`,
      );
    });

    test(`${f.family}: a reset is not answered, an address that no Service has is dropped, both counted`, () => {
      assert.equal(
        counted('reject-no-flow', () => {
          assert.equal(run(frame(syn({ flags: TCP.RST }))).action, 'drop');
        }),
        1,
      );
      assert.equal(
        counted('drop-unallocated', () => assert.equal(run(frame(syn({ to: f.nobody }))).action, 'drop')),
        1,
      );
    });

    test(`${f.family}: a backend here becomes the target, and a word for tc stands before the packet`, () => {
      for (const protocol of ['tcp', 'udp'] as const)
        for (const payload of ['', 'abc', 'x'.repeat(1000)]) {
          const sent = syn({
            protocol,
            targetPort: protocol === 'tcp' ? 80 : 53,
            payload: Buffer.from(payload),
          });
          const { action, data } = run(frame(sent));
          assert.equal(action, 'pass');
          assert.equal(data.length, frame(sent).length + WORD);
          const packet = readFrame(data.subarray(WORD));
          assert.deepEqual(packet.wrong, []);
          assert.equal(
            `${packet.from} ${packet.sourcePort} > ${packet.to} ${packet.targetPort}`,
            `${f.client} ${sent.sourcePort} > ${f.backend} 8080`,
          );
          assert.equal(Buffer.from(packet.payload).toString(), payload);
        }
    });

    const untouched: readonly (readonly [string, () => Uint8Array])[] = [
      ['with its last hop', () => frame(syn({ ttl: 1 }))],
      ['that is a ping', () => frame(syn({ protocol: 'icmp' }))],
      ['whose checksum its sender left to the network card', () => withPseudoSum(frame(syn()))],
      ['that is shorter than it says', () => frame(syn({ payload: Buffer.alloc(40) })).subarray(0, 80)],
      ...(f.family === 'IPv4'
        ? ([
            ['that is a fragment', () => frame(syn({ fragment: { offset: 0, more: true, id: 7 } }))],
          ] as const)
        : []),
    ];
    for (const [what, make] of untouched)
      test(`${f.family}: a packet ${what} passes as it is, and nothing is counted`, () => {
        const before = engine.counters();
        const sent = make();
        const { action, data } = run(sent);
        assert.equal(action, 'pass');
        assert.deepEqual(Buffer.from(data), Buffer.from(sent));
        assert.deepEqual(engine.counters(), before);
      });

    test(`${f.family}: what is no Service's passes with a word that spares tc the look-ups`, () => {
      const sent = frame(syn({ to: f.client, from: f.backend }));
      const { action, data } = run(sent);
      assert.equal(action, 'pass');
      assert.deepEqual(Buffer.from(data.subarray(WORD)), Buffer.from(sent));
      assert.notEqual(viewOf(data).getUint32(0, true), 0);
    });

    test(`${f.family}: a packet cut at any byte is never a fault`, () => {
      for (const protocol of ['tcp', 'udp'] as const) {
        const whole = frame(
          syn({ protocol, targetPort: protocol === 'tcp' ? 80 : 53, payload: Buffer.alloc(9) }),
        );
        for (let length = 14; length < whole.length; length++)
          assert.ok(['pass', 'drop'].includes(run(whole.subarray(0, length)).action!));
      }
    });
  }
});

/** A TCP SYN's frame with the pseudo header's sum in its checksum field, as a sender leaves it to its card. */
function withPseudoSum(bytes: Uint8Array): Uint8Array {
  const four = bytes[12] === 8;
  const at = 14 + (four ? 20 : 40);
  const addresses = four ? bytes.subarray(26, 34) : bytes.subarray(22, 54);
  const sum = ~checksum(addresses, Uint8Array.from([0, 6]), Uint8Array.from([0, bytes.length - at])) & 0xffff;
  bytes[at + 16] = sum >> 8;
  bytes[at + 17] = sum & 255;
  return bytes;
}
