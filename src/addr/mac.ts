import { addrError } from '../errors/addr.ts';

/** An Ethernet address in canonical text: lower case with colons. Equal addresses are equal strings. */
export type Mac = string & { readonly __brand: 'Mac' };

const TEXT = /^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$/;

/** Reads six pairs of hexadecimal digits with colons. Throws ADDR_BAD_MAC. */
export function parseMac(text: string): Mac {
  if (typeof text !== 'string' || !TEXT.test(text))
    throw addrError('ADDR_BAD_MAC', { text: String(text), why: 'want six pairs of digits with colons' });
  return text.toLowerCase() as Mac;
}

/** From six bytes. Throws ADDR_BAD_MAC. */
export function macFromBytes(bytes: Uint8Array): Mac {
  const hex = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('hex');
  if (bytes.length !== 6)
    throw addrError('ADDR_BAD_MAC', { text: hex.slice(0, 40), why: `want 6 bytes, got ${bytes.length}` });
  return hex.replace(/(..)(?=.)/g, '$1:') as Mac;
}

/** Six bytes; a fresh array. */
export function macBytes(mac: Mac): Uint8Array {
  const bytes = new Uint8Array(6);
  for (let at = 0; at < 6; at++) bytes[at] = Number.parseInt(mac.slice(at * 3, at * 3 + 2), 16);
  return bytes;
}

/**
 * Makes a unicast, locally administered address out of six arbitrary bytes (a hash, randomness): bit 0 of the first
 * byte (group) is cleared, bit 1 (local) set, IEEE 802 section 8.2.
 */
export function localMac(bytes: Uint8Array): Mac {
  const own = Uint8Array.from(bytes.subarray(0, 6));
  own[0] = (own[0]! & 0xfc) | 0x02;
  return macFromBytes(own);
}

/** True for a unicast address that is not all zero: what an interface may have. */
export function isUnicastMac(mac: Mac): boolean {
  return (Number.parseInt(mac.slice(0, 2), 16) & 1) === 0 && mac !== '00:00:00:00:00:00';
}
