/**
 * What is known of policies, pods, namespaces and nodes, with the ways to find it, and what of it has changed since
 * somebody looked.
 */
import type { IpAddress } from '../addr/index.ts';
import type { Labels } from '../model/label-selector.ts';
import type { PolicyWorld } from './evaluate.ts';
import type { NodePolicyFacts } from './host/index.ts';
import type { ClusterPolicyFacts, NodeFacts, PodFacts, PolicyFacts, Tier } from './types.ts';

/** A pod of this node as its link has it. */
export interface LocalPod {
  /** Names the attachment. */
  readonly id: string;
  readonly namespace: string;
  readonly name: string;
  /** Empty when the runtime did not say. */
  readonly uid: string;
  readonly addresses: readonly IpAddress[];
}

/** What has changed since the last look. */
export interface Dirt {
  readonly policies: boolean;
  readonly pods: readonly string[];
  readonly nodes: readonly string[];
  /** Where pods may stand under other policies than before: in these namespaces, or anywhere. */
  readonly namespaces: ReadonlySet<string> | 'all';
  /** Attachments that went, or came with other addresses. */
  readonly gone: readonly LocalPod[];
}

export class KnownWorld implements PolicyWorld {
  readonly #nodeName: string;
  readonly #policies = new Map<string, PolicyFacts>();
  readonly #byNamespace = new Map<string, Map<string, PolicyFacts>>();
  readonly #clusterPolicies = new Map<string, ClusterPolicyFacts>();
  /** The same by tier, in the order in which they are asked. */
  #tiers: Readonly<Record<Tier, readonly ClusterPolicyFacts[]>> = { Admin: [], Baseline: [] };
  readonly #nodes = new Map<string, NodeFacts>();
  readonly #pods = new Map<string, PodFacts>();
  readonly #podsOf = new Map<string, Set<string>>();
  readonly #namespaces = new Map<string, Labels>();
  readonly #locals = new Map<string, LocalPod>();
  readonly #localsByPod = new Map<string, Map<string, LocalPod>>();
  /** Policies of the node itself that are enforced, in order. */
  #host: readonly NodePolicyFacts[] = [];
  readonly #dirtyPods = new Set<string>();
  readonly #dirtyNodes = new Set<string>();
  #gone: LocalPod[] = [];
  #dirtyPolicies = false;
  #dirtyNamespaces: Set<string> | 'all' = new Set();

  /** `nodeName`: addresses of this node's pods are those of their links, whatever the API says. */
  constructor(nodeName: string) {
    this.#nodeName = nodeName;
  }

  setPolicy(key: string, policy: PolicyFacts | undefined): void {
    const before = this.#policies.get(key);
    if (before === policy) return;
    const namespace = policy?.namespace ?? before!.namespace;
    const list = this.#byNamespace.get(namespace) ?? new Map<string, PolicyFacts>();
    if (policy) {
      this.#policies.set(key, policy);
      list.set(key, policy);
      this.#byNamespace.set(namespace, list);
    } else {
      this.#policies.delete(key);
      list.delete(key);
      if (list.size === 0) this.#byNamespace.delete(namespace);
    }
    this.#dirtyPolicies = true;
    if (this.#dirtyNamespaces !== 'all') this.#dirtyNamespaces.add(namespace);
  }

  setClusterPolicy(name: string, policy: ClusterPolicyFacts | undefined): void {
    if (this.#clusterPolicies.get(name) === policy) return;
    if (policy) this.#clusterPolicies.set(name, policy);
    else this.#clusterPolicies.delete(name);
    const sorted = [...this.#clusterPolicies.values()].sort(
      (a, b) => a.priority - b.priority || (a.name < b.name ? -1 : 1),
    );
    const of = (tier: Tier) => sorted.filter((each) => each.tier === tier);
    this.#tiers = { Admin: of('Admin'), Baseline: of('Baseline') };
    this.#dirtyPolicies = true;
    this.#dirtyNamespaces = 'all';
  }

  /** Policies of the node itself that are enforced, in order. */
  setHost(policies: readonly NodePolicyFacts[]): void {
    const same =
      policies.length === this.#host.length && policies.every((each, at) => each === this.#host[at]);
    if (same) return;
    this.#host = policies;
    this.#dirtyPolicies = true;
  }

  get host(): readonly NodePolicyFacts[] {
    return this.#host;
  }

  setNode(name: string, node: NodeFacts | undefined): void {
    if (this.#nodes.get(name) === node) return;
    if (node) this.#nodes.set(name, node);
    else this.#nodes.delete(name);
    this.#dirtyNodes.add(name);
  }

  setPod(key: string, pod: PodFacts | undefined): void {
    const before = this.#pods.get(key);
    if (before === pod) return;
    if (pod) {
      this.#pods.set(key, pod);
      const keys = this.#podsOf.get(pod.namespace);
      if (keys) keys.add(key);
      else this.#podsOf.set(pod.namespace, new Set([key]));
    } else if (before) {
      this.#pods.delete(key);
      const keys = this.#podsOf.get(before.namespace);
      if (keys?.delete(key) && keys.size === 0) this.#podsOf.delete(before.namespace);
    }
    this.#dirtyPods.add(key);
  }

  setNamespace(name: string, labels: Labels | undefined): void {
    if (labels) this.#namespaces.set(name, labels);
    else this.#namespaces.delete(name);
    for (const key of this.#podsOf.get(name) ?? []) this.#dirtyPods.add(key);
    // Pods that the API does not know yet are closed by what their namespace says.
    for (const { namespace, name: pod } of this.#locals.values())
      if (namespace === name) this.#dirtyPods.add(`${namespace}/${pod}`);
  }

  setLocal(id: string, local: LocalPod | undefined): void {
    const before = this.#locals.get(id);
    for (const each of [before, local]) {
      if (!each) continue;
      const key = `${each.namespace}/${each.name}`;
      this.#dirtyPods.add(key);
      const list = this.#localsByPod.get(key) ?? new Map<string, LocalPod>();
      if (each === local) list.set(id, each);
      else list.delete(id);
      if (list.size > 0) this.#localsByPod.set(key, list);
      else this.#localsByPod.delete(key);
    }
    if (local) this.#locals.set(id, local);
    else {
      this.#locals.delete(id);
      if (before) this.#gone.push(before);
    }
  }

  policiesOf(namespace: string): Iterable<PolicyFacts> {
    return this.#byNamespace.get(namespace)?.values() ?? [];
  }

  namespaceLabels(namespace: string): Labels | undefined {
    return this.#namespaces.get(namespace);
  }

  clusterPoliciesOf(tier: Tier): Iterable<ClusterPolicyFacts> {
    return this.#tiers[tier];
  }

  nodeLabels(node: string): Labels | undefined {
    return this.#nodes.get(node)?.labels;
  }

  get clusterPolicies(): ReadonlyMap<string, ClusterPolicyFacts> {
    return this.#clusterPolicies;
  }

  get nodes(): ReadonlyMap<string, NodeFacts> {
    return this.#nodes;
  }

  get policies(): ReadonlyMap<string, PolicyFacts> {
    return this.#policies;
  }

  get pods(): ReadonlyMap<string, PodFacts> {
    return this.#pods;
  }

  /** Pods of this node, by attachment. */
  get locals(): ReadonlyMap<string, LocalPod> {
    return this.#locals;
  }

  /** The addresses that a pod has now: of this node's pods by their links, of others by the API. */
  addressesOf(key: string, pod: PodFacts): readonly IpAddress[] {
    if (pod.hostNetwork || pod.ended) return [];
    const locals = this.#localsByPod.get(key);
    if (locals) return [...locals.values()].flatMap((local) => (sameUid(local, pod) ? local.addresses : []));
    return pod.node === this.#nodeName ? [] : pod.addresses;
  }

  /** Local pods of these namespaces, and those of these pods. */
  localsIn(namespaces: ReadonlySet<string> | 'all', pods: readonly string[]): Set<LocalPod> {
    const locals = [...this.#locals.values()];
    if (namespaces === 'all') return new Set(locals);
    const found = new Set(
      namespaces.size === 0 ? [] : locals.filter(({ namespace }) => namespaces.has(namespace)),
    );
    for (const key of pods) for (const local of this.#localsByPod.get(key)?.values() ?? []) found.add(local);
    return found;
  }

  /** Pods of a namespace, or of all, as a source of members: key, facts, addresses. */
  *membersOf(namespace: string | undefined): Iterable<[string, PodFacts, readonly IpAddress[]]> {
    for (const key of namespace === undefined ? this.#pods.keys() : (this.#podsOf.get(namespace) ?? [])) {
      const pod = this.#pods.get(key)!;
      yield [key, pod, this.addressesOf(key, pod)];
    }
  }

  /** Every rule has to be made again. */
  protected touchPolicies(): void {
    this.#dirtyPolicies = true;
  }

  /** What has changed since the last `clean()`; undefined for nothing. */
  protected get dirt(): Dirt | undefined {
    if (!this.#dirtyPolicies && this.#dirtyPods.size === 0 && this.#dirtyNodes.size === 0) return undefined;
    return {
      policies: this.#dirtyPolicies,
      pods: [...this.#dirtyPods],
      nodes: [...this.#dirtyNodes],
      namespaces: this.#dirtyNamespaces,
      gone: this.#gone,
    };
  }

  /** All of it was worked off. */
  protected clean(): void {
    this.#dirtyPolicies = false;
    this.#dirtyPods.clear();
    this.#dirtyNodes.clear();
    this.#dirtyNamespaces = new Set();
    this.#gone = [];
  }
}

/** Whether the API's pod is the one that was attached: a name comes again with another uid. */
export function sameUid(local: LocalPod, pod: PodFacts): boolean {
  return local.uid === '' || pod.uid === '' || local.uid === pod.uid;
}
