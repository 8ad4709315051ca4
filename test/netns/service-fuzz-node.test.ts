/**
 * Random packets through the programs at a node's interfaces, with other nodes around: translation of both addresses,
 * direct return both ways, tunnels and routers, beside the reference in TypeScript. See service-fuzz.test.ts.
 *
 *   PORTOLAN_FUZZ_PACKETS=10000000 SEED=1 node --test test/netns/service-fuzz-node.test.ts
 */
import assert from 'node:assert/strict';
import test, { after, before, describe, type TestContext } from 'node:test';
import { viewOf } from '../../src/codec/index.ts';
import { type BpfMap, jiffiesPerSecond, mapById } from '../../src/kernel/bpf/index.ts';
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
/** Of struct lb_nat_head. */
const HEAD_BYTES = 64;
/** After so many packets, or so long, flows are compared and forgotten: before any of them gets old by itself. */
const EPOCH = { packets: 2000, ms: 1000 };
/** Longest time for a run of the normal size, on a machine that has other work. */
const CAP_MS = process.env.PORTOLAN_FUZZ_PACKETS ? Number.POSITIVE_INFINITY : 8_000;
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
  let further: number;

  before(() => {
    node = ServiceNode.create('zn');
    links = makeSurroundings(node);
    engine = openEngine(node, {
      // Few lines, and two kinds, so that flows drive each other out of them.
      sizes: { natPorts: PORTS, hotLines: 32 },
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
    const constants = natConstants(node.netns, undefined, PORTS);
    base = Number(constants['lb_nat_base']);
    further = Number(constants['lb_nat_more_base']);
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
  /** Head and flows of a set: in maps of their own, or together in what the table has grown by. */
  const setOf = (port: number, level: number) => {
    const place = port < PORTS ? (base + port) % PORTS : PORTS + ((further + port - PORTS) % (PORTS / 2));
    const set = place + level * (PORTS + PORTS / 2);
    const more = viewOf(engine.maps.lb_nat_more.get(u32(0)) ?? new Uint8Array(4)).getUint32(0, true);
    const inMore = <T>(work: (chunk: BpfMap, key: Uint8Array) => T): T => {
      using chunk = mapById(more, 'lb_nat_more');
      return work(chunk, u32(set - PORTS));
    };
    const { lb_nat_heads, lb_nat_flows } = engine.maps;
    const size = natFlowStruct.size;
    return {
      head: () =>
        set < PORTS
          ? lb_nat_heads.get(u32(set))!
          : inMore((chunk, key) => chunk.get(key)!.slice(0, HEAD_BYTES)),
      flow: (slot: number) =>
        set < PORTS
          ? lb_nat_flows.get(u32(set * PLACES + slot))!
          : inMore((chunk, key) =>
              chunk.get(key)!.slice(HEAD_BYTES + slot * size, HEAD_BYTES + (slot + 1) * size),
            ),
      setFlow: (slot: number, value: Uint8Array) => {
        if (set < PORTS) lb_nat_flows.set(u32(set * PLACES + slot), value);
        else
          inMore((chunk, key) => {
            const all = chunk.get(key)!;
            all.set(value, HEAD_BYTES + slot * size);
            chunk.set(key, all);
          });
      },
      /** Its words and which ports were tried; what lies behind is the table's own. */
      forget: () => {
        if (set < PORTS) lb_nat_heads.set(u32(set), lb_nat_heads.get(u32(set))!.fill(0, 0, 36));
        else inMore((chunk, key) => chunk.set(key, chunk.get(key)!.fill(0, 0, HEAD_BYTES)));
      },
    };
  };
  /** Places of a port that hold a flow. */
  const usedAt = (head: Uint8Array) =>
    Array.from({ length: PLACES }, (_, place) => place).filter(
      (place) => viewOf(head).getUint32(place * 4, true) >>> 30 !== 0,
    );

  /** As after a second: flows have changed, and no CPU keeps what it knew of them. */
  const forgetHot = (): void => {
    const epoch = engine.maps.lb_nat_epoch.get(u32(0))!;
    viewOf(epoch).setUint32(0, viewOf(epoch).getUint32(0, true) + 1, true);
    engine.maps.lb_nat_epoch.set(u32(0), epoch);
  };

  /** Which port the program gave to this client's flow. */
  const natPortOf = (p: Packet, nat: NatFlows, levels: number): number | undefined => {
    const client = Buffer.from(addressBytes(p.source));
    const vip = Buffer.from(addressBytes(p.target));
    for (let port = 0; port < nat.ports.length; port++)
      for (let level = 0; level <= levels; level++) {
        const set = setOf(port, level);
        for (const place of usedAt(set.head())) {
          const value = Buffer.from(set.flow(place));
          if (!value.subarray(0, 16).equals(client) || !value.subarray(16, 32).equals(vip)) continue;
          const flow = natFlowStruct.decode(value);
          if (flow.client_port !== p.sourcePort || flow.vip_port !== p.targetPort) continue;
          if (flow.protocol === p.protocol) return flow.nat_port;
        }
      }
    return undefined;
  };

  /** Returns how many flows lay beyond the first table. */
  const compareNatAndForget = (nat: NatFlows): number => {
    let beyond = 0;
    for (let first = 0; first < nat.places.length; first += PLACES) {
      const { port, level } = nat.whereIs(first);
      const set = setOf(port, level);
      const wanted = nat.places.slice(first, first + PLACES);
      assert.deepEqual(
        usedAt(set.head()),
        wanted.flatMap((flow, place) => (flow ? [place] : [])),
      );
      wanted.forEach((flow, place) => {
        if (!flow) return;
        if (port >= PORTS || level > 0) beyond++;
        const there = natFlowStruct.decode(set.flow(place));
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
      set.forget();
    }
    nat.clear();
    forgetHot();
    return beyond;
  };

  /** Nobody sends in a flow for a while. */
  const grow = (nat: NatFlows, random: Random): void => {
    const number = random.below(nat.places.length);
    const flow = nat.places[number];
    if (!flow) return;
    const idleS = random.pick(IDLE_S);
    if (idleS < flow.idleS) return;
    const { port, level, slot } = nat.whereIs(number);
    const set = setOf(port, level);
    const value = set.flow(slot);
    const { seen } = natFlowStruct.decode(value);
    const at = natFlowStruct.members.find(({ name }) => name === 'seen')!.offset;
    const back = Math.round((idleS - flow.idleS) * jiffiesPerSecond());
    viewOf(value).setUint32(at, (seen - back) >>> 0, true);
    set.setFlow(slot, value);
    forgetHot();
    flow.idleS = idleS;
  };

  const meet = (t: TestContext, nat: NatFlows, levels: number) => {
    const random = new Random(SEED);
    const runner = new PacketRunner(node.netns.fd);
    let beyond = 0;
    const packets = new NodePackets(runner.input, random, nat);
    const reference = new NodeReference(world, AROUND, nat);
    const { observed } = runner;
    const fds = PROGRAMS.map(([name]) => engine.programs.get(name)!.fd);
    const xdp = engine.programs.get('lb_xdp')!.fd;
    const inXdp = { left: 0, judged: 0 };
    const counted = engine.counters();
    const outcomes = new Map<string, number>();
    reference.natPortOf = (p) => natPortOf(p, nat, levels);
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
        beyond += compareNatAndForget(nat);
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
    beyond += compareNatAndForget(nat);
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
    return beyond;
  };

  test(`${PACKETS} of them meet the same fate as in the reference`, (t) => {
    assert.equal(meet(t, new NatFlows(base, PORTS), 0), 0);
  });

  test('the same beside a table that has grown: further ports, and two more levels of places', (t) => {
    engine.nat.grow(3);
    const beyond = meet(t, new NatFlows(base, PORTS, { first: further, levels: 2 }), 2);
    t.diagnostic(`${beyond} flows were found beyond the first table`);
    assert.ok(beyond > 100, `${beyond} flows`);
  });
});
