import { entry, errorsOf } from './net-error.ts';

/** nftables by its own program. */
export const nftCatalogue = {
  NFT_MISSING: entry(
    (c: { program: string }) => `Cannot run "${c.program}": it is not installed`,
    () => 'Install it with "apt-get install nftables util-linux"',
  ),
  NFT_REFUSED: entry(
    (c: { what: string; said: string }) => `Cannot ${c.what}: nft says: ${c.said}`,
    () => 'Nothing of the transaction was applied; "nft -c -f FILE" checks a script without applying it',
  ),
  NFT_UNREADABLE: entry(
    (c: { what: string; why: string }) => `Cannot ${c.what}: nft's answer is not understood: ${c.why}`,
    () => 'Compare "nft --version" with 1.0.6, and report it',
  ),
  NFT_FOREIGN_DROP: entry(
    (c: { chain: string; why: string }) =>
      `Pod traffic may be dropped by the foreign chain "${c.chain}": ${c.why}`,
    (c) =>
      `Accept the pod network there, e.g. "nft insert rule ${c.chain} ip saddr 10.244.0.0/16 accept", and the same for daddr`,
  ),
} as const;

export const nftError = errorsOf(nftCatalogue);
