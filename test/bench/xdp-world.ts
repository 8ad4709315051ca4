/** What the programs of bpf/tests/lb_bench.bpf.c look into: one Service with sixteen backends, and room for flows. */
import { viewOf } from '../../src/codec/index.ts';
import {
  BpfMap,
  type BpfObject,
  jiffiesPerSecond,
  loadObject,
  MAP_FLAG,
  MAP_TYPE,
  possibleCpus,
} from '../../src/kernel/bpf/index.ts';
import {
  BACKEND,
  backendStruct,
  CHUNK,
  encodeEndpoint,
  FRONTEND,
  flowSetStruct,
  flowTableStruct,
  frontendStruct,
  LINE_BYTES,
  lineStruct,
  natFlowStruct,
  writeAddress,
} from '../../src/service/engines/ebpf/layout.ts';
import { encodeInterface, INTERFACE } from '../../src/service/engines/ebpf/nat.ts';
import { hotKinds, hotLines } from '../../src/service/engines/ebpf/objects.ts';
import { testObject } from '../lib/bpf.ts';
import { frame, TCP } from '../lib/packet.ts';

export const PROGRAM = { bench_empty: 0, bench_turn: 1, bench_stateless: 2, lb_xdp: 3 } as const;
export type Program = keyof typeof PROGRAM;

export const PACKET_BYTES = 80;
/** Where the last word of the source address is. */
const CLIENT_AT = { 4: 26, 6: 34 } as const;
const VIP = { 4: '203.0.113.7', 6: 'fd00:113::7' } as const;
/** The same Service with direct return. */
const DIRECT_VIP = { 4: '203.0.113.8', 6: 'fd00:113::8' } as const;
const CLIENT = { 4: '11.0.0.0', 6: 'fd00:20::' } as const;
const BACKENDS = 16;
const NAT_PORTS = 32_768;
/** Chunks of 1,024 sets of 8 flows: room for a million. */
const FLOW_CHUNKS = 128;

export interface Packets {
  readonly protocol: 'tcp' | 'udp';
  readonly family: 4 | 6;
  /** Clients in turn; a power of two. */
  readonly flows: number;
  /** TCP: whether each packet opens a connection. */
  readonly opens?: boolean;
  readonly direct?: boolean;
}

const FIRST = new Uint8Array(4);

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, value, true);
  return bytes;
}

export class XdpWorld implements Disposable {
  readonly object: BpfObject;
  readonly #inner: BpfMap[] = [];

  /** `edge` is the interface where packets come in, and leave. */
  constructor(edge: number, counts: boolean) {
    const lines = hotLines(possibleCpus(), undefined);
    this.object = loadObject(testObject('lb_bench'), {
      maps: {
        lb_nat_heads: { maxEntries: NAT_PORTS },
        lb_nat_flows: { maxEntries: NAT_PORTS * 8 },
        lb_hot_lines: { maxEntries: lines },
        lb_hot_kinds: { maxEntries: hotKinds(lines) },
      },
      rodata: {
        lb_hot_mask: lines - 1,
        lb_hot_kind_mask: hotKinds(lines) - 1,
        lb_nat_base: NAT_PORTS,
        lb_nat_mask: NAT_PORTS - 1,
        lb_nat_seed: 0x1234_5678_9abc_def1n,
        lb_hz: jiffiesPerSecond(),
        lb_stores_in_order: process.arch === 'x64',
        lb_tick_shift: Math.round(Math.log2(jiffiesPerSecond())),
        lb_xdp_counts: counts,
        lb_count_packets: counts,
      },
    });
    this.#fillTables();
    const addresses = { ip4: '172.31.0.1', ip6: 'fd00:31::1' };
    this.#map('lb_interfaces').set(u32(edge), encodeInterface(addresses, INTERFACE.XDP | INTERFACE.TX));
    this.#makeRoom();
  }

  #map(name: string): BpfMap {
    return this.object.maps.get(name)!;
  }

  #chunk(outer: string, valueSize: number, hash = false): BpfMap {
    const map = BpfMap.create({
      name: outer,
      type: hash ? MAP_TYPE.HASH : MAP_TYPE.ARRAY,
      keySize: hash ? 20 : 4,
      valueSize,
      maxEntries: hash ? 65_536 : CHUNK,
      flags: hash ? MAP_FLAG.NO_PREALLOC : 0,
    });
    this.#map(outer).setFd(FIRST, map);
    return map;
  }

  #fillTables(): void {
    const frontends = this.#chunk('lb_frontends', frontendStruct.size, true);
    const tables = this.#chunk('lb_tables', LINE_BYTES);
    const backends = this.#chunk('lb_backends', backendStruct.size);
    this.#inner.push(frontends, tables, backends);
    const LOAD_BALANCER = 2 << FRONTEND.KIND_SHIFT;
    for (const [addresses, flags] of [
      [VIP, 0],
      [DIRECT_VIP, FRONTEND.DSR],
    ] as const)
      for (const address of Object.values(addresses))
        for (const protocol of [6, 17]) {
          // Backends have one family; sixteen of each.
          const line = address.includes(':') ? 1 : 0;
          frontends.set(
            encodeEndpoint(address, 80, protocol),
            frontendStruct.encode({
              id: 1,
              service: 1,
              flags: FRONTEND.OUTSIDE_HASH | LOAD_BALANCER | flags,
              affinity_s: 0,
              inside_line: line,
              inside_size: BACKENDS,
              outside_line: line,
              outside_size: BACKENDS,
            }),
          );
        }
    for (const [line, prefix] of [
      [0, '10.244.2.'],
      [1, 'fd00:10:244:2::'],
    ] as const) {
      const ids = new Uint8Array(LINE_BYTES);
      for (let at = 0; at < BACKENDS; at++) {
        const id = line * BACKENDS + at + 1;
        viewOf(ids).setUint32(at * 4, id, true);
        const address = new Uint8Array(16);
        writeAddress(address, 0, `${prefix}${at + 1}`);
        backends.set(
          u32(id),
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
      tables.set(u32(line), lineStruct.encode({ backend: ids }));
    }
  }

  /** Places for flows with direct return. All at once, for each write into a map of maps waits for RCU. */
  #makeRoom(): void {
    const chunks = Array.from({ length: FLOW_CHUNKS }, () =>
      BpfMap.create({
        name: 'lb_flows',
        type: MAP_TYPE.ARRAY,
        keySize: 4,
        valueSize: flowSetStruct.size,
        maxEntries: CHUNK,
        flags: MAP_FLAG.MMAPABLE,
      }),
    );
    this.#inner.push(...chunks);
    this.#map('lb_flows').setMany(chunks.map(({ fd }, at) => [u32(at), u32(fd)]));
    const sets = FLOW_CHUNKS * CHUNK;
    this.#map('lb_flow_table').set(
      FIRST,
      flowTableStruct.encode({ mask: sets - 1, first: sets, seed: 0x9abc_def1_2345_6789n }),
    );
  }

  /** Forgets flows to backends elsewhere. Those with direct return stay: each has its client. */
  clearNat(): void {
    const heads = this.#map('lb_nat_heads');
    const empty = new Uint8Array(heads.valueSize);
    heads.setMany(Array.from({ length: NAT_PORTS }, (_, port) => [u32(port), empty]));
  }

  /** Makes connections of all flows that were opened: their clients have answered the backends' answers. */
  confirm(): void {
    const CONFIRMED = 3;
    const USED = 2;
    const flows = this.#map('lb_nat_flows');
    const at = natFlowStruct.members.find(({ name }) => name === 'flags')!.offset;
    for (const [port, head] of this.#map('lb_nat_heads').entries())
      for (let slot = 0; slot < 8; slot++) {
        if (viewOf(head).getUint32(slot * 4, true) >>> 30 !== USED) continue;
        const key = u32(viewOf(port).getUint32(0, true) * 8 + slot);
        const flow = flows.get(key)!;
        viewOf(flow).setUint16(at, CONFIRMED, true);
        flows.set(key, flow);
      }
  }

  /** What the next run sends, from flow `first` on. */
  prepare(packets: Packets, program: Program, { first = 0, sends = 0 } = {}): void {
    const bytes = new Uint8Array(24 + PACKET_BYTES);
    const view = viewOf(bytes);
    [PROGRAM[program], packets.flows, first, CLIENT_AT[packets.family], sends, 0].forEach((word, at) => {
      view.setUint32(at * 4, word, true);
    });
    bytes.set(
      frame({
        from: CLIENT[packets.family],
        to: (packets.direct ? DIRECT_VIP : VIP)[packets.family],
        protocol: packets.protocol,
        sourcePort: 40_000,
        targetPort: 80,
        flags: packets.opens ? TCP.SYN : TCP.ACK,
        payload: new Uint8Array(6),
      }),
      24,
    );
    this.#map('bench_setting').set(FIRST, bytes);
  }

  [Symbol.dispose](): void {
    for (const map of this.#inner) map.close();
    this.object[Symbol.dispose]();
  }
}
