/**
 * `./portolan test`: everything, on the real kernel. Static checks and unit tests first, then the tests that
 * make network namespaces; at the end it looks for anything left behind.
 */
import { spawnSync } from 'node:child_process';
import { globSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { inventory } from './test-inventory.ts';

const root = join(import.meta.dirname, '..');
const bin = join(root, 'node_modules/.bin');
const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    unit: { type: 'boolean', default: false },
    'no-check': { type: 'boolean', default: false },
    reporter: { type: 'string', default: process.stdout.isTTY ? 'spec' : 'dot' },
    help: { type: 'boolean', short: 'h', default: false },
  },
});
if (flags.help) {
  console.log(`usage: portolan test [--unit] [--no-check] [--reporter spec|dot|tap] [FILE...]

Runs types, lint, import directions and unit tests, then (as root) the tests on the real kernel.

  portolan test                                    everything; needs root
  portolan test --unit                             no root, no namespaces
  portolan test --no-check test/netns/netns.test.ts   one file`);
  process.exit(0);
}

const env = {
  ...process.env,
  PATH: `${bin}:${process.env['PATH']}:/usr/sbin:/sbin`,
  NODE_OPTIONS: '--disable-warning=ExperimentalWarning',
};
const results: { name: string; ok: boolean; seconds: number }[] = [];

function step(name: string, command: string, args: string[]): boolean {
  console.log(`\n== ${name}`);
  const begun = Date.now();
  const { status, error } = spawnSync(command, args, {
    cwd: root,
    env,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  if (error) console.error(error.message);
  const ok = status === 0;
  results.push({ name, ok, seconds: (Date.now() - begun) / 1000 });
  return ok;
}

/** Whether a bpffs is mounted where agents and tests put theirs, if none is. */
function hasBpffs(): boolean {
  return readFileSync('/proc/self/mountinfo', 'utf8').includes(' /sys/fs/bpf rw');
}

const hadBpffs = hasBpffs();
const before = inventory(root);
if (!flags['no-check']) {
  step('types', join(bin, 'tsc'), ['--noEmit']);
  step('lint', process.execPath, ['tools/biome.ts', 'check', '.']);
  step('imports', process.execPath, ['tools/check-imports.ts']);
  step('errors doc', process.execPath, ['tools/errors-doc.ts', '--check']);
  step('unit tests', process.execPath, [
    '--test',
    '--test-isolation=none',
    '--test-timeout=120000',
    `--test-reporter=${flags.reporter}`,
    'src/**/*.test.ts',
    'tools/**/*.test.ts',
  ]);
}
if (!flags.unit) {
  if (process.getuid?.() !== 0) {
    console.error(
      'error[TEST_NEEDS_ROOT]: Cannot test on the kernel: not root\n  Run "sudo ./portolan test", or "./portolan test --unit"',
    );
    process.exit(2);
  }
  const files =
    positionals.length > 0
      ? positionals
      : globSync('test/{netns,conformance}/**/*.test.ts', { cwd: root }).sort();
  step(`kernel tests (${files.length} files)`, process.execPath, [
    '--test',
    '--test-concurrency=1',
    '--test-timeout=600000',
    '--test-reporter=spec',
    ...files,
  ]);
  // A bpffs that a test mounted brings maps.debug and progs.debug of the kernel's own (kernel/bpf/preload). It goes
  // again, unless a pin is left in it: that is told below.
  const pins = () => readdirSync('/sys/fs/bpf').filter((name) => !/^(maps|progs)\.debug$/.test(name));
  if (!hadBpffs && hasBpffs() && pins().length === 0)
    spawnSync('umount', ['/sys/fs/bpf'], { stdio: 'inherit' });
  const leftBehind = () => [...inventory(root)].filter((entry) => !before.has(entry));
  let left = leftBehind();
  // What was killed may be about to end.
  for (let tries = 0; tries < 10 && left.length > 0; tries++) {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 500);
    left = leftBehind();
  }
  if (left.length > 0) console.error(`\nleft behind:\n  ${left.join('\n  ')}`);
  results.push({ name: 'nothing left behind', ok: left.length === 0, seconds: 0 });
}

console.log('');
for (const { name, ok, seconds } of results)
  console.log(`${ok ? 'ok    ' : 'FAILED'} ${name} (${seconds.toFixed(1)} s)`);
const failed = results.filter(({ ok }) => !ok).length;
console.log(`\n${results.length - failed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
