/** Who shares tables `ip portolan` and `ip6 portolan`. */

export const NFT_TABLE = 'portolan';

/** What names of chains and sets begin with, by the part of Portolan that keeps them. */
export const NFT_PREFIXES = ['egress_', 'overlay_', 'policy_', 'service_', 'source_'] as const;
