/**
 * The server's side of a SPDY/3.1 session as kubectl opens one: the client opens streams, the server answers each.
 * Windows are not counted: neither Kubernetes' client nor its servers do, whoever is slow stops reading the connection.
 */
import { type ByteLink, PING_MS } from './bytes.ts';
import {
  encodeControl,
  encodeData,
  FLAG_FIN,
  HeaderCodec,
  type Headers,
  readHeaders,
  SPDY,
  type SpdyFrame,
  SpdyReader,
  writeHeaders,
} from './spdy-frames.ts';

/** Streams that a client may have open: kubectl needs 5 for a command, 2 for each forwarded connection. */
const MAX_STREAMS = 1000;
const MAX_DATA_BYTES = 32 << 10;
/** RST_STREAM codes: section 2.6.3. */
const RST = { protocolError: 1, refused: 3, cancel: 5 } as const;

/** One stream that the client has opened. */
export interface SpdyStream {
  readonly id: number;
  readonly headers: Headers;
  /** What the client sends; undefined is its end. Until it is set, data waits. */
  onData(handler: (bytes: Buffer | undefined) => Promise<void> | void): void;
  write(bytes: Uint8Array): Promise<void>;
  /** The server sends no more. */
  end(): Promise<void>;
  reset(): Promise<void>;
}

interface Open extends SpdyStream {
  readonly take: (bytes: Buffer | undefined) => Promise<void> | void;
}

export class SpdySession {
  readonly #link: ByteLink;
  readonly #onStream: (stream: SpdyStream) => void;
  readonly #reader = new SpdyReader();
  readonly #inflate = new HeaderCodec('inflate');
  readonly #deflate = new HeaderCodec('deflate');
  readonly #streams = new Map<number, Open>();
  /** Ended by both sides, or by a reset: late frames are no fault. */
  #lastId = 0;
  #pings = 0;

  constructor(link: ByteLink, onStream: (stream: SpdyStream) => void) {
    this.#link = link;
    this.#onStream = onStream;
    const pings = setInterval(() => void this.#ping(), PING_MS).unref();
    void link.closed.then(() => {
      clearInterval(pings);
      this.#inflate.close();
      this.#deflate.close();
      for (const stream of this.#streams.values()) void stream.take(undefined);
      this.#streams.clear();
    });
    link.start(async (bytes) => {
      try {
        for (const frame of this.#reader.push(bytes)) await this.#take(frame);
      } catch {
        // What is no SPDY cannot be answered in SPDY.
        link.destroy();
      }
    });
  }

  get closed(): Promise<void> {
    return this.#link.closed;
  }

  /** Says good-bye and ends the connection. */
  async close(): Promise<void> {
    const payload = Buffer.alloc(8);
    payload.writeUInt32BE(this.#lastId, 0);
    await this.#link.write(encodeControl(SPDY.goAway, 0, payload));
    this.#link.end();
  }

  async #ping(): Promise<void> {
    const payload = Buffer.alloc(4);
    this.#pings = (this.#pings + 2) % 0x7fff_fffe;
    payload.writeUInt32BE(this.#pings);
    await this.#link.write(encodeControl(SPDY.ping, 0, payload));
  }

  async #take(frame: SpdyFrame): Promise<void> {
    if (frame.kind === 'data') {
      const stream = this.#streams.get(frame.id);
      if (!stream) return;
      if (frame.payload.length > 0) await stream.take(frame.payload);
      if (frame.flags & FLAG_FIN) await stream.take(undefined);
      return;
    }
    const { type, flags, payload } = frame;
    switch (type) {
      case SPDY.synStream:
        return this.#open(flags, payload);
      case SPDY.headers:
        // Read although nothing is made of it: the compression goes on from it.
        if (payload.length > 4) await this.#inflate.convert(payload.subarray(4));
        return;
      case SPDY.ping:
        if (payload.length !== 4) throw new RangeError('a ping of another length');
        // Even numbers are ours, coming back.
        if (payload.readUInt32BE(0) % 2 === 1) await this.#link.write(encodeControl(SPDY.ping, 0, payload));
        return;
      case SPDY.rstStream: {
        if (payload.length !== 8) throw new RangeError('a reset of another length');
        const id = payload.readUInt32BE(0) & 0x7fff_ffff;
        const stream = this.#streams.get(id);
        this.#streams.delete(id);
        await stream?.take(undefined);
        return;
      }
      default:
        // Settings, windows, good-byes: nothing follows from them here.
        return;
    }
  }

  async #open(flags: number, payload: Buffer): Promise<void> {
    if (payload.length < 10) throw new RangeError('a stream begins with too few bytes');
    const id = payload.readUInt32BE(0) & 0x7fff_ffff;
    const headers = readHeaders(await this.#inflate.convert(payload.subarray(10)));
    if (id % 2 === 0 || id <= this.#lastId) return this.#reset(id, RST.protocolError);
    this.#lastId = id;
    if (this.#streams.size >= MAX_STREAMS) return this.#reset(id, RST.refused);
    const stream = this.#stream(id, headers);
    this.#streams.set(id, stream);
    const reply = Buffer.alloc(4);
    reply.writeUInt32BE(id);
    const block = await this.#deflate.convert(writeHeaders({}));
    await this.#link.write(encodeControl(SPDY.synReply, 0, Buffer.concat([reply, block])));
    this.#onStream(stream);
    if (flags & FLAG_FIN) await stream.take(undefined);
  }

  #stream(id: number, headers: Headers): Open {
    let handler: ((bytes: Buffer | undefined) => Promise<void> | void) | undefined;
    const waiting: (Buffer | undefined)[] = [];
    let ended = false;
    let remoteEnded = false;
    const over = () => {
      if (ended && remoteEnded) this.#streams.delete(id);
    };
    return {
      id,
      headers,
      onData: (next) => {
        handler = next;
        for (const bytes of waiting.splice(0)) void handler(bytes);
      },
      take: (bytes) => {
        if (remoteEnded) return;
        if (bytes === undefined) {
          remoteEnded = true;
          over();
        }
        if (handler) return handler(bytes);
        waiting.push(bytes);
      },
      write: async (bytes) => {
        for (let at = 0; at < bytes.length && !ended; at += MAX_DATA_BYTES)
          await this.#link.write(encodeData(id, 0, bytes.subarray(at, at + MAX_DATA_BYTES)));
      },
      end: async () => {
        if (ended) return;
        ended = true;
        over();
        await this.#link.write(encodeData(id, FLAG_FIN, Buffer.alloc(0)));
      },
      reset: async () => {
        ended = true;
        this.#streams.delete(id);
        await this.#reset(id, RST.cancel);
      },
    };
  }

  #reset(id: number, code: number): Promise<void> {
    const payload = Buffer.alloc(8);
    payload.writeUInt32BE(id, 0);
    payload.writeUInt32BE(code, 4);
    return this.#link.write(encodeControl(SPDY.rstStream, 0, payload));
  }
}
