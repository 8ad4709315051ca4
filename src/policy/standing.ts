/** Which policies a pod of this node stands under, direction by direction. Pure. */
import { type Labels, labelSelectorSelects } from '../model/label-selector.ts';
import { type PolicyWorld, selectionSelects } from './evaluate.ts';
import type { Direction, PodFacts, Selection } from './types.ts';

/** Names in the order in which they are asked; NetworkPolicies as `namespace/name`. */
export interface Standing {
  readonly admin: readonly string[];
  /** NetworkPolicies that isolate the pod. */
  readonly policies: readonly string[];
  readonly baseline: readonly string[];
}

export type Standings = Readonly<Record<Direction, Standing>>;

const NOTHING: Standing = { admin: [], policies: [], baseline: [] };
export const UNKNOWN: Standings = { ingress: NOTHING, egress: NOTHING };

export function isFree({ admin, policies, baseline }: Standing): boolean {
  return admin.length + policies.length + baseline.length === 0;
}

export function standingsOf(pod: PodFacts, world: PolicyWorld): Standings {
  const selecting = [...world.policiesOf(pod.namespace)].filter((policy) =>
    labelSelectorSelects(policy.podSelector, pod.labels),
  );
  const labels = world.namespaceLabels(pod.namespace);
  const tier = (name: 'Admin' | 'Baseline') =>
    [...world.clusterPoliciesOf(name)].filter(({ subject }) => selectionSelects(subject, pod, labels));
  const tiers = { admin: tier('Admin'), baseline: tier('Baseline') };
  const names = (list: typeof tiers.admin, direction: Direction) =>
    list.filter((policy) => policy[direction].length > 0).map(({ name }) => name);
  const standing = (direction: Direction): Standing => ({
    admin: names(tiers.admin, direction),
    policies: selecting
      .filter((policy) => policy[direction] !== undefined)
      .map(({ key }) => key)
      .sort(),
    baseline: names(tiers.baseline, direction),
  });
  return { ingress: standing('ingress'), egress: standing('egress') };
}

/** Whether policies could select a pod of which only the namespace is known. */
export function mayBeSelected(namespace: string, world: PolicyWorld): boolean {
  for (const _ of world.policiesOf(namespace)) return true;
  const labels = world.namespaceLabels(namespace);
  return (['Admin', 'Baseline'] as const).some((tier) =>
    [...world.clusterPoliciesOf(tier)].some(({ subject }) => reaches(subject, namespace, labels)),
  );
}

function reaches({ namespaces }: Selection, namespace: string, labels: Labels | undefined): boolean {
  if (typeof namespaces === 'string') return namespaces === namespace;
  return labels === undefined || labelSelectorSelects(namespaces, labels);
}
