/**
 * Random packets through the loaded packet programs (BPF_PROG_TEST_RUN), beside a reference in TypeScript: the same
 * verdict, the same bytes, the same mark, the same flows in the map afterwards, and the same counters.
 *
 *   PORTOLAN_FUZZ_PACKETS=10000000 SEED=1 node --test test/netns/service-fuzz.test.ts
 */
import assert from 'node:assert/strict';
import test, { after, before, describe } from 'node:test';
import { ERRNO, errnoName } from '../../src/kernel/syscall/index.ts';
import type { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import { BACKEND, REASONS } from '../../src/service/engines/ebpf/layout.ts';
import { compareAndForget, compareCounts, compareOutcome, hasNoSum, wrongSums } from '../lib/lb-fuzz-maps.ts';
import { buildWorld, WorldMaps } from '../lib/lb-fuzz-world.ts';
import { type ProgramName, Reference, VERDICT } from '../lib/lb-reference.ts';
import { PROTOCOL } from '../lib/lb-reference-packet.ts';
import type { World } from '../lib/lb-reference-world.ts';
import { PacketGenerator, Random } from '../lib/packet-generator.ts';
import { PacketRunner } from '../lib/packet-runner.ts';
import { openEngine } from '../lib/service-engine.ts';
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
    engine = openEngine(node);
    world = buildWorld();
    maps = new WorldMaps(engine);
    maps.write(world, engine);
  });

  after(async () => {
    maps?.close();
    engine?.remove();
    await node?.[Symbol.asyncDispose]();
  });

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
      if (packet % EPOCH === 0 && packet > 0) compareAndForget(engine, reference);
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
      compareOutcome(runner, verdict, reference, where);
      outcomes.set(program + verdict, (outcomes.get(program + verdict) ?? 0) + 1);
      if (verdict === VERDICT.DROP) continue;
      if (generator.sound) {
        sound++;
        const wrong = wrongSums(observed.bytes, observed.length);
        if (wrong !== '') assert.fail(`wrong ${wrong} sum: ${where()}`);
      }
    }
    compareAndForget(engine, reference);
    compareCounts(engine, counted, reference);
    // Every verdict of every program was there, and packets whose sums could be computed anew.
    const from = ['lb_from_pod', 'lb_from_outside'].flatMap((name) =>
      Object.values(VERDICT).map((v) => name + v),
    );
    for (const outcome of [...from, `lb_to_pod${VERDICT.NEXT}`, `lb_to_outside${VERDICT.NEXT}`])
      assert.ok((outcomes.get(outcome) ?? 0) > PACKETS / 1000, `${outcome}: ${outcomes.get(outcome)}`);
    assert.ok(sound > PACKETS / 4);
    assert.ok(reference.otherPorts > PACKETS / 10_000, `${reference.otherPorts} flows with another port`);
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
      'drop-flows-full',
      'drop-sockets-full',
      'drop-spoofed',
    ];
    for (const [at, reason] of REASONS.entries())
      assert.ok(elsewhere.includes(reason) || reference.counts[at]! > 0, reason);
  });
});
