/**
 * Builds everything that is not TypeScript run as it is: the addon, the CNI shim and the pod shim (C), the BPF
 * objects, and the production bundle, into dist/. Only what is older than its sources is built again.
 *
 *   node tools/build.ts [--only native|bpf|bundle] [--force] [--arch x64|arm64]
 */
import { execFile } from 'node:child_process';
import {
  existsSync,
  globSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { parseArgs, promisify } from 'node:util';

const run = promisify(execFile);
const root = join(import.meta.dirname, '..');

/** One artefact: what it is made of and the command that makes it at a temporary path. */
interface Artefact {
  name: string;
  group: 'native' | 'bpf' | 'bundle';
  output: string;
  sources: string[];
  command: (temporary: string) => [string, string[]];
}

const { values: flags } = parseArgs({
  options: {
    only: { type: 'string' },
    force: { type: 'boolean', default: false },
    arch: { type: 'string', default: process.arch },
    help: { type: 'boolean', short: 'h', default: false },
  },
});
if (flags.help) {
  console.log('usage: node tools/build.ts [--only native|bpf|bundle] [--force] [--arch x64|arm64]');
  process.exit(0);
}

/** Another CPU's artefacts lie apart: this machine runs its own. */
const dist = join(root, flags.arch === process.arch ? 'dist' : `dist/${flags.arch}`);
const triple = flags.arch === 'arm64' ? 'aarch64-linux-gnu' : 'x86_64-linux-gnu';
const freestanding = [
  `--target=${triple}`,
  '-O2',
  '-Wall',
  '-Wextra',
  '-Werror',
  '-ffreestanding',
  '-nostdlib',
  '-fuse-ld=lld',
];

function files(pattern: string): string[] {
  return globSync(pattern, { cwd: root }).map((file) => join(root, file));
}

function artefacts(): Artefact[] {
  const headers = files('native/*.h');
  const native: Artefact[] = [
    {
      name: 'native/addon.node',
      group: 'native',
      output: join(dist, 'native/addon.node'),
      sources: [join(root, 'native/addon.c'), ...headers],
      command: (out) => [
        'clang',
        [...freestanding, '-fPIC', '-fvisibility=hidden', '-shared', '-o', out, join(root, 'native/addon.c')],
      ],
    },
  ];
  // Static executables without a C library; each says in its first comment what it is for.
  for (const source of files('native/*.freestanding.c')) {
    const name = basename(source).replace('.freestanding.c', '');
    native.push({
      name: `native/${name}`,
      group: 'native',
      output: join(dist, 'native', name),
      sources: [source, ...headers],
      command: (out) => [
        'clang',
        [
          ...freestanding,
          '-static',
          '-fno-stack-protector',
          '-Wl,-s',
          '-Wl,--build-id=none',
          '-fno-ident',
          '-Wl,-z,noseparate-code',
          '-o',
          out,
          source,
        ],
      ],
    });
  }
  // Static executables on glibc.
  for (const source of files('native/*.static.c')) {
    const name = basename(source).replace('.static.c', '');
    const compiler = flags.arch === process.arch ? 'gcc' : `${triple}-gcc`;
    native.push({
      name: `native/${name}`,
      group: 'native',
      output: join(dist, 'native', name),
      sources: [source, ...headers],
      command: (out) => [
        compiler,
        ['-O2', '-Wall', '-Wextra', '-Werror', '-static', '-s', '-o', out, source],
      ],
    });
  }
  const bpfHeaders = files('bpf/include/**/*.h');
  const bpf = files('bpf/*.bpf.c').map((source): Artefact => {
    const name = `bpf/${basename(source, '.c')}.o`;
    return {
      name,
      group: 'bpf',
      output: join(dist, name),
      sources: [source, ...bpfHeaders],
      command: (out) => [
        'clang',
        [
          '-O2',
          '-g',
          '-Wall',
          '-Wextra',
          '-Werror',
          '-target',
          'bpf',
          '-mcpu=v3',
          `-I${join(root, 'bpf/include')}`,
          `-I/usr/include/${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`,
          '-c',
          source,
          '-o',
          out,
        ],
      ],
    };
  });
  const bundle: Artefact[] = existsSync(join(root, 'src/cmd/main.ts'))
    ? [
        {
          name: 'portolan.js',
          group: 'bundle',
          output: join(dist, 'portolan.js'),
          sources: [
            ...files('src/**/*.ts'),
            ...files('src/**/*.{html,css}'),
            join(root, 'tools/bundle-http.ts'),
            join(root, 'package-lock.json'),
          ],
          command: (out) => [
            join(root, 'node_modules/.bin/esbuild'),
            [
              join(root, 'src/cmd/main.ts'),
              '--bundle',
              // Parts that few commands need are files of their own, loaded when such a command runs.
              '--splitting',
              '--platform=node',
              ...['http', 'node:http'].map((name) => `--alias:${name}=${join(root, 'tools/bundle-http.ts')}`),
              '--format=esm',
              '--target=node24',
              '--minify-syntax',
              '--minify-whitespace',
              '--keep-names',
              '--legal-comments=none',
              "--banner:js=import{createRequire as portolanRequire}from'node:module';const require=portolanRequire(import.meta.url);",
              `--outdir=${out}`,
              '--entry-names=portolan',
              '--chunk-names=chunk-[hash]',
              '--log-level=warning',
            ],
          ],
        },
      ]
    : [];
  return [...native, ...bpf, ...bundle];
}

function isStale(artefact: Artefact): boolean {
  if (flags.force || !existsSync(artefact.output)) return true;
  const made = statSync(artefact.output).mtimeMs;
  return artefact.sources.some((source) => statSync(source).mtimeMs > made);
}

/** An old chunk stays for an hour: a program that still runs may load it later. */
const CHUNK_LIFE_MS = 3_600_000;

/** Moves a bundle's files into place, the entry last, so that it never names a chunk that is not there. */
function installBundle(folder: string, entry: string): void {
  const target = dirname(entry);
  const made = readdirSync(folder);
  for (const file of made) if (file !== basename(entry)) renameSync(join(folder, file), join(target, file));
  renameSync(join(folder, basename(entry)), entry);
  rmSync(folder, { recursive: true });
  for (const file of readdirSync(target)) {
    const old = file.startsWith('chunk-') && !made.includes(file);
    if (old && Date.now() - statSync(join(target, file)).mtimeMs > CHUNK_LIFE_MS) rmSync(join(target, file));
  }
}

async function build(artefact: Artefact): Promise<void> {
  mkdirSync(dirname(artefact.output), { recursive: true });
  // Written beside and renamed: a second build, or a program that runs from the old file, never sees half of it.
  const temporary = `${artefact.output}.${process.pid}.tmp`;
  const [command, args] = artefact.command(temporary);
  try {
    await run(command, args, { cwd: root });
  } catch (error) {
    const { stderr, code } = error as { stderr?: string; code?: string | number };
    if (code === 'ENOENT') throw new Error(`Cannot build ${artefact.name}: "${command}" is not installed`);
    throw new Error(`Cannot build ${artefact.name}:\n${stderr ?? error}`);
  }
  if (artefact.group === 'bundle') installBundle(temporary, artefact.output);
  else renameSync(temporary, artefact.output);
}

const wanted = artefacts().filter((artefact) => !flags.only || artefact.group === flags.only);
const stale = wanted.filter(isStale);
let done = 0;
const tty = process.stderr.isTTY;
async function worker(queue: Artefact[]): Promise<void> {
  for (let next = queue.shift(); next; next = queue.shift()) {
    await build(next);
    done++;
    process.stderr.write(
      `${tty ? '\r\x1b[K' : ''}build ${done}/${stale.length} ${next.name}${tty ? '' : '\n'}`,
    );
  }
}
try {
  const queue = [...stale];
  await Promise.all([worker(queue), worker(queue)]);
  if (stale.length > 0 && tty) process.stderr.write('\r\x1b[K');
  if (!flags.only) {
    mkdirSync(dist, { recursive: true });
    const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
    writeFileSync(join(dist, '.built'), `${version}\n`);
  }
} catch (error) {
  console.error(`\n${(error as Error).message}`);
  process.exit(1);
}
