/**
 * The programs at a node's links, one packet at a time, with other nodes around: what a packet needs to be just right for
 * (its size beside that of a link, its options, the age of its flow), and contents of maps that packets do not bring about.
 * The links and routes are those of service-fuzz-node.test.ts.
 */
import assert from 'node:assert/strict';
import test, { after, before, describe } from 'node:test';
import { viewOf } from '../../src/codec/index.ts';
import { mapById } from '../../src/kernel/bpf/index.ts';
import type { EbpfEngine, EbpfEngineOptions } from '../../src/service/engines/ebpf/index.ts';
import {
  BACKEND,
  encodeEndpoint,
  FLOW,
  FRONTEND,
  frontendStruct,
  HOLD,
  natFlowStruct,
  writeAddress,
} from '../../src/service/engines/ebpf/layout.ts';
import { encodeInterface, INTERFACE, natConstants } from '../../src/service/engines/ebpf/nat.ts';
import { withOption } from '../lib/dsr-option.ts';
import { AROUND, makeSurroundings, PEER_ADDRESSES } from '../lib/lb-fuzz-node.ts';
import { WorldMaps } from '../lib/lb-fuzz-world.ts';
import { MapContents, u32 } from '../lib/lb-map-contents.ts';
import { VERDICT } from '../lib/lb-reference.ts';
import { World } from '../lib/lb-reference-world.ts';
import { checksum, frame, ipPacket, type Read, readFrame, readIp, type Segment, TCP } from '../lib/packet.ts';
import { PacketRunner } from '../lib/packet-runner.ts';
import { openEngine } from '../lib/service-engine.ts';
import { ServiceNode } from '../lib/services.ts';

const NAT_PORTS = 4;
const SLOTS = 8;
/** Largest packets of links: AROUND. */
const MTU = { side: 1400, tun: 1300 } as const;
const VERDICTS = Object.fromEntries(
  Object.entries(VERDICT).map(([name, value]) => [value, name.toLowerCase()]),
);

const families = [
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

function addressOf(text: string): Uint8Array {
  const bytes = new Uint8Array(16);
  writeAddress(bytes, 0, text);
  return bytes;
}

/** IPv4: with so many bytes of "no operation" behind the plain header. */
function withFiller(bytes: Uint8Array, more: number): Uint8Array {
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

describe('programs of a node among others', () => {
  let node: ServiceNode;
  let engine: EbpfEngine;
  let maps: WorldMaps;
  let contents: MapContents;
  let runner: PacketRunner;
  let links: Map<string, number>;
  let port = 40_000;

  /** Frontends of one backend each: to a link between nodes, by a tunnel, and here. */
  function services(): World {
    const world = new World();
    world.addServiceRange('10.96.0.0/16');
    let service = 0;
    for (const f of families)
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

  function open(more: Partial<EbpfEngineOptions> = {}): EbpfEngine {
    const opened = openEngine(node, {
      nodeHook: 'tc',
      ...more,
      sizes: { natPorts: NAT_PORTS, flows: 8192, flowsLimit: 8192, countPackets: false, ...more.sizes },
    });
    for (const { name, overlay, known, source4, source6 } of AROUND.links.values()) {
      const ifindex = links.get(name)!;
      const addresses = { ip4: source4, ip6: overlay ? 'fd00:42:1::' : source6 };
      if (overlay) opened.attachOverlay(ifindex, addresses);
      else if (known) opened.attachNodeInterface(ifindex, addresses);
      if (known && !overlay)
        opened.maps.lb_interfaces.set(u32(ifindex), encodeInterface(addresses, INTERFACE.XDP));
    }
    opened.setPeers(PEER_ADDRESSES);
    maps = new WorldMaps(opened);
    maps.write(services(), opened);
    contents = new MapContents(opened);
    return opened;
  }

  before(() => {
    node = ServiceNode.create('pn');
    links = makeSurroundings(node);
    engine = open();
    runner = new PacketRunner(node.netns.fd);
  });

  after(async () => {
    maps?.close();
    engine?.remove();
    await node?.[Symbol.asyncDispose]();
  });

  type Program = 'lb_from_outside' | 'lb_from_overlay' | 'lb_to_outside';
  function run(program: Program, bytes: Uint8Array, link = 'out', gso = false) {
    runner.input.set(bytes);
    const result = runner.run(engine.programs.get(program)!.fd, bytes.length, {
      ...{ gso, complete: false, ifindex: links.get(link)! },
    });
    assert.equal(result, 0);
    return seen();
  }
  /** Undefined: left to tc as it is. */
  function runXdp(bytes: Uint8Array) {
    runner.input.set(bytes);
    const result = runner.runXdp(engine.programs.get('lb_xdp')!.fd, bytes.length);
    return result === undefined ? undefined : seen();
  }
  function seen() {
    const { verdict, bytes, length } = runner.observed;
    return { verdict: VERDICTS[verdict] ?? String(verdict), data: bytes.slice(0, length) };
  }
  const outside = (s: Segment, link?: string) => run('lb_from_outside', frame(s), link);
  const ends = (p: Read) => `${p.from} ${p.sourcePort} > ${p.to} ${p.targetPort}`;
  const shown = (data: Uint8Array) => {
    const p = readFrame(data);
    assert.deepEqual(p.wrong, []);
    return ends(p);
  };
  function counted(name: string, work: () => void): number {
    const before = engine.counters()[name]!;
    work();
    return engine.counters()[name]! - before;
  }
  function withRoute(route: string, work: () => void): void {
    node.ip(`route add unreachable ${route}`);
    try {
      work();
    } finally {
      node.ip(`route del unreachable ${route}`);
    }
  }
  /** Flows to backends elsewhere, with their numbers. */
  function* natFlows() {
    const { lb_nat_heads, lb_nat_flows } = engine.maps;
    for (let at = 0; at < NAT_PORTS; at++)
      for (let slot = 0; slot < SLOTS; slot++)
        if (viewOf(lb_nat_heads.get(u32(at))!).getUint32(slot * 4, true) !== 0) {
          const number = u32(at * SLOTS + slot);
          yield { number, flow: natFlowStruct.decode(lb_nat_flows.get(number)!) };
        }
  }
  function changeNat(s: Segment, change: Partial<ReturnType<typeof natFlowStruct.decode>>): void {
    for (const { number, flow } of natFlows())
      if (flow.client_port === s.sourcePort)
        engine.maps.lb_nat_flows.set(number, natFlowStruct.encode({ ...flow, ...change }));
  }
  /** Every place of every port, or none. */
  function fillNat(word: number): void {
    for (let at = 0; at < NAT_PORTS; at++) {
      const head = engine.maps.lb_nat_heads.get(u32(at))!;
      for (let slot = 0; slot < SLOTS; slot++) viewOf(head).setUint32(slot * 4, word && word + slot, true);
      viewOf(head).setUint32(SLOTS * 4, 0, true);
      engine.maps.lb_nat_heads.set(u32(at), head);
    }
  }
  function forget(): void {
    fillNat(0);
    contents.fillFlows();
  }

  for (const f of families) {
    const four = f.family === 'IPv4';
    const syn = (to: string, targetPort: number, more: Partial<Segment> = {}): Segment => ({
      ...{ from: f.client, to, protocol: 'tcp', sourcePort: ++port, targetPort, ...more },
    });
    const ack = (s: Segment, more: Partial<Segment> = {}): Segment => ({ ...s, flags: TCP.ACK, ...more });
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
      const { verdict, data } = outside(s, link);
      assert.equal(verdict, 'redirect');
      const p = readFrame(data);
      assert.deepEqual(p.wrong, []);
      assert.deepEqual([p.from, p.to, p.targetPort], [f.own, f.side, 8080]);
      return p.sourcePort;
    };

    test(`${f.family}: what travels inside another packet has to fit with it, or to be fragmented in a tunnel`, () => {
      for (const [targetPort, backend, mtu] of [
        [80, f.side, MTU.side],
        [81, f.tun, MTU.tun],
      ] as const) {
        const s = syn(f.ipip, targetPort);
        const { verdict, data } = outside(s);
        assert.equal(verdict, 'redirect');
        assert.equal(
          ends(readIp(data.subarray(14 + f.header))),
          `${f.client} ${s.sourcePort} > ${f.ipip} ${targetPort}`,
        );
        assert.equal(readOuter(data).to, backend);
        const whole = mtu - f.header;
        assert.equal(readOuter(outside(sized(ack(s), whole)).data).to, backend);
        assert.equal(fits(outside(sized(ack(s), whole + 1)).data), whole);
        // XDP leaves what is too large to tc.
        if (targetPort === 80) {
          assert.equal(readOuter(runXdp(frame(sized(ack(s), whole)))!.data).to, backend);
          assert.equal(runXdp(frame(sized(ack(s), whole + 1))), undefined);
        }
        if (!four) continue;
        const large = outside(mayFragment(sized(ack(s), whole + 1)));
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
          const { verdict, data } = outside(s);
          assert.equal(verdict, 'redirect');
          assert.equal(toldIn(data), true);
          assert.equal(readOuter(data).to, backend);
          return s;
        };
        const is = (data: Uint8Array, told: boolean) =>
          assert.deepEqual([readOuter(data).to, toldIn(data)], [backend, told]);
        is(outside(sized(ack(opening()), mtu - more)).data, true);
        // The client complains about an answer: its backend hears of it. When it was told is no way of its flow.
        const complaining = opening();
        outside(ack(complaining));
        const complaint = outside({
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
        is(outside(sized(ack(s), mtu)).data, false);
        assert.equal(fits(outside(sized(ack(opening()), mtu + 1)).data), mtu);
        const datagram = syn(f.option, targetPort, { protocol: 'udp' });
        is(outside(sized(datagram, mtu - more)).data, true);
        assert.equal(fits(outside(sized(datagram, mtu - more + 1)).data), mtu - more);
        if (!four) continue;
        const large = outside(mayFragment(sized(datagram, mtu - more + 1)));
        if (targetPort === 80) assert.equal(fits(large.data), mtu - more);
        else is(large.data, true);
        // No room among other options: what opens a connection is lost, what goes on does without.
        const full = withFiller(frame(ack(opening())), 40);
        is(run('lb_from_outside', full).data, false);
        const lost = counted('drop-rewrite', () =>
          assert.equal(run('lb_from_outside', withFiller(frame(syn(f.option, 80)), 32)).verdict, 'drop'),
        );
        assert.equal(lost, 1);
      }
      // Lengths that say more than fits, or less than there is.
      const lost = (bytes: Uint8Array, length: number, work: (bytes: Uint8Array) => { verdict: string }) => {
        viewOf(bytes).setUint16(four ? 16 : 18, length);
        assert.equal(
          counted('drop-rewrite', () => assert.equal(work(bytes).verdict, 'drop')),
          1,
        );
      };
      contents.backend(idOf(f.option, 80), { address: addressOf(f.router) }, () =>
        lost(frame(syn(f.option, 80)), 0xffff, (bytes) => run('lb_from_outside', bytes, 'out', true)),
      );
      const told = { vip: f.option, port: 80, node: f.peer };
      lost(withOption(frame(syn(f.pod, 8080)), told), 8, (bytes) => run('lb_from_overlay', bytes, 'tun'));
      forget();
      // The kernel makes no packet of many segments longer that is none of TCP as it knows it.
      const far = addressOf(f.router);
      for (const to of [f.option, f.ipip])
        contents.backend(idOf(to, 80), { address: far }, () => {
          const times = counted('drop-rewrite', () =>
            assert.equal(run('lb_from_outside', frame(syn(to, 80)), 'out', true).verdict, 'drop'),
          );
          assert.equal(times, 1);
        });
      forget();
    });

    test(`${f.family}: where no way leads, or by a link that is no node's, nothing is sent`, () => {
      contents.frontend([f.option, 82, 'TCP'], {}, () => {
        const id = idOf(f.option, 82);
        contents.backend(id, { flags: BACKEND.USED | BACKEND.CLUSTER }, () => {
          for (const to of [f.option, f.ipip]) {
            const other = idOf(to, 82);
            contents.backend(other, { flags: BACKEND.USED | BACKEND.CLUSTER }, () => {
              const times = counted('drop-no-route', () =>
                assert.equal(outside(syn(to, 82)).verdict, 'drop'),
              );
              assert.equal(times, 1);
            });
          }
        });
      });
      forget();
      const s = syn(f.nat, 80);
      const seenPort = natted(s);
      const bits = four ? 32 : 128;
      // An interface that is no node's any more, and fragments no more than others.
      const { lb_interfaces } = engine.maps;
      const side = lb_interfaces.get(u32(links.get('side')!))!.slice();
      lb_interfaces.delete(u32(links.get('side')!));
      const large = sized(ack(s), MTU.side + 1);
      assert.equal(fits(outside(four ? mayFragment(large) : large).data), MTU.side);
      lb_interfaces.set(u32(links.get('side')!), side);
      changeNat(s, { to_backend: new Uint8Array(20) });
      withRoute(`${f.side}/${bits}`, () => {
        assert.equal(
          counted('drop-no-route', () => assert.equal(outside(ack(s)).verdict, 'drop')),
          1,
        );
      });
      assert.equal(natted(ack(s)), seenPort);
      const about: Segment = {
        ...{ from: f.peer, to: f.own, protocol: 'icmp', type: f.error[0], code: f.error[1] },
        payload: ipPacket(ack({ ...s, from: f.own, sourcePort: seenPort, to: f.side, targetPort: 8080 })),
      };
      const told = outside(about, 'side');
      assert.equal(told.verdict, 'redirect');
      assert.equal(ends(readIp(readFrame(told.data).payload)), `${f.client} ${s.sourcePort} > ${f.nat} 80`);
      withRoute(`${f.client}/${bits}`, () => {
        // The link's own route to its neighbour is as narrow: it must not be the better one.
        assert.equal(
          counted('drop-no-route', () => assert.equal(outside({ ...about }, 'side').verdict, 'drop')),
          1,
        );
      });
      forget();
    });

    test(`${f.family}: a flow to a backend elsewhere is known by all that it is, not by its place`, () => {
      for (const change of [
        { client: addressOf(f.router) },
        { vip: addressOf(f.ipip) },
        { vip_port: 79 },
        { client_port: 9 },
        { protocol: 17 },
      ]) {
        forget();
        const s = syn(f.nat, 80);
        const first = natted(s);
        changeNat(s, change);
        assert.notEqual(natted(ack(s)), first, JSON.stringify(Object.keys(change)));
      }
      for (const change of [
        { backend: addressOf(f.tun) },
        { backend_port: 8081 },
        { source: addressOf(f.pod) },
        { nat_port: 9 },
        { protocol: 17 },
      ]) {
        forget();
        const s = syn(f.nat, 80);
        const seenPort = natted(s);
        const answer = frame({
          ...{ from: f.side, to: f.own, protocol: 'tcp', sourcePort: 8080, targetPort: seenPort },
          flags: TCP.SYN | TCP.ACK,
        });
        assert.equal(shown(outside2(answer)), `${f.nat} 80 > ${f.client} ${s.sourcePort}`);
        changeNat(s, change);
        const { verdict, data } = run('lb_from_outside', answer, 'side');
        assert.equal(verdict, 'next');
        assert.deepEqual(Buffer.from(data), Buffer.from(answer));
      }
      forget();
    });

    test(`${f.family}: places that are being filled are nobody's to take, and ids that mean nobody end a flow of datagrams`, () => {
      const PENDING = 1 << 30;
      fillNat(PENDING | 5);
      for (let times = 0; times < 3; times++)
        assert.equal(
          counted('drop-nat-full', () => assert.equal(outside(syn(f.nat, 80)).verdict, 'drop')),
          1,
        );
      forget();
      for (const protocol of ['tcp', 'udp'] as const) {
        const s = ack(syn(f.nat, 80, { protocol }));
        natted({ ...s, flags: TCP.SYN });
        const [before] = [...natFlows()];
        changeNat(s, { backend_id: 0xff_ffff });
        natted(s);
        const [then] = [...natFlows()];
        assert.equal(then!.flow.backend_id, protocol === 'tcp' ? 0xff_ffff : before!.flow.backend_id);
        forget();
      }
    });

    test(`${f.family}: flows to backends elsewhere stand still while flows change hands, in all programs`, () => {
      forget();
      const s = syn(f.nat, 80);
      const seenPort = natted(s);
      const answer: Segment = {
        ...{ from: f.side, to: f.own, protocol: 'tcp', sourcePort: 8080, targetPort: seenPort },
        flags: TCP.SYN | TCP.ACK,
      };
      const about: Segment = {
        ...{ from: f.peer, to: f.own, protocol: 'icmp', type: f.error[0], code: f.error[1] },
        payload: ipPacket({ ...answer, from: f.own, to: f.side, sourcePort: seenPort, targetPort: 8080 }),
      };
      contents.held(HOLD.KNOWN, () => {
        assert.equal(runXdp(frame(ack(s))), undefined);
        const times = counted('drop-hold', () => {
          assert.equal(outside(ack(s)).verdict, 'drop');
          assert.equal(run('lb_from_overlay', frame(answer), 'tun').verdict, 'drop');
        });
        assert.equal(times, 2);
        assert.equal(outside(about, 'side').verdict, 'next');
      });
      contents.held(HOLD.ALL, () => {
        assert.equal(shown(outside(ack(s)).data), `${f.client} ${s.sourcePort} > ${f.nat} 80`);
        assert.equal(run('lb_from_overlay', frame(answer), 'tun').verdict, 'next');
      });
      assert.equal(
        shown(run('lb_from_overlay', frame(answer), 'tun').data),
        `${f.nat} 80 > ${f.client} ${s.sourcePort}`,
      );
      // An answer to a port of an earlier range is for tc to find.
      changeNat(s, { nat_port: (seenPort + 20_000 * NAT_PORTS) & 0xffff });
      assert.equal(
        runXdp(frame({ ...answer, targetPort: (seenPort + 20_000 * NAT_PORTS) & 0xffff })),
        undefined,
      );
      forget();
    });

    test(`${f.family}: a Service is served directly only where the other node can come to the same choice`, () => {
      const { flags } = frontendOf(f.ipip, 80);
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
        contents.frontend([f.ipip, 80, 'TCP'], change, () => {
          forget();
          const { verdict } = outside(syn(f.ipip, 80));
          assert.equal(verdict, 'redirect');
          assert.equal([...natFlows()].length, direct ? 0 : 1, what);
        });
      for (const old of [...engine.maps.lb_affinities.keys()]) engine.maps.lb_affinities.delete(old);
      forget();
    });

    test(`${f.family}: what another node passes on goes to the backend that it names, if that is the Service's`, () => {
      const wrapped = (s: Segment, to = f.pod) => wrap(frame(s), f.peer, to);
      const s = syn(f.ipip, 82);
      const take = (bytes: Uint8Array) => run('lb_from_overlay', bytes, 'tun');
      assert.equal(shown(take(wrapped(s)).data), `${f.client} ${s.sourcePort} > ${f.pod} 8080`);
      assert.equal(shown(take(wrapped(ack(s))).data), `${f.client} ${s.sourcePort} > ${f.pod} 8080`);
      const refused = (name: string, bytes: Uint8Array) =>
        assert.equal(
          counted(name, () => assert.equal(take(bytes).verdict, 'drop')),
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
      contents.frontend([f.ipip, 82, 'TCP'], { outside_size: 0 }, () => {
        const lonely = syn(f.ipip, 82);
        const times = counted('reject-no-endpoint', () =>
          assert.equal(take(wrapped(lonely)).verdict, 'redirect'),
        );
        assert.equal(times, 1);
        assert.equal(
          readFrame(runner.observed.bytes.slice(0, runner.observed.length)).flags & TCP.RST,
          TCP.RST,
        );
      });
      // No place for its flow.
      const known = { ...flow(s), flags: FLOW.USED | FLOW.CONFIRMED };
      contents.fillFlows(known);
      refused('drop-flows-full', wrapped(syn(f.ipip, 82)));
      forget();
      // This node took the connection itself and sent it on: it does not come back.
      const own = syn(f.ipip, 80);
      assert.equal(outside(own).verdict, 'redirect');
      refused('drop-direct', wrapped(ack(own), f.side));
      forget();
    });

    test(`${f.family}: of what comes by another node to one pod from one port the first connection has the answers`, () => {
      const sourcePort = ++port;
      const PORTS = [83, 84, 85, 86, 87];
      using frontends = contents.frontends();
      for (const more of PORTS)
        frontends.set(encodeEndpoint(f.ipip, more, 6), frontends.get(encodeEndpoint(f.ipip, 82, 6))!);
      const take = (targetPort: number, flags: number = TCP.SYN) => {
        const bytes = wrap(frame(syn(f.ipip, targetPort, { sourcePort, flags })), f.peer, f.pod);
        const { verdict, data } = run('lb_from_overlay', bytes, 'tun');
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
        return shown(run('lb_to_outside', frame({ ...s, flags: TCP.SYN | TCP.ACK })).data);
      };
      forget();
      for (const targetPort of [82, 83, 84, 85]) take(targetPort);
      assert.equal(answered(), `${f.ipip} 82 > ${f.client} ${sourcePort}`);
      // After 254 of them nobody counts on.
      contents.changeFlow((flow) => flow.client_port === sourcePort && flow.vip_port === 85, {}, 255);
      take(86);
      assert.equal(answered(), `${f.ipip} 82 > ${f.client} ${sourcePort}`);
      // One that is over goes when the next one comes, which may be the same again.
      take(82, TCP.RST | TCP.ACK);
      take(87);
      assert.equal(answered(), `${f.ipip} 83 > ${f.client} ${sourcePort}`);
      take(83, TCP.RST | TCP.ACK);
      take(83);
      for (const more of PORTS) frontends.delete(encodeEndpoint(f.ipip, more, 6));
      forget();
    });

    test(`${f.family}: what another node tells of a flow counts until it tells something else`, () => {
      const sourcePort = ++port;
      const told = (more: Partial<Segment> = {}) =>
        run(
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
        const [only, ...more] = [...engine.flows.all()].filter(({ flow }) => flow.client_port === sourcePort);
        assert.equal(more.length, 0);
        return only!.flow;
      };
      forget();
      is(told(), `${f.pod} 8080`);
      assert.equal(is(told({ flags: TCP.ACK }), `${f.pod} 8080`).flags & FLOW.FIN_CLIENT, 0);
      is(told(), `${f.pod} 8080`);
      assert.notEqual(is(told({ flags: TCP.ACK | TCP.RST }), `${f.pod} 8080`).flags & FLOW.RESET, 0);
      // A connection anew.
      assert.equal(is(told(), `${f.pod} 8080`).flags & FLOW.RESET, 0);
      assert.equal(is(told({ targetPort: 8081 }), `${f.pod} 8081`).backend_port, 8081);
      is(told({ to: f.other, targetPort: 8081 }), `${f.other} 8081`);
      forget();
      // This node sent it on before: from here on it is served here.
      assert.equal(toldIn(outside(syn(f.option, 80, { sourcePort })).data), true);
      assert.equal(is(told(), `${f.pod} 8080`).flags & FLOW.DIRECT, 0);
      forget();
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
      forget();
      contents.backend(
        idOf(f.nat, 82),
        { address: addressOf(same), flags: BACKEND.USED | BACKEND.CLUSTER },
        () => {
          for (const targetPort of [80, 82, 80, 82]) {
            const { verdict, data } = outside(syn(f.nat, targetPort));
            assert.equal(verdict, 'redirect');
            assert.equal(readFrame(data).to, targetPort === 80 ? f.side : same);
          }
        },
      );
      forget();
    });

    test(`${f.family}: a datagram whose sum becomes 0 gets 0xffff, which is the same and does not mean "none"`, () => {
      for (const [program, to] of [
        ['lb_xdp', f.nat],
        ['lb_from_outside', f.nat],
      ] as const) {
        const s = syn(to, 80, { protocol: 'udp', payload: new Uint8Array(2) });
        const send = (payload: Uint8Array) => {
          const bytes = frame({ ...s, payload });
          const got = program === 'lb_xdp' ? runXdp(bytes)! : run(program, bytes);
          assert.equal(got.verdict, 'redirect');
          return got.data;
        };
        // Ones' complement sums: whatever the sum is without the two bytes, they make up for it.
        const at = 14 + f.header + 6;
        const sum = viewOf(send(new Uint8Array(2))).getUint16(at);
        const data = send(Uint8Array.from([sum >> 8, sum & 255]));
        assert.equal(viewOf(data).getUint16(at), 0xffff);
        assert.deepEqual(readFrame(data).wrong, []);
        forget();
      }
    });

    if (four)
      test('IPv4: a later fragment that can go no further is dropped and answered by nobody', () => {
        const s = syn(f.nat, 80, { protocol: 'udp', payload: new Uint8Array(64) });
        const part = (offset: number, ttl: number): Segment => ({
          ...{ ...s, ttl, fragment: { offset, more: offset === 0, id: 99 } },
        });
        assert.equal(outside(part(0, 64)).verdict, 'redirect');
        assert.equal(
          counted('drop-hop-limit', () => assert.equal(outside(part(9, 1)).verdict, 'drop')),
          1,
        );
        forget();
      });

    if (four)
      test('IPv4: of a fragmented datagram the first fragment tells, the later ones follow it, and none of them is believed', () => {
        const s = syn(f.option, 80, { protocol: 'udp', payload: new Uint8Array(64) });
        for (const offset of [0, 9]) {
          const { verdict, data } = outside({ ...s, fragment: { offset, more: offset === 0, id: 98 } });
          assert.equal(verdict, 'redirect');
          assert.deepEqual([readOuter(data).to, toldIn(data)], [f.side, offset === 0]);
        }
        const later = frame({ ...s, to: f.pod, fragment: { offset: 9, more: false, id: 98 } });
        const times = counted('drop-option', () =>
          run('lb_from_overlay', withOption(later, { vip: f.option, port: 80, node: f.peer }), 'tun'),
        );
        assert.equal(times, 1);
        forget();
      });

    if (four)
      test('IPv4: what may be fragmented and is too large goes into a tunnel, which cuts what it sends', () => {
        const toTunnel = syn(f.nat, 81);
        assert.equal(outside(toTunnel).verdict, 'redirect');
        assert.equal(readFrame(outside(mayFragment(sized(ack(toTunnel), MTU.tun + 1))).data).to, f.tun);
        forget();
      });

    /** Of an IPv6 link's address the last words may be zero. */
    if (!four)
      test('IPv6: a link’s address is one also when it ends with zeros', () => {
        const ifindex = links.get('side')!;
        const { lb_interfaces } = engine.maps;
        const before = lb_interfaces.get(u32(ifindex))!.slice();
        try {
          for (const [at, ip6] of ['fd00:30:0:0:1::', 'fd00:30:1::', 'fd00:30::'].entries()) {
            lb_interfaces.set(u32(ifindex), encodeInterface({ ip6 }, 0));
            const { verdict, data } = outside(syn(f.nat, 80), ['tun', 'po', 'side'][at]);
            assert.equal(verdict, 'redirect');
            assert.equal(addressText(readFrame(data).from), addressText(ip6));
            forget();
          }
        } finally {
          lb_interfaces.set(u32(ifindex), before);
        }
      });

    const addressText = (text: string) => Buffer.from(addressOf(text)).toString('hex');
    const outside2 = (bytes: Uint8Array) => {
      const { verdict, data } = run('lb_from_outside', bytes, 'side');
      assert.equal(verdict, 'redirect');
      return data;
    };
    const flow = (s: Segment) =>
      engine.flows.show({
        ...{
          client: addressOf(s.from),
          clientPort: s.sourcePort!,
          vip: addressOf(s.to),
          vipPort: s.targetPort!,
        },
        udp: s.protocol === 'udp',
      })!;
  }

  test('XDP turns back at the same interface what its driver can, and redirects the rest', () => {
    const f = families[0];
    const LO = u32(1);
    const TX = 3;
    const REDIRECT = 4;
    const { lb_interfaces } = engine.maps;
    const action = (bytes: Uint8Array) => engine.programs.get('lb_xdp')!.run({ data: bytes }).returned;
    const refused = () =>
      contents.frontend([f.nat, 80, 'TCP'], { outside_size: 0 }, () =>
        action(frame({ from: f.client, to: f.nat, protocol: 'tcp', sourcePort: ++port, targetPort: 80 })),
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
    const f = families[0];
    const s: Segment = { from: f.client, to: f.nat, protocol: 'tcp', sourcePort: ++port, targetPort: 80 };
    assert.equal(run('lb_from_outside', frame(s)).verdict, 'redirect');
    // As a look at the routes leaves it: LB_HOP_XDP and LB_HOP_TX above a tick of about a second.
    const shift = Number(natConstants(node.netns, engine.maps.lb_nat_heads, NAT_PORTS)['lb_tick_shift']);
    const hopBy = (flags: number) => {
      const hop = new Uint8Array(20);
      viewOf(hop).setUint32(0, 1, true);
      viewOf(hop).setUint16(16, 1500, true);
      viewOf(hop).setUint16(18, ((engine.flows.jiffies() >>> shift) & 0x3fff) | flags, true);
      return hop;
    };
    const action = (flags: number) => {
      changeNat(s, { to_backend: hopBy(flags) });
      return engine.programs.get('lb_xdp')!.run({ data: frame({ ...s, flags: TCP.ACK }) }).returned;
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
    forget();
  });

  test('a pod’s link with a number that ends like that of all nodes’ links has a place of its own', () => {
    node.ip('link add pt4096 index 4096 type veth peer name pt4096-far');
    const f = families[0];
    const s: Segment = { from: f.pod, to: f.nat, protocol: 'tcp', sourcePort: ++port, targetPort: 80 };
    runner.input.set(frame(s));
    const { fd } = engine.programs.get('lb_from_pod')!;
    assert.equal(runner.run(fd, frame(s).length, { gso: false, complete: false, ifindex: 4096 }), 0);
    assert.equal(shown(seen().data), `${f.pod} ${s.sourcePort} > ${f.side} 8080`);
    assert.equal(viewOf(engine.maps.lb_links.get(u32(4095))!).getUint32(0, true), 1);
    node.ip('link del pt4096');
    forget();
  });

  test('without ports of its own a node serves all the same, and who is not to count packets counts none', () => {
    maps.close();
    engine.remove();
    node.exec(['sysctl', '-qw', 'net.ipv4.ip_local_port_range=1024 65535'], node.prefix);
    engine = open();
    for (const f of families) {
      const s: Segment = { from: f.client, to: f.nat, protocol: 'tcp', sourcePort: ++port, targetPort: 80 };
      for (const flags of [TCP.SYN, TCP.ACK]) {
        const { verdict, data } = run('lb_from_outside', frame({ ...s, flags }));
        assert.equal(verdict, 'next');
        assert.equal(shown(data), `${f.client} ${s.sourcePort} > ${f.side} 8080`);
        assert.notEqual(runner.mark, 0, 'netfilter hides the client behind the node');
      }
    }
    for (const [, { packets, bytes }] of engine.portCounts()) assert.deepEqual([packets, bytes], [0, 0]);
    assert.deepEqual([...natFlows()], []);
  });

  function frontendOf(address: string, targetPort: number) {
    using map = contents.frontends();
    return frontendStruct.decode(map.get(encodeEndpoint(address, targetPort, 6))!);
  }
  /** The only backend of a TCP frontend. */
  function idOf(address: string, targetPort: number): number {
    const line = frontendOf(address, targetPort).outside_line;
    using lines = mapById(viewOf(engine.maps.lb_tables.get(u32(0))!).getUint32(0, true), 'lb_tables');
    return viewOf(lines.get(u32(line))!).getUint32(0, true);
  }
});

/** Addresses of the first header. */
function readOuter(data: Uint8Array): { from: string; to: string } {
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
function toldIn(data: Uint8Array): boolean {
  return data[12] === 8 ? data[34] === 158 && (data[14]! & 15) > 5 : data[20] === 60;
}

/** A frame inside another packet. */
function wrap(bytes: Uint8Array, from: string, to: string): Uint8Array {
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
