/** lb_xdp alone, by BPF_PROG_TEST_RUN: what it refuses, drops, passes and hands to the stack, as packets. */
import assert from 'node:assert/strict';
import test, { after, before, describe } from 'node:test';
import { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import { serviceFacts, sliceFacts } from '../../src/service/facts.ts';
import { ServicePlanner } from '../../src/service/planner.ts';
import { aNode, aService, aSlice } from '../../src/service/testing.ts';
import { frame, readFrame, type Segment, TCP } from '../lib/packet.ts';
import { ServiceNode } from '../lib/services.ts';

const NAMES: Record<number, string> = { 0: 'aborted', 1: 'drop', 2: 'pass', 3: 'tx', 4: 'redirect' };

const families = [
  {
    family: 'IPv4',
    vip: '10.96.0.10',
    empty: '10.96.0.11',
    lost: '10.96.0.12',
    nobody: '10.96.0.99',
    client: '198.51.100.7',
    backend: '10.244.1.2',
    unreachable: [3, 3],
  },
  {
    family: 'IPv6',
    vip: 'fd00:10:96::10',
    empty: 'fd00:10:96::11',
    lost: 'fd00:10:96::12',
    nobody: 'fd00:10:96::99',
    client: 'fd00:51::7',
    backend: 'fd00:10:244:1::2',
    unreachable: [1, 4],
  },
] as const;

describe('lb_xdp', () => {
  let node: ServiceNode;
  let engine: EbpfEngine;
  let port = 40_000;

  before(() => {
    node = ServiceNode.create('xp');
    engine = EbpfEngine.open({
      bpffsDir: node.bpffs,
      cgroupPath: node.cgroup,
      netns: node.netns,
      nodeName: 'node-a',
    });
    engine.setServiceRanges(['10.96.0.0/16', 'fd00:10:96::/112']);
    const ports = [
      { name: 'tcp', port: 80, protocol: 'TCP' as const },
      { name: 'udp', port: 53, protocol: 'UDP' as const },
    ];
    const clusterIPs = (last: string) => [`10.96.0.${last}`, `fd00:10:96::${last}`];
    const services = new Map(
      [
        aService({ clusterIPs: clusterIPs('10'), ports }),
        aService({ clusterIPs: clusterIPs('11'), ports }, { name: 'empty' }),
        aService({ clusterIPs: clusterIPs('12'), ports, internalTrafficPolicy: 'Local' }, { name: 'lost' }),
      ].map((service) => [`default/${service.metadata.name}`, serviceFacts(service)]),
    );
    const slices = new Map(
      families.flatMap(({ backend, family }) =>
        (['tcp', 'udp'] as const).map((portName) => {
          const slice = sliceFacts(
            aSlice([`${backend} node-a`], {
              name: `web-${family}-${portName}`,
              portName,
              protocol: portName === 'tcp' ? 'TCP' : 'UDP',
            }),
          );
          return [slice.key, slice];
        }),
      ),
    );
    const report = engine.apply(
      new ServicePlanner({ services, slices }, aNode({ nodePortAddresses: [] })).planAll(),
    );
    assert.equal(report.failed.size, 0);
  });

  after(async () => {
    engine?.remove();
    await node?.[Symbol.asyncDispose]();
  });

  function run(packet: Uint8Array) {
    const { returned, data } = engine.programs.get('lb_xdp')!.run({ data: packet });
    return { action: NAMES[returned], data, packet: readFrame(data) };
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
        assert.equal(action, 'redirect');
        assert.deepEqual(packet.wrong, []);
        assert.equal(`${packet.from} ${packet.sourcePort} > ${packet.to}`, `${f.empty} 80 > ${f.client}`);
        assert.equal(packet.targetPort, sent.sourcePort);
        assert.equal(packet.flags, TCP.RST | TCP.ACK);
        assert.equal(packet.acknowledged, 4711 + 1 + 5);
      });
      assert.equal(grown, 1);
    });
  }
});
