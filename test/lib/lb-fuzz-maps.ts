/** What the programs did and keep in maps beside what their reference did and remembers: compared byte for byte. */
import assert from 'node:assert/strict';
import { viewOf } from '../../src/codec/index.ts';
import type { Flow as KernelFlow } from '../../src/service/engines/ebpf/flow-table.ts';
import type { EbpfEngine } from '../../src/service/engines/ebpf/index.ts';
import { FLOW, REASONS, readAddress } from '../../src/service/engines/ebpf/layout.ts';
import { type Reference, VERDICT } from './lb-reference.ts';
import type { Flow } from './lb-reference-flows.ts';
import { ETHERNET, fold, PROTOCOL, sumOfBytes } from './lb-reference-packet.ts';
import { pseudoSum } from './packet-generator.ts';
import type { PacketRunner } from './packet-runner.ts';

/** Above them the flags of such a flow say when its node was told last. */
const FLAGS = (1 << 11) - 1;

function flagsOf({ flags }: KernelFlow): number {
  return flags & FLOW.OPTION ? flags & FLAGS : flags;
}

export function addressBytes(words: Uint32Array): Uint8Array {
  const out = new Uint8Array(16);
  for (let word = 0; word < 4; word++) viewOf(out).setUint32(word * 4, words[word]!);
  return out;
}

/**
 * Of flows with direct return nobody sees answers: a client that goes on confirms them, and after XDP has opened one tc
 * takes the same packet for that.
 */
function flagsText(flags: number): string {
  return (flags & ((flags & FLOW.DIRECT) !== 0 ? ~FLOW.CONFIRMED : -1)).toString(16);
}

/** A flow as text: everything but times. */
function textOf(flow: Flow, protocol: number): string {
  const address = (words: Uint32Array) => readAddress(addressBytes(words));
  return [
    ...[protocol, address(flow.client), flow.clientPort, address(flow.vip), flow.vipPort],
    ...[address(flow.backend), flow.backendPort, flow.backendId, flagsText(flow.flags)],
  ].join(' ');
}

function textOfBytes(flow: KernelFlow): string {
  return [
    ...[(flow.flags & FLOW.UDP) !== 0 ? PROTOCOL.UDP : PROTOCOL.TCP, readAddress(flow.client)],
    ...[flow.client_port, readAddress(flow.vip), flow.vip_port, readAddress(flow.backend)],
    ...[flow.backend_port, flow.backend_id, flagsText(flagsOf(flow))],
  ].join(' ');
}

/** The kernel's flows are those of the reference, member by member but for times; both forget them. */
export function compareAndForget(engine: EbpfEngine, reference: Reference): void {
  const { lb_fragments, lb_affinities, lb_links } = engine.maps;
  const wanted: string[] = [];
  for (const [words, flows] of reference.flows.entries())
    for (const flow of flows) if ((flow.flags & FLOW.USED) !== 0) wanted.push(textOf(flow, words[4]! & 0xff));
  const present: string[] = [];
  for (const { flow } of engine.flows.all()) present.push(textOfBytes(flow));
  assert.deepEqual(present.sort(), wanted.sort());
  engine.flows.clear();
  for (const map of [lb_fragments, lb_affinities]) for (const old of [...map.keys()]) map.delete(old);
  for (const link of [0, 1]) lb_links.set(Uint8Array.from([link, 0, 0, 0]), new Uint8Array(4));
  reference.clear();
}

/** Both say the same of a packet: verdict, and unless it was dropped bytes and mark. */
export function compareOutcome(
  runner: PacketRunner,
  verdict: number,
  reference: Reference,
  where: () => string,
): void {
  const { observed } = runner;
  if (verdict !== observed.verdict) assert.fail(`verdict ${observed.verdict}, want ${verdict}: ${where()}`);
  if (verdict === VERDICT.DROP) return;
  const got = observed.bytes.subarray(0, observed.length);
  const want = reference.out.subarray(0, reference.outLength);
  if (Buffer.compare(got, want) !== 0)
    assert.fail(
      `${where()}\n  came out as\n${Buffer.from(got).toString('hex')}\n  want\n${Buffer.from(want).toString('hex')}`,
    );
  if (runner.mark !== reference.mark) assert.fail(`mark ${runner.mark}: ${where()}`);
}

/** What the programs counted since `before` is what the reference counted. */
export function compareCounts(
  engine: EbpfEngine,
  before: Record<string, number>,
  reference: Reference,
): void {
  const now = engine.counters();
  const counts = (of: (reason: string, at: number) => number) =>
    Object.fromEntries(REASONS.slice(1).map((reason, at) => [reason, of(reason, at + 1)]));
  assert.deepEqual(
    counts((reason) => now[reason]! - before[reason]!),
    counts((_, at) => reference.counts[at]!),
  );
}

/** Whether there is UDP whose checksum field is 0, behind extension headers and inside other packets, too. */
export function hasNoSum(bytes: Uint8Array, length: number, at = ETHERNET, four = bytes[12] === 8): boolean {
  let next = bytes[at + (four ? 9 : 6)]!;
  let body = at + (four ? (bytes[at]! & 15) * 4 : 40);
  // Hop-by-hop 0, routing 43, destination 60, fragment 44.
  for (let headers = 0; !four && [0, 43, 60, 44].includes(next) && headers < 12; headers++) {
    if (body + 8 > length) return true;
    const size = next === 44 ? 8 : (bytes[body + 1]! + 1) * 8;
    next = bytes[body]!;
    body += size;
  }
  if (next === PROTOCOL.UDP) return body + 8 <= length && bytes[body + 6] === 0 && bytes[body + 7] === 0;
  return (
    next === (four ? 4 : 41) &&
    body > at &&
    body + (four ? 20 : 40) <= length &&
    hasNoSum(bytes, length, body, four)
  );
}

/** Checksums over the whole packet; it has no fragments, options or extension headers unless it says so itself. */
export function wrongSums(bytes: Uint8Array, length: number): string {
  const four = bytes[12] === 8;
  const at = ETHERNET + (four ? (bytes[ETHERNET]! & 15) * 4 : 40);
  if (four && fold(sumOfBytes(bytes, ETHERNET, at)) !== 0xffff) return 'IPv4';
  const protocol = bytes[ETHERNET + (four ? 9 : 6)]!;
  const known = [PROTOCOL.TCP, PROTOCOL.UDP, four ? PROTOCOL.ICMP : PROTOCOL.ICMP6] as number[];
  if (!known.includes(protocol)) return '';
  const pseudo = protocol === PROTOCOL.ICMP ? 0 : pseudoSum(bytes, ETHERNET, four, protocol, length - at);
  return fold(pseudo + sumOfBytes(bytes, at, length)) === 0xffff ? '' : 'transport';
}
