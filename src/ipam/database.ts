import { chmodSync, closeSync, existsSync, mkdirSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { ipamError } from '../errors/ipam.ts';
import { isNetError, type NetError } from '../errors/net-error.ts';

/** "POIP" in the header of the file (sqlite.org/fileformat2.html, offset 68): tells our database from any other. */
const APPLICATION_ID = 0x504f4950;
const FORMAT_VERSION = 1;

/** Primary result codes: sqlite.org/rescode.html. */
const SQLITE = { PERM: 3, BUSY: 5, LOCKED: 6, READONLY: 8, CORRUPT: 11, FULL: 13, CANTOPEN: 14, NOTADB: 26 };

/** An address row can't be without its attachment, and goes with it. */
const SCHEMA = `
CREATE TABLE attachments (
  container_id  TEXT    NOT NULL,
  ifname        TEXT    NOT NULL,
  netns         TEXT    NOT NULL,
  netns_inode   TEXT    NOT NULL,
  pod_namespace TEXT,
  pod_name      TEXT,
  pod_uid       TEXT,
  host_link     TEXT    NOT NULL UNIQUE,
  kind          TEXT    NOT NULL,
  network       TEXT    NOT NULL,
  mtu_bytes     INTEGER NOT NULL,
  state         TEXT    NOT NULL CHECK (state IN ('pending', 'ready')),
  created_at_ms INTEGER NOT NULL,
  PRIMARY KEY (container_id, ifname)
) STRICT, WITHOUT ROWID;
CREATE TABLE addresses (
  address      TEXT NOT NULL PRIMARY KEY,
  container_id TEXT NOT NULL,
  ifname       TEXT NOT NULL,
  FOREIGN KEY (container_id, ifname) REFERENCES attachments ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX addresses_by_attachment ON addresses (container_id, ifname);
CREATE TABLE cursors (pool TEXT NOT NULL PRIMARY KEY, last TEXT NOT NULL) STRICT, WITHOUT ROWID;
PRAGMA application_id = ${APPLICATION_ID};
PRAGMA user_version = ${FORMAT_VERSION};
`;

/**
 * Tables that came later. Older versions know nothing of them and are harmed by nothing in them: rows go with their
 * attachment. So the format stays the same, and a node may go back to an older version.
 */
const ADDITIONS = `
CREATE TABLE IF NOT EXISTS port_mappings (
  container_id   TEXT    NOT NULL,
  ifname         TEXT    NOT NULL,
  place          INTEGER NOT NULL,
  host_port      INTEGER NOT NULL,
  container_port INTEGER NOT NULL,
  protocol       TEXT    NOT NULL,
  host_ip        TEXT,
  PRIMARY KEY (container_id, ifname, place),
  FOREIGN KEY (container_id, ifname) REFERENCES attachments ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS networks (
  address TEXT NOT NULL PRIMARY KEY REFERENCES addresses ON DELETE CASCADE,
  network TEXT NOT NULL
) STRICT, WITHOUT ROWID;
`;

/** Turns an error of SQLite or of a file into one of the catalogue; what is unknown is a failed write. */
export function databaseFailure(error: unknown, path: string): NetError {
  if (isNetError(error)) return error;
  const detail = error instanceof Error ? error.message : String(error);
  const { errcode, code } = (error ?? {}) as { errcode?: unknown; code?: unknown };
  if (code === 'ENOSPC' || code === 'EDQUOT') return ipamError('IPAM_STORE_FULL', { path }, error);
  switch (typeof errcode === 'number' ? errcode & 0xff : -1) {
    case SQLITE.FULL:
      return ipamError('IPAM_STORE_FULL', { path }, error);
    case SQLITE.BUSY:
    case SQLITE.LOCKED:
      return ipamError('IPAM_STORE_IN_USE', { path }, error);
    case SQLITE.CORRUPT:
      return ipamError('IPAM_STORE_DAMAGED', { path, detail }, error);
    case SQLITE.NOTADB:
      return ipamError('IPAM_STORE_FOREIGN', { path, found: 'no SQLite database' }, error);
    case SQLITE.PERM:
    case SQLITE.READONLY:
    case SQLITE.CANTOPEN:
      return ipamError('IPAM_STORE_UNWRITABLE', { path, detail }, error);
    default:
      return ipamError('IPAM_STORE_FAILED', { path, detail }, error);
  }
}

/**
 * Opens or makes the database of a node, readable by root only. WAL with synchronous=NORMAL: a commit survives
 * kill -9; that it survives power loss is the caller's part, who syncs the WAL off the event loop (see `WalSync`).
 * The exclusive lock keeps a second agent out, and spares the shared-memory file.
 * @throws IPAM_STORE_FOREIGN, _NEWER, _DAMAGED, _IN_USE, _UNWRITABLE, _FULL
 */
export function openIpamDatabase(path: string): DatabaseSync {
  let database: DatabaseSync | undefined;
  try {
    if (!existsSync(dirname(path))) mkdirSync(dirname(path), { mode: 0o700 });
    if (existsSync(path)) chmodSync(path, 0o600);
    else closeSync(openSync(path, 'a', 0o600));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOSPC')
      throw ipamError('IPAM_STORE_FULL', { path }, error);
    throw ipamError('IPAM_STORE_UNWRITABLE', { path, detail: (error as Error).message }, error);
  }
  try {
    database = new DatabaseSync(path, { timeout: 500, enableForeignKeyConstraints: true });
    database.exec('PRAGMA locking_mode = EXCLUSIVE');
    refuseForeign(database, path);
    database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 256');
    if (number(database, 'PRAGMA application_id') === 0) {
      database.exec(`BEGIN IMMEDIATE; ${SCHEMA} ${ADDITIONS} COMMIT`);
    } else {
      refuseDamaged(database, path);
      database.exec(`BEGIN IMMEDIATE; ${ADDITIONS} COMMIT`); // takes the exclusive lock now, not at the first write
    }
    return database;
  } catch (error) {
    database?.close();
    throw databaseFailure(error, path);
  }
}

/** Before anything is written to it. */
function refuseForeign(database: DatabaseSync, path: string): void {
  const application = number(database, 'PRAGMA application_id');
  if (application === 0 && number(database, 'SELECT count(*) FROM sqlite_schema') === 0) return;
  if (application !== APPLICATION_ID)
    throw ipamError('IPAM_STORE_FOREIGN', { path, found: 'an SQLite database of another program' });
  const version = number(database, 'PRAGMA user_version');
  if (version > FORMAT_VERSION) throw ipamError('IPAM_STORE_NEWER', { path, version, known: FORMAT_VERSION });
}

function refuseDamaged(database: DatabaseSync, path: string): void {
  const checked = database.prepare('PRAGMA integrity_check(1)').get()?.['integrity_check'];
  if (checked !== 'ok') throw ipamError('IPAM_STORE_DAMAGED', { path, detail: String(checked) });
  const orphan = database.prepare('PRAGMA foreign_key_check').get();
  if (orphan) throw ipamError('IPAM_STORE_DAMAGED', { path, detail: 'an address without an attachment' });
}

/** The one number that a statement returns. */
function number(database: DatabaseSync, sql: string): number {
  return Number(Object.values(database.prepare(sql).get() ?? {})[0] ?? 0);
}
