/** Field selectors: `spec.nodeName=n1,status.phase!=Failed`, over the fields that each kind offers. */
import type { Event, KubeObject, Namespace, Node, Pod, Service } from '../../model/kubernetes.ts';
import { badRequest } from '../status.ts';

export type FieldMatch = (object: KubeObject) => boolean;
type Getter = (object: KubeObject) => string;

const metadata: Readonly<Record<string, Getter>> = {
  'metadata.name': (o) => o.metadata.name,
  'metadata.namespace': (o) => o.metadata.namespace ?? '',
};

const text = (value: string | undefined | null) => value ?? '';

function eventFields(): Record<string, Getter> {
  const fields: Record<string, Getter> = {
    reason: (o) => text((o as Event).reason),
    type: (o) => text((o as Event).type),
    source: (o) => (o as Event).source?.component || text((o as Event).reportingComponent),
    reportingComponent: (o) => text((o as Event).reportingComponent),
    reportingController: (o) => text((o as Event).reportingComponent),
  };
  for (const name of [
    'kind',
    'namespace',
    'name',
    'uid',
    'apiVersion',
    'resourceVersion',
    'fieldPath',
  ] as const) {
    const get: Getter = (o) => text((o as Event).involvedObject?.[name]);
    fields[`involvedObject.${name}`] = get;
    fields[`regarding.${name}`] = get;
  }
  return fields;
}

/** The labels that the registries of Kubernetes index: pkg/registry/core/<kind>/strategy.go, SelectableFields. */
const byKind: Readonly<Record<string, Readonly<Record<string, Getter>>>> = {
  Pod: {
    'spec.nodeName': (o) => text((o as Pod).spec.nodeName),
    'spec.restartPolicy': (o) => text((o as Pod).spec.restartPolicy),
    'spec.schedulerName': (o) => text((o as Pod).spec.schedulerName),
    'spec.serviceAccountName': (o) => text((o as Pod).spec.serviceAccountName),
    'spec.hostNetwork': (o) => String((o as Pod).spec.hostNetwork ?? false),
    'status.phase': (o) => text((o as Pod).status?.phase),
    'status.podIP': (o) => text((o as Pod).status?.podIP ?? (o as Pod).status?.podIPs?.[0]?.ip),
    'status.nominatedNodeName': (o) =>
      text(((o as Pod).status as { nominatedNodeName?: string } | undefined)?.nominatedNodeName),
  },
  Node: { 'spec.unschedulable': (o) => String((o as Node).spec?.unschedulable ?? false) },
  Namespace: { 'status.phase': (o) => text((o as Namespace).status?.phase), name: (o) => o.metadata.name },
  Service: {
    'spec.clusterIP': (o) => text((o as Service).spec.clusterIP),
    'spec.type': (o) => text((o as Service).spec.type),
  },
  Event: eventFields(),
};

interface Term {
  readonly field: string;
  readonly equal: boolean;
  readonly value: string;
}

/** @throws API_BAD_REQUEST */
export function parseFieldSelector(selector: string): Term[] {
  const terms: Term[] = [];
  // A backslash protects `,`, `=` and itself: apimachinery/pkg/fields/selector.go.
  for (const part of selector.match(/(?:\\.|[^,\\])+/g) ?? []) {
    const match = /^((?:\\.|[^=!\\])+)(==|!=|=)((?:\\.|[^=\\])*)$/.exec(part.trim());
    if (!match) throw badRequest(`invalid selector: '${part}'; can't understand '${part}'`);
    const [, field, operator, raw] = match as unknown as [string, string, string, string];
    terms.push({ field: field.trim(), equal: operator !== '!=', value: raw.replace(/\\(.)/g, '$1') });
  }
  return terms;
}

export interface FieldSelector {
  readonly matches: FieldMatch;
  /** Set when the selector demands one name: such a read is a look-up. */
  readonly name?: string;
}

const knownFields = (kind: string) =>
  [...Object.keys(metadata), ...Object.keys(byKind[kind] ?? {})].map((name) => `"${name}"`).join(', ');

/** The predicate of a `fieldSelector` parameter for stored objects of `kind`; undefined when it selects everything. */
export function fieldMatch(kind: string, selector: string | null): FieldSelector | undefined {
  if (selector === null || selector.trim() === '') return undefined;
  const terms = parseFieldSelector(selector).map(({ field, equal, value }) => {
    const get = metadata[field] ?? byKind[kind]?.[field];
    if (!get) throw badRequest(`"${field}" is not a known field selector: only ${knownFields(kind)}`);
    return { field, equal, value, get };
  });
  const name = terms.find((term) => term.field === 'metadata.name' && term.equal)?.value;
  return {
    matches: (object) => terms.every(({ get, equal, value }) => (get(object) === value) === equal),
    ...(name !== undefined && { name }),
  };
}
