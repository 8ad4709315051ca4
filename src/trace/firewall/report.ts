/** What other people's firewalls do to the packets of a node. Pure. */

import type { NftObject } from '../../kernel/nft-program/index.ts';
import { NFT_TABLE } from '../../model/nft-parts.ts';
import { chainsOfIptables } from './iptables-rules.ts';
import { judge } from './judge.ts';
import { chainsOfNft } from './nft-rules.ts';
import { findingOf, type NodeNetwork, probesOf } from './probes.ts';
import type { Finding } from './types.ts';

/** What the kernel and the tools say. */
export interface FirewallSources {
  readonly nft: readonly NftObject[];
  /** Output of iptables-legacy-save and ip6tables-legacy-save; empty when there are no such tables. */
  readonly legacy: Readonly<Record<'ip' | 'ip6', string>>;
  /** Values of net.bridge.bridge-nf-call-iptables and -ip6tables; undefined without br_netfilter. */
  readonly bridge: Readonly<Record<'ip' | 'ip6', string | undefined>>;
}

export interface FirewallReport {
  /** Whether nothing surely drops what a node needs. */
  readonly healthy: boolean;
  /** Packets that were asked about. */
  readonly probes: number;
  /** Foreign base chains that they meet. */
  readonly chains: readonly string[];
  readonly findings: readonly Finding[];
  readonly notes: readonly string[];
}

/** Services of the nftables engine, whose packets conntrack translates. */
const SERVICES_TABLE = 'portolan-services';
const OWN_TABLES: ReadonlySet<string> = new Set([NFT_TABLE, SERVICES_TABLE]);

export function firewallReport(sources: FirewallSources, node: NodeNetwork): FirewallReport {
  const chains = [
    ...chainsOfNft(sources.nft, OWN_TABLES),
    ...chainsOfIptables(sources.legacy.ip, 'ip'),
    ...chainsOfIptables(sources.legacy.ip6, 'ip6'),
  ];
  const byConntrack = sources.nft.some(
    ({ table }) => (table as { name?: unknown } | undefined)?.name === SERVICES_TABLE,
  );
  const probes = probesOf(node, byConntrack);
  const findings = probes.flatMap((probe) => {
    const found = judge(chains, probe);
    // A sure drop makes the doubtful ones beside it idle.
    const sure = found.filter(({ certain }) => certain);
    return (sure.length > 0 ? sure : found).map((each) => findingOf(probe, each, node));
  });
  findings.sort((a, b) => Number(a.says === 'may drop') - Number(b.says === 'may drop'));
  return {
    healthy: findings.every(({ says }) => says !== 'drops'),
    probes: probes.length,
    chains: chains
      .filter(({ hook }) => hook !== undefined)
      .map(({ tool, table, name, hook, policy }) => `${tool} ${table} ${name} (${hook}, policy ${policy})`),
    findings,
    notes: notesOf(sources, node),
  };
}

function notesOf({ bridge, legacy, nft }: FirewallSources, { podBridge }: NodeNetwork): string[] {
  const notes: string[] = [];
  if (podBridge !== undefined)
    notes.push(
      `pods are isolated ports of ${podBridge} and routed: rules of IP see their packets once, ${bridge.ip === undefined ? 'without br_netfilter' : `with net.bridge.bridge-nf-call-iptables=${bridge.ip}`} as otherwise`,
    );
  if (bridge.ip === undefined)
    notes.push('br_netfilter is not loaded: packets that only cross a bridge meet none of these rules');
  else
    notes.push(
      `br_netfilter is loaded: bridged packets ${bridge.ip === '1' ? 'meet the forward chains, too' : 'meet none of these rules'}`,
    );
  const compat = nft.some((object) => {
    const table = object['table'];
    return table?.['name'] === 'filter' && /^ip6?$/.test(String(table['family']));
  });
  if (compat && (legacy.ip || legacy.ip6))
    notes.push('both iptables-legacy and iptables-nft have rules: a packet has to pass both');
  return notes;
}
