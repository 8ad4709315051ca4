/** The status of a Pod from what is observed; pure. After kubelet's generateAPIPodStatus and getPhase. */
import type {
  Condition,
  Container,
  ContainerState,
  ContainerStatus,
  Pod,
  PodStatus,
} from '../model/kubernetes.ts';
import { goDuration } from './backoff.ts';
import {
  allContainers,
  isPastDeadline,
  isSidecar,
  type Observed,
  type ObservedContainer,
  restartPolicyOf,
  restarts,
} from './plan.ts';
import { qosClass } from './qos.ts';
import type { RunnerContainer } from './types.ts';

export interface StatusInput {
  pod: Pod;
  observed: Observed;
  /** How the last run before the present one ended, by container name. */
  previousEnds: ReadonlyMap<string, NonNullable<ContainerState['terminated']>>;
  /** Present wait of a container in back-off, for the message. */
  backoffDelayMs: (container: string) => number;
  runtimeName: string;
  hostIps: readonly string[];
  /** The status told before: transition times and conditions of others are kept. */
  before: PodStatus | undefined;
  nowMs: number;
}

/** RFC 3339 with whole seconds, as Kubernetes writes times of status. */
export const timestamp = (ms: number) => `${new Date(ms).toISOString().slice(0, 19)}Z`;

export function terminatedState(
  container: RunnerContainer,
  runtimeName: string,
): NonNullable<ContainerState['terminated']> {
  const finished = container.finishedAtMs ?? container.createdAtMs;
  return {
    exitCode: container.exitCode ?? 137,
    ...(container.signal ? { signal: container.signal } : {}),
    reason: container.reason ?? 'Error',
    ...(container.message ? { message: container.message } : {}),
    startedAt: timestamp(container.startedAtMs ?? finished),
    finishedAt: timestamp(finished),
    containerID: `${runtimeName}://${container.id}`,
  };
}

/** Whether a running container counts as started: its startup probe passed, or it has none. */
export const isStarted = (seen: ObservedContainer | undefined) =>
  seen?.latest?.state === 'running' && (seen.startup === undefined || seen.startup === 'success');

export function isContainerReady(seen: ObservedContainer | undefined): boolean {
  return (
    isStarted(seen) && !seen!.stopping && (seen!.readiness === undefined || seen!.readiness === 'success')
  );
}

export function podStatus(input: StatusInput): PodStatus {
  const { pod, observed, before, nowMs } = input;
  const initContainers = pod.spec.initContainers ?? [];
  const initStatuses = initContainers.map((container) => containerStatus(input, container, true));
  const statuses = pod.spec.containers.map((container) => containerStatus(input, container, false));
  const overdue = isPastDeadline(pod, observed.startedAtMs, nowMs);
  const phase = phaseOf(input, initStatuses, statuses, overdue);
  const ips = pod.spec.hostNetwork ? input.hostIps : (observed.sandbox?.ips ?? []);
  const status: PodStatus = {
    phase,
    conditions: conditionsOf(input, phase, initStatuses, statuses),
    ...(overdue && phase === 'Failed'
      ? {
          reason: 'DeadlineExceeded',
          message: 'Pod was active on the node longer than the specified deadline',
        }
      : {}),
    ...(input.hostIps[0] === undefined
      ? {}
      : { hostIP: input.hostIps[0], hostIPs: input.hostIps.map((ip) => ({ ip })) }),
    startTime: before?.startTime ?? timestamp(observed.startedAtMs),
    ...(initStatuses.length > 0 ? { initContainerStatuses: initStatuses } : {}),
    containerStatuses: statuses,
    qosClass: qosClass(pod),
  };
  if (ips[0] !== undefined) {
    status.podIP = ips[0];
    status.podIPs = ips.map((ip) => ({ ip }));
  } else if (before?.podIP !== undefined && observed.sandbox === undefined) {
    // A pod that is done keeps telling the address that it had.
    status.podIP = before.podIP;
    status.podIPs = before.podIPs ?? [{ ip: before.podIP }];
  }
  return status;
}

function containerStatus(input: StatusInput, container: Container, init: boolean): ContainerStatus {
  const { pod, observed, runtimeName } = input;
  const seen = observed.containers.get(container.name);
  const latest = seen?.latest;
  const previous = input.previousEnds.get(container.name);
  const told = tellBefore(input.before, container.name);
  const status: ContainerStatus = {
    name: container.name,
    state: {},
    ready: false,
    started: false,
    restartCount: latest
      ? latest.attempt
      : Math.max(0, (seen?.nextAttempt ?? 0) - 1, told?.restartCount ?? 0),
    image: container.image ?? '',
    imageID: '',
  };
  if (previous) status.lastState = { terminated: previous };
  if (latest) status.containerID = `${runtimeName}://${latest.id}`;
  if (latest?.state === 'running') {
    status.state = { running: { startedAt: timestamp(latest.startedAtMs ?? latest.createdAtMs) } };
    status.started = isStarted(seen);
    status.ready = init && !isSidecar(container) ? false : isContainerReady(seen);
    return status;
  }
  const blocked = seen?.blocked;
  if (latest?.state === 'exited') {
    const terminated = terminatedState(latest, runtimeName);
    const again = isAgain(input, container, latest, init);
    if (again && (blocked || input.nowMs < seen!.backoffUntilMs)) {
      status.lastState = { terminated };
      status.state = {
        waiting: blocked ? { reason: blocked.reason, message: blocked.message } : crashLoop(input, container),
      };
      return status;
    }
    status.state = { terminated };
    status.ready = init && latest.exitCode === 0;
    return status;
  }
  if (blocked) {
    status.state = { waiting: { reason: blocked.reason, message: blocked.message } };
    return status;
  }
  // Gone from the runner with an earlier sandbox, or a pod that is over: what was told stays true.
  if (!latest && told?.state?.terminated && (isOver(observed.phase) || (init && observed.initialized)))
    return { ...told, ready: init && told.state.terminated.exitCode === 0 };
  if (!latest && isOver(observed.phase)) return { ...status, ...(told ?? {}), ready: false, started: false };
  const waitsForInit = !init && (pod.spec.initContainers?.length ?? 0) > 0 && !observed.initialized;
  status.state = { waiting: { reason: waitsForInit ? 'PodInitializing' : 'ContainerCreating' } };
  return status;
}

const isOver = (phase: string | undefined) => phase === 'Succeeded' || phase === 'Failed';

function tellBefore(before: PodStatus | undefined, name: string): ContainerStatus | undefined {
  return [...(before?.initContainerStatuses ?? []), ...(before?.containerStatuses ?? [])].find(
    (one) => one.name === name,
  );
}

/** Whether an ended container will run again. */
function isAgain(input: StatusInput, container: Container, latest: RunnerContainer, init: boolean): boolean {
  if (input.pod.metadata.deletionTimestamp !== undefined || isOver(input.observed.phase)) return false;
  if (!init || isSidecar(container)) return restarts(input.pod, container, latest.exitCode ?? 0);
  return latest.exitCode !== 0 && restartPolicyOf(input.pod) !== 'Never';
}

function crashLoop(input: StatusInput, container: Container) {
  const { name, namespace, uid } = input.pod.metadata;
  const delay = goDuration(input.backoffDelayMs(container.name));
  return {
    reason: 'CrashLoopBackOff',
    message: `back-off ${delay} restarting failed container=${container.name} pod=${name}_${namespace ?? 'default'}(${uid ?? ''})`,
  };
}

function phaseOf(
  input: StatusInput,
  initStatuses: ContainerStatus[],
  statuses: ContainerStatus[],
  overdue: boolean,
): NonNullable<PodStatus['phase']> {
  const { pod, observed } = input;
  if (isOver(observed.phase)) return observed.phase as 'Succeeded' | 'Failed';
  const policy = restartPolicyOf(pod);
  const running = statuses.filter((one) => one.state?.running).length;
  if (overdue && running === 0 && !initStatuses.some((one) => one.state?.running)) return 'Failed';
  if (!observed.initialized) {
    const failed = initStatuses.some((one, index) => {
      const end = one.state?.terminated;
      return end && end.exitCode !== 0 && policy === 'Never' && !isSidecar(pod.spec.initContainers![index]!);
    });
    if (failed) return 'Failed';
  }
  const stopped = statuses.filter(
    (one) => one.state?.terminated || (one.state?.waiting && one.lastState?.terminated),
  );
  const waiting = statuses.length - running - stopped.length;
  if (waiting > 0) return running > 0 && observed.initialized ? 'Running' : 'Pending';
  if (running > 0) return 'Running';
  if (policy === 'Always') return 'Running';
  if (stopped.every((one) => one.state?.terminated?.exitCode === 0)) return 'Succeeded';
  return policy === 'Never' ? 'Failed' : 'Running';
}

/** Conditions that this part decides; others in the status are kept as they are. */
const owned = ['PodReadyToStartContainers', 'Initialized', 'Ready', 'ContainersReady', 'PodScheduled'];

type Verdict = { status: 'True' | 'False'; reason?: string; message?: string };

function conditionsOf(
  input: StatusInput,
  phase: string,
  initStatuses: ContainerStatus[],
  statuses: ContainerStatus[],
): Condition[] {
  const { pod, observed, before } = input;
  const unready = statuses.filter((one) => !one.ready).map((one) => one.name);
  const incomplete = (pod.spec.initContainers ?? [])
    .filter((container, index) => !isInitDone(container, initStatuses[index]!))
    .map((one) => one.name);
  const initialized = observed.initialized || incomplete.length === 0;
  const containersReady = readiness(phase, initialized, incomplete, unready);
  const verdicts: Record<string, Verdict> = {
    PodReadyToStartContainers: { status: observed.sandbox?.state === 'ready' ? 'True' : 'False' },
    Initialized: initialized
      ? phase === 'Succeeded'
        ? { status: 'True', reason: 'PodCompleted' }
        : { status: 'True' }
      : {
          status: 'False',
          reason: 'ContainersNotInitialized',
          message: `containers with incomplete status: [${incomplete.join(' ')}]`,
        },
    Ready: withGates(input, containersReady),
    ContainersReady: containersReady,
    PodScheduled: { status: 'True' },
  };
  const old = new Map((before?.conditions ?? pod.status?.conditions ?? []).map((one) => [one.type, one]));
  const mine = owned.map((type): Condition => {
    const verdict = verdicts[type]!;
    const same = old.get(type)?.status === verdict.status ? old.get(type)?.lastTransitionTime : undefined;
    return { type, ...verdict, lastProbeTime: null, lastTransitionTime: same ?? timestamp(input.nowMs) };
  });
  const foreign = (pod.status?.conditions ?? []).filter((one) => !owned.includes(one.type));
  return [...mine, ...foreign];
}

function isInitDone(container: Container, status: ContainerStatus): boolean {
  return isSidecar(container) ? status.started === true : status.state?.terminated?.exitCode === 0;
}

function readiness(phase: string, initialized: boolean, incomplete: string[], unready: string[]): Verdict {
  if (phase === 'Succeeded') return { status: 'False', reason: 'PodCompleted' };
  if (phase === 'Failed') return { status: 'False', reason: 'PodFailed' };
  const faults: string[] = [];
  if (!initialized) faults.push(`containers with incomplete status: [${incomplete.join(' ')}]`);
  if (unready.length > 0) faults.push(`containers with unready status: [${unready.join(' ')}]`);
  if (faults.length === 0) return { status: 'True' };
  return { status: 'False', reason: 'ContainersNotReady', message: faults.join(', ') };
}

function withGates({ pod }: StatusInput, containersReady: Verdict): Verdict {
  if (containersReady.status === 'False') return containersReady;
  const open = (pod.spec.readinessGates ?? []).filter(
    (gate) => pod.status?.conditions?.find((one) => one.type === gate.conditionType)?.status !== 'True',
  );
  if (open.length === 0) return containersReady;
  const names = open.map(
    (gate) =>
      `corresponding condition of pod readiness gate "${gate.conditionType}" does not exist or is not True`,
  );
  return { status: 'False', reason: 'ReadinessGatesNotReady', message: names.join(', ') };
}

/** Names of all containers, for what is kept by name. */
export const containerNames = (pod: Pod) => allContainers(pod).map((one) => one.name);
