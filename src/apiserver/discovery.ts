/** What clients ask first: which groups, versions and resources there are, in the old and in the aggregated form. */

import { type ApiResponse, jsonResponse } from './http/response.ts';
import { absentResources, type Resource, resources } from './resources.ts';
import { parseAccept } from './rest/formats.ts';
import { groupVersionOf } from './schema/index.ts';

/** The Kubernetes version whose API this is; clients compare it with their own. */
export const VERSION = {
  major: '1',
  minor: '32',
  gitVersion: 'v1.32.0+portolan',
  gitCommit: '',
  gitTreeState: 'clean',
  buildDate: '2024-12-11T00:00:00Z',
  goVersion: '',
  compiler: 'node',
  platform: `linux/${process.arch === 'x64' ? 'amd64' : process.arch}`,
};

/** Resources that are questions: created, answered, not stored. */
export interface ReviewResource {
  readonly group: string;
  readonly version: string;
  readonly plural: string;
  readonly kind: string;
}

export const reviews: readonly ReviewResource[] = [
  { group: 'authentication.k8s.io', version: 'v1', plural: 'selfsubjectreviews', kind: 'SelfSubjectReview' },
  {
    group: 'authorization.k8s.io',
    version: 'v1',
    plural: 'selfsubjectaccessreviews',
    kind: 'SelfSubjectAccessReview',
  },
  {
    group: 'authorization.k8s.io',
    version: 'v1',
    plural: 'selfsubjectrulesreviews',
    kind: 'SelfSubjectRulesReview',
  },
];

interface ResourceEntry {
  readonly name: string;
  readonly singularName: string;
  readonly namespaced: boolean;
  readonly kind: string;
  readonly group?: string;
  readonly version?: string;
  readonly verbs: readonly string[];
  readonly shortNames?: readonly string[];
  readonly categories?: readonly string[];
}

const byGroupVersion = new Map<string, Resource[]>();
const shown = [...resources, ...absentResources];
for (const resource of shown) {
  const groupVersion = groupVersionOf(resource.schema);
  byGroupVersion.set(groupVersion, [...(byGroupVersion.get(groupVersion) ?? []), resource]);
}

/** Groups other than core with their versions, the preferred one first. */
const groups = new Map<string, string[]>();
for (const { group, version } of [...shown.map(({ schema }) => schema), ...reviews]) {
  const versions = groups.get(group) ?? [];
  if (group !== '' && !versions.includes(version)) groups.set(group, [...versions, version]);
}
/** Clients take the first group that has a name they were given: `extensions` is the old place of what moved. */
const groupNames = [...groups.keys()].sort(
  (a, b) => Number(a === 'extensions') - Number(b === 'extensions') || (a < b ? -1 : 1),
);

function entriesOf(apiVersion: string): ResourceEntry[] {
  const entries: ResourceEntry[] = [];
  for (const { schema, verbs, subresources } of byGroupVersion.get(apiVersion) ?? []) {
    const { plural, singular, namespaced, kind, shortNames, categories } = schema;
    entries.push({
      name: plural,
      singularName: singular,
      namespaced,
      kind,
      verbs,
      ...(shortNames.length > 0 && { shortNames }),
      ...(categories.length > 0 && { categories }),
    });
    for (const sub of subresources)
      entries.push({
        name: `${plural}/${sub.name}`,
        singularName: '',
        namespaced,
        kind: sub.kind,
        verbs: sub.verbs,
        ...(sub.group !== undefined && { group: sub.group, version: sub.version ?? 'v1' }),
      });
  }
  for (const review of reviews)
    if (groupVersionOf(review) === apiVersion)
      entries.push({
        name: review.plural,
        singularName: review.kind.toLowerCase(),
        namespaced: false,
        kind: review.kind,
        verbs: ['create'],
      });
  return entries.sort((a, b) => (a.name < b.name ? -1 : 1));
}

function resourceList(groupVersion: string): unknown {
  return { kind: 'APIResourceList', apiVersion: 'v1', groupVersion, resources: entriesOf(groupVersion) };
}

function apiGroup(name: string) {
  const versions = groups.get(name)!.map((version) => ({ groupVersion: `${name}/${version}`, version }));
  return { name, versions, preferredVersion: versions[0] };
}

/** One group in the aggregated form (apidiscovery.k8s.io). */
function aggregatedGroup(name: string): unknown {
  const versions = name === '' ? ['v1'] : groups.get(name)!;
  return {
    metadata: name === '' ? { creationTimestamp: null } : { name, creationTimestamp: null },
    versions: versions.map((version) => aggregatedVersionOf(name, version)),
  };
}

function aggregatedVersionOf(name: string, version: string): unknown {
  const kindOf = (entry: ResourceEntry) => ({
    group: entry.group ?? name,
    version: entry.version ?? version,
    kind: entry.kind,
  });
  const entries = entriesOf(groupVersionOf({ group: name, version }));
  const main = entries.filter((entry) => !entry.name.includes('/'));
  return {
    version,
    freshness: 'Current',
    resources: main.map((entry) => {
      const subs = entries.filter((sub) => sub.name.startsWith(`${entry.name}/`));
      return {
        resource: entry.name,
        responseKind: kindOf(entry),
        scope: entry.namespaced ? 'Namespaced' : 'Cluster',
        singularResource: entry.singularName,
        verbs: entry.verbs,
        ...(entry.shortNames && { shortNames: entry.shortNames }),
        ...(entry.categories && { categories: entry.categories }),
        ...(subs.length > 0 && {
          subresources: subs.map((sub) => ({
            subresource: sub.name.slice(entry.name.length + 1),
            responseKind: kindOf(sub),
            verbs: sub.verbs,
          })),
        }),
      };
    }),
  };
}

/** The version of the aggregated form that a client prefers to the old one, if any. */
function aggregatedVersion(accept: string | undefined): string | undefined {
  for (const { type, parameters } of parseAccept(accept)) {
    if (type !== 'application/json') continue;
    if (parameters['as'] === undefined) return undefined;
    const version = parameters['v'];
    if (
      parameters['as'] === 'APIGroupDiscoveryList' &&
      parameters['g'] === 'apidiscovery.k8s.io' &&
      (version === 'v2' || version === 'v2beta1')
    )
      return version;
  }
  return undefined;
}

function aggregatedResponse(version: string, names: readonly string[]): ApiResponse {
  const list = {
    kind: 'APIGroupDiscoveryList',
    apiVersion: `apidiscovery.k8s.io/${version}`,
    metadata: {},
    items: names.map(aggregatedGroup),
  };
  const type = `application/json;g=apidiscovery.k8s.io;v=${version};as=APIGroupDiscoveryList`;
  return jsonResponse(200, list, { 'content-type': type, vary: 'Accept' });
}

/** The answer for a discovery path; undefined for every other path. */
export function discoveryResponse(
  path: string,
  accept: string | undefined,
  address: string,
): ApiResponse | undefined {
  const trimmed = path.replace(/\/+$/, '');
  const aggregated = aggregatedVersion(accept);
  if (trimmed === '/api') {
    if (aggregated) return aggregatedResponse(aggregated, ['']);
    const serverAddressByClientCIDRs = [{ clientCIDR: '0.0.0.0/0', serverAddress: address }];
    return jsonResponse(200, { kind: 'APIVersions', versions: ['v1'], serverAddressByClientCIDRs });
  }
  if (trimmed === '/apis') {
    if (aggregated) return aggregatedResponse(aggregated, groupNames);
    return jsonResponse(200, { kind: 'APIGroupList', apiVersion: 'v1', groups: groupNames.map(apiGroup) });
  }
  if (trimmed === '/api/v1') return jsonResponse(200, resourceList('v1'));
  const [root, group, version, ...more] = trimmed.slice(1).split('/');
  if (root !== 'apis' || group === undefined || more.length > 0 || !groups.has(group)) return undefined;
  if (version === undefined)
    return jsonResponse(200, { kind: 'APIGroup', apiVersion: 'v1', ...apiGroup(group) });
  return groups.get(group)!.includes(version)
    ? jsonResponse(200, resourceList(`${group}/${version}`))
    : undefined;
}

/** `GET /`: the paths that exist. */
export function rootPaths(): string[] {
  return [
    '/api',
    '/api/v1',
    '/apis',
    ...groupNames.flatMap((name) => [
      `/apis/${name}`,
      ...groups.get(name)!.map((version) => `/apis/${name}/${version}`),
    ]),
    '/healthz',
    '/livez',
    '/openapi/v2',
    '/openapi/v3',
    '/readyz',
    '/version',
  ];
}
