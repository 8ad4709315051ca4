/**
 * What XDP costs a packet: lb_xdp by itself in test runs that restore the packet, beside the least that a load balancer
 * does, both net of an empty program. Root.
 *
 *   node test/bench/xdp.ts
 */
import { viewOf } from '../../src/codec/index.ts';
import { BpfMap, type BpfObject, loadObject, MAP_FLAG, MAP_TYPE } from '../../src/kernel/bpf/index.ts';
import {
  BACKEND,
  backendStruct,
  CHUNK,
  encodeEndpoint,
  FRONTEND,
  frontendStruct,
  LINE_BYTES,
  lineStruct,
  writeAddress,
} from '../../src/service/engines/ebpf/layout.ts';
import { testObject } from '../lib/bpf.ts';
import { frame, TCP } from '../lib/packet.ts';
import { type AreaOptions, atMost, type Figure } from './figure.ts';
import { startedAlone } from './measure.ts';

const PACKET_BYTES = 80;
const XDP_TX = 3;
const XDP_PASS = 2;
const PROGRAM = { empty: 0, stateless: 1, lb_xdp: 2 } as const;
const ROUNDS = 9;
/** Where the last word of the source address is. */
const CLIENT_AT = { 4: 26, 6: 34 } as const;

interface Case {
  readonly name: string;
  readonly protocol: 'tcp' | 'udp';
  readonly family: 4 | 6;
  readonly flows: number;
  /** Nanoseconds. */
  readonly budget?: number;
}

const CASES: readonly Case[] = [
  { name: 'TCP, 1 flow', protocol: 'tcp', family: 4, flows: 1, budget: 45 },
  { name: 'TCP over IPv6, 1 flow', protocol: 'tcp', family: 6, flows: 1 },
  { name: 'UDP, 1 flow', protocol: 'udp', family: 4, flows: 1 },
  { name: 'TCP, 64k flows', protocol: 'tcp', family: 4, flows: 65_536 },
  { name: 'UDP, 64k flows', protocol: 'udp', family: 4, flows: 65_536 },
  { name: 'TCP, 128k flows', protocol: 'tcp', family: 4, flows: 131_072 },
];

const FIRST = new Uint8Array(4);

function load(counts: boolean): BpfObject {
  const PORTS = 32_768;
  return loadObject(testObject('lb_bench'), {
    maps: { lb_nat_heads: { maxEntries: PORTS }, lb_nat_flows: { maxEntries: PORTS * 8 } },
    rodata: {
      lb_nat_base: PORTS,
      lb_nat_mask: PORTS - 1,
      lb_nat_seed: 0x1234_5678_9abc_def1n,
      // Hops stay fresh: a look at the routes once a second costs nothing a packet.
      lb_tick_shift: 31,
      lb_xdp_counts: counts,
    },
  });
}

/** One Service with one backend, so that the stateless program has a table to look into. */
function fillTables(object: BpfObject, addresses: readonly string[]): void {
  const inner = (outer: string, keySize: number, valueSize: number, hash: boolean) => {
    const map = BpfMap.create({
      name: outer,
      type: hash ? MAP_TYPE.HASH : MAP_TYPE.ARRAY,
      keySize,
      valueSize,
      maxEntries: hash ? 65_536 : CHUNK,
      flags: hash ? MAP_FLAG.NO_PREALLOC : 0,
    });
    object.maps.get(outer)!.setFd(FIRST, map);
    return map;
  };
  using frontends = inner('lb_frontends', 20, frontendStruct.size, true);
  using tables = inner('lb_tables', 4, LINE_BYTES, false);
  using backends = inner('lb_backends', 4, backendStruct.size, false);
  for (const address of addresses)
    for (const protocol of [6, 17])
      frontends.set(
        encodeEndpoint(address, 80, protocol),
        frontendStruct.encode({
          id: 1,
          service: 1,
          flags: FRONTEND.OUTSIDE_HASH,
          affinity_s: 0,
          inside_line: 0,
          inside_size: 1,
          outside_line: 0,
          outside_size: 1,
        }),
      );
  const ids = new Uint8Array(LINE_BYTES);
  ids[0] = 1;
  tables.set(FIRST, lineStruct.encode({ backend: ids }));
  const BACKENDS = 16;
  for (let at = 0; at < BACKENDS; at++) {
    const address = new Uint8Array(16);
    writeAddress(address, 0, `10.244.2.${at}`);
    const id = new Uint8Array(4);
    id[0] = at + 1;
    backends.set(
      id,
      backendStruct.encode({
        address,
        port: 8080,
        protocol: 0,
        flags: BACKEND.USED | BACKEND.CLUSTER,
        service: 1,
        spare: new Uint8Array(8),
      }),
    );
  }
}

const VIP = { 4: '203.0.113.7', 6: 'fd00:113::7' } as const;
const CLIENT = { 4: '11.0.0.0', 6: 'fd00:20::' } as const;

function setting(one: Case, target: number): Uint8Array {
  const bytes = new Uint8Array(24 + PACKET_BYTES);
  const view = viewOf(bytes);
  [target, one.flows, 0, CLIENT_AT[one.family], 0, 0].forEach((word, at) => {
    view.setUint32(at * 4, word, true);
  });
  bytes.set(
    frame({
      from: CLIENT[one.family],
      to: VIP[one.family],
      protocol: one.protocol,
      sourcePort: 40_000,
      targetPort: 80,
      flags: TCP.ACK,
      payload: new Uint8Array(32),
    }).subarray(0, PACKET_BYTES),
    24,
  );
  return bytes;
}

const median = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1]!;

export async function benchXdp({ quick }: AreaOptions): Promise<Figure[]> {
  const repeat = quick ? 100_000 : 1_000_000;
  const figures: Figure[] = [];
  const data = new Uint8Array(PACKET_BYTES);
  for (const one of CASES) {
    using object = load(false);
    using counting = load(true);
    for (const each of [object, counting]) fillTables(each, Object.values(VIP));
    const run = (from: BpfObject, target: number): number => {
      from.maps.get('bench_setting')!.set(FIRST, setting(one, target));
      const { returned, durationNs } = from.programs.get('bench_wrap')!.run({ data, repeat });
      if (returned !== XDP_TX) throw new Error(`${one.name}: program ${target} returned ${returned}`);
      return durationNs;
    };
    let opened = 0;
    for (const each of [object, counting]) {
      each.maps.get('bench_setting')!.set(FIRST, setting(one, 0));
      const { returned, durationNs } = each.programs.get('bench_open')!.run({ data, repeat: one.flows });
      if (returned !== XDP_PASS) throw new Error(`${one.name}: a flow was not opened (${returned})`);
      opened = durationNs;
    }
    const times = {
      empty: [] as number[],
      stateless: [] as number[],
      hit: [] as number[],
      counted: [] as number[],
    };
    for (let round = 0; round < ROUNDS; round++) {
      times.empty.push(run(object, PROGRAM.empty));
      times.stateless.push(run(object, PROGRAM.stateless));
      times.hit.push(run(object, PROGRAM.lb_xdp));
      times.counted.push(run(counting, PROGRAM.lb_xdp));
    }
    const empty = median(times.empty);
    const net = (values: number[]) => Math.max(0, median(values) - empty);
    const baseline = { name: 'stateless table lookup, net', value: net(times.stateless) / 1000 };
    const hit = net(times.hit);
    figures.push({
      name: `lb_xdp, ${one.name}, net of an empty program`,
      value: hit / 1000,
      unit: 'us',
      baseline,
      ...(one.budget !== undefined && { budget: atMost(hit / 1000, one.budget / 1000, 'us') }),
    });
    figures.push({
      name: `lb_xdp, ${one.name}, counting for backends`,
      value: net(times.counted) / 1000,
      unit: 'us',
      baseline,
    });
    if (one.flows > 1)
      figures.push({
        name: `a place for a new flow, ${one.name}`,
        value: Math.max(0, opened - empty) / 1000,
        unit: 'us',
        baseline,
      });
  }
  return figures;
}

if (startedAlone(import.meta.url)) {
  const figures = await benchXdp({ quick: process.argv.includes('--quick') });
  for (const { name, value, baseline } of figures)
    console.log(
      `${name.padEnd(60)} ${(value * 1000).toFixed(0).padStart(5)} ns   ${baseline!.name} ${(baseline!.value * 1000).toFixed(0)} ns`,
    );
}
