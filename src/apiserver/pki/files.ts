/** Small files that appear whole or not at all, readable by their owner only. */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { apiError } from '../../errors/api.ts';
import { storeError } from '../../errors/store.ts';

/** @throws API_DATA_DIR, STORE_FULL */
export function writePrivate(path: string, text: string): void {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
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
