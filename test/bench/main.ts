/**
 * All benchmarks in one run: figures beside baselines, each on its own line with its budget and whether it is met.
 * Root. Every area runs in a process and a network namespace of its own, so that none disturbs the next.
 *
 *   node test/bench/main.ts [AREA...] [--quick] [--json | --markdown] [--list]
 */
import { execFileSync, spawn } from 'node:child_process';
import { cpus, loadavg, release } from 'node:os';
import { parseArgs } from 'node:util';
import { areas } from './areas.ts';
import { type Figure, lineOf, markdownOf } from './figure.ts';

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
    markdown: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
    /** Runs the area in this process and prints its figures as JSON. */
    here: { type: 'boolean', default: false },
  },
});

/** An area that takes longer than this hangs. */
const LIMIT_MS = 300_000;

interface Outcome {
  readonly area: string;
  readonly seconds: number;
  readonly figures: readonly Figure[];
  readonly error?: string;
}

/** Runs an area in a process of its own. */
function runApart(area: string): Promise<Outcome> {
  const began = performance.now();
  const words = [...process.execArgv, import.meta.filename, area, '--here'];
  if (flags.quick) words.push('--quick');
  const child = spawn('unshare', ['--net', '--', process.execPath, ...words], {
    stdio: ['ignore', 'pipe', 'pipe'],
    // A group of its own: what an area started ends with it, whatever becomes of the area.
    detached: true,
  });
  const kill = () => process.kill(-child.pid!, 'SIGKILL');
  const texts = { out: '', err: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    texts.out += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    texts.err += text;
    process.stderr.write(text);
  });
  const limit = setTimeout(kill, LIMIT_MS);
  const interrupted = () => {
    kill();
    process.exit(130);
  };
  process.once('SIGINT', interrupted).once('SIGTERM', interrupted);
  return new Promise((resolve) => {
    child.on('close', (code, signal) => {
      clearTimeout(limit);
      process.off('SIGINT', interrupted).off('SIGTERM', interrupted);
      const seconds = (performance.now() - began) / 1000;
      if (code === 0) resolve({ area, seconds, figures: JSON.parse(texts.out.trim().split('\n').at(-1)!) });
      else resolve({ area, seconds, figures: [], error: texts.err.trim() || `ended by ${signal ?? code}` });
    });
  });
}

const known = new Map(areas.map((area) => [area.name, area]));
for (const name of positionals)
  if (!known.has(name)) {
    console.error(`There is no area "${name}"; there are ${[...known.keys()].join(', ')}`);
    process.exit(2);
  }
const chosen = positionals.length > 0 ? positionals : [...known.keys()];

if (flags.list) for (const { name, about } of areas) console.log(`${name.padEnd(12)} ${about}`);
else if (flags.here) {
  // In the namespace of this area only.
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
  const figures = await known.get(chosen[0]!)!.run({ quick: flags.quick });
  console.log(JSON.stringify(figures));
  process.exit(0);
} else {
  if (process.getuid?.() !== 0) {
    console.error('The benchmarks make network namespaces: run them as root.');
    process.exit(1);
  }
  const conditions = () =>
    `${cpus().length} CPUs, kernel ${release().split('-')[0]}, load ${loadavg()[0]!.toFixed(1)}`;
  const outcomes: Outcome[] = [];
  for (const name of chosen) {
    const { about } = known.get(name)!;
    const before = conditions();
    const outcome = await runApart(name);
    outcomes.push(outcome);
    const { figures, seconds, error } = outcome;
    if (flags.json) continue;
    if (flags.markdown) {
      console.log(`\n### ${about}\n\n\`npm run bench -- ${name}\`, ${before}\n`);
      console.log('| figure | value | beside | better by | budget |\n|---|---|---|---|---|');
      for (const figure of figures) console.log(markdownOf(figure));
    } else {
      console.log(`\n${name}: ${about} (${seconds.toFixed(0)} s; ${before})`);
      for (const figure of figures) console.log(`  ${lineOf(figure)}`);
    }
    if (error) console.log(`  FAILED: ${error.split('\n').slice(-6).join('\n  ')}`);
  }
  if (flags.json) console.log(JSON.stringify(outcomes));
  else {
    const budgets = outcomes.flatMap(({ figures }) => figures.flatMap(({ budget }) => budget ?? []));
    const met = budgets.filter((budget) => budget.met).length;
    const seconds = outcomes.reduce((sum, outcome) => sum + outcome.seconds, 0);
    console.log(`\n${met} of ${budgets.length} budgets met, ${seconds.toFixed(0)} s`);
  }
  // A missed budget is a figure, not a failure: on a busy machine it says nothing about the code.
  process.exitCode = outcomes.some(({ error }) => error) ? 1 : 0;
}
