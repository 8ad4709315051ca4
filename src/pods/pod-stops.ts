/** Stopping one pod's containers, and ending it as a whole. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Container } from '../model/kubernetes.ts';
import { runHook } from './hooks.ts';
import { allContainers, isSidecar } from './plan.ts';
import type { PodState } from './pod-state.ts';
import type { RunnerContainer } from './types.ts';

/** What a preStop hook leaves at least. kubelet: minimumGracePeriodInSeconds. */
const MIN_GRACE_MS = 2_000;

/** The preStop hook counts into the grace; what it leaves of it, at least two seconds, is for SIGTERM. */
export async function stopContainer(
  state: PodState,
  container: Container,
  id: string,
  graceMs: number,
): Promise<void> {
  const preStop = container.lifecycle?.preStop;
  let leftMs = graceMs;
  if (preStop && graceMs > 0) {
    const startedMs = performance.now();
    const hook = runHook(preStop, {
      runner: state.context.runner,
      containerId: id,
      container,
      podIp: state.podIp(state.sandboxes().at(-1)),
      timeoutMs: graceMs,
    });
    const cut = state.impatient.promise.then(() => ({ ok: true, message: '' }));
    const { ok, message } = await Promise.race([hook, cut]);
    if (!ok) state.event('Warning', 'FailedPreStopHook', `PreStopHook failed: ${message}`);
    leftMs = Math.max(graceMs - (performance.now() - startedMs), MIN_GRACE_MS);
  }
  await state.context.runner.stopContainer(id, leftMs);
}

/** Ends a container whose probe failed or whose pod is overdue. Not waited for: the step goes on. */
export function killContainer(
  state: PodState,
  container: Container,
  id: string,
  why: 'liveness' | 'startup' | 'deadline',
  done: () => void,
): void {
  const memory = state.remember(container);
  memory.stopping = id;
  memory.probes.stop();
  const told =
    why === 'deadline'
      ? 'Pod deadline exceeded'
      : `Container ${container.name} failed ${why} probe, will be restarted`;
  state.event('Normal', 'Killing', told);
  void stopContainer(state, container, id, state.ownGraceMs())
    .catch((error) =>
      state.context.log(`container ${container.name} of pod ${state.key} was not stopped`, error),
    )
    .finally(() => {
      delete memory.stopping;
      done();
    });
}

/** Ends everything that runs without waiting for anybody's grace. */
export function killAll(state: PodState): void {
  const { runner, log } = state.context;
  state.impatient.resolve();
  for (const { id } of state.running())
    runner.stopContainer(id, 0).catch((error) => log(`container ${id} lives on`, error));
}

/** All ran to their end: sidecars stop, addresses are given back; records and logs stay until the pod is deleted. */
export async function finishPod(state: PodState): Promise<void> {
  const { runner } = state.context;
  for (const container of state.running()) await runner.stopContainer(container.id, state.graceMs());
  for (const sandbox of state.sandboxes())
    if (sandbox.state === 'ready') await runner.stopSandbox(sandbox.id);
}

/** Containers stop, sidecars after the others, then the network goes; records stay, so that a status can be told. */
export async function stopPod(state: PodState, onStopped: () => void): Promise<void> {
  const { runner } = state.context;
  for (const memory of state.memory.values()) memory.probes.stop();
  const graceMs = state.vanished ? 0 : state.graceMs();
  const specs = new Map(allContainers(state.pod).map((one) => [one.name, one]));
  const isBeside = (run: RunnerContainer) => {
    const spec = specs.get(run.name);
    return spec !== undefined && isSidecar(spec);
  };
  const running = state.running();
  for (const run of running) state.event('Normal', 'Killing', `Stopping container ${run.name}`);
  const stop = async (run: RunnerContainer) => {
    const spec = specs.get(run.name);
    if (spec) await stopContainer(state, spec, run.id, graceMs);
    else await runner.stopContainer(run.id, graceMs);
  };
  await Promise.all(running.filter((run) => !isBeside(run)).map(stop));
  await Promise.all(running.filter(isBeside).map(stop));
  onStopped();
  for (const sandbox of state.sandboxes()) {
    state.keepEnds(runner.containers(sandbox.id));
    await runner.stopSandbox(sandbox.id);
  }
}

/** Nothing of the pod stays on this node. */
export async function removePod(state: PodState): Promise<void> {
  const { runner, volumesFolder, logFolder } = state.context;
  for (const sandbox of state.sandboxes()) await runner.removeSandbox(sandbox.id);
  rmSync(join(volumesFolder, state.uid), { recursive: true, force: true });
  rmSync(logFolder(state.pod), { recursive: true, force: true });
}
