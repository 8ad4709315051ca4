/** The requests that each kind answers, independent of the OpenAPI version that tells of them. */
import { groupVersionOf, type KindSchema } from '../schema/kinds.ts';
import { binding } from '../schema/types/core.ts';
import type { StructType } from '../schema/types/field.ts';
import { deleteOptions, status } from '../schema/types/meta.ts';
import { type GroupVersionKind, gvkOf, listTypeOf } from './definitions.ts';

export interface Parameter {
  readonly name: string;
  readonly in: 'query' | 'path';
  readonly type: 'string' | 'boolean' | 'integer';
  readonly description: string;
  readonly required?: true;
}

export interface Operation {
  readonly path: string;
  readonly method: 'get' | 'put' | 'post' | 'delete' | 'patch';
  readonly id: string;
  readonly description: string;
  /** x-kubernetes-action. */
  readonly action: string;
  readonly gvk: GroupVersionKind;
  readonly tag: string;
  readonly parameters: readonly Parameter[];
  readonly consumes: readonly string[];
  readonly body: StructType | 'patch' | undefined;
  readonly bodyRequired: boolean;
  /** Schema of the answers, by HTTP status code. */
  readonly answers: Readonly<Record<string, StructType>>;
}

const query = (name: string, type: Parameter['type'], description: string): Parameter => ({
  name,
  in: 'query',
  type,
  description,
});
const inPath = (name: string, description: string): Parameter => ({
  name,
  in: 'path',
  type: 'string',
  description,
  required: true,
});

const pretty = query('pretty', 'string', 'True indents the answer.');
const dryRun = query('dryRun', 'string', '"All" checks the request without storing anything.');
const fieldManager = query(
  'fieldManager',
  'string',
  'Name under which the fields that this request sets are tracked.',
);
const fieldValidation = query(
  'fieldValidation',
  'string',
  'What to do with unknown or double fields: Ignore, Warn (the default) or Strict.',
);
const force = query('force', 'boolean', 'Take over fields that other managers own; for apply patches.');
const writing = [pretty, dryRun, fieldManager, fieldValidation];
const listing = [
  pretty,
  query('allowWatchBookmarks', 'boolean', 'Send bookmarks, which tell the version that a watch has reached.'),
  query('continue', 'string', 'Token of the next page, from the page before.'),
  query('fieldSelector', 'string', 'Select by fields.'),
  query('labelSelector', 'string', 'Select by labels.'),
  query('limit', 'integer', 'Objects in one page at most.'),
  query('resourceVersion', 'string', 'Version to list at, or to watch from.'),
  query('resourceVersionMatch', 'string', 'How resourceVersion is meant: Exact or NotOlderThan.'),
  query('sendInitialEvents', 'boolean', 'Begin a watch with all objects.'),
  query('timeoutSeconds', 'integer', 'End the request after this many seconds.'),
  query('watch', 'boolean', 'Stream changes instead of listing.'),
];
const deleting = [
  pretty,
  dryRun,
  query('gracePeriodSeconds', 'integer', 'Seconds until the object must be gone; 0 is at once.'),
  query('orphanDependents', 'boolean', 'Older form of propagationPolicy Orphan.'),
  query('propagationPolicy', 'string', 'Orphan, Background or Foreground.'),
];

const anyBody = ['*/*'];
export const patchTypes = [
  'application/json-patch+json',
  'application/merge-patch+json',
  'application/strategic-merge-patch+json',
  'application/apply-patch+yaml',
];

/** `/api/v1` or `/apis/discovery.k8s.io/v1`. */
export function apiPrefix(schema: { group: string; version: string }): string {
  return schema.group === '' ? `/api/${schema.version}` : `/apis/${groupVersionOf(schema)}`;
}

/** All operations of one kind. */
export function operationsOf(schema: KindSchema): Operation[] {
  const { kind, plural, namespaced, type } = schema;
  const prefix = apiPrefix(schema);
  const scope = namespaced ? [inPath('namespace', 'Namespace of the object.')] : [];
  const collection = namespaced ? `${prefix}/namespaces/{namespace}/${plural}` : `${prefix}/${plural}`;
  const item = `${collection}/{name}`;
  const name = inPath('name', `Name of the ${kind}.`);
  const groupWord = (schema.group || 'core').replace(/\.k8s\.io$/, '');
  const word = (text: string) => text.charAt(0).toUpperCase() + text.slice(1);
  const suffix = `${word(groupWord)}${word(schema.version)}${namespaced ? 'Namespaced' : ''}${kind}`;
  const list = listTypeOf(schema);
  const base = {
    gvk: gvkOf(schema),
    tag: `${groupWord}_${schema.version}`,
    consumes: anyBody,
    body: undefined,
    bodyRequired: true,
  };
  const itemOperations = (path: string, part: string, what: string): Operation[] => [
    {
      ...base,
      path,
      method: 'get',
      id: `read${suffix}${part}`,
      description: `Read ${what}.`,
      action: 'get',
      parameters: [...scope, name, pretty],
      answers: { 200: type },
    },
    {
      ...base,
      path,
      method: 'put',
      id: `replace${suffix}${part}`,
      description: `Replace ${what}.`,
      action: 'put',
      parameters: [...scope, name, ...writing],
      body: type,
      answers: { 200: type, 201: type },
    },
    {
      ...base,
      path,
      method: 'patch',
      id: `patch${suffix}${part}`,
      description: `Change ${what} in part.`,
      action: 'patch',
      parameters: [...scope, name, ...writing, force],
      consumes: patchTypes,
      body: 'patch',
      answers: { 200: type, 201: type },
    },
  ];
  const operations: Operation[] = [
    {
      ...base,
      path: collection,
      method: 'get',
      id: `list${suffix}`,
      description: `List or watch objects of kind ${kind}.`,
      action: 'list',
      parameters: [...scope, ...listing],
      answers: { 200: list },
    },
    {
      ...base,
      path: collection,
      method: 'post',
      id: `create${suffix}`,
      description: `Create a ${kind}.`,
      action: 'post',
      parameters: [...scope, ...writing],
      body: type,
      answers: { 200: type, 201: type, 202: type },
    },
    {
      ...base,
      path: collection,
      method: 'delete',
      id: `deleteCollection${suffix}`,
      description: `Delete objects of kind ${kind}.`,
      action: 'deletecollection',
      parameters: [...scope, ...listing.slice(0, -1), ...deleting.slice(1)],
      body: deleteOptions,
      bodyRequired: false,
      answers: { 200: status },
    },
    ...itemOperations(item, '', `the ${kind}`),
    {
      ...base,
      path: item,
      method: 'delete',
      id: `delete${suffix}`,
      description: `Delete a ${kind}.`,
      action: 'delete',
      parameters: [...scope, name, ...deleting],
      body: deleteOptions,
      bodyRequired: false,
      answers: { 200: status, 202: status },
    },
  ];
  if (schema.hasStatus)
    operations.push(...itemOperations(`${item}/status`, 'Status', `the status of the ${kind}`));
  if (namespaced)
    operations.push({
      ...base,
      path: `${prefix}/${plural}`,
      method: 'get',
      id: `list${suffix.replace('Namespaced', '')}ForAllNamespaces`,
      description: `List or watch objects of kind ${kind} in all namespaces.`,
      action: 'list',
      parameters: listing,
      answers: { 200: list },
    });
  if (kind === 'Pod')
    operations.push({
      ...base,
      gvk: { group: '', version: 'v1', kind: 'Binding' },
      path: `${item}/binding`,
      method: 'post',
      id: `create${suffix}Binding`,
      description: 'Assign the pod to a node.',
      action: 'post',
      parameters: [...scope, name, ...writing],
      body: binding,
      answers: { 200: binding, 201: binding, 202: binding },
    });
  return operations;
}
