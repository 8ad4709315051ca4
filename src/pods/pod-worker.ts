import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { isNetError } from '../errors/index.ts';
import type { ConfigMap, Container, ContainerState, Pod, PodStatus } from '../model/kubernetes.ts';
import { Backoff, goDuration } from './backoff.ts';
import { containerConfig, hasCommand, sandboxConfig } from './container-config.ts';
import { ContainerProbes } from './container-probes.ts';
import type { ManagerContext } from './context.ts';
import { runHook } from './hooks.ts';
import {
  allContainers,
  isSidecar,
  type Observed,
  type ObservedContainer,
  type PodAction,
  planPod,
  restarts,
} from './plan.ts';
import { podStatus, terminatedState } from './status.ts';
import { StatusWriter } from './status-writer.ts';
import type { RunnerContainer, Sandbox } from './types.ts';
import { containerMounts, prepareVolumes } from './volumes.ts';

/** kubelet's default grace. */
const DEFAULT_GRACE_SECONDS = 30;
/** Waits between tries of what failed for a reason outside the container: 0.5 s doubling to 30 s. */
const RETRY = { baseMs: 500, maxMs: 30_000, resetMs: Number.POSITIVE_INFINITY };
/** What a preStop hook leaves at least. kubelet: minimumGracePeriodInSeconds. */
const MIN_GRACE_MS = 2_000;
/** A postStart hook has no bound in Kubernetes; one that hangs would hold the pod's worker. */
const HOOK_TIMEOUT_MS = 60_000;
/** Runs of a container that are kept with their logs: the present one and the one before. */
const KEPT_RUNS = 2;

/** What is remembered about one container of the spec beside what the runner knows. */
interface Memory {
  nextAttempt: number;
  blocked?: { reason: string; message: string; retryAtMs: number };
  previousEnd?: NonNullable<ContainerState['terminated']>;
  /** Id of the run whose end was taken into account. */
  accounted?: string;
  /** Id of the run that is being stopped. */
  stopping?: string;
  probes: ContainerProbes;
}

/** Brings one pod to what its object says, step by step; a step runs whenever anything about it has changed. */
export class PodWorker {
  pod: Pod;
  readonly uid: string;
  /** Resolves when the pod is gone from this node. */
  readonly gone: Promise<void>;
  readonly #context: ManagerContext;
  readonly #writer: StatusWriter;
  readonly #backoff: Backoff;
  readonly #retry = new Backoff(RETRY);
  readonly #memory = new Map<string, Memory>();
  readonly #stop = new AbortController();
  readonly #markGone: () => void;
  /** Resolves when nobody wants to wait for hooks any more. */
  readonly #impatient = Promise.withResolvers<void>();
  #before: PodStatus | undefined;
  #sandboxAttempt = 0;
  #sandboxRetryAtMs = 0;
  #startedAtMs: number;
  #stepping = false;
  #again = false;
  #timer: NodeJS.Timeout | undefined;
  #ending: Promise<void> | undefined;
  /** The object is gone from the API: nothing to write any more. */
  #vanished = false;
  #warnedImage: boolean;

  constructor(context: ManagerContext, pod: Pod) {
    this.#context = context;
    this.pod = pod;
    this.uid = pod.metadata.uid ?? '';
    this.#before = pod.status;
    this.#backoff = new Backoff(context.backoff);
    this.#writer = new StatusWriter(context.api, this.#stop.signal, context.log);
    if (pod.status) this.#writer.known(pod.status);
    const told = pod.status?.startTime;
    this.#startedAtMs = told === undefined ? context.nowMs() : Date.parse(told);
    this.#warnedImage = told !== undefined;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.gone = promise;
    this.#markGone = resolve;
  }

  get key(): string {
    return `${this.pod.metadata.namespace ?? 'default'}/${this.pod.metadata.name}`;
  }

  /** A newer version of the object. */
  update(pod: Pod): void {
    const before = this.#isEnding() ? this.#graceMs() : undefined;
    this.pod = pod;
    // Deleted once more, with less patience.
    if (before !== undefined && this.#graceMs() < before)
      setTimeout(() => this.#killAll(), this.#graceMs()).unref();
    this.wake();
  }

  /** The object is no longer in the API: end the pod without telling anybody. */
  vanish(): void {
    this.#vanished = true;
    // Deleted by force: whoever did that does not want to wait.
    this.#killAll();
    this.wake();
  }

  #killAll(): void {
    this.#impatient.resolve();
    for (const { id } of this.#running())
      this.#context.runner
        .stopContainer(id, 0)
        .catch((error) => this.#context.log(`container ${id} lives on`, error));
  }

  /** Brings configMap volumes up to date; their files are replaced as a whole. */
  async refreshVolumes(): Promise<void> {
    if (!this.pod.spec.volumes?.some((volume) => volume.configMap) || this.#running().length === 0) return;
    try {
      const maps = await this.#configMaps();
      prepareVolumes(join(this.#context.volumesFolder, this.uid), this.pod, (name) => maps.get(name));
    } catch (error) {
      this.#context.log(`volumes of pod ${this.key} were not refreshed`, error);
    }
  }

  /** Stops looking after the pod; its processes go on. */
  close(): void {
    this.#stop.abort();
    clearTimeout(this.#timer);
    for (const memory of this.#memory.values()) memory.probes.stop();
  }

  /** Asks for a step; many calls make one. */
  wake(): void {
    this.#again = true;
    if (!this.#stepping) void this.#loop();
  }

  async #loop(): Promise<void> {
    this.#stepping = true;
    try {
      while (this.#again && !this.#stop.signal.aborted) {
        this.#again = false;
        await this.#step();
      }
    } catch (error) {
      this.#context.log(`pod ${this.key} failed`, error);
      this.#wakeAt(this.#context.nowMs() + 1_000);
    } finally {
      this.#stepping = false;
    }
  }

  async #step(): Promise<void> {
    const { nowMs } = this.#context;
    const observed = this.#observe();
    this.#accountForEnds(observed);
    this.#syncProbes(observed);
    const actions = this.#vanished
      ? ([{ kind: 'terminate' }] satisfies PodAction[])
      : planPod(this.pod, this.#observe(), nowMs());
    this.#tell();
    clearTimeout(this.#timer);
    await Promise.all(actions.map((action) => this.#carryOut(action)));
    if (actions.some((action) => action.kind !== 'wait')) this.#tell();
  }

  // ---- looking

  #sandboxes(): Sandbox[] {
    return this.#context.runner
      .sandboxes()
      .filter((one) => one.metadata.uid === this.uid)
      .sort((a, b) => a.metadata.attempt - b.metadata.attempt);
  }

  #running(): RunnerContainer[] {
    return this.#sandboxes()
      .flatMap((sandbox) => this.#context.runner.containers(sandbox.id))
      .filter((container) => container.state === 'running');
  }

  #remember(container: Container): Memory {
    let memory = this.#memory.get(container.name);
    if (!memory) {
      const told = [
        ...(this.pod.status?.initContainerStatuses ?? []),
        ...(this.pod.status?.containerStatuses ?? []),
      ].find((one) => one.name === container.name);
      memory = {
        // A container that was told to have run goes on counting, even if the runner's records are lost.
        nextAttempt: told?.containerID ? told.restartCount + 1 : 0,
        probes: new ContainerProbes(container),
      };
      const last = told?.lastState?.terminated;
      if (last) memory.previousEnd = last;
      this.#memory.set(container.name, memory);
    }
    return memory;
  }

  #observe(): Observed {
    const sandbox = this.#sandboxes().at(-1);
    if (sandbox) this.#sandboxAttempt = Math.max(this.#sandboxAttempt, sandbox.metadata.attempt + 1);
    const runs = sandbox ? this.#context.runner.containers(sandbox.id) : [];
    const containers = new Map<string, ObservedContainer>();
    for (const container of allContainers(this.pod)) {
      const memory = this.#remember(container);
      const latest = runs
        .filter((run) => run.name === container.name)
        .reduce<RunnerContainer | undefined>((a, b) => (a && a.attempt > b.attempt ? a : b), undefined);
      if (latest) memory.nextAttempt = Math.max(memory.nextAttempt, latest.attempt + 1);
      const seen: ObservedContainer = {
        nextAttempt: memory.nextAttempt,
        backoffUntilMs: this.#backoff.untilMs(container.name),
        stopping: latest !== undefined && memory.stopping === latest.id,
        ...memory.probes.verdicts(),
      };
      if (latest) seen.latest = latest;
      if (memory.blocked) seen.blocked = memory.blocked;
      containers.set(container.name, seen);
    }
    const initialized = this.pod.spec.containers.some(
      (one) => containers.get(one.name)?.latest !== undefined,
    );
    return {
      ...(sandbox ? { sandbox } : {}),
      nextSandboxAttempt: this.#sandboxAttempt,
      sandboxRetryAtMs: this.#sandboxRetryAtMs,
      containers,
      initialized,
      phase: this.#before?.phase,
      startedAtMs: this.#startedAtMs,
    };
  }

  /** Each end of a run counts once for back-off. */
  #accountForEnds(observed: Observed): void {
    for (const container of allContainers(this.pod)) {
      const latest = observed.containers.get(container.name)?.latest;
      const memory = this.#remember(container);
      if (latest?.state !== 'exited' || memory.accounted === latest.id) continue;
      memory.accounted = latest.id;
      const ended = latest.finishedAtMs ?? this.#context.nowMs();
      const delayMs = this.#backoff.failed(container.name, ended, ended - (latest.startedAtMs ?? ended));
      if (delayMs > 0 && restarts(this.pod, container, latest.exitCode ?? 0) && !this.#isEnding())
        this.#event(
          'Warning',
          'BackOff',
          `Back-off ${goDuration(delayMs)} restarting failed container ${container.name} in pod ${this.key}`,
        );
    }
  }

  #isEnding(): boolean {
    return this.#vanished || this.pod.metadata.deletionTimestamp !== undefined;
  }

  #syncProbes(observed: Observed): void {
    const podIp = this.#podIp(observed.sandbox);
    for (const container of allContainers(this.pod)) {
      const { probes } = this.#remember(container);
      const seen = observed.containers.get(container.name);
      const run =
        seen?.latest?.state === 'running' && !seen.stopping && !this.#isEnding() ? seen.latest : undefined;
      const told = this.pod.status?.containerStatuses?.find((one) => one.name === container.name);
      probes.follow(run, {
        runner: this.#context.runner,
        podIp,
        nowMs: this.#context.nowMs(),
        wasReady: told?.ready === true && told.containerID === `${this.#context.runner.name}://${run?.id}`,
        onVerdict: () => this.wake(),
        onFailure: (kind, message) =>
          this.#event(
            'Warning',
            'Unhealthy',
            `${kind[0]!.toUpperCase()}${kind.slice(1)} probe failed: ${message}`,
          ),
      });
    }
  }

  #podIp(sandbox: Sandbox | undefined): string {
    return (this.pod.spec.hostNetwork ? this.#context.hostIps()[0] : sandbox?.ips[0]) ?? '127.0.0.1';
  }

  // ---- telling

  #tell(): void {
    if (this.#vanished) return;
    const previousEnds = new Map<string, NonNullable<ContainerState['terminated']>>();
    for (const [name, { previousEnd }] of this.#memory) if (previousEnd) previousEnds.set(name, previousEnd);
    const status = podStatus({
      pod: this.pod,
      observed: this.#observe(),
      previousEnds,
      backoffDelayMs: (name) => this.#backoff.delayMs(name),
      runtimeName: this.#context.runner.name,
      hostIps: this.#context.hostIps(),
      before: this.#before,
      nowMs: this.#context.nowMs(),
    });
    this.#before = status;
    this.#writer.write(this.pod, status);
  }

  #event(type: 'Normal' | 'Warning', reason: string, message: string): void {
    const { name, namespace = 'default', uid = '' } = this.pod.metadata;
    this.#context.events.record(
      { apiVersion: 'v1', kind: 'Pod', name, namespace, uid },
      { type, reason, message },
    );
  }

  // ---- doing

  async #carryOut(action: PodAction): Promise<void> {
    switch (action.kind) {
      case 'wait':
        return this.#wakeAt(action.untilMs);
      case 'sandbox':
        return this.#context.starts.run(() => this.#makeSandbox(action.attempt));
      case 'start':
        return this.#context.starts.run(() => this.#startContainer(action.container, action.attempt));
      case 'kill':
        return this.#killContainer(action.container, action.id, action.why);
      case 'finish':
        return this.#finish();
      case 'terminate':
        this.#ending ??= this.#terminate().catch((error) => {
          this.#context.log(`pod ${this.key} was not ended`, error);
          this.#ending = undefined;
          this.#wakeAt(this.#context.nowMs() + 1_000);
        });
        return undefined;
    }
  }

  #wakeAt(atMs: number): void {
    clearTimeout(this.#timer);
    if (this.#stop.signal.aborted) return;
    const LONGEST_TIMER_MS = 2 ** 31 - 1;
    const delay = Math.min(Math.max(0, atMs - this.#context.nowMs()), LONGEST_TIMER_MS);
    this.#timer = setTimeout(() => this.wake(), delay);
    this.#timer.unref();
  }

  async #makeSandbox(attempt: number): Promise<void> {
    const { runner } = this.#context;
    const old = this.#sandboxes();
    try {
      if (old.length > 0) {
        this.#event('Normal', 'SandboxChanged', 'Pod sandbox changed, it will be killed and re-created.');
        for (const sandbox of old) {
          this.#keepEnds(runner.containers(sandbox.id));
          await runner.removeSandbox(sandbox.id);
        }
      }
      await runner.runSandbox(sandboxConfig(this.pod, attempt, this.#context.dns));
      this.#retry.forget('sandbox');
      this.#sandboxRetryAtMs = 0;
    } catch (error) {
      this.#event('Warning', 'FailedCreatePodSandBox', `Failed to create pod sandbox: ${messageOf(error)}`);
      this.#sandboxAttempt = attempt;
      this.#retryAfter('sandbox', (atMs) => {
        this.#sandboxRetryAtMs = atMs;
      });
    }
    this.#again = true;
  }

  /** Failures that are not the container's are tried again soon. */
  #retryAfter(key: string, set: (atMs: number) => void): void {
    const now = this.#context.nowMs();
    if (this.#retry.delayMs(key) === 0) this.#retry.failed(key, now, 0);
    this.#retry.failed(key, now, 0);
    set(this.#retry.untilMs(key));
  }

  /** Before records of runs go, how they ended is kept for lastState and restartCount. */
  #keepEnds(runs: RunnerContainer[]): void {
    for (const run of runs) {
      const memory = this.#memory.get(run.name);
      if (!memory) continue;
      memory.nextAttempt = Math.max(memory.nextAttempt, run.attempt + 1);
      if (run.state !== 'created') memory.previousEnd = terminatedState(run, this.#context.runner.name);
    }
  }

  async #startContainer(container: Container, attempt: number): Promise<void> {
    const { runner } = this.#context;
    const memory = this.#remember(container);
    const sandbox = this.#sandboxes().at(-1);
    if (!sandbox) return;
    delete memory.blocked;
    try {
      if (!hasCommand(container) && !runner.usesImages) {
        const message =
          'the process runner needs spec.containers[].command because there is no image to take it from';
        memory.blocked = { reason: 'NoCommand', message, retryAtMs: Number.POSITIVE_INFINITY };
        this.#event('Warning', 'NoCommand', `Container ${container.name}: ${message}`);
        return;
      }
      this.#warnImages();
      const id = await this.#create(container, attempt, sandbox);
      await runner.startContainer(id);
      this.#retry.forget(container.name);
      this.#event('Normal', 'Started', `Started container ${container.name}`);
      if (container.lifecycle?.postStart) await this.#postStart(container, id, sandbox);
    } catch (error) {
      this.#block(container, memory, error);
    }
    this.#again = true;
  }

  /** A container whose hook fails is killed, and restarted by its policy. */
  async #postStart(container: Container, id: string, sandbox: Sandbox): Promise<void> {
    const { ok, message } = await this.#hook(container, id, 'postStart', sandbox, HOOK_TIMEOUT_MS);
    if (ok) return;
    this.#event('Warning', 'FailedPostStartHook', `PostStartHook failed: ${message}`);
    await this.#context.runner.stopContainer(id, this.#ownGraceMs());
  }

  #hook(
    container: Container,
    id: string,
    which: 'postStart' | 'preStop',
    sandbox: Sandbox | undefined,
    timeoutMs: number,
  ) {
    return runHook(container.lifecycle![which]!, {
      runner: this.#context.runner,
      containerId: id,
      container,
      podIp: this.#podIp(sandbox),
      timeoutMs,
    });
  }

  /** The preStop hook counts into the grace; what it leaves of it, at least two seconds, is for SIGTERM. */
  async #stopContainer(container: Container, id: string, graceMs: number): Promise<void> {
    let leftMs = graceMs;
    if (container.lifecycle?.preStop && graceMs > 0) {
      const startedMs = performance.now();
      const { ok, message } = await Promise.race([
        this.#hook(container, id, 'preStop', this.#sandboxes().at(-1), graceMs),
        this.#impatient.promise.then(() => ({ ok: true, message: '' })),
      ]);
      if (!ok) this.#event('Warning', 'FailedPreStopHook', `PreStopHook failed: ${message}`);
      leftMs = Math.max(graceMs - (performance.now() - startedMs), MIN_GRACE_MS);
    }
    await this.#context.runner.stopContainer(id, leftMs);
  }

  async #create(container: Container, attempt: number, sandbox: Sandbox): Promise<string> {
    const { runner, volumesFolder, hostIps } = this.#context;
    const maps = await this.#configMaps();
    const volumes = join(volumesFolder, this.uid);
    prepareVolumes(volumes, this.pod, (name) => maps.get(name));
    const config = containerConfig(this.pod, container, {
      attempt,
      sources: {
        pod: this.pod,
        configMap: (name) => maps.get(name),
        podIps: this.pod.spec.hostNetwork ? hostIps() : sandbox.ips,
        hostIps: hostIps(),
      },
      mounts: containerMounts(volumes, this.pod, container),
      logPath: this.#context.logPath(this.pod, container.name, attempt),
    });
    await this.#prune(container, attempt, sandbox);
    return runner.createContainer(sandbox.id, config);
  }

  /** The run before becomes lastState; older ones go with their logs. */
  async #prune(container: Container, attempt: number, sandbox: Sandbox): Promise<void> {
    const runs = this.#context.runner.containers(sandbox.id).filter((run) => run.name === container.name);
    const latest = runs
      .filter((run) => run.attempt < attempt)
      .sort((a, b) => a.attempt - b.attempt)
      .at(-1);
    if (latest) this.#keepEnds([latest]);
    for (const run of runs) {
      if (run.attempt > attempt - KEPT_RUNS) continue;
      await this.#context.runner.removeContainer(run.id);
      rmSync(run.logPath, { force: true });
    }
  }

  #block(container: Container, memory: Memory, error: unknown): void {
    const message = messageOf(error);
    if (isNetError(error, 'PODS_SANDBOX_NOT_READY') || isNetError(error, 'PODS_SANDBOX_UNKNOWN')) return;
    const volume = isNetError(error, 'PODS_VOLUME_MISSING') || isNetError(error, 'PODS_VOLUME_UNSUPPORTED');
    this.#event('Warning', volume ? 'FailedMount' : 'Failed', `Error: ${message}`);
    // The shim tried: the runner has it as a run that ended, with back-off like any other.
    if (isNetError(error, 'PODS_SHIM_FAILED')) return;
    const reason = volume
      ? 'ContainerCreating'
      : isNetError(error, 'PODS_ENV_MISSING') || isNetError(error, 'PODS_SPEC_UNSUPPORTED')
        ? 'CreateContainerConfigError'
        : 'CreateContainerError';
    this.#retryAfter(container.name, (retryAtMs) => {
      memory.blocked = { reason, message, retryAtMs };
    });
  }

  async #configMaps(): Promise<Map<string, ConfigMap>> {
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
      [...names].map(async (name) => [name, await this.#context.configMap(namespace, name)] as const),
    );
    return new Map(found.filter((one): one is readonly [string, ConfigMap] => one[1] !== undefined));
  }

  #warnImages(): void {
    if (this.#warnedImage || this.#context.runner.usesImages) return;
    this.#warnedImage = true;
    const images = [
      ...new Set(
        allContainers(this.pod)
          .map((one) => one.image)
          .filter(Boolean),
      ),
    ].join(', ');
    this.#event(
      'Warning',
      'ImageNotUsed',
      `Image ${images} is recorded but not used: the process runner runs the command on the files of the node`,
    );
  }

  /** Of a restart: the pod's own grace. */
  #ownGraceMs(): number {
    return (this.pod.spec.terminationGracePeriodSeconds ?? DEFAULT_GRACE_SECONDS) * 1000;
  }

  /** Of the pod's end: whoever deletes it may shorten it. */
  #graceMs(): number {
    const { deletionGracePeriodSeconds } = this.pod.metadata;
    return deletionGracePeriodSeconds === undefined ? this.#ownGraceMs() : deletionGracePeriodSeconds * 1000;
  }

  #killContainer(container: Container, id: string, why: 'liveness' | 'startup' | 'deadline'): void {
    const memory = this.#remember(container);
    memory.stopping = id;
    memory.probes.stop();
    const told =
      why === 'deadline'
        ? 'Pod deadline exceeded'
        : `Container ${container.name} failed ${why} probe, will be restarted`;
    this.#event('Normal', 'Killing', told);
    void this.#stopContainer(container, id, this.#ownGraceMs())
      .catch((error) =>
        this.#context.log(`container ${container.name} of pod ${this.key} was not stopped`, error),
      )
      .finally(() => {
        delete memory.stopping;
        this.wake();
      });
  }

  /** All ran to their end: sidecars stop, addresses are given back; records and logs stay until the pod is deleted. */
  async #finish(): Promise<void> {
    for (const container of this.#running())
      await this.#context.runner.stopContainer(container.id, this.#graceMs());
    for (const sandbox of this.#sandboxes())
      if (sandbox.state === 'ready') await this.#context.runner.stopSandbox(sandbox.id);
  }

  async #terminate(): Promise<void> {
    const { runner } = this.#context;
    for (const memory of this.#memory.values()) memory.probes.stop();
    const graceMs = this.#vanished ? 0 : this.#graceMs();
    const sidecars = new Set((this.pod.spec.initContainers ?? []).filter(isSidecar).map((one) => one.name));
    const running = this.#running();
    for (const container of running) this.#event('Normal', 'Killing', `Stopping container ${container.name}`);
    const specs = new Map(allContainers(this.pod).map((one) => [one.name, one]));
    const stop = (some: RunnerContainer[]) =>
      Promise.all(
        some.map((run) => {
          const spec = specs.get(run.name);
          return spec ? this.#stopContainer(spec, run.id, graceMs) : runner.stopContainer(run.id, graceMs);
        }),
      );
    await stop(running.filter((container) => !sidecars.has(container.name)));
    await stop(running.filter((container) => sidecars.has(container.name)));
    this.#tell();
    for (const sandbox of this.#sandboxes()) {
      this.#keepEnds(runner.containers(sandbox.id));
      // First the network alone: the last status still tells how the containers ended.
      await runner.stopSandbox(sandbox.id);
    }
    this.#tell();
    await this.#writer.drained();
    for (const sandbox of this.#sandboxes()) await runner.removeSandbox(sandbox.id);
    rmSync(join(this.#context.volumesFolder, this.uid), { recursive: true, force: true });
    rmSync(this.#context.logFolder(this.pod), { recursive: true, force: true });
    if (!this.#vanished) await this.#context.api.deletePod(this.pod);
    this.close();
    this.#markGone();
  }
}

function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause instanceof Error ? `: ${error.cause.message}` : '';
  return `${error.message}${cause}`;
}
