/**
 * The store on SQLite.
 *
 *   write ──► queue ──(end of this turn of the event loop)──► one transaction, one fsync ──► index, watchers, answers
 *
 * All writes that arrive in one turn share a commit, so throughput grows with load. Until the commit, a write is
 * visible only to later writes of the same key (`latest`); readers and watchers see durable state only. When the
 * commit fails, the whole group is undone and refused: no half state, and no revision that goes back.
 */
import type { DatabaseSync, StatementSync } from 'node:sqlite';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { storeError } from '../../errors/store.ts';
import { afterPrefix, KeyIndex } from '../key-index.ts';
import {
  collectionOf,
  type Store,
  type StoreEntry,
  type StoreEvent,
  type Watch,
  type WriteRequest,
} from '../types.ts';
import { openDatabase, sqliteFailure } from './open.ts';

/** Changes kept in memory, so that a watch that resumes soon needs no disk. */
const RECENT_EVENTS = 4096;
/** Rows deleted in one transaction of a compaction: keeps the pause of the event loop below some 10 ms. */
const COMPACT_BATCH = 1000;

interface Pending {
  readonly event: StoreEvent;
  readonly resolve: (entry: StoreEntry) => void;
  readonly reject: (error: unknown) => void;
}

interface Watcher {
  readonly prefix: string;
  readonly listener: (events: readonly StoreEvent[]) => void;
}

interface Row {
  revision: number;
  key: string;
  created: number;
  previous: number;
  deleted: number;
  value: string;
}

export class SqliteStore implements Store {
  readonly #path: string;
  readonly #database: DatabaseSync;
  readonly #insert: StatementSync;
  readonly #index = new KeyIndex();
  readonly #collectionRevisions = new Map<string, number>();
  readonly #watchers = new Map<string, Set<Watcher>>();
  #recent: StoreEvent[] = [];
  /** Newest revision that left `#recent`: every later one is in it. */
  #recentAfter: number;
  #queue: Pending[] = [];
  /** Keys with a write in the queue: the entry, or null when it is being removed. */
  readonly #overlay = new Map<string, StoreEntry | null>();
  #revision: number;
  #nextRevision: number;
  #compacted: number;
  #closed = false;

  private constructor(path: string, database: DatabaseSync) {
    this.#path = path;
    this.#database = database;
    this.#insert = database.prepare(
      'INSERT INTO revisions (revision, key, created, previous, deleted, value) VALUES (?, ?, ?, ?, ?, ?)',
    );
    const meta = database.prepare("SELECT value FROM meta WHERE name = 'compacted'").get() as {
      value: number;
    };
    const newest = database.prepare('SELECT coalesce(max(revision), 0) AS value FROM revisions').get() as {
      value: number;
    };
    this.#compacted = meta.value;
    // Compaction may have removed the newest rows (tombstones): the counter never goes below it.
    this.#revision = Math.max(newest.value, meta.value);
    this.#nextRevision = this.#revision + 1;
    this.#recentAfter = this.#revision;
    const rows = database.prepare(
      `SELECT r.* FROM (SELECT max(revision) AS newest FROM revisions GROUP BY key) n
       JOIN revisions r ON r.revision = n.newest ORDER BY r.key`,
    );
    for (const row of rows.iterate() as Iterable<unknown>) {
      const entry = entryOf(row as Row);
      // A deletion leaves no entry, but it is a change: who resumes from before it must be told.
      if (!(row as Row).deleted) this.#index.set(entry);
      this.#touch(entry.key, entry.revision);
    }
  }

  /** @throws the STORE_* errors of `openDatabase` */
  static open(path: string): SqliteStore {
    const database = openDatabase(path);
    try {
      return new SqliteStore(path, database);
    } catch (error) {
      database.close();
      throw sqliteFailure(error, path);
    }
  }

  get revision(): number {
    return this.#revision;
  }

  get compacted(): number {
    return this.#compacted;
  }

  get(key: string): StoreEntry | undefined {
    return this.#index.get(key);
  }

  latest(key: string): StoreEntry | undefined {
    const pending = this.#overlay.get(key);
    return pending === undefined ? this.#index.get(key) : (pending ?? undefined);
  }

  range(prefix: string, start?: string): Iterable<StoreEntry> {
    return this.#index.range(prefix, start);
  }

  count(prefix: string): number {
    return this.#index.count(prefix);
  }

  collectionRevision(collection: string): number {
    return this.#collectionRevisions.get(collection) ?? 0;
  }

  *rangeAt(prefix: string, revision: number, start = prefix): Generator<StoreEntry> {
    this.#checkReadable(revision);
    // Unchanged since then: the index has the answer.
    if (this.collectionRevision(collectionOf(prefix)) <= revision) {
      yield* this.#index.range(prefix, start);
      return;
    }
    const rows = this.#database.prepare(
      `SELECT * FROM revisions r WHERE key >= ? AND key < ? AND deleted = 0 AND revision =
         (SELECT max(revision) FROM revisions WHERE key = r.key AND revision <= ?) ORDER BY key`,
    );
    for (const row of rows.iterate(
      start < prefix ? prefix : start,
      afterPrefix(prefix),
      revision,
    ) as Iterable<unknown>)
      yield entryOf(row as Row);
  }

  write(request: WriteRequest): Promise<StoreEntry> {
    if (this.#closed) return Promise.reject(storeError('STORE_CLOSED', { path: this.#path }));
    const previous = this.latest(request.key);
    const actual = previous?.revision ?? 0;
    if (actual !== request.expected)
      return Promise.reject(
        storeError('STORE_CONFLICT', { key: request.key, expected: request.expected, actual }),
      );
    const revision = this.#nextRevision;
    const entry: StoreEntry = {
      key: request.key,
      value: request.build(revision),
      revision,
      created: previous?.created ?? revision,
    };
    this.#nextRevision++;
    this.#overlay.set(request.key, request.remove ? null : entry);
    const event: StoreEvent = {
      type: request.remove ? 'delete' : 'put',
      revision,
      entry,
      ...(previous && { previous }),
    };
    return new Promise((resolve, reject) => {
      this.#queue.push({ event, resolve, reject });
      // After the poll phase: every request that was readable in this turn has had its say.
      if (this.#queue.length === 1) setImmediate(() => this.#flush());
    });
  }

  watch(prefix: string, revision: number, listener: (events: readonly StoreEvent[]) => void): Watch {
    this.#checkReadable(revision);
    const history = this.#eventsAfter(prefix, revision);
    if (history.length > 0) listener(history);
    const collection = collectionOf(prefix);
    const watcher: Watcher = { prefix, listener };
    const group = this.#watchers.get(collection) ?? new Set();
    group.add(watcher);
    this.#watchers.set(collection, group);
    return {
      close: () => {
        group.delete(watcher);
      },
    };
  }

  async compact(revision: number): Promise<number> {
    const target = Math.min(revision, this.#revision);
    if (target <= this.#compacted || this.#closed) return 0;
    try {
      // First the mark, durable, so that no reader is ever answered from a history with holes.
      this.#database.prepare("UPDATE meta SET value = ? WHERE name = 'compacted'").run(target);
    } catch (error) {
      throw sqliteFailure(error, this.#path);
    }
    this.#compacted = target;
    // Superseded rows go before tombstones: the other way round a crash would bring a deleted key back.
    const superseded = `EXISTS (SELECT 1 FROM revisions n
      WHERE n.key = r.key AND n.revision > r.revision AND n.revision <= ?1)`;
    return (await this.#deleteRows(superseded, target)) + (await this.#deleteRows('r.deleted = 1', target));
  }

  /** Deletes matching rows up to `target` in small transactions, letting requests in between. */
  async #deleteRows(condition: string, target: number): Promise<number> {
    let removed = 0;
    for (let gone = COMPACT_BATCH; gone === COMPACT_BATCH && !this.#closed; removed += gone) {
      try {
        const result = this.#database
          .prepare(
            `DELETE FROM revisions WHERE revision IN
             (SELECT r.revision FROM revisions r WHERE r.revision <= ?1 AND ${condition} LIMIT ${COMPACT_BATCH})`,
          )
          .run(target);
        gone = Number(result.changes);
      } catch (error) {
        throw sqliteFailure(error, this.#path);
      }
      await nextTurn();
    }
    return removed;
  }

  /** Caps the size of the database in pages of 4 KiB, as a full disk would; for operators with small volumes. */
  limitPages(pages: number): void {
    this.#database.exec(`PRAGMA max_page_count = ${Math.trunc(pages)}`);
  }

  close(): void {
    if (this.#closed) return;
    this.#flush();
    this.#closed = true;
    this.#watchers.clear();
    this.#database.close();
  }

  #checkReadable(revision: number): void {
    if (revision < this.#compacted)
      throw storeError('STORE_COMPACTED', { wanted: revision, compacted: this.#compacted });
    if (revision > this.#revision)
      throw storeError('STORE_FUTURE', { wanted: revision, current: this.#revision });
  }

  /** Commits everything queued; on failure nothing of it happened. */
  #flush(): void {
    const batch = this.#queue;
    if (batch.length === 0) return;
    this.#queue = [];
    this.#overlay.clear();
    try {
      // One statement is a transaction by itself.
      const together = batch.length > 1;
      if (together) this.#database.exec('BEGIN IMMEDIATE');
      for (const { event } of batch) {
        const { key, created, revision, value } = event.entry;
        this.#insert.run(
          revision,
          key,
          created,
          event.previous?.revision ?? 0,
          event.type === 'delete' ? 1 : 0,
          value,
        );
      }
      if (together) this.#database.exec('COMMIT');
    } catch (error) {
      try {
        if (this.#database.isTransaction) this.#database.exec('ROLLBACK');
      } catch {
        // SQLite has rolled back by itself (sqlite.org/lang_transaction.html, section 2.2).
      }
      this.#nextRevision = this.#revision + 1;
      const failure = sqliteFailure(error, this.#path);
      for (const { reject } of batch) reject(failure);
      return;
    }
    this.#revision = this.#nextRevision - 1;
    const events = batch.map((pending) => pending.event);
    for (const { type, entry } of events) {
      if (type === 'delete') this.#index.delete(entry.key);
      else this.#index.set(entry);
      this.#touch(entry.key, entry.revision);
    }
    this.#remember(events);
    this.#dispatch(events);
    for (const { event, resolve } of batch) resolve(event.entry);
  }

  #touch(key: string, revision: number): void {
    const collection = collectionOf(key);
    if ((this.#collectionRevisions.get(collection) ?? 0) < revision)
      this.#collectionRevisions.set(collection, revision);
  }

  #remember(events: readonly StoreEvent[]): void {
    for (const event of events) this.#recent.push(event);
    if (this.#recent.length < 2 * RECENT_EVENTS) return;
    const gone = this.#recent.length - RECENT_EVENTS;
    this.#recentAfter = this.#recent[gone - 1]!.revision;
    this.#recent = this.#recent.slice(gone);
  }

  #dispatch(events: readonly StoreEvent[]): void {
    const byCollection = Map.groupBy(events, (event) => collectionOf(event.entry.key));
    for (const [collection, group] of byCollection) {
      for (const watcher of this.#watchers.get(collection) ?? []) {
        const matching =
          watcher.prefix.length === collection.length + 1
            ? group
            : group.filter((event) => event.entry.key.startsWith(watcher.prefix));
        if (matching.length > 0) watcher.listener(matching);
      }
    }
  }

  #eventsAfter(prefix: string, revision: number): StoreEvent[] {
    if (this.collectionRevision(collectionOf(prefix)) <= revision) return [];
    if (revision >= this.#recentAfter)
      return this.#recent.filter((event) => event.revision > revision && event.entry.key.startsWith(prefix));
    const rows = this.#database.prepare(
      `SELECT r.*, p.value AS previous_value, p.created AS previous_created FROM revisions r
       LEFT JOIN revisions p ON p.revision = r.previous
       WHERE r.revision > ? AND r.key >= ? AND r.key < ? ORDER BY r.revision`,
    );
    const events: StoreEvent[] = [];
    for (const raw of rows.iterate(revision, prefix, afterPrefix(prefix)) as Iterable<unknown>) {
      const row = raw as Row & { previous_value: string | null; previous_created: number | null };
      events.push({
        type: row.deleted ? 'delete' : 'put',
        revision: row.revision,
        entry: entryOf(row),
        ...(row.previous_value !== null && {
          previous: {
            key: row.key,
            value: row.previous_value,
            revision: row.previous,
            created: row.previous_created ?? row.previous,
          },
        }),
      });
    }
    return events;
  }
}

function entryOf(row: Row): StoreEntry {
  return { key: row.key, value: row.value, revision: row.revision, created: row.created };
}
