/** Keeps this node's Node object as the agent's facts say, as long as the agent runs. */
import { type ApiClient, keepNodeLease, type Log, type Reflector, resources } from '../client/index.ts';
import { isNetError } from '../errors/index.ts';
import type { Node } from '../model/kubernetes.ts';
import { Reconciler } from '../reconcile/index.ts';
import { type NodeFacts, planNode } from './node-object.ts';

export interface RegistrationOptions {
  client: ApiClient;
  /** All Nodes; this one is compared. */
  nodes: Reflector<Node, Node>;
  nodeName: string;
  facts: () => NodeFacts;
  signal: AbortSignal;
  log: Log;
}

export class Registration {
  readonly #options: RegistrationOptions;
  readonly #reconciler: Reconciler;

  constructor(options: RegistrationOptions) {
    this.#options = options;
    this.#reconciler = new Reconciler({ name: 'node object', run: () => this.#run(), resyncMs: 60_000 });
    options.nodes.onChange((keys) => {
      if (keys.has(options.nodeName)) this.#reconciler.trigger();
    });
  }

  get status() {
    return this.#reconciler.status;
  }

  /** The Node as last seen. */
  get node(): Node | undefined {
    return this.#options.nodes.items.get(this.#options.nodeName);
  }

  /** Starts after the Nodes are known, and renews the Lease. */
  async start(): Promise<void> {
    const { client, nodes, nodeName, signal, log } = this.#options;
    await nodes.synced;
    if (signal.aborted) return;
    this.#reconciler.start();
    if (this.#options.facts().ownsStatus)
      void keepNodeLease({ client, nodeName, signal, log, nodeUid: () => this.node?.metadata.uid });
  }

  /** The facts changed. */
  trigger(): void {
    this.#reconciler.trigger();
  }

  stop(): Promise<void> {
    return this.#reconciler.stop();
  }

  async #run(): Promise<void> {
    const { client, nodeName, facts, signal } = this.#options;
    const call = { signal };
    for (const change of planNode(facts(), this.node, new Date().toISOString())) {
      try {
        if (change.kind === 'create') await client.create(resources.nodes, change.node, call);
        else if (change.kind === 'patch')
          await client.patch(resources.nodes, { name: nodeName }, change.patch, { ...call, type: 'merge' });
        else
          await client.patchStatus(resources.nodes, { name: nodeName }, wholeAddresses(change.patch), {
            ...call,
            type: 'strategic',
          });
      } catch (error) {
        // With a kubelet, the agent's credentials need not reach so far: the kubelet registers the Node.
        if (change.kind === 'create' && !facts().ownsStatus && isNetError(error, 'CLIENT_FORBIDDEN')) return;
        // The table was a moment behind: the watch brings the object, and with it the next run.
        if (isNetError(error, 'CLIENT_CONFLICT') || isNetError(error, 'CLIENT_NOT_FOUND')) return;
        throw error;
      }
    }
  }
}

/**
 * Addresses merge by type in a strategic patch, so the second InternalIP of a dual-stack node would replace the first;
 * the directive replaces the list as a whole, as kubelet does.
 */
function wholeAddresses(patch: { status: Partial<NonNullable<Node['status']>> }): object {
  const { addresses } = patch.status;
  return addresses
    ? { status: { ...patch.status, addresses: [...addresses, { $patch: 'replace' }] } }
    : patch;
}
