import { chmodSync, closeSync, existsSync, openSync } from 'node:fs';
import { DatabaseSync } from 'node:sqlite';
import type { NetError } from '../../errors/net-error.ts';
import { storeError } from '../../errors/store.ts';

/** "PORT" in the header of the file (sqlite.org/fileformat2.html, offset 68): tells our store from any other database. */
const APPLICATION_ID = 0x504f5254;
const FORMAT_VERSION = 1;

/** Primary result codes: sqlite.org/rescode.html. */
const SQLITE = {
  PERM: 3,
  BUSY: 5,
  LOCKED: 6,
  READONLY: 8,
  IOERR: 10,
  CORRUPT: 11,
  FULL: 13,
  CANTOPEN: 14,
  NOTADB: 26,
};

/** Extended code of a busy file that a crashed writer left: another process recovers it just now. */
function primaryCode(error: unknown): number {
  const code = (error as { errcode?: unknown } | null)?.errcode;
  return typeof code === 'number' ? code & 0xff : -1;
}

/** Turns an error of SQLite into one of the catalogue; anything unknown is a failed write. */
export function sqliteFailure(error: unknown, path: string): NetError {
  const detail = error instanceof Error ? error.message : String(error);
  switch (primaryCode(error)) {
    case SQLITE.FULL:
      return storeError('STORE_FULL', { path }, error);
    case SQLITE.BUSY:
    case SQLITE.LOCKED:
      return storeError('STORE_IN_USE', { path }, error);
    case SQLITE.CORRUPT:
      return storeError('STORE_CORRUPT', { path, detail }, error);
    case SQLITE.NOTADB:
      return storeError('STORE_FOREIGN', { path, found: 'no SQLite database' }, error);
    case SQLITE.PERM:
    case SQLITE.READONLY:
    case SQLITE.CANTOPEN:
      return storeError('STORE_UNWRITABLE', { path, detail }, error);
    default:
      return storeError('STORE_WRITE_FAILED', { path, detail }, error);
  }
}

const SCHEMA = `
CREATE TABLE revisions (
  revision INTEGER PRIMARY KEY,
  key      TEXT    NOT NULL,
  created  INTEGER NOT NULL,
  previous INTEGER NOT NULL,
  deleted  INTEGER NOT NULL,
  value    TEXT    NOT NULL
) STRICT;
CREATE INDEX revisions_by_key ON revisions (key, revision);
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
INSERT INTO meta VALUES ('compacted', 0);
PRAGMA application_id = ${APPLICATION_ID};
PRAGMA user_version = ${FORMAT_VERSION};
`;

/**
 * Opens or makes the database file of a store, readable by its owner only. WAL with synchronous=FULL: a commit
 * that returned survives kill -9 and power loss. The exclusive lock keeps a second server out, and spares the
 * shared memory file.
 * @throws STORE_FOREIGN, STORE_NEWER, STORE_CORRUPT, STORE_IN_USE, STORE_UNWRITABLE, STORE_FULL
 */
export function openDatabase(path: string): DatabaseSync {
  try {
    if (!existsSync(path)) closeSync(openSync(path, 'a', 0o600));
    else chmodSync(path, 0o600);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOSPC') throw storeError('STORE_FULL', { path }, error);
    throw storeError('STORE_UNWRITABLE', { path, detail: (error as Error).message }, error);
  }
  let database: DatabaseSync | undefined;
  try {
    database = new DatabaseSync(path, { timeout: 1000 });
    database.exec('PRAGMA locking_mode = EXCLUSIVE');
    checkOwner(database, path);
    database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000');
    if (read(database, 'PRAGMA application_id') === 0) {
      database.exec('BEGIN IMMEDIATE');
      database.exec(SCHEMA);
      database.exec('COMMIT');
    } else {
      const check = database.prepare('PRAGMA quick_check(1)').get() as { quick_check?: string } | undefined;
      if (check?.quick_check !== 'ok')
        throw storeError('STORE_CORRUPT', { path, detail: check?.quick_check ?? 'no answer to quick_check' });
      // Takes the exclusive lock now, not at the first write.
      database.exec('BEGIN IMMEDIATE; COMMIT');
    }
    return database;
  } catch (error) {
    database?.close();
    if (error instanceof Error && 'remedy' in error) throw error;
    throw sqliteFailure(error, path);
  }
}

/** Refuses a database that someone else made, before anything is written to it. */
function checkOwner(database: DatabaseSync, path: string): void {
  const application = read(database, 'PRAGMA application_id');
  const tables = read(database, 'SELECT count(*) FROM sqlite_schema');
  if (application === 0 && tables === 0) return;
  if (application !== APPLICATION_ID)
    throw storeError('STORE_FOREIGN', { path, found: `an SQLite database of another program` });
  const version = read(database, 'PRAGMA user_version');
  if (version > FORMAT_VERSION) throw storeError('STORE_NEWER', { path, version, known: FORMAT_VERSION });
}

/** The one number that a statement returns. */
function read(database: DatabaseSync, sql: string): number {
  const row = database.prepare(sql).get() as Record<string, unknown> | undefined;
  return Number(Object.values(row ?? {})[0] ?? 0);
}
