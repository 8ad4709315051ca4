/** Everything that egress addresses made in a namespace, found by its numbers and names, and removed. */

import { FAMILIES } from '../addr/index.ts';
import { removeNftParts } from '../kernel/nft/index.ts';
import { RTPROT_PORTOLAN, Rtnl } from '../kernel/rtnl/index.ts';
import { NFT_TABLE } from '../model/nft-parts.ts';
import { EGRESS_PREFIX } from './rules.ts';
import { planSlots } from './slots.ts';

export interface EgressCleanup {
  /** The node's namespace, default the process's own. */
  readonly netns?: number | { readonly fd: number } | undefined;
  readonly dryRun?: boolean;
}

/** Removes rules and tables of ways out, and the part of nftables. Returns the commands for the former. */
export function cleanupEgress({ netns, dryRun }: EgressCleanup): string[] {
  using rtnl = Rtnl.open({ netns });
  const { after } = planSlots([], {
    rules: rtnl.rules(),
    routes: rtnl.routes({ protocol: RTPROT_PORTOLAN }),
  });
  const names = rtnl.nameOf();
  const lines = after.map((change) => change.text(names));
  if (dryRun) return lines;
  // Nobody marks any more before what marked packets need goes.
  removeNftParts(
    FAMILIES.map((family) => ({
      family: family === 4 ? 'ip' : 'ip6',
      table: NFT_TABLE,
      prefix: EGRESS_PREFIX,
      sets: [],
      chains: [],
    })),
    { netns },
  );
  rtnl.mustApply(...after);
  return lines;
}
