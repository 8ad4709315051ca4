/** Finds a real kubectl: the one in the PATH, or Debian's, unpacked beside and never installed. */
import { execFile } from 'node:child_process';
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { labError } from './plan.ts';

const run = promisify(execFile);

/** Folder for what is fetched once: $PORTOLAN_CACHE, else below the XDG cache folder. */
export function cacheFolder(): string {
  return (
    process.env['PORTOLAN_CACHE'] ??
    join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'portolan')
  );
}

/** Path of a program in the PATH, or undefined. */
export function inPath(program: string, path = process.env['PATH'] ?? ''): string | undefined {
  for (const folder of path.split(delimiter)) {
    const candidate = join(folder, program);
    try {
      accessSync(candidate, constants.X_OK);
      return candidate;
    } catch {}
  }
  return undefined;
}

/** Path of kubectl. `onFetch` is told when Debian's package has to be downloaded. Throws LAB_NO_KUBECTL. */
export async function findKubectl(onFetch: (what: string) => void = () => {}): Promise<string> {
  const named = process.env['PORTOLAN_KUBECTL'];
  if (named) return named;
  const installed = inPath('kubectl');
  if (installed) return installed;
  const cached = join(cacheFolder(), 'kubectl', 'usr/bin/kubectl');
  if (existsSync(cached)) return cached;
  onFetch("Debian's kubernetes-client");
  try {
    await unpackPackage('kubernetes-client', join(cacheFolder(), 'kubectl'));
    // From Debian 13 on, that package is empty and the program has one of its own.
    if (!existsSync(cached)) await unpackPackage('kubectl', join(cacheFolder(), 'kubectl'));
  } catch (cause) {
    const { stderr, message } = cause as { stderr?: string; message: string };
    throw labError('LAB_NO_KUBECTL', { why: stderr?.trim().split('\n').at(-1) || message }, cause);
  }
  return cached;
}

/** Downloads a Debian package from this machine's own sources and unpacks it into a folder. */
async function unpackPackage(name: string, target: string): Promise<void> {
  mkdirSync(cacheFolder(), { recursive: true, mode: 0o755 });
  const work = mkdtempSync(join(cacheFolder(), 'download-'));
  try {
    try {
      await run('apt-get', ['download', '-qq', name], { cwd: work });
    } catch {
      await run('apt-get', ['update', '-qq']);
      await run('apt-get', ['download', '-qq', name], { cwd: work });
    }
    const file = readdirSync(work).find((entry) => entry.endsWith('.deb'));
    if (!file) throw new Error(`apt-get downloaded no ${name}`);
    await run('dpkg-deb', ['-x', join(work, file), join(work, 'tree')]);
    rmSync(target, { recursive: true, force: true });
    renameSync(join(work, 'tree'), target);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}
