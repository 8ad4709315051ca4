/**
 * Source addresses of pods in nftables, where no program at the pod's link looks at them. Pure.
 *
 *     source_links   poe3f9a1b2c3d                   links that are asked
 *     source_pods    poe3f9a1b2c3d . 10.244.1.5      what each may send with
 *     source_ports   02:1f:8e:44:10:07 . 10.244.1.5  the same of ports of the bridge, which all come in by it
 *
 *     source_prerouting   iifname @source_links, and iifname . ip saddr in no element ─► source_other ─► drop
 *                         iifname portolan0, and ether saddr . ip saddr in no element ─► source_other
 *
 * That frames of a port have its pod's MAC, the bridge sees to: ports are locked, from Linux 5.18 on.
 */

import { type Cidr, type Family, type IpAddress, type Mac, parseCidr } from '../addr/index.ts';
import {
  COUNTER,
  DROP,
  equals,
  goTo,
  inCidrs,
  inSet,
  type NftField,
  type NftPart,
  type NftRule,
  type NftStatement,
  RETURN,
  ruleOf,
} from '../kernel/nft/index.ts';
import { NFT_TABLE } from '../model/nft-parts.ts';
import { BRIDGE_NAME, podLinkSpec } from './types.ts';

export const SOURCE_PREFIX = 'source_';

/** Comment of the rule that counts. */
export const SPOOFED = "pods: a source address that is not the pod's own";

/** A pod link, as far as its packets' sources go. */
export interface SourceLink {
  readonly hostLink: string;
  readonly addresses: readonly IpAddress[];
  /** The pod's MAC, where the link is a port of the bridge. */
  readonly bridged?: Mac | undefined;
}

/** The link of an attachment. */
export function sourceLinkOf(attachment: Parameters<typeof podLinkSpec>[0]): SourceLink {
  const { hostLink, addresses, kind, podMac } = podLinkSpec(attachment);
  return { hostLink, addresses, bridged: kind === 'bridge' ? podMac : undefined };
}

/** NF_IP_PRI_RAW, before conntrack: what is dropped shall leave nothing behind. */
const RAW = -300;

/** include/uapi/linux/if_arp.h */
const ARPHRD_ETHER = 1;

const MULTICAST = parseCidr('ff00::/8');
const LINK_LOCAL = parseCidr('fe80::/10');
const UNSPECIFIED = parseCidr('::/128');

/**
 * What IPv6 says on the link itself: neighbour discovery and listener reports from fe80::/10, and before an address is
 * known to be free from :: (RFC 4862 section 5.4, RFC 3590). No node forwards these (RFC 4291 section 2.5).
 */
function ofTheLink(): NftRule[] {
  const fromTo = (from: Cidr, to: readonly Cidr[], comment: string) =>
    ruleOf([inCidrs('ip6 saddr', [from]), inCidrs('ip6 daddr', to), RETURN], `pods: ${comment}`);
  return [
    fromTo(LINK_LOCAL, [MULTICAST, LINK_LOCAL], 'neighbour discovery'),
    fromTo(UNSPECIFIED, [MULTICAST], 'whether an address is free'),
  ];
}

/** The rules of one family; without links there are none. */
export function sourcePart(family: Family, links: readonly SourceLink[]): NftPart {
  const ip = family === 4 ? 'ip' : 'ip6';
  const at = { family: ip, table: NFT_TABLE, prefix: SOURCE_PREFIX } as const;
  if (links.length === 0) return { ...at, sets: [], chains: [] };
  const sorted = links.toSorted((a, b) => (a.hostLink < b.hostLink ? -1 : 1));
  const type = family === 4 ? 'ipv4_addr' : 'ipv6_addr';
  const own = ({ addresses }: SourceLink) => addresses.filter((address) => address.family === family);
  const routed = sorted.filter(({ bridged }) => bridged === undefined);
  const bridged = sorted.flatMap((link) =>
    link.bridged ? [{ mac: link.bridged, addresses: own(link) }] : [],
  );
  const ports = {
    name: `${SOURCE_PREFIX}ports`,
    map: false,
    key: `ether_addr . ${type}`,
    comment: 'what each pod on the bridge may send with',
    elements: bridged.flatMap(({ mac, addresses }) => addresses.map((address) => ({ key: [mac, address] }))),
  };
  const check = (from: readonly NftStatement[], side: NftField, set: string) =>
    ruleOf(
      [
        ...from,
        { kind: 'lookup', fields: [side, `${ip} saddr`], set: `${SOURCE_PREFIX}${set}`, not: true },
        goTo(`${SOURCE_PREFIX}other`),
      ],
      'pods: sends with an address that is none of its own',
    );
  return {
    ...at,
    sets: [
      {
        name: `${SOURCE_PREFIX}links`,
        map: false,
        key: 'ifname',
        comment: 'links of pods',
        elements: routed.map(({ hostLink }) => ({ key: [hostLink] })),
      },
      {
        name: `${SOURCE_PREFIX}pods`,
        map: false,
        key: `ifname . ${type}`,
        comment: 'what each pod may send with',
        elements: routed.flatMap((link) => own(link).map((address) => ({ key: [link.hostLink, address] }))),
      },
      ...(bridged.length > 0 ? [ports] : []),
    ],
    chains: [
      {
        name: `${SOURCE_PREFIX}other`,
        rules: [...(family === 6 ? ofTheLink() : []), ruleOf([COUNTER, DROP], SPOOFED)],
      },
      {
        name: `${SOURCE_PREFIX}prerouting`,
        hook: { type: 'filter', hook: 'prerouting', priority: RAW, policy: 'accept' },
        rules: [
          check([inSet(['iifname'], `${SOURCE_PREFIX}links`)], 'iifname', 'pods'),
          ...(bridged.length > 0
            ? [
                check(
                  [equals('iifname', BRIDGE_NAME), equals('meta iiftype', ARPHRD_ETHER)],
                  'ether saddr',
                  'ports',
                ),
              ]
            : []),
        ],
      },
    ],
  };
}
