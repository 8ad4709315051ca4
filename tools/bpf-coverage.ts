/**
 * Which branches of the BPF programs the tests take: builds them with counters, runs tests on them, reads the counters.
 * Nothing of the tree is changed: tests run in a copy of it, whose dist/ has the programs with counters.
 *
 *   node tools/bpf-coverage.ts                 the tests of the programs; what no test takes and nothing explains
 *   node tools/bpf-coverage.ts --html DIR FILE...
 */
import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  cpSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { parseArgs } from 'node:util';
import { viewOf } from '../src/codec/index.ts';
import { EXPLAINED } from './bpf-coverage-explained.ts';
import { type CountedFunction, instrument, mapping } from './bpf-coverage-ir.ts';
import { CoverageMaps } from './bpf-coverage-maps.ts';
import { type Exported, judge, sidesOf, sideText } from './bpf-coverage-report.ts';

const root = join(import.meta.dirname, '..');
/** What runs the programs on packets, and at sockets. */
const TESTS = [
  ...[
    'service-programs',
    'service-xdp-programs',
    'service-program-state',
    'service-program-node',
    'service-program-direct',
    'service-program-sockets',
    'service-program-hot',
    'service-program-hot-apart',
    'service-program-nat',
    'service-program-flows',
    'service-same-port',
    'service-option',
  ],
  ...[
    'service-sources',
    'service-fuzz',
    'service-fuzz-node',
    'service-flows',
    'service-nat-grow',
    'service-xdp-open',
  ],
].map((name) => `test/netns/${name}.test.ts`);

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    html: { type: 'string' },
    json: { type: 'boolean', default: false },
    keep: { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
});
if (flags.help) {
  console.log(`usage: node tools/bpf-coverage.ts [--html DIR] [--json] [--keep] [FILE...]

Runs tests (default: ${TESTS.map((file) => basename(file, '.test.ts')).join(', ')}) on BPF programs with
counters, and tells which sides of which conditions were never taken. Needs root, clang, opt, llvm-cov and llvm-profdata.
Fails when a side is neither taken nor explained in tools/bpf-coverage-explained.ts, unless FILEs are given.

  --html DIR   the sources with counts, one page a file
  --json       everything as JSON
  --keep       leave the copy of the tree that the tests ran in`);
  process.exit(0);
}

/** Random packets are the same ones each time, and as many. */
const REPEATABLE = { SEED: '1', PORTOLAN_FUZZ_PACKETS: '100000' };
const COMPILE = [
  ...['-O2', '-g', '-target', 'bpf', '-mcpu=v3', `-I${join(root, 'bpf/include')}`],
  `-I/usr/include/${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`,
];
const COUNT = ['-fprofile-instr-generate', '-fcoverage-mapping', '-mllvm', '-enable-name-compression=false'];

interface Counted {
  readonly functions: readonly CountedFunction[];
  readonly mapping: string;
}

/** Compiles one source into `place/dist/bpf`, with counters that begin with `run`. */
function compile(source: string, place: string, run: bigint): Counted {
  const name = basename(source, '.bpf.c');
  const at = (suffix: string) => join(place, `${name}${suffix}`);
  execFileSync('clang', [
    ...[...COMPILE, ...COUNT, '-Xclang', '-disable-llvm-passes', '-S', '-emit-llvm', source, '-o'],
    at('.raw.ll'),
  ]);
  const { program, functions } = instrument(readFileSync(at('.raw.ll'), 'utf8'), run);
  writeFileSync(at('.program.ll'), program);
  execFileSync('clang', [
    '-O2',
    '-g',
    '-target',
    'bpf',
    '-mcpu=v3',
    '-c',
    at('.program.ll'),
    '-o',
    join(place, `dist/bpf/${name}.bpf.o`),
  ]);
  execFileSync('opt', ['-passes=instrprof', '-S', at('.raw.ll'), '-o', at('.lowered.ll')]);
  writeFileSync(at('.mapping.ll'), mapping(readFileSync(at('.lowered.ll'), 'utf8')));
  execFileSync('clang', ['-Wno-override-module', '-c', at('.mapping.ll'), '-o', at('.mapping.o')]);
  return { functions, mapping: at('.mapping.o') };
}

/** A copy of what tests need. Modules of packages are the tree's own. */
function copyTree(place: string): void {
  for (const part of ['src', 'test', 'bpf', 'tools', 'native', 'dist', 'package.json', 'tsconfig.json'])
    cpSync(join(root, part), join(place, part), { recursive: true, preserveTimestamps: true });
  symlinkSync(join(root, 'node_modules'), join(place, 'node_modules'));
}

function test(place: string, files: readonly string[]): Promise<number> {
  const child = spawn(
    process.execPath,
    [
      '--test',
      '--test-concurrency=1',
      '--test-reporter=dot',
      '--test-skip-pattern=budgets|agents go and come back',
      ...files,
    ],
    { cwd: place, env: { ...process.env, ...REPEATABLE }, stdio: ['ignore', 2, 2] },
  );
  return new Promise((done) => child.once('close', (code) => done(code ?? 1)));
}

/** Profiles as llvm-profdata reads them. */
function profileText(functions: readonly CountedFunction[], values: Uint8Array): string {
  const view = viewOf(values);
  return functions
    .map(({ name, hash, first, counters }) => {
      const counts = Array.from({ length: counters }, (_, at) => view.getBigUint64((first + at) * 8, true));
      return [name, hash, counters, ...counts, ''].join('\n');
    })
    .join('\n');
}

const place = mkdtempSync(join(tmpdir(), 'portolan-bpf-coverage-'));
const run = BigInt.asUintN(63, randomBytes(8).readBigUInt64LE());
let failed = false;
try {
  copyTree(place);
  mkdirSync(join(place, 'dist/bpf'), { recursive: true });
  const sources = globSync('bpf/*.bpf.c', { cwd: root }).map((source) => join(root, source));
  const objects = new Map(
    sources.map((source) => [basename(source, '.bpf.c'), compile(source, place, run)] as const),
  );
  using maps = new CoverageMaps(run);
  const code = await test(place, positionals.length > 0 ? positionals : TESTS);
  failed = code !== 0;
  maps.look();
  for (const [name, { functions }] of objects)
    writeFileSync(
      join(place, `${name}.proftext`),
      maps
        .valuesOf(name)
        .map((values) => profileText(functions, values))
        .join('\n'),
    );
  const profile = join(place, 'profile');
  const texts = [...objects.keys()].map((name) => join(place, `${name}.proftext`));
  execFileSync('llvm-profdata', ['merge', ...texts, '-o', profile]);
  const [first, ...more] = [...objects.values()].map((object) => object.mapping);
  const cov = [first!, ...more.flatMap((object) => ['-object', object]), `-instr-profile=${profile}`];
  const exported = JSON.parse(
    execFileSync('llvm-cov', ['export', ...cov], { encoding: 'utf8', maxBuffer: 256 << 20 }),
  ) as Exported;
  if (flags.html !== undefined)
    execFileSync('llvm-cov', ['show', '-format=html', '-show-branches=count', '-o', flags.html, ...cov]);
  const sides = sidesOf(exported, join(root, 'bpf'), (path) => readFileSync(path, 'utf8'));
  const { taken, explained, missing, idle } = judge(sides, EXPLAINED);
  if (flags.json) console.log(JSON.stringify({ taken, sides, explained, missing, idle }, undefined, 1));
  else {
    for (const side of missing) console.log(sideText(side));
    const share = ((100 * taken) / sides.length).toFixed(1);
    console.log(
      `\n${taken} of ${sides.length} sides taken (${share} %), ${explained.length} explained, ${missing.length} not; ` +
        `${maps.count} loads of programs`,
    );
    // Two CPUs may meet once in a while: no fault, but what is told each time is to be deleted.
    if (positionals.length === 0)
      for (const one of idle)
        console.log(`explained, but taken or gone: ${one.file} never ${one.side}  ${one.condition}`);
  }
  if (positionals.length === 0) failed ||= missing.length > 0;
} finally {
  if (flags.keep) console.error(`kept: ${place}`);
  else rmSync(place, { recursive: true });
}
process.exit(failed ? 1 : 0);
