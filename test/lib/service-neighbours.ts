/** Pods of a node, and who is around it: an outside client, and a host that counts as a pod of another node. */
import type { ServiceNode, TestPod } from './services.ts';

export interface Neighbours {
  readonly client: TestPod;
  readonly one: TestPod;
  readonly two: TestPod;
  readonly outside: TestPod;
  readonly remote: TestPod;
}

/** Adds them; `one`, `two` and `remote` serve port 8080 in both families. For a node of number 7. */
export async function addNeighbours(node: ServiceNode): Promise<Neighbours> {
  const client = node.addPod('client');
  const one = node.addPod('one');
  const two = node.addPod('two');
  const outside = node.addHost('out', 20);
  const remote = node.addHost('rem', 30);
  for (const pod of [one, two, remote])
    for (const family of ['ip4', 'ip6'] as const) await node.serve(pod.name, pod.netns, pod[family], 8080);
  // The other node's pod answers pods of this node, and nobody outside.
  node.ipAt(
    remote.netns,
    'route add 10.244.7.0/24 via 172.30.7.1',
    'route add fd00:10:244:7::/64 via fd00:30:7::1',
  );
  return { client, one, two, outside, remote };
}
