/**
 * Which endpoints a new connection may get. Two sets, decided apart from each other:
 *
 *     cluster  ready endpoints, narrowed by topology hints;   none: those that terminate but still serve
 *     local    ready endpoints of this node, hints ignored;   none: those of this node that terminate but serve
 *
 * Source: kubernetes/kubernetes pkg/proxy/topology.go (CategorizeEndpoints).
 */
import { keptBackend } from './kept.ts';
import type { BackendPlan, EndpointFacts, EndpointSet, NodeContext, SliceFacts } from './types.ts';

type Endpoint = { readonly endpoint: EndpointFacts; readonly port: number };

/** Which of the two sets somebody asks for; a set that nobody needs is not computed. */
export interface Wanted {
  readonly cluster: boolean;
  readonly local: boolean;
}

export interface EndpointSets {
  readonly backends: readonly BackendPlan[];
  readonly cluster: EndpointSet;
  readonly local: EndpointSet;
  /** False when nobody anywhere can serve: new connections are refused then, else they are dropped. */
  readonly any: boolean;
}

export const EMPTY_SET: EndpointSet = { members: [], source: 'none', topology: 'any' };

/**
 * Endpoints of one Service port, from all its slices, sorted by address and port. During a roll-over one endpoint
 * may stand in two slices: the copy in the better state counts.
 */
export function mergeEndpoints(
  slices: Iterable<SliceFacts>,
  port: { name: string; protocol: string },
  family: number,
): Endpoint[] {
  const merged: Endpoint[] = [];
  let sliceCount = 0;
  for (const slice of slices) {
    if (slice.family !== family) continue;
    for (const slicePort of slice.ports) {
      if (slicePort.name !== port.name || slicePort.protocol !== port.protocol) continue;
      sliceCount++;
      for (const endpoint of slice.endpoints) merged.push({ endpoint, port: slicePort.port });
    }
  }
  merged.sort(byAddress);
  if (merged.length < 2 || (sliceCount === 1 && !hasNeighbours(merged))) return merged;
  const unique: Endpoint[] = [];
  for (const one of merged) {
    const last = unique.at(-1);
    if (last && last.port === one.port && last.endpoint.address === one.endpoint.address) {
      if (standing(one.endpoint) > standing(last.endpoint)) unique[unique.length - 1] = one;
    } else unique.push(one);
  }
  return unique;
}

function hasNeighbours(sorted: readonly Endpoint[]): boolean {
  for (let at = 1; at < sorted.length; at++) if (byAddress(sorted[at - 1]!, sorted[at]!) === 0) return true;
  return false;
}

function byAddress(a: Endpoint, b: Endpoint): number {
  const left = a.endpoint.address;
  const right = b.endpoint.address;
  return left < right ? -1 : left > right ? 1 : a.port - b.port;
}

function standing(endpoint: EndpointFacts): number {
  return endpoint.ready ? 2 : endpoint.serving ? 1 : 0;
}

/** The two sets and everything that must stay known: members, and endpoints that still serve old flows. */
export function chooseEndpoints(
  endpoints: readonly Endpoint[],
  wanted: Wanted,
  node: NodeContext,
  weights?: ReadonlyMap<string, number>,
): EndpointSets {
  const topology = wanted.cluster ? topologyOf(endpoints, node) : 'any';
  const isLocal = (e: EndpointFacts) => e.nodeName === node.nodeName && e.nodeName !== '';
  const leaving = (e: EndpointFacts) => e.serving && e.terminating;
  const fits = (e: EndpointFacts) =>
    topology === 'any' ||
    (topology === 'node' ? e.forNodes.includes(node.nodeName) : e.forZones.includes(node.zone!));
  const cluster = wanted.cluster ? pick(endpoints, (e) => e.ready && fits(e), leaving) : nobody;
  const local = wanted.local
    ? pick(
        endpoints,
        (e) => e.ready && isLocal(e),
        (e) => leaving(e) && isLocal(e),
      )
    : nobody;

  const backends: BackendPlan[] = [];
  const clusterMembers: number[] = [];
  const localMembers: number[] = [];
  let any = false;
  for (const { endpoint, port } of endpoints) {
    const inCluster = cluster.chosen(endpoint);
    const inLocal = local.chosen(endpoint);
    const weight = weights?.get(endpoint.address) ?? weights?.get(endpoint.nodeName) ?? 1;
    any ||= weight > 0 && (endpoint.ready || leaving(endpoint));
    if (!inCluster && !inLocal && !endpoint.serving && !endpoint.ready) continue;
    if (inCluster && weight > 0) clusterMembers.push(backends.length);
    if (inLocal && weight > 0) localMembers.push(backends.length);
    backends.push(keptBackend(endpoint, { port, weight, inCluster, inLocal }));
  }
  const members = (chosen: number[]) =>
    chosen.length === backends.length ? all(chosen.length) : chosen.slice();
  return {
    // As long as needed, not as long as it grew: ten thousand of them are kept.
    backends: backends.slice(),
    cluster:
      clusterMembers.length === 0
        ? EMPTY_SET
        : keptSet({ members: members(clusterMembers), source: cluster.source, topology }),
    local:
      localMembers.length === 0
        ? EMPTY_SET
        : keptSet({ members: members(localMembers), source: local.source, topology: 'any' }),
    any,
  };
}

/** 0 to count - 1, by count: most sets have all backends, and most have few. */
const alls: (readonly number[])[] = [];

function all(count: number): readonly number[] {
  const numbers = alls[count] ?? Array.from({ length: count }, (_, at) => at);
  if (count < 256) alls[count] = numbers;
  return numbers;
}

/** Sets of all backends are alike where their numbers are: one for many. */
const sets = new Map<readonly number[], EndpointSet[]>();

function keptSet(set: EndpointSet): EndpointSet {
  const { members, source, topology } = set;
  if (alls[members.length] !== members) return set;
  const same = sets.get(members) ?? [];
  const found = same.find((one) => one.source === source && one.topology === topology);
  if (found) return found;
  sets.set(members, [...same, set]);
  return set;
}

interface Picked {
  readonly source: EndpointSet['source'];
  readonly chosen: (endpoint: EndpointFacts) => boolean;
}

const nobody: Picked = { source: 'none', chosen: () => false };

function pick(
  endpoints: readonly Endpoint[],
  first: (endpoint: EndpointFacts) => boolean,
  fallback: (endpoint: EndpointFacts) => boolean,
): Picked {
  if (endpoints.some(({ endpoint }) => first(endpoint))) return { source: 'ready', chosen: first };
  if (endpoints.some(({ endpoint }) => fallback(endpoint)))
    return { source: 'terminating', chosen: fallback };
  return nobody;
}

/** Hints count only when every ready endpoint has one and some endpoint is meant for this node (or its zone). */
function topologyOf(endpoints: readonly Endpoint[], node: NodeContext): EndpointSet['topology'] {
  let ready = 0;
  let nodeHints = 0;
  let zoneHints = 0;
  let thisNode = false;
  let thisZone = false;
  for (const { endpoint } of endpoints) {
    if (!endpoint.ready) continue;
    ready++;
    if (endpoint.forNodes.length > 0) nodeHints++;
    if (endpoint.forZones.length > 0) zoneHints++;
    thisNode ||= endpoint.forNodes.includes(node.nodeName);
    thisZone ||= node.zone !== undefined && endpoint.forZones.includes(node.zone);
  }
  if (ready === 0) return 'any';
  if (nodeHints === ready && thisNode) return 'node';
  if (zoneHints === ready && thisZone) return 'zone';
  return 'any';
}
