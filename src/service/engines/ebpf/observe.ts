/** What the kernel has for one Service port: its numbers, counters, flows, and its map entries as text. */
import { viewOf } from '../../../codec/index.ts';
import type { PortObservation } from '../../engine.ts';
import { NO_COUNT } from './counters.ts';
import { backendText, frontendText } from './entry-text.ts';
import type { FlowTable } from './flow-table.ts';
import { FLOW, LINE_ENTRIES } from './layout.ts';
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

/** Translated flows that are not over, by the id of their backend. */
export function flowsByBackend(flows: FlowTable): Map<number, number> {
  const counts = new Map<number, number>();
  const over = FLOW.FIN_CLIENT | FLOW.FIN_BACKEND;
  for (const { flow } of flows.all()) {
    if ((flow.flags & FLOW.RESET) !== 0 || (flow.flags & over) === over) continue;
    counts.set(flow.backend_id, (counts.get(flow.backend_id) ?? 0) + 1);
  }
  return counts;
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
