/** The kinds' tables as JSON schemas, for both OpenAPI versions. */
import { documentedVersions } from '../schema/absent-kinds.ts';
import type { KindSchema } from '../schema/kinds.ts';
import { binding } from '../schema/types/core.ts';
import {
  type Field,
  type FieldType,
  resolve,
  type ScalarName,
  type StructType,
} from '../schema/types/field.ts';
import { deleteOptions, listOf, status, watchEvent } from '../schema/types/meta.ts';

export type Json = Record<string, unknown>;

/** Which document the schemas are for; version 3 cannot put a description beside a reference. */
export interface Dialect {
  readonly version: 2 | 3;
  /** `#/definitions/` or `#/components/schemas/`. */
  readonly prefix: string;
}

export interface GroupVersionKind {
  readonly group: string;
  readonly version: string;
  readonly kind: string;
}
export const gvkExtension = 'x-kubernetes-group-version-kind';

export function gvkOf({ group, version, kind }: GroupVersionKind): GroupVersionKind {
  return { group, version, kind };
}

/** A schema of the document with the tables that it is made from. */
export interface Root {
  readonly type: StructType;
  readonly gvks: readonly GroupVersionKind[];
}

/** `io.k8s.api.core.v1.Pod`. */
export function modelName(type: StructType): string {
  return type.name.startsWith('meta.')
    ? `io.k8s.apimachinery.pkg.apis.${type.name}`
    : `io.k8s.api.${type.name}`;
}

const quantityName = 'io.k8s.apimachinery.pkg.api.resource.Quantity';
const intOrStringName = 'io.k8s.apimachinery.pkg.util.intstr.IntOrString';
const timeName = 'io.k8s.apimachinery.pkg.apis.meta.v1.Time';
const microTimeName = 'io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime';
const rawName = 'io.k8s.apimachinery.pkg.runtime.RawExtension';

const named: Readonly<Partial<Record<ScalarName, string>>> = {
  quantity: quantityName,
  intOrString: intOrStringName,
  time: timeName,
  microTime: microTimeName,
  raw: rawName,
};
const inline: Readonly<Partial<Record<ScalarName, Json>>> = {
  string: { type: 'string' },
  boolean: { type: 'boolean' },
  int32: { type: 'integer', format: 'int32' },
  int64: { type: 'integer', format: 'int64' },
  bytes: { type: 'string', format: 'byte' },
};

function namedDefinitions({ version }: Dialect): Json {
  return {
    [quantityName]: {
      description: 'A number with a unit, e.g. 500m, 1.5 or 2Gi.',
      ...(version === 2 ? { type: 'string' } : { oneOf: [{ type: 'string' }, { type: 'number' }] }),
    },
    [intOrStringName]: {
      description: 'A number or a string.',
      format: 'int-or-string',
      ...(version === 2 ? { type: 'string' } : { oneOf: [{ type: 'integer' }, { type: 'string' }] }),
    },
    [timeName]: { description: 'A time, RFC 3339.', format: 'date-time', type: 'string' },
    [microTimeName]: {
      description: 'A time with microseconds, RFC 3339.',
      format: 'date-time',
      type: 'string',
    },
    [rawName]: { description: 'Any object.', type: 'object' },
  };
}

/** What every document needs whatever its kinds. */
const common: readonly Root[] = [
  { type: deleteOptions, gvks: [] },
  { type: status, gvks: [{ group: '', version: 'v1', kind: 'Status' }] },
  { type: watchEvent, gvks: [] },
];

/** The kinds of one group and version, or of all, with their lists. */
export function rootsOf(served: readonly KindSchema[]): Root[] {
  const versions = documentedVersions.map((groupVersion) => {
    const [version = '', group = ''] = groupVersion.split('/').reverse();
    return { group, version };
  });
  const roots: Root[] = common.map((root) =>
    root.gvks.length > 0
      ? root
      : { ...root, gvks: versions.map((v) => ({ ...v, kind: root.type.name.split('.').at(-1)! })) },
  );
  // A kind that is served in two versions of one form has one schema with both names.
  for (const [type, same] of Map.groupBy(served, (kind) => kind.type)) {
    roots.push({ type, gvks: same.map(gvkOf) });
    roots.push({
      type: listTypeOf(same[0]!),
      gvks: same.map((kind) => ({ ...gvkOf(kind), kind: `${kind.kind}List` })),
    });
  }
  if (served.some((kind) => kind.kind === 'Pod'))
    roots.push({ type: binding, gvks: [{ group: '', version: 'v1', kind: 'Binding' }] });
  return roots;
}

const lists = new Map<string, StructType>();

/** The list of a kind, the same value at each call. */
export function listTypeOf(kind: KindSchema): StructType {
  const known = lists.get(kind.type.name);
  if (known) return known;
  const made = listOf(kind.type);
  lists.set(kind.type.name, made);
  return made;
}

/** Schemas by model name: the roots and everything they refer to. */
export function definitions(roots: readonly Root[], dialect: Dialect): Json {
  const found: Json = namedDefinitions(dialect);
  const visit = (type: StructType, gvks: readonly GroupVersionKind[]) => {
    const name = modelName(type);
    if (found[name]) return;
    found[name] = {};
    found[name] = structSchema(type, gvks, dialect, (inner) => visit(inner, []));
  };
  for (const root of roots) visit(root.type, root.gvks);
  return Object.fromEntries(Object.entries(found).sort(([a], [b]) => (a < b ? -1 : 1)));
}

type Visit = (type: StructType) => void;

function structSchema(
  type: StructType,
  gvks: readonly GroupVersionKind[],
  dialect: Dialect,
  visit: Visit,
): Json {
  const properties: Json = {};
  const required: string[] = [];
  for (const [name, field] of [...type.fields].sort(([a], [b]) => (a < b ? -1 : 1))) {
    properties[name] = fieldSchema(field, dialect, visit);
    if (field.required) required.push(name);
  }
  return {
    description: type.doc,
    type: 'object',
    ...(type.fields.size > 0 && { properties }),
    ...(required.length > 0 && { required }),
    ...(type.atomic && { 'x-kubernetes-map-type': 'atomic' }),
    ...(gvks.length > 0 && { [gvkExtension]: gvks }),
  };
}

function fieldSchema(field: Field, dialect: Dialect, visit: Visit): Json {
  const type = resolve(field.type);
  const schema = typeSchema(type, dialect, visit);
  const extra: Json = {
    description: field.doc,
    ...(field.default !== undefined && { default: field.default }),
    ...(type.is === 'list' && { 'x-kubernetes-list-type': type.listType }),
    ...(type.is === 'list' && type.keys.length > 0 && { 'x-kubernetes-list-map-keys': type.keys }),
    ...(type.is === 'map' && type.atomic && { 'x-kubernetes-map-type': 'atomic' }),
    ...(field.patchMergeKey !== undefined && { 'x-kubernetes-patch-merge-key': field.patchMergeKey }),
    ...(field.patchStrategy !== undefined && { 'x-kubernetes-patch-strategy': field.patchStrategy }),
  };
  if ('$ref' in schema && dialect.version === 3) return { allOf: [schema], ...extra };
  return { ...schema, ...extra };
}

function typeSchema(type: FieldType, dialect: Dialect, visit: Visit): Json {
  switch (type.is) {
    case 'scalar': {
      const name = named[type.scalar];
      return name ? { $ref: dialect.prefix + name } : { ...inline[type.scalar] };
    }
    case 'struct':
      visit(type);
      return { $ref: dialect.prefix + modelName(type) };
    case 'list':
      return { type: 'array', items: typeSchema(resolve(type.of), dialect, visit) };
    case 'map':
      return { type: 'object', additionalProperties: typeSchema(resolve(type.of), dialect, visit) };
  }
}
