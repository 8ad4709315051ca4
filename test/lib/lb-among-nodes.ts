/**
 * A node among others for tests of its programs, one packet at a time: links and routes of service-fuzz-node.test.ts,
 * Services of one backend each, what the programs make of a packet, and contents of their maps.
 */
import assert from 'node:assert/strict';
import { viewOf } from '../../src/codec/index.ts';
import { mapById } from '../../src/kernel/bpf/index.ts';
import type { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import { CHUNK, countStruct, natFlowStruct, writeAddress } from '../../src/service/engines/ebpf/layout.ts';
import { encodeInterface, INTERFACE } from '../../src/service/engines/ebpf/nat.ts';
import { AROUND, makeSurroundings, PEER_ADDRESSES } from './lb-fuzz-node.ts';
import { WorldMaps } from './lb-fuzz-world.ts';
import { MapContents, type Protocol, u32 } from './lb-map-contents.ts';
import { VERDICT } from './lb-reference.ts';
import { World } from './lb-reference-world.ts';
import { checksum, frame, type Read, readFrame, type Segment, TCP } from './packet.ts';
import { PacketRunner } from './packet-runner.ts';
import { openEngine } from './service-engine.ts';
import { ServiceNode } from './services.ts';

/** Ports for flows to backends elsewhere. */
export const NAT_PORTS = 4;
const SLOTS = 8;
/** Largest packets of links: AROUND. */
export const MTU = { side: 1400, tun: 1300 } as const;
const VERDICTS = Object.fromEntries(
  Object.entries(VERDICT).map(([name, value]) => [value, name.toLowerCase()]),
);

/**
 * Addresses: a client outside, somebody behind a router, pods of this node, backends by a link between nodes and by a
 * tunnel, this node at that link, a VIP for each way of serving, and a peer. `header`: bytes of a plain IP header.
 */
export const NODE_FAMILIES = [
  {
    ...{
      family: 'IPv4',
      client: '172.20.0.9',
      router: '203.0.113.200',
      pod: '10.244.1.5',
      other: '10.244.1.6',
    },
    ...{ side: '10.244.2.2', tun: '10.244.3.4', own: '172.30.0.1', nat: '203.0.113.10', ipip: '203.0.113.8' },
    ...{
      option: '203.0.113.9',
      peer: '172.30.0.2',
      header: 20,
      error: [3, 3] as const,
      tooBig: [3, 4] as const,
    },
  },
  {
    ...{ family: 'IPv6', client: 'fd00:20::9', router: '2001:db8::200', pod: 'fd00:10:244:1::5' },
    ...{ other: 'fd00:10:244:1::6', side: 'fd00:10:244:2::2', tun: 'fd00:10:244:3::4', own: 'fd00:30::1' },
    ...{ nat: 'fd00:113::10', ipip: 'fd00:113::8', option: 'fd00:113::9', peer: 'fd00:30::2', header: 40 },
    ...{ error: [1, 4] as const, tooBig: [2, 0] as const },
  },
] as const;

type Family = (typeof NODE_FAMILIES)[number];

export function addressOf(text: string): Uint8Array {
  const bytes = new Uint8Array(16);
  writeAddress(bytes, 0, text);
  return bytes;
}

/** IPv4: with so many bytes of "no operation" behind the plain header. */
export function withFiller(bytes: Uint8Array, more: number): Uint8Array {
  const out = Uint8Array.from([
    ...bytes.subarray(0, 34),
    ...new Uint8Array(more).fill(1),
    ...bytes.subarray(34),
  ]);
  const view = viewOf(out);
  out[14]! += more / 4;
  view.setUint16(16, view.getUint16(16) + more);
  view.setUint16(24, 0);
  view.setUint16(24, checksum(out.subarray(14, 34 + more)));
  return out;
}

/** Frontends of one backend each: to a link between nodes, by a tunnel, and here. */
function services(): World {
  const world = new World();
  world.addServiceRange('10.96.0.0/16');
  let service = 0;
  for (const f of NODE_FAMILIES)
    for (const protocol of [6, 17])
      for (const [text, dsr] of [
        [f.nat, undefined],
        [f.ipip, 'ipip'],
        [f.option, 'option'],
      ] as const)
        for (const [at, backend] of [f.side, f.tun, f.pod].entries()) {
          const near = backend === f.pod;
          const ids = [world.addBackend(backend, 8080, { protocol, service: ++service, near })];
          const table = { ids, hash: true, drop: false, local: false };
          world.addFrontend({
            ...{ text, port: 80 + at, protocol, service, dsr, kind: 2, inside: table, outside: table },
            ...{ affinity: false, keep: false, ranges: false },
          });
        }
  return world;
}

type Program = 'lb_from_outside' | 'lb_from_overlay' | 'lb_to_outside';

/** Opened by `open`, closed by `close`; everything in between is for one packet after the other. */
export class AmongNodes {
  node!: ServiceNode;
  engine!: EbpfEngine;
  contents!: MapContents;
  runner!: PacketRunner;
  links!: Map<string, number>;
  #maps: WorldMaps | undefined;
  #port = 40_000;

  open(name: string): void {
    this.node = ServiceNode.create(name);
    this.links = makeSurroundings(this.node);
    this.runner = new PacketRunner(this.node.netns.fd);
    this.openEngine();
  }

  /** The engine, or another one with what the node's settings are now. */
  openEngine(countPackets = true, hotLines = 1): void {
    this.#maps?.close();
    this.engine?.remove();
    this.engine = openEngine(this.node, {
      nodeHook: 'tc',
      sizes: { natPorts: NAT_PORTS, flows: 8192, flowsLimit: 8192, countPackets, hotLines },
    });
    for (const { name, overlay, known, source4, source6 } of AROUND.links.values()) {
      const ifindex = this.links.get(name)!;
      const addresses = { ip4: source4, ip6: overlay ? 'fd00:42:1::' : source6 };
      if (overlay) this.engine.attachOverlay(ifindex, addresses);
      else if (known) this.engine.attachNodeInterface(ifindex, addresses);
      if (known && !overlay)
        this.engine.maps.lb_interfaces.set(u32(ifindex), encodeInterface(addresses, INTERFACE.XDP));
    }
    this.engine.setPeers(PEER_ADDRESSES);
    this.#maps = new WorldMaps(this.engine);
    this.#maps.write(services(), this.engine);
    this.contents = new MapContents(this.engine);
  }

  async close(): Promise<void> {
    this.#maps?.close();
    this.engine?.remove();
    await this.node?.[Symbol.asyncDispose]();
  }

  nextPort(): number {
    return ++this.#port;
  }

  run(program: Program, bytes: Uint8Array, link = 'out', gso = false) {
    this.runner.input.set(bytes);
    const result = this.runner.run(this.engine.programs.get(program)!.fd, bytes.length, {
      ...{ gso, complete: false, ifindex: this.links.get(link)! },
    });
    assert.equal(result, 0);
    return this.seen();
  }
  /** Undefined: left to tc as it is. */
  runXdp(bytes: Uint8Array) {
    this.runner.input.set(bytes);
    const result = this.runner.runXdp(this.engine.programs.get('lb_xdp')!.fd, bytes.length);
    return result === undefined ? undefined : this.seen();
  }
  seen() {
    const { verdict, bytes, length } = this.runner.observed;
    return { verdict: VERDICTS[verdict] ?? String(verdict), data: bytes.slice(0, length) };
  }
  outside(s: Segment, link?: string) {
    return this.run('lb_from_outside', frame(s), link);
  }

  counted(name: string, work: () => void): number {
    const before = this.engine.counters()[name]!;
    work();
    return this.engine.counters()[name]! - before;
  }
  withRoute(route: string, work: () => void): void {
    this.node.ip(`route add unreachable ${route}`);
    try {
      work();
    } finally {
      this.node.ip(`route del unreachable ${route}`);
    }
  }
  /** Flows to backends elsewhere, with their numbers. */
  *natFlows() {
    const { lb_nat_heads, lb_nat_flows } = this.engine.maps;
    for (let at = 0; at < NAT_PORTS; at++)
      for (let slot = 0; slot < SLOTS; slot++)
        if (viewOf(lb_nat_heads.get(u32(at))!).getUint32(slot * 4, true) !== 0) {
          const number = u32(at * SLOTS + slot);
          yield { number, flow: natFlowStruct.decode(lb_nat_flows.get(number)!) };
        }
  }
  changeNat(s: Segment, change: Partial<ReturnType<typeof natFlowStruct.decode>>): void {
    for (const { number, flow } of this.natFlows())
      if (flow.client_port === s.sourcePort)
        this.engine.maps.lb_nat_flows.set(number, natFlowStruct.encode({ ...flow, ...change }));
  }
  /** Every place of every port, or none. */
  fillNat(word: number): void {
    for (let at = 0; at < NAT_PORTS; at++) {
      const head = this.engine.maps.lb_nat_heads.get(u32(at))!;
      for (let slot = 0; slot < SLOTS; slot++) viewOf(head).setUint32(slot * 4, word && word + slot, true);
      viewOf(head).setUint32(SLOTS * 4, 0, true);
      this.engine.maps.lb_nat_heads.set(u32(at), head);
    }
  }
  /** As after a second: no CPU keeps what it knew of flows to backends elsewhere. */
  forgetHot(): void {
    const epoch = this.engine.maps.lb_nat_epoch.get(u32(0))!;
    viewOf(epoch).setUint32(0, viewOf(epoch).getUint32(0, true) + 1, true);
    this.engine.maps.lb_nat_epoch.set(u32(0), epoch);
  }
  forget(): void {
    this.fillNat(0);
    this.forgetHot();
    this.contents.fillFlows();
  }

  frontendOf(address: string, targetPort: number, protocol: Protocol = 'TCP') {
    return this.contents.frontendOf(address, targetPort, protocol);
  }
  /** The only backend of a frontend. */
  idOf(address: string, targetPort: number, protocol: Protocol = 'TCP'): number {
    return this.contents.firstBackend(this.frontendOf(address, targetPort, protocol).outside_line);
  }

  /** Runs something that has to happen within one stamp of lb_hot.h: again where the second was over meanwhile. */
  withinOneStamp(work: () => void, tries: number): void {
    for (let left = tries; ; left--) {
      this.forget();
      try {
        work();
        return;
      } catch (error) {
        if (left === 1) throw error;
      }
    }
  }

  /** Packets that were counted for a backend, on all CPUs. */
  packetsOf(id: number): number {
    const chunk = viewOf(this.engine.maps.lb_backend_counts.get(u32(Math.floor(id / CHUNK)))!);
    using counts = mapById(chunk.getUint32(0, true), 'lb_backend_counts');
    return counts
      .getPerCpu(u32(id % CHUNK))!
      .reduce((sum, value) => sum + Number(countStruct.decode(value).packets), 0);
  }

  /** Packets of a family in few words. */
  of(f: Family) {
    const syn = (to: string, targetPort: number, more: Partial<Segment> = {}): Segment => ({
      ...{ from: f.client, to, protocol: 'tcp', sourcePort: this.nextPort(), targetPort, ...more },
    });
    const ack = (s: Segment, more: Partial<Segment> = {}): Segment => ({ ...s, flags: TCP.ACK, ...more });
    /** What the backend behind the link between nodes sends to a port of this node. */
    const fromBackend = (port: number, more: Partial<Segment> = {}): Segment => ({
      ...{ from: f.side, to: f.own, protocol: 'tcp', sourcePort: 8080, targetPort: port },
      ...{ flags: TCP.ACK, ...more },
    });
    /** With a payload that makes the packet this long. */
    const sized = (s: Segment, length: number): Segment => ({
      ...s,
      payload: new Uint8Array(length - f.header - (s.protocol === 'tcp' ? 20 : 8)),
    });
    const mayFragment = (s: Segment): Segment => ({ ...s, fragment: { offset: 0, more: false, id: 77 } });
    /** What a sender is told when a packet is too large: what fits. */
    const fits = (data: Uint8Array): number => {
      const p = readFrame(data);
      assert.deepEqual([p.from === f.client, p.type, p.code], [false, ...f.tooBig]);
      return viewOf(data).getUint32(14 + f.header + 4) & 0xffff;
    };
    const natted = (s: Segment, link?: string): number => {
      const { verdict, data } = this.outside(s, link);
      assert.equal(verdict, 'redirect');
      const p = readFrame(data);
      assert.deepEqual(p.wrong, []);
      assert.deepEqual([p.from, p.to, p.targetPort], [f.own, f.side, 8080]);
      return p.sourcePort;
    };

    const flow = (s: Segment) =>
      this.engine.flows.show({
        ...{
          client: addressOf(s.from),
          clientPort: s.sourcePort!,
          vip: addressOf(s.to),
          vipPort: s.targetPort!,
        },
        udp: s.protocol === 'udp',
      })!;
    return { syn, ack, fromBackend, sized, mayFragment, fits, natted, flow };
  }
}

export const ends = (p: Pick<Read, 'from' | 'sourcePort' | 'to' | 'targetPort'>) =>
  `${p.from} ${p.sourcePort} > ${p.to} ${p.targetPort}`;

/** From whom to whom, and its checksums are right. */
export function shown(data: Uint8Array): string {
  const p = readFrame(data);
  assert.deepEqual(p.wrong, []);
  return ends(p);
}

/** Addresses of the first header. */
export function readOuter(data: Uint8Array): { from: string; to: string } {
  const four = data[12] === 8;
  const text = (bytes: Uint8Array) =>
    four
      ? bytes.join('.')
      : readFrame(frame({ ...{ from: hex(bytes), to: hex(bytes), protocol: 'udp' } })).from;
  const at = 14 + (four ? 12 : 8);
  const size = four ? 4 : 16;
  return { from: text(data.subarray(at, at + size)), to: text(data.subarray(at + size, at + 2 * size)) };
}

function hex(bytes: Uint8Array): string {
  return Array.from({ length: 8 }, (_, at) =>
    viewOf(bytes)
      .getUint16(at * 2)
      .toString(16),
  ).join(':');
}

/** Whether a packet tells something. */
export function toldIn(data: Uint8Array): boolean {
  return data[12] === 8 ? data[34] === 158 && (data[14]! & 15) > 5 : data[20] === 60;
}

/** A frame inside another packet. */
export function wrap(bytes: Uint8Array, from: string, to: string): Uint8Array {
  const four = bytes[12] === 8;
  const outer = frame({ from, to, protocol: 'udp' })
    .subarray(0, 14 + (four ? 20 : 40))
    .slice();
  const view = viewOf(outer);
  const inner = bytes.subarray(14);
  if (four) {
    view.setUint16(16, 20 + inner.length);
    outer[23] = 4;
    view.setUint16(24, 0);
    view.setUint16(24, checksum(outer.subarray(14)));
  } else {
    view.setUint16(18, inner.length);
    outer[20] = 41;
  }
  return Uint8Array.from([...outer, ...inner]);
}
