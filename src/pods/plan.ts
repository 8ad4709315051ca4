/**
 * What to do next for one pod; pure, and called anew after anything changed (kubelet's computePodActions).
 *
 *   no sandbox ──► sandbox ──► init containers, one after the other ──► containers, all at once
 *       ▲             │ ended
 *       └─────────────┘ (unless the pod is done)
 */
import type { Container, Pod } from '../model/kubernetes.ts';
import type { RunnerContainer, Sandbox } from './types.ts';

/** What is known about one container of the spec. */
export interface ObservedContainer {
  /** Its latest run in the present sandbox. */
  latest?: RunnerContainer;
  /** The next attempt number. */
  nextAttempt: number;
  /** A start failed or is not possible: nothing before `retryAtMs`. */
  blocked?: { reason: string; message: string; retryAtMs: number };
  /** When back-off lets it start again. */
  backoffUntilMs: number;
  /** Verdicts of its probes; undefined without such a probe. */
  startup?: 'unknown' | 'success' | 'failure';
  liveness?: 'unknown' | 'success' | 'failure';
  readiness?: 'unknown' | 'success' | 'failure';
  /** Somebody is stopping it already. */
  stopping: boolean;
}

export interface Observed {
  sandbox?: Sandbox;
  /** The next attempt number of a sandbox. */
  nextSandboxAttempt: number;
  sandboxRetryAtMs: number;
  containers: ReadonlyMap<string, ObservedContainer>;
  /** The pod was started here before; then init containers that are gone are done. */
  initialized: boolean;
  /** The pod's phase as last told; Succeeded and Failed are for ever. */
  phase: string | undefined;
  startedAtMs: number;
}

export type PodAction =
  /** Stop everything and delete the object. */
  | { kind: 'terminate' }
  /** Everything ran to its end: give the sandbox back. */
  | { kind: 'finish' }
  | { kind: 'sandbox'; attempt: number }
  | { kind: 'start'; container: Container; attempt: number; init: boolean }
  | { kind: 'kill'; container: Container; id: string; why: 'liveness' | 'startup' | 'deadline' }
  | { kind: 'wait'; untilMs: number };

export const restartPolicyOf = (pod: Pod) => pod.spec.restartPolicy ?? 'Always';

/** Init containers with restartPolicy Always run beside the others ("sidecars"). */
export const isSidecar = (container: Container) => container.restartPolicy === 'Always';

/** Whether a container that ended is started again. */
export function restarts(pod: Pod, container: Container, exitCode: number): boolean {
  if (isSidecar(container)) return true;
  const policy = restartPolicyOf(pod);
  return policy === 'Always' || (policy === 'OnFailure' && exitCode !== 0);
}

/** kubelet's deadline check of spec.activeDeadlineSeconds. */
export function isPastDeadline(pod: Pod, startedAtMs: number, nowMs: number): boolean {
  const seconds = pod.spec.activeDeadlineSeconds;
  return seconds !== undefined && nowMs - startedAtMs >= seconds * 1000;
}

export function planPod(pod: Pod, observed: Observed, nowMs: number): PodAction[] {
  if (pod.metadata.deletionTimestamp !== undefined) return [{ kind: 'terminate' }];
  if (observed.phase === 'Succeeded' || observed.phase === 'Failed') return [{ kind: 'finish' }];
  if (isPastDeadline(pod, observed.startedAtMs, nowMs)) return overdue(pod, observed);
  if (isDone(pod, observed)) return [{ kind: 'finish' }];
  const later: PodAction[] =
    pod.spec.activeDeadlineSeconds === undefined
      ? []
      : [{ kind: 'wait', untilMs: observed.startedAtMs + pod.spec.activeDeadlineSeconds * 1000 }];
  if (observed.sandbox?.state !== 'ready') {
    if (nowMs < observed.sandboxRetryAtMs) return [{ kind: 'wait', untilMs: observed.sandboxRetryAtMs }];
    return [{ kind: 'sandbox', attempt: observed.nextSandboxAttempt }];
  }
  const init = planInit(pod, observed, nowMs);
  if (init.pending) return [...init.actions, ...later];
  const main = pod.spec.containers.flatMap((container) =>
    planContainer(pod, container, observed, nowMs, false),
  );
  return [...init.actions, ...main, ...later];
}

function overdue(pod: Pod, observed: Observed): PodAction[] {
  const running = allContainers(pod).flatMap((container): PodAction[] => {
    const seen = observed.containers.get(container.name);
    if (seen?.latest?.state !== 'running' || seen.stopping) return [];
    return [{ kind: 'kill', container, id: seen.latest.id, why: 'deadline' }];
  });
  return running.length > 0 ? running : [{ kind: 'finish' }];
}

export const allContainers = (pod: Pod): Container[] => [
  ...(pod.spec.initContainers ?? []),
  ...pod.spec.containers,
];

/** Every container has ended and none is started again. */
function isDone(pod: Pod, observed: Observed): boolean {
  const ended = (container: Container) => {
    const latest = observed.containers.get(container.name)?.latest;
    return latest?.state === 'exited' && !restarts(pod, container, latest.exitCode ?? 0) ? latest : undefined;
  };
  const failedInit = (pod.spec.initContainers ?? []).some(
    (container) => !isSidecar(container) && (ended(container)?.exitCode ?? 0) !== 0,
  );
  return failedInit || pod.spec.containers.every((container) => ended(container) !== undefined);
}

/** The first init container that is not done holds back everything after it. */
function planInit(pod: Pod, observed: Observed, nowMs: number): { actions: PodAction[]; pending: boolean } {
  const actions: PodAction[] = [];
  for (const container of pod.spec.initContainers ?? []) {
    const seen = observed.containers.get(container.name);
    const latest = seen?.latest;
    if (isSidecar(container)) {
      actions.push(...planContainer(pod, container, observed, nowMs, true));
      const started =
        latest?.state === 'running' && (seen?.startup === undefined || seen.startup === 'success');
      if (!started && !observed.initialized) return { actions, pending: true };
      continue;
    }
    if (observed.initialized) continue;
    if (latest?.state === 'exited' && latest.exitCode === 0) continue;
    actions.push(...planContainer(pod, container, observed, nowMs, true));
    return { actions, pending: true };
  }
  return { actions, pending: false };
}

function planContainer(
  pod: Pod,
  container: Container,
  observed: Observed,
  nowMs: number,
  init: boolean,
): PodAction[] {
  const seen = observed.containers.get(container.name);
  if (!seen || seen.stopping) return [];
  const { latest } = seen;
  if (latest?.state === 'running') {
    const why = seen.startup === 'failure' ? 'startup' : seen.liveness === 'failure' ? 'liveness' : undefined;
    return why ? [{ kind: 'kill', container, id: latest.id, why }] : [];
  }
  if (latest?.state === 'exited' && !restarts(pod, container, latest.exitCode ?? 0) && !init) return [];
  const notBefore = Math.max(seen.backoffUntilMs, seen.blocked?.retryAtMs ?? 0);
  if (nowMs < notBefore) return Number.isFinite(notBefore) ? [{ kind: 'wait', untilMs: notBefore }] : [];
  const attempt = latest?.state === 'created' ? latest.attempt : seen.nextAttempt;
  return [{ kind: 'start', container, attempt, init }];
}
