/**
 * The loaded programs with a Service's frontends, and what tests say about them: packets by who sends them, whom they
 * are for afterwards, and which flow there is.
 */
import assert from 'node:assert/strict';
import { after, before } from 'node:test';
import type { Flow } from '../../src/service/engines/ebpf/flow-table.ts';
import type { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import { encodeEndpoint, writeAddress } from '../../src/service/engines/ebpf/layout.ts';
import { MapContents } from './lb-map-contents.ts';
import { FRONTENDS, openWithFrontends } from './lb-programs.ts';
import { frame, ipPacket, type Read, readFrame, type Segment, TCP } from './packet.ts';
import { ServiceNode } from './services.ts';

const VERDICTS: Record<number, string> = { [0xffff_ffff]: 'next', 2: 'drop', 7: 'redirect' };
export const NUMBER = { TCP: 6, UDP: 17 } as const;
export type Program = 'lb_from_pod' | 'lb_to_pod' | 'lb_from_outside' | 'lb_to_outside' | 'lb_xdp';

export const families = [
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
export const MORE_PORTS = [8081, 8082, 8083, 8084, 8085, 8086, 8087, 8088] as const;

export function addressOf(text: string): Uint8Array {
  const bytes = new Uint8Array(16);
  writeAddress(bytes, 0, text);
  return bytes;
}
export type FamilyOfScene = (typeof families)[number];

/** Where a packet is from and to. */
export const ends = (p: Read) => `${p.from} ${p.sourcePort} > ${p.to} ${p.targetPort}`;
export const asItWas = (s: Segment) => `${s.from} ${s.sourcePort} > ${s.to} ${s.targetPort}`;
/** Whether a flow is that of a packet's sender. */
export const isOf = (s: Segment) => (flow: Flow) =>
  flow.client_port === s.sourcePort && Buffer.from(flow.client).equals(addressOf(s.from));

/** A node with programs and maps, made before the tests of the suite that asks for it and removed after them. */
export function programScene(name: string) {
  let node: ServiceNode | undefined;
  let engine: EbpfEngine;
  let contents: MapContents;
  let port = 40_000;

  before(() => {
    node = ServiceNode.create(name);
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
  const nextPort = () => ++port;
  function counted(name: string, work: () => void): number {
    const before = engine.counters()[name]!;
    work();
    return engine.counters()[name]! - before;
  }
  /** Packets of one family. */
  const of = (f: FamilyOfScene) => {
    const syn = (more: Partial<Segment> = {}): Segment => ({
      ...{ from: f.pod, to: f.vip, protocol: 'tcp', sourcePort: nextPort(), targetPort: 80 },
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
    return { syn, datagram, answerTo, errorAbout, toBackend, idOfBackend, flowOf };
  };

  return {
    get engine() {
      return engine;
    },
    get contents() {
      return contents;
    },
    ...{ run, fate, counted, nextPort, of },
  };
}
