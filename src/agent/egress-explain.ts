/** What becomes of one connection, as `portolan egress explain` tells it. */
import { type IpAddress, tryParseIp } from '../addr/index.ts';
import { type EgressDesired, type Fate, insideTest } from '../egress/index.ts';
import { egressError } from '../errors/index.ts';
import type { PodFacts } from '../policy/index.ts';

export interface EgressExplanation {
  from: string;
  to: string;
  /** The address that the other side sees, as far as egress addresses decide. */
  source: 'its own' | 'its node' | 'egress address' | 'none';
  address?: string;
  lines: string[];
}

/** What is known where it is asked. */
export interface EgressWorld {
  readonly node: string;
  readonly desired: EgressDesired;
  /** False only when all namespaces are known, and it is none of them. */
  readonly isNamespace: (name: string) => boolean;
  /** Pods of this node, as namespace/name. */
  readonly local: ReadonlySet<string>;
  /** Asks the API for a pod of any node: undefined when there is none, `unknown` when it does not say. */
  readonly findPod: (namespace: string, name: string) => Promise<PodFacts | 'unknown' | undefined>;
}

/**
 * `from` is a pod as namespace/name, or a namespace; `to` an address. Throws EGRESS_BAD_ADDRESS, EGRESS_BAD_FROM,
 * EGRESS_NO_SUCH_NAMESPACE, EGRESS_NO_SUCH_POD.
 */
export async function explainEgress(
  world: EgressWorld,
  from: string,
  to: string,
): Promise<EgressExplanation> {
  const { node, desired } = world;
  const target = tryParseIp(to);
  if (!target) throw egressError('EGRESS_BAD_ADDRESS', { text: to });
  const { namespace, pod } = await endOf(world, from);
  const said = { from, to: String(target) };
  if (pod?.hostNetwork)
    return { ...said, source: 'its node', lines: [`${from} is in the network of its node ${pod.node}`] };
  // The overlay masquerades what leaves a node for another one.
  if (insideTest([], desired.nodeAddresses)(target) && !insideTest(desired.cluster, [])(target))
    return {
      ...said,
      source: 'its node',
      lines: [`${target} is of a node: it sees the pod's node, and a pod of its own by the pod's address`],
    };
  const inside = insideOf(desired, target);
  if (inside) return { ...said, source: 'its own', lines: [`${target} ${inside}: pods keep their address`] };
  const local = desired.local.find((each) => each.pod.name === from && each.address.family === target.family);
  const fate =
    local?.fate ??
    desired.states.find((each) => each.namespace === namespace && each.family === target.family)?.fate;
  if (!fate)
    return {
      ...said,
      source: 'its node',
      lines: [`namespace ${namespace} asks for no IPv${target.family} egress address: it is masqueraded`],
    };
  if (pod && fate.kind !== 'closed')
    return {
      ...said,
      source: 'egress address',
      address: String(fate.address),
      lines: [`${whereIs(from, pod, node)}; on its node it goes to the holder of ${fate.address}`],
    };
  return { ...said, ...told(fate, node) };
}

/** The pod only when it is none of this node's with a link. */
async function endOf(
  { local, isNamespace, findPod }: EgressWorld,
  from: string,
): Promise<{ namespace: string; pod?: Partial<PodFacts> }> {
  const [namespace = '', name, ...more] = from.split('/');
  if (namespace === '' || name === '' || more.length > 0) throw egressError('EGRESS_BAD_FROM', { from });
  if (local.has(from)) return { namespace };
  if (!isNamespace(namespace)) {
    const pods = [...local].filter((each) => each.endsWith(`/${name ?? from}`)).sort();
    throw egressError('EGRESS_NO_SUCH_NAMESPACE', { from, namespace, pods });
  }
  if (name === undefined) return { namespace };
  const pod = await findPod(namespace, name);
  if (!pod) throw egressError('EGRESS_NO_SUCH_POD', { namespace, name });
  return { namespace, pod: pod === 'unknown' ? {} : pod };
}

function whereIs(from: string, pod: Partial<PodFacts>, node: string): string {
  if (pod.ended) return `${from} has ended`;
  if (pod.node === undefined) return `${from} is no pod of ${node}`;
  if (pod.node === '') return `${from} is on no node yet`;
  return pod.node === node ? `${from} has no link on ${node} yet` : `${from} is on ${pod.node}`;
}

function told(fate: Fate, node: string): Pick<EgressExplanation, 'source' | 'address' | 'lines'> {
  if (fate.kind === 'closed') return { source: 'none', lines: [`dropped: ${fate.why}`] };
  const address = String(fate.address);
  const seen = `the other side sees ${address}`;
  if (fate.kind === 'here')
    return { source: 'egress address', address, lines: [`${node} holds ${address}`, seen] };
  const lines = [`slot ${fate.slot}: routed to ${fate.node}, which holds ${address}`, seen];
  return { source: 'egress address', address, lines };
}

function insideOf(desired: EgressDesired, target: IpAddress): string | undefined {
  if (insideTest(desired.cluster, [])(target)) return 'is of a pod or Service';
  return target.isMulticast || target.isLinkLocal || target.isLoopback ? 'is not outside' : undefined;
}
