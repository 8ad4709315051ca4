/** Policies, pods and namespaces as tables in memory, and one policy controller for each node of a PolicyNet. */
import type { Attachment } from '../../src/ipam/index.ts';
import type { NetworkPolicy, Protocol } from '../../src/model/kubernetes.ts';
import type { Labels } from '../../src/model/label-selector.ts';
import {
  namespaceLabels,
  type PodFacts,
  PolicyController,
  type PolicyFacts,
  policyFacts,
  type TableSource,
} from '../../src/policy/index.ts';
import type { Place, PolicyNet } from './policy-net.ts';

/** A table that tells its listeners in the next microtask, as a Reflector does. */
export class MemoryTable<P> implements TableSource<P> {
  readonly items = new Map<string, P>();
  readonly synced: Promise<void>;
  #sync = () => {};
  readonly #listeners: ((keys: ReadonlySet<string>) => void)[] = [];
  #dirty = new Set<string>();

  constructor(synced = true) {
    this.synced = synced
      ? Promise.resolve()
      : new Promise((resolve) => {
          this.#sync = resolve;
        });
  }

  sync(): void {
    this.#sync();
  }

  onChange(listener: (keys: ReadonlySet<string>) => void): void {
    this.#listeners.push(listener);
  }

  set(key: string, item: P): void {
    this.items.set(key, item);
    this.#tell(key);
  }

  delete(key: string): void {
    if (this.items.delete(key)) this.#tell(key);
  }

  #tell(key: string): void {
    if (this.#dirty.size === 0)
      queueMicrotask(() => {
        const keys = this.#dirty;
        this.#dirty = new Set();
        for (const listener of this.#listeners) listener(keys);
      });
    this.#dirty.add(key);
  }
}

export interface PodSpec {
  readonly labels?: Labels;
  readonly ports?: readonly { name: string; protocol: Protocol; port: number }[];
}

export function attachmentOf(place: Place, key: string, state: 'pending' | 'ready' = 'ready'): Attachment {
  const [namespace, name] = key.split('/') as [string, string];
  return {
    containerId: place.netns,
    ifname: 'eth0',
    netns: `/run/netns/${place.netns}`,
    netnsInode: 1n,
    pod: { namespace, name, uid: key },
    addresses: [place.ip4, place.ip6],
    hostLink: 'po0',
    kind: 'routed',
    portMappings: [],
    networks: [],
    network: '',
    mtuBytes: 1500,
    state,
    createdAtMs: 0,
  };
}

export class PolicyCluster {
  readonly net: PolicyNet;
  readonly policies = new MemoryTable<PolicyFacts>();
  readonly pods = new MemoryTable<PodFacts>();
  readonly namespaces = new MemoryTable<Labels>();
  readonly controllers: PolicyController[];
  readonly places = new Map<string, Place>();
  #generation = 0;

  constructor(net: PolicyNet, options: { cutEstablished?: boolean } = {}) {
    this.net = net;
    this.controllers = net.nodes.map(
      (node) =>
        new PolicyController({
          nodeName: node.name,
          policies: this.policies,
          pods: this.pods,
          namespaces: this.namespaces,
          netns: node.ns,
          ...options,
        }),
    );
  }

  async start(): Promise<void> {
    const attachments = (node: string) =>
      [...this.places].flatMap(([key, place]) =>
        place.name.split('/')[0] === node ? [attachmentOf(place, key)] : [],
      );
    await Promise.all(
      this.controllers.map((controller, at) => controller.start(attachments(this.net.nodes[at]!.name))),
    );
  }

  /** Before its start: the objects and pods of another one that has ended, as after a restart of agents. */
  inherit({ policies, pods, namespaces, places }: PolicyCluster): void {
    for (const [key, item] of policies.items) this.policies.set(key, item);
    for (const [key, item] of pods.items) this.pods.set(key, item);
    for (const [key, item] of namespaces.items) this.namespaces.set(key, item);
    for (const [key, place] of places) this.places.set(key, place);
  }

  namespace(name: string, labels: Record<string, string> = {}): void {
    this.namespaces.set(name, namespaceLabels({ metadata: { name, labels } }));
  }

  /** A pod at a place of the net, attached on its node and known to the API. */
  async pod(key: string, place: Place, { labels = {}, ports = [] }: PodSpec = {}): Promise<void> {
    const [namespace, name] = key.split('/') as [string, string];
    if (!this.namespaces.items.has(namespace)) this.namespace(namespace);
    const node = place.name.split('/')[0]!;
    this.places.set(key, place);
    this.pods.set(key, {
      namespace,
      name,
      uid: key,
      labels,
      node,
      hostNetwork: false,
      ended: false,
      addresses: [place.ip4, place.ip6],
      ports,
    });
    const at = this.net.nodes.findIndex((each) => each.name === node);
    await this.controllers[at]!.isolate(attachmentOf(place, key));
  }

  label(key: string, labels: Labels): void {
    this.pods.set(key, { ...this.pods.items.get(key)!, labels });
  }

  apply(namespace: string, name: string, spec: NonNullable<NetworkPolicy['spec']>): void {
    const facts = policyFacts({
      apiVersion: 'networking.k8s.io/v1',
      kind: 'NetworkPolicy',
      metadata: { namespace, name, generation: ++this.#generation },
      spec,
    });
    this.policies.set(facts.key, facts);
  }

  async clear(): Promise<void> {
    for (const key of [...this.policies.items.keys()]) this.policies.delete(key);
    await this.settled();
    for (const [key, place] of this.places) {
      const at = this.net.nodes.findIndex((each) => each.name === place.name.split('/')[0]);
      await this.controllers[at]!.forget(attachmentOf(place, key));
      this.pods.delete(key);
    }
    this.places.clear();
    for (const key of [...this.namespaces.items.keys()]) this.namespaces.delete(key);
    await this.settled();
  }

  async settled(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    await Promise.all(this.controllers.map((controller) => controller.settled()));
    for (const controller of this.controllers) {
      const { state } = controller.status();
      if (state.state === 'error') throw state.error;
    }
  }

  async close(): Promise<void> {
    await Promise.all(this.controllers.map((controller) => controller.close()));
  }
}
