import type { Pod } from '../model/kubernetes.ts';
import { type HostPortFacts, hostPortsOfPod, type TableSource } from '../service/index.ts';

/** hostPorts of this node's Pods as a table of their own, keyed as their plans are. */
export function hostPortTable(pods: TableSource<Pod>): TableSource<HostPortFacts> {
  const items = new Map<string, HostPortFacts>();
  const listeners: ((keys: ReadonlySet<string>) => void)[] = [];
  const update = (names: Iterable<string>) => {
    const changed = new Set<string>();
    for (const name of names) {
      const key = `pod/${name}`;
      const pod = pods.items.get(name);
      const facts = pod && hostPortsOfPod(pod);
      // A pod's status changes all the time, its ports never.
      if (JSON.stringify(facts) === JSON.stringify(items.get(key))) continue;
      if (facts) items.set(key, facts);
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
