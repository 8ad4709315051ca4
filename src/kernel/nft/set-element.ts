/**
 * Elements of nftables sets and maps as bytes. Pure.
 *
 *   LIST_ELEM { KEY {VALUE bytes}, KEY_END {VALUE bytes}, DATA {VALUE bytes | VERDICT {CODE, CHAIN}},
 *               FLAGS be32, TIMEOUT be64 ms, EXPIRATION be64 ms, USERDATA {type u8, length u8, text} }
 *
 * An interval of a plain set is two elements: its first value, and the value behind its last with flag INTERVAL_END.
 * An interval of a concatenation is one element with KEY and KEY_END, the last value included.
 * Source: include/uapi/linux/netfilter/nf_tables.h; nftables src/segtree.c.
 */
import { viewOf } from '../../codec/index.ts';
import { nftError } from '../../errors/nft.ts';
import { encodeText, readAttributes, textRoom } from '../netlink/index.ts';
import { commentBytes, readComment } from './comment.ts';
import { type Datum, type DatumType, readParts, sizeOf, writeParts } from './datum.ts';
import { readCounter, readExpression } from './read-expression.ts';
import { NFTA_DATA, NFTA_VERDICT, type NftVerdict, readVerdict, VERDICT_CODES } from './verdict.ts';

/** A set or map as the kernel knows it. */
export interface NftSet {
  readonly family: NftFamily;
  readonly table: string;
  readonly name: string;
  readonly key: readonly DatumType[];
  /** Types of a map's values, `verdict` for a verdict map, undefined for a set. */
  readonly data: readonly DatumType[] | 'verdict' | undefined;
  readonly interval: boolean;
  /** Elements have an end of life; their default in milliseconds is `timeoutMs`. */
  readonly timeoutMs: number | undefined;
}

export type NftFamily = 'inet' | 'ip' | 'ip6' | 'arp' | 'bridge' | 'netdev';

export interface NftElement {
  readonly key: readonly Datum[];
  /** Last value of an interval, included. */
  readonly keyEnd?: readonly Datum[];
  readonly data?: readonly Datum[] | NftVerdict;
  readonly timeoutMs?: number;
  /** Time left; only in lists. */
  readonly expiresMs?: number;
  readonly comment?: string;
  /** What its counter has counted; only in lists. */
  readonly packets?: number;
}

const NFTA_LIST_ELEM = 1;
const NFTA_SET_ELEM = {
  KEY: 1,
  DATA: 2,
  FLAGS: 3,
  TIMEOUT: 4,
  EXPIRATION: 5,
  USERDATA: 6,
  EXPR: 7,
  KEY_END: 10,
} as const;
const NESTED = 0x8000;
export const INTERVAL_END = 1;
const CATCHALL = 2;

/** Appends elements to one growing block, without a call of a function for each attribute. */
export class ElementWriter {
  readonly #set: NftSet;
  readonly #keySize: number;
  readonly #dataSize: number;
  #bytes: Uint8Array;
  #view: DataView;
  #at = 0;

  constructor(set: NftSet, size = 64 << 10) {
    this.#set = set;
    this.#bytes = new Uint8Array(size);
    this.#view = viewOf(this.#bytes);
    this.#keySize = sizeOf(set.key);
    this.#dataSize = Array.isArray(set.data) ? sizeOf(set.data) : 0;
  }

  get length(): number {
    return this.#at;
  }

  /** What was written, copied; writing starts anew. */
  take(): Uint8Array {
    const taken = this.#bytes.slice(0, this.#at);
    this.#bytes.fill(0, 0, this.#at);
    this.#at = 0;
    return taken;
  }

  /** Writes one element, two for an interval of a plain set. `forDelete` leaves out what a deletion ignores. */
  add(element: NftElement, forDelete = false): void {
    const { key, interval } = this.#set;
    const plainInterval = interval && key.length === 1;
    const start = this.#begin(NFTA_LIST_ELEM);
    this.#key(NFTA_SET_ELEM.KEY, element.key);
    if (!plainInterval && interval) this.#key(NFTA_SET_ELEM.KEY_END, element.keyEnd ?? element.key);
    if (!forDelete) this.#rest(element);
    this.#end(start);
    if (!plainInterval) return;
    const last = new Uint8Array(this.#keySize);
    writeParts(key, last, 0, element.keyEnd ?? element.key);
    // An interval up to the highest value needs no end.
    if (!increment(last)) return;
    const end = this.#begin(NFTA_LIST_ELEM);
    const nest = this.#begin(NFTA_SET_ELEM.KEY);
    this.#raw(NFTA_DATA.VALUE, last);
    this.#end(nest);
    this.#u32(NFTA_SET_ELEM.FLAGS, INTERVAL_END);
    this.#end(end);
  }

  #rest(element: NftElement): void {
    const { set } = { set: this.#set };
    if ((element.data === undefined) !== (set.data === undefined))
      throw nftError('NFT_VALUE_INVALID', {
        type: set.name,
        value: formatKey(element),
        why: set.data === undefined ? 'a set has no data' : 'a map needs data',
      });
    if (element.data !== undefined) this.#data(element.data);
    if (element.timeoutMs !== undefined) this.#u64(NFTA_SET_ELEM.TIMEOUT, element.timeoutMs);
    if (element.expiresMs !== undefined) this.#u64(NFTA_SET_ELEM.EXPIRATION, element.expiresMs);
    if (element.comment !== undefined) this.#raw(NFTA_SET_ELEM.USERDATA, commentBytes(element.comment));
  }

  #data(data: readonly Datum[] | NftVerdict): void {
    const nest = this.#begin(NFTA_SET_ELEM.DATA);
    const { data: types } = this.#set;
    if ('verdict' in data) {
      const verdict = this.#begin(NFTA_DATA.VERDICT);
      this.#u32(NFTA_VERDICT.CODE, VERDICT_CODES[data.verdict] >>> 0);
      if ('chain' in data) this.#text(NFTA_VERDICT.CHAIN, data.chain);
      this.#end(verdict);
    } else {
      this.#room(4 + this.#dataSize + 4);
      const at = this.#header(NFTA_DATA.VALUE, this.#dataSize);
      writeParts(types === 'verdict' || types === undefined ? [] : types, this.#bytes, at, data);
    }
    this.#end(nest);
  }

  #key(type: number, values: readonly Datum[]): void {
    const nest = this.#begin(type);
    this.#room(4 + this.#keySize + 4);
    const at = this.#header(NFTA_DATA.VALUE, this.#keySize);
    writeParts(this.#set.key, this.#bytes, at, values);
    this.#end(nest);
  }

  #text(type: number, text: string): void {
    this.#room(4 + textRoom(text) + 4);
    const length = encodeText(text, this.#bytes, this.#at + 4);
    // The rest up to the next attribute stays zero: encodeText() writes no further than its NUL.
    this.#header(type, length);
  }

  #raw(type: number, value: Uint8Array): void {
    this.#room(4 + value.length + 4);
    this.#bytes.set(value, this.#header(type, value.length));
  }

  #u32(type: number, value: number): void {
    this.#room(8);
    this.#view.setUint32(this.#header(type, 4), value);
  }

  #u64(type: number, value: number): void {
    this.#room(12);
    this.#view.setBigUint64(this.#header(type, 8), BigInt(Math.round(value)));
  }

  /** Writes an attribute's header and skips its value; returns where that goes. */
  #header(type: number, length: number): number {
    this.#view.setUint16(this.#at, length + 4, true);
    this.#view.setUint16(this.#at + 2, type, true);
    const at = this.#at + 4;
    this.#at += 4 + ((length + 3) & ~3);
    return at;
  }

  #begin(type: number): number {
    this.#room(4);
    const at = this.#at;
    this.#view.setUint16(at + 2, type | NESTED, true);
    this.#at += 4;
    return at;
  }

  #end(start: number): void {
    this.#view.setUint16(start, this.#at - start, true);
  }

  #room(size: number): void {
    if (this.#at + size <= this.#bytes.length) return;
    const grown = new Uint8Array(this.#bytes.length * 2 + size);
    grown.set(this.#bytes);
    this.#bytes = grown;
    this.#view = viewOf(grown);
  }
}

/** Adds one to a number in network order; false when it was the highest. */
function increment(bytes: Uint8Array): boolean {
  for (let at = bytes.length - 1; at >= 0; at--) {
    bytes[at] = (bytes[at]! + 1) & 0xff;
    if (bytes[at] !== 0) return true;
  }
  return false;
}

function decrement(bytes: Uint8Array): void {
  for (let at = bytes.length - 1; at >= 0; at--) {
    bytes[at] = (bytes[at]! - 1) & 0xff;
    if (bytes[at] !== 0xff) return;
  }
}

/** One element as it came: an interval of a plain set is still in two parts. */
export interface RawElement extends NftElement {
  readonly keyBytes: Uint8Array;
  readonly flags: number;
}

/** Reads NFTA_SET_ELEM_LIST_ELEMENTS; catch-all elements are left out. Throws NETLINK_MALFORMED, NFT_VALUE_INVALID. */
export function readElements(set: NftSet, list: Uint8Array, into: RawElement[]): void {
  readAttributes(list, 0, 'set elements', (type, bytes) => {
    if (type !== NFTA_LIST_ELEM) return;
    let keyBytes: Uint8Array | undefined;
    let flags = 0;
    const found: { -readonly [K in keyof NftElement]?: NftElement[K] } = {};
    readAttributes(bytes, 0, 'a set element', (attribute, value) => {
      switch (attribute) {
        case NFTA_SET_ELEM.KEY:
          keyBytes = dataValue(value);
          break;
        case NFTA_SET_ELEM.KEY_END:
          found.keyEnd = readParts(set.key, dataValue(value));
          break;
        case NFTA_SET_ELEM.DATA:
          found.data = readData(set, value);
          break;
        case NFTA_SET_ELEM.FLAGS:
          if (value.length >= 4) flags = viewOf(value).getUint32(0);
          break;
        case NFTA_SET_ELEM.TIMEOUT:
          found.timeoutMs = milliseconds(value);
          break;
        case NFTA_SET_ELEM.EXPIRATION:
          found.expiresMs = milliseconds(value);
          break;
        case NFTA_SET_ELEM.EXPR: {
          const packets = readCounter(readExpression(value))?.packets;
          if (packets !== undefined) found.packets = packets;
          break;
        }
        case NFTA_SET_ELEM.USERDATA: {
          const comment = readComment(value);
          if (comment !== undefined) found.comment = comment;
        }
      }
    });
    if (flags & CATCHALL || !keyBytes) return;
    const key = readParts(set.key, keyBytes);
    if (found.keyEnd && sameParts(found.keyEnd, key)) delete found.keyEnd;
    into.push({ ...found, key, keyBytes: keyBytes.slice(), flags });
  });
}

function sameParts(a: readonly Datum[], b: readonly Datum[]): boolean {
  return a.length === b.length && a.every((part, index) => String(part) === String(b[index]));
}

function milliseconds(value: Uint8Array): number {
  return value.length >= 8 ? Number(viewOf(value).getBigUint64(0)) : 0;
}

function dataValue(bytes: Uint8Array): Uint8Array {
  let found = new Uint8Array(0);
  readAttributes(bytes, 0, 'a set value', (type, value) => {
    if (type === NFTA_DATA.VALUE) found = value.slice();
  });
  return found;
}

function readData(set: NftSet, bytes: Uint8Array): readonly Datum[] | NftVerdict {
  if (set.data !== 'verdict') return readParts(set.data ?? [], dataValue(bytes));
  let nested: Uint8Array = new Uint8Array(0);
  readAttributes(bytes, 0, 'a set value', (type, value) => {
    if (type === NFTA_DATA.VERDICT) nested = value;
  });
  const { code = VERDICT_CODES.drop, chain = '' } = readVerdict(nested);
  const verdict = (Object.entries(VERDICT_CODES).find(([, number]) => number === code)?.[0] ??
    'continue') as NftVerdict['verdict'];
  return verdict === 'jump' || verdict === 'goto' ? { verdict, chain } : { verdict };
}

/** Elements as a notification has them, see NftEvent. Throws NETLINK_MALFORMED, NFT_VALUE_INVALID. */
export function readNftElements(set: NftSet, list: Uint8Array): NftElement[] {
  const raw: RawElement[] = [];
  readElements(set, list, raw);
  return joinIntervals(set, raw);
}

/** Joins the two parts of intervals of plain sets, which the kernel lists in any order. */
export function joinIntervals(set: NftSet, raw: readonly RawElement[]): NftElement[] {
  const plain = ({ keyBytes: _bytes, flags: _flags, ...element }: RawElement): NftElement => element;
  if (!set.interval || set.key.length !== 1) return raw.map(plain);
  // At one value, the end of an interval comes before the start of the next.
  const sorted = [...raw].sort(
    (a, b) => Buffer.compare(a.keyBytes, b.keyBytes) || (b.flags & INTERVAL_END) - (a.flags & INTERVAL_END),
  );
  const joined: NftElement[] = [];
  sorted.forEach((element, index) => {
    if (element.flags & INTERVAL_END) return;
    const next = sorted[index + 1];
    const last = next ? next.keyBytes.slice() : new Uint8Array(element.keyBytes.length).fill(0xff);
    if (next) decrement(last);
    const single = Buffer.compare(last, element.keyBytes) === 0;
    joined.push(single ? plain(element) : { ...plain(element), keyEnd: readParts(set.key, last) });
  });
  return joined;
}

/** `10.96.0.10 . 80`, `10.0.0.0-10.0.0.255`: a key as nft writes it, for messages. */
export function formatKey(element: Pick<NftElement, 'key' | 'keyEnd'>): string {
  const { key, keyEnd } = element;
  return key
    .map((part, index) => {
      const end = keyEnd?.[index];
      return end === undefined || String(end) === String(part) ? String(part) : `${part}-${end}`;
    })
    .join(' . ');
}
