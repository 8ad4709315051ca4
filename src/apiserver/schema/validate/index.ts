/** Validation by kind: which objects Kubernetes v1.32 would refuse, with its field paths and its words. */
import type { KubeObject } from '../../../model/kubernetes.ts';
import type { FieldError } from '../decode.ts';
import type { KindSchema } from '../kinds.ts';
import { type MetaRules, validateMeta, validateMetaUpdate } from './meta.ts';
import { dns1035Label, dns1123Label, dns1123Subdomain, pathSegment } from './names.ts';

/** Rules of one kind beyond those for metadata. */
export interface KindRules {
  /** Syntax of metadata.name; a DNS subdomain unless given. */
  readonly name?: MetaRules['name'];
  readonly validate?: (object: never) => FieldError[];
  /** Rules for an update of the object; `validate` runs as well. */
  readonly validateUpdate?: (next: never, old: never) => FieldError[];
  readonly validateStatus?: (next: never, old: never) => FieldError[];
}

const rules: Readonly<Record<string, KindRules>> = {
  '/Namespace': { name: dns1123Label },
  '/Service': { name: dns1035Label },
  '/Event': { name: dns1123Subdomain },
  'coordination.k8s.io/Lease': { name: dns1123Subdomain },
  '/Path': { name: pathSegment },
};

function metaRules(schema: KindSchema): MetaRules {
  return {
    namespaced: schema.namespaced,
    name: rules[`${schema.group}/${schema.kind}`]?.name ?? dns1123Subdomain,
  };
}

/** Faults of a new object, after defaulting; none when it may be stored. */
export function validateCreate(schema: KindSchema, object: KubeObject): FieldError[] {
  const errors = validateMeta(object, metaRules(schema));
  const kind = rules[`${schema.group}/${schema.kind}`];
  return [...errors, ...(kind?.validate?.(object as never) ?? [])];
}

/** Faults of a changed object; `subresource` says which part the request may change. */
export function validateUpdate(
  schema: KindSchema,
  next: KubeObject,
  old: KubeObject,
  subresource: '' | 'status',
): FieldError[] {
  const errors = validateMetaUpdate(next, old);
  const kind = rules[`${schema.group}/${schema.kind}`];
  if (subresource === 'status')
    return [...errors, ...(kind?.validateStatus?.(next as never, old as never) ?? [])];
  return [
    ...errors,
    ...(kind?.validate?.(next as never) ?? []),
    ...(kind?.validateUpdate?.(next as never, old as never) ?? []),
  ];
}
