/** Small files that appear whole or not at all, readable by their owner only. */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { apiError } from '../../errors/api.ts';
import { storeError } from '../../errors/store.ts';

/**
 * Makes a directory and its parents, readable by their owner only. Level by level: mkdir with `recursive` never
 * returns where the kernel answers ENOENT below a directory that exists, as in /proc (Node 24.21).
 */
export function makePrivateDirectory(path: string): void {
  if (existsSync(path)) return;
  const parent = dirname(path);
  if (parent !== path) makePrivateDirectory(parent);
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
}

/** @throws API_DATA_DIR, STORE_FULL */
export function writePrivate(path: string, text: string): void {
  try {
    makePrivateDirectory(dirname(path));
    const fresh = `${path}.new`;
    writeFileSync(fresh, text, { mode: 0o600, flush: true });
    renameSync(fresh, path);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'ENOSPC') throw storeError('STORE_FULL', { path }, error);
    throw apiError('API_DATA_DIR', { path, detail: message }, error);
  }
}

/** @throws API_DATA_DIR */
export function readIfThere(path: string): string | undefined {
  try {
    return existsSync(path) ? readFileSync(path, 'utf8') : undefined;
  } catch (error) {
    throw apiError('API_DATA_DIR', { path, detail: (error as Error).message }, error);
  }
}
