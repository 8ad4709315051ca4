/**
 * SPDY/3 frames and header blocks, as far as Kubernetes clients use them (draft-mbelshe-httpbis-spdy-00, section 2).
 *
 *   control  |1| version 3 (15 bits) | type (16) | flags (8) | length (24) | ...
 *   data     |0| stream id (31 bits)             | flags (8) | length (24) | payload
 *
 * A header block is a count and then names and values, each with its length (32 bits), compressed by one zlib stream
 * for the whole session, with a dictionary that both sides know (section 2.6.10.1).
 */
import { constants, createDeflate, createInflate, type Deflate, type Inflate } from 'node:zlib';

export const SPDY = {
  synStream: 1,
  synReply: 2,
  rstStream: 3,
  settings: 4,
  ping: 6,
  goAway: 7,
  headers: 8,
  windowUpdate: 9,
} as const;

export const FLAG_FIN = 1;
const VERSION = 3;
const HEADER_BYTES = 8;
/** kubectl sends 32 KiB in a frame; 24 bits would allow 16 MiB. */
export const MAX_FRAME_BYTES = 1 << 20;
/** Names and values of a block once they are inflated: a small block may hold a very large one. */
const MAX_BLOCK_BYTES = 64 << 10;

export type SpdyFrame =
  | { readonly kind: 'data'; readonly id: number; readonly flags: number; readonly payload: Buffer }
  | { readonly kind: 'control'; readonly type: number; readonly flags: number; readonly payload: Buffer };

/** Finds frames in what arrives in pieces. Throws RangeError for what is no SPDY/3. */
export class SpdyReader {
  #rest: Buffer = Buffer.alloc(0);

  push(chunk: Uint8Array): SpdyFrame[] {
    this.#rest = Buffer.concat([this.#rest, chunk]);
    const frames: SpdyFrame[] = [];
    while (this.#rest.length >= HEADER_BYTES) {
      const word = this.#rest.readUInt32BE(0);
      const flags = this.#rest[4]!;
      const length = this.#rest.readUIntBE(5, 3);
      if (length > MAX_FRAME_BYTES) throw new RangeError(`a frame of ${length} bytes`);
      if (this.#rest.length < HEADER_BYTES + length) break;
      const payload = this.#rest.subarray(HEADER_BYTES, HEADER_BYTES + length);
      this.#rest = this.#rest.subarray(HEADER_BYTES + length);
      if (word >>> 31 === 0) {
        frames.push({ kind: 'data', id: word, flags, payload });
        continue;
      }
      const version = (word >>> 16) & 0x7fff;
      if (version !== VERSION) throw new RangeError(`SPDY version ${version}, want ${VERSION}`);
      frames.push({ kind: 'control', type: word & 0xffff, flags, payload });
    }
    return frames;
  }
}

export function encodeData(id: number, flags: number, payload: Uint8Array): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES + payload.length);
  bytes.writeUInt32BE(id, 0);
  bytes[4] = flags;
  bytes.writeUIntBE(payload.length, 5, 3);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

export function encodeControl(type: number, flags: number, payload: Uint8Array): Buffer {
  const bytes = encodeData(0, flags, payload);
  bytes.writeUInt16BE(0x8000 | VERSION, 0);
  bytes.writeUInt16BE(type, 2);
  return bytes;
}

export type Headers = Readonly<Record<string, string>>;

/** Throws RangeError for a block that is cut or has bytes left over. */
export function readHeaders(block: Buffer): Headers {
  let at = 0;
  const word = () => {
    if (at + 4 > block.length) throw new RangeError('a header block ends early');
    at += 4;
    return block.readUInt32BE(at - 4);
  };
  const text = () => {
    const length = word();
    if (at + length > block.length) throw new RangeError('a header block ends early');
    at += length;
    return block.toString('latin1', at - length, at);
  };
  const count = word();
  if (count * 8 > block.length) throw new RangeError(`${count} headers in ${block.length} bytes`);
  const headers: Record<string, string> = Object.create(null);
  for (let i = 0; i < count; i++) {
    const name = text().toLowerCase();
    headers[name] = text();
  }
  if (at !== block.length) throw new RangeError('a header block has bytes left over');
  return headers;
}

export function writeHeaders(headers: Headers): Buffer {
  const entries = Object.entries(headers);
  const parts = entries.flat().map((text) => {
    const bytes = Buffer.from(text, 'latin1');
    const length = Buffer.alloc(4);
    length.writeUInt32BE(bytes.length);
    return Buffer.concat([length, bytes]);
  });
  const count = Buffer.alloc(4);
  count.writeUInt32BE(entries.length);
  return Buffer.concat([count, ...parts]);
}

/** One direction of a session's header compression. Blocks must be given one after the other, in their order. */
export class HeaderCodec {
  readonly #zlib: Deflate | Inflate;
  #parts: Buffer[] = [];
  #size = 0;
  #fail: ((error: Error) => void) | undefined;

  constructor(kind: 'inflate' | 'deflate') {
    const dictionary = headerDictionary();
    this.#zlib =
      kind === 'inflate'
        ? createInflate({ dictionary, flush: constants.Z_SYNC_FLUSH })
        : createDeflate({ dictionary, flush: constants.Z_SYNC_FLUSH });
    this.#zlib.on('data', (part: Buffer) => {
      this.#size += part.length;
      if (this.#size > MAX_BLOCK_BYTES) this.#zlib.destroy(new RangeError('a header block is too long'));
      else this.#parts.push(part);
    });
    this.#zlib.on('error', (error) => this.#fail?.(error));
  }

  /** Rejects for what is not the next block of this stream; it cannot be used any more then. */
  async convert(block: Uint8Array): Promise<Buffer> {
    this.#parts = [];
    this.#size = 0;
    await new Promise<void>((resolve, reject) => {
      this.#fail = reject;
      if (this.#zlib.destroyed) reject(new RangeError('the header stream is broken'));
      else this.#zlib.write(block, (error) => (error ? reject(error) : resolve()));
    });
    if (this.#size > MAX_BLOCK_BYTES || this.#zlib.destroyed)
      throw new RangeError('a header block is too long');
    return Buffer.concat(this.#parts);
  }

  close(): void {
    this.#zlib.destroy();
  }
}

/** Words of the dictionary, each with its length before it; then one text without lengths. Section 2.6.10.1. */
const DICTIONARY_WORDS = `options head post put delete trace accept accept-charset accept-encoding accept-language
accept-ranges age allow authorization cache-control connection content-base content-encoding content-language
content-length content-location content-md5 content-range content-type date etag expect expires from host if-match
if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma
proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade user-agent
vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin`;
const DICTIONARY_TEXT =
  '100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative ' +
  'Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal ' +
  'Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, ' +
  'Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,' +
  'application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8' +
  'charset=iso-8859-1,utf-,*,enq=0.';

let dictionaryBytes: Buffer | undefined;

/** 1423 bytes, Adler-32 e3c6a7c2. */
export function headerDictionary(): Buffer {
  dictionaryBytes ??= Buffer.concat([
    ...DICTIONARY_WORDS.split(/\s+/).map((word) => {
      const text = word.replace('_', ' ');
      const length = Buffer.alloc(4);
      length.writeUInt32BE(text.length);
      return Buffer.concat([length, Buffer.from(text)]);
    }),
    Buffer.from(DICTIONARY_TEXT),
  ]);
  return dictionaryBytes;
}
