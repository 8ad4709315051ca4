/**
 * What the health of a Node means for it and for its pods. Pure.
 * Sources: kube-controller-manager node_lifecycle_controller.go, well_known_taints.go.
 */
import type { Condition, Taint } from '../../model/kubernetes.ts';
import { conditionOf, type NodeView, type PodView } from '../views.ts';

/** What the controller has seen of a Node's signs of life. */
export interface NodeHealth {
  /** Milliseconds since the last sign of life by our own clock. */
  quietMs: number;
  /** Longer than this and the Node is unreachable. */
  graceMs: number;
}

export type LifecycleWrite =
  | { verb: 'conditions'; node: NodeView; conditions: Condition[] }
  | { verb: 'taints'; node: NodeView; taints: Taint[] }
  | { verb: 'podNotReady'; node: NodeView; pod: PodView };

/** Conditions of a Node that nobody vouches for once it is silent. */
const silenced = ['Ready', 'MemoryPressure', 'DiskPressure', 'PIDPressure'] as const;

/** Which condition in which status puts which taint on a Node; `NoExecute` as well for the first two. */
const taintTable: readonly { type: string; status: Condition['status']; key: string; execute: boolean }[] = [
  { type: 'Ready', status: 'Unknown', key: 'node.kubernetes.io/unreachable', execute: true },
  { type: 'Ready', status: 'False', key: 'node.kubernetes.io/not-ready', execute: true },
  { type: 'MemoryPressure', status: 'True', key: 'node.kubernetes.io/memory-pressure', execute: false },
  { type: 'DiskPressure', status: 'True', key: 'node.kubernetes.io/disk-pressure', execute: false },
  { type: 'PIDPressure', status: 'True', key: 'node.kubernetes.io/pid-pressure', execute: false },
  {
    type: 'NetworkUnavailable',
    status: 'True',
    key: 'node.kubernetes.io/network-unavailable',
    execute: false,
  },
];
const unschedulableKey = 'node.kubernetes.io/unschedulable';
const managedKeys: ReadonlySet<string> = new Set([...taintTable.map(({ key }) => key), unschedulableKey]);

/** What to write about one Node; `now` is RFC 3339. */
export function planNodeLifecycle(
  node: NodeView,
  health: NodeHealth,
  pods: Iterable<PodView>,
  now: string,
): LifecycleWrite[] {
  const writes: LifecycleWrite[] = [];
  let conditions = node.conditions;
  if (health.quietMs > health.graceMs) {
    const changed = silentConditions(node, now);
    if (changed.length > 0) {
      writes.push({ verb: 'conditions', node, conditions: changed });
      conditions = [
        ...conditions.filter(({ type }) => !changed.some((one) => one.type === type)),
        ...changed,
      ];
    }
  }
  const taints = wantedTaints(node, conditions, now);
  if (!sameTaints(taints, node.taints)) writes.push({ verb: 'taints', node, taints });
  // Pods of a Node that is merely not ready (False) are judged by the Node itself, which is there to do it.
  if (conditionOf(conditions, 'Ready')?.status === 'Unknown')
    for (const pod of pods) if (pod.ready && !pod.finished) writes.push({ verb: 'podNotReady', node, pod });
  return writes;
}

/** The conditions that silence turns into Unknown, and do not say so already. */
function silentConditions(node: NodeView, now: string): Condition[] {
  const changed: Condition[] = [];
  for (const type of silenced) {
    const old = conditionOf(node.conditions, type);
    if (old?.status === 'Unknown' || (!old && type !== 'Ready')) continue;
    changed.push({
      ...(old?.lastHeartbeatTime && { lastHeartbeatTime: old.lastHeartbeatTime }),
      type,
      status: 'Unknown',
      reason: old ? 'NodeStatusUnknown' : 'NodeStatusNeverUpdated',
      message: old ? 'Kubelet stopped posting node status.' : 'Kubelet never posted node status.',
      lastTransitionTime: now,
    });
  }
  return changed;
}

/** The taints of others, and those that follow from the conditions. */
function wantedTaints(node: NodeView, conditions: readonly Condition[], now: string): Taint[] {
  const taints = node.taints.filter(({ key }) => !managedKeys.has(key));
  const add = (key: string, effect: Taint['effect']) => {
    const old = node.taints.find((taint) => taint.key === key && taint.effect === effect);
    taints.push(old ?? { key, effect, ...(effect === 'NoExecute' && { timeAdded: now }) });
  };
  for (const { type, status, key, execute } of taintTable) {
    if (conditionOf(conditions, type)?.status !== status) continue;
    add(key, 'NoSchedule');
    if (execute) add(key, 'NoExecute');
  }
  // A Node that has not said anything yet is not ready, but there is nothing to evict.
  if (!conditionOf(conditions, 'Ready')) add('node.kubernetes.io/not-ready', 'NoSchedule');
  if (node.unschedulable) add(unschedulableKey, 'NoSchedule');
  return taints;
}

function sameTaints(a: readonly Taint[], b: readonly Taint[]): boolean {
  const text = (taints: readonly Taint[]) =>
    taints
      .map(({ key, value, effect }) => `${key}=${value ?? ''}:${effect}`)
      .sort()
      .join();
  return text(a) === text(b);
}
