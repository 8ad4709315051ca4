import { join } from 'node:path';
import type { Pod } from '../model/kubernetes.ts';
import { goDuration } from './backoff.ts';
import type { ManagerContext } from './context.ts';
import { allContainers, type Observed, type PodAction, planPod, restarts } from './plan.ts';
import { makeSandbox, startContainer } from './pod-starts.ts';
import { PodState } from './pod-state.ts';
import { finishPod, killAll, killContainer, removePod, stopPod } from './pod-stops.ts';
import { StatusWriter } from './status-writer.ts';
import { prepareVolumes } from './volumes.ts';

/** Node's timers cannot wait longer. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;
/** After something that should not fail has failed. */
const PAUSE_MS = 1_000;

/** Brings one pod to what its object says, step by step; a step runs whenever anything about it has changed. */
export class PodWorker {
  /** Resolves when the pod is gone from this node. */
  readonly gone: Promise<void>;
  readonly #state: PodState;
  readonly #writer: StatusWriter;
  readonly #markGone: () => void;
  #stepping = false;
  #again = false;
  #closed = false;
  /** Nothing of the pod is on this node any more: there is nothing to tell. */
  #removed = false;
  #timer: NodeJS.Timeout | undefined;
  #ending: Promise<void> | undefined;

  constructor(context: ManagerContext, pod: Pod) {
    this.#state = new PodState(context, pod);
    this.#writer = new StatusWriter(context.api, context.log);
    if (pod.status) this.#writer.known(pod.status);
    const { promise, resolve } = Promise.withResolvers<void>();
    this.gone = promise;
    this.#markGone = resolve;
  }

  get pod(): Pod {
    return this.#state.pod;
  }

  get uid(): string {
    return this.#state.uid;
  }

  /** `namespace/name`. */
  get key(): string {
    return this.#state.key;
  }

  /** A newer version of the object. */
  update(pod: Pod): void {
    const state = this.#state;
    const before = state.isEnding ? state.graceMs() : undefined;
    state.pod = pod;
    // Deleted once more, with less patience.
    if (before !== undefined && state.graceMs() < before)
      setTimeout(() => killAll(state), state.graceMs()).unref();
    this.wake();
  }

  /** The object is no longer in the API: end the pod without telling anybody. */
  vanish(): void {
    this.#state.vanished = true;
    this.#writer.close();
    // Deleted by force: whoever did that does not want to wait.
    killAll(this.#state);
    this.wake();
  }

  /** Brings configMap volumes up to date; their files are replaced as a whole. */
  async refreshVolumes(): Promise<void> {
    const { pod, context, uid, key } = this.#state;
    const uses = pod.spec.volumes?.some((volume) => volume.configMap);
    if (!uses || this.#state.running().length === 0) return;
    try {
      const maps = await this.#state.configMaps();
      prepareVolumes(join(context.volumesFolder, uid), pod, (name) => maps.get(name));
    } catch (error) {
      context.log(`volumes of pod ${key} were not refreshed`, error);
    }
  }

  /** Stops looking after the pod; its processes go on. */
  close(): void {
    this.#closed = true;
    this.#writer.close();
    clearTimeout(this.#timer);
    for (const memory of this.#state.memory.values()) memory.probes.stop();
  }

  /** Asks for a step; many calls make one. */
  wake(): void {
    this.#again = true;
    if (!this.#stepping) void this.#loop();
  }

  async #loop(): Promise<void> {
    this.#stepping = true;
    try {
      while (this.#again && !this.#closed) {
        this.#again = false;
        await this.#step();
      }
    } catch (error) {
      this.#state.context.log(`pod ${this.key} failed`, error);
      this.#wakeAt(this.#state.context.nowMs() + PAUSE_MS);
    } finally {
      this.#stepping = false;
    }
  }

  async #step(): Promise<void> {
    const state = this.#state;
    const observed = state.observe();
    this.#accountForEnds(observed);
    this.#syncProbes(observed);
    const actions: PodAction[] = state.vanished
      ? [{ kind: 'terminate' }]
      : planPod(state.pod, state.observe(), state.context.nowMs());
    this.#tell();
    clearTimeout(this.#timer);
    await Promise.all(actions.map((action) => this.#carryOut(action)));
    if (actions.some((action) => action.kind !== 'wait')) this.#tell();
  }

  /** Each end of a run counts once for back-off. */
  #accountForEnds(observed: Observed): void {
    const state = this.#state;
    for (const container of allContainers(state.pod)) {
      const latest = observed.containers.get(container.name)?.latest;
      const memory = state.remember(container);
      if (latest?.state !== 'exited' || memory.accounted === latest.id) continue;
      memory.accounted = latest.id;
      const ended = latest.finishedAtMs ?? state.context.nowMs();
      const delayMs = state.backoff.failed(container.name, ended, ended - (latest.startedAtMs ?? ended));
      if (delayMs === 0 || state.isEnding || !restarts(state.pod, container, latest.exitCode ?? 0)) continue;
      const told = `Back-off ${goDuration(delayMs)} restarting failed container ${container.name} in pod ${this.key}`;
      state.event('Warning', 'BackOff', told);
    }
  }

  #syncProbes(observed: Observed): void {
    const state = this.#state;
    const { runner, nowMs } = state.context;
    for (const container of allContainers(state.pod)) {
      const seen = observed.containers.get(container.name);
      const isProbed = seen?.latest?.state === 'running' && !seen.stopping && !state.isEnding;
      const run = isProbed ? seen.latest : undefined;
      const told = state.pod.status?.containerStatuses?.find((one) => one.name === container.name);
      state.remember(container).probes.follow(run, {
        runner,
        podIp: state.podIp(observed.sandbox),
        nowMs: nowMs(),
        wasReady: told?.ready === true && told.containerID === `${runner.name}://${run?.id}`,
        onVerdict: () => this.wake(),
        onFailure: (kind, message) => {
          const Kind = `${kind[0]!.toUpperCase()}${kind.slice(1)}`;
          state.event('Warning', 'Unhealthy', `${Kind} probe failed: ${message}`);
        },
      });
    }
  }

  #tell(): void {
    if (this.#state.vanished || this.#removed) return;
    this.#writer.write(this.#state.pod, this.#state.status());
  }

  async #carryOut(action: PodAction): Promise<void> {
    const state = this.#state;
    switch (action.kind) {
      case 'wait':
        return this.#wakeAt(action.untilMs);
      case 'sandbox':
        await state.context.starts.run(() => makeSandbox(state, action.attempt));
        this.#again = true;
        return undefined;
      case 'start':
        await startContainer(state, action.container, action.attempt);
        this.#again = true;
        return undefined;
      case 'kill':
        return killContainer(state, action.container, action.id, action.why, () => this.wake());
      case 'finish':
        return finishPod(state);
      case 'terminate':
        this.#ending ??= this.#terminate().catch((error) => {
          state.context.log(`pod ${this.key} was not ended`, error);
          this.#ending = undefined;
          this.#wakeAt(state.context.nowMs() + PAUSE_MS);
        });
        return undefined;
    }
  }

  #wakeAt(atMs: number): void {
    clearTimeout(this.#timer);
    if (this.#closed) return;
    const delay = Math.min(Math.max(0, atMs - this.#state.context.nowMs()), LONGEST_TIMER_MS);
    this.#timer = setTimeout(() => this.wake(), delay);
    this.#timer.unref();
  }

  /** The last status tells how the containers ended; the object goes when nothing of the pod is left. */
  async #terminate(): Promise<void> {
    const state = this.#state;
    if (!this.#removed) {
      await stopPod(state, () => this.#tell());
      this.#tell();
      await this.#writer.drained();
      await removePod(state);
      this.#removed = true;
    }
    if (!state.vanished) await state.context.api.deletePod(state.pod);
    this.close();
    this.#markGone();
  }
}
