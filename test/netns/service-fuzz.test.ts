/**
 * Random packets through the loaded packet programs (BPF_PROG_TEST_RUN), beside a reference in TypeScript: the same
 * verdict, the same bytes, the same mark, the same flows in the map afterwards, and the same counters.
 *
 *   PORTOLAN_FUZZ_PACKETS=10000000 SEED=1 node --test test/netns/service-fuzz.test.ts
 */
import assert from 'node:assert/strict';
import test, { after, before, describe } from 'node:test';
import { viewOf } from '../../src/codec/index.ts';
import { ERRNO, errnoName } from '../../src/kernel/syscall/index.ts';
import type { Flow as KernelFlow } from '../../src/service/engines/ebpf/flow-table.ts';
import { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import { BACKEND, FLOW, REASONS, readAddress } from '../../src/service/engines/ebpf/layout.ts';
import { buildWorld, WorldMaps } from '../lib/lb-fuzz-world.ts';
import { type ProgramName, Reference, VERDICT } from '../lib/lb-reference.ts';
import type { Flow } from '../lib/lb-reference-flows.ts';
import { ETHERNET, fold, PROTOCOL, sumOfBytes } from '../lib/lb-reference-packet.ts';
import type { World } from '../lib/lb-reference-world.ts';
import { PacketGenerator, pseudoSum, Random } from '../lib/packet-generator.ts';
import { PacketRunner } from '../lib/packet-runner.ts';
import { ServiceNode } from '../lib/services.ts';

const PACKETS = Number(process.env.PORTOLAN_FUZZ_PACKETS ?? 200_000);
const SEED = Number(process.env.SEED ?? Date.now() & 0x7fff_ffff);
const PROGRAMS: readonly ProgramName[] = ['lb_from_pod', 'lb_to_pod', 'lb_from_outside', 'lb_to_outside'];
/** After so many packets flows are compared and forgotten: far below what the maps give up. */
const EPOCH = 4000;

const EBADMSG = 74;

describe('random packets', () => {
  let node: ServiceNode;
  let engine: EbpfEngine;
  let maps: WorldMaps;
  let world: World;

  before(() => {
    node = ServiceNode.create('z');
    engine = EbpfEngine.open({
      bpffsDir: node.bpffs,
      cgroupPath: node.cgroup,
      netns: node.netns,
      nodeName: 'node-a',
    });
    world = buildWorld();
    maps = new WorldMaps(engine);
    maps.write(world, engine);
  });

  after(async () => {
    maps?.close();
    engine?.remove();
    await node?.[Symbol.asyncDispose]();
  });

  /** A flow as text: everything but the time. */
  const textOf = (flow: Flow, protocol: number): string => {
    const address = (words: Uint32Array) => {
      const out = new Uint8Array(16);
      for (let word = 0; word < 4; word++) viewOf(out).setUint32(word * 4, words[word]!);
      return readAddress(out);
    };
    return [
      ...[protocol, address(flow.client), flow.clientPort, address(flow.vip), flow.vipPort],
      ...[address(flow.backend), flow.backendPort, flow.backendId, flow.flags.toString(16)],
    ].join(' ');
  };
  const textOfBytes = (flow: KernelFlow): string =>
    [
      ...[
        (flow.flags & FLOW.UDP) !== 0 ? PROTOCOL.UDP : PROTOCOL.TCP,
        readAddress(flow.client),
        flow.client_port,
      ],
      ...[readAddress(flow.vip), flow.vip_port, readAddress(flow.backend), flow.backend_port],
      ...[flow.backend_id, flow.flags.toString(16)],
    ].join(' ');

  /** The kernel's flows are those of the reference, member by member but for the time; both forget them. */
  const compareAndForget = (reference: Reference): void => {
    const { lb_fragments, lb_affinities, lb_links } = engine.maps;
    const wanted: string[] = [];
    for (const [words, flows] of reference.flows.entries())
      for (const flow of flows)
        if ((flow.flags & FLOW.USED) !== 0) wanted.push(textOf(flow, words[4]! & 0xff));
    const present: string[] = [];
    for (const { flow } of engine.flows.all()) present.push(textOfBytes(flow));
    assert.deepEqual(present.sort(), wanted.sort());
    engine.flows.clear();
    for (const map of [lb_fragments, lb_affinities]) for (const old of [...map.keys()]) map.delete(old);
    for (const link of [0, 1]) lb_links.set(Uint8Array.from([link, 0, 0, 0]), new Uint8Array(4));
    reference.clear();
  };

  test(`${PACKETS} of them meet the same fate as in the reference`, () => {
    const random = new Random(SEED);
    const runner = new PacketRunner();
    const generator = new PacketGenerator(runner.input, random);
    const reference = new Reference(world);
    const { observed } = runner;
    const xdp = engine.programs.get('lb_xdp')!.fd;
    const inXdp = { left: 0, judged: 0 };
    const fds = PROGRAMS.map((name) => engine.programs.get(name)!.fd);
    const counted = engine.counters();
    const outcomes = new Map<string, number>();
    let complete = true;
    let sound = 0;
    for (let packet = 0; packet < PACKETS; packet++) {
      if (packet % EPOCH === 0 && packet > 0) compareAndForget(reference);
      if (packet % 500 === 0) {
        // A backend goes, comes back, or drains.
        const backend = world.backends.get(1 + random.below(world.backends.size))!;
        const member = BACKEND.CLUSTER | (backend.flags & BACKEND.NEAR ? BACKEND.LOCAL : 0);
        backend.flags = random.one(4)
          ? 0
          : BACKEND.USED | (backend.flags & BACKEND.NEAR) | (random.one(4) ? 0 : member);
        maps.writeBackend(backend);
      }
      const which = random.below(4);
      const program = PROGRAMS[which]!;
      generator.make((which & 1) === 1);
      const { length } = generator;
      let gso = random.one(40);
      // The kernel compares the card's sum afterwards. Without a UDP sum nothing of it is defined.
      // Half of what comes from outside meets XDP first, which leaves to tc what it passes without a word.
      const passes = program === 'lb_from_outside' && random.one(2);
      const byXdp = passes ? runner.runXdp(xdp, length) : undefined;
      if (byXdp !== undefined) gso = false;
      if (passes) inXdp[byXdp === undefined ? 'left' : 'judged']++;
      const summed: boolean =
        byXdp === undefined && complete && random.one(2) && !hasNoSum(generator.bytes, length);
      let result: number = byXdp ?? runner.run(fds[which]!, length, { gso, complete: summed });
      if (summed && result === -ERRNO.EINVAL) {
        // Linux before 6.16 has no such flag.
        complete = false;
        result = runner.run(fds[which]!, length, { gso, complete: false });
      }
      const where = (): string =>
        `packet ${packet} of SEED=${SEED}, ${byXdp === undefined ? program : 'lb_xdp'}${gso ? ', gso' : ''}${summed ? ', summed' : ''}: ` +
        `${Buffer.from(generator.bytes.subarray(0, length)).toString('hex')}`;
      // A packet cut for an answer: the kernel says then that the card's sum is not kept, and the check looks anyway.
      const cut = result === -EBADMSG;
      if (cut) result = runner.run(fds[which]!, length, { gso, complete: false });
      if (result !== 0) assert.fail(`${errnoName(-result)}: ${where()}`);
      const counts = cut ? reference.counts.slice() : reference.counts;
      const verdict = reference.judge(program, generator.bytes, length, observed, gso);
      if (cut) {
        const icmp = generator.bytes[12] === 8 ? PROTOCOL.ICMP : PROTOCOL.ICMP6;
        const answer =
          verdict === VERDICT.REDIRECT && reference.out[icmp === PROTOCOL.ICMP ? 23 : 20] === icmp;
        if (!answer) assert.fail(`the sum of the card is wrong afterwards: ${where()}`);
        counts.forEach((before, at) => {
          reference.counts[at]! += reference.counts[at]! - before;
        });
      }
      if (verdict !== observed.verdict)
        assert.fail(`verdict ${observed.verdict}, want ${verdict}: ${where()}`);
      outcomes.set(program + verdict, (outcomes.get(program + verdict) ?? 0) + 1);
      if (verdict === VERDICT.DROP) continue;
      const same =
        observed.length === reference.outLength &&
        Buffer.compare(
          observed.bytes.subarray(0, observed.length),
          reference.out.subarray(0, reference.outLength),
        ) === 0;
      if (!same)
        assert.fail(
          `${where()}\n  came out as\n${Buffer.from(observed.bytes.subarray(0, observed.length)).toString('hex')}\n` +
            `  want\n${Buffer.from(reference.out.subarray(0, reference.outLength)).toString('hex')}`,
        );
      if (runner.mark !== reference.mark) assert.fail(`mark ${runner.mark}: ${where()}`);
      if (generator.sound) {
        sound++;
        const wrong = wrongSums(observed.bytes, observed.length);
        if (wrong !== '') assert.fail(`wrong ${wrong} sum: ${where()}`);
      }
    }
    compareAndForget(reference);
    const now = engine.counters();
    const counts = (of: (reason: string, at: number) => number) =>
      Object.fromEntries(REASONS.slice(1).map((reason, at) => [reason, of(reason, at + 1)]));
    assert.deepEqual(
      counts((reason) => now[reason]! - counted[reason]!),
      counts((_, at) => reference.counts[at]!),
    );
    // Every verdict of every program was there, and packets whose sums could be computed anew.
    const from = ['lb_from_pod', 'lb_from_outside'].flatMap((name) =>
      Object.values(VERDICT).map((v) => name + v),
    );
    for (const outcome of [...from, `lb_to_pod${VERDICT.NEXT}`, `lb_to_outside${VERDICT.NEXT}`])
      assert.ok((outcomes.get(outcome) ?? 0) > PACKETS / 1000, `${outcome}: ${outcomes.get(outcome)}`);
    assert.ok(sound > PACKETS / 4);
    assert.ok(inXdp.judged > PACKETS / 20, `${inXdp.judged} judged in XDP, ${inXdp.left} left to tc`);
    // No socket is there, and no other node that answers to an address of this one.
    const elsewhere = [
      'none',
      'forward-socket',
      'forward-nat',
      'forward-direct',
      'reject-too-big',
      'drop-hop-limit',
      'drop-nat-full',
      'drop-no-route',
      'drop-direct',
      'drop-hold',
      'drop-option',
      'drop-flows-full',
      'drop-sockets-full',
      'drop-spoofed',
    ];
    for (const [at, reason] of REASONS.entries())
      assert.ok(elsewhere.includes(reason) || reference.counts[at]! > 0, reason);
  });
});

/** IPv4 or IPv6 with UDP somewhere whose checksum field is 0. */
function hasNoSum(bytes: Uint8Array, length: number): boolean {
  const four = bytes[12] === 8;
  if (four) {
    const at = ETHERNET + (bytes[ETHERNET]! & 15) * 4;
    return (
      bytes[ETHERNET + 9] === PROTOCOL.UDP && at + 8 <= length && bytes[at + 6] === 0 && bytes[at + 7] === 0
    );
  }
  if (bytes[ETHERNET + 6] === PROTOCOL.UDP) return bytes[ETHERNET + 46] === 0 && bytes[ETHERNET + 47] === 0;
  return bytes[ETHERNET + 6] !== PROTOCOL.TCP && bytes[ETHERNET + 6] !== PROTOCOL.ICMP6;
}

/** Checksums over the whole packet; it has no fragments, options or extension headers unless it says so itself. */
function wrongSums(bytes: Uint8Array, length: number): string {
  const four = bytes[12] === 8;
  const at = ETHERNET + (four ? (bytes[ETHERNET]! & 15) * 4 : 40);
  if (four && fold(sumOfBytes(bytes, ETHERNET, at)) !== 0xffff) return 'IPv4';
  const protocol = bytes[ETHERNET + (four ? 9 : 6)]!;
  const known = [PROTOCOL.TCP, PROTOCOL.UDP, four ? PROTOCOL.ICMP : PROTOCOL.ICMP6] as number[];
  if (!known.includes(protocol)) return '';
  const pseudo = protocol === PROTOCOL.ICMP ? 0 : pseudoSum(bytes, ETHERNET, four, protocol, length - at);
  return fold(pseudo + sumOfBytes(bytes, at, length)) === 0xffff ? '' : 'transport';
}
