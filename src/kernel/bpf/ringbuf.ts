/**
 * Reads records of a BPF ring buffer without copying.
 *
 *   page 0: consumer position (ours)   page 1: producer position   then the data, mapped twice in a row
 *   so that no record is ever split:   | len:30 discard:1 busy:1 | page u32 | record, padded to 8 |
 *
 * A position only grows; its place is position % size. Source: kernel/bpf/ringbuf.c, libbpf ringbuf.c.
 */
import { FdPoll, mapFd, POLL } from '../syscall/index.ts';
import { pageSize } from './call.ts';
import type { BpfMap } from './map.ts';

const BUSY = 0x8000_0000 | 0;
const DISCARDED = 0x4000_0000;
const LENGTH_MASK = 0x3fff_ffff;
const HEADER = 8;
const PROT_READ = 1;
const PROT_WRITE = 2;
/** Records handled before others get a turn on the event loop. */
const RECORDS_A_TURN = 4096;

interface Mapping {
  readonly consumer: BigInt64Array;
  readonly producer: BigInt64Array;
  readonly words: Int32Array;
  readonly bytes: Uint8Array;
  unmap(): void;
}

/** A reader of one ring buffer map. One reader a map: a second one would take the first one's records. */
export class RingBuffer {
  readonly #map: BpfMap;
  readonly #onRecord: (record: Uint8Array) => void;
  #mapping: Mapping | undefined;
  #poll: FdPoll | undefined;

  /** `record` is a view into the ring, valid during the call of `onRecord` only. */
  constructor(map: BpfMap, onRecord: (record: Uint8Array) => void) {
    this.#map = map;
    this.#onRecord = onRecord;
    const size = map.maxEntries;
    const PAGE = pageSize();
    const own = mapFd(map.fd, PAGE, PROT_READ | PROT_WRITE);
    try {
      const theirs = mapFd(map.fd, PAGE + 2 * size, PROT_READ, PAGE);
      this.#mapping = {
        consumer: new BigInt64Array(own.buffer, 0, 1),
        producer: new BigInt64Array(theirs.buffer, 0, 1),
        words: new Int32Array(theirs.buffer, PAGE),
        bytes: new Uint8Array(theirs.buffer, PAGE),
        unmap() {
          own.unmap();
          theirs.unmap();
        },
      };
    } catch (error) {
      own.unmap();
      throw error;
    }
  }

  /** Reads on the event loop from now on. */
  start(): this {
    this.#poll ??= new FdPoll(this.#map.fd, POLL.readable, () => this.drain());
    return this;
  }

  /** Lets the process end although this is still read. */
  unref(): this {
    this.#poll?.unref();
    return this;
  }

  /** Reads no more until the next `start`; what comes meanwhile stays in the ring. */
  pause(): this {
    this.#poll?.stop();
    this.#poll = undefined;
    return this;
  }

  /** Handles what is there now, at most `limit` records; returns how many. */
  drain(limit: number = RECORDS_A_TURN): number {
    const mapping = this.#mapping;
    if (!mapping) return 0;
    const { consumer, producer, words, bytes } = mapping;
    const mask = BigInt(this.#map.maxEntries - 1);
    let position = consumer[0]!;
    let count = 0;
    while (count < limit && position < Atomics.load(producer, 0)) {
      const at = Number(position & mask);
      const header = Atomics.load(words, at / 4);
      if (header & BUSY) break;
      const length = header & LENGTH_MASK;
      position += BigInt((HEADER + length + 7) & ~7);
      try {
        if ((header & DISCARDED) === 0) {
          count++;
          this.#onRecord(bytes.subarray(at + HEADER, at + HEADER + length));
        }
      } finally {
        // Also after an exception: a record that a handler cannot read must not be offered for ever.
        if (this.#mapping) Atomics.store(consumer, 0, position);
      }
      if (!this.#mapping) break;
    }
    return count;
  }

  /** Stops reading; records not yet handled stay in the map. */
  close(): void {
    this.pause();
    const mapping = this.#mapping;
    this.#mapping = undefined;
    mapping?.unmap();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
