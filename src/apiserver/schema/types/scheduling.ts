/** Where a pod may run: affinity, tolerations, spread. */
import { int32, int64, list, obj, ptr, req, str, strings, struct } from './field.ts';
import { labelSelector } from './meta.ts';

const nodeSelectorRequirement = struct('core.v1.NodeSelectorRequirement', 'One requirement on a node.', {
  key: req(str('Label key.')),
  operator: req(str('In, NotIn, Exists, DoesNotExist, Gt or Lt.')),
  values: strings('Values, by operator.'),
});
const nodeSelectorTerm = struct(
  'core.v1.NodeSelectorTerm',
  'Requirements that must all hold; empty matches nothing.',
  {
    matchExpressions: list(() => nodeSelectorRequirement, {}, 'Requirements on labels.'),
    matchFields: list(() => nodeSelectorRequirement, {}, 'Requirements on fields.'),
  },
  { atomic: true },
);
const nodeSelector = struct(
  'core.v1.NodeSelector',
  'Terms of which one must hold.',
  { nodeSelectorTerms: req(list(() => nodeSelectorTerm, {}, 'The terms.')) },
  { atomic: true },
);
const preferredTerm = struct('core.v1.PreferredSchedulingTerm', 'A term with a weight.', {
  weight: req(int32('Weight, 1 to 100.')),
  preference: req(obj(() => nodeSelectorTerm, 'The term.')),
});
const nodeAffinity = struct('core.v1.NodeAffinity', 'Which nodes a pod may or should run on.', {
  requiredDuringSchedulingIgnoredDuringExecution: ptr(obj(() => nodeSelector, 'Must hold.')),
  preferredDuringSchedulingIgnoredDuringExecution: list(() => preferredTerm, {}, 'Should hold.'),
});

const podAffinityTerm = struct('core.v1.PodAffinityTerm', 'Pods to be near to, or far from.', {
  labelSelector: ptr(obj(() => labelSelector, 'Which pods.')),
  namespaces: strings('Namespaces of the pods.'),
  topologyKey: req(str('Node label whose equality means near.')),
  namespaceSelector: ptr(obj(() => labelSelector, 'Namespaces of the pods, by label.')),
  matchLabelKeys: strings('Labels of this pod whose values join the selector.'),
  mismatchLabelKeys: strings('Labels of this pod whose values are excluded.'),
});
const weightedPodAffinityTerm = struct('core.v1.WeightedPodAffinityTerm', 'A term with a weight.', {
  weight: req(int32('Weight, 1 to 100.')),
  podAffinityTerm: req(obj(() => podAffinityTerm, 'The term.')),
});
const podTerms = {
  requiredDuringSchedulingIgnoredDuringExecution: list(() => podAffinityTerm, {}, 'Must hold.'),
  preferredDuringSchedulingIgnoredDuringExecution: list(() => weightedPodAffinityTerm, {}, 'Should hold.'),
};
const podAffinity = struct('core.v1.PodAffinity', 'Pods to be near to.', podTerms);
const podAntiAffinity = struct('core.v1.PodAntiAffinity', 'Pods to be far from.', podTerms);

export const affinity = struct('core.v1.Affinity', 'Where a pod may or should run.', {
  nodeAffinity: ptr(obj(() => nodeAffinity, 'Which nodes.')),
  podAffinity: ptr(obj(() => podAffinity, 'Near to which pods.')),
  podAntiAffinity: ptr(obj(() => podAntiAffinity, 'Far from which pods.')),
});

export const toleration = struct('core.v1.Toleration', 'Taints that a pod puts up with.', {
  key: str('Taint key; empty with Exists matches all.'),
  operator: str('Exists or Equal; Equal if unset.'),
  value: str('Taint value, for Equal.'),
  effect: str('NoSchedule, PreferNoSchedule, NoExecute; empty matches all.'),
  tolerationSeconds: ptr(int64('Seconds for which a NoExecute taint is put up with.')),
});

export const topologySpreadConstraint = struct(
  'core.v1.TopologySpreadConstraint',
  'How evenly pods spread over a topology.',
  {
    maxSkew: req(int32('Difference of counts at most.')),
    topologyKey: req(str('Node label that makes the domains.')),
    whenUnsatisfiable: req(str('DoNotSchedule or ScheduleAnyway.')),
    labelSelector: ptr(obj(() => labelSelector, 'Pods that are counted.')),
    minDomains: ptr(int32('Number of domains at least.')),
    nodeAffinityPolicy: ptr(str('Honor or Ignore.')),
    nodeTaintsPolicy: ptr(str('Honor or Ignore.')),
    matchLabelKeys: strings('Labels of this pod whose values join the selector.'),
  },
);
