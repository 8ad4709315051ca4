/**
 * The two kubectls that Portolan is tested with: Debian bookworm's 1.20 and trixie's 1.32. Both are unpacked from
 * their packages into a cache and never installed. The mirror is the one that this machine's own apt uses.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

export interface Kubectl {
  /** `1.20` or `1.32`. */
  readonly version: string;
  readonly path: string;
}

interface Release {
  readonly version: string;
  readonly suite: string;
  /** Name of the package that holds the program; it moved between the releases. */
  readonly package: string;
}

const releases: readonly Release[] = [
  { version: '1.20', suite: 'bookworm', package: 'kubernetes-client' },
  { version: '1.32', suite: 'trixie', package: 'kubectl' },
];

const cache = () =>
  process.env['PORTOLAN_CACHE'] ??
  join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'portolan');

/** The first mirror of Debian's main archive in the files of /etc/apt, with the key that signs it. */
function mirror(): { url: string; signedBy: string | undefined } {
  const files = ['/etc/apt/sources.list'];
  if (existsSync('/etc/apt/sources.list.d'))
    files.push(...readdirSync('/etc/apt/sources.list.d').map((name) => `/etc/apt/sources.list.d/${name}`));
  for (const file of files) {
    if (!existsSync(file)) continue;
    const text = readFileSync(file, 'utf8');
    if (file.endsWith('.sources')) {
      for (const stanza of text.split(/\n\s*\n/)) {
        const field = (name: string) => new RegExp(`^${name}:\\s*(.+)$`, 'mi').exec(stanza)?.[1]?.trim();
        const url = field('URIs')?.split(/\s+/)[0];
        if (url && /\/debian\/?$/.test(url)) return { url, signedBy: field('Signed-By') };
      }
      continue;
    }
    for (const line of text.split('\n')) {
      const match = /^deb\s+(?:\[([^\]]*)\]\s+)?(\S+\/debian\/?)\s/.exec(line);
      if (match) return { url: match[2]!, signedBy: /signed-by=(\S+)/.exec(match[1] ?? '')?.[1] };
    }
  }
  throw new Error('no Debian mirror is configured in /etc/apt');
}

/** Downloads one package from another release without touching the machine's own apt state, and unpacks it. */
function fetchRelease(release: Release, target: string): void {
  mkdirSync(cache(), { recursive: true });
  const work = mkdtempSync(join(cache(), 'fetch-'));
  try {
    for (const folder of ['lists/partial', 'cache/archives/partial'])
      mkdirSync(join(work, folder), { recursive: true });
    const { url, signedBy } = mirror();
    const option = signedBy ? `[signed-by=${signedBy}] ` : '';
    writeFileSync(join(work, 'sources.list'), `deb ${option}${url} ${release.suite} main\n`);
    writeFileSync(join(work, 'status'), '');
    const options = [
      `Dir::Etc::sourcelist=${work}/sources.list`,
      'Dir::Etc::sourceparts=-',
      `Dir::State::lists=${work}/lists`,
      `Dir::State::status=${work}/status`,
      `Dir::Cache=${work}/cache`,
      'APT::Sandbox::User=root',
    ].flatMap((setting) => ['-o', setting]);
    const apt = (...args: string[]) =>
      execFileSync('apt-get', [...options, '-qq', ...args], { cwd: work, stdio: 'pipe' });
    apt('update');
    apt('download', release.package);
    const deb = readdirSync(work).find((name) => name.endsWith('.deb'));
    if (!deb) throw new Error(`apt-get downloaded no package ${release.package}`);
    execFileSync('dpkg-deb', ['-x', join(work, deb), join(work, 'root')]);
    rmSync(target, { recursive: true, force: true });
    renameSync(join(work, 'root'), target);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Both kubectls, fetched on first use; throws when that can't be done. */
export function kubectls(): Kubectl[] {
  return releases.map((release) => {
    const target = join(cache(), `kubectl-${release.version}`);
    const path = join(target, 'usr/bin/kubectl');
    if (!existsSync(path)) fetchRelease(release, target);
    return { version: release.version, path };
  });
}

export interface Outcome {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly kubeconfig: string;
  /** HOME of the program: its discovery caches go there, so that nothing of the user's is read or written. */
  readonly home: string;
  /** Text on standard input. */
  readonly input?: string;
  readonly timeoutMs?: number;
}

/** Starts kubectl; for `-w` and everything else that runs until it is stopped. */
export function spawnKubectl(kubectl: Kubectl, options: RunOptions, args: readonly string[]): ChildProcess {
  return spawn(kubectl.path, ['--kubeconfig', options.kubeconfig, ...args], {
    env: { PATH: process.env['PATH'] ?? '', HOME: options.home, TERM: 'dumb' },
    timeout: options.timeoutMs ?? 30_000,
  });
}

/** Runs kubectl to its end; the server may be in this very process. */
export async function runKubectl(
  kubectl: Kubectl,
  options: RunOptions,
  args: readonly string[],
): Promise<Outcome> {
  const child = spawnKubectl(kubectl, options, args);
  child.stdin!.end(options.input ?? '');
  const collect = async (stream: NodeJS.ReadableStream) => {
    let text = '';
    for await (const chunk of stream) text += String(chunk);
    return text;
  };
  const exited = new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => resolve(code ?? -1));
  });
  const [status, stdout, stderr] = await Promise.all([
    exited,
    collect(child.stdout!),
    collect(child.stderr!),
  ]);
  return { status, stdout, stderr };
}
