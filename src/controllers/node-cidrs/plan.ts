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
}

/** What is wrong with a Node's networks; told as an Event, since networks in use cannot be taken away. */
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
 * Oldest Nodes first, so that of two with the same network the older one is in the right.
 */
export function planNodeCidrs(
  nodes: Iterable<NodeView>,
  pools: readonly CidrPool[],
  cursors: Map<CidrPool, bigint>,
): NodeCidrPlan {
  const plan: NodeCidrPlan = { assignments: [], problems: [] };
  const sorted = [...nodes].sort((a, b) => a.createdAtMs - b.createdAtMs || (a.name < b.name ? -1 : 1));
  const taken = new Map<CidrPool, Set<bigint>>(pools.map((pool) => [pool, new Set()]));
  const owners: { network: Cidr; node: string }[] = [];
  /** Those that are not of a pool's usual length. */
  const odd: { network: Cidr; node: string }[] = [];
  const byText = new Map<string, string>();
  for (const node of sorted)
    for (const text of node.podCidrs) {
      const network = tryParseCidr(text);
      if (!network) {
        plan.problems.push({
          node,
          reason: 'CIDRInvalid',
          message: `Node has podCIDR "${text}", which is no network`,
        });
        continue;
      }
      const pool = pools.find((candidate) => candidate.network.contains(network));
      const regular = pool !== undefined && network.prefixLength === pool.nodePrefixLength;
      // Networks of the usual length overlap only when they are equal; only odd ones need a walk.
      const other =
        byText.get(network.toString()) ??
        (regular ? odd : [...odd, ...owners]).find((owner) => owner.network.overlaps(network))?.node;
      if (other !== undefined)
        plan.problems.push({
          node,
          reason: 'CIDRDuplicate',
          message: `podCIDR ${text} overlaps that of Node "${other}"; delete and register this Node again to get another`,
        });
      if (!pool)
        plan.problems.push({
          node,
          reason: 'CIDROutOfRange',
          message: `podCIDR ${text} is outside of the cluster's networks ${pools.map((one) => one.network).join(',')}`,
        });
      else markTaken(pool, network, taken.get(pool)!);
      byText.set(network.toString(), other ?? node.name);
      (regular ? owners : odd).push({ network, node: node.name });
    }
  const families = [...new Set(pools.map((pool) => pool.network.family))];
  for (const node of sorted) {
    if (node.podCidrs.length > 0 || node.deleting) continue;
    const got = families.map((family) => nextFree(family, pools, taken, cursors, odd));
    if (got.some((one) => one === undefined)) {
      const lacking = families.filter((_, index) => got[index] === undefined);
      plan.problems.push({
        node,
        reason: 'CIDRNotAvailable',
        message: `No free ${lacking.map((family) => `IPv${family}`).join(' and ')} network is left in the cluster's ${pools.map((one) => one.network).join(',')}`,
      });
      continue;
    }
    plan.assignments.push({ node, podCidrs: got.map((one) => one!.toString()) });
  }
  return plan;
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
  taken: Map<CidrPool, Set<bigint>>,
  cursors: Map<CidrPool, bigint>,
  odd: readonly { network: Cidr }[],
): Cidr | undefined {
  for (const pool of pools) {
    if (pool.network.family !== family) continue;
    const used = taken.get(pool)!;
    const count = pool.network.subnetCount(pool.nodePrefixLength);
    const start = cursors.get(pool) ?? 0n;
    for (let step = 0n; step < count; step++) {
      const index = (start + step) % count;
      if (used.has(index)) continue;
      const network = pool.network.subnet(pool.nodePrefixLength, index);
      used.add(index);
      // Some Node may have a network around the whole pool, e.g. since --cluster-cidr was changed.
      if (odd.some((owner) => owner.network.overlaps(network))) continue;
      cursors.set(pool, (index + 1n) % count);
      return network;
    }
  }
  return undefined;
}
