/** The agent's figures for Prometheus: on its own socket always, on a TCP port when asked for. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { agentError } from '../errors/index.ts';
import { METRICS_TYPE, type Metric, metricsText, processMetrics, single } from '../reconcile/index.ts';
import type { AgentParts } from './parts.ts';
import { serviceMetrics } from './service-metrics.ts';
import { agentStatus } from './status.ts';

/** All figures of an agent as text. */
export function agentMetrics(parts: AgentParts): Promise<string> {
  const status = agentStatus(parts);
  const { overlay, services } = status;
  const per = (name: string, help: string, type: 'counter' | 'gauge', values: Metric['values']): Metric => ({
    name,
    help,
    type,
    values,
  });
  const stores = (name: string, help: string, value: (store: (typeof services.stores)[number]) => number) =>
    per(
      name,
      help,
      'gauge',
      services.stores.map((store) => ({ labels: { store: store.name }, value: value(store) })),
    );
  const announced = parts.announcer.list();
  return metricsText([
    per('portolan_build_info', 'Version of the agent.', 'gauge', [
      { labels: { version: status.version, node: status.node }, value: 1 },
    ]),
    single('portolan_ready', '1 when pods can be connected.', 'gauge', Number(status.ready)),
    single(
      'portolan_api_connected',
      '1 while a watch of the API server is open.',
      'gauge',
      Number(status.api.connected),
    ),
    single(
      'portolan_problems',
      'Things that "portolan status" tells as problems.',
      'gauge',
      status.problems.length,
    ),
    single(
      'portolan_overlay_peers',
      'Ways to other nodes, one a node and family.',
      'gauge',
      overlay.peers.length,
    ),
    single(
      'portolan_overlay_peer_errors',
      'Peers that cannot be reached, for a reason that "portolan status" tells.',
      'gauge',
      overlay.peers.filter(({ error }) => error).length,
    ),
    single(
      'portolan_overlay_changes_total',
      "Changes of the kernel's tables for the overlay.",
      'counter',
      overlay.changes,
    ),
    single('portolan_services', 'Services that are planned for.', 'gauge', services.planned),
    single(
      'portolan_services_failed',
      'Services that are not programmed.',
      'gauge',
      Object.keys(services.failed).length,
    ),
    parts.controller.durations.metric(
      'portolan_service_programming_seconds',
      'From the first event of a change until the kernel has it.',
    ),
    per(
      'portolan_service_verdicts_total',
      'Connections and packets by what was done with them and why: forward-, reject- or drop-.',
      'counter',
      Object.entries(services.counters).map(([reason, value]) => ({ labels: { reason }, value })),
    ),
    ...serviceMetrics(parts),
    stores(
      'portolan_service_store_entries',
      'Entries of each store in the kernel.',
      ({ entries }) => entries,
    ),
    stores('portolan_service_store_limit', 'Most entries of each store.', ({ limit }) => limit),
    stores('portolan_service_store_bytes', 'Kernel memory of each store.', ({ bytes }) => bytes),
    per(
      'portolan_service_cache_bytes',
      'Kernel memory of maps that are overwritten when they are full.',
      'gauge',
      services.caches.map(({ name, bytes }) => ({ labels: { cache: name }, value: bytes })),
    ),
    per(
      'portolan_load_balancer_addresses',
      'Addresses of pools by what this node is for them: leader, keeper, candidate, "not here".',
      'gauge',
      ['leader', 'keeper', 'candidate', 'not here'].map((state) => ({
        labels: { state },
        value: announced.filter((one) => one.state === state).length,
      })),
    ),
    single('portolan_pod_links', 'Pods that are connected.', 'gauge', status.podLinks.count),
    per(
      'portolan_pool_addresses_used',
      'Pod addresses in use of each pool.',
      'gauge',
      status.podLinks.pools.map(({ pool, used }) => ({ labels: { pool }, value: used })),
    ),
    per(
      'portolan_pool_addresses',
      'Pod addresses of each pool.',
      'gauge',
      status.podLinks.pools.map(({ pool, usable }) => ({ labels: { pool }, value: usable })),
    ),
    parts.cniCalls.metric(
      'portolan_cni_call_seconds',
      'Calls of the CNI plugin by verb and CNI error code, 0 for success.',
    ),
    ...processMetrics(),
  ]);
}

/** Serves `GET /metrics` at `host:port`, and nothing else. Throws AGENT_LISTEN_FAILED. */
export async function listenMetrics(
  at: { readonly host: string; readonly port: number },
  text: () => Promise<string>,
): Promise<{ port: number; close(): Promise<void> }> {
  const server = createServer(async (request, response) => {
    const found = request.method === 'GET' && /^\/metrics(\?|$)/.test(request.url ?? '');
    try {
      const body = found ? await text() : 'See /metrics\n';
      response
        .writeHead(found ? 200 : 404, { 'content-type': found ? METRICS_TYPE : 'text/plain' })
        .end(body);
    } catch (error) {
      response.writeHead(500, { 'content-type': 'text/plain' }).end(`${(error as Error).message}\n`);
    }
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) =>
      reject(agentError('AGENT_LISTEN_FAILED', { what: 'metrics', address: `${at.host}:${at.port}` }, cause)),
    );
    server.listen(at.port, at.host, resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
