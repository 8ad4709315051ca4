/**
 * Policies, pods and namespaces to chains and sets, kept up to date change by change. Only policies that select a pod
 * of this node are compiled; a selection that several rules share is one set, and pods that the same policies select
 * share one chain, so that the whole grows with policies plus pods and not with their product.
 */
import { FAMILIES, type Family, type IpAddress } from '../addr/index.ts';
import type { Labels } from '../model/label-selector.ts';
import type { PolicyWorld } from './evaluate.ts';
import { hostChains, type NodePolicyFacts } from './host/index.ts';
import type { Logging } from './logging.ts';
import { type Member, MembershipTable } from './membership-table.ts';
import { ADDRESS_TYPE, type Membership, membershipsOf } from './memberships.ts';
import {
  comment,
  groupChainName,
  HOST_CHAINS,
  HOST_PODS,
  ISOLATED,
  policyChainName,
  VERDICTS,
} from './names.ts';
import { baseChains, groupChain, policyChain, tierChain } from './rules.ts';
import { isFree, mayBeSelected, type Standing, type Standings, standingsOf, UNKNOWN } from './standing.ts';
import { type Chain, dropSet, emptyTables, type Tables, wantSet } from './tables.ts';
import type { ClusterPolicyFacts, Direction, NodeFacts, PodFacts, PolicyFacts, Tier } from './types.ts';

const DIRECTIONS: readonly Direction[] = ['ingress', 'egress'];

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

/** How a local pod stands. */
export interface LocalState {
  readonly local: LocalPod;
  /** Its namespace has policies, and its labels are not known: nothing passes until they are. */
  readonly unknown: boolean;
  readonly standings: Standings;
}

interface PolicyParts {
  readonly chains: Readonly<
    Record<Family, Readonly<Record<Direction, { name: string; chain: Chain } | undefined>>>
  >;
  readonly memberships: ReadonlyMap<string, () => Membership>;
}

export interface CompilerOptions {
  /** Cut connections may not be picked up midway; see rules.ts. Default true. */
  readonly cutEstablished?: boolean;
  /** This node: addresses of its pods are those of their links, whatever the API says. */
  readonly nodeName: string;
}

export class PolicyCompiler implements PolicyWorld {
  readonly tables: Readonly<Record<Family, Tables>> = { 4: emptyTables(), 6: emptyTables() };
  readonly #options: CompilerOptions;
  readonly #base: Readonly<Record<Family, ReadonlyMap<string, Chain>>>;
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
  readonly #states = new Map<string, LocalState>();
  readonly #memberships = new MembershipTable(this.tables);
  /** Policies of the node itself that are enforced, in order. */
  #host: readonly NodePolicyFacts[] = [];
  /** Which rules report their packets. */
  #logging: Logging = 'off';
  #parts = new WeakMap<PolicyFacts, PolicyParts>();
  readonly #clusterParts = new WeakMap<ClusterPolicyFacts, ReadonlyMap<string, () => Membership>>();
  readonly #dirtyPods = new Set<string>();
  readonly #dirtyNodes = new Set<string>();
  readonly #labelsOf = (namespace: string) => this.#namespaces.get(namespace);
  #gone: LocalPod[] = [];
  #dirtyPolicies = false;
  /** Where pods may stand under other policies than before: in these namespaces, or anywhere. */
  #dirtyNamespaces: Set<string> | 'all' = new Set();
  /** Chains of groups by family and name, with all that they were made of. */
  #groups = new Map<string, { madeOf: string; chain: Chain }>();
  #structure = '';

  constructor(options: CompilerOptions) {
    this.#options = options;
    const cut = options.cutEstablished ?? true;
    this.#base = { 4: baseChains(4, cut), 6: baseChains(6, cut) };
  }

  /** What is reported from the next compile() on. */
  setLogging(logging: Logging): void {
    if (this.#logging === logging) return;
    this.#logging = logging;
    this.#parts = new WeakMap();
    this.#dirtyPolicies = true;
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

  /** Local pods that some policy isolates, or that nothing is known of, by attachment. */
  get isolated(): ReadonlyMap<string, LocalState> {
    return this.#states;
  }

  /** Names of policies that select a pod of this node. */
  activePolicies(): Set<string> {
    const keys = new Set<string>();
    for (const { standings } of this.#states.values())
      for (const direction of DIRECTIONS) for (const key of standings[direction].policies) keys.add(key);
    return keys;
  }

  /** Names of ClusterNetworkPolicies that select a pod of this node. */
  activeClusterPolicies(): Set<string> {
    const names = new Set<string>();
    for (const { standings } of this.#states.values())
      for (const direction of DIRECTIONS)
        for (const tier of ['admin', 'baseline'] as const)
          for (const name of standings[direction][tier]) names.add(name);
    return names;
  }

  /** The pod that has an address now: of this node's pods by their links, of others by the API. */
  addressesOf(key: string, pod: PodFacts): readonly IpAddress[] {
    if (pod.hostNetwork || pod.ended) return [];
    const locals = this.#localsByPod.get(key);
    if (locals) return [...locals.values()].flatMap((local) => (sameUid(local, pod) ? local.addresses : []));
    return pod.node === this.#options.nodeName ? [] : pod.addresses;
  }

  /** Brings the tables up to date with all that was set. Returns whether anything may have changed. */
  compile(): boolean {
    if (!this.#dirtyPolicies && this.#dirtyPods.size === 0 && this.#dirtyNodes.size === 0) return false;
    const dirty = [...this.#dirtyPods];
    this.#dirtyPods.clear();
    for (const local of this.#gone.splice(0)) if (!this.#locals.has(local.id)) this.#forget(local);
    for (const key of dirty) {
      const pod = this.#pods.get(key);
      this.#memberships.updatePod(key, pod, pod ? this.addressesOf(key, pod) : []);
    }
    for (const name of this.#dirtyNodes) this.#memberships.updateNode(name, this.#nodes.get(name));
    this.#dirtyNodes.clear();
    const locals = this.#localsIn(this.#dirtyNamespaces, dirty);
    this.#dirtyNamespaces = new Set();
    for (const local of locals) this.#updateLocal(local);
    this.#updateStructure(this.#dirtyPolicies);
    this.#dirtyPolicies = false;
    this.#updateVerdicts(locals);
    return true;
  }

  /** Local pods of these namespaces, and those of these pods. */
  #localsIn(namespaces: ReadonlySet<string> | 'all', pods: readonly string[]): Set<LocalPod> {
    const locals = [...this.#locals.values()];
    if (namespaces === 'all') return new Set(locals);
    const found = new Set(
      namespaces.size === 0 ? [] : locals.filter(({ namespace }) => namespaces.has(namespace)),
    );
    for (const key of pods) for (const local of this.#localsByPod.get(key)?.values() ?? []) found.add(local);
    return found;
  }

  #updateLocal(local: LocalPod): void {
    const pod = this.#pods.get(`${local.namespace}/${local.name}`);
    if (!pod || !sameUid(local, pod)) {
      const closed = mayBeSelected(local.namespace, this);
      if (closed) this.#states.set(local.id, { local, unknown: true, standings: UNKNOWN });
      else this.#states.delete(local.id);
      return;
    }
    const standings = standingsOf(pod, this);
    if (DIRECTIONS.some((direction) => !isFree(standings[direction])))
      this.#states.set(local.id, { local, unknown: false, standings });
    else this.#states.delete(local.id);
  }

  /** Chains and sets, when the policies in force or the ways they meet in a pod are others than before. */
  #updateStructure(policiesChanged: boolean): void {
    const groups = new Map<string, { direction: Direction; standing: Standing }>();
    for (const { standings } of this.#states.values())
      for (const direction of DIRECTIONS) {
        const standing = standings[direction];
        if (!isFree(standing)) groups.set(groupChainName(standing, direction), { direction, standing });
      }
    const states = [...this.#states.values()];
    const families = FAMILIES.filter((family) =>
      states.some(({ local }) => local.addresses.some((address) => address.family === family)),
    );
    const structure = `${families.join()} ${[...groups.keys()].sort().join('\n')}`;
    if (!policiesChanged && structure === this.#structure) return;
    this.#structure = structure;
    const active = [...this.activePolicies()].sort().map((key) => this.#policies.get(key)!);
    const cluster = [...this.activeClusterPolicies()].map((name) => this.#clusterPolicies.get(name)!);
    this.#updateMemberships(active, cluster);
    const made = new Map<string, { madeOf: string; chain: Chain }>();
    for (const family of FAMILIES) {
      const tables = this.tables[family];
      const chains = new Map<string, Chain>();
      tables.chains = chains;
      for (const [name, chain] of hostChains(this.#host, family, this.#logging)) chains.set(name, chain);
      if (chains.has(HOST_CHAINS.egress))
        wantSet(tables, HOST_PODS, { map: false, key: ADDRESS_TYPE[family] }, 'pods of this node');
      else dropSet(tables, HOST_PODS);
      if (families.includes(family)) {
        for (const [name, chain] of this.#base[family]) chains.set(name, chain);
        for (const direction of DIRECTIONS)
          wantSet(
            tables,
            VERDICTS[direction],
            { map: true, key: ADDRESS_TYPE[family] },
            `local pods by ${direction} policies`,
          );
        wantSet(tables, ISOLATED, { map: false, key: ADDRESS_TYPE[family] }, 'local pods that are isolated');
      } else {
        for (const name of [...Object.values(VERDICTS), ISOLATED]) dropSet(tables, name);
        continue;
      }
      for (const policy of active)
        for (const direction of DIRECTIONS) {
          const part = this.#partsOf(policy).chains[family][direction];
          if (part) chains.set(part.name, part.chain);
        }
      for (const [name, { direction, standing }] of groups) {
        const tierOf = (names: readonly string[]) => {
          const policies = names.map((each) => this.#clusterPolicies.get(each)!);
          const tier = tierChain(policies, direction, family, this.#logging);
          if (tier) chains.set(tier.name, tier.chain);
          return tier?.name;
        };
        const tiers = { admin: tierOf(standing.admin), baseline: tierOf(standing.baseline) };
        chains.set(name, this.#groupChain(family, name, { direction, standing, tiers, chains }, made));
      }
    }
    this.#groups = made;
  }

  /** The chain of a group: the same object as before when it is made of the same, so that nobody compares its rules. */
  #groupChain(
    family: Family,
    name: string,
    {
      direction,
      standing,
      tiers,
      chains,
    }: {
      readonly direction: Direction;
      readonly standing: Standing;
      readonly tiers: Readonly<Record<'admin' | 'baseline', string | undefined>>;
      readonly chains: ReadonlyMap<string, Chain>;
    },
    made: Map<string, { madeOf: string; chain: Chain }>,
  ): Chain {
    const chainOf = (key: string) => {
      const chainName = policyChainName(key, direction);
      return chains.has(chainName) ? chainName : undefined;
    };
    const key = `${family} ${name}`;
    const parts = standing.policies.map((policy) => chainOf(policy) ?? '');
    const madeOf = [this.#logging, tiers.admin, tiers.baseline, ...parts].join(' ');
    let group = this.#groups.get(key);
    if (group?.madeOf !== madeOf)
      group = { madeOf, chain: groupChain(standing, direction, tiers, chainOf, this.#logging) };
    made.set(key, group);
    return group.chain;
  }

  #updateMemberships(active: readonly PolicyFacts[], cluster: readonly ClusterPolicyFacts[]): void {
    const wanted = new Map<string, () => Membership>();
    for (const policy of active)
      for (const [name, make] of this.#partsOf(policy).memberships) wanted.set(name, make);
    for (const policy of cluster)
      for (const [name, make] of this.#clusterPartsOf(policy)) wanted.set(name, make);
    for (const { ingress, egress } of this.#host)
      for (const [name, make] of membershipsOf([...ingress, ...egress], this.#labelsOf))
        wanted.set(name, make);
    this.#memberships.want(wanted, (namespace) => this.#membersOf(namespace), this.#nodes);
  }

  *#membersOf(namespace: string | undefined): Iterable<Member> {
    for (const key of namespace === undefined ? this.#pods.keys() : (this.#podsOf.get(namespace) ?? [])) {
      const pod = this.#pods.get(key)!;
      yield [key, pod, this.addressesOf(key, pod)];
    }
  }

  #updateVerdicts(locals: Iterable<LocalPod>): void {
    for (const local of locals) {
      this.#knowToHost(local);
      const state = this.#states.get(local.id);
      if (!state) {
        this.#forget(local);
        continue;
      }
      const about = comment(`pod ${local.namespace}/${local.name}`);
      for (const address of local.addresses) {
        const { sets } = this.tables[address.family];
        const key = String(address);
        sets.get(ISOLATED)?.put(key, { key: [address], comment: about });
        for (const direction of DIRECTIONS) {
          const map = sets.get(VERDICTS[direction]);
          const standing = state.standings[direction];
          if (state.unknown)
            map?.put(key, {
              key: [address],
              data: { verdict: 'drop' },
              comment: comment(`${about}: not known yet`),
            });
          else if (isFree(standing)) map?.remove(key);
          else
            map?.put(key, {
              key: [address],
              data: { verdict: 'goto', chain: groupChainName(standing, direction) },
              comment: about,
            });
        }
      }
    }
  }

  /** The node reaches its own pods whatever its own policies say. */
  #knowToHost(local: LocalPod): void {
    const about = comment(`pod ${local.namespace}/${local.name}`);
    for (const address of local.addresses)
      this.tables[address.family].sets
        .get(HOST_PODS)
        ?.put(String(address), { key: [address], comment: about });
  }

  /** Takes a pod's addresses out of the maps, unless another attachment has them by now. */
  #forget(local: LocalPod): void {
    const { id } = local;
    this.#states.delete(id);
    for (const address of local.addresses) {
      const hostPods = this.tables[address.family].sets.get(HOST_PODS);
      if (hostPods?.elements.has(String(address)) && !this.#locals.has(id)) {
        const others = [...this.#locals.values()].flatMap((other) => other.addresses);
        if (!others.some((other) => other.equals(address))) hostPods.remove(String(address));
      }
      if (!this.tables[address.family].sets.get(ISOLATED)?.elements.has(String(address))) continue;
      const taken = [...this.#states.values()].some(
        (state) => state.local.id !== id && state.local.addresses.some((other) => other.equals(address)),
      );
      if (taken) continue;
      const { sets } = this.tables[address.family];
      for (const name of [ISOLATED, ...Object.values(VERDICTS)]) sets.get(name)?.remove(String(address));
    }
  }

  #clusterPartsOf(policy: ClusterPolicyFacts): ReadonlyMap<string, () => Membership> {
    let parts = this.#clusterParts.get(policy);
    if (!parts) {
      parts = membershipsOf([...policy.ingress, ...policy.egress], this.#labelsOf);
      this.#clusterParts.set(policy, parts);
    }
    return parts;
  }

  #partsOf(policy: PolicyFacts): PolicyParts {
    let parts = this.#parts.get(policy);
    if (!parts) {
      const of = (family: Family) => ({
        ingress: policyChain(policy, 'ingress', family, this.#logging),
        egress: policyChain(policy, 'egress', family, this.#logging),
      });
      parts = {
        chains: { 4: of(4), 6: of(6) },
        memberships: membershipsOf(
          DIRECTIONS.flatMap((direction) => policy[direction] ?? []),
          this.#labelsOf,
        ),
      };
      this.#parts.set(policy, parts);
    }
    return parts;
  }
}

/** Whether the API's pod is the one that was attached: a name comes again with another uid. */
function sameUid(local: LocalPod, pod: PodFacts): boolean {
  return local.uid === '' || pod.uid === '' || local.uid === pod.uid;
}
