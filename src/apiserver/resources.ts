/** The served resources: each kind with its place in the store and what the server itself does with it. */
import type { KubeObject } from '../model/kubernetes.ts';
import { absentKinds, groupVersionOf, type KindSchema, kinds } from './schema/index.ts';

export interface Resource {
  readonly schema: KindSchema;
  /** The kind under which objects are stored; differs for views such as events.k8s.io/v1 Event. */
  readonly stored: KindSchema;
  /** First part of the keys in the store. */
  readonly collection: string;
  readonly verbs: readonly string[];
  readonly subresources: readonly Subresource[];
}

export interface Subresource {
  readonly name: string;
  /** Kind of the body; another group than the resource's where given. */
  readonly kind: string;
  readonly group?: string;
  readonly version?: string;
  readonly verbs: readonly string[];
}

const ALL_VERBS = ['create', 'delete', 'deletecollection', 'get', 'list', 'patch', 'update', 'watch'];
const READ_VERBS = ['get', 'list', 'watch'];

const extraSubresources: Readonly<Record<string, readonly Subresource[]>> = {
  Pod: [
    { name: 'binding', kind: 'Binding', verbs: ['create'] },
    { name: 'eviction', kind: 'Eviction', group: 'policy', version: 'v1', verbs: ['create'] },
    { name: 'log', kind: 'Pod', verbs: ['get'] },
    { name: 'exec', kind: 'PodExecOptions', verbs: ['create', 'get'] },
    { name: 'attach', kind: 'PodAttachOptions', verbs: ['create', 'get'] },
    { name: 'portforward', kind: 'PodPortForwardOptions', verbs: ['create', 'get'] },
  ],
  Namespace: [{ name: 'finalize', kind: 'Namespace', verbs: ['update'] }],
};

function resourceOf(schema: KindSchema): Resource {
  const stored = schema.viewOf
    ? kinds.find(
        (k) => k.kind === schema.viewOf!.kind && groupVersionOf(k) === groupVersionOf(schema.viewOf!),
      )!
    : schema;
  const status: Subresource[] = schema.hasStatus
    ? [{ name: 'status', kind: schema.kind, verbs: ['get', 'patch', 'update'] }]
    : [];
  return {
    schema,
    stored,
    collection: stored.group === '' ? stored.plural : `${stored.plural}.${stored.group}`,
    verbs: schema.absent !== undefined ? READ_VERBS : ALL_VERBS,
    subresources: [...status, ...(extraSubresources[schema.kind] ?? [])].sort((a, b) =>
      a.name < b.name ? -1 : 1,
    ),
  };
}

export const resources: readonly Resource[] = kinds.map(resourceOf);

/** Known and always empty: never owners, never stored, so in no other list. */
export const absentResources: readonly Resource[] = absentKinds.map(resourceOf);

const byPath = new Map(
  [...resources, ...absentResources].map((r) => [`${groupVersionOf(r.schema)}/${r.schema.plural}`, r]),
);
const byKind = new Map(resources.map((r) => [`${groupVersionOf(r.schema)}/${r.schema.kind}`, r]));

/** `apiVersion` as `v1` or `discovery.k8s.io/v1`. */
export const findResource = (apiVersion: string, plural: string) => byPath.get(`${apiVersion}/${plural}`);
export const findResourceByKind = (apiVersion: string, kind: string) => byKind.get(`${apiVersion}/${kind}`);

/** The resource of a kind that is certainly served. */
export function resourceOfKind(kind: string): Resource {
  const found = resources.find((r) => r.schema.kind === kind && !r.schema.viewOf);
  if (!found) throw new Error(`kind ${kind} is not served`);
  return found;
}

/** Resources that hold objects of their own, which no view does. */
export const storedResources = resources.filter((r) => !r.schema.viewOf);

/** `services/default/web` or `nodes/n1`. */
export function keyOf(resource: Resource, namespace: string | undefined, name: string): string {
  return resource.schema.namespaced
    ? `${resource.collection}/${namespace}/${name}`
    : `${resource.collection}/${name}`;
}

/** Prefix of the keys of a whole collection, or of one namespace of it. */
export function prefixOf(resource: Resource, namespace: string | undefined): string {
  return resource.schema.namespaced && namespace !== undefined
    ? `${resource.collection}/${namespace}/`
    : `${resource.collection}/`;
}

export const keyOfObject = (resource: Resource, object: KubeObject) =>
  keyOf(resource, object.metadata.namespace, object.metadata.name);
