/**
 * Maps as text, and plans as the same text, so that both can be compared:
 *
 *     SVC 10.96.0.10:80/TCP id=3 -> 10.244.1.2:8080, 10.244.2.2:8080
 *     SVC 10.96.0.11:53/UDP id=4 -> reject
 *     SVC 192.168.0.1:30080/TCP id=5 NodePort -> 10.244.1.2:8080 | outside -> drop
 */
import { viewOf } from '../../../codec/index.ts';
import type { BpfMap } from '../../../kernel/bpf/index.ts';
import { socketAddress } from '../../describe.ts';
import type { PortPlan, ServicePlan } from '../../types.ts';
import type { ChunkedArray } from './chunked-array.ts';
import { compileFrontends, compileTable, type TableName } from './compile.ts';
import {
  backendStruct,
  endpointStruct,
  FRONTEND,
  frontendStruct,
  KINDS,
  LINE_ENTRIES,
  PROTOCOL_NUMBER,
  protocolName,
  readAddress,
} from './layout.ts';

interface Shown {
  readonly address: string;
  readonly port: number;
  readonly protocol: number;
  readonly id: number | undefined;
  readonly flags: number;
  readonly affinitySeconds: number;
  readonly inside: readonly string[];
  readonly outside: readonly string[];
}

/** What the kernel holds, one line a frontend, sorted. */
export function dumpMaps(maps: {
  frontends: BpfMap;
  tables: ChunkedArray;
  backends: ChunkedArray;
}): string[] {
  const backends = new Map<number, string>();
  for (const [id, value] of maps.backends.entries()) {
    const { address, port, flags } = backendStruct.decode(value);
    if (flags !== 0) backends.set(id, socketAddress(readAddress(address), port));
  }
  const tables = new Map<number, Uint8Array>();
  for (const [line, value] of maps.tables.entries()) tables.set(line, value.slice());
  const names = (line: number, size: number): string[] =>
    Array.from({ length: size }, (_, at) => {
      const bytes = tables.get(line + Math.floor(at / LINE_ENTRIES));
      const id = bytes ? viewOf(bytes).getUint32((at % LINE_ENTRIES) * 4, true) : 0;
      return backends.get(id) ?? `missing backend ${id}`;
    });
  const lines: string[] = [];
  for (const [key, value] of maps.frontends.entries()) {
    const { address, port, protocol } = endpointStruct.decode(key);
    const frontend = frontendStruct.decode(value);
    if (frontend.flags & FRONTEND.WILDCARD) continue;
    lines.push(
      lineOf({
        address: readAddress(address),
        port,
        protocol,
        id: frontend.id,
        flags: frontend.flags,
        affinitySeconds: frontend.affinity_s,
        inside: names(frontend.inside_line, frontend.inside_size),
        outside: names(frontend.outside_line, frontend.outside_size),
      }),
    );
  }
  return lines.sort();
}

/** What the kernel should hold for these plans, without ids. */
export function dumpPlans(plans: Iterable<ServicePlan>): string[] {
  const lines: string[] = [];
  for (const plan of plans) for (const port of plan.ports) lines.push(...portLines(port));
  return lines.sort();
}

/** A line without what differs from one process to the next. */
export function withoutIds(line: string): string {
  return line.replace(/ id=\d+/, '');
}

function portLines(port: PortPlan): string[] {
  const protocol = PROTOCOL_NUMBER[port.protocol];
  if (protocol === undefined) return [];
  const names = (table: TableName | undefined): string[] =>
    table === undefined
      ? []
      : Array.from(compileTable(port, table), (at) => {
          const backend = port.backends[at]!;
          return socketAddress(backend.endpoint.address, backend.port);
        });
  return compileFrontends(port)
    .filter(({ wildcard }) => !wildcard)
    .map((frontend) =>
      lineOf({
        address: frontend.address,
        port: frontend.port,
        protocol,
        id: undefined,
        flags: frontend.flags,
        affinitySeconds: port.affinitySeconds,
        inside: names(frontend.inside),
        outside: names(frontend.outside),
      }),
    );
}

function lineOf(shown: Shown): string {
  const { flags } = shown;
  const kind = KINDS[(flags >> FRONTEND.KIND_SHIFT) & 15]!;
  const head = [
    `SVC ${socketAddress(shown.address, shown.port)}/${protocolName(shown.protocol)}`,
    shown.id === undefined ? '' : `id=${shown.id}`,
    kind === 'ClusterIP' ? '' : kind,
    shown.affinitySeconds === 0 ? '' : `affinity=${shown.affinitySeconds}s`,
    flags & FRONTEND.RANGES ? 'ranges' : '',
    flags & FRONTEND.DSR ? (flags & FRONTEND.DSR_OPTION ? 'dsr-option' : 'dsr-ipip') : '',
  ];
  const inside = sideText(shown.inside, flags & FRONTEND.INSIDE_HASH, flags & FRONTEND.INSIDE_DROP);
  const outside = sideText(shown.outside, flags & FRONTEND.OUTSIDE_HASH, flags & FRONTEND.OUTSIDE_DROP);
  return `${head.filter(Boolean).join(' ')} -> ${inside}${outside === inside ? '' : ` | outside -> ${outside}`}`;
}

/** Backends with how often they stand in the table where that is not once; of a hash table only its size. */
function sideText(names: readonly string[], hashed: number, drop: number): string {
  if (names.length === 0) return drop ? 'drop' : 'reject';
  const times = new Map<string, number>();
  for (const name of names) times.set(name, (times.get(name) ?? 0) + 1);
  const list = [...times.keys()].sort();
  if (hashed) return `${list.join(', ')} (maglev ${names.length})`;
  return list.map((name) => (times.get(name) === 1 ? name : `${name} x${times.get(name)}`)).join(', ');
}
