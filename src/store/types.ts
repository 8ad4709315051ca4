/**
 * A key with its newest value at some revision. Entries never change: a write makes a new entry, so readers may
 * hold one as long as they like.
 */
export interface StoreEntry {
  /** `<collection>/<rest>`, e.g. `services/default/web`; ASCII, so that string order is byte order. */
  readonly key: string;
  /** JSON text. */
  readonly value: string;
  /** Revision of the write that made this entry. */
  readonly revision: number;
  /** Revision at which the key came into being; changes when a key is deleted and created again. */
  readonly created: number;
  /** A memo of the reader (the parsed value), weak so that memory stays near the size of the text. */
  memo?: WeakRef<object>;
}

/** One change of one key. */
export interface StoreEvent {
  readonly type: 'put' | 'delete';
  readonly revision: number;
  /** The new entry; for a delete the last value, carrying the revision of the delete. */
  readonly entry: StoreEntry;
  /** What the key held before, absent when the write created it. */
  readonly previous?: StoreEntry;
}

export interface WriteRequest {
  readonly key: string;
  /** Revision that the key must have now; 0 demands that it does not exist. */
  readonly expected: number;
  /**
   * The value as text for the revision that the write gets. A store that learns its revision only after the
   * commit (etcd) stores `build(0)` and stamps the revision when it reads.
   */
  readonly build: (revision: number) => string;
  /** Remove the key; `build` then gives the last value, as watchers see it. */
  readonly remove?: boolean;
}

export interface Watch {
  close(): void;
}

/**
 * An append-only log of revisions with one monotonic counter, and the current state as an index in memory.
 * Reads answer from memory and see only what is durable. SQLite stands behind it today, etcd may later: that is
 * why a write names the revision it was computed from, and callers repeat it on STORE_CONFLICT.
 */
export interface Store {
  /** Newest durable revision. */
  readonly revision: number;
  /** History up to and including this revision is gone; the state at it is still readable. */
  readonly compacted: number;
  /** The durable entry of a key. */
  get(key: string): StoreEntry | undefined;
  /** What the next write of a key has to be computed from: includes writes that wait for their commit. */
  latest(key: string): StoreEntry | undefined;
  /** Entries whose keys start with `prefix`, in key order, from `start` on. Consume it before the next await. */
  range(prefix: string, start?: string): Iterable<StoreEntry>;
  count(prefix: string): number;
  /** The same at an older revision. @throws STORE_COMPACTED, STORE_FUTURE */
  rangeAt(prefix: string, revision: number, start?: string): Iterable<StoreEntry>;
  /** Newest revision that touched this collection (the part of the key before the first `/`). */
  collectionRevision(collection: string): number;
  /** Resolves when the change is durable. @throws STORE_CONFLICT, STORE_FULL, STORE_WRITE_FAILED */
  write(request: WriteRequest): Promise<StoreEntry>;
  /**
   * Calls `listener` with every change after `revision`, in order, without a gap; what is already history comes
   * in a first call before this returns. @throws STORE_COMPACTED, STORE_FUTURE
   */
  watch(prefix: string, revision: number, listener: (events: readonly StoreEvent[]) => void): Watch;
  /** Forgets history up to `revision`; returns how many rows went. */
  compact(revision: number): Promise<number>;
  close(): void;
}

/** The part of a key before the first slash. */
export function collectionOf(key: string): string {
  const slash = key.indexOf('/');
  return slash < 0 ? key : key.slice(0, slash);
}
