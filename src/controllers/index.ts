/** The controllers that make an embedded API server a cluster; each is a pure planner and a small runner. */

import { hostname } from 'node:os';
import {
  type ApiClient,
  EventRecorder,
  LeaderElector,
  type Log,
  Reflector,
  resources,
} from '../client/index.ts';
import { EndpointSlicesController } from './endpoint-slices/controller.ts';
import { managedBy, managedByLabel, sliceView } from './endpoint-slices/types.ts';
import { startLoadBalancers } from './load-balancers/controller.ts';
import { poolLabel, poolNamespace, readPool } from './load-balancers/pools.ts';
import { type ControllerName, controllerNames } from './names.ts';
import { startNodeCidrs } from './node-cidrs/controller.ts';
import { type CidrPool, cidrPools } from './node-cidrs/plan.ts';
import { startNodeLifecycle } from './node-lifecycle/controller.ts';
import { startScheduler } from './scheduler/controller.ts';
import { startServiceControllers } from './services/controller.ts';
import { leaseView, nodeView, podView, serviceCidrView, serviceView } from './views.ts';

export { type CidrPool, cidrPools } from './node-cidrs/plan.ts';

/** Options of {@link startControllers}. */
export interface ControllersOptions {
  client: ApiClient;
  /** Networks of pods, e.g. `['10.244.0.0/16', 'fd00:10:244::/56']`; Nodes get none when it is empty. */
  clusterCidrs: readonly string[];
  /** Networks of Services, only to refuse overlaps. */
  serviceCidrs?: readonly string[];
  /** Prefix length of a Node's IPv4 network, 24 by default. */
  nodeMaskV4?: number;
  /** Prefix length of a Node's IPv6 network, 64 by default. */
  nodeMaskV6?: number;
  signal: AbortSignal;
  log: Log;
  /** Work only while holding the Lease kube-system/portolan-controller; false by default. */
  leaderElect?: boolean;
  /** Name in that Lease, `<hostname>_<random>` by default. */
  identity?: string;
  /** Names of controllers to run, all by default. */
  only?: readonly ControllerName[];
  /** A Node that is silent for this long is unreachable, 40000 by default. */
  nodeGraceMs?: number;
  /** How often silent Nodes are looked for, 5000 by default. */
  nodePeriodMs?: number;
  /** Pods of a Node that does not exist are removed after this, 40000 by default. */
  orphanGraceMs?: number;
  /** More finished Pods than this are not kept, 12500 by default; 0 keeps all. */
  finishedPodLimit?: number;
  /** Timing of the leader election, as in {@link LeaderElector}. */
  leader?: { leaseDurationMs?: number; renewDeadlineMs?: number; retryPeriodMs?: number };
}

export { type ControllerName, controllerNames };

/** Controllers under way. */
export interface RunningControllers {
  /** Resolves when all objects were read for the first time and the controllers work (and lead). */
  ready: Promise<void>;
  /** Resolves after the signal; rejects with CLIENT_LEASE_LOST when another instance took over. */
  done: Promise<void>;
}

/**
 * Starts the controllers. Options are checked at once: throws CONTROLLER_BAD_CIDR, CONTROLLER_CIDRS_OVERLAP,
 * CONTROLLER_BAD_NODE_MASK.
 */
export function startControllers(options: ControllersOptions): RunningControllers {
  const pools = cidrPools({
    clusterCidrs: options.clusterCidrs,
    serviceCidrs: options.serviceCidrs ?? [],
    nodeMaskV4: options.nodeMaskV4 ?? 24,
    nodeMaskV6: options.nodeMaskV6 ?? 64,
  });
  const ready = Promise.withResolvers<void>();
  const lead = async (signal: AbortSignal) => {
    await run(options, pools, signal);
    ready.resolve();
    await aborted(signal);
  };
  const done = options.leaderElect
    ? new LeaderElector({
        client: options.client,
        namespace: 'kube-system',
        name: 'portolan-controller',
        identity: options.identity ?? `${hostname()}_${Math.random().toString(36).slice(2, 10)}`,
        signal: options.signal,
        log: options.log,
        ...options.leader,
      }).run(lead)
    : lead(options.signal);
  // Whoever waits only for `ready` must not wait for ever, nor leave an unhandled rejection behind.
  done.then(() => ready.resolve(), ready.reject);
  ready.promise.catch(() => {});
  return { ready: ready.promise, done };
}

/** Reads what the wanted controllers need, then starts them. */
async function run(
  options: ControllersOptions,
  pools: readonly CidrPool[],
  signal: AbortSignal,
): Promise<void> {
  const { client, log } = options;
  const wanted = new Set<ControllerName>(options.only ?? controllerNames);
  const common = { client, signal, log };
  const nodes = new Reflector({ ...common, resource: resources.nodes, project: nodeView });
  const pods = new Reflector({ ...common, resource: resources.pods, project: podView });
  const services = new Reflector({ ...common, resource: resources.services, project: serviceView });
  const leases = new Reflector({
    ...common,
    resource: resources.leases,
    namespace: 'kube-node-lease',
    project: leaseView,
  });
  const slices = new Reflector({
    ...common,
    resource: resources.endpointSlices,
    labelSelector: `${managedByLabel}=${managedBy}`,
    project: sliceView,
  });
  const serviceCidrs = new Reflector({
    ...common,
    resource: resources.serviceCidrs,
    project: serviceCidrView,
  });
  const addressPools = new Reflector({
    ...common,
    resource: resources.configMaps,
    namespace: poolNamespace,
    labelSelector: `${poolLabel}=true`,
    project: readPool,
  });
  const needs: Record<ControllerName, { start(): void; synced: Promise<void> }[]> = {
    'node-cidrs': [nodes, pods],
    'node-lifecycle': [nodes, leases, pods],
    'endpoint-slices': [nodes, pods, services, slices],
    services: [services, serviceCidrs],
    'load-balancers': [services, addressPools],
    scheduler: [nodes, pods],
  };
  const needed = new Set([...wanted].flatMap((name) => needs[name]));
  for (const reflector of needed) reflector.start();
  await Promise.race([Promise.all([...needed].map((reflector) => reflector.synced)), aborted(signal)]);
  if (signal.aborted) return;

  const events = (component: string) => new EventRecorder({ client, component, log });
  if (wanted.has('node-cidrs') && pools.length > 0)
    startNodeCidrs({ ...common, nodes, pods, pools, events: events('cidrAllocator') });
  if (wanted.has('node-lifecycle'))
    startNodeLifecycle({
      ...common,
      nodes,
      leases,
      pods,
      events: events('node-controller'),
      ...(options.nodeGraceMs !== undefined && { graceMs: options.nodeGraceMs }),
      ...(options.nodePeriodMs !== undefined && { periodMs: options.nodePeriodMs }),
      ...(options.orphanGraceMs !== undefined && { orphanGraceMs: options.orphanGraceMs }),
      ...(options.finishedPodLimit !== undefined && { finishedPodLimit: options.finishedPodLimit }),
    });
  if (wanted.has('endpoint-slices'))
    new EndpointSlicesController({ ...common, nodes, pods, services, slices }).start();
  if (wanted.has('services'))
    startServiceControllers({ ...common, services, serviceCidrs, events: events('portolan-services') });
  if (wanted.has('load-balancers'))
    startLoadBalancers({
      ...common,
      services,
      pools: addressPools,
      events: events('portolan-load-balancers'),
    });
  if (wanted.has('scheduler'))
    startScheduler({ ...common, nodes, pods, events: events('default-scheduler') });
  log.info({ controllers: [...wanted] }, 'controllers run');
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}
