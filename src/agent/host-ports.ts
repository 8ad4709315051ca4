import type { Pod } from '../model/kubernetes.ts';
import { type HostPortFacts, hostPortsOfPod, type TableSource } from '../service/index.ts';

/**
 * hostPorts of this node's Pods as a table of their own, keyed as their plans are. `facts` is what they are of an item
 * of the source: a whole Pod, or what was kept of it.
 */
export function hostPortTable<P>(
  pods: TableSource<P>,
  facts: (pod: P) => HostPortFacts | undefined,
): TableSource<HostPortFacts> {
  const items = new Map<string, HostPortFacts>();
  const listeners: ((keys: ReadonlySet<string>) => void)[] = [];
  const update = (names: Iterable<string>) => {
    const changed = new Set<string>();
    for (const name of names) {
      const key = `pod/${name}`;
      const pod = pods.items.get(name);
      const now = pod && facts(pod);
      // A pod's status changes all the time, its ports never.
      if (JSON.stringify(now) === JSON.stringify(items.get(key))) continue;
      if (now) items.set(key, now);
      else items.delete(key);
      changed.add(key);
    }
    if (changed.size > 0) for (const listener of listeners) listener(changed);
  };
  pods.onChange(update);
  return {
    items,
    synced: pods.synced.then(() => update(pods.items.keys())),
    onChange: (listener) => {
      listeners.push(listener);
    },
  };
}

/** The same from Pods as the API has them. */
export function podHostPorts(pods: TableSource<Pod>): TableSource<HostPortFacts> {
  return hostPortTable(pods, hostPortsOfPod);
}
