/**
 * Where policies, pods, namespaces and nodes come from: what is new of them, and whether all are there that the policies
 * at hand need.
 */
import type { Labels } from '../model/label-selector.ts';
import type { AddressBook } from './address-book.ts';
import type { HostSources } from './host/index.ts';
import type { KnownWorld } from './known-world.ts';
import type { ClusterPolicyFacts, PodFacts, PolicyFacts, PolicyLog, TableSource } from './types.ts';

export interface PolicySourceOptions {
  readonly policies: TableSource<PolicyFacts>;
  readonly pods: TableSource<PodFacts>;
  readonly namespaces: TableSource<Labels>;
  /** ClusterNetworkPolicies, nodes for those that name them, and policies of nodes; undefined where nobody has any. */
  readonly cluster?: HostSources & { readonly policies: TableSource<ClusterPolicyFacts> };
  /** Called once, when the first policy is seen: pods, namespaces and nodes have to be listed from now on. */
  readonly startSources?: () => void;
  readonly log?: PolicyLog;
}

export class PolicySources {
  readonly #options: PolicySourceOptions;
  readonly #new = {
    policies: new Set<string>(),
    clusterPolicies: new Set<string>(),
    pods: new Set<string>(),
    namespaces: new Set<string>(),
    nodes: new Set<string>(),
    nodePolicies: new Set<string>(),
  };
  #started = false;

  constructor(options: PolicySourceOptions, onNews: () => void) {
    this.#options = options;
    const follow = <P>(source: TableSource<P>, keys: Set<string>) =>
      source.onChange((changed) => {
        for (const key of changed) keys.add(key);
        onNews();
      });
    const { cluster } = options;
    follow(options.policies, this.#new.policies);
    follow(options.pods, this.#new.pods);
    follow(options.namespaces, this.#new.namespaces);
    if (!cluster) return;
    follow(cluster.policies, this.#new.clusterPolicies);
    follow(cluster.nodes, this.#new.nodes);
    follow(cluster.nodePolicies, this.#new.nodePolicies);
  }

  /** How many policies of any kind are new, changed or gone. */
  get newPolicies(): number {
    const { policies, clusterPolicies, nodePolicies } = this.#new;
    return policies.size + clusterPolicies.size + nodePolicies.size;
  }

  /** Resolves when all policies are known, and what they need; all of them are new then. */
  async start(): Promise<void> {
    const { policies, cluster } = this.#options;
    await Promise.all([policies.synced, cluster?.policies.synced, cluster?.nodePolicies.synced]);
    for (const key of policies.items.keys()) this.#new.policies.add(key);
    for (const key of cluster?.policies.items.keys() ?? []) this.#new.clusterPolicies.add(key);
    for (const key of cluster?.nodePolicies.items.keys() ?? []) this.#new.nodePolicies.add(key);
    await this.ready();
  }

  /** Pods, namespaces and nodes have to be listed from now on. */
  need(): void {
    if (this.#started) return;
    this.#started = true;
    this.#options.startSources?.();
  }

  /** Resolves when everything is there that policies need: pods and namespaces from the first policy on. */
  async ready(): Promise<void> {
    const { policies, pods, namespaces, cluster } = this.#options;
    const ofCluster = (cluster?.policies.items.size ?? 0) + (cluster?.nodePolicies.items.size ?? 0);
    const none = policies.items.size + ofCluster === 0;
    if (none && !this.#started) return;
    this.need();
    await Promise.all([pods.synced, namespaces.synced, cluster?.nodes.synced]);
  }

  /** Tells what is new. Returns whether policies of nodes may apply otherwise than before. */
  takeInto(world: KnownWorld, addresses: AddressBook): boolean {
    const { policies, pods, namespaces, cluster, log } = this.#options;
    const hostChanged = this.#new.nodePolicies.size + this.#new.nodes.size > 0;
    this.#new.nodePolicies.clear();
    for (const key of drain(this.#new.namespaces)) world.setNamespace(key, namespaces.items.get(key));
    for (const key of drain(this.#new.pods)) {
      world.setPod(key, pods.items.get(key));
      addresses.forgetPods();
    }
    for (const key of drain(this.#new.policies)) {
      const policy = policies.items.get(key);
      for (const problem of policy?.problems ?? [])
        log?.warn({ policy: key, problem }, 'a part of a network policy matches nothing');
      world.setPolicy(key, policy);
    }
    for (const name of drain(this.#new.nodes)) {
      world.setNode(name, cluster?.nodes.items.get(name));
      addresses.forgetNodes();
    }
    for (const name of drain(this.#new.clusterPolicies)) {
      const policy = cluster?.policies.items.get(name);
      for (const problem of policy?.problems ?? [])
        log?.warn({ policy: name, problem }, 'a part of a cluster network policy is not understood');
      world.setClusterPolicy(name, policy);
    }
    return hostChanged;
  }
}

function drain(keys: Set<string>): string[] {
  const list = [...keys];
  keys.clear();
  return list;
}
