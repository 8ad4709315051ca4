/**
 * What happens to a packet: a packet is built and run through the loaded program, the very one that real packets
 * meet, and the map entries that it met are named. What the run leaves behind (its flow) is taken away again; only a
 * flow to a backend on another node stays, until its place is wanted: programs alone may change that table.
 */
import { parseCidr, parseIp } from '../../../addr/index.ts';
import { viewOf } from '../../../codec/index.ts';
import { socketAddress } from '../../describe.ts';
import type { PacketAnswer, PacketQuery } from '../../engine.ts';
import { backendText, frontendText } from './entry-text.ts';
import type { Flow, FlowName, FlowTable } from './flow-table.ts';
import {
  clientStruct,
  decodeRanges,
  encodeEndpoint,
  encodeSource,
  FLOW,
  FRONTEND,
  flowStruct,
  frontendStruct,
  PROTOCOL_NUMBER,
  type Reason,
  readAddress,
  writeAddress,
} from './layout.ts';
import type { NatTable } from './nat-table.ts';
import type { EngineObjects } from './objects.ts';
import { tableEntry } from './observe.ts';
import type { Writer } from './writer.ts';

export interface ExplainParts {
  readonly objects: EngineObjects;
  readonly flows: FlowTable;
  readonly nat: NatTable;
  readonly writer: Writer;
  readonly counters: () => Record<string, number>;
}

const EPHEMERAL = 61_999;
/** Where the source port is, from the Ethernet header on. */
const IP4_PORTS = 34;
const IP6_PORTS = 54;
/** Places in a table that are named; a consistent-hash table has a backend many times. */
const MOST_PLACES = 8;
const VERDICTS: Readonly<Record<number, PacketAnswer['verdict']>> = {
  4294967295: 'pass',
  2: 'drop',
  7: 'reject',
};

/** Throws ADDR_BAD_IP, BPF_RUN_FAILED. */
export function explainPacket(parts: ExplainParts, query: PacketQuery): PacketAnswer {
  const { maps, programs } = parts.objects;
  const { flows } = parts;
  const sourcePort = query.sourcePort ?? EPHEMERAL;
  const protocol = PROTOCOL_NUMBER[query.protocol]!;
  const name = flowName(query, sourcePort);
  const before = parts.counters();
  const known = flows.show(name);
  const frontend = frontendOf(parts.writer, query, protocol);
  const sticky =
    frontend && frontend.affinity_s > 0 ? affinityKey(query.source, frontend.service) : undefined;
  const stuck = sticky && maps.lb_affinities.get(sticky);
  const program = programs.get(query.client === 'outside' ? 'lb_from_outside' : 'lb_from_pod')!;
  const { returned, data } = program.run({ data: buildPacket({ ...query, sourcePort }) });
  const made = flows.show(name);
  const flow = flowText(made) ?? findNatFlow(parts.nat, data, query);
  if (!known || made?.backend_id !== known.backend_id) flows.cut(name);
  if (known) flows.put(flowStruct.encode(known));
  if (sticky && stuck) maps.lb_affinities.set(sticky, stuck);
  else if (sticky) maps.lb_affinities.delete(sticky);
  const after = parts.counters();
  const reason = Object.keys(after).find((name) => after[name] !== before[name]) as Reason | undefined;

  // A socket of the node is given what a packet from inside gets, from the same table.
  const told = query.client === 'node' && reason === 'forward-flow' ? 'forward-socket' : reason;
  const verdict = flow ? 'forward' : (VERDICTS[returned] ?? 'pass');
  return {
    verdict,
    reason: told,
    backend: flow?.backend,
    masquerade: flow?.masquerade ?? false,
    entries: [
      ...(known && !reason
        ? [`lb_flows[${socketAddress(query.source, sourcePort)}/${query.protocol}]: the flow was known`]
        : []),
      ...(frontend ? [] : noFrontendEntries(parts, query)),
      ...(frontend ? frontendEntries(parts, query, frontend, flow?.backendId) : []),
      ...(stuck
        ? [
            `lb_affinities[${query.source}, service ${frontend?.service}] = ${viewOf(stuck).getUint32(0, true)}`,
          ]
        : []),
      ...(flow ? [backendText(flow.backendId, parts.writer.backends.get(flow.backendId))] : []),
    ],
  };
}

function flowName(query: PacketQuery, clientPort: number): FlowName {
  const client = new Uint8Array(16);
  const vip = new Uint8Array(16);
  writeAddress(client, 0, query.source);
  writeAddress(vip, 0, query.target);
  return { client, clientPort, vip, vipPort: query.targetPort, udp: query.protocol === 'UDP' };
}

function flowText(flow: Flow | undefined) {
  if (!flow) return undefined;
  return {
    backend: socketAddress(readAddress(flow.backend), flow.backend_port),
    backendId: flow.backend_id,
    masquerade: (flow.flags & (FLOW.MASQUERADE | FLOW.HAIRPIN)) !== 0,
  };
}

/** The flow that the packet, as it came out, belongs to: its source port says where it lies. */
function findNatFlow(nat: NatTable, packet: Uint8Array, query: PacketQuery) {
  const four = parseIp(query.target).family === 4;
  const port = viewOf(packet).getUint16(four ? IP4_PORTS : IP6_PORTS);
  for (const flow of nat.ofPort(port)) {
    if (flow.nat_port !== port || flow.vip_port !== query.targetPort) continue;
    if (readAddress(flow.vip) !== parseIp(query.target).toString()) continue;
    if (readAddress(flow.client) !== parseIp(query.source).toString()) continue;
    return {
      backend: socketAddress(readAddress(flow.backend), flow.backend_port),
      backendId: flow.backend_id,
      masquerade: true,
    };
  }
  return undefined;
}

type FrontendValue = ReturnType<typeof frontendStruct.decode>;

function frontendOf(writer: Writer, query: PacketQuery, protocol: number): FrontendValue | undefined {
  const value = writer.frontends.get(encodeEndpoint(query.target, query.targetPort, protocol));
  return value && frontendStruct.decode(value);
}

function affinityKey(source: string, service: number): Uint8Array {
  const address = new Uint8Array(16);
  writeAddress(address, 0, source);
  const ADDRESS = 0;
  return clientStruct.encode({ address, service, kind: ADDRESS });
}

/** Entries that a packet to a frontend meets, in their order. */
function frontendEntries(
  { writer, objects }: ExplainParts,
  query: PacketQuery,
  frontend: FrontendValue,
  chosen: number | undefined,
): string[] {
  const key = encodeEndpoint(query.target, query.targetPort, PROTOCOL_NUMBER[query.protocol]!);
  const entries = [frontendText(key, writer.frontends.get(key))];
  if (frontend.flags & FRONTEND.RANGES) {
    const source = encodeSource(frontend.service, `${query.source}/${query.source.includes(':') ? 128 : 32}`);
    const allowed = objects.maps.lb_source_ranges.get(source) !== undefined;
    entries.push(
      `lb_source_ranges[service ${frontend.service}, ${query.source}] ${allowed ? 'matches' : 'is absent'}`,
    );
  }
  const [line, size] =
    query.client !== 'outside'
      ? [frontend.inside_line, frontend.inside_size]
      : [frontend.outside_line, frontend.outside_size];
  if (size === 0) return [...entries, 'the table is empty'];
  const places: number[] = [];
  for (let at = 0; chosen !== undefined && at < size; at++)
    if (tableEntry(writer, line, at) === chosen) places.push(at);
  const shown = places.slice(0, MOST_PLACES).join(', ') + (places.length > MOST_PLACES ? ', ...' : '');
  if (places.length > 0) entries.push(`lb_tables[${line}] entry ${shown} of ${size} = ${chosen}`);
  else entries.push(`lb_tables[${line}], ${size} entries`);
  return entries;
}

/** What an address that is no frontend meets: the address as such, then the ranges of Services. */
function noFrontendEntries({ writer, objects }: ExplainParts, query: PacketQuery): string[] {
  const name = `${socketAddress(query.target, query.targetPort)}/${query.protocol}`;
  const config = objects.maps.lb_config.get(new Uint8Array(4));
  const ranges = config ? decodeRanges(config) : [];
  const target = parseIp(query.target);
  const inside = ranges.filter((range) => parseCidr(range).contains(target));
  const address = writer.frontends.get(encodeEndpoint(query.target, 0, 0));
  return [
    `lb_frontends[${name}] is absent`,
    ...(inside.length === 0 ? ['lb_config: in no Service range'] : []),
    ...inside.map((range) => `lb_config: in Service range ${range}`),
    ...(inside.length === 0
      ? []
      : [`lb_frontends[${query.target}] ${address ? addressText(address) : 'is absent'}`]),
  ];
}

function addressText(value: Uint8Array): string {
  const { flags } = frontendStruct.decode(value);
  return flags & FRONTEND.NOT_OURS
    ? '= a ClusterIP that another proxy serves'
    : '= a ClusterIP without this port';
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
