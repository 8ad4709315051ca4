/**
 * Policies, pods and namespaces to chains and sets, kept up to date change by change. Only policies that select a pod
 * of this node are compiled; a selection that several rules share is one set, and pods that the same policies select
 * share one chain, so that the whole grows with policies plus pods and not with their product.
 */
import { FAMILIES, type Family, type IpAddress } from '../addr/index.ts';
import type { NftElement } from '../kernel/nft/index.ts';
import { type Labels, labelSelectorSelects } from '../model/label-selector.ts';
import { type PolicyWorld, selectionSelects } from './evaluate.ts';
import {
  comment,
  groupName,
  ISOLATED,
  namedPortName,
  policyChainName,
  unionChainName,
  VERDICTS,
} from './names.ts';
import { baseChains, policyChain, unionChain } from './rules.ts';
import { type Chain, dropSet, emptyTables, type Tables, wantSet } from './tables.ts';
import type { Direction, PodFacts, PolicyFacts, Selection } from './types.ts';

const DIRECTIONS: readonly Direction[] = ['ingress', 'egress'];
const PROTOCOL_NUMBER = { TCP: 6, UDP: 17, SCTP: 132 } as const;
const ADDRESS_TYPE: Readonly<Record<Family, string>> = { 4: 'ipv4_addr', 6: 'ipv6_addr' };

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
  readonly policies: Readonly<Record<Direction, readonly string[]>>;
}

/** One set that pods are members of, by selection or by a named port. */
interface Membership {
  readonly name: string;
  readonly about: string;
  /** Keys of its elements for a pod that is a member; undefined when it is none. */
  readonly entries: (pod: PodFacts, addresses: readonly IpAddress[]) => Entry[] | undefined;
  readonly setKind: (family: Family) => string;
  /** The only namespace that its members can be in. */
  readonly namespace: string | undefined;
  readonly members: Map<string, Entry[]>;
  /** How many pods have an element: two may hold one address for a moment. */
  readonly counts: Map<string, number>;
}

interface Entry {
  readonly family: Family;
  readonly id: string;
  readonly element: NftElement;
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
  readonly #pods = new Map<string, PodFacts>();
  readonly #podsOf = new Map<string, Set<string>>();
  readonly #namespaces = new Map<string, Labels>();
  readonly #locals = new Map<string, LocalPod>();
  readonly #localsByPod = new Map<string, Map<string, LocalPod>>();
  readonly #states = new Map<string, LocalState>();
  readonly #memberships = new Map<string, Membership>();
  /** The same by the namespace of their members; undefined for those that may be anywhere. */
  readonly #membershipsOf = new Map<string | undefined, Set<Membership>>();
  readonly #parts = new WeakMap<PolicyFacts, PolicyParts>();
  readonly #dirtyPods = new Set<string>();
  #gone: LocalPod[] = [];
  #dirtyPolicies = false;
  #structure = '';

  constructor(options: CompilerOptions) {
    this.#options = options;
    const cut = options.cutEstablished ?? true;
    this.#base = { 4: baseChains(4, cut), 6: baseChains(6, cut) };
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
    for (const { policies } of this.#states.values())
      for (const direction of DIRECTIONS) for (const key of policies[direction]) keys.add(key);
    return keys;
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
    if (!this.#dirtyPolicies && this.#dirtyPods.size === 0) return false;
    const dirty = [...this.#dirtyPods];
    this.#dirtyPods.clear();
    for (const local of this.#gone.splice(0)) if (!this.#locals.has(local.id)) this.#forget(local);
    for (const key of dirty) this.#updateMember(key);
    if (this.#dirtyPolicies) for (const local of this.#locals.values()) this.#updateLocal(local);
    else
      for (const key of dirty)
        for (const local of this.#localsByPod.get(key)?.values() ?? []) this.#updateLocal(local);
    this.#updateStructure(this.#dirtyPolicies);
    const locals = this.#dirtyPolicies
      ? this.#locals.values()
      : dirty.flatMap((key) => [...(this.#localsByPod.get(key)?.values() ?? [])]);
    this.#dirtyPolicies = false;
    this.#updateVerdicts(locals);
    return true;
  }

  #updateMember(key: string): void {
    const pod = this.#pods.get(key);
    const addresses = pod ? this.addressesOf(key, pod) : [];
    const [namespace = ''] = key.split('/', 1);
    for (const list of [this.#membershipsOf.get(namespace), this.#membershipsOf.get(undefined)])
      for (const membership of list ?? []) this.#place(membership, key, pod, addresses);
  }

  #place(
    membership: Membership,
    key: string,
    pod: PodFacts | undefined,
    addresses: readonly IpAddress[],
  ): void {
    const before = membership.members.get(key);
    const now = pod && addresses.length > 0 ? membership.entries(pod, addresses) : undefined;
    if (!before && !now) return;
    for (const entry of now ?? []) {
      const count = membership.counts.get(entry.id) ?? 0;
      membership.counts.set(entry.id, count + 1);
      if (count === 0) this.tables[entry.family].sets.get(membership.name)?.put(entry.id, entry.element);
    }
    for (const entry of before ?? []) {
      const count = membership.counts.get(entry.id)! - 1;
      if (count > 0) membership.counts.set(entry.id, count);
      else {
        membership.counts.delete(entry.id);
        this.tables[entry.family].sets.get(membership.name)?.remove(entry.id);
      }
    }
    if (now) membership.members.set(key, now);
    else membership.members.delete(key);
  }

  #updateLocal(local: LocalPod): void {
    const policies = this.#byNamespace.get(local.namespace);
    const pod = this.#pods.get(`${local.namespace}/${local.name}`);
    if (!policies) {
      this.#states.delete(local.id);
      return;
    }
    if (!pod || !sameUid(local, pod)) {
      this.#states.set(local.id, { local, unknown: true, policies: { ingress: [], egress: [] } });
      return;
    }
    const selecting = [...policies.values()].filter((policy) =>
      labelSelectorSelects(policy.podSelector, pod.labels),
    );
    const keys = (direction: Direction) =>
      selecting
        .filter((policy) => policy[direction] !== undefined)
        .map((policy) => policy.key)
        .sort();
    const state = { local, unknown: false, policies: { ingress: keys('ingress'), egress: keys('egress') } };
    if (state.policies.ingress.length + state.policies.egress.length > 0) this.#states.set(local.id, state);
    else this.#states.delete(local.id);
  }

  /** Chains and sets, when the policies in force or the ways they meet in a pod are others than before. */
  #updateStructure(policiesChanged: boolean): void {
    const unions = new Map<string, { direction: Direction; keys: readonly string[] }>();
    for (const { policies } of this.#states.values())
      for (const direction of DIRECTIONS) {
        const keys = policies[direction];
        if (keys.length > 0) unions.set(`${direction} ${keys.join(' ')}`, { direction, keys });
      }
    const states = [...this.#states.values()];
    const families = FAMILIES.filter((family) =>
      states.some(({ local }) => local.addresses.some((address) => address.family === family)),
    );
    const structure = `${families.join()} ${[...unions.keys()].sort().join('\n')}`;
    if (!policiesChanged && structure === this.#structure) return;
    this.#structure = structure;
    const active = [...this.activePolicies()].sort().map((key) => this.#policies.get(key)!);
    this.#updateMemberships(active);
    for (const family of FAMILIES) {
      const tables = this.tables[family];
      const chains = new Map<string, Chain>();
      tables.chains = chains;
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
      for (const { direction, keys } of unions.values()) {
        const { name, chain } = unionChain(keys, direction, (key) => {
          const chainName = policyChainName(key, direction);
          return chains.has(chainName) ? chainName : undefined;
        });
        chains.set(name, chain);
      }
    }
  }

  #updateMemberships(active: readonly PolicyFacts[]): void {
    const wanted = new Map<string, () => Membership>();
    for (const policy of active)
      for (const [name, make] of this.#partsOf(policy).memberships) wanted.set(name, make);
    for (const [name, membership] of this.#memberships)
      if (!wanted.has(name)) {
        this.#memberships.delete(name);
        this.#membershipsOf.get(membership.namespace)?.delete(membership);
        for (const family of FAMILIES) dropSet(this.tables[family], name);
      }
    for (const [name, make] of wanted) {
      if (this.#memberships.has(name)) continue;
      const membership = make();
      this.#memberships.set(name, membership);
      const siblings = this.#membershipsOf.get(membership.namespace);
      if (siblings) siblings.add(membership);
      else this.#membershipsOf.set(membership.namespace, new Set([membership]));
      for (const family of FAMILIES)
        wantSet(
          this.tables[family],
          name,
          { map: false, key: membership.setKind(family) },
          comment(membership.about),
        );
      const { namespace } = membership;
      for (const key of namespace === undefined ? this.#pods.keys() : (this.#podsOf.get(namespace) ?? [])) {
        const pod = this.#pods.get(key)!;
        this.#place(membership, key, pod, this.addressesOf(key, pod));
      }
    }
  }

  #updateVerdicts(locals: Iterable<LocalPod>): void {
    for (const local of locals) {
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
          const keys = state.policies[direction];
          if (state.unknown)
            map?.put(key, {
              key: [address],
              data: { verdict: 'drop' },
              comment: comment(`${about}: not known yet`),
            });
          else if (keys.length === 0) map?.remove(key);
          else
            map?.put(key, {
              key: [address],
              data: { verdict: 'goto', chain: unionChainName(keys, direction) },
              comment: about,
            });
        }
      }
    }
  }

  /** Takes a pod's addresses out of the maps, unless another attachment has them by now. */
  #forget(local: LocalPod): void {
    const { id } = local;
    this.#states.delete(id);
    for (const address of local.addresses) {
      if (!this.tables[address.family].sets.get(ISOLATED)?.elements.has(String(address))) continue;
      const taken = [...this.#states.values()].some(
        (state) => state.local.id !== id && state.local.addresses.some((other) => other.equals(address)),
      );
      if (taken) continue;
      const { sets } = this.tables[address.family];
      for (const name of [ISOLATED, ...Object.values(VERDICTS)]) sets.get(name)?.remove(String(address));
    }
  }

  #partsOf(policy: PolicyFacts): PolicyParts {
    let parts = this.#parts.get(policy);
    if (!parts) {
      const of = (family: Family) => ({
        ingress: policyChain(policy, 'ingress', family),
        egress: policyChain(policy, 'egress', family),
      });
      parts = { chains: { 4: of(4), 6: of(6) }, memberships: this.#membershipsOfPolicy(policy) };
      this.#parts.set(policy, parts);
    }
    return parts;
  }

  #membershipsOfPolicy(policy: PolicyFacts): Map<string, () => Membership> {
    const found = new Map<string, () => Membership>();
    for (const { peers, ports } of DIRECTIONS.flatMap((direction) => policy[direction] ?? [])) {
      for (const peer of peers ?? [])
        if (peer.kind === 'pods') {
          const { selection } = peer;
          found.set(groupName(selection.id), () => this.#selectionMembership(selection));
        }
      for (const { port, protocol } of ports ?? [])
        if (typeof port === 'string')
          found.set(namedPortName(port, protocol), () => namedPortMembership(port, protocol));
    }
    return found;
  }

  #selectionMembership(selection: Selection): Membership {
    return {
      name: groupName(selection.id),
      about: selection.id,
      namespace: typeof selection.namespaces === 'string' ? selection.namespaces : undefined,
      setKind: (family) => ADDRESS_TYPE[family],
      members: new Map(),
      counts: new Map(),
      entries: (pod, addresses) => {
        if (!selectionSelects(selection, pod, this.#namespaces.get(pod.namespace))) return undefined;
        const about = comment(`pod ${pod.namespace}/${pod.name}`);
        return addresses.map((address) => ({
          family: address.family,
          id: String(address),
          element: { key: [address], comment: about },
        }));
      },
    };
  }
}

function namedPortMembership(name: string, protocol: keyof typeof PROTOCOL_NUMBER): Membership {
  const number = PROTOCOL_NUMBER[protocol];
  return {
    name: namedPortName(name, protocol),
    about: `pods with port ${name}/${protocol}`,
    namespace: undefined,
    setKind: (family) => `${ADDRESS_TYPE[family]} . inet_proto . inet_service`,
    members: new Map(),
    counts: new Map(),
    entries: (pod, addresses) => {
      const ports = new Set(
        pod.ports.filter((each) => each.name === name && each.protocol === protocol).map(({ port }) => port),
      );
      if (ports.size === 0) return undefined;
      const about = comment(`pod ${pod.namespace}/${pod.name}`);
      return addresses.flatMap((address) =>
        [...ports].map((port) => ({
          family: address.family,
          id: `${address} ${number} ${port}`,
          element: { key: [address, number, port], comment: about },
        })),
      );
    },
  };
}

/** Whether the API's pod is the one that was attached: a name comes again with another uid. */
function sameUid(local: LocalPod, pod: PodFacts): boolean {
  return local.uid === '' || pod.uid === '' || local.uid === pod.uid;
}
