import { close, fdatasync, open } from 'node:fs';
import { promisify } from 'node:util';

const openFile = promisify(open);
const closeFile = promisify(close);

/** Writes a file's data to the disk; injected in tests. */
export type DataSync = (fd: number) => Promise<void>;

/**
 * Makes commits durable without standing still: SQLite has written them to the WAL, and the disk is told from the
 * thread pool while the event loop makes pod links. Who asks while a sync runs shares the next one, so that many
 * ADDs at once cost one or two syncs (group commit).
 *
 * The descriptor is our own. That is safe for the -wal file; on the database file itself, closing a second
 * descriptor would drop SQLite's POSIX locks (sqlite.org/howtocorrupt.html, section 2.2).
 */
export class WalSync {
  readonly #path: string;
  readonly #sync: DataSync;
  #fd: Promise<number> | undefined;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;
  /** Syncs done, for tests and figures. */
  count = 0;

  constructor(databasePath: string, sync: DataSync = promisify(fdatasync)) {
    this.#path = `${databasePath}-wal`;
    this.#sync = sync;
  }

  /** Resolves when everything committed before this call is on the disk. */
  flush(): Promise<void> {
    if (!this.#running) {
      const run = this.#run();
      const settled = run
        .catch(() => {})
        .then(() => {
          if (this.#running === settled) this.#running = undefined;
        });
      this.#running = settled;
      return run;
    }
    this.#next ??= this.#running.then(() => {
      this.#next = undefined;
      return this.flush();
    });
    return this.#next;
  }

  async #run(): Promise<void> {
    this.#fd ??= openFile(this.#path, 'r+');
    let fd: number;
    try {
      fd = await this.#fd;
    } catch (error) {
      this.#fd = undefined;
      throw error;
    }
    this.count++;
    await this.#sync(fd);
  }

  async close(): Promise<void> {
    await this.#next?.catch(() => {});
    await this.#running;
    const fd = await this.#fd?.catch(() => undefined);
    this.#fd = undefined;
    if (fd !== undefined) await closeFile(fd);
  }
}
