/** Entries, limits and bytes of the engine's maps. */
import { type BpfMap, mapMemoryBytes, possibleCpus } from '../../../kernel/bpf/index.ts';
import type { CacheStatus, StoreStatus } from '../../engine.ts';
import type { FlowTable } from './flow-table.ts';
import type { NatTable } from './nat-table.ts';
import type { EngineObjects } from './objects.ts';
import { countSockets } from './socket-backends.ts';
import type { Writer } from './writer.ts';

/** Maps whose entries are counted by walking them. */
const COUNTED = [
  'lb_datagrams',
  'lb_affinities',
  'lb_fragments',
  'lb_source_ranges',
  'lb_passed',
  'lb_pod_sources',
] as const;

/** For `status` and metrics. */
export function storesOf(
  { maps }: EngineObjects,
  { flows, nat }: { readonly flows: FlowTable; readonly nat: NatTable },
  writer: Writer,
): StoreStatus[] {
  const usage = writer.usage();
  const counted = (map: BpfMap): StoreStatus => {
    let entries = 0;
    for (const _ of map.entries()) entries++;
    return { name: map.name, entries, limit: map.maxEntries, bytes: mapMemoryBytes(map) };
  };
  return [
    {
      name: 'lb_frontends',
      entries: usage.frontends.used,
      limit: usage.frontends.limit,
      bytes: mapMemoryBytes(maps.lb_frontends) + mapMemoryBytes(writer.frontends),
    },
    {
      name: 'lb_tables',
      entries: usage.lines.used,
      limit: usage.lines.limit,
      bytes: writer.tables.bytes,
    },
    {
      name: 'lb_backends',
      entries: usage.backends.used,
      limit: usage.backends.limit,
      bytes: writer.backends.bytes,
    },
    {
      name: 'lb_backend_counts',
      entries: Math.min(usage.backends.used, writer.backendCounts.limit),
      limit: writer.backendCounts.limit,
      bytes: writer.backendCounts.array.bytes,
    },
    {
      name: 'lb_service_counts',
      entries: Math.min(usage.services.used, writer.serviceCounts.limit),
      limit: writer.serviceCounts.limit,
      bytes: writer.serviceCounts.array.bytes,
    },
    { name: 'lb_flows', entries: flows.count().used, limit: flows.limit, bytes: flows.bytes },
    {
      name: 'lb_sockets',
      entries: countSockets(maps),
      limit: maps.lb_sockets.maxEntries,
      bytes: mapMemoryBytes(maps.lb_sockets) + mapMemoryBytes(maps.lb_socket_places),
    },
    ...COUNTED.map((name) => counted(maps[name])),
    { name: 'lb_nat_flows', entries: nat.count().used, limit: nat.limit, bytes: nat.bytes },
  ];
}

/** bpf/include/lb_hot.h: flows in a line. */
const HOT_WAYS = 4;

/** What XDP remembers of flows, and of what they have in common. */
export function cachesOf({ hot }: EngineObjects): CacheStatus[] {
  if (!hot) return [];
  const { lines, kinds } = hot;
  const cpus = possibleCpus();
  return [
    { name: 'lb_hot_lines', limit: lines.maxEntries * HOT_WAYS * cpus, bytes: mapMemoryBytes(lines) },
    { name: 'lb_hot_kinds', limit: kinds.maxEntries * cpus, bytes: mapMemoryBytes(kinds) },
  ];
}
