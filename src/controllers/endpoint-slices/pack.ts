/**
 * Packs the endpoints of one port set into slices with few writes: every written slice goes to every node.
 * The same steps as k8s.io/endpointslice reconciler.go:
 *
 *     1. each slice keeps those of its endpoints that are still wanted; what lost all is deleted
 *     2. slices that are written anyway are filled up, the fullest first
 *     3. the rest goes whole into one slice with room, the tightest fit, else into new slices
 */
import { type EndpointText, endpointIdentity, type SliceView } from './types.ts';

/** How one slice ends up: `slice` absent is a new one, empty `endpoints` of an existing one a deletion. */
export interface Packed {
  slice?: SliceView;
  endpoints: EndpointText[];
  changed: boolean;
}

/** Distributes `wanted` over `existing` slices of the same ports and family. */
export function packEndpoints(
  wanted: readonly EndpointText[],
  existing: readonly SliceView[],
  maxEndpoints: number,
): Packed[] {
  const left = new Map<string, EndpointText>();
  for (const text of wanted) left.set(endpointIdentity(text), text);
  const packed: Packed[] = existing.map((slice) => {
    let changed = false;
    const endpoints: EndpointText[] = [];
    for (const text of slice.endpoints) {
      const identity = endpointIdentity(text);
      const next = left.get(identity);
      if (next === undefined || endpoints.length >= maxEndpoints) {
        changed = true;
        continue;
      }
      left.delete(identity);
      endpoints.push(next);
      if (next !== text) changed = true;
    }
    return { slice, endpoints, changed };
  });
  const rest = [...left.values()];

  const written = packed
    .filter((one) => one.changed && one.endpoints.length > 0)
    .sort((a, b) => b.endpoints.length - a.endpoints.length);
  for (const one of written) one.endpoints.push(...rest.splice(0, maxEndpoints - one.endpoints.length));

  while (rest.length > 0) {
    let target: Packed | undefined;
    if (rest.length < maxEndpoints)
      for (const one of packed) {
        const fits = !one.changed && one.endpoints.length + rest.length <= maxEndpoints;
        if (fits && (!target || one.endpoints.length > target.endpoints.length)) target = one;
      }
    if (!target) {
      target = { endpoints: [], changed: true };
      packed.push(target);
    }
    target.changed = true;
    target.endpoints.push(...rest.splice(0, maxEndpoints - target.endpoints.length));
  }
  return recycle(packed);
}

/** A slice to delete and one to create are one slice to update. */
function recycle(packed: Packed[]): Packed[] {
  const emptied = packed.filter((one) => one.slice && one.endpoints.length === 0);
  return packed.filter((one) => {
    if (one.slice || emptied.length === 0) return true;
    const reused = emptied.shift()!;
    reused.endpoints = one.endpoints;
    reused.changed = true;
    return false;
  });
}
