/** Rules for metadata of every kind: apimachinery `api/validation/objectmeta.go` v1.32. */
import type { KubeObject, LabelSelector, ObjectMeta } from '../../../model/kubernetes.ts';
import type { FieldError } from '../decode.ts';
import {
  equalJson,
  forbidden,
  immutable,
  invalid,
  invalidEach,
  notSupported,
  required,
  tooLong,
} from './field-errors.ts';
import { dns1123Label, labelValue, qualifiedName } from './names.ts';

/** Keys and values of all annotations together, in bytes. */
const annotationsLimit = 256 * 1024;

export interface MetaRules {
  readonly namespaced: boolean;
  /** Syntax of metadata.name. */
  readonly name: (name: string) => string[];
}

export function validateMeta(object: KubeObject, rules: MetaRules): FieldError[] {
  const meta = object.metadata;
  const errors: FieldError[] = [];
  if (meta.generateName)
    // A generated name ends in five random characters, so a trailing dash is fine.
    for (const fault of rules.name(`${meta.generateName.replace(/-$/, '')}a`.slice(0, 253)))
      errors.push(invalid('metadata.generateName', meta.generateName, fault));
  if (!meta.name) errors.push(required('metadata.name', 'name or generateName is required'));
  else errors.push(...invalidEach('metadata.name', meta.name, rules.name(meta.name)));
  if (rules.namespaced) {
    if (!meta.namespace) errors.push(required('metadata.namespace'));
    else errors.push(...invalidEach('metadata.namespace', meta.namespace, dns1123Label(meta.namespace)));
  } else if (meta.namespace) errors.push(forbidden('metadata.namespace', 'not allowed on this type'));
  return [...errors, ...validateMetaMembers(meta)];
}

function validateMetaMembers(meta: ObjectMeta): FieldError[] {
  const errors: FieldError[] = [];
  if ((meta.generation ?? 0) < 0)
    errors.push(invalid('metadata.generation', meta.generation, 'must be greater than or equal to 0'));
  errors.push(...validateLabels(meta.labels ?? {}, 'metadata.labels'));
  errors.push(...validateAnnotations(meta.annotations ?? {}, 'metadata.annotations'));
  errors.push(...validateOwners(meta));
  for (const [i, finalizer] of (meta.finalizers ?? []).entries()) {
    errors.push(...invalidEach(`metadata.finalizers[${i}]`, finalizer, qualifiedName(finalizer)));
    if (!finalizer.includes('/') && !standardFinalizers.has(finalizer))
      errors.push(
        invalid(
          `metadata.finalizers[${i}]`,
          finalizer,
          'name is neither a standard finalizer name nor is it fully qualified',
        ),
      );
  }
  return errors;
}
const standardFinalizers = new Set(['kubernetes', 'orphan', 'foregroundDeletion']);

export function validateLabels(labels: Record<string, string>, field: string): FieldError[] {
  const errors: FieldError[] = [];
  for (const [key, value] of Object.entries(labels)) {
    errors.push(...invalidEach(field, key, qualifiedName(key)));
    errors.push(...invalidEach(field, value, labelValue(value)));
  }
  return errors;
}

export function validateAnnotations(annotations: Record<string, string>, field: string): FieldError[] {
  const errors: FieldError[] = [];
  let bytes = 0;
  for (const [key, value] of Object.entries(annotations)) {
    errors.push(...invalidEach(field, key, qualifiedName(key.toLowerCase())));
    bytes += Buffer.byteLength(key) + Buffer.byteLength(value);
  }
  if (bytes > annotationsLimit) errors.push(tooLong(field, annotationsLimit));
  return errors;
}

function validateOwners(meta: ObjectMeta): FieldError[] {
  const errors: FieldError[] = [];
  let controller = '';
  for (const [i, owner] of (meta.ownerReferences ?? []).entries()) {
    const at = `metadata.ownerReferences[${i}]`;
    if (!owner.apiVersion) errors.push(invalid(`${at}.apiVersion`, '', 'version must not be empty'));
    if (!owner.kind) errors.push(invalid(`${at}.kind`, '', 'must not be empty'));
    if (!owner.name) errors.push(invalid(`${at}.name`, '', 'must not be empty'));
    if (!owner.uid) errors.push(invalid(`${at}.uid`, '', 'must not be empty'));
    if (owner.apiVersion === 'v1' && owner.kind === 'Event')
      errors.push(invalid(at, owner, 'v1, Kind=Event is disallowed from being an owner'));
    if (!owner.controller) continue;
    if (controller)
      errors.push(
        invalid(
          'metadata.ownerReferences',
          meta.ownerReferences,
          `Only one reference can have Controller set to true. Found "true" in references for ${controller} and ${owner.name}`,
        ),
      );
    controller = owner.name;
  }
  return errors;
}

export function validateMetaUpdate(next: KubeObject, old: KubeObject): FieldError[] {
  const errors: FieldError[] = [];
  const { metadata: a } = next;
  const { metadata: b } = old;
  errors.push(...immutable('metadata.name', a.name, b.name));
  errors.push(...immutable('metadata.namespace', a.namespace, b.namespace));
  errors.push(...immutable('metadata.uid', a.uid, b.uid));
  errors.push(...immutable('metadata.creationTimestamp', a.creationTimestamp, b.creationTimestamp));
  errors.push(...immutable('metadata.deletionTimestamp', a.deletionTimestamp, b.deletionTimestamp));
  errors.push(
    ...immutable(
      'metadata.deletionGracePeriodSeconds',
      a.deletionGracePeriodSeconds,
      b.deletionGracePeriodSeconds,
    ),
  );
  if (b.deletionTimestamp) {
    const added = (a.finalizers ?? []).filter((finalizer) => !(b.finalizers ?? []).includes(finalizer));
    if (added.length > 0)
      errors.push(
        forbidden(
          'metadata.finalizers',
          `no new finalizers can be added if the object is being deleted, found new finalizers []string{${added.map((f) => JSON.stringify(f)).join(', ')}}`,
        ),
      );
  }
  if ((a.generation ?? 0) < (b.generation ?? 0))
    errors.push(invalid('metadata.generation', a.generation, 'must not be decremented'));
  // Only what changed is judged again: an object that was once accepted can always be written back.
  const changed: ObjectMeta = { name: a.name };
  if (a.labels && !equalJson(a.labels, b.labels)) changed.labels = a.labels;
  if (a.annotations && !equalJson(a.annotations, b.annotations)) changed.annotations = a.annotations;
  if (a.ownerReferences && !equalJson(a.ownerReferences, b.ownerReferences))
    changed.ownerReferences = a.ownerReferences;
  if (a.finalizers && !equalJson(a.finalizers, b.finalizers)) changed.finalizers = a.finalizers;
  return [...errors, ...validateMetaMembers(changed)];
}

const selectorOperators = ['In', 'NotIn', 'Exists', 'DoesNotExist'];

export function validateLabelSelector(selector: LabelSelector | undefined, field: string): FieldError[] {
  const errors: FieldError[] = [];
  if (!selector) return errors;
  errors.push(...validateLabels(selector.matchLabels ?? {}, `${field}.matchLabels`));
  for (const [i, expression] of (selector.matchExpressions ?? []).entries()) {
    const at = `${field}.matchExpressions[${i}]`;
    const values = expression.values ?? [];
    if (expression.operator === 'In' || expression.operator === 'NotIn') {
      if (values.length === 0)
        errors.push(required(`${at}.values`, "must be specified when `operator` is 'In' or 'NotIn'"));
    } else if (expression.operator === 'Exists' || expression.operator === 'DoesNotExist') {
      if (values.length > 0)
        errors.push(
          forbidden(`${at}.values`, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
        );
    } else
      errors.push(
        expression.operator === undefined
          ? invalid(`${at}.operator`, '', 'not a valid selector operator')
          : notSupported(`${at}.operator`, expression.operator, selectorOperators),
      );
    errors.push(...invalidEach(`${at}.key`, expression.key ?? '', qualifiedName(expression.key ?? '')));
    for (const [j, value] of values.entries())
      errors.push(...invalidEach(`${at}.values[${j}]`, value, labelValue(value)));
  }
  return errors;
}
