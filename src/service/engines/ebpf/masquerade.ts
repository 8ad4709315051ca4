import { masqueradeRules, type NftPart, type NftStatement } from '../../../kernel/nft/index.ts';
import { NFT_TABLE } from '../../../model/nft-parts.ts';

/** Mark of packets whose backend must answer through this node; the same bit as in bpf/lb_node.bpf.c. */
const MARK = 0x20000;

/**
 * Rules that masquerade what lb_from_outside marks, before the overlay's own rules. For NftGuard or writeNftParts(), in
 * each family that the node has.
 */
export function masqueradeParts(): NftPart[] {
  const marked: NftStatement = { kind: 'mark', field: 'meta mark', mask: MARK, value: MARK };
  return (['ip', 'ip6'] as const).map((family) => ({
    family,
    table: NFT_TABLE,
    prefix: 'service_',
    sets: [],
    chains: [
      {
        name: 'service_postrouting',
        hook: { type: 'nat', hook: 'postrouting', priority: 99, policy: 'accept' },
        rules: masqueradeRules([marked], 'service: answers must come back by this node'),
      },
    ],
  }));
}
