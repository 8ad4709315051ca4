/**
 * Source addresses of pods in nftables, where no program at the pod's link looks at them. Pure.
 *
 *     source_links   poe3f9a1b2c3d                   links that are asked
 *     source_pods    poe3f9a1b2c3d . 10.244.1.5      what each may send with
 *
 *     source_prerouting   iifname @source_links, and iifname . ip saddr in no element ─► source_other ─► drop
 */
import { type Cidr, type Family, type IpAddress, parseCidr } from '../addr/index.ts';
import {
  COUNTER,
  DROP,
  goTo,
  inCidrs,
  inSet,
  type NftPart,
  type NftRule,
  RETURN,
  ruleOf,
} from '../kernel/nft/index.ts';
import type { PodLinkKind } from './kinds.ts';
import { BRIDGE_NAME } from './types.ts';

const TABLE = 'portolan';
const PREFIX = 'source_';

/** Comment of the rule that counts. */
export const SPOOFED = "pods: a source address that is not the pod's own";

/** A pod link, as far as its packets' sources go. */
export interface SourceLink {
  readonly hostLink: string;
  readonly addresses: readonly IpAddress[];
  /** Ports of the bridge come in by the bridge: there a pod may have any address of its node's pods. */
  readonly kind?: string;
}

function interfaceOf({ hostLink, kind }: SourceLink): string {
  return kind === ('bridge' satisfies PodLinkKind) ? BRIDGE_NAME : hostLink;
}

/** NF_IP_PRI_RAW, before conntrack: what is dropped shall leave nothing behind. */
const RAW = -300;

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
  const at = { family: ip, table: TABLE, prefix: PREFIX } as const;
  if (links.length === 0) return { ...at, sets: [], chains: [] };
  const sorted = links.toSorted((a, b) => (a.hostLink < b.hostLink ? -1 : 1));
  const names = [...new Set(sorted.map(interfaceOf))];
  return {
    ...at,
    sets: [
      {
        name: `${PREFIX}links`,
        map: false,
        key: 'ifname',
        comment: 'links of pods',
        elements: names.map((name) => ({ key: [name] })),
      },
      {
        name: `${PREFIX}pods`,
        map: false,
        key: `ifname . ${family === 4 ? 'ipv4_addr' : 'ipv6_addr'}`,
        comment: 'what each pod may send with',
        elements: sorted.flatMap((link) =>
          link.addresses
            .filter((address) => address.family === family)
            .map((address) => ({ key: [interfaceOf(link), address] })),
        ),
      },
    ],
    chains: [
      {
        name: `${PREFIX}other`,
        rules: [...(family === 6 ? ofTheLink() : []), ruleOf([COUNTER, DROP], SPOOFED)],
      },
      {
        name: `${PREFIX}prerouting`,
        hook: { type: 'filter', hook: 'prerouting', priority: RAW, policy: 'accept' },
        rules: [
          ruleOf(
            [
              inSet(['iifname'], `${PREFIX}links`),
              { kind: 'lookup', fields: ['iifname', `${ip} saddr`], set: `${PREFIX}pods`, not: true },
              goTo(`${PREFIX}other`),
            ],
            'pods: sends with an address that is none of its own',
          ),
        ],
      },
    ],
  };
}
