/**
 * What happens to a packet: a packet is built and run through the loaded program, the very one that real packets
 * meet, and the map entries that it met are named. What the run leaves behind (its flow) is taken away again.
 */
import { parseIp } from '../../../addr/index.ts';
import { viewOf } from '../../../codec/index.ts';
import type { BpfMap } from '../../../kernel/bpf/index.ts';
import { socketAddress } from '../../describe.ts';
import {
  encodeEndpoint,
  FRONTEND,
  flowStruct,
  frontendStruct,
  PROTOCOL_NUMBER,
  type Reason,
  readAddress,
} from './layout.ts';
import type { EngineObjects } from './objects.ts';

export interface PacketQuery {
  /** `pod` runs the program of pod links, `outside` that of node interfaces. */
  readonly client: 'pod' | 'outside';
  readonly source: string;
  /** Default 61,999. */
  readonly sourcePort?: number;
  readonly target: string;
  readonly targetPort: number;
  readonly protocol: 'TCP' | 'UDP';
}

export interface PacketAnswer {
  /** `pass`: none of our business. */
  readonly verdict: 'forward' | 'reject' | 'drop' | 'pass';
  readonly reason: Reason | undefined;
  /** Where it goes. */
  readonly backend: string | undefined;
  readonly masquerade: boolean;
  /** Map entries that decided, in their order. */
  readonly entries: readonly string[];
}

export interface ExplainParts {
  readonly objects: EngineObjects;
  readonly frontends: BpfMap;
  readonly counters: () => Record<string, number>;
}

const EPHEMERAL = 61_999;
const VERDICTS: Readonly<Record<number, PacketAnswer['verdict']>> = {
  4294967295: 'pass',
  2: 'drop',
  7: 'reject',
};

/** Throws ADDR_BAD_IP, BPF_RUN_FAILED. */
export function explainPacket(parts: ExplainParts, query: PacketQuery): PacketAnswer {
  const { maps, programs } = parts.objects;
  const sourcePort = query.sourcePort ?? EPHEMERAL;
  const protocol = PROTOCOL_NUMBER[query.protocol]!;
  const client = encodeEndpoint(query.source, sourcePort, protocol);
  const before = parts.counters();
  const known = maps.lb_flows.get(client);
  const program = programs.get(query.client === 'pod' ? 'lb_from_pod' : 'lb_from_outside')!;
  const { returned } = program.run({ data: buildPacket({ ...query, sourcePort }) });
  const flow = findFlow(maps.lb_flows.get(client), query);
  if (known) maps.lb_flows.set(client, known);
  else maps.lb_flows.delete(client);
  const after = parts.counters();
  const reason = Object.keys(after).find((name) => after[name] !== before[name]) as Reason | undefined;

  const verdict = flow ? 'forward' : (VERDICTS[returned] ?? 'pass');
  return {
    verdict,
    reason,
    backend: flow?.backend,
    masquerade: flow?.masquerade ?? false,
    entries: [
      ...frontendEntries(parts.frontends, query, protocol),
      ...(flow ? [`lb_backends[${flow.backendId}] = ${flow.backend}`] : []),
      ...(known && !reason ? ['lb_flows: the flow was known'] : []),
    ],
  };
}

function findFlow(value: Uint8Array | undefined, query: PacketQuery) {
  for (let at = 0; value && at < value.length; at += flowStruct.size) {
    const flow = flowStruct.decode(value.subarray(at, at + flowStruct.size));
    const USED = 1;
    const MASQUERADE = 1 << 6;
    const HAIRPIN = 1 << 5;
    if ((flow.flags & USED) === 0 || flow.vip_port !== query.targetPort) continue;
    if (readAddress(flow.vip) !== parseIp(query.target).toString()) continue;
    return {
      backend: socketAddress(readAddress(flow.backend), flow.backend_port),
      backendId: flow.backend_id,
      masquerade: (flow.flags & (MASQUERADE | HAIRPIN)) !== 0,
    };
  }
  return undefined;
}

function frontendEntries(frontends: BpfMap, query: PacketQuery, protocol: number): string[] {
  const name = `${socketAddress(query.target, query.targetPort)}/${query.protocol}`;
  const value = frontends.get(encodeEndpoint(query.target, query.targetPort, protocol));
  if (value) {
    const f = frontendStruct.decode(value);
    const [line, size] =
      query.client === 'pod' ? [f.inside_line, f.inside_size] : [f.outside_line, f.outside_size];
    const flags = Object.entries(FRONTEND)
      .filter(([flag, bit]) => flag !== 'KIND_SHIFT' && f.flags & bit)
      .map(([flag]) => flag);
    return [
      `lb_frontends[${name}] = id ${f.id}, service ${f.service}${flags.length > 0 ? `, ${flags.join(' ')}` : ''}`,
      size === 0 ? 'table is empty' : `lb_tables[${line}], ${size} entries`,
    ];
  }
  const address = frontends.get(encodeEndpoint(query.target, 0, 0));
  return [
    `lb_frontends[${name}] is absent`,
    address ? `lb_frontends[${query.target}] = a ClusterIP` : `lb_frontends[${query.target}] is absent`,
  ];
}

/** A SYN, or a datagram without data. Checksums are left out: programs change them by difference. */
function buildPacket(query: PacketQuery & { readonly sourcePort: number }): Uint8Array {
  const source = parseIp(query.source);
  const target = parseIp(query.target);
  const transport = new Uint8Array(query.protocol === 'TCP' ? 20 : 8);
  const t = viewOf(transport);
  t.setUint16(0, query.sourcePort);
  t.setUint16(2, query.targetPort);
  if (query.protocol === 'TCP') {
    const DATA_OFFSET_AND_SYN = 0x5002;
    t.setUint16(12, DATA_OFFSET_AND_SYN);
  } else t.setUint16(4, transport.length);
  const four = target.family === 4;
  const ip = new Uint8Array(four ? 20 : 40);
  const i = viewOf(ip);
  const protocol = PROTOCOL_NUMBER[query.protocol]!;
  if (four) {
    i.setUint16(0, 0x4500);
    i.setUint16(2, ip.length + transport.length);
    ip[8] = 64;
    ip[9] = protocol;
  } else {
    ip[0] = 0x60;
    i.setUint16(4, transport.length);
    ip[6] = protocol;
    ip[7] = 64;
  }
  source.writeTo(ip, four ? 12 : 8);
  target.writeTo(ip, four ? 16 : 24);
  const ethernet = new Uint8Array(14);
  viewOf(ethernet).setUint16(12, four ? 0x0800 : 0x86dd);
  return Uint8Array.from([...ethernet, ...ip, ...transport]);
}
