/** Comments of rules, sets and elements, as nft(8) keeps them in user data: type u8, length u8, text with a NUL. Pure. */
import { nftError } from '../../errors/nft.ts';
import { cString, encodeText, textRoom } from '../netlink/index.ts';

/** The length is one byte, and nft allows 128 with the NUL. */
const LONGEST = 127;

/** NFTNL_UDATA_RULE_COMMENT, and the same of elements; sets have another number. */
const UDATA_COMMENT = 0;

/** Throws NFT_VALUE_INVALID. */
export function commentBytes(comment: string, type: number = UDATA_COMMENT): Uint8Array {
  const bytes = new Uint8Array(2 + textRoom(comment));
  const length = encodeText(comment, bytes, 2);
  if (length > LONGEST + 1)
    throw nftError('NFT_VALUE_INVALID', { type: 'comment', value: comment, why: 'longer than 127 bytes' });
  bytes[0] = type;
  bytes[1] = length;
  return bytes.subarray(0, 2 + length);
}

/** The comment of a rule or an element; undefined when it has none. */
export function readComment(userdata: Uint8Array): string | undefined {
  for (let at = 0; at + 2 <= userdata.length; at += 2 + userdata[at + 1]!)
    if (userdata[at] === UDATA_COMMENT) return cString(userdata.subarray(at + 2, at + 2 + userdata[at + 1]!));
  return undefined;
}
