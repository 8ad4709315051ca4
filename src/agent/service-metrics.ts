/**
 * Figures of each Service. How many have their own is bounded: those that the node has known for longest, so that
 * a Service never changes from one line to another; all others are one line together, with the name "".
 */
import type { Metric } from '../reconcile/index.ts';
import type { AgentParts } from './parts.ts';

/** Used when nothing was said. */
const MOST_SERVICES = 1000;

interface Figures {
  connections: number;
  refused: number;
  backends: number;
}

export function serviceMetrics({ controller, engine, options }: AgentParts): Metric[] {
  const repairs: Metric = {
    name: 'portolan_service_repairs_total',
    help: 'Changes by others to maps, programs and links of Services that were found and put right.',
    type: 'counter',
    values: [{ labels: {}, value: engine.repairs.count }],
  };
  const most = options.metricsServices ?? MOST_SERVICES;
  if (most === 0) return [repairs];
  const counts = engine.portCounts();
  const rows = new Map<string, Figures>();
  for (const [service, { ports, ignored }] of controller.plans) {
    if (ignored !== undefined) continue;
    const name = rows.has(service) || rows.size < most ? service : '';
    const row = rows.get(name) ?? { connections: 0, refused: 0, backends: 0 };
    rows.set(name, row);
    for (const { key, cluster, local } of ports) {
      const count = counts.get(key);
      row.connections += count?.connections ?? 0;
      row.refused += count?.refused ?? 0;
      row.backends += Math.max(cluster.members.length, local.members.length);
    }
  }
  const values = (value: (row: Figures) => number) =>
    [...rows].map(([service, row]) => ({
      labels: { service },
      value: value(row),
    }));
  return [
    repairs,
    {
      name: 'portolan_service_connections_total',
      help: 'New connections and first datagrams by Service; "" is all beyond --metrics-services.',
      type: 'counter',
      values: values(({ connections }) => connections),
    },
    {
      name: 'portolan_service_refused_total',
      help: 'Connections that were refused or dropped by Service.',
      type: 'counter',
      values: values(({ refused }) => refused),
    },
    {
      name: 'portolan_service_backends',
      help: 'Backends that new connections choose from by Service, all ports together.',
      type: 'gauge',
      values: values(({ backends }) => backends),
    },
  ];
}
