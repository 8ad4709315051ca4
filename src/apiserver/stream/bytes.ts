/** A connection that was upgraded, whatever carries its bytes. */
import type { Duplex } from 'node:stream';
import { writeTo } from '../../codec/frames.ts';

/**
 * A connection that is not read does not tell that its client has gone; writing does. Sessions ping this often.
 * kubectl itself pings every 5 s where it can.
 */
export const PING_MS = 10_000;

export interface ByteLink {
  /** Resolves when there is room for more. */
  write(bytes: Uint8Array): Promise<void>;
  /** Begins to read; the next piece comes when the promise of the one before has resolved. */
  start(onBytes: (bytes: Buffer) => Promise<void>): void;
  /** Ends in good order. */
  end(): void;
  destroy(): void;
  readonly closed: Promise<void>;
}

/** The socket itself. */
export function socketLink(socket: Duplex, head: Buffer): ByteLink {
  const closed = new Promise<void>((resolve) => {
    socket.once('close', () => resolve());
    socket.once('end', () => resolve());
  });
  socket.on('error', () => socket.destroy());
  return {
    closed,
    write: (bytes) => writeTo(socket, bytes),
    start(onBytes) {
      let work = Promise.resolve();
      const take = (bytes: Buffer) => {
        socket.pause();
        work = work
          .then(() => onBytes(bytes))
          .then(
            () => void socket.resume(),
            () => void socket.destroy(),
          );
      };
      socket.on('data', take);
      if (head.length > 0) take(head);
    },
    end: () => void socket.end(),
    destroy: () => void socket.destroy(),
  };
}
