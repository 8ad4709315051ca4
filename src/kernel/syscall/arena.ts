import { addon } from './addon.ts';

/**
 * One retained block of memory for a graph of C structures that point at each other. A raw address does not keep
 * a buffer alive: separate buffers behind pointers were seen to be freed between two calls. Whatever the kernel
 * reaches through a pointer therefore lies here, and addresses are known only to this class.
 */
export class Arena {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly #base: bigint;
  #used = 0;

  /** `size` in bytes; an arena does not grow, because growing would move what the kernel points at. */
  constructor(size: number) {
    this.bytes = new Uint8Array(new ArrayBuffer(size));
    this.view = new DataView(this.bytes.buffer);
    this.#base = addon().address(this.bytes);
  }

  /** Forgets all reservations; what was reserved before must no longer be in use by the kernel. */
  reset(): void {
    this.#used = 0;
  }

  /** Reserves `size` bytes, zeroed, 8-byte aligned; returns their offset. */
  reserve(size: number): number {
    const at = (this.#used + 7) & ~7;
    if (at + size > this.bytes.length)
      throw new RangeError(`arena of ${this.bytes.length} bytes has no room for ${size} more`);
    this.bytes.fill(0, at, at + size);
    this.#used = at + size;
    return at;
  }

  /** Copies data in; returns its offset. */
  put(data: Uint8Array): number {
    const at = this.reserve(data.length);
    this.bytes.set(data, at);
    return at;
  }

  /** Copies a string in as NUL-terminated UTF-8; returns its offset. */
  putString(text: string): number {
    return this.put(Buffer.from(`${text}\0`));
  }

  /** Writes at `at` a pointer to the arena offset `target`. */
  point(at: number, target: number): void {
    this.view.setBigUint64(at, this.#base + BigInt(target), true);
  }

  /** The bytes from an offset on, as an argument for a system call. */
  from(at: number, size?: number): Uint8Array {
    return this.bytes.subarray(at, size === undefined ? undefined : at + size);
  }
}
