/**
 * Policies, pods and namespaces to chains and sets, kept up to date change by change. Only policies that select a pod
 * of this node are compiled; a selection that several rules share is one set, and pods that the same policies select
 * share one chain, so that the whole grows with policies plus pods and not with their product.
 */
import { FAMILIES, type Family } from '../addr/index.ts';
import { ChainMaker, type Structure } from './chain-maker.ts';
import { KnownWorld, type LocalPod, sameUid } from './known-world.ts';
import type { Logging } from './logging.ts';
import { MembershipTable } from './membership-table.ts';
import { comment, groupChainName, HOST_PODS, ISOLATED, SELVES, VERDICTS } from './names.ts';
import { isFree, mayBeSelected, type Standings, standingsOf, UNKNOWN } from './standing.ts';
import { emptyTables, type Tables } from './tables.ts';
import { DIRECTIONS } from './types.ts';

/** How a local pod stands. */
export interface LocalState {
  readonly local: LocalPod;
  /** Its namespace has policies, and its labels are not known: nothing passes until they are. */
  readonly unknown: boolean;
  readonly standings: Standings;
}

export interface CompilerOptions {
  /** Cut connections may not be picked up midway; see rules.ts. Default true. */
  readonly cutEstablished?: boolean;
  /** This node: addresses of its pods are those of their links, whatever the API says. */
  readonly nodeName: string;
}

export class PolicyCompiler extends KnownWorld {
  readonly tables: Readonly<Record<Family, Tables>> = { 4: emptyTables(), 6: emptyTables() };
  readonly #maker: ChainMaker;
  readonly #states = new Map<string, LocalState>();
  readonly #memberships = new MembershipTable(this.tables);
  #structure = '';

  constructor(options: CompilerOptions) {
    super(options.nodeName);
    this.#maker = new ChainMaker(options.cutEstablished ?? true, (namespace) =>
      this.namespaceLabels(namespace),
    );
  }

  /** What is reported from the next compile() on. */
  setLogging(logging: Logging): void {
    if (this.#maker.setLogging(logging)) this.touchPolicies();
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

  /**
   * Brings the tables up to date with all that was set. Returns whether anything may have changed. After an error the
   * tables are to be programmed by nobody: the next call begins anew with what this one had before it.
   */
  compile(): boolean {
    const { dirt } = this;
    if (!dirt) return false;
    for (const local of dirt.gone) if (!this.locals.has(local.id)) this.#forget(local);
    for (const key of dirt.pods) {
      const pod = this.pods.get(key);
      this.#memberships.updatePod(key, pod, pod ? this.addressesOf(key, pod) : []);
    }
    for (const name of dirt.nodes) this.#memberships.updateNode(name, this.nodes.get(name));
    const locals = this.localsIn(dirt.namespaces, dirt.pods);
    for (const local of locals) this.#updateLocal(local);
    this.#updateStructure(dirt.policies);
    // A policy of the node may be new, and with it the set of pods that were there before it.
    if (dirt.policies) for (const local of this.locals.values()) this.#knowToHost(local);
    this.#updateVerdicts(locals);
    this.clean();
    return true;
  }

  #updateLocal(local: LocalPod): void {
    const pod = this.pods.get(`${local.namespace}/${local.name}`);
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
    const groups: Structure['groups'] = new Map(
      [...this.#states.values()].flatMap(({ standings }) =>
        DIRECTIONS.flatMap((direction) => {
          const standing = standings[direction];
          return isFree(standing) ? [] : [[groupChainName(standing, direction), { direction, standing }]];
        }),
      ),
    );
    const states = [...this.#states.values()];
    const families = FAMILIES.filter((family) =>
      states.some(({ local }) => local.addresses.some((address) => address.family === family)),
    );
    const text = `${families.join()} ${[...groups.keys()].sort().join('\n')}`;
    if (!policiesChanged && text === this.#structure) return;
    this.#structure = text;
    const structure: Structure = {
      families,
      groups,
      host: this.host,
      policies: [...this.activePolicies()].sort().map((key) => this.policies.get(key)!),
      clusterPolicies: new Map(
        [...this.activeClusterPolicies()].map((name) => [name, this.clusterPolicies.get(name)!]),
      ),
    };
    const wanted = this.#maker.memberships(structure);
    this.#memberships.want(wanted, (namespace) => this.membersOf(namespace), this.nodes);
    this.#maker.make(structure, this.tables);
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
        sets.get(SELVES)?.put(`${key} ${key}`, { key: [address, address], comment: about });
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
      if (hostPods?.elements.has(String(address)) && !this.locals.has(id)) {
        const others = [...this.locals.values()].flatMap((other) => other.addresses);
        if (!others.some((other) => other.equals(address))) hostPods.remove(String(address));
      }
      if (!this.tables[address.family].sets.get(ISOLATED)?.elements.has(String(address))) continue;
      const taken = [...this.#states.values()].some(
        (state) => state.local.id !== id && state.local.addresses.some((other) => other.equals(address)),
      );
      if (taken) continue;
      const { sets } = this.tables[address.family];
      for (const name of [ISOLATED, ...Object.values(VERDICTS)]) sets.get(name)?.remove(String(address));
      sets.get(SELVES)?.remove(`${address} ${address}`);
    }
  }
}
