/**
 * The chains of the policies in force, of the groups of pods that the same policies select, and of the node itself. What
 * is made of the same is the same object as before, so that nobody compares its rules.
 */
import { FAMILIES, type Family } from '../addr/index.ts';
import type { Labels } from '../model/label-selector.ts';
import { hostChains, type NodePolicyFacts } from './host/index.ts';
import type { Logging } from './logging.ts';
import { ADDRESS_TYPE, type Membership, membershipsOf } from './memberships.ts';
import { HOST_CHAINS, HOST_PODS, ISOLATED, policyChainName, SELVES, VERDICTS } from './names.ts';
import { baseChains, groupChain, policyChain, tierChain } from './rules.ts';
import type { Standing } from './standing.ts';
import { type Chain, dropSet, type Tables, wantSet } from './tables.ts';
import { type ClusterPolicyFacts, DIRECTIONS, type Direction, type PolicyFacts } from './types.ts';

interface PolicyParts {
  readonly chains: Readonly<
    Record<Family, Readonly<Record<Direction, { name: string; chain: Chain } | undefined>>>
  >;
  readonly memberships: ReadonlyMap<string, () => Membership>;
}

/** Policies that pods of this node stand under, and how they meet in them. */
export interface Structure {
  /** Families in which there are such pods. */
  readonly families: readonly Family[];
  readonly policies: readonly PolicyFacts[];
  readonly clusterPolicies: ReadonlyMap<string, ClusterPolicyFacts>;
  /** Policies of the node itself, in order. */
  readonly host: readonly NodePolicyFacts[];
  /** By the name of their chain. */
  readonly groups: ReadonlyMap<string, { readonly direction: Direction; readonly standing: Standing }>;
}

export class ChainMaker {
  readonly #base: Readonly<Record<Family, ReadonlyMap<string, Chain>>>;
  readonly #labelsOf: (namespace: string) => Labels | undefined;
  /** Which rules report their packets. */
  #logging: Logging = 'off';
  #parts = new WeakMap<PolicyFacts, PolicyParts>();
  readonly #clusterParts = new WeakMap<ClusterPolicyFacts, ReadonlyMap<string, () => Membership>>();
  /** Chains of groups by family and name, with all that they were made of. */
  #groups = new Map<string, { madeOf: string; chain: Chain }>();

  constructor(cutEstablished: boolean, labelsOf: (namespace: string) => Labels | undefined) {
    this.#base = { 4: baseChains(4, cutEstablished), 6: baseChains(6, cutEstablished) };
    this.#labelsOf = labelsOf;
  }

  /** Returns whether rules are others now. */
  setLogging(logging: Logging): boolean {
    if (this.#logging === logging) return false;
    this.#logging = logging;
    this.#parts = new WeakMap();
    return true;
  }

  /** Sets that the rules of these policies look into. */
  memberships({ policies, clusterPolicies, host }: Structure): Map<string, () => Membership> {
    const wanted = new Map<string, () => Membership>();
    for (const policy of policies)
      for (const [name, make] of this.#partsOf(policy).memberships) wanted.set(name, make);
    for (const policy of clusterPolicies.values())
      for (const [name, make] of this.#clusterPartsOf(policy)) wanted.set(name, make);
    for (const { ingress, egress } of host)
      for (const [name, make] of membershipsOf([...ingress, ...egress], this.#labelsOf))
        wanted.set(name, make);
    return wanted;
  }

  /** Makes the chains and wants the maps that lead to them. */
  make(structure: Structure, allTables: Readonly<Record<Family, Tables>>): void {
    const made = new Map<string, { madeOf: string; chain: Chain }>();
    for (const family of FAMILIES) {
      const tables = allTables[family];
      const chains = new Map<string, Chain>();
      tables.chains = chains;
      for (const [name, chain] of hostChains(structure.host, family, this.#logging)) chains.set(name, chain);
      if (chains.has(HOST_CHAINS.egress))
        wantSet(tables, HOST_PODS, { map: false, key: ADDRESS_TYPE[family] }, 'pods of this node');
      else dropSet(tables, HOST_PODS);
      if (structure.families.includes(family)) this.#makePods(structure, family, tables, chains, made);
      else for (const name of [...Object.values(VERDICTS), ISOLATED, SELVES]) dropSet(tables, name);
    }
    this.#groups = made;
  }

  #makePods(
    { policies, clusterPolicies, groups }: Structure,
    family: Family,
    tables: Tables,
    chains: Map<string, Chain>,
    made: Map<string, { madeOf: string; chain: Chain }>,
  ): void {
    const key = ADDRESS_TYPE[family];
    for (const [name, chain] of this.#base[family]) chains.set(name, chain);
    for (const direction of DIRECTIONS)
      wantSet(tables, VERDICTS[direction], { map: true, key }, `local pods by ${direction} policies`);
    wantSet(tables, ISOLATED, { map: false, key }, 'local pods that are isolated');
    wantSet(tables, SELVES, { map: false, key: `${key} . ${key}` }, 'isolated pods and themselves');
    for (const policy of policies)
      for (const direction of DIRECTIONS) {
        const part = this.#partsOf(policy).chains[family][direction];
        if (part) chains.set(part.name, part.chain);
      }
    for (const [name, { direction, standing }] of groups) {
      const tierOf = (names: readonly string[]) => {
        const ofTier = names.map((each) => clusterPolicies.get(each)!);
        const tier = tierChain(ofTier, direction, family, this.#logging);
        if (tier) chains.set(tier.name, tier.chain);
        return tier?.name;
      };
      const tiers = { admin: tierOf(standing.admin), baseline: tierOf(standing.baseline) };
      chains.set(name, this.#groupChain(family, name, { direction, standing, tiers, chains }, made));
    }
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
