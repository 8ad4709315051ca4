/**
 * Several streams on one connection between processes of ours: API server and agent.
 *
 *   0        1                5
 *   +--------+----------------+----------------
 *   | stream | length, u32 be | payload ...
 *   +--------+----------------+----------------
 *
 * Streams are numbered as in Kubernetes' channel protocol: 0 stdin, 1 stdout, 2 stderr, 3 the outcome as JSON,
 * 4 the terminal's size as JSON. A frame without payload ends its stream.
 */
import type { Duplex } from 'node:stream';

/** Larger than what any sender of ours puts into one frame. */
export const MAX_FRAME_BYTES = 1 << 20;
const HEADER_BYTES = 5;
/**
 * A socket that is not read does not tell that its other end has gone; writing does. So while one side does not read,
 * it sends an empty frame of a stream that nobody has, this often.
 */
const ALIVE_MS = 5_000;
const ALIVE_STREAM = 255;

export const STREAM = { stdin: 0, stdout: 1, stderr: 2, outcome: 3, size: 4 } as const;

export interface Frame {
  readonly stream: number;
  readonly payload: Buffer;
}

/** The bytes of one frame. Throws RangeError for a payload above 1 MiB. */
export function encodeFrame(stream: number, payload: Uint8Array): Buffer {
  if (payload.length > MAX_FRAME_BYTES) throw new RangeError(`a frame of ${payload.length} bytes`);
  const bytes = Buffer.allocUnsafe(HEADER_BYTES + payload.length);
  bytes.writeUInt8(stream, 0);
  bytes.writeUInt32BE(payload.length, 1);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

/** Finds frames in what arrives in pieces. */
export class FrameReader {
  #rest: Buffer = Buffer.alloc(0);

  /** The frames that are whole now. Throws RangeError for one above 1 MiB: then nothing more can be read. */
  push(chunk: Uint8Array): Frame[] {
    this.#rest = this.#rest.length === 0 ? Buffer.from(chunk) : Buffer.concat([this.#rest, chunk]);
    const frames: Frame[] = [];
    while (this.#rest.length >= HEADER_BYTES) {
      const length = this.#rest.readUInt32BE(1);
      if (length > MAX_FRAME_BYTES) throw new RangeError(`a frame of ${length} bytes`);
      const end = HEADER_BYTES + length;
      if (this.#rest.length < end) break;
      frames.push({ stream: this.#rest[0]!, payload: this.#rest.subarray(HEADER_BYTES, end) });
      this.#rest = this.#rest.subarray(end);
    }
    return frames;
  }
}

/** Both ends of such a connection. */
export class FrameLink {
  readonly #socket: Duplex;
  readonly #reader = new FrameReader();
  #onFrame: (frame: Frame) => void = () => {};
  #alive: NodeJS.Timeout | undefined;
  readonly closed: Promise<void>;

  constructor(socket: Duplex) {
    this.#socket = socket;
    this.closed = new Promise<void>((resolve) => {
      socket.once('close', resolve);
      socket.once('end', resolve);
    }).finally(() => clearInterval(this.#alive));
    socket.on('error', () => socket.destroy());
    socket.on('data', (chunk: Buffer) => {
      try {
        for (const frame of this.#reader.push(chunk)) if (frame.stream !== ALIVE_STREAM) this.#onFrame(frame);
      } catch {
        socket.destroy();
      }
    });
    socket.pause();
  }

  /** Begins to read. */
  start(onFrame: (frame: Frame) => void): void {
    this.#onFrame = onFrame;
    this.#socket.resume();
  }

  /** Resolves when there is room for more. */
  async send(stream: number, payload: Uint8Array): Promise<void> {
    for (let at = 0; at === 0 || at < payload.length; at += MAX_FRAME_BYTES)
      await writeTo(this.#socket, encodeFrame(stream, payload.subarray(at, at + MAX_FRAME_BYTES)));
  }

  /** Nothing is read meanwhile. */
  pause(): void {
    this.#socket.pause();
    this.#alive ??= setInterval(
      () => void this.#socket.write(encodeFrame(ALIVE_STREAM, new Uint8Array())),
      ALIVE_MS,
    ).unref();
  }

  resume(): void {
    this.#socket.resume();
    clearInterval(this.#alive);
    this.#alive = undefined;
  }

  end(): void {
    this.#socket.end();
  }

  destroy(): void {
    this.#socket.destroy();
  }
}

/** Writes, and waits when the stream is full until it is not, or is gone. */
export async function writeTo(stream: NodeJS.WritableStream & { destroyed?: boolean }, bytes: Uint8Array) {
  if (stream.destroyed || !stream.writable || stream.write(bytes)) return;
  await new Promise<void>((resolve) => {
    const done = () => {
      stream.off('drain', done);
      stream.off('close', done);
      resolve();
    };
    stream.on('drain', done);
    stream.on('close', done);
  });
}
