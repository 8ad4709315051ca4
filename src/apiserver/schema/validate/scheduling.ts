/** Rules for where a pod may run: pkg/apis/core/validation v1.32. */
import type { LabelSelector, PodSpec } from '../../../model/kubernetes.ts';
import type { FieldError } from '../decode.ts';
import { duplicate, invalid, invalidEach, oneOf, optionalOneOf, required } from './field-errors.ts';
import { validateLabelSelector } from './meta.ts';
import { labelValue, qualifiedName } from './names.ts';

type Toleration = NonNullable<PodSpec['tolerations']>[number];
interface NodeTerm {
  matchExpressions?: { key?: string; operator?: string; values?: string[] }[];
  matchFields?: { key?: string; operator?: string; values?: string[] }[];
}
interface PodTerm {
  labelSelector?: LabelSelector;
  namespaceSelector?: LabelSelector;
  topologyKey?: string;
}
interface PodTerms {
  requiredDuringSchedulingIgnoredDuringExecution?: PodTerm[];
  preferredDuringSchedulingIgnoredDuringExecution?: { weight?: number; podAffinityTerm?: PodTerm }[];
}
interface Placed {
  tolerations?: Toleration[];
  affinity?: {
    nodeAffinity?: {
      requiredDuringSchedulingIgnoredDuringExecution?: { nodeSelectorTerms?: NodeTerm[] };
      preferredDuringSchedulingIgnoredDuringExecution?: { weight?: number; preference?: NodeTerm }[];
    };
    podAffinity?: PodTerms;
    podAntiAffinity?: PodTerms;
  };
  topologySpreadConstraints?: {
    maxSkew?: number;
    topologyKey?: string;
    whenUnsatisfiable?: string;
    labelSelector?: LabelSelector;
    minDomains?: number;
  }[];
}

const mustHold = 'requiredDuringSchedulingIgnoredDuringExecution';
const preferred = 'preferredDuringSchedulingIgnoredDuringExecution';

export function validateScheduling(spec: object): FieldError[] {
  const placed = spec as Placed;
  const affinity = placed.affinity;
  return [
    ...validateTolerations('spec.tolerations', placed.tolerations ?? []),
    ...validateNodeAffinity('spec.affinity.nodeAffinity', affinity?.nodeAffinity),
    ...validatePodTerms('spec.affinity.podAffinity', affinity?.podAffinity),
    ...validatePodTerms('spec.affinity.podAntiAffinity', affinity?.podAntiAffinity),
    ...validateSpread('spec.topologySpreadConstraints', placed.topologySpreadConstraints ?? []),
  ];
}

export function validateTolerations(at: string, tolerations: readonly Toleration[]): FieldError[] {
  return tolerations.flatMap((toleration, i) => {
    const field = `${at}[${i}]`;
    const { key, operator, value, effect, tolerationSeconds } = toleration;
    const errors: FieldError[] = [];
    if (key) errors.push(...invalidEach(`${field}.key`, key, qualifiedName(key)));
    else if (operator !== 'Exists')
      errors.push(
        invalid(
          `${field}.operator`,
          operator ?? '',
          'operator must be Exists when `key` is empty, which means "match all values and all keys"',
        ),
      );
    if (tolerationSeconds !== undefined && effect !== 'NoExecute')
      errors.push(
        invalid(
          `${field}.effect`,
          effect ?? '',
          "effect must be 'NoExecute' when `tolerationSeconds` is set",
        ),
      );
    errors.push(...optionalOneOf(`${field}.operator`, operator, ['Equal', 'Exists']));
    if (operator === 'Exists' && value)
      errors.push(invalid(`${field}.operator`, value, "value must be empty when `operator` is 'Exists'"));
    if (operator !== 'Exists' && value)
      errors.push(...invalidEach(`${field}.operator`, value, labelValue(value)));
    errors.push(...optionalOneOf(`${field}.effect`, effect, ['NoExecute', 'NoSchedule', 'PreferNoSchedule']));
    return errors;
  });
}

function validateWeight(field: string, weight: number | undefined): FieldError[] {
  return (weight ?? 0) < 1 || (weight ?? 0) > 100
    ? [invalid(field, weight ?? 0, 'must be in the range 1-100')]
    : [];
}

function validateNodeAffinity(
  at: string,
  affinity: NonNullable<Placed['affinity']>['nodeAffinity'],
): FieldError[] {
  if (!affinity) return [];
  const errors: FieldError[] = [];
  const must = affinity[mustHold];
  if (must) {
    const field = `${at}.${mustHold}.nodeSelectorTerms`;
    const terms = must.nodeSelectorTerms ?? [];
    if (terms.length === 0) errors.push(required(field, 'must have at least one node selector term'));
    errors.push(...terms.flatMap((term, i) => validateNodeTerm(`${field}[${i}]`, term)));
  }
  for (const [i, wish] of (affinity[preferred] ?? []).entries()) {
    const field = `${at}.${preferred}[${i}]`;
    errors.push(...validateWeight(`${field}.weight`, wish.weight));
    errors.push(...validateNodeTerm(`${field}.preference`, wish.preference ?? {}));
  }
  return errors;
}

const nodeOperators = ['DoesNotExist', 'Exists', 'Gt', 'In', 'Lt', 'NotIn'];

function validateNodeTerm(at: string, term: NodeTerm): FieldError[] {
  return (term.matchExpressions ?? []).flatMap((expression, i) => {
    const field = `${at}.matchExpressions[${i}]`;
    const values = expression.values ?? [];
    const errors = oneOf(`${field}.operator`, expression.operator, nodeOperators);
    if ((expression.operator === 'In' || expression.operator === 'NotIn') && values.length === 0)
      errors.push(required(`${field}.values`, "must be specified when `operator` is 'In' or 'NotIn'"));
    if ((expression.operator === 'Gt' || expression.operator === 'Lt') && values.length !== 1)
      errors.push(
        required(`${field}.values`, "must be specified single value when `operator` is 'Lt' or 'Gt'"),
      );
    return [
      ...errors,
      ...invalidEach(`${field}.key`, expression.key ?? '', qualifiedName(expression.key ?? '')),
    ];
  });
}

function validatePodTerms(at: string, terms: PodTerms | undefined): FieldError[] {
  const errors: FieldError[] = [];
  for (const [i, term] of (terms?.[mustHold] ?? []).entries())
    errors.push(...validatePodTerm(`${at}.${mustHold}[${i}]`, term));
  for (const [i, wish] of (terms?.[preferred] ?? []).entries()) {
    const field = `${at}.${preferred}[${i}]`;
    errors.push(...validateWeight(`${field}.weight`, wish.weight));
    errors.push(...validatePodTerm(`${field}.podAffinityTerm`, wish.podAffinityTerm ?? {}));
  }
  return errors;
}

function validatePodTerm(at: string, term: PodTerm): FieldError[] {
  const errors = [
    ...validateLabelSelector(term.labelSelector, `${at}.labelSelector`),
    ...validateLabelSelector(term.namespaceSelector, `${at}.namespaceSelector`),
  ];
  if (!term.topologyKey) return [...errors, required(`${at}.topologyKey`, 'can not be empty')];
  return [...errors, ...invalidEach(`${at}.topologyKey`, term.topologyKey, qualifiedName(term.topologyKey))];
}

function validateSpread(
  at: string,
  constraints: NonNullable<Placed['topologySpreadConstraints']>,
): FieldError[] {
  return constraints.flatMap((constraint, i) => {
    const field = `${at}[${i}]`;
    const { maxSkew = 0, topologyKey, whenUnsatisfiable, minDomains } = constraint;
    const errors: FieldError[] = [];
    if (maxSkew <= 0) errors.push(invalid(`${field}.maxSkew`, maxSkew, 'must be greater than zero'));
    if (!topologyKey) errors.push(required(`${field}.topologyKey`, 'can not be empty'));
    else errors.push(...invalidEach(`${field}.topologyKey`, topologyKey, qualifiedName(topologyKey)));
    errors.push(
      ...oneOf(`${field}.whenUnsatisfiable`, whenUnsatisfiable, ['DoNotSchedule', 'ScheduleAnyway']),
    );
    const same = (other: typeof constraint) =>
      other.topologyKey === topologyKey && other.whenUnsatisfiable === whenUnsatisfiable;
    if (constraints.findIndex(same) < i)
      errors.push(
        duplicate(`${field}.{topologyKey, whenUnsatisfiable}`, `{${topologyKey}, ${whenUnsatisfiable}}`),
      );
    if (minDomains !== undefined && minDomains <= 0)
      errors.push(invalid(`${field}.minDomains`, minDomains, 'must be greater than zero'));
    return [...errors, ...validateLabelSelector(constraint.labelSelector, `${field}.labelSelector`)];
  });
}
