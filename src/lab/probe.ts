/** Real connections between everything in a lab, timed by the probe program inside each source's namespace. */
import { execFile } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { distPath } from '../kernel/paths.ts';
import type { ProbeCell } from './picture.ts';

const run = promisify(execFile);

/** Where probes start: a namespace, and the cgroup whose socket programs act on it. */
export interface ProbeSource {
  name: string;
  netnsPath: string;
  cgroupPath: string;
}

export interface ProbeTarget {
  name: string;
  address: string;
  port: number;
  family: 4 | 6;
}

/** Connects from each source to each target, sources side by side. `skip` leaves pairs out. */
export async function probeAll(
  sources: readonly ProbeSource[],
  targets: readonly ProbeTarget[],
  options: { timeoutMs?: number; skip?: (source: ProbeSource, target: ProbeTarget) => boolean } = {},
): Promise<ProbeCell[]> {
  const rows = await Promise.all(
    sources.map((source) =>
      probeFrom(
        source,
        targets.filter((target) => !options.skip?.(source, target)),
        options.timeoutMs ?? 2000,
      ),
    ),
  );
  return rows.flat();
}

/**
 * Probes again what did not answer, until it does or `patienceMs` have gone by. A pod is Ready in the API some
 * milliseconds before every node has its EndpointSlice, so a lab that has just begun may refuse for a moment.
 */
export async function probeUntilAnswered(
  sources: readonly ProbeSource[],
  targets: readonly ProbeTarget[],
  patienceMs: number,
): Promise<ProbeCell[]> {
  const deadline = performance.now() + patienceMs;
  const cells = new Map((await probeAll(sources, targets)).map((cell) => [nameOf(cell), cell]));
  while (true) {
    const failed = new Set([...cells].filter(([, { micros }]) => micros === undefined).map(([name]) => name));
    if (failed.size === 0 || performance.now() >= deadline) return [...cells.values()];
    await sleep(AGAIN_MS);
    const skip = (source: ProbeSource, { name, family }: ProbeTarget) =>
      !failed.has(nameOf({ from: source.name, to: name, family }));
    for (const cell of await probeAll(sources, targets, { skip })) cells.set(nameOf(cell), cell);
  }
}

const AGAIN_MS = 200;
const nameOf = ({ from, to, family }: Pick<ProbeCell, 'from' | 'to' | 'family'>) => `${from} ${to} ${family}`;

async function probeFrom(
  source: ProbeSource,
  targets: readonly ProbeTarget[],
  timeoutMs: number,
): Promise<ProbeCell[]> {
  if (targets.length === 0) return [];
  const args = [
    ...['--netns', source.netnsPath, '--cgroup', source.cgroupPath, '--timeout-ms', String(timeoutMs)],
    ...targets.flatMap(({ address, port }) => [address, String(port)]),
  ];
  let output: string;
  try {
    ({ stdout: output } = await run(distPath('native/probe'), args));
  } catch (error) {
    // Exit status 1 says that some target did not answer; what did is on stdout all the same.
    const { stdout, stderr, code } = error as { stdout?: string; stderr?: string; code?: number };
    if (code !== 1 || !stdout)
      throw new Error(`probe from ${source.name}: ${stderr ?? (error as Error).message}`);
    output = stdout;
  }
  const lines = output.trimEnd().split('\n');
  return targets.map((target, at): ProbeCell => {
    const [, , verdict, micros] = (lines[at] ?? '').split(' ');
    const cell = { from: source.name, to: target.name, family: target.family };
    return verdict === 'ok'
      ? { ...cell, micros: Number(micros) }
      : { ...cell, micros: undefined, failure: verdict ?? 'failed' };
  });
}
