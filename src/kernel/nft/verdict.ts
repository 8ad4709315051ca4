/**
 * Verdicts as nf_tables writes them, in elements of maps, in rules and in traces. Pure.
 *
 *   NFTA_DATA_VERDICT { NFTA_VERDICT_CODE be32, NFTA_VERDICT_CHAIN text }
 *
 * Source: include/uapi/linux/netfilter/nf_tables.h.
 */
import { viewOf } from '../../codec/index.ts';
import { cString, readAttributes } from '../netlink/index.ts';

/** enum nft_data_attributes */
export const NFTA_DATA = { VALUE: 1, VERDICT: 2 } as const;
/** enum nft_verdict_attributes */
export const NFTA_VERDICT = { CODE: 1, CHAIN: 2 } as const;

/** NF_DROP, NF_ACCEPT and enum nft_verdicts. */
export const VERDICT_CODES = { drop: 0, accept: 1, continue: -1, jump: -3, goto: -4, return: -5 } as const;

/** What is to happen to a packet. */
export type NftVerdict =
  | { readonly verdict: 'accept' | 'drop' | 'return' | 'continue' }
  | { readonly verdict: 'jump' | 'goto'; readonly chain: string };

/** Code and chain of the content of a NFTA_DATA_VERDICT, undefined where they are not told. Throws NETLINK_MALFORMED. */
export function readVerdict(bytes: Uint8Array): { code: number | undefined; chain: string | undefined } {
  let code: number | undefined;
  let chain: string | undefined;
  readAttributes(bytes, 0, 'a verdict', (attribute, value) => {
    if (attribute === NFTA_VERDICT.CODE && value.length >= 4) code = viewOf(value).getInt32(0);
    else if (attribute === NFTA_VERDICT.CHAIN) chain = cString(value);
  });
  return { code, chain };
}
