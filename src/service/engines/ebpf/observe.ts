/** What the kernel has for Service ports: their numbers, counters, flows, and their map entries as text. */
import { viewOf } from '../../../codec/index.ts';
import type { BpfMap } from '../../../kernel/bpf/index.ts';
import type { Count, PortObservation } from '../../engine.ts';
import type { ServicePlan } from '../../types.ts';
import { NO_COUNT } from './counters.ts';
import { backendText, frontendText } from './entry-text.ts';
import type { FlowTable } from './flow-table.ts';
import { FLOW, LINE_ENTRIES, REASONS, u32Bytes } from './layout.ts';
import { bytesOf } from './leftovers.ts';
import type { Writer } from './writer.ts';

/** Entries of a table that are printed; a consistent-hash table has hundreds. */
const MOST_SHOWN = 32;

/** Of the ports of these plans, by the ports' keys; ports without anything are left out. Throws BPF_MAP_CALL. */
export function observePorts(
  writer: Writer,
  flows: FlowTable,
  plans: Iterable<ServicePlan>,
): Map<string, PortObservation> {
  const counts = flowsByBackend(flows);
  const found = new Map<string, PortObservation>();
  for (const { ports } of plans)
    for (const { key } of ports) {
      const port = observePort(writer, key, counts);
      if (port) found.set(key, port);
    }
  return found;
}

/** Counts of all Service ports that were ever used, by the ports' keys. */
export function countsByPort(writer: Writer): Map<string, Count> {
  const counts = new Map<string, Count>();
  const used = new Map(writer.serviceCounts.entries());
  for (const [key, { service }] of writer.ports()) {
    const count = used.get(service);
    if (count) counts.set(key, count);
  }
  return counts;
}

/** What lb_counters holds by reason, all CPUs together, since the map was made. */
export function countsByReason(counters: BpfMap): Record<string, number> {
  const counts: Record<string, number> = {};
  REASONS.forEach((reason, at) => {
    if (at === 0) return;
    const values = counters.getPerCpu(u32Bytes(at)) ?? [];
    counts[reason] = values.reduce((sum, value) => sum + Number(viewOf(value).getBigUint64(0, true)), 0);
  });
  return counts;
}

/** undefined: nothing is programmed for this port. */
function observePort(
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
function flowsByBackend(flows: FlowTable): Map<number, number> {
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
