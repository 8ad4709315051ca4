/** Reads what firewallReport() needs in the network namespace of this process. */
import { Cidr, parseCidr } from '../../addr/index.ts';
import { listLegacyRules, listNftRules } from '../../kernel/nft-program/index.ts';
import { Rtnl } from '../../kernel/rtnl/index.ts';
import { readSysctl } from '../../kernel/sysctl/index.ts';
import { isDeviceName } from '../../overlay/index.ts';
import { BRIDGE_NAME, isHostLinkName } from '../../podlink/index.ts';
import type { NodeNetwork } from './probes.ts';
import type { FirewallSources } from './report.ts';

/** Throws NFT_MISSING, NFT_REFUSED, NFT_UNREADABLE. */
export async function readFirewalls(): Promise<FirewallSources> {
  const [nft, ip, ip6] = await Promise.all([listNftRules(), listLegacyRules('ip'), listLegacyRules('ip6')]);
  const bridge = (name: string) => readSysctl(`net/bridge/${name}`)?.trim();
  return {
    nft,
    legacy: { ip, ip6 },
    bridge: { ip: bridge('bridge-nf-call-iptables'), ip6: bridge('bridge-nf-call-ip6tables') },
  };
}

/** How long the network of a cluster is that holds a node's /24 and /64, when nobody says. */
const CLUSTER_BITS = { 4: 16, 6: 56 } as const;
/** As the default of `--cluster-cidr`. */
const DEFAULTS = ['10.244.0.0/16', 'fd00:10:244::/56'];

/** The networks of the cluster: as given, else around those of this node, else the defaults. Pure. */
export function clusterCidrsOf({
  podCidrs,
  clusterCidrs,
}: {
  readonly podCidrs: readonly Cidr[];
  readonly clusterCidrs: readonly Cidr[];
}): readonly Cidr[] {
  if (clusterCidrs.length > 0) return clusterCidrs;
  if (podCidrs.length === 0) return DEFAULTS.map(parseCidr);
  return podCidrs.map(({ address, family, prefixLength }) =>
    Cidr.around(address, Math.min(prefixLength, CLUSTER_BITS[family])),
  );
}

/** The node's links as they are; pod networks as they were given, else what the agent said, else the defaults. */
export function nodeNetwork(given: {
  readonly podCidrs: readonly Cidr[];
  readonly clusterCidrs: readonly Cidr[];
}): NodeNetwork {
  using rtnl = Rtnl.open();
  const links = rtnl.links();
  const name = (index: number | undefined) => links.find((link) => link.ifindex === index)?.name;
  const gateway = rtnl
    .routes()
    .find((route) => route.destination.prefixLength === 0 && route.oif !== undefined);
  const other = links.find(
    (link) =>
      link.name !== 'lo' &&
      link.name !== BRIDGE_NAME &&
      !isDeviceName(link.name) &&
      !isHostLinkName(link.name),
  );
  // Of two kinds of pods the bridged ones: they meet all that the routed ones meet, and more.
  const bridge = links.find((link) => link.name === BRIDGE_NAME);
  const ports = links.filter((link) => isHostLinkName(link.name) && link.master === bridge?.ifindex);
  return {
    podCidrs: given.podCidrs,
    clusterCidrs: clusterCidrsOf(given),
    uplink: name(gateway?.oif) ?? other?.name ?? 'eth0',
    tunnel: links.find((link) => isDeviceName(link.name))?.name,
    podLink: (ports[0] ?? links.find((link) => isHostLinkName(link.name)))?.name ?? 'po00000000000',
    podBridge: bridge && BRIDGE_NAME,
  };
}
