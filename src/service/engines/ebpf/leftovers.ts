/** What an earlier process left in the maps, read once at start, so that plans find their numbers again. */
import { viewOf } from '../../../codec/index.ts';
import type { BpfMap } from '../../../kernel/bpf/index.ts';
import type { ChunkedArray } from './chunked-array.ts';
import { BACKEND, CHUNK, LINE_BYTES, LINE_ENTRIES } from './layout.ts';

/** Bytes as a key of JavaScript maps. */
export function textOf(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1');
}

export function bytesOf(text: string): Uint8Array {
  return Buffer.from(text, 'latin1');
}

/** Members of a frontend's value, by offset (lb_types.h). */
export const VALUE = {
  id: 0,
  service: 4,
  flags: 8,
  affinity: 12,
  insideLine: 16,
  insideSize: 20,
  outsideLine: 24,
  outsideSize: 28,
} as const;

export interface LeftBackend {
  readonly id: number;
  readonly flags: number;
}

export class Leftovers {
  /** Key to value of frontends that no plan has claimed yet, both as text. */
  readonly frontends = new Map<string, string>();
  /** Service number → address, port and protocol (19 bytes as text) → backend. */
  readonly backends = new Map<number, Map<string, LeftBackend>>();
  /** First line → number of lines, of tables that no plan has claimed yet. */
  readonly tables = new Map<number, number>();
  /** Keys of source ranges that no plan has claimed yet. */
  readonly ranges: Set<string>;
  readonly #lines: Map<number, Uint8Array>;

  constructor(frontends: BpfMap, tables: ChunkedArray, backends: ChunkedArray, ranges: BpfMap) {
    this.ranges = new Set([...ranges.keys()].map(textOf));
    for (const [key, value] of frontends.entries()) {
      this.frontends.set(textOf(key), textOf(value));
      const view = viewOf(value);
      for (const [line, size] of [
        [VALUE.insideLine, VALUE.insideSize],
        [VALUE.outsideLine, VALUE.outsideSize],
      ] as const) {
        const entries = view.getUint32(size, true);
        if (entries > 0) this.tables.set(view.getUint32(line, true), Math.ceil(entries / LINE_ENTRIES));
      }
    }
    // Kept by chunk: one buffer for 1024 lines.
    this.#lines = new Map();
    if (this.tables.size > 0)
      for (const [line, value] of tables.wantedEntries()) {
        const chunk = Math.floor(line / CHUNK);
        const buffer = this.#lines.get(chunk) ?? new Uint8Array(CHUNK * LINE_BYTES);
        this.#lines.set(chunk, buffer);
        buffer.set(value, (line % CHUNK) * LINE_BYTES);
      }
    for (const [id, value] of backends.wantedEntries()) {
      const flags = value[19]!;
      if ((flags & BACKEND.USED) === 0) continue;
      const service = viewOf(value).getUint32(20, true);
      const known = this.backends.get(service) ?? new Map<string, LeftBackend>();
      this.backends.set(service, known);
      known.set(textOf(value.subarray(0, 19)), { id, flags });
    }
  }

  /** Whether a table holds exactly these ids. */
  hasTable(line: number, size: number, ids: ArrayLike<number>): boolean {
    if (size !== ids.length) return false;
    for (let at = 0; at < size; at++) {
      const place = line + Math.floor(at / LINE_ENTRIES);
      const buffer = this.#lines.get(Math.floor(place / CHUNK));
      if (!buffer) return false;
      const offset = (place % CHUNK) * LINE_BYTES + (at % LINE_ENTRIES) * 4;
      if (viewOf(buffer).getUint32(offset, true) !== ids[at]) return false;
    }
    return true;
  }
}
