import { type Cidr, FAMILIES, type Family, type IpAddress } from '../addr/index.ts';
import { type NetError, nftError } from '../errors/index.ts';
import type { NftObject, NftPart } from '../kernel/nft/index.ts';

/** The table that all parts of Portolan share, each with its own prefix of chains and sets. */
export const NFT_TABLE = 'portolan';
const PREFIX = 'overlay_';

/**
 * kube-proxy's mark for packets that it masquerades itself. It is a bit, tested with a mask: others may set more
 * bits. NAT by two owners hits a kernel bug (flannel #1679).
 */
const KUBE_MASQUERADE_MARK = '0x4000';

const MULTICAST: Record<Family, string> = { 4: '224.0.0.0/4', 6: 'ff00::/8' };

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
 * Each run makes the chains anew in one transaction, so a chain of ours with a foreign hook is put right too. IPv6
 * tunnels are guarded in table ip6, by the outer address.
 */
export function filterPart(spec: FilterSpec): NftPart {
  const { family, clusterCidrs, ownCidrs, tunnel } = spec;
  const ip = family === 4 ? 'ip' : 'ip6';
  const table = `${ip} ${NFT_TABLE}`;
  const lines = [`add table ${table}`];
  const chain = (name: string, hook: string, rules: readonly string[]) => {
    // "add" before "delete" makes the delete succeed on a fresh table.
    lines.push(`add chain ${table} ${PREFIX}${name}`);
    lines.push(`flush chain ${table} ${PREFIX}${name}`);
    lines.push(`delete chain ${table} ${PREFIX}${name}`);
    if (rules.length === 0) return;
    lines.push(`add chain ${table} ${PREFIX}${name} { ${hook} }`);
    for (const rule of rules) lines.push(`add rule ${table} ${PREFIX}${name} ${rule}`);
  };
  const c = cidrSet(clusterCidrs);
  const p = cidrSet(ownCidrs);
  const nat = spec.masquerade && clusterCidrs.length > 0 && ownCidrs.length > 0;
  chain(
    'postrouting',
    'type nat hook postrouting priority 100; policy accept;',
    nat
      ? [
          `meta mark & ${KUBE_MASQUERADE_MARK} == ${KUBE_MASQUERADE_MARK} return`,
          `${ip} saddr ${p} ${ip} daddr ${c} return`,
          `${ip} saddr ${c} ${ip} daddr ${p} return`,
          `${ip} saddr != ${c} ${ip} daddr ${p} return`,
          `${ip} saddr ${c} ${ip} daddr != ${MULTICAST[family]} masquerade fully-random`,
          `${ip} saddr != ${c} ${ip} daddr ${c} masquerade fully-random`,
        ]
      : [],
  );
  // Before conntrack and other people's chains: a forged packet shall cost nothing.
  const guard = tunnel ? [`udp dport ${tunnel.port} ${ip} saddr != @${PREFIX}peers counter drop`] : [];
  chain('input', 'type filter hook input priority -310; policy accept;', guard);
  const forged =
    tunnel && ownCidrs.length > 0 ? [`iifname "${tunnel.dev}" ${ip} saddr ${p} counter drop`] : [];
  chain('prerouting', 'type filter hook prerouting priority -310; policy accept;', forged);
  const set = `${table} ${PREFIX}peers`;
  const type = family === 4 ? 'ipv4_addr' : 'ipv6_addr';
  if (tunnel) {
    // The set must stand before the rule that names it; the chain is gone at this point of the transaction.
    const at = lines.findIndex((line) => line.startsWith(`add rule ${table} ${PREFIX}input`));
    const members = [...new Set(tunnel.peers.map(String))].sort();
    const make = [
      `add set ${set} { type ${type}; }`,
      `delete set ${set}`,
      `add set ${set} { type ${type}; }`,
    ];
    if (members.length > 0) make.push(`add element ${set} { ${members.join(', ')} }`);
    lines.splice(at, 0, ...make);
  } else lines.push(`add set ${set} { type ${type}; }`, `delete set ${set}`);
  return { family: ip, table: NFT_TABLE, prefix: PREFIX, script: `${lines.join('\n')}\n` };
}

/** Rules of no family wanted: what `cleanup` applies. */
export function emptyFilterParts(): NftPart[] {
  return FAMILIES.map((family) => filterPart({ family, clusterCidrs: [], ownCidrs: [], masquerade: false }));
}

function cidrSet(cidrs: readonly Cidr[]): string {
  return cidrs.length === 1 ? String(cidrs[0]) : `{ ${cidrs.map(String).sort().join(', ')} }`;
}

/**
 * Foreign chains that may drop what pods forward: an `accept` of ours ends only our own table, so such a chain has
 * to be named. `chains` is the listing of `nft -j list chains`.
 */
export function forwardBlockers(chains: readonly NftObject[]): NetError[] {
  const errors: NetError[] = [];
  for (const { chain } of chains) {
    if (chain?.['hook'] !== 'forward' || chain['policy'] !== 'drop' || chain['table'] === NFT_TABLE) continue;
    const name = `${chain['family']} ${chain['table']} ${chain['name']}`;
    errors.push(nftError('NFT_FOREIGN_DROP', { chain: name, why: 'its policy at hook forward is drop' }));
  }
  return errors;
}
