/**
 * Binds Pods to Nodes: first the Nodes that may run a Pod at all, then of those the one that the Pod prefers, that
 * runs the fewest Pods like it, and the fewest Pods. Pods of one round see the decisions before them. Pure.
 * Resource requests are not weighed and nobody is evicted for another: this is a small scheduler.
 */
import type { NodeView, PodView } from '../views.ts';
import { alike, matchesTerm, misfit, type Place, tolerates } from './fit.ts';

export interface SchedulePlan {
  bindings: { pod: PodView; nodeName: string }[];
  /** Pods for which no Node fits, with the message of kube-scheduler. */
  failures: { pod: PodView; message: string }[];
}

/** Names under which a Pod asks for this scheduler. */
const schedulerNames: ReadonlySet<string> = new Set(['default-scheduler', 'portolan', '']);

/** Whether it is ours to bind. */
export function isPending(pod: PodView): boolean {
  const want = pod.scheduling;
  return (
    want !== undefined &&
    !want.gated &&
    !pod.deleting &&
    !pod.finished &&
    schedulerNames.has(want.schedulerName)
  );
}

export function planBindings(pods: Iterable<PodView>, nodes: Iterable<NodeView>): SchedulePlan {
  const places: Place[] = [...nodes]
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .map((node) => ({ node, pods: [] }));
  const byName = new Map(places.map((place) => [place.node.name, place]));
  const pending: PodView[] = [];
  for (const pod of pods) {
    if (isPending(pod)) pending.push(pod);
    else if (pod.nodeName !== '' && !pod.finished) byName.get(pod.nodeName)?.pods.push(pod);
  }
  pending.sort((a, b) => (a.key < b.key ? -1 : 1));
  const plan: SchedulePlan = { bindings: [], failures: [] };
  for (const pod of pending) {
    const reasons = new Map<string, number>();
    const fitting: Place[] = [];
    for (const place of places) {
      const reason = misfit(pod, place, places);
      if (reason === undefined) fitting.push(place);
      else reasons.set(reason, (reasons.get(reason) ?? 0) + 1);
    }
    const best = fitting
      .map((place) => ({ place, score: scoreOf(pod, place) }))
      .reduce<{ place: Place; score: number[] } | undefined>(
        (least, one) => (least && compare(least.score, one.score) <= 0 ? least : one),
        undefined,
      );
    if (best) {
      const { place } = best;
      plan.bindings.push({ pod, nodeName: place.node.name });
      place.pods.push({ ...pod, nodeName: place.node.name });
    } else plan.failures.push({ pod, message: failureMessage(places.length, reasons) });
  }
  return plan;
}

/** Smaller is better; earlier entries count first. */
function scoreOf(pod: PodView, { node, pods }: Place): number[] {
  const want = pod.scheduling!;
  const shunned = node.taints.filter(
    (taint) => taint.effect === 'PreferNoSchedule' && !tolerates(want.tolerations, taint),
  ).length;
  const preferred = want.affinity.nodeAffinity?.preferredDuringSchedulingIgnoredDuringExecution ?? [];
  const liked = preferred.reduce(
    (sum, { weight, preference }) => sum + (matchesTerm(preference, node) ? weight : 0),
    0,
  );
  return [shunned, -liked, pods.filter((other) => !other.deleting && alike(pod, other)).length, pods.length];
}

function compare(a: readonly number[], b: readonly number[]): number {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return a[i]! - b[i]!;
  return 0;
}

/** `0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) had untolerated taint {a: b}.` */
function failureMessage(total: number, reasons: ReadonlyMap<string, number>): string {
  if (total === 0) return 'no nodes available to schedule pods';
  const told = [...reasons].map(([reason, count]) => `${count} ${reason}`).sort();
  return `0/${total} nodes are available: ${told.join(', ')}.`;
}
