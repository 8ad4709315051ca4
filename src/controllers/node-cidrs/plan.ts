/** Gives each Node its pod networks out of the cluster's. Pure. */
import { type Cidr, type Family, tryParseCidr } from '../../addr/index.ts';
import { controllersError } from '../../errors/controllers.ts';
import type { NodeView } from '../views.ts';

/** A network of the cluster and the prefix length of what a node gets of it. */
export interface CidrPool {
  network: Cidr;
  nodePrefixLength: number;
}

export interface CidrAssignment {
  node: NodeView;
  podCidrs: string[];
  /** Why networks that the Node had are replaced; told as an Event. */
  repair?: string;
}

/** What is wrong with a Node's networks and stays so; told as an Event, since networks in use cannot be taken away. */
export interface CidrProblem {
  node: NodeView;
  reason: 'CIDRNotAvailable' | 'CIDRDuplicate' | 'CIDROutOfRange' | 'CIDRInvalid';
  message: string;
}

export interface NodeCidrPlan {
  assignments: CidrAssignment[];
  problems: CidrProblem[];
}

/** The pools of the options. Throws CONTROLLER_BAD_CIDR, CONTROLLER_CIDRS_OVERLAP, CONTROLLER_BAD_NODE_MASK. */
export function cidrPools(options: {
  clusterCidrs: readonly string[];
  serviceCidrs?: readonly string[];
  nodeMaskV4: number;
  nodeMaskV6: number;
}): CidrPool[] {
  const clusterOption = '--cluster-cidr';
  const all: { option: string; network: Cidr }[] = [];
  const read = (option: string, texts: readonly string[]) => {
    for (const cidr of texts) {
      const network = tryParseCidr(cidr);
      if (!network)
        throw controllersError('CONTROLLER_BAD_CIDR', {
          option,
          cidr,
          why: 'it is not a network in the form address/length with no bits set after the prefix',
        });
      for (const other of all)
        if (other.network.overlaps(network))
          throw controllersError('CONTROLLER_CIDRS_OVERLAP', {
            first: other.network.toString(),
            firstOption: other.option,
            second: cidr,
            secondOption: option,
          });
      all.push({ option, network });
    }
  };
  read(clusterOption, options.clusterCidrs);
  read('--service-cidr', options.serviceCidrs ?? []);
  return all
    .filter(({ option }) => option === clusterOption)
    .map(({ network }) => {
      const v4 = network.family === 4;
      const mask = v4 ? options.nodeMaskV4 : options.nodeMaskV6;
      const longest = v4 ? 30 : 126;
      if (!Number.isInteger(mask) || mask < network.prefixLength || mask > longest)
        throw controllersError('CONTROLLER_BAD_NODE_MASK', {
          option: v4 ? '--node-cidr-mask-size-ipv4' : '--node-cidr-mask-size-ipv6',
          mask,
          cidr: network.toString(),
        });
      return { network, nodePrefixLength: mask };
    });
}

/**
 * One network of each family for each Node that has none. Networks of Nodes that are gone are free again, but the
 * one given out longest ago is taken first: peers may still have routes to the old owner. `cursors` remembers
 * where each pool stands and is moved on.
 * Oldest Nodes first, so that of two with the same network the older one is in the right. The younger one gets
 * another network as soon as `isEmpty` says that no pod lives in the one it has.
 */
export function planNodeCidrs(
  nodes: Iterable<NodeView>,
  pools: readonly CidrPool[],
  cursors: Map<CidrPool, bigint>,
  isEmpty: (node: NodeView) => boolean = () => false,
): NodeCidrPlan {
  const plan: NodeCidrPlan = { assignments: [], problems: [] };
  const sorted = [...nodes].sort((a, b) => a.createdAtMs - b.createdAtMs || (a.name < b.name ? -1 : 1));
  const owned = new Owners(pools);
  const wanting: { node: NodeView; kept: Cidr[]; faults: string[] }[] = [];
  for (const node of sorted) {
    const kept: Cidr[] = [];
    const faults: string[] = [];
    for (const text of node.podCidrs) {
      const network = tryParseCidr(text);
      const other = network && owned.overlapping(network);
      const fault = !network
        ? `podCIDR "${text}" is no network`
        : other !== undefined && `podCIDR ${text} overlaps that of Node "${other}"`;
      if (fault) {
        if (!node.deleting && isEmpty(node)) {
          faults.push(fault);
          continue;
        }
        plan.problems.push({
          node,
          reason: network ? 'CIDRDuplicate' : 'CIDRInvalid',
          message: `${fault}; the Node gets another once no pod runs on it: drain it`,
        });
      }
      if (!network) continue;
      kept.push(network);
      if (!owned.add(network, other ?? node.name))
        plan.problems.push({
          node,
          reason: 'CIDROutOfRange',
          message: `podCIDR ${text} is outside of the cluster's networks ${pools.map((one) => one.network).join(',')}`,
        });
    }
    if (!node.deleting && (node.podCidrs.length === 0 || faults.length > 0))
      wanting.push({ node, kept, faults });
  }
  const families = [...new Set(pools.map((pool) => pool.network.family))];
  for (const { node, kept, faults } of wanting) {
    const got = families.map(
      (family) =>
        kept.find((network) => network.family === family) ?? nextFree(family, pools, owned, cursors),
    );
    if (got.some((one) => one === undefined)) {
      const lacking = families.filter((_, index) => got[index] === undefined);
      plan.problems.push({
        node,
        reason: 'CIDRNotAvailable',
        message: `No free ${lacking.map((family) => `IPv${family}`).join(' and ')} network is left in the cluster's ${pools.map((one) => one.network).join(',')}`,
      });
      continue;
    }
    const podCidrs = got.map((one) => one!.toString());
    plan.assignments.push({
      node,
      podCidrs,
      ...(faults.length > 0 && {
        repair: `${faults.join(', ')}; no pod lives there, the Node has ${podCidrs.join(' and ')} now`,
      }),
    });
  }
  return plan;
}

/** Which networks belong to whom. Those of a pool's usual length overlap only when they are equal. */
class Owners {
  readonly #pools: readonly CidrPool[];
  readonly #taken: Map<CidrPool, Set<bigint>>;
  readonly #byText = new Map<string, string>();
  readonly #regular: { network: Cidr; node: string }[] = [];
  /** Those that are not of a pool's usual length, for which a walk is needed. */
  readonly #odd: { network: Cidr; node: string }[] = [];

  constructor(pools: readonly CidrPool[]) {
    this.#pools = pools;
    this.#taken = new Map(pools.map((pool) => [pool, new Set()]));
  }

  /** The Node that has a part of this network already. */
  overlapping(network: Cidr): string | undefined {
    const candidates = this.#isRegular(network) ? this.#odd : [...this.#odd, ...this.#regular];
    return (
      this.#byText.get(network.toString()) ??
      candidates.find((owner) => owner.network.overlaps(network))?.node
    );
  }

  /** Notes an owner. @returns false when the network is in no pool */
  add(network: Cidr, node: string): boolean {
    const pool = this.#poolOf(network);
    if (pool) markTaken(pool, network, this.#taken.get(pool)!);
    this.#byText.set(network.toString(), node);
    (this.#isRegular(network) ? this.#regular : this.#odd).push({ network, node });
    return pool !== undefined;
  }

  /** Takes number `index` of a pool, unless somebody has it or lies around it. */
  take(pool: CidrPool, index: bigint): Cidr | undefined {
    const used = this.#taken.get(pool)!;
    if (used.has(index)) return undefined;
    used.add(index);
    const network = pool.network.subnet(pool.nodePrefixLength, index);
    // Some Node may have a network around the whole pool, e.g. since --cluster-cidr was changed.
    return this.#odd.some((owner) => owner.network.overlaps(network)) ? undefined : network;
  }

  #poolOf(network: Cidr): CidrPool | undefined {
    return this.#pools.find((candidate) => candidate.network.contains(network));
  }

  #isRegular(network: Cidr): boolean {
    return this.#poolOf(network)?.nodePrefixLength === network.prefixLength;
  }
}

/** Marks the numbers of all node networks that `network` touches. */
function markTaken(pool: CidrPool, network: Cidr, taken: Set<bigint>): void {
  const shift = BigInt((network.family === 4 ? 32 : 128) - pool.nodePrefixLength);
  const base = BigInt(pool.network.address.value);
  const first = (BigInt(network.address.value) - base) >> shift;
  const last = (BigInt(network.last.value) - base) >> shift;
  for (let index = first; index <= last; index++) taken.add(index);
}

function nextFree(
  family: Family,
  pools: readonly CidrPool[],
  owned: Owners,
  cursors: Map<CidrPool, bigint>,
): Cidr | undefined {
  for (const pool of pools) {
    if (pool.network.family !== family) continue;
    const count = pool.network.subnetCount(pool.nodePrefixLength);
    const start = cursors.get(pool) ?? 0n;
    for (let step = 0n; step < count; step++) {
      const index = (start + step) % count;
      const network = owned.take(pool, index);
      if (!network) continue;
      cursors.set(pool, (index + 1n) % count);
      return network;
    }
  }
  return undefined;
}
