/** Starting one pod's sandbox and containers; failures end up in its memory, never in the caller. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { isNetError } from '../errors/index.ts';
import type { Container } from '../model/kubernetes.ts';
import { containerConfig, hasCommand, sandboxConfig } from './container-config.ts';
import { runHook } from './hooks.ts';
import { allContainers } from './plan.ts';
import { messageOf, type PodState } from './pod-state.ts';
import type { Sandbox } from './types.ts';
import { containerMounts, prepareVolumes } from './volumes.ts';

/** A postStart hook has no bound in Kubernetes; one that hangs would hold the pod's worker. */
const HOOK_TIMEOUT_MS = 60_000;
/** Runs of a container that are kept with their logs: the present one and the one before. */
const KEPT_RUNS = 2;
const NO_COMMAND =
  'the process runner needs spec.containers[].command because there is no image to take it from';

export async function makeSandbox(state: PodState, attempt: number): Promise<void> {
  const { runner, dns } = state.context;
  const old = state.sandboxes();
  try {
    if (old.length > 0) {
      state.event('Normal', 'SandboxChanged', 'Pod sandbox changed, it will be killed and re-created.');
      for (const sandbox of old) {
        state.keepEnds(runner.containers(sandbox.id));
        await runner.removeSandbox(sandbox.id);
      }
    }
    await runner.runSandbox(sandboxConfig(state.pod, attempt, dns));
    state.forgetRetry('sandbox');
    state.sandboxRetryAtMs = 0;
  } catch (error) {
    state.event('Warning', 'FailedCreatePodSandBox', `Failed to create pod sandbox: ${messageOf(error)}`);
    state.sandboxAttempt = attempt;
    state.sandboxRetryAtMs = state.retryAtMs('sandbox');
  }
}

export async function startContainer(state: PodState, container: Container, attempt: number): Promise<void> {
  const { runner, starts } = state.context;
  const memory = state.remember(container);
  const sandbox = state.sandboxes().at(-1);
  if (!sandbox) return;
  delete memory.blocked;
  if (!hasCommand(container) && !runner.usesImages) {
    memory.blocked = { reason: 'NoCommand', message: NO_COMMAND, retryAtMs: Number.POSITIVE_INFINITY };
    state.event('Warning', 'NoCommand', `Container ${container.name}: ${NO_COMMAND}`);
    return;
  }
  try {
    warnOfLimits(state);
    const id = await starts.run(async () => {
      const made = await create(state, container, attempt, sandbox);
      await runner.startContainer(made);
      return made;
    });
    state.forgetRetry(container.name);
    state.event('Normal', 'Started', `Started container ${container.name}`);
    if (container.lifecycle?.postStart) await postStart(state, container, id, sandbox);
  } catch (error) {
    block(state, container, error);
  }
}

async function create(
  state: PodState,
  container: Container,
  attempt: number,
  sandbox: Sandbox,
): Promise<string> {
  const { runner, volumesFolder, hostIps, logPath } = state.context;
  const { pod } = state;
  const maps = await state.configMaps();
  const configMap = (name: string) => maps.get(name);
  const volumes = join(volumesFolder, state.uid);
  prepareVolumes(volumes, pod, configMap);
  const podIps = pod.spec.hostNetwork ? hostIps() : sandbox.ips;
  const config = containerConfig(pod, container, {
    attempt,
    sources: { pod, configMap, podIps, hostIps: hostIps() },
    mounts: containerMounts(volumes, pod, container),
    logPath: logPath(pod, container.name, attempt),
  });
  await prune(state, container, attempt, sandbox);
  return runner.createContainer(sandbox.id, config);
}

/** The run before becomes lastState; older ones go with their logs. */
async function prune(
  state: PodState,
  container: Container,
  attempt: number,
  sandbox: Sandbox,
): Promise<void> {
  const { runner } = state.context;
  const runs = runner.containers(sandbox.id).filter((run) => run.name === container.name);
  const earlier = runs.filter((run) => run.attempt < attempt).sort((a, b) => a.attempt - b.attempt);
  state.keepEnds(earlier.slice(-1));
  for (const run of runs) {
    if (run.attempt > attempt - KEPT_RUNS) continue;
    await runner.removeContainer(run.id);
    rmSync(run.logPath, { force: true });
  }
}

/** A container whose hook fails is killed, and restarted by its policy. */
async function postStart(state: PodState, container: Container, id: string, sandbox: Sandbox): Promise<void> {
  const { ok, message } = await runHook(container.lifecycle!.postStart!, {
    runner: state.context.runner,
    containerId: id,
    container,
    podIp: state.podIp(sandbox),
    timeoutMs: HOOK_TIMEOUT_MS,
  });
  if (ok) return;
  state.event('Warning', 'FailedPostStartHook', `PostStartHook failed: ${message}`);
  await state.context.runner.stopContainer(id, state.ownGraceMs());
}

/** Notes why a container could not be started, so that its status says so and it is tried again later. */
function block(state: PodState, container: Container, error: unknown): void {
  // The next step makes a new sandbox.
  if (isNetError(error, 'PODS_SANDBOX_NOT_READY') || isNetError(error, 'PODS_SANDBOX_UNKNOWN')) return;
  const message = messageOf(error);
  const volume = isNetError(error, 'PODS_VOLUME_MISSING') || isNetError(error, 'PODS_VOLUME_UNSUPPORTED');
  const config = isNetError(error, 'PODS_ENV_MISSING') || isNetError(error, 'PODS_SPEC_UNSUPPORTED');
  state.event('Warning', volume ? 'FailedMount' : 'Failed', `Error: ${message}`);
  // The shim tried: the runner has it as a run that ended, with back-off like any other.
  if (isNetError(error, 'PODS_SHIM_FAILED')) return;
  const reason = volume
    ? 'ContainerCreating'
    : config
      ? 'CreateContainerConfigError'
      : 'CreateContainerError';
  state.remember(container).blocked = { reason, message, retryAtMs: state.retryAtMs(container.name) };
}

/** Tells, once for each pod, what of its spec has no effect here. */
function warnOfLimits(state: PodState): void {
  if (state.warned || state.context.runner.usesImages) return;
  state.warned = true;
  const containers = allContainers(state.pod);
  const images = [...new Set(containers.map((one) => one.image))].filter(Boolean).join(', ');
  state.event(
    'Warning',
    'ImageNotUsed',
    `Image ${images} is recorded but not used: the process runner runs the command on the files of the node`,
  );
  const ports = containers.flatMap((one) => one.ports ?? []).filter((port) => port.hostPort !== undefined);
  if (ports.length > 0 && !state.pod.spec.hostNetwork)
    state.event(
      'Warning',
      'HostPortNotUsed',
      `hostPort ${ports.map((port) => port.hostPort).join(', ')} has no effect: use a Service of type NodePort`,
    );
}
