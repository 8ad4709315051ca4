/**
 * Random packets through the programs at a node's interfaces, with other nodes around: translation of both addresses,
 * direct return both ways, tunnels and routers, beside the reference in TypeScript. See service-fuzz.test.ts.
 *
 *   PORTOLAN_FUZZ_PACKETS=10000000 SEED=1 node --test test/netns/service-fuzz-node.test.ts
 */
import assert from 'node:assert/strict';
import test, { after, before, describe } from 'node:test';
import { viewOf } from '../../src/codec/index.ts';
import { jiffiesPerSecond } from '../../src/kernel/bpf/index.ts';
import { ERRNO, errnoName } from '../../src/kernel/syscall/index.ts';
import type { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import { BACKEND, natFlowStruct, REASONS } from '../../src/service/engines/ebpf/layout.ts';
import { encodeInterface, INTERFACE, natConstants } from '../../src/service/engines/ebpf/nat.ts';
import {
  addressBytes,
  compareAndForget,
  compareCounts,
  compareOutcome,
  hasNoSum,
  wrongSums,
} from '../lib/lb-fuzz-maps.ts';
import { AROUND, addToWorld, makeSurroundings, NodePackets, PEER_ADDRESSES } from '../lib/lb-fuzz-node.ts';
import { buildWorld, WorldMaps } from '../lib/lb-fuzz-world.ts';
import { type ProgramName, VERDICT } from '../lib/lb-reference.ts';
import { NatFlows, PLACES } from '../lib/lb-reference-nat.ts';
import { NodeReference } from '../lib/lb-reference-node.ts';
import { type Packet, PROTOCOL } from '../lib/lb-reference-packet.ts';
import type { World } from '../lib/lb-reference-world.ts';
import { Random } from '../lib/packet-generator.ts';
import { PacketRunner } from '../lib/packet-runner.ts';
import { openEngine } from '../lib/service-engine.ts';
import { ServiceNode } from '../lib/services.ts';

const PACKETS = Number(process.env.PORTOLAN_FUZZ_PACKETS ?? 200_000);
const SEED = Number(process.env.SEED ?? Date.now() & 0x7fff_ffff);
/** No more than a flow tries, so that all of them are candidates of each flow; few, so that they do not suffice. */
const PORTS = 4;
/** After so many packets, or so long, flows are compared and forgotten: before any of them gets old by itself. */
const EPOCH = { packets: 2000, ms: 1000 };
/** Longest time for a run of the normal size, on a machine that has other work. */
const CAP_MS = process.env.PORTOLAN_FUZZ_PACKETS ? Number.POSITIVE_INFINITY : 12_000;
/** A slow machine goes on until it has these, and this long at most. */
const ENOUGH = { packets: 10_000, ms: 60_000 };
/** Idle times that lie between the limits of flows (2, 3, 5, 15, 30, 60, 180 s, 6 h) by more than an epoch. */
const IDLE_S = [3.2, 6.2, 16, 31, 61, 181, 21_601];
const PROGRAMS: readonly (readonly [ProgramName, ingress: string])[] = [
  ['lb_from_outside', 'out'],
  ['lb_from_outside', 'side'],
  ['lb_from_outside', 'side'],
  ['lb_from_overlay', 'tun'],
  ['lb_to_outside', 'out'],
];
const EBADMSG = 74;
const DIRECT = REASONS.indexOf('forward-direct');

describe('random packets among nodes', () => {
  let node: ServiceNode;
  let engine: EbpfEngine;
  let maps: WorldMaps;
  let world: World;
  let links: Map<string, number>;
  let base: number;

  before(() => {
    node = ServiceNode.create('zn');
    links = makeSurroundings(node);
    engine = openEngine(node, {
      sizes: { natPorts: PORTS },
      nodeHook: 'tc',
    });
    for (const { name, overlay, known, source4, source6 } of AROUND.links.values()) {
      const addresses = { ip4: source4, ip6: source6 };
      if (overlay) engine.attachOverlay(links.get(name)!, addresses);
      else if (known) engine.attachNodeInterface(links.get(name)!, addresses);
      // As where the driver sends what XDP redirects: the tunnel's does not.
      if (known && !overlay)
        engine.maps.lb_interfaces.set(u32(links.get(name)!), encodeInterface(addresses, INTERFACE.XDP));
    }
    engine.setPeers(PEER_ADDRESSES);
    world = buildWorld(addToWorld);
    maps = new WorldMaps(engine);
    maps.write(world, engine);
    base = Number(natConstants(node.netns, undefined, PORTS)['lb_nat_base']);
  });

  after(async () => {
    maps?.close();
    engine?.remove();
    await node?.[Symbol.asyncDispose]();
  });

  const u32 = (value: number) => {
    const bytes = new Uint8Array(4);
    viewOf(bytes).setUint32(0, value, true);
    return bytes;
  };
  const headOf = (at: number) => engine.maps.lb_nat_heads.get(u32((base + at) % PORTS))!;
  const numberOf = (at: number, place: number) => u32(((base + at) % PORTS) * PLACES + place);
  /** Places of a port that hold a flow. */
  const usedAt = (head: Uint8Array) =>
    Array.from({ length: PLACES }, (_, place) => place).filter(
      (place) => viewOf(head).getUint32(place * 4, true) >>> 30 !== 0,
    );

  /** Which port the program gave to this client's flow. */
  const natPortOf = (p: Packet): number | undefined => {
    const client = Buffer.from(addressBytes(p.source));
    const vip = Buffer.from(addressBytes(p.target));
    for (let at = 0; at < PORTS; at++)
      for (const place of usedAt(headOf(at))) {
        const value = Buffer.from(engine.maps.lb_nat_flows.get(numberOf(at, place))!);
        if (!value.subarray(0, 16).equals(client) || !value.subarray(16, 32).equals(vip)) continue;
        const flow = natFlowStruct.decode(value);
        if (flow.client_port !== p.sourcePort || flow.vip_port !== p.targetPort) continue;
        if (flow.protocol === p.protocol) return flow.nat_port;
      }
    return undefined;
  };

  const compareNatAndForget = (nat: NatFlows): void => {
    for (let at = 0; at < PORTS; at++) {
      const head = headOf(at);
      const wanted = nat.places.slice(at * PLACES, (at + 1) * PLACES);
      assert.deepEqual(
        usedAt(head),
        wanted.flatMap((flow, place) => (flow ? [place] : [])),
      );
      wanted.forEach((flow, place) => {
        if (!flow) return;
        const there = natFlowStruct.decode(engine.maps.lb_nat_flows.get(numberOf(at, place))!);
        assert.deepEqual(
          { ...there, seen: 0, to_backend: 0, to_client: 0 },
          {
            client: addressBytes(flow.client),
            vip: addressBytes(flow.vip),
            backend: addressBytes(flow.backend),
            client_port: flow.clientPort,
            vip_port: flow.vipPort,
            backend_port: flow.backendPort,
            nat_port: flow.natPort,
            backend_id: flow.backendId,
            seen: 0,
            source: addressBytes(flow.source),
            service: flow.service,
            flags: flow.flags,
            protocol: flow.protocol,
            to_backend: 0,
            to_client: 0,
          },
        );
      });
      // Its words and which ports were tried; what lies behind is the table's own.
      engine.maps.lb_nat_heads.set(u32((base + at) % PORTS), head.fill(0, 0, 36));
    }
    nat.clear();
  };

  /** Nobody sends in a flow for a while. */
  const grow = (nat: NatFlows, random: Random): void => {
    const number = random.below(nat.places.length);
    const flow = nat.places[number];
    if (!flow) return;
    const idleS = random.pick(IDLE_S);
    if (idleS < flow.idleS) return;
    const key = numberOf(Math.floor(number / PLACES), number % PLACES);
    const value = engine.maps.lb_nat_flows.get(key)!;
    const { seen } = natFlowStruct.decode(value);
    const at = natFlowStruct.members.find(({ name }) => name === 'seen')!.offset;
    const back = Math.round((idleS - flow.idleS) * jiffiesPerSecond());
    viewOf(value).setUint32(at, (seen - back) >>> 0, true);
    engine.maps.lb_nat_flows.set(key, value);
    flow.idleS = idleS;
  };

  test(`${PACKETS} of them meet the same fate as in the reference`, (t) => {
    const random = new Random(SEED);
    const runner = new PacketRunner(node.netns.fd);
    const nat = new NatFlows(base, PORTS);
    const packets = new NodePackets(runner.input, random, nat);
    const reference = new NodeReference(world, AROUND, nat);
    const { observed } = runner;
    const fds = PROGRAMS.map(([name]) => engine.programs.get(name)!.fd);
    const xdp = engine.programs.get('lb_xdp')!.fd;
    const inXdp = { left: 0, judged: 0 };
    const counted = engine.counters();
    const outcomes = new Map<string, number>();
    reference.natPortOf = natPortOf;
    const started = performance.now();
    let epoch = { packet: 0, ms: started };
    let complete = true;
    let sound = 0;
    let packet = 0;
    const otherwise = () => {
      const now = engine.counters();
      return REASONS.filter(
        (reason, at) => at > 0 && now[reason]! - counted[reason]! !== reference.counts[at],
      );
    };
    for (; packet < PACKETS; packet++) {
      const now = performance.now();
      if (now - started > (packet > ENOUGH.packets ? CAP_MS : Math.max(CAP_MS, ENOUGH.ms))) break;
      if (packet - epoch.packet === EPOCH.packets || now - epoch.ms > EPOCH.ms) {
        compareNatAndForget(nat);
        compareAndForget(engine, reference);
        epoch = { packet, ms: performance.now() };
      }
      if (packet % 500 === 0) {
        const backend = world.backends.get(1 + random.below(world.backends.size))!;
        const member = BACKEND.CLUSTER | (backend.flags & BACKEND.NEAR ? BACKEND.LOCAL : 0);
        backend.flags = random.one(4)
          ? backend.flags & BACKEND.NEAR
          : BACKEND.USED | (backend.flags & BACKEND.NEAR) | (random.one(4) ? 0 : member);
        maps.writeBackend(backend);
      }
      if (packet % 20 === 0) grow(nat, random);
      const which = random.below(PROGRAMS.length);
      const [program, ingress] = PROGRAMS[which]!;
      packets.make(program === 'lb_to_outside');
      const { last: generator } = packets;
      const { length } = generator;
      // Half of what comes from outside meets XDP first, which leaves to tc what it passes without a word.
      const passes = program === 'lb_from_outside' && random.one(2);
      const byXdp = passes ? runner.runXdp(xdp, length) : undefined;
      if (passes) inXdp[byXdp === undefined ? 'left' : 'judged']++;
      const gso = byXdp === undefined && random.one(40);
      const ifindex = links.get(ingress)!;
      const summed: boolean =
        byXdp === undefined && complete && random.one(2) && !hasNoSum(generator.bytes, length);
      let result: number = byXdp ?? runner.run(fds[which]!, length, { gso, complete: summed, ifindex });
      if (summed && result === -ERRNO.EINVAL) {
        complete = false;
        result = runner.run(fds[which]!, length, { gso, complete: false, ifindex });
      }
      const where = (): string =>
        `packet ${packet} of SEED=${SEED}, ${byXdp === undefined ? program : 'lb_xdp'} at ${ingress}${gso ? ', gso' : ''}${summed ? ', summed' : ''}: ` +
        `${Buffer.from(generator.bytes.subarray(0, length)).toString('hex')}, counted otherwise: ${otherwise()}`;
      const cut = result === -EBADMSG;
      if (cut) result = runner.run(fds[which]!, length, { gso, complete: false, ifindex });
      if (result !== 0) assert.fail(`${errnoName(-result)}: ${where()}`);
      let verdict = 0;
      try {
        // As often as it ran: the first packet of a flow may be refused its way, and so is the same one again.
        for (let times = cut ? 2 : 1; times > 0; times--)
          verdict = reference.judgeAt(ingress, program, generator.bytes, length, observed, gso);
      } catch (error) {
        assert.fail(`${(error as Error).message}: ${where()}`);
      }
      if (cut) {
        const icmp = generator.bytes[12] === 8 ? PROTOCOL.ICMP : PROTOCOL.ICMP6;
        const answer =
          verdict === VERDICT.REDIRECT && reference.out[icmp === PROTOCOL.ICMP ? 23 : 20] === icmp;
        if (!answer) assert.fail(`the sum of the card is wrong afterwards: ${where()}`);
      }
      // XDP opened the flow and left the packet to tc, which chose anew because that backend had just gone.
      const { directTo } = reference;
      const serves = BACKEND.USED | BACKEND.CLUSTER;
      if (passes && byXdp === undefined && directTo && (directTo.flags & serves) !== serves)
        reference.counts[DIRECT]! = engine.counters()['forward-direct']! - counted['forward-direct']!;
      compareOutcome(runner, verdict, reference, where);
      outcomes.set(program + verdict, (outcomes.get(program + verdict) ?? 0) + 1);
      if (verdict === VERDICT.DROP) continue;
      if (generator.sound && observed.length === length) {
        sound++;
        const wrong = wrongSums(observed.bytes, observed.length);
        if (wrong !== '') assert.fail(`wrong ${wrong} sum: ${where()}`);
      }
    }
    compareNatAndForget(nat);
    compareAndForget(engine, reference);
    compareCounts(engine, counted, reference);
    t.diagnostic(
      `${packet} packets in ${Math.round(performance.now() - started)} ms; XDP left ${inXdp.left} and judged ${inXdp.judged}; ` +
        REASONS.flatMap((reason, at) =>
          reference.counts[at]! > 0 ? [`${reason} ${reference.counts[at]}`] : [],
        ).join(', '),
    );
    assert.ok(packet > ENOUGH.packets, `${packet} packets`);
    for (const program of ['lb_from_outside', 'lb_from_overlay'])
      for (const verdict of Object.values(VERDICT))
        assert.ok((outcomes.get(program + verdict) ?? 0) > packet / 2000, `${program} ${verdict}`);
    assert.ok(sound > packet / 8);
    assert.ok(inXdp.judged > packet / 50);
    // No socket is there, no pod's own packets, and no other layout.
    const elsewhere = [
      'none',
      'forward-socket',
      'forward-hairpin',
      'drop-hold',
      'drop-spoofed',
      'drop-flows-full',
      'drop-sockets-full',
    ];
    for (const [at, reason] of REASONS.entries())
      assert.ok(elsewhere.includes(reason) || reference.counts[at]! > 0, reason);
  });
});
