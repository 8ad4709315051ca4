import { entry, errorsOf } from './net-error.ts';

/** Failures of the revision log behind the embedded API server. */
export const storeCatalogue = {
  STORE_FOREIGN: entry(
    (c: { path: string; found: string }) =>
      `Cannot open store "${c.path}": it is ${c.found}, want a Portolan store`,
    () => 'Choose another --data-dir, or move that file away',
  ),
  STORE_NEWER: entry(
    (c: { path: string; version: number; known: number }) =>
      `Cannot open store "${c.path}": its format is version ${c.version}, this program knows up to ${c.known}`,
    () => 'Start the newer Portolan that wrote it, or choose another --data-dir',
  ),
  STORE_CORRUPT: entry(
    (c: { path: string; detail: string }) =>
      `Cannot use store "${c.path}": the database is damaged (${c.detail})`,
    (c) => `Restore "${c.path}" from a backup, or move it away to start with an empty cluster`,
  ),
  STORE_IN_USE: entry(
    (c: { path: string }) => `Cannot open store "${c.path}": another process holds it`,
    () => 'Stop the other API server of this data directory, or choose another --data-dir',
  ),
  STORE_UNWRITABLE: entry(
    (c: { path: string; detail: string }) => `Cannot write store "${c.path}": ${c.detail}`,
    (c) => `Make the directory of "${c.path}" writable for this user`,
  ),
  STORE_FULL: entry(
    (c: { path: string }) =>
      `Cannot write to store "${c.path}": the disk is full; nothing of this change was kept`,
    () => 'Free space on the file system of --data-dir and repeat the request',
  ),
  STORE_WRITE_FAILED: entry(
    (c: { path: string; detail: string }) =>
      `Cannot write to store "${c.path}": ${c.detail}; nothing of this change was kept`,
    () => 'Check the disk below --data-dir and repeat the request',
  ),
  STORE_CONFLICT: entry(
    (c: { key: string; expected: number; actual: number }) =>
      `Cannot write "${c.key}": it is at revision ${c.actual}, want ${c.expected === 0 ? 'no such key' : c.expected}`,
    () => 'Read the object again and repeat the change',
  ),
  STORE_COMPACTED: entry(
    (c: { wanted: number; compacted: number }) =>
      `Cannot read revision ${c.wanted}: history up to ${c.compacted} is compacted away`,
    () => 'List again and watch from the revision of that list',
  ),
  STORE_FUTURE: entry(
    (c: { wanted: number; current: number }) =>
      `Cannot read revision ${c.wanted}: the newest revision is ${c.current}`,
    () => 'List again; the store may have been replaced by an older one',
  ),
  STORE_CLOSED: entry(
    (c: { path: string }) => `Cannot use store "${c.path}": it is closed`,
    () => 'Start the API server again',
  ),
} as const;

export const storeError = errorsOf(storeCatalogue);
