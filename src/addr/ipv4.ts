import { addrError } from '../errors/addr.ts';

/** An IPv4 address as the unsigned number that it is: 10.0.0.1 is 0x0a000001. */
export type Ipv4 = number & { readonly __brand: 'Ipv4' };

const DOT = 46;
const ZERO = 48;

/** The address in `text`, or the reason why it is none. Allocation-free, because lists of addresses are long. */
export function readIpv4(text: string): Ipv4 | string {
  let value = 0;
  let part = 0;
  let digits = 0;
  let parts = 0;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === DOT) {
      if (digits === 0) return 'a part is empty';
      if (++parts > 3) return 'want four parts';
      value = value * 256 + part;
      part = 0;
      digits = 0;
    } else if (code >= ZERO && code <= ZERO + 9) {
      if (digits > 0 && part === 0) return 'a part has a leading zero';
      part = part * 10 + (code - ZERO);
      if (part > 255) return 'a part is above 255';
      digits++;
    } else return `unexpected character ${JSON.stringify(text[at])}`;
  }
  if (parts !== 3) return 'want four parts';
  if (digits === 0) return 'a part is empty';
  return (value * 256 + part) as Ipv4;
}

/** Reads dotted decimal. Throws ADDR_BAD_IP. */
export function parseIpv4(text: string): Ipv4 {
  const read = readIpv4(text);
  if (typeof read === 'string') throw addrError('ADDR_BAD_IP', { text, why: read });
  return read;
}

export function formatIpv4(value: number): string {
  return `${value >>> 24}.${(value >>> 16) & 255}.${(value >>> 8) & 255}.${value & 255}`;
}

/** The netmask of a prefix length, as an unsigned number: 24 → 0xffffff00. */
export function ipv4Mask(prefixLength: number): number {
  return prefixLength === 0 ? 0 : (0xffff_ffff << (32 - prefixLength)) >>> 0;
}
