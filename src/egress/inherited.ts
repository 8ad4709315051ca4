/**
 * Pods of other nodes that leave by this one, as a former process left them in the kernel: until the API has listed
 * them again, what they send goes on.
 */

import { type Family, IpAddress } from '../addr/index.ts';
import { isNetError } from '../errors/index.ts';
import { type NftElement, type NftRuleset, setOfShape } from '../kernel/nft/index.ts';
import { NFT_TABLE } from '../model/nft-parts.ts';
import { leavingSet, podOfComment } from './rules.ts';
import type { EgressPod } from './types.ts';

/** Throws NFT_LIST_FAILED. */
export function readInherited(ruleset: NftRuleset, families: readonly Family[]): EgressPod[] {
  return families.flatMap((family) => {
    const at = { family: family === 4 ? 'ip' : 'ip6', table: NFT_TABLE } as const;
    try {
      return ruleset.elements(setOfShape(at, leavingSet(family))).flatMap(readPod);
    } catch (error) {
      if (isNetError(error, 'NFT_NO_SUCH_SET')) return [];
      throw error;
    }
  });
}

function readPod({ key, comment }: NftElement): EgressPod[] {
  const name = podOfComment(comment ?? '');
  const [address] = key;
  if (name === undefined || !(address instanceof IpAddress)) return [];
  return [{ name, namespace: name.split('/')[0]!, addresses: [address] }];
}
