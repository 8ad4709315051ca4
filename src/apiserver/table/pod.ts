import type { ContainerStatus, Pod } from '../../model/kubernetes.ts';
import { columnList, type KindTable } from './column.ts';
import { ageOf, humanDuration } from './duration.ts';

interface Summary {
  readonly ready: number;
  readonly total: number;
  readonly restarts: number;
  readonly lastRestart: string | undefined;
  readonly reason: string;
}

const finishedAt = (status: ContainerStatus) => status.lastState?.terminated?.finishedAt;
const newest = (a: string | undefined, b: string | undefined) =>
  a === undefined || (b !== undefined && b > a) ? b : a;

/** Condenses a pod into one line: printers.go, printPod. */
function summaryOf(pod: Pod): Summary {
  const status = pod.status ?? {};
  let reason = status.reason || status.phase || '';
  for (const condition of status.conditions ?? [])
    if (condition.type === 'PodScheduled' && condition.reason === 'SchedulingGated')
      reason = 'SchedulingGated';
  let ready = 0;
  let restarts = 0;
  let lastRestart: string | undefined;
  const sidecars = new Set(
    (pod.spec.initContainers ?? []).filter((c) => c.restartPolicy === 'Always').map((c) => c.name),
  );
  const total = pod.spec.containers.length + sidecars.size;
  let initializing = false;
  let initRestarts = 0;
  for (const [i, container] of (status.initContainerStatuses ?? []).entries()) {
    initRestarts += container.restartCount;
    lastRestart = newest(lastRestart, finishedAt(container));
    const { state } = container;
    if (state?.terminated?.exitCode === 0) continue;
    if (sidecars.has(container.name) && container.started) {
      if (container.ready) ready++;
      continue;
    }
    if (state?.terminated) reason = `Init:${state.terminated.reason || codeText(state.terminated)}`;
    else if (state?.waiting?.reason && state.waiting.reason !== 'PodInitializing')
      reason = `Init:${state.waiting.reason}`;
    else reason = `Init:${i}/${(pod.spec.initContainers ?? []).length}`;
    initializing = true;
    break;
  }
  const initialized =
    status.conditions?.some((c) => c.type === 'Initialized' && c.status === 'True') ?? false;
  if (initializing && !initialized) restarts = initRestarts;
  else {
    lastRestart = undefined;
    let running = false;
    for (const container of [...(status.containerStatuses ?? [])].reverse()) {
      restarts += container.restartCount;
      lastRestart = newest(lastRestart, finishedAt(container));
      const { state } = container;
      if (state?.waiting?.reason) reason = state.waiting.reason;
      else if (state?.terminated) reason = state.terminated.reason || codeText(state.terminated);
      else if (container.ready && state?.running) {
        running = true;
        ready++;
      }
    }
    // One finished container does not make a running pod Completed.
    if (reason === 'Completed' && running) {
      const podReady = status.conditions?.some((c) => c.type === 'Ready' && c.status === 'True') ?? false;
      reason = podReady ? 'Running' : 'NotReady';
    }
  }
  const over = status.phase === 'Succeeded' || status.phase === 'Failed';
  if (pod.metadata.deletionTimestamp !== undefined && status.reason === 'NodeLost') reason = 'Unknown';
  else if (pod.metadata.deletionTimestamp !== undefined && !over) reason = 'Terminating';
  return { ready, total, restarts, lastRestart, reason };
}

const codeText = (terminated: { exitCode: number; signal?: number }) =>
  terminated.signal ? `Signal:${terminated.signal}` : `ExitCode:${terminated.exitCode}`;

function readinessGatesOf(pod: Pod): string {
  const gates = pod.spec.readinessGates ?? [];
  if (gates.length === 0) return '<none>';
  const met = gates.filter((gate) =>
    pod.status?.conditions?.some((c) => c.type === gate.conditionType && c.status === 'True'),
  );
  return `${met.length}/${gates.length}`;
}

export const podTable: KindTable = {
  columns: columnList(
    'Name',
    'Ready',
    'Status',
    'Restarts',
    'Age',
    '+IP',
    '+Node',
    '+Nominated Node',
    '+Readiness Gates',
  ),
  cells: (object, now) => {
    const pod = object as Pod;
    const { ready, total, restarts, lastRestart, reason } = summaryOf(pod);
    const nominated = (pod.status as { nominatedNodeName?: string } | undefined)?.nominatedNodeName;
    return [
      pod.metadata.name,
      `${ready}/${total}`,
      reason,
      restarts > 0 && lastRestart
        ? `${restarts} (${humanDuration(now.getTime() - Date.parse(lastRestart))} ago)`
        : String(restarts),
      ageOf(pod.metadata.creationTimestamp, now),
      pod.status?.podIPs?.[0]?.ip || pod.status?.podIP || '<none>',
      pod.spec.nodeName || '<none>',
      nominated || '<none>',
      readinessGatesOf(pod),
    ];
  },
};
