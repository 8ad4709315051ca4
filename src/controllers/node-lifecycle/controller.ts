/**
 * Watches over Nodes by their Leases. Only our own clock counts: a Lease that we have not seen change for the grace
 * time is stale, whatever the time in it says. While we cannot hear the API server ourselves nobody is declared
 * dead, and after that everyone gets the whole grace time again.
 */
import {
  type ApiClient,
  type EventRecorder,
  type Log,
  type Reflector,
  resources,
} from '../../client/index.ts';
import { isNetError } from '../../errors/net-error.ts';
import type { Lease, Node, Pod } from '../../model/kubernetes.ts';
import { conditionOf, type LeaseView, type NodeView, type PodView } from '../views.ts';
import { WorkQueue } from '../work-queue.ts';
import { type LifecycleWrite, planNodeLifecycle } from './plan.ts';
import { PodCollector } from './pod-collector.ts';

/** Options of {@link startNodeLifecycle}. */
export interface NodeLifecycleOptions {
  client: ApiClient;
  nodes: Reflector<Node, NodeView>;
  leases: Reflector<Lease, LeaseView>;
  pods: Reflector<Pod, PodView>;
  events: EventRecorder;
  signal: AbortSignal;
  log: Log;
  /** A silent Node is unreachable after this; 40000 by default. */
  graceMs?: number;
  /** A Node that never spoke gets this long; 60000 by default. */
  startupGraceMs?: number;
  /** How often silence is looked for; 5000 by default. */
  periodMs?: number;
  /** Pods of a Node that does not exist are removed after this; 40000 by default. */
  orphanGraceMs?: number;
  /** More finished Pods than this are not kept; 12500 by default, as in Kubernetes; 0 keeps all. */
  finishedPodLimit?: number;
  monotonicMs?: () => number;
}

/** Begins to work; all reflectors must have synced. */
export function startNodeLifecycle(options: NodeLifecycleOptions): void {
  const { client, nodes, leases, pods, events, signal, log } = options;
  const graceMs = options.graceMs ?? 40_000;
  const startupGraceMs = options.startupGraceMs ?? 60_000;
  const periodMs = options.periodMs ?? 5_000;
  const monotonicMs = options.monotonicMs ?? (() => performance.now());
  /** Node name to the last sign of life and when it was seen. */
  const seen = new Map<string, { sign: string; atMs: number }>();
  let deafSinceMs: number | undefined;

  const observe = (name: string) => {
    const node = nodes.items.get(name);
    if (!node) {
      seen.delete(name);
      return;
    }
    const lease = leases.items.get(`kube-node-lease/${name}`);
    const heartbeat = conditionOf(node.conditions, 'Ready')?.lastHeartbeatTime ?? '';
    const sign = `${node.uid} ${lease?.renewTime ?? ''} ${heartbeat}`;
    if (seen.get(name)?.sign !== sign) seen.set(name, { sign, atMs: monotonicMs() });
  };

  const work = async (name: string) => {
    const node = nodes.items.get(name);
    const last = seen.get(name);
    if (!node || !last || node.deleting) return;
    const never = node.ready === 'Never';
    const health = {
      quietMs: deafSinceMs === undefined ? monotonicMs() - last.atMs : 0,
      graceMs: never ? startupGraceMs : graceMs,
    };
    const mine = podsOf(pods.items.values(), name);
    const now = new Date().toISOString().replace(/\.\d+Z$/, 'Z');
    for (const write of planNodeLifecycle(node, health, mine, now)) await apply(write);
  };

  const apply = async (write: LifecycleWrite) => {
    const call = { signal, fieldManager: 'portolan-node-lifecycle', retryForMs: 0 };
    const named = { name: write.node.name };
    const about = { apiVersion: 'v1', kind: 'Node', name: write.node.name, uid: write.node.name };
    switch (write.verb) {
      case 'conditions':
        await client.patchStatus(
          resources.nodes,
          named,
          { status: { conditions: write.conditions } },
          { ...call, type: 'strategic' },
        );
        log.warn({ node: write.node.name }, 'node is silent');
        events.record(about, {
          type: 'Normal',
          reason: 'NodeNotReady',
          message: `Node ${write.node.name} status is now: NodeNotReady`,
        });
        return;
      case 'taints':
        await client.patch(
          resources.nodes,
          named,
          { metadata: { resourceVersion: write.node.version }, spec: { taints: write.taints } },
          call,
        );
        return;
      case 'podNotReady': {
        const { pod } = write;
        const now = new Date().toISOString().replace(/\.\d+Z$/, 'Z');
        const condition = { type: 'Ready', status: 'False', reason: 'NodeNotReady', lastTransitionTime: now };
        try {
          await client.patchStatus(
            resources.pods,
            pod,
            { metadata: { uid: pod.uid }, status: { conditions: [condition] } },
            { ...call, type: 'strategic' },
          );
        } catch (error) {
          if (isNetError(error, 'CLIENT_NOT_FOUND')) return;
          throw error;
        }
        events.record(
          { apiVersion: 'v1', kind: 'Pod', namespace: pod.namespace, name: pod.name, uid: pod.uid },
          { type: 'Warning', reason: 'NodeNotReady', message: 'Node is not ready' },
        );
      }
    }
  };

  const collector = new PodCollector({
    client,
    nodes,
    pods,
    signal,
    log,
    monotonicMs,
    orphanGraceMs: options.orphanGraceMs ?? 40_000,
    finishedLimit: options.finishedPodLimit ?? 12_500,
  });
  const queue = new WorkQueue({ name: 'node-lifecycle', work, signal, log, concurrency: 4 });
  for (const name of nodes.items.keys()) {
    observe(name);
    queue.add(name);
  }
  nodes.onChange((names) => {
    for (const name of names) {
      observe(name);
      queue.add(name);
    }
  });
  leases.onChange((keys) => {
    for (const key of keys) observe(key.slice(key.indexOf('/') + 1));
  });
  const timer = setInterval(() => {
    const deaf = !leases.connected || !nodes.connected;
    if (deaf) deafSinceMs ??= monotonicMs();
    else if (deafSinceMs !== undefined) {
      // A watch that was merely renewed between two looks costs nobody a new grace time.
      const forMs = monotonicMs() - deafSinceMs;
      deafSinceMs = undefined;
      if (forMs > periodMs * 1.5) {
        for (const entry of seen.values()) entry.atMs = monotonicMs();
        collector.forget();
      }
    }
    if (deaf) return;
    for (const [name, { atMs }] of seen) {
      const node = nodes.items.get(name);
      // Silent Nodes are looked at in each round: a pod may have been bound to them meanwhile.
      if (node && (monotonicMs() - atMs > graceMs || node.ready === 'Unknown')) queue.add(name);
    }
    void collector.collect();
  }, periodMs);
  signal.addEventListener('abort', () => clearInterval(timer), { once: true });
}

function* podsOf(pods: Iterable<PodView>, nodeName: string): Generator<PodView> {
  for (const pod of pods) if (pod.nodeName === nodeName) yield pod;
}
