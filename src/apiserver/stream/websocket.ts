/**
 * The server's side of WebSocket (RFC 6455), as far as Kubernetes clients use it: binary messages, pings, close.
 *
 *    0               1               2
 *   +-+---+---------+-+-------------+----------------------+----------+----------
 *   |F|RSV| opcode  |M| length      | 16 or 64 more bits   | mask     | payload
 *   +-+---+---------+-+-------------+----------------------+----------+----------
 *                      126: 16 bits, 127: 64 bits            clients always mask, servers never (5.1)
 */
import { createHash } from 'node:crypto';
import { type ByteLink, PING_MS } from './bytes.ts';

/** A message above this is refused; kubectl sends 32 KiB at most. */
export const MAX_MESSAGE_BYTES = 4 << 20;
/** RFC 6455 section 1.3. */
const ACCEPT_GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';

export const OPCODE = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 } as const;

/** The value of Sec-WebSocket-Accept. */
export const acceptKey = (key: string) =>
  createHash('sha1')
    .update(key + ACCEPT_GUID)
    .digest('base64');

export interface WebSocketFrame {
  readonly final: boolean;
  readonly opcode: number;
  readonly payload: Buffer;
}

/** What a client did wrong; `code` is that of the close frame (RFC 6455 section 7.4.1). */
export class WebSocketFault extends Error {
  readonly code: number;

  constructor(code: number, message: string) {
    super(message);
    this.code = code;
  }
}

/** Finds a client's frames in what arrives in pieces. Throws {@link WebSocketFault}. */
export class WebSocketReader {
  #rest: Buffer = Buffer.alloc(0);

  push(chunk: Uint8Array): WebSocketFrame[] {
    this.#rest = Buffer.concat([this.#rest, chunk]);
    const frames: WebSocketFrame[] = [];
    for (;;) {
      const frame = this.#next();
      if (!frame) return frames;
      frames.push(frame);
    }
  }

  #next(): WebSocketFrame | undefined {
    const bytes = this.#rest;
    if (bytes.length < 2) return undefined;
    const [first, second] = [bytes[0]!, bytes[1]!];
    const opcode = first & 0x0f;
    const final = (first & 0x80) !== 0;
    if ((first & 0x70) !== 0) throw new WebSocketFault(1002, 'a reserved bit is set');
    if ((second & 0x80) === 0) throw new WebSocketFault(1002, 'a frame of a client is not masked');
    const control = opcode >= 8;
    let length = second & 0x7f;
    let at = 2;
    if (control && (length > 125 || !final)) throw new WebSocketFault(1002, 'a control frame is too long');
    if (length === 126) {
      if (bytes.length < 4) return undefined;
      length = bytes.readUInt16BE(2);
      at = 4;
    } else if (length === 127) {
      if (bytes.length < 10) return undefined;
      const long = bytes.readBigUInt64BE(2);
      if (long > BigInt(MAX_MESSAGE_BYTES)) throw new WebSocketFault(1009, 'a message is too long');
      length = Number(long);
      at = 10;
    }
    if (bytes.length < at + 4 + length) return undefined;
    const mask = bytes.subarray(at, at + 4);
    const payload = Buffer.from(bytes.subarray(at + 4, at + 4 + length));
    for (let i = 0; i < payload.length; i++) payload[i]! ^= mask[i & 3]!;
    this.#rest = bytes.subarray(at + 4 + length);
    return { final, opcode, payload };
  }
}

/** One whole unmasked frame, as servers send them. */
export function encodeWebSocketFrame(opcode: number, payload: Uint8Array): Buffer {
  const { length } = payload;
  const head = Buffer.alloc(length < 126 ? 2 : length < 65_536 ? 4 : 10);
  head[0] = 0x80 | opcode;
  if (length < 126) head[1] = length;
  else if (length < 65_536) {
    head[1] = 126;
    head.writeUInt16BE(length, 2);
  } else {
    head[1] = 127;
    head.writeBigUInt64BE(BigInt(length), 2);
  }
  return Buffer.concat([head, payload]);
}

/** Whole messages over a connection. */
export class WebSocketLink {
  readonly #link: ByteLink;
  readonly #reader = new WebSocketReader();
  #parts: Buffer[] = [];
  #size = 0;
  #closing = false;

  constructor(link: ByteLink) {
    this.#link = link;
  }

  get closed(): Promise<void> {
    return this.#link.closed;
  }

  start(onMessage: (message: Buffer) => Promise<void>): void {
    const ping = () => {
      if (!this.#closing) void this.#link.write(encodeWebSocketFrame(OPCODE.ping, new Uint8Array()));
    };
    const pings = setInterval(ping, PING_MS).unref();
    void this.closed.then(() => clearInterval(pings));
    this.#link.start(async (bytes) => {
      try {
        for (const frame of this.#reader.push(bytes)) await this.#take(frame, onMessage);
      } catch (error) {
        this.close(error instanceof WebSocketFault ? error.code : 1011);
      }
    });
  }

  async send(message: Uint8Array): Promise<void> {
    if (!this.#closing) await this.#link.write(encodeWebSocketFrame(OPCODE.binary, message));
  }

  close(code = 1000): void {
    if (this.#closing) return;
    this.#closing = true;
    const payload = Buffer.alloc(2);
    payload.writeUInt16BE(code);
    void this.#link.write(encodeWebSocketFrame(OPCODE.close, payload)).then(() => this.#link.end());
  }

  async #take({ final, opcode, payload }: WebSocketFrame, onMessage: (message: Buffer) => Promise<void>) {
    switch (opcode) {
      case OPCODE.ping:
        return this.#link.write(encodeWebSocketFrame(OPCODE.pong, payload));
      case OPCODE.pong:
        return;
      case OPCODE.close:
        return this.close();
      case OPCODE.text:
      case OPCODE.binary:
        if (this.#parts.length > 0) throw new WebSocketFault(1002, 'a message begins within another');
        break;
      case OPCODE.continuation:
        if (this.#parts.length === 0) throw new WebSocketFault(1002, 'a message goes on that has not begun');
        break;
      default:
        throw new WebSocketFault(1002, `unknown opcode ${opcode}`);
    }
    this.#size += payload.length;
    if (this.#size > MAX_MESSAGE_BYTES) throw new WebSocketFault(1009, 'a message is too long');
    this.#parts.push(payload);
    if (!final) return;
    const message = this.#parts.length === 1 ? payload : Buffer.concat(this.#parts);
    this.#parts = [];
    this.#size = 0;
    await onMessage(message);
  }
}

/** The bytes of messages as one stream: SPDY in WebSocket (KEP-4006). */
export function tunnelLink(socket: WebSocketLink): ByteLink {
  return {
    closed: socket.closed,
    write: (bytes) => socket.send(bytes),
    start: (onBytes) => socket.start(onBytes),
    end: () => socket.close(),
    destroy: () => socket.close(1011),
  };
}
