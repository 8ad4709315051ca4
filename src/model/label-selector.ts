import type { LabelSelector } from './kubernetes.ts';

export type Labels = Readonly<Record<string, string>>;

/** Whether a metav1.LabelSelector selects labels; absent selects nothing, an empty one everything. */
export function labelSelectorSelects(selector: LabelSelector | undefined, labels: Labels): boolean {
  if (selector === undefined) return false;
  const { matchLabels, matchExpressions } = selector;
  for (const key in matchLabels) if (labels[key] !== matchLabels[key]) return false;
  for (const { key, operator, values } of matchExpressions ?? []) {
    const value = labels[key];
    const within = value !== undefined && (values ?? []).includes(value);
    if (operator === 'In') {
      if (!within) return false;
    } else if (operator === 'NotIn') {
      if (within) return false;
    } else if (operator === 'Exists') {
      if (value === undefined) return false;
    } else if (operator !== 'DoesNotExist' || value !== undefined) return false;
  }
  return true;
}

/** One text for selectors that mean the same: sorted, `app=web,tier in (a,b),!old`. Empty for one that selects all. */
export function labelSelectorText(selector: LabelSelector): string {
  const parts = Object.entries(selector.matchLabels ?? {}).map(([key, value]) => `${key}=${value}`);
  for (const { key, operator, values } of selector.matchExpressions ?? []) {
    const list = [...new Set(values ?? [])].sort().join(',');
    if (operator === 'In') parts.push(`${key} in (${list})`);
    else if (operator === 'NotIn') parts.push(`${key} notin (${list})`);
    else parts.push(operator === 'Exists' ? key : `!${key}`);
  }
  return [...new Set(parts)].sort().join(',');
}
