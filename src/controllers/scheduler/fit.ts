/** Which Nodes may run a Pod, and why the others may not. Pure; the words are those of kube-scheduler. */
import type { NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm } from '../../model/kubernetes.ts';
import { labelSelectorSelects } from '../../model/label-selector.ts';
import type { Labels, NodeView, PodView, SchedulingView } from '../views.ts';

type Tolerations = SchedulingView['tolerations'];

/** A Node with the Pods on it. */
export interface Place {
  node: NodeView;
  /** Pods that are bound to it and have not finished. */
  pods: PodView[];
}

const unschedulableTaint = { key: 'node.kubernetes.io/unschedulable', value: '', effect: 'NoSchedule' };

/** Whether one of the tolerations tolerates a taint. */
export function tolerates(
  tolerations: Tolerations,
  taint: { key: string; value?: string; effect: string },
): boolean {
  return tolerations.some((toleration) => {
    if (toleration.effect && toleration.effect !== taint.effect) return false;
    if (toleration.key && toleration.key !== taint.key) return false;
    if (!toleration.key) return toleration.operator === 'Exists';
    return toleration.operator === 'Exists' || (toleration.value ?? '') === (taint.value ?? '');
  });
}

/** Why a Pod may not run at a place, or undefined when it may. `places` are all, for terms over topology domains. */
export function misfit(pod: PodView, place: Place, places: readonly Place[]): string | undefined {
  const { node } = place;
  const want = pod.scheduling!;
  if (node.deleting) return 'node(s) were being deleted';
  if (node.unschedulable && !tolerates(want.tolerations, unschedulableTaint))
    return 'node(s) were unschedulable';
  const taint = node.taints.find(
    (one) => one.effect !== 'PreferNoSchedule' && !tolerates(want.tolerations, one),
  );
  if (taint) return `node(s) had untolerated taint {${taint.key}: ${taint.value ?? ''}}`;
  if (node.ready !== 'True') return 'node(s) were not ready';
  if (!affine(want, node)) return "node(s) didn't match Pod's node affinity/selector";
  if (place.pods.length + 1 > node.podCapacity) return 'Too many pods';
  if (
    pod.hostPorts.some((port) => place.pods.some((other) => other.hostPorts.some((one) => clash(port, one))))
  )
    return "node(s) didn't have free ports for the requested pod ports";
  return affinityMisfit(pod, place, places) ?? spreadMisfit(pod, place, places);
}

/** Whether `protocol/port/ip` of two pods cannot both be bound. */
function clash(a: string, b: string): boolean {
  const [protocolA, portA, ipA] = a.split('/');
  const [protocolB, portB, ipB] = b.split('/');
  const any = (ip: string | undefined) => !ip || ip === '0.0.0.0' || ip === '::';
  return protocolA === protocolB && portA === portB && (any(ipA) || any(ipB) || ipA === ipB);
}

/** nodeSelector and required node affinity. */
function affine(want: SchedulingView, node: NodeView): boolean {
  for (const [key, value] of Object.entries(want.nodeSelector)) if (node.labels[key] !== value) return false;
  const required = want.affinity.nodeAffinity?.requiredDuringSchedulingIgnoredDuringExecution;
  return !required || required.nodeSelectorTerms.some((term) => matchesTerm(term, node));
}

/** Whether a term selects a Node; a term without any expression selects none. */
export function matchesTerm(term: NodeSelectorTerm, node: NodeView): boolean {
  const expressions = term.matchExpressions ?? [];
  const fields = term.matchFields ?? [];
  if (expressions.length + fields.length === 0) return false;
  return (
    expressions.every((one) => matchesRequirement(one, node.labels[one.key])) &&
    fields.every((one) => one.key === 'metadata.name' && matchesRequirement(one, node.name))
  );
}

function matchesRequirement(requirement: NodeSelectorRequirement, value: string | undefined): boolean {
  const values = requirement.values ?? [];
  switch (requirement.operator) {
    case 'In':
      return value !== undefined && values.includes(value);
    case 'NotIn':
      return value === undefined || !values.includes(value);
    case 'Exists':
      return value !== undefined;
    case 'DoesNotExist':
      return value === undefined;
    case 'Gt':
    case 'Lt': {
      const [have, limit] = [Number(value), Number(values[0])];
      if (value === undefined || !Number.isInteger(have) || !Number.isInteger(limit)) return false;
      return requirement.operator === 'Gt' ? have > limit : have < limit;
    }
    default:
      return false;
  }
}

function termSelects(term: PodAffinityTerm, owner: PodView, other: PodView): boolean {
  const namespaces = term.namespaces?.length ? term.namespaces : [owner.namespace];
  // A namespaceSelector would need the Namespaces; the empty one, all namespaces, is what is in use.
  const everywhere = term.namespaceSelector && Object.keys(term.namespaceSelector).length === 0;
  return (
    (everywhere || namespaces.includes(other.namespace)) &&
    labelSelectorSelects(term.labelSelector, other.labels)
  );
}

/** Pods in the topology domain of a place. */
function* podsAround(place: Place, topologyKey: string, places: readonly Place[]): Generator<PodView> {
  const domain = place.node.labels[topologyKey];
  if (domain === undefined) return;
  for (const other of places) if (other.node.labels[topologyKey] === domain) yield* other.pods;
}

function affinityMisfit(pod: PodView, place: Place, places: readonly Place[]): string | undefined {
  const { podAffinity, podAntiAffinity } = pod.scheduling!.affinity;
  for (const term of podAffinity?.requiredDuringSchedulingIgnoredDuringExecution ?? []) {
    const near = podsAround(place, term.topologyKey, places).some((other) => termSelects(term, pod, other));
    if (near) continue;
    // The first of a group that wants to be together has nobody to join.
    const first =
      place.node.labels[term.topologyKey] !== undefined &&
      termSelects(term, pod, pod) &&
      !places.some(({ pods }) => pods.some((other) => termSelects(term, pod, other)));
    if (!first) return "node(s) didn't match pod affinity rules";
  }
  for (const term of podAntiAffinity?.requiredDuringSchedulingIgnoredDuringExecution ?? [])
    if (podsAround(place, term.topologyKey, places).some((other) => termSelects(term, pod, other)))
      return "node(s) didn't match pod anti-affinity rules";
  for (const other of places)
    for (const holder of other.pods)
      for (const term of holder.antiAffinity) {
        const domain = place.node.labels[term.topologyKey];
        if (domain === undefined || other.node.labels[term.topologyKey] !== domain) continue;
        if (termSelects(term, holder, pod)) return "node(s) didn't satisfy existing pods anti-affinity rules";
      }
  return undefined;
}

/** topologySpreadConstraints with DoNotSchedule, over the Nodes that the Pod's own selector and affinity allow. */
function spreadMisfit(pod: PodView, place: Place, places: readonly Place[]): string | undefined {
  for (const constraint of pod.scheduling!.spread) {
    if (constraint.whenUnsatisfiable !== 'DoNotSchedule') continue;
    const mine = place.node.labels[constraint.topologyKey];
    if (mine === undefined)
      return "node(s) didn't match pod topology spread constraints (missing required label)";
    const counts = new Map<string, number>();
    for (const { node, pods } of places) {
      const domain = node.labels[constraint.topologyKey];
      if (domain === undefined || !affine(pod.scheduling!, node)) continue;
      const same = pods.filter((other) => counted(pod, other, constraint.labelSelector)).length;
      counts.set(domain, (counts.get(domain) ?? 0) + same);
    }
    const self = labelSelectorSelects(constraint.labelSelector, pod.labels) ? 1 : 0;
    if ((counts.get(mine) ?? 0) + self - Math.min(...counts.values()) > constraint.maxSkew)
      return "node(s) didn't match pod topology spread constraints";
  }
  return undefined;
}

function counted(
  pod: PodView,
  other: PodView,
  selector: Parameters<typeof labelSelectorSelects>[0],
): boolean {
  return other.namespace === pod.namespace && !other.deleting && labelSelectorSelects(selector, other.labels);
}

/** Whether two Pods are copies of one thing: same namespace and same labels apart from the hash of a rollout. */
export function alike(a: PodView, b: PodView): boolean {
  return a.namespace === b.namespace && labelsText(a.labels) === labelsText(b.labels);
}

const labelTexts = new WeakMap<Labels, string>();
const perRollout: ReadonlySet<string> = new Set([
  'pod-template-hash',
  'controller-revision-hash',
  'statefulset.kubernetes.io/pod-name',
  'apps.kubernetes.io/pod-index',
]);

function labelsText(labels: Labels): string {
  let text = labelTexts.get(labels);
  if (text === undefined) {
    const keys = Object.keys(labels).filter((key) => !perRollout.has(key));
    text = keys
      .sort()
      .map((key) => `${key}=${labels[key]}`)
      .join();
    labelTexts.set(labels, text);
  }
  return text;
}
