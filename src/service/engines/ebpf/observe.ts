/** What the kernel has for one Service port: its numbers, counters, flows, and its map entries as text. */
import { viewOf } from '../../../codec/index.ts';
import type { BpfMap } from '../../../kernel/bpf/index.ts';
import { socketAddress } from '../../describe.ts';
import type { PortObservation } from '../../engine.ts';
import { NO_COUNT } from './counters.ts';
import {
  BACKEND,
  backendStruct,
  endpointStruct,
  FLOW,
  FRONTEND,
  flowStruct,
  frontendStruct,
  KINDS,
  LINE_ENTRIES,
  protocolName,
  readAddress,
} from './layout.ts';
import { bytesOf } from './leftovers.ts';
import type { Writer } from './writer.ts';

/** Entries of a table that are printed; a consistent-hash table has hundreds. */
const MOST_SHOWN = 32;

/** Throws BPF_MAP_CALL. undefined: nothing is programmed for this port. */
export function observePort(
  writer: Writer,
  key: string,
  flows: ReadonlyMap<number, number>,
): PortObservation | undefined {
  const port = writer.port(key);
  if (!port) return undefined;
  return {
    number: port.service,
    count: writer.serviceCounts.read(port.service),
    backends: port.ids.map((id) => ({
      id,
      count: id < writer.backendCounts.limit ? writer.backendCounts.read(id) : NO_COUNT,
      flows: flows.get(id) ?? 0,
    })),
    entries: [
      ...port.frontends.map(({ key }) => frontendText(bytesOf(key), writer.frontends.get(bytesOf(key)))),
      ...port.tables.map(({ name, line, ids }) => tableText(writer, name, line, ids.length)),
      ...port.ids.map((id) => backendText(id, writer.backends.get(id))),
    ],
  };
}

const place = Object.fromEntries(flowStruct.members.map(({ name, offset }) => [name, offset]));

/** Translated flows that are not over, by the id of their backend. */
export function flowsByBackend(flows: BpfMap): Map<number, number> {
  const counts = new Map<number, number>();
  const over = FLOW.FIN_CLIENT | FLOW.FIN_BACKEND;
  for (const { count, values } of flows.chunks()) {
    const view = viewOf(values);
    for (let at = 0; at < count * flows.valueSize; at += flowStruct.size) {
      const flags = view.getUint16(at + place['flags']!, true);
      if ((flags & FLOW.USED) === 0 || (flags & FLOW.RESET) !== 0 || (flags & over) === over) continue;
      const id = view.getUint32(at + place['backend_id']!, true);
      counts.set(id, (counts.get(id) ?? 0) + 1);
    }
  }
  return counts;
}

/** `lb_frontends[10.96.0.10:80/TCP] = id 3, service 2, 3 entries from line 4, outside 251 from line 5`. */
export function frontendText(key: Uint8Array, value: Uint8Array | undefined): string {
  const { address, port, protocol } = endpointStruct.decode(key);
  const name = `lb_frontends[${socketAddress(readAddress(address), port)}/${protocolName(protocol)}]`;
  if (!value) return `${name} is absent`;
  const f = frontendStruct.decode(value);
  const side = (line: number, size: number) =>
    size === 0 ? 'nobody' : `${size} ${size === 1 ? 'entry' : 'entries'} from line ${line}`;
  const inside = side(f.inside_line, f.inside_size);
  const outside = side(f.outside_line, f.outside_size);
  return [
    `${name} = id ${f.id}`,
    `service ${f.service}`,
    KINDS[(f.flags >> FRONTEND.KIND_SHIFT) & 15],
    ...(f.affinity_s === 0 ? [] : [`affinity ${f.affinity_s} s`]),
    inside,
    ...(outside === inside ? [] : [`outside ${outside}`]),
    ...flagNames(f.flags, FRONTEND),
  ].join(', ');
}

function tableText(writer: Writer, name: string, line: number, size: number): string {
  const shown = Math.min(size, MOST_SHOWN);
  const ids = Array.from({ length: shown }, (_, at) => tableEntry(writer, line, at) ?? 'absent');
  const more = size > shown ? ` ... ${size} entries` : '';
  return `lb_tables[${line}] = ${ids.join(' ')}${more} (${name})`;
}

/** The id at one entry of a table in the kernel. */
export function tableEntry(writer: Writer, line: number, entry: number): number | undefined {
  const value = writer.tables.get(line + Math.floor(entry / LINE_ENTRIES));
  return value && viewOf(value).getUint32((entry % LINE_ENTRIES) * 4, true);
}

/** `lb_backends[17] = 10.244.1.2:8080/TCP, service 2, CLUSTER NEAR`. */
export function backendText(id: number, value: Uint8Array | undefined): string {
  if (!value || (value[19]! & BACKEND.USED) === 0) return `lb_backends[${id}] is absent`;
  const { address, port, protocol, flags, service } = backendStruct.decode(value);
  const to = `${socketAddress(readAddress(address), port)}/${protocolName(protocol)}`;
  const names = flagNames(flags & ~BACKEND.USED, BACKEND).join(' ') || 'for open connections only';
  return `lb_backends[${id}] = ${to}, service ${service}, ${names}`;
}

export function flagNames(flags: number, names: Readonly<Record<string, number>>): string[] {
  return Object.entries(names)
    .filter(([name, bit]) => name !== 'KIND_SHIFT' && flags & bit)
    .map(([name]) => name);
}
