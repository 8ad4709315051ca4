import type { ConfigMap, Container, ContainerState, Pod, PodStatus } from '../model/kubernetes.ts';
import { Backoff } from './backoff.ts';
import { ContainerProbes } from './container-probes.ts';
import type { ManagerContext } from './context.ts';
import { allContainers, type Observed, type ObservedContainer } from './plan.ts';
import { podStatus, terminatedState } from './status.ts';
import type { RunnerContainer, Sandbox } from './types.ts';

/** kubelet's default grace. */
const DEFAULT_GRACE_SECONDS = 30;
/** Waits between tries of what failed for a reason outside the container: 0.2 s doubling to 10 s. */
const RETRY = { baseMs: 200, maxMs: 10_000, resetMs: Number.POSITIVE_INFINITY };

/** What is remembered about one container of the spec beside what the runner knows. */
export interface Memory {
  nextAttempt: number;
  /** Why it cannot be started, and when that is tried again. */
  blocked?: { reason: string; message: string; retryAtMs: number };
  /** How the run before the present one ended. */
  previousEnd?: NonNullable<ContainerState['terminated']>;
  /** Id of the run whose end was taken into account. */
  accounted?: string;
  /** Id of the run that is being stopped. */
  stopping?: string;
  probes: ContainerProbes;
}

/** What is known about one pod on this node: its object, what the runner has, and what must be remembered. */
export class PodState {
  pod: Pod;
  readonly uid: string;
  readonly context: ManagerContext;
  readonly backoff: Backoff;
  readonly memory = new Map<string, Memory>();
  /** The status told last. */
  before: PodStatus | undefined;
  sandboxAttempt = 0;
  sandboxRetryAtMs = 0;
  /** The object is gone from the API: nothing to write any more. */
  vanished = false;
  /** Whether people were told what the runner does not do for this pod. */
  warned: boolean;
  /** Resolves when nobody wants to wait for hooks any more. */
  readonly impatient = Promise.withResolvers<void>();
  readonly #retry = new Backoff(RETRY);
  readonly #startedAtMs: number;

  constructor(context: ManagerContext, pod: Pod) {
    this.context = context;
    this.pod = pod;
    this.uid = pod.metadata.uid ?? '';
    this.before = pod.status;
    this.backoff = new Backoff(context.backoff);
    const told = pod.status?.startTime;
    this.#startedAtMs = told === undefined ? context.nowMs() : Date.parse(told);
    this.warned = told !== undefined;
  }

  get key(): string {
    return `${this.pod.metadata.namespace ?? 'default'}/${this.pod.metadata.name}`;
  }

  get isEnding(): boolean {
    return this.vanished || this.pod.metadata.deletionTimestamp !== undefined;
  }

  /** Oldest first. */
  sandboxes(): Sandbox[] {
    return this.context.runner
      .sandboxes()
      .filter((one) => one.metadata.uid === this.uid)
      .sort((a, b) => a.metadata.attempt - b.metadata.attempt);
  }

  running(): RunnerContainer[] {
    return this.sandboxes()
      .flatMap((sandbox) => this.context.runner.containers(sandbox.id))
      .filter((container) => container.state === 'running');
  }

  remember(container: Container): Memory {
    let memory = this.memory.get(container.name);
    if (!memory) {
      const { initContainerStatuses = [], containerStatuses = [] } = this.pod.status ?? {};
      const told = [...initContainerStatuses, ...containerStatuses].find(
        (one) => one.name === container.name,
      );
      memory = {
        // A container that was told to have run goes on counting, even if the runner's records are lost.
        nextAttempt: told?.containerID ? told.restartCount + 1 : 0,
        probes: new ContainerProbes(container),
      };
      const last = told?.lastState?.terminated;
      if (last) memory.previousEnd = last;
      this.memory.set(container.name, memory);
    }
    return memory;
  }

  observe(): Observed {
    const sandbox = this.sandboxes().at(-1);
    if (sandbox) this.sandboxAttempt = Math.max(this.sandboxAttempt, sandbox.metadata.attempt + 1);
    const runs = sandbox ? this.context.runner.containers(sandbox.id) : [];
    const containers = new Map<string, ObservedContainer>();
    for (const container of allContainers(this.pod))
      containers.set(container.name, this.#observeContainer(container, runs));
    return {
      ...(sandbox ? { sandbox } : {}),
      nextSandboxAttempt: this.sandboxAttempt,
      sandboxRetryAtMs: this.sandboxRetryAtMs,
      containers,
      initialized: this.pod.spec.containers.some((one) => containers.get(one.name)?.latest !== undefined),
      phase: this.before?.phase,
      startedAtMs: this.#startedAtMs,
    };
  }

  #observeContainer(container: Container, runs: readonly RunnerContainer[]): ObservedContainer {
    const memory = this.remember(container);
    const latest = runs
      .filter((run) => run.name === container.name)
      .reduce<RunnerContainer | undefined>((a, b) => (a && a.attempt > b.attempt ? a : b), undefined);
    if (latest) memory.nextAttempt = Math.max(memory.nextAttempt, latest.attempt + 1);
    return {
      nextAttempt: memory.nextAttempt,
      backoffUntilMs: this.backoff.untilMs(container.name),
      stopping: latest !== undefined && memory.stopping === latest.id,
      ...memory.probes.verdicts(),
      ...(latest ? { latest } : {}),
      ...(memory.blocked ? { blocked: memory.blocked } : {}),
    };
  }

  /** The status as it is now; it is remembered as the one told. */
  status(): PodStatus {
    const previousEnds = new Map<string, NonNullable<ContainerState['terminated']>>();
    for (const [name, { previousEnd }] of this.memory) if (previousEnd) previousEnds.set(name, previousEnd);
    this.before = podStatus({
      pod: this.pod,
      observed: this.observe(),
      previousEnds,
      backoffDelayMs: (name) => this.backoff.delayMs(name),
      runtimeName: this.context.runner.name,
      hostIps: this.context.hostIps(),
      before: this.before,
      nowMs: this.context.nowMs(),
    });
    return this.before;
  }

  podIp(sandbox: Sandbox | undefined): string {
    return (this.pod.spec.hostNetwork ? this.context.hostIps()[0] : sandbox?.ips[0]) ?? '127.0.0.1';
  }

  event(type: 'Normal' | 'Warning', reason: string, message: string): void {
    const { name, namespace = 'default', uid = '' } = this.pod.metadata;
    const about = { apiVersion: 'v1', kind: 'Pod', name, namespace, uid };
    this.context.events.record(about, { type, reason, message });
  }

  /** Before records of runs go, how they ended is kept for lastState and restartCount. */
  keepEnds(runs: readonly RunnerContainer[]): void {
    for (const run of runs) {
      const memory = this.memory.get(run.name);
      if (!memory) continue;
      memory.nextAttempt = Math.max(memory.nextAttempt, run.attempt + 1);
      if (run.state !== 'created') memory.previousEnd = terminatedState(run, this.context.runner.name);
    }
  }

  /** When what failed for a reason outside the container may be tried again. */
  retryAtMs(key: string): number {
    const now = this.context.nowMs();
    // A first failure waits, too: nothing has changed yet.
    if (this.#retry.delayMs(key) === 0) this.#retry.failed(key, now, 0);
    this.#retry.failed(key, now, 0);
    return this.#retry.untilMs(key);
  }

  forgetRetry(key: string): void {
    this.#retry.forget(key);
  }

  /** Of a restart: the pod's own grace. */
  ownGraceMs(): number {
    return (this.pod.spec.terminationGracePeriodSeconds ?? DEFAULT_GRACE_SECONDS) * 1000;
  }

  /** Of the pod's end: whoever deletes it may shorten it. */
  graceMs(): number {
    const { deletionGracePeriodSeconds } = this.pod.metadata;
    return deletionGracePeriodSeconds === undefined ? this.ownGraceMs() : deletionGracePeriodSeconds * 1000;
  }

  /** The ConfigMaps that the pod refers to, by name; missing ones are left out. */
  async configMaps(): Promise<Map<string, ConfigMap>> {
    const names = new Set<string>();
    for (const volume of this.pod.spec.volumes ?? [])
      if (volume.configMap?.name) names.add(volume.configMap.name);
    for (const container of allContainers(this.pod)) {
      for (const from of container.envFrom ?? []) if (from.configMapRef) names.add(from.configMapRef.name);
      for (const variable of container.env ?? []) {
        const ref = variable.valueFrom?.configMapKeyRef;
        if (ref) names.add(ref.name);
      }
    }
    const namespace = this.pod.metadata.namespace ?? 'default';
    const found = await Promise.all(
      [...names].map(async (name) => [name, await this.context.configMap(namespace, name)] as const),
    );
    return new Map(found.filter((one): one is readonly [string, ConfigMap] => one[1] !== undefined));
  }
}

/** A failure in one line, with what is behind it. */
export function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause instanceof Error ? `: ${error.cause.message}` : '';
  return `${error.message}${cause}`;
}
