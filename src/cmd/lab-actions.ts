/** What `portolan lab` does; apart from its options so that `--help` loads none of it. */
import { spawn } from 'node:child_process';
import { existsSync, lchownSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ApiClient, loadKubeconfig, resources } from '../client/index.ts';
import { cgroupRoot, ensureCgroup, moveToCgroup } from '../kernel/cgroup/index.ts';
import { distFolder } from '../kernel/paths.ts';
import { residentBytes } from '../kernel/process/identity.ts';
import { nodeSideAdmin } from '../lab/admin-config.ts';
import { down } from '../lab/down.ts';
import { findKubectl } from '../lab/kubectl.ts';
import { lockLab } from '../lab/lock.ts';
import {
  drawMatrix,
  drawNodes,
  type Paint,
  type PicturedNode,
  type ProbeCell,
  plain,
  verdictOf,
} from '../lab/picture.ts';
import { type LabPlan, labError, nodeNamed } from '../lab/plan.ts';
import { startAgain, stopProcess } from '../lab/restart.ts';
import { isReady, picturedNodes, probeLab } from '../lab/show.ts';
import { kubeconfigs, loadLab, running } from '../lab/state.ts';
import { type LabStep, labSteps } from '../lab/up.ts';
import { DEFAULT_NAME, type NamedFlags, type UpFlags } from './lab-flags.ts';
import { bytes, coloured, print, styled, table } from './output.ts';

const DEMO_SECONDS = 60;
/** How long after the demo's pods are Ready every node may need to know all of their addresses. */
const SETTLE_MS = 10_000;

export async function status(flags: NamedFlags & { probe: boolean }): Promise<void> {
  needRoot('lab status');
  const { plan, state } = loadLab(flags.name);
  const alive = new Set(running(state).map(({ pid }) => pid));
  const processes = state.processes.map(({ title, pid, log }) => ({
    title,
    pid,
    running: alive.has(pid),
    rssBytes: residentBytes(pid) ?? 0,
    log,
  }));
  const view = await withClient(plan, (client) => lookAt(plan, client, flags.probe ? 0 : undefined));
  print({
    json: flags.json,
    value: { name: flags.name, ...view, processes },
    text: () =>
      [
        pictureText(plan, view),
        table(
          ['PROCESS', 'PID', 'STATE', 'MEMORY', 'LOG'],
          processes.map((one) => [
            one.title,
            String(one.pid),
            one.running ? styled('green', 'running') : styled('red', 'ended'),
            bytes(one.rssBytes),
            one.log,
          ]),
        ),
      ].join('\n\n'),
  });
  if (processes.some((one) => !one.running)) process.exitCode = 1;
}

export async function execute(nodeName: string, words: string[], flags: NamedFlags): Promise<void> {
  needRoot('lab exec');
  const command = words[0] === '--' ? words.slice(1) : words;
  const { plan } = loadLab(flags.name);
  const node = nodeNamed(plan, nodeName);
  const cgroup = join(cgroupRoot(), node.cgroup, 'host');
  ensureCgroup(cgroup);
  moveToCgroup(cgroup, process.pid);
  const env = {
    ...process.env,
    // Whatever the caller has there leads to an address that this node does not reach.
    KUBECONFIG: nodeSideAdmin(plan),
    PORTOLAN_STATE_DIR: node.stateDir,
    PORTOLAN_BPFFS: node.bpffsDir,
    PORTOLAN_CGROUP: join(cgroupRoot(), node.cgroup),
    PATH: `${join(distFolder, '..')}:${process.env['PATH']}`,
  };
  await become('nsenter', [`--net=/run/netns/${node.netns}`, '--', ...command], env);
}

export async function kubectl(args: string[], flags: NamedFlags): Promise<void> {
  const { plan } = loadLab(flags.name);
  const program = await findKubectl((what) => console.error(`downloading ${what}`));
  await become(program, args, { ...process.env, KUBECONFIG: kubeconfigs(plan).admin });
}

export async function restart(what: string, flags: NamedFlags & { kill: boolean }): Promise<void> {
  needRoot('lab restart');
  const begun = performance.now();
  await stopProcess(flags.name, what, flags.kill);
  const { title, pid } = await startAgain(flags.name, what);
  const took = Math.round(performance.now() - begun);
  print({
    json: flags.json,
    value: { title, pid, tookMs: took },
    text: () => `${title} is process ${pid} now and serves again after ${took} ms`,
  });
}

export async function end({ name, json }: NamedFlags): Promise<void> {
  needRoot('lab down');
  const lock = lockLab(name);
  const { processes, namespaces } = await down(name).finally(() => lock.release());
  print({
    json,
    value: { name, processes, namespaces },
    text: () =>
      processes + namespaces === 0
        ? `lab "${name}" is not there`
        : `lab "${name}" is gone: ${processes} processes, ${namespaces} namespaces`,
  });
}

export function kubeconfig({ name, out }: NamedFlags & { out?: string }): void {
  const path = kubeconfigs(loadLab(name).plan).admin;
  if (out === undefined) console.log(path);
  else copyForUser(path, out);
}

/** Whole or not at all, readable only by the user who called sudo. */
function copyForUser(from: string, to: string): void {
  const draft = `${to}.${process.pid}`;
  try {
    // Never through a link that somebody else put there.
    writeFileSync(draft, readFileSync(from), { mode: 0o600, flag: 'wx' });
    const { SUDO_UID, SUDO_GID } = process.env;
    if (SUDO_UID && SUDO_GID) lchownSync(draft, Number(SUDO_UID), Number(SUDO_GID));
    renameSync(draft, to);
  } catch (cause) {
    rmSync(draft, { force: true });
    const want = `a file that can be written: ${(cause as Error).message}`;
    throw labError('LAB_BAD_OPTION', { option: 'out', value: to, want }, cause);
  }
}

interface View {
  nodes: PicturedNode[];
  probes: ProbeCell[];
}

export async function up(flags: UpFlags): Promise<void> {
  needRoot('lab up');
  const {
    name,
    nodes,
    backend,
    dualStack,
    serviceEngine = 'auto',
    podLink = 'routed',
    directRouting,
    port,
  } = flags;
  const interruption = new AbortController();
  const { signal } = interruption;
  const lock = lockLab(name);
  const onSignal = () => {
    if (!signal.aborted) return interruption.abort();
    console.error(`interrupted again: "portolan lab down --name ${name}" removes what is left`);
    process.exit(130);
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  const options = { name, nodes, backend, dualStack, serviceEngine, podLink, directRouting, port };
  const { plan, steps } = await labSteps(options, signal).catch((error: unknown) => {
    lock.release();
    throw error;
  });
  const view: View = { nodes: [], probes: [] };
  if (flags.demo) steps.push(...demoSteps(plan, signal));
  steps.push({
    title: 'Connections between everything',
    run: async () => {
      Object.assign(view, await withClient(plan, (client) => lookAt(plan, client, SETTLE_MS)));
    },
  });
  const guarded = steps.map(({ title, run }) => ({
    title,
    run: async () => {
      if (signal.aborted) throw labError('LAB_INTERRUPTED', { what: title });
      await run();
    },
  }));
  try {
    await runSteps(guarded, flags.json ? 'silent' : process.stdout.isTTY ? 'live' : 'lines');
  } catch (error) {
    await down(name);
    if (!signal.aborted) throw error;
    console.error('interrupted; everything that was made has been removed');
    process.exitCode = 130;
    return;
  } finally {
    lock.release();
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
  }
  const failed = view.probes.filter(({ micros }) => micros === undefined);
  print({
    json: flags.json,
    value: { name, ...view, kubeconfig: kubeconfigs(plan).admin },
    text: () => {
      const own = name === DEFAULT_NAME ? '' : ` --name ${name}`;
      return `\n${pictureText(plan, view)}\n\nNext: ./portolan lab kubectl${own} get pods -o wide   |   ./portolan lab exec${own} node1 -- portolan status   |   ./portolan lab down${own}`;
    },
  });
  if (failed.length === 0) return;
  const some = failed
    .slice(0, 5)
    .map(({ from, to, family, failure }) => `${from} to ${to} by IPv${family}: ${failure}`);
  console.error(
    `${failed.length} of ${view.probes.length} connections fail after ${SETTLE_MS / 1000} s (${some.join('; ')}). "portolan lab exec NODE -- portolan status" tells what a node lacks.`,
  );
  process.exitCode = 1;
}

/** Runs the steps one after the other: as a list that is redrawn, as one line each when it is done, or silently. */
async function runSteps(steps: readonly LabStep[], show: 'live' | 'lines' | 'silent'): Promise<void> {
  if (show === 'live') {
    const { Listr } = await import('listr2');
    await new Listr(
      steps.map(({ title, run }) => ({ title, task: run })),
      { rendererOptions: { showErrorMessage: false } as object, registerSignalListeners: false },
    ).run();
    return;
  }
  for (const { title, run } of steps) {
    const begun = performance.now();
    try {
      await run();
    } catch (error) {
      if (show === 'lines') console.log(`✖ ${title}`);
      throw error;
    }
    if (show === 'lines') console.log(`✔ ${title} (${((performance.now() - begun) / 1000).toFixed(1)} s)`);
  }
}

/** Applies the example by a real kubectl, as a user would, and waits until its pods are Ready. */
function demoSteps(plan: LabPlan, signal: AbortSignal) {
  const manifest = ['../examples/hello.yaml', 'examples/hello.yaml']
    .map((path) => join(distFolder, path))
    .find((path) => existsSync(path));
  return [
    {
      title: 'Pods and a Service: kubectl apply -f examples/hello.yaml',
      run: async () => {
        if (!manifest) throw new Error('examples/hello.yaml is not beside this program');
        const kubectl = await findKubectl();
        await capture(kubectl, ['apply', '-f', manifest], {
          ...process.env,
          KUBECONFIG: kubeconfigs(plan).admin,
        });
        await withClient(plan, async (client) => {
          const end = Date.now() + DEMO_SECONDS * 1000;
          for (;;) {
            const pods = await client.listAll(resources.pods, { namespace: 'default' });
            const ready = pods.filter(isReady).length;
            if (pods.length > 0 && ready === pods.length && (await hasEndpoints(client, ready))) return;
            if (signal.aborted) throw labError('LAB_INTERRUPTED', { what: 'the example pods' });
            if (Date.now() > end)
              throw labError('LAB_TIMEOUT', {
                what: 'the example pods',
                seconds: DEMO_SECONDS,
                state: `${ready} of ${pods.length} are Ready`,
              });
            await sleep(100);
          }
        });
      },
    },
  ];
}

async function hasEndpoints(client: ApiClient, want: number): Promise<boolean> {
  const slices = await client.listAll(resources.endpointSlices, {
    namespace: 'default',
    labelSelector: 'kubernetes.io/service-name=hello',
  });
  return (
    slices.length > 0 &&
    slices.every(
      ({ endpoints }) => (endpoints ?? []).filter(({ conditions }) => conditions?.ready).length >= want,
    )
  );
}

/** `patienceMs`: how long connections that fail are tried again; undefined tries none. */
async function lookAt(plan: LabPlan, client: ApiClient, patienceMs: number | undefined): Promise<View> {
  return {
    probes: patienceMs === undefined ? [] : await probeLab(plan, client, patienceMs),
    nodes: await picturedNodes(client),
  };
}

/** How packets cross between nodes. */
function cableOf({ options }: LabPlan): string {
  return options.backend === 'vxlan' && options.directRouting
    ? 'vxlan, direct where on one link'
    : options.backend;
}

function pictureText(plan: LabPlan, { nodes, probes }: View): string {
  const paint: Paint = coloured() ? (style, text) => styled(style, text) : plain;
  const parts = [drawNodes(nodes, { columns: process.stdout.columns || 120, paint, backend: cableOf(plan) })];
  for (const family of [4, 6] as const) {
    const matrix = drawMatrix(probes, family, paint);
    if (matrix) parts.push(matrix);
  }
  if (probes.length > 0) parts.push(verdictOf(probes));
  return parts.join('\n\n');
}

async function withClient<T>(plan: LabPlan, work: (client: ApiClient) => Promise<T>): Promise<T> {
  const client = new ApiClient(loadKubeconfig(kubeconfigs(plan).admin));
  try {
    return await work(client);
  } finally {
    client.close();
  }
}

/**
 * Runs a command in place of this one: its terminal, its exit status, 128 and the number of a signal that ended it, as
 * a shell tells it. Node's own execve() would leave SIGPIPE ignored, and `lab exec node1 -- yes | head` with errors.
 */
async function become(command: string, args: string[], env: NodeJS.ProcessEnv): Promise<void> {
  const child = spawn(command, args, { stdio: 'inherit', env });
  for (const name of ['SIGINT', 'SIGQUIT', 'SIGTERM', 'SIGHUP'] as const)
    process.on(name, () => {
      // A terminal has told its whole foreground group.
      const byTerminal = process.stdin.isTTY && (name === 'SIGINT' || name === 'SIGQUIT');
      if (!byTerminal) child.kill(name);
    });
  const status = await new Promise<number>((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code, signal) => resolve(signal ? 128 + constants.signals[signal] : (code ?? 1)));
  });
  process.exit(status);
}

async function capture(command: string, args: string[], env: NodeJS.ProcessEnv): Promise<void> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], env });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (part: Buffer) => (said += part));
  const code = await new Promise<number>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (status) => resolve(status ?? 1));
  });
  if (code !== 0) throw new Error(`${args.join(' ')} failed: ${said.trim()}`);
}

function needRoot(what: string): void {
  if (process.getuid?.() !== 0) throw labError('LAB_NEEDS_ROOT', { what });
}
