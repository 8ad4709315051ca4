/** Writes the scheduler's decisions: Bindings, and the PodScheduled condition of Pods that fit nowhere. */
import {
  type ApiClient,
  type EventRecorder,
  type Log,
  type Reflector,
  resources,
} from '../../client/index.ts';
import { isNetError } from '../../errors/net-error.ts';
import type { Node, Pod } from '../../model/kubernetes.ts';
import type { NodeView, PodView } from '../views.ts';
import { WorkQueue } from '../work-queue.ts';
import { isPending, planBindings } from './plan.ts';

/** Options of {@link startScheduler}. */
export interface SchedulerOptions {
  client: ApiClient;
  pods: Reflector<Pod, PodView>;
  nodes: Reflector<Node, NodeView>;
  events: EventRecorder;
  signal: AbortSignal;
  log: Log;
}

/** Begins to work; both reflectors must have synced. */
export function startScheduler(options: SchedulerOptions): void {
  const { client, pods, nodes, events, signal, log } = options;
  const call = { signal, fieldManager: 'portolan-scheduler', retryForMs: 0 };
  /** Bound by us and not yet told by the watch: uid to Node. */
  const assumed = new Map<string, string>();
  /** Keys of Pods that wait for a Node. */
  const pending = new Set<string>();

  const bind = async (pod: PodView, nodeName: string) => {
    assumed.set(pod.uid, nodeName);
    try {
      await client.createSubresource(
        resources.pods,
        { namespace: pod.namespace, name: pod.name, subresource: 'binding' },
        {
          apiVersion: 'v1',
          kind: 'Binding',
          metadata: { name: pod.name, namespace: pod.namespace, uid: pod.uid },
          target: { apiVersion: 'v1', kind: 'Node', name: nodeName },
        },
        call,
      );
    } catch (error) {
      assumed.delete(pod.uid);
      // Deleted or bound by someone else meanwhile: the watch tells.
      if (isNetError(error, 'CLIENT_NOT_FOUND') || isNetError(error, 'CLIENT_CONFLICT')) return;
      throw error;
    }
    events.record(reference(pod), {
      type: 'Normal',
      reason: 'Scheduled',
      message: `Successfully assigned ${pod.key} to ${nodeName}`,
    });
  };

  const fail = async (pod: PodView, message: string) => {
    if (pod.scheduling?.unschedulable === message) return;
    events.record(reference(pod), { type: 'Warning', reason: 'FailedScheduling', message });
    const now = new Date().toISOString().replace(/\.\d+Z$/, 'Z');
    const condition = {
      type: 'PodScheduled',
      status: 'False',
      reason: 'Unschedulable',
      message,
      lastTransitionTime: now,
    };
    try {
      await client.patchStatus(
        resources.pods,
        pod,
        { metadata: { uid: pod.uid }, status: { conditions: [condition] } },
        { ...call, type: 'strategic' },
      );
    } catch (error) {
      if (!isNetError(error, 'CLIENT_NOT_FOUND') && !isNetError(error, 'CLIENT_CONFLICT')) throw error;
    }
  };

  const work = async () => {
    if (pending.size === 0) return;
    const plan = planBindings(
      pods.items
        .values()
        .map((pod) => {
          const nodeName = assumed.get(pod.uid);
          if (nodeName === undefined || pod.nodeName !== '') return pod;
          const { scheduling: _, ...bound } = pod;
          return { ...bound, nodeName };
        })
        .toArray(),
      nodes.items.values(),
    );
    const results = await Promise.allSettled([
      ...plan.bindings.map(({ pod, nodeName }) => bind(pod, nodeName)),
      ...plan.failures.map(({ pod, message }) => fail(pod, message)),
    ]);
    const failed = results.find((result) => result.status === 'rejected');
    if (failed) throw failed.reason;
  };

  const queue = new WorkQueue({ name: 'scheduler', work, signal, log, concurrency: 1 });
  const boundOf = new Map<string, string>();
  const look = (keys: Iterable<string>) => {
    let any = false;
    for (const key of keys) {
      const pod = pods.items.get(key);
      const uid = boundOf.get(key);
      if (uid !== undefined && uid !== pod?.uid) assumed.delete(uid);
      if (!pod) boundOf.delete(key);
      else {
        boundOf.set(key, pod.uid);
        if (pod.nodeName !== '') assumed.delete(pod.uid);
      }
      // A Pod that goes away or finishes may make room for those that wait.
      if (!pod || pod.finished) any ||= pending.size > 0;
      if (pod && isPending(pod) && !assumed.has(pod.uid)) {
        pending.add(key);
        any = true;
      } else pending.delete(key);
    }
    if (any) queue.add('all');
  };
  look(pods.items.keys());
  pods.onChange(look);
  nodes.onChange(() => {
    if (pending.size > 0) queue.add('all');
  });
}

function reference(pod: PodView) {
  return { apiVersion: 'v1', kind: 'Pod', namespace: pod.namespace, name: pod.name, uid: pod.uid };
}
