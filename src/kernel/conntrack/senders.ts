/**
 * Who sends, read from an entry's bytes without reading the rest: of a hundred thousand entries few are about the
 * addresses that somebody asks for, and to make objects of all of them took three quarters of the time. Pure.
 */
import type { IpAddress } from '../../addr/index.ts';

const NFGENMSG = 4;
/** CTA_TUPLE_ORIG, CTA_TUPLE_REPLY; the highest two bits of a type are flags. */
const TUPLES = [1, 2] as const;
const CTA_TUPLE_IP = 1;
const CTA_IP_V4_SRC = 1;
const CTA_IP_V6_SRC = 3;
const TYPE_MASK = 0x3fff;

/** Addresses as texts of their bytes. */
export type Senders = ReadonlySet<string>;

export function sendersOf(addresses: Iterable<IpAddress>): Senders {
  return new Set(Array.from(addresses, (address) => latin1(address.toBytes(), 0, address.toBytes().length)));
}

/** Whether the first packet or the answers come from one of these; never false for an entry that readEntry() would read so. */
export function isFrom(body: Uint8Array, senders: Senders): boolean {
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  return TUPLES.some((tuple) => {
    const at = find(view, NFGENMSG, body.length, tuple);
    const ip = at && find(view, at.from, at.to, CTA_TUPLE_IP);
    const source =
      ip && (find(view, ip.from, ip.to, CTA_IP_V4_SRC) ?? find(view, ip.from, ip.to, CTA_IP_V6_SRC));
    return source !== undefined && senders.has(latin1(body, source.from, source.to));
  });
}

/** Where the value of an attribute is among those from `from` to `to`. */
function find(
  view: DataView,
  from: number,
  to: number,
  type: number,
): { from: number; to: number } | undefined {
  for (let at = from; at + 4 <= to; ) {
    const length = view.getUint16(at, true);
    if (length < 4 || at + length > to) return undefined;
    if ((view.getUint16(at + 2, true) & TYPE_MASK) === type) return { from: at + 4, to: at + length };
    at += (length + 3) & ~3;
  }
  return undefined;
}

function latin1(bytes: Uint8Array, from: number, to: number): string {
  let text = '';
  for (let at = from; at < to; at++) text += String.fromCharCode(bytes[at]!);
  return text;
}
