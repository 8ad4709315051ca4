import { type Cidr, FAMILIES, type Family, type IpAddress, parseCidr } from '../addr/index.ts';
import { type NetError, nftError } from '../errors/index.ts';
import {
  COUNTER,
  ctState,
  DROP,
  equals,
  inCidrs,
  masqueradeRules,
  type NftChainFound,
  type NftHook,
  type NftPart,
  type NftPartChain,
  type NftPartSet,
  type NftRule,
  type NftStatement,
  RETURN,
  ruleOf,
} from '../kernel/nft/index.ts';
import { NFT_TABLE } from '../model/nft-parts.ts';

/** The table that all parts of Portolan share, each with its own prefix of chains and sets. */
export const OVERLAY_PREFIX = 'overlay_';
/** Before chains of policies and of others, which need not look at it. */
const INVALID_PRIORITY = -10;

/**
 * kube-proxy's mark for packets that it masquerades itself. It is a bit, tested with a mask: others may set more
 * bits. NAT by two owners hits a kernel bug (flannel #1679).
 */
const KUBE_MASQUERADE_MARK = 0x4000;

const MULTICAST: Record<Family, Cidr> = { 4: parseCidr('224.0.0.0/4'), 6: parseCidr('ff00::/8') };

/** What the rules of one family are made from. */
export interface FilterSpec {
  readonly family: Family;
  /** Pod networks of the cluster. */
  readonly clusterCidrs: readonly Cidr[];
  /** Pod networks of this node. */
  readonly ownCidrs: readonly Cidr[];
  readonly masquerade: boolean;
  /** The tunnel of this family: packets to its port are taken from these senders only. */
  readonly tunnel?:
    | { readonly dev: string; readonly port: number; readonly peers: readonly IpAddress[] }
    | undefined;
}

/**
 * The rules of one family: masquerade as flannel means it (C cluster, P this node's pods), and a guard before the
 * tunnel, because a VXLAN device takes packets from anyone who knows its port; its FDB says only where to send.
 *
 *     overlay_postrouting          what happens
 *     marked by kube-proxy         kube-proxy's business
 *     P -> C, C -> P               pod to pod, no NAT
 *     outside -> P                 client address kept
 *     C -> outside                 masquerade, not for multicast
 *     outside -> C                 masquerade: pods elsewhere must answer through this node
 *
 *     overlay_forward
 *     P -> outside, ct invalid     dropped: NAT does not touch it, so it would have a pod's address
 *
 * IPv6 tunnels are guarded in table ip6, by the outer address.
 */
export function filterPart(spec: FilterSpec): NftPart {
  const { family, clusterCidrs, ownCidrs, tunnel } = spec;
  const ip = family === 4 ? 'ip' : 'ip6';
  const peers = `${OVERLAY_PREFIX}peers`;
  const nat = spec.masquerade && clusterCidrs.length > 0 && ownCidrs.length > 0;
  const chains: NftPartChain[] = [];
  if (nat) chains.push(natChain(spec), invalidChain(spec));
  // Before conntrack and other people's chains: a forged packet shall cost nothing.
  const early = (name: string, hook: NftHook['hook'], rule: NftRule): NftPartChain => ({
    name: `${OVERLAY_PREFIX}${name}`,
    hook: { type: 'filter', hook, priority: -310, policy: 'accept' },
    rules: [rule],
  });
  if (tunnel) {
    const notPeer: NftStatement = { kind: 'lookup', fields: [`${ip} saddr`], set: peers, not: true };
    const toTunnel = equals('udp dport', tunnel.port);
    chains.push(
      early(
        'input',
        'input',
        ruleOf([toTunnel, notPeer, COUNTER, DROP], 'overlay: tunnel packet of no peer'),
      ),
    );
    if (ownCidrs.length > 0) {
      const forged = [equals('iifname', tunnel.dev), inCidrs(`${ip} saddr`, ownCidrs), COUNTER, DROP];
      const why = 'overlay: own pod address from the tunnel';
      chains.push(early('prerouting', 'prerouting', ruleOf(forged, why)));
    }
  }
  const members = new Map(tunnel?.peers.map((peer) => [String(peer), peer]));
  const set: NftPartSet = {
    name: peers,
    map: false,
    key: family === 4 ? 'ipv4_addr' : 'ipv6_addr',
    comment: 'nodes that may send by the tunnel',
    elements: [...members.keys()].sort().map((text) => ({ key: [members.get(text)!] })),
  };
  return { family: ip, table: NFT_TABLE, prefix: OVERLAY_PREFIX, sets: tunnel ? [set] : [], chains };
}

function natChain({ family, clusterCidrs, ownCidrs }: FilterSpec): NftPartChain {
  const ip = family === 4 ? 'ip' : 'ip6';
  const from = (cidrs: readonly Cidr[], not = false) => inCidrs(`${ip} saddr`, cidrs, not);
  const to = (cidrs: readonly Cidr[], not = false) => inCidrs(`${ip} daddr`, cidrs, not);
  const marked: NftStatement = {
    kind: 'mark',
    field: 'meta mark',
    mask: KUBE_MASQUERADE_MARK,
    value: KUBE_MASQUERADE_MARK,
  };
  const rule = (comment: string, ...statements: readonly NftStatement[]) =>
    ruleOf(statements, `overlay: ${comment}`);
  return {
    name: `${OVERLAY_PREFIX}postrouting`,
    hook: { type: 'nat', hook: 'postrouting', priority: 100, policy: 'accept' },
    rules: [
      rule('kube-proxy masquerades it', marked, RETURN),
      rule('pod to pod', from(ownCidrs), to(clusterCidrs), RETURN),
      rule('pod to pod', from(clusterCidrs), to(ownCidrs), RETURN),
      rule('from outside to a pod of this node', from(clusterCidrs, true), to(ownCidrs), RETURN),
      ...masqueradeRules([from(clusterCidrs), to([MULTICAST[family]], true)], 'overlay: pods to the outside'),
      ...masqueradeRules(
        [from(clusterCidrs, true), to(clusterCidrs)],
        'overlay: from outside to a pod elsewhere',
      ),
    ],
  };
}

/**
 * What connection tracking cannot place is not translated: a late reset, a segment far outside of the window. Nobody
 * outside could make anything of it with a pod's address; on some links it is taken for an attack.
 */
function invalidChain({ family, clusterCidrs, ownCidrs }: FilterSpec): NftPartChain {
  const ip = family === 4 ? 'ip' : 'ip6';
  const inside = [...clusterCidrs, MULTICAST[family]];
  const match = [ctState('invalid'), inCidrs(`${ip} saddr`, ownCidrs), inCidrs(`${ip} daddr`, inside, true)];
  return {
    name: `${OVERLAY_PREFIX}forward`,
    hook: { type: 'filter', hook: 'forward', priority: INVALID_PRIORITY, policy: 'accept' },
    rules: [
      ruleOf([...match, COUNTER, DROP], 'overlay: of no connection, it would keep the address of its pod'),
    ],
  };
}

/** Rules of no family wanted: what `cleanup` takes away. */
export function emptyFilterParts(): NftPart[] {
  return FAMILIES.map((family) => filterPart({ family, clusterCidrs: [], ownCidrs: [], masquerade: false }));
}

/**
 * Foreign chains that may drop what pods forward: an `accept` of ours ends only our own table, so such a chain has
 * to be named.
 */
export function forwardBlockers(chains: readonly NftChainFound[]): NetError[] {
  return chains
    .filter(({ hook, table }) => hook?.hook === 'forward' && hook.policy === 'drop' && table !== NFT_TABLE)
    .map(({ family, table, name }) =>
      nftError('NFT_FOREIGN_DROP', {
        chain: `${family} ${table} ${name}`,
        why: 'its policy at hook forward is drop',
      }),
    );
}
