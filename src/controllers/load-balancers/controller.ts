/** Runs the plan of load balancer addresses: all Services at once, since each address concerns them all. */
import {
  type ApiClient,
  type EventRecorder,
  type Log,
  type Reflector,
  resources,
  sleep,
} from '../../client/index.ts';
import { isNetError, NetError } from '../../errors/net-error.ts';
import type { ConfigMap, Service } from '../../model/kubernetes.ts';
import type { ServiceView } from '../views.ts';
import { WorkQueue } from '../work-queue.ts';
import { planLoadBalancers, type StatusWrite } from './plan.ts';
import { type AddressPool, type PoolReading, poolNamespace } from './pools.ts';
import type { LoadBalancerView } from './types.ts';

/** Options of {@link startLoadBalancers}. */
export interface LoadBalancersOptions {
  client: ApiClient;
  services: Reflector<Service, ServiceView>;
  pools: Reflector<ConfigMap, PoolReading>;
  events: EventRecorder;
  signal: AbortSignal;
  log: Log;
}

/** Writes of statuses under way at most. */
const CONCURRENCY = 16;

/** Begins to work; both reflectors must have synced. */
export function startLoadBalancers(options: LoadBalancersOptions): void {
  const { client, services, pools, events, signal, log } = options;
  /** What was written, until the watch tells it; by the version that it was written over. */
  const assumed = new Map<string, { over: string; view: LoadBalancerView }>();
  const toldPools = new Map<string, string>();

  const usable = (): AddressPool[] => {
    const found: AddressPool[] = [];
    for (const pool of pools.items.values()) {
      if (!('error' in pool)) {
        found.push(pool);
        continue;
      }
      if (toldPools.get(pool.name) === pool.error.message) continue;
      toldPools.set(pool.name, pool.error.message);
      log.warn({ pool: pool.name, error: pool.error.message }, 'a pool is not used');
      const remedy = pool.error instanceof NetError ? `. ${pool.error.remedy}` : '';
      events.record(
        { apiVersion: 'v1', kind: 'ConfigMap', namespace: poolNamespace, name: pool.name, uid: pool.uid },
        { type: 'Warning', reason: 'BadPool', message: `${pool.error.message}${remedy}` },
      );
    }
    for (const name of toldPools.keys()) {
      const pool = pools.items.get(`${poolNamespace}/${name}`);
      if (!pool || !('error' in pool)) toldPools.delete(name);
    }
    return found.sort((a, b) => (a.name < b.name ? -1 : 1));
  };

  const views = (): LoadBalancerView[] => {
    const found: LoadBalancerView[] = [];
    for (const { loadBalancer } of services.items.values()) {
      if (!loadBalancer) continue;
      const written = assumed.get(loadBalancer.key);
      if (written?.over === loadBalancer.version) found.push(written.view);
      else {
        assumed.delete(loadBalancer.key);
        found.push(loadBalancer);
      }
    }
    for (const key of assumed.keys()) if (!services.items.has(key)) assumed.delete(key);
    return found;
  };

  const write = async ({ service, ingress, conditions, told }: StatusWrite) => {
    const { namespace, name, uid, version } = service;
    try {
      const written = await client.patchStatus(
        resources.services,
        { namespace, name },
        {
          metadata: { resourceVersion: version },
          status: {
            loadBalancer: { ingress: ingress.map((ip) => ({ ip, ipMode: 'VIP' })) },
            conditions,
          },
        },
        { signal, fieldManager: 'portolan-load-balancers', retryForMs: 0, type: 'merge' },
      );
      const view = { ...service, ingress, plain: true, conditions };
      const seen = services.items.get(service.key)?.loadBalancer?.version;
      if (seen === version)
        assumed.set(service.key, {
          over: version,
          view: { ...view, version: written.metadata.resourceVersion ?? '' },
        });
    } catch (error) {
      // The watch brings the newer object, and with it another round.
      if (isNetError(error, 'CLIENT_CONFLICT') || isNetError(error, 'CLIENT_NOT_FOUND')) return;
      throw error;
    }
    if (told)
      events.record(
        { apiVersion: 'v1', kind: 'Service', namespace, name, uid },
        {
          type: told.reason === 'Assigned' ? 'Normal' : 'Warning',
          reason: told.reason,
          message: told.message,
        },
      );
  };

  const queue = new WorkQueue({
    name: 'load-balancers',
    signal,
    log,
    work: async () => {
      const now = new Date().toISOString().replace(/\.\d+Z$/, 'Z');
      const writes = planLoadBalancers(views(), usable(), now);
      if (writes.length === 0) return;
      // Addresses that become free must be gone from one status before they stand in another.
      for (const freeing of [true, false]) {
        const some = writes.filter(({ service, ingress }) => frees(service, ingress) === freeing);
        for (let at = 0; at < some.length; at += CONCURRENCY)
          await Promise.all(some.slice(at, at + CONCURRENCY).map(write));
      }
      // What the watch tells of these writes needs no round of its own each.
      await sleep(5, signal);
    },
  });
  /** Keys of Services that have to do with addresses: deleting one of them frees some. */
  const known = new Set<string>();
  for (const [key, { loadBalancer }] of services.items) if (loadBalancer) known.add(key);
  services.onChange((keys) => {
    let any = false;
    for (const key of keys) {
      const concerned = services.items.get(key)?.loadBalancer !== undefined;
      if (concerned || known.has(key)) any = true;
      if (concerned) known.add(key);
      else known.delete(key);
    }
    if (any) queue.add('all');
  });
  pools.onChange(() => queue.add('all'));
  queue.add('all');
}

function frees(service: LoadBalancerView, ingress: readonly string[]): boolean {
  return service.ingress.some((ip) => !ingress.includes(ip));
}
