/**
 * Hints of `service.kubernetes.io/topology-mode: Auto`: each zone gets endpoints by its share of the cluster's CPU, its
 * own ones first, so that traffic stays in the zone where that overloads nobody. Pure.
 *
 *   zones by CPU   a 50 %, b 25 %, c 25 %       8 endpoints: wanted a 4, b 2, c 2
 *   endpoints in   a a a a a a b c         ►    hints         a a a a b c b c
 *
 * After k8s.io/endpointslice/topologycache: no hints at all where an endpoint would get more than 20 % above its share.
 */
import type { NodeView } from '../views.ts';

/** How much more than its share an endpoint may get: topologycache.go, overloadThreshold. */
const OVERLOAD = 0.2;
/** Nodes with one of these run the cluster and no clients. */
const CONTROL_PLANE = ['node-role.kubernetes.io/control-plane', 'node-role.kubernetes.io/master'];

/** What a node adds to its zone; undefined for nodes that do not count. */
export interface NodeShare {
  readonly zone: string;
  readonly cpuMillis: number;
}

export function nodeShare({ labels, ready, zone, cpuMillis }: NodeView): NodeShare | undefined {
  if (ready !== 'True' || CONTROL_PLANE.some((label) => label in labels)) return undefined;
  return { zone, cpuMillis };
}

/** CPU by zone; undefined while one node does not say its zone or its CPU. */
export function cpuByZone(shares: Iterable<NodeShare>): ReadonlyMap<string, number> | undefined {
  const zones = new Map<string, number>();
  for (const { zone, cpuMillis } of shares) {
    if (zone === '' || cpuMillis === 0) return undefined;
    zones.set(zone, (zones.get(zone) ?? 0) + cpuMillis);
  }
  return zones;
}

/** An endpoint that is ready, by any key of its own. */
export interface PlacedEndpoint {
  readonly key: string;
  readonly zone: string;
}

/** The zone for which each endpoint is meant; undefined where traffic can't stay in zones. */
export function shareOut(
  endpoints: readonly PlacedEndpoint[],
  cpu: ReadonlyMap<string, number> | undefined,
): ReadonlyMap<string, string> | undefined {
  if (!cpu || cpu.size < 2 || cpu.size > endpoints.length) return undefined;
  const own = new Map<string, string[]>([...cpu.keys()].map((zone) => [zone, []]));
  for (const { key, zone } of endpoints) {
    if (zone === '') return undefined;
    own.set(zone, [...(own.get(zone) ?? []), key]);
  }
  const counts = countsOf(endpoints.length, cpu, (zone) => own.get(zone)!.length);
  if (!counts) return undefined;
  const hints = new Map<string, string>();
  const spare: string[] = [];
  for (const [zone, keys] of [...own].sort(([a], [b]) => (a < b ? -1 : 1)))
    for (const [at, key] of keys.sort().entries())
      if (at < (counts.get(zone) ?? 0)) hints.set(key, zone);
      else spare.push(key);
  for (const [zone, count] of [...counts].sort(([a], [b]) => (a < b ? -1 : 1)))
    for (let missing = count - own.get(zone)!.length; missing > 0; missing--) hints.set(spare.shift()!, zone);
  return hints;
}

/** How many endpoints each zone gets; undefined when none can have enough. As few as possible leave their zone. */
function countsOf(
  endpoints: number,
  cpu: ReadonlyMap<string, number>,
  ownOf: (zone: string) => number,
): Map<string, number> | undefined {
  const total = [...cpu.values()].reduce((sum, millis) => sum + millis, 0);
  const counts = new Map<string, number>();
  let left = endpoints;
  for (const [zone, millis] of cpu) {
    const least = Math.ceil((endpoints * millis) / total / (1 + OVERLOAD));
    counts.set(zone, least);
    left -= least;
  }
  if (left < 0) return undefined;
  const lack = (zone: string) => (endpoints * cpu.get(zone)!) / total - counts.get(zone)!;
  const stays = (zone: string) => (ownOf(zone) > counts.get(zone)! ? 1 : 0);
  for (; left > 0; left--) {
    const [zone] = [...cpu.keys()].sort(
      (a, b) => stays(b) - stays(a) || lack(b) - lack(a) || (a < b ? -1 : 1),
    );
    counts.set(zone!, counts.get(zone!)! + 1);
  }
  return counts;
}
