import type { NftPart } from '../../../kernel/nft/index.ts';

/** Mark of packets whose backend must answer through this node; the same bit as in bpf/lb_node.bpf.c. */
const MARK = '0x20000';

/**
 * Rules that masquerade what lb_from_outside marks, before the overlay's own rules. For NftGuard or runNft, in each
 * family that the node has.
 */
export function masqueradeParts(): NftPart[] {
  return (['ip', 'ip6'] as const).map((family) => {
    const chain = `${family} portolan service_postrouting`;
    const script = [
      `add table ${family} portolan`,
      // "add" before "delete" makes the delete succeed on a fresh table.
      `add chain ${chain}`,
      `flush chain ${chain}`,
      `delete chain ${chain}`,
      `add chain ${chain} { type nat hook postrouting priority 99; policy accept; }`,
      `add rule ${chain} meta mark & ${MARK} == ${MARK} masquerade fully-random`,
    ];
    return { family, table: 'portolan', prefix: 'service_', script: `${script.join('\n')}\n` };
  });
}
