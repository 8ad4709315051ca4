/** Writes spec.podCIDRs of Nodes. One round looks at all Nodes, since two of them must never get one network. */
import {
  type ApiClient,
  type EventRecorder,
  type Log,
  type Reflector,
  resources,
} from '../../client/index.ts';
import { isNetError } from '../../errors/net-error.ts';
import type { Node, Pod } from '../../model/kubernetes.ts';
import type { NodeView, PodView } from '../views.ts';
import { WorkQueue } from '../work-queue.ts';
import { type CidrPool, planNodeCidrs } from './plan.ts';

/** Options of {@link startNodeCidrs}. */
export interface NodeCidrsOptions {
  client: ApiClient;
  nodes: Reflector<Node, NodeView>;
  pods: Reflector<Pod, PodView>;
  events: EventRecorder;
  pools: readonly CidrPool[];
  signal: AbortSignal;
  log: Log;
}

/** A Node has to be without pods for this long before its network is taken away. */
const SETTLE_MS = 1000;

/** Begins to work; `nodes` and `pods` must have synced. */
export function startNodeCidrs(options: NodeCidrsOptions): void {
  const { client, nodes, pods, events, pools, signal, log } = options;
  const cursors = new Map<CidrPool, bigint>();
  /** Given out, but not yet told by the watch: Node name to uid and networks, and what it had before. */
  const given = new Map<string, { uid: string; before: string; podCidrs: string[] }>();
  const told = new Map<string, string>();
  /** Nodes with a problem that ends when their last pod goes. */
  let occupied = new Set<string>();
  /** Since when such a Node has been without pods. */
  const emptySince = new Map<string, number>();

  const tell = (node: NodeView, reason: string, message: string) => {
    const key = `${node.uid} ${message}`;
    if (told.get(node.name) === key) return;
    told.set(node.name, key);
    log.warn({ node: node.name, reason }, message);
    events.record(
      { apiVersion: 'v1', kind: 'Node', name: node.name, uid: node.name },
      { type: 'Warning', reason, message },
    );
  };

  const work = async () => {
    const known: NodeView[] = [];
    for (const node of nodes.items.values()) {
      const mine = given.get(node.name);
      if (mine && (node.podCidrs.join() !== mine.before || node.uid !== mine.uid)) given.delete(node.name);
      const still = given.get(node.name);
      known.push(still ? { ...node, podCidrs: still.podCidrs } : node);
    }
    for (const name of given.keys()) if (!nodes.items.has(name)) given.delete(name);
    // Those that run on the node's own network have no address of its pods.
    const inUse = new Set<string>();
    for (const pod of pods.items.values()) if (!pod.finished && !pod.hostNetwork) inUse.add(pod.nodeName);
    const now = performance.now();
    for (const name of inUse) emptySince.delete(name);
    const isEmpty = ({ name }: NodeView) => {
      if (inUse.has(name)) return false;
      const since = emptySince.get(name) ?? now;
      emptySince.set(name, since);
      if (now - since >= SETTLE_MS) return true;
      // Pods are told on another watch, which may be behind.
      setTimeout(() => queue.add('all'), SETTLE_MS).unref();
      return false;
    };
    const plan = planNodeCidrs(known, pools, cursors, isEmpty);
    for (const { node } of plan.assignments) emptySince.delete(node.name);
    occupied = new Set(
      plan.problems
        .filter(({ reason }) => reason === 'CIDRDuplicate' || reason === 'CIDRInvalid')
        .map(({ node }) => node.name),
    );
    for (const { node, reason, message } of plan.problems) tell(node, reason, message);
    const failures: unknown[] = [];
    await Promise.all(
      plan.assignments.map(async ({ node, podCidrs, repair }) => {
        given.set(node.name, { uid: node.uid, before: node.podCidrs.join(), podCidrs });
        try {
          await client.patch(
            resources.nodes,
            { name: node.name },
            { metadata: { uid: node.uid }, spec: { podCIDR: podCidrs[0], podCIDRs: podCidrs } },
            { type: 'merge', signal, fieldManager: 'portolan-node-cidrs', retryForMs: 0 },
          );
          if (repair !== undefined) tell(node, 'CIDRReallocated', repair);
          log.info({ node: node.name, podCidrs }, 'node got its pod networks');
        } catch (error) {
          given.delete(node.name);
          if (!isNetError(error, 'CLIENT_NOT_FOUND')) failures.push(error);
        }
      }),
    );
    if (failures.length > 0) throw failures[0];
  };

  const queue = new WorkQueue({ name: 'node-cidrs', work, signal, log, concurrency: 1 });
  // Heartbeats of Nodes are no reason for a round.
  const seen = new Map<string, string>();
  const look = (names: Iterable<string>) => {
    let any = false;
    for (const name of names) {
      const node = nodes.items.get(name);
      const now = node ? `${node.uid} ${node.podCidrs.join()}` : '';
      if ((seen.get(name) ?? '') === now) continue;
      if (node) seen.set(name, now);
      else seen.delete(name);
      any = true;
    }
    if (any) queue.add('all');
  };
  look(nodes.items.keys());
  nodes.onChange(look);
  pods.onChange(() => {
    if (occupied.size > 0) queue.add('all');
  });
}
