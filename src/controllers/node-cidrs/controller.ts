/** Writes spec.podCIDRs of Nodes. One round looks at all Nodes, since two of them must never get one network. */
import {
  type ApiClient,
  type EventRecorder,
  type Log,
  type Reflector,
  resources,
} from '../../client/index.ts';
import { isNetError } from '../../errors/net-error.ts';
import type { Node } from '../../model/kubernetes.ts';
import type { NodeView } from '../views.ts';
import { WorkQueue } from '../work-queue.ts';
import { type CidrPool, planNodeCidrs } from './plan.ts';

/** Options of {@link startNodeCidrs}. */
export interface NodeCidrsOptions {
  client: ApiClient;
  nodes: Reflector<Node, NodeView>;
  events: EventRecorder;
  pools: readonly CidrPool[];
  signal: AbortSignal;
  log: Log;
}

/** Begins to work; `nodes` must have synced. */
export function startNodeCidrs(options: NodeCidrsOptions): void {
  const { client, nodes, events, pools, signal, log } = options;
  const cursors = new Map<CidrPool, bigint>();
  /** Given out, but not yet told by the watch: Node name to uid and networks. */
  const given = new Map<string, { uid: string; podCidrs: string[] }>();
  const told = new Map<string, string>();

  const work = async () => {
    const known: NodeView[] = [];
    for (const node of nodes.items.values()) {
      const mine = given.get(node.name);
      if (mine && (node.podCidrs.length > 0 || node.uid !== mine.uid)) given.delete(node.name);
      const still = given.get(node.name);
      known.push(still ? { ...node, podCidrs: still.podCidrs } : node);
    }
    for (const name of given.keys()) if (!nodes.items.has(name)) given.delete(name);
    const plan = planNodeCidrs(known, pools, cursors);
    for (const { node, reason, message } of plan.problems) {
      const key = `${node.uid} ${message}`;
      if (told.get(node.name) === key) continue;
      told.set(node.name, key);
      events.record(
        { apiVersion: 'v1', kind: 'Node', name: node.name, uid: node.name },
        { type: 'Warning', reason, message },
      );
    }
    const failures: unknown[] = [];
    await Promise.all(
      plan.assignments.map(async ({ node, podCidrs }) => {
        given.set(node.name, { uid: node.uid, podCidrs });
        try {
          await client.patch(
            resources.nodes,
            { name: node.name },
            { metadata: { uid: node.uid }, spec: { podCIDR: podCidrs[0], podCIDRs: podCidrs } },
            { type: 'strategic', signal, fieldManager: 'portolan-node-cidrs', retryForMs: 0 },
          );
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
}
