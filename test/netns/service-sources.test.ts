/** Sources of what pods send: the program at their links alone, by BPF_PROG_TEST_RUN, which runs it as for link lo. */
import assert from 'node:assert/strict';
import test, { after, before, describe } from 'node:test';
import { parseIp } from '../../src/addr/index.ts';
import type { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import { frame, type Segment } from '../lib/packet.ts';
import { openEngine } from '../lib/service-engine.ts';
import { ServiceNode } from '../lib/services.ts';

/** The link that test runs come from. */
const LO = 1;
const DROP = 2;
const POD = { 4: '10.244.1.5', 6: 'fd00:10:244:1::5' };
const SERVER = { 4: '10.244.2.2', 6: 'fd00:10:244:2::2' };
const own = [parseIp(POD[4]), parseIp(POD[6])];

/** An IPv6 packet of another protocol than the builder knows. */
function withNextHeader(packet: Uint8Array, protocol: number): Uint8Array {
  const copy = packet.slice();
  copy[14 + 6] = protocol;
  return copy;
}

describe('sources of pods', () => {
  let node: ServiceNode;
  let engine: EbpfEngine;

  before(() => {
    node = ServiceNode.create('so');
    engine = openEngine(node);
  });
  after(async () => {
    engine?.remove();
    await node?.[Symbol.asyncDispose]();
  });

  const spoofed = () => engine.counters()['drop-spoofed']!;
  /** Whether it gets on; a drop must be counted as what it is. */
  function passes(packet: Uint8Array): boolean {
    const before = spoofed();
    const { returned } = engine.programs.get('lb_from_pod')!.run({ data: packet });
    const counted = spoofed() - before;
    assert.equal(counted, returned === DROP ? 1 : 0);
    return returned !== DROP;
  }
  const segment = (from: string, to: string, more: Partial<Segment> = {}) =>
    frame({ from, to, protocol: 'udp', sourcePort: 4000, targetPort: 5000, ...more });

  test('what has another source is dropped and counted, whatever it is', () => {
    engine.attachPodLink(LO, own);
    for (const [family, others] of [
      [4, ['10.244.1.6', '192.0.2.1', '127.0.0.1', '0.0.0.0', '10.244.2.2']],
      [6, ['fd00:10:244:1::6', '2001:db8::1', '::1', '::ffff:10.244.1.5', 'fe80::5', '::']],
    ] as const) {
      const shapes: Partial<Segment>[] = [
        { protocol: 'tcp' },
        { protocol: 'udp' },
        { protocol: 'icmp', type: family === 4 ? 8 : 128 },
        { protocol: 'icmp', type: family === 4 ? 3 : 1, payload: new Uint8Array(48) },
      ];
      if (family === 4) shapes.push({ fragment: { offset: 9, more: true, id: 7 } });
      for (const shape of shapes) {
        assert.ok(passes(segment(POD[family], SERVER[family], shape)), JSON.stringify(shape));
        for (const other of others)
          assert.ok(!passes(segment(other, SERVER[family], shape)), `${other} ${JSON.stringify(shape)}`);
      }
      const whole = segment(POD[family], SERVER[family], { protocol: 'tcp' });
      const foreign = segment(others[0], SERVER[family], { protocol: 'tcp' });
      // Cut within the transport header: only addresses are known.
      assert.ok(passes(whole.subarray(0, whole.length - 12)));
      assert.ok(!passes(foreign.subarray(0, foreign.length - 12)));
    }
    const ESP = 50;
    assert.ok(passes(withNextHeader(segment(POD[6], SERVER[6]), ESP)));
    assert.ok(!passes(withNextHeader(segment('fd00:10:244:1::6', SERVER[6]), ESP)));
  });

  test('what IPv6 says on the link itself passes, and no more than that', () => {
    engine.attachPodLink(LO, own);
    const nd = (from: string, to: string) => segment(from, to, { protocol: 'icmp', type: 135 });
    for (const [from, to] of [
      ['::', 'ff02::1:ff00:5'], // whether an address is free
      ['::', 'ff02::16'], // listener report
      ['fe80::5', 'ff02::2'], // router solicitation
      ['fe80::5', 'ff0e::1234'], // listener report of MLDv1
      ['fe80::5', 'fe80::1'],
      ['febf::5', 'fe80::1'],
      [POD[6], 'ff02::1:ff00:1'],
      [POD[6], 'fe80::1'],
    ] as const)
      assert.ok(passes(nd(from, to)), `${from} > ${to}`);
    for (const [from, to] of [
      ['::', SERVER[6]],
      ['::', 'fe80::1'],
      ['fe80::5', SERVER[6]],
      ['fec0::5', 'fe80::1'],
      ['fd00::6', 'ff02::1'],
    ] as const)
      assert.ok(!passes(nd(from, to)), `${from} > ${to}`);
  });

  test('a family that the pod has no address of has no source at all', () => {
    engine.attachPodLink(LO, [own[0]!]);
    assert.ok(passes(segment(POD[4], SERVER[4])));
    assert.ok(!passes(segment(POD[6], SERVER[6])));
    engine.attachPodLink(LO, [own[1]!]);
    assert.ok(passes(segment(POD[6], SERVER[6])));
    assert.ok(!passes(segment('0.0.0.0', SERVER[4])));
  });

  test('nobody is asked at links without addresses, nor after a link has gone', () => {
    engine.attachPodLink(LO);
    assert.ok(passes(segment('192.0.2.1', SERVER[4])));
    engine.attachPodLink(LO, own);
    engine.detachPodLink(LO);
    assert.ok(passes(segment('192.0.2.1', SERVER[4])));
    const pod = node.addPod('gone');
    engine.attachPodLink(pod.ifindex, own);
    node.ip('link del po2');
    engine.dropGoneInterfaces();
    assert.deepEqual([...engine.maps.lb_pod_sources.entries()], []);
  });
});
