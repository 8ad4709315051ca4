/**
 * Runs in the namespace that xdp.ts made, and prints figures as JSON:  node test/bench/xdp-run.ts EDGE SINK [--quick]
 *
 *     bench_send ──► SINK ══ veth ══ EDGE: [program under test] ── XDP_TX ──► SINK: [bench_sink]
 */
import { readdirSync, readFileSync } from 'node:fs';
import { viewOf } from '../../src/codec/index.ts';
import { attachXdp } from '../../src/kernel/bpf/index.ts';
import { atMost, type Figure, median } from './figure.ts';
import { PACKET_BYTES, type Packets, type Program, XdpWorld } from './xdp-world.ts';

const XDP_TX = 3;
/** linux/bpf.h: frames of a test run go where the program says. */
const BPF_F_TEST_XDP_LIVE_FRAMES = 2;

const [edge, sink] = process.argv.slice(2, 4).map(Number) as [number, number];
const quick = process.argv.includes('--quick');
const ROUNDS = quick ? 5 : 7;
const data = new Uint8Array(PACKET_BYTES);

/** struct xdp_md, for a packet that came in by `ifindex`. */
function context(ifindex: number): Uint8Array {
  const bytes = new Uint8Array(24);
  viewOf(bytes).setUint32(4, PACKET_BYTES, true);
  viewOf(bytes).setUint32(12, ifindex, true);
  return bytes;
}

/** Nanoseconds of a packet by the program alone, all of `repeat` in one test run. */
function alone(world: XdpWorld, packets: Packets, program: Program, repeat: number, first = 0): number {
  world.prepare(packets, program, { first });
  const wrap = world.object.programs.get('bench_wrap')!;
  const { returned, durationNs } = wrap.run({ data, context: context(edge), repeat });
  if (returned !== XDP_TX) throw new Error(`${program} returned ${returned} for ${JSON.stringify(packets)}`);
  return durationNs;
}

/** All flows of these packets are established. */
function openedBefore(world: XdpWorld, packets: Packets): void {
  alone(world, { ...packets, opens: true }, 'lb_xdp', packets.flows);
  world.confirm();
}

/** ... and have had a packet this second. */
function knownBefore(world: XdpWorld, packets: Packets): void {
  openedBefore(world, packets);
  alone(world, packets, 'lb_xdp', packets.flows);
}

const ns = (name: string, value: number, baseline: number): Figure => ({
  name,
  value,
  unit: 'ns',
  baseline: { name: 'stateless table lookup, net', value: baseline },
});

interface Case {
  readonly name: string;
  readonly packets: Packets;
  /** Of a hit. */
  readonly budget?: number;
}

const CASES: readonly Case[] = [
  { name: 'TCP, 1 flow', packets: { protocol: 'tcp', family: 4, flows: 1 }, budget: 45 },
  { name: 'TCP over IPv6, 1 flow', packets: { protocol: 'tcp', family: 6, flows: 1 } },
  { name: 'UDP, 1 flow', packets: { protocol: 'udp', family: 4, flows: 1 } },
  { name: 'TCP, 64k flows', packets: { protocol: 'tcp', family: 4, flows: 65_536 } },
  { name: 'UDP, 64k flows', packets: { protocol: 'udp', family: 4, flows: 65_536 } },
  { name: 'TCP, 128k flows', packets: { protocol: 'tcp', family: 4, flows: 131_072 } },
  { name: 'direct return, TCP, 1 flow', packets: { protocol: 'tcp', family: 4, flows: 1, direct: true } },
  {
    name: 'direct return, TCP, 64k flows',
    packets: { protocol: 'tcp', family: 4, flows: 65_536, direct: true },
  },
  {
    name: 'direct return, TCP, 512k flows',
    packets: { protocol: 'tcp', family: 4, flows: 524_288, direct: true },
  },
];

/** Packets of flows that are known. */
function hits(world: XdpWorld, counting: XdpWorld): Figure[] {
  const repeat = quick ? 262_144 : 524_288;
  return CASES.flatMap(({ name, packets, budget }) => {
    const times = {
      empty: [] as number[],
      stateless: [] as number[],
      hit: [] as number[],
      counted: [] as number[],
    };
    for (const each of [world, counting]) {
      each.clearNat();
      openedBefore(each, packets);
    }
    for (let round = 0; round < ROUNDS; round++) {
      times.empty.push(alone(world, packets, 'bench_empty', repeat));
      times.stateless.push(alone(world, packets, 'bench_stateless', repeat));
      times.hit.push(alone(world, packets, 'lb_xdp', repeat));
      times.counted.push(alone(counting, packets, 'lb_xdp', repeat));
    }
    const empty = median(times.empty);
    const net = (values: number[]) => Math.max(0, median(values) - empty);
    const hit = net(times.hit);
    return [
      {
        ...ns(`known flow, ${name}`, hit, net(times.stateless)),
        ...(budget !== undefined && { budget: atMost(hit, budget, 'ns') }),
      },
      ns(`... counting for backends`, net(times.counted), net(times.stateless)),
    ];
  });
}

/** Every packet opens a flow of its own. */
function opened(world: XdpWorld): Figure[] {
  const EACH = 65_536;
  const kinds = [
    ['TCP', { protocol: 'tcp', family: 4, flows: EACH, opens: true }],
    ['TCP over IPv6', { protocol: 'tcp', family: 6, flows: EACH, opens: true }],
    ['UDP', { protocol: 'udp', family: 4, flows: EACH }],
    ['direct return, TCP', { protocol: 'tcp', family: 6, flows: 1 << 20, opens: true, direct: true }],
  ] as const satisfies readonly (readonly [string, Packets])[];
  return kinds.map(([name, packets]) => {
    const times = { empty: [] as number[], stateless: [] as number[], opened: [] as number[] };
    for (let round = 0; round < ROUNDS; round++) {
      world.clearNat();
      times.empty.push(alone(world, packets, 'bench_empty', EACH));
      times.stateless.push(alone(world, packets, 'bench_stateless', EACH));
      times.opened.push(alone(world, packets, 'lb_xdp', EACH, round * EACH));
    }
    const empty = median(times.empty);
    const stateless = Math.max(0, median(times.stateless) - empty);
    const value = Math.max(0, median(times.opened) - empty);
    return {
      ...ns(`new flow, every packet one, ${name}`, value, stateless),
      budget: atMost(value, Math.round(1.3 * stateless), 'ns'),
    };
  });
}

/** CPU time of this thread and of the threads that work off what interrupts leave. */
function cpuNs(): number {
  const of = (path: string) => Number(readFileSync(`${path}/schedstat`, 'utf8').split(' ')[0]);
  return [...softirqThreads.map((pid) => `/proc/${pid}`), '/proc/thread-self'].reduce(
    (sum, at) => sum + of(at),
    0,
  );
}

const softirqThreads = readdirSync('/proc').filter((pid) => {
  if (!/^\d+$/.test(pid)) return false;
  try {
    return readFileSync(`/proc/${pid}/comm`, 'utf8').startsWith('ksoftirqd/');
  } catch {
    return false;
  }
});

/** Frames a second of CPU time behind a veth: sent, received, judged, turned back, ended. */
function live(world: XdpWorld): Figure[] {
  const { programs, maps } = world.object;
  const REPEAT = 65_536;
  using _sink = attachXdp(programs.get('bench_sink')!, { ifindex: sink, mode: 'native' });
  using link = attachXdp(programs.get('bench_turn')!, { ifindex: edge, mode: 'native' });
  const counts = maps.get('bench_counts')!;
  const came = () =>
    counts
      .getPerCpu(new Uint8Array(4))!
      .reduce((sum, each) => sum + Number(viewOf(each).getBigUint64(0, true)), 0);
  const run = (packets: Packets, program: Program, first: number): number => {
    link.update(programs.get(program)!);
    world.prepare(packets, program, { first, sends: sink });
    const [before, cpu] = [came(), cpuNs()];
    programs.get('bench_send')!.run({
      data,
      context: context(edge),
      repeat: REPEAT,
      flags: BPF_F_TEST_XDP_LIVE_FRAMES,
      outputBytes: 0,
    });
    // What still lies in the queues.
    for (let tries = 0, last = -1; tries < 50 && came() !== last; tries++) {
      last = came();
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    }
    const frames = came() - before;
    if (frames < REPEAT * 0.9) throw new Error(`${program}: ${frames} of ${REPEAT} frames came back`);
    return (frames * 1e9) / (cpuNs() - cpu);
  };
  const hit: Packets = { protocol: 'tcp', family: 4, flows: 1 };
  const many: Packets = { protocol: 'tcp', family: 4, flows: REPEAT };
  const direct: Packets = { protocol: 'tcp', family: 4, flows: 1 << 20, opens: true, direct: true };
  const candidates: readonly (readonly [string, Packets, Program])[] = [
    ['no-op XDP_TX', hit, 'bench_turn'],
    ['stateless table lookup', many, 'bench_stateless'],
    ['known flow, TCP, 1 flow', hit, 'lb_xdp'],
    ['known flow, TCP, 64k flows', many, 'lb_xdp'],
    ['new flow, every packet one, TCP', { ...many, opens: true }, 'lb_xdp'],
    ['new flow, every packet one, UDP', { ...many, protocol: 'udp' }, 'lb_xdp'],
    ['new flow, every packet one, direct return', direct, 'lb_xdp'],
  ];
  const rates = candidates.map((): number[] => []);
  for (let round = 0; round < ROUNDS; round++)
    candidates.forEach(([, packets, program], at) => {
      if (program === 'lb_xdp') world.clearNat();
      // Known flows: opened before, which also makes the kernel look at the way.
      if (program === 'lb_xdp' && !packets.opens && packets.protocol === 'tcp') knownBefore(world, packets);
      rates[at]!.push(run(packets, program, packets.direct ? (ROUNDS + round) * REPEAT : 0));
    });
  const noop = median(rates[0]!);
  return candidates.map(([name], at) => ({
    name: `live over veth, frames a second of CPU: ${name}`,
    value: median(rates[at]!),
    unit: '/s' as const,
    ...(at > 0 && { baseline: { name: 'no-op XDP_TX', value: noop } }),
  }));
}

using world = new XdpWorld(edge, false);
using counting = new XdpWorld(edge, true);
console.log(JSON.stringify([...hits(world, counting), ...opened(world), ...live(world)]));
