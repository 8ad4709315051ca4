import type { Container } from '../model/kubernetes.ts';
import type { ProbeKind, ProbeProgress } from './probe.ts';
import { ProbeLoop } from './probe-loop.ts';
import { carryOut } from './probers.ts';
import type { PodRunner } from './runner.ts';
import type { RunnerContainer } from './types.ts';

/** A container that started within this time gets extra probes at first. */
const FRESH_MS = 5_000;

export interface ProbeSurroundings {
  runner: PodRunner;
  podIp: string;
  nowMs: number;
  /** The API says that this very run was ready: it stays so until a probe says otherwise. */
  wasReady: boolean;
  onVerdict: () => void;
  onFailure: (kind: ProbeKind, message: string) => void;
}

export type Verdicts = Partial<Record<ProbeKind, ProbeProgress['verdict']>>;

/** The probes of one container, always of its present run. The others wait for the startup probe. */
export class ContainerProbes {
  readonly #container: Container;
  #run: string | undefined;
  readonly #loops = new Map<ProbeKind, ProbeLoop>();

  constructor(container: Container) {
    this.#container = container;
  }

  /** Follows a run; undefined ends all probing. */
  follow(run: RunnerContainer | undefined, around: ProbeSurroundings): void {
    if (run?.id !== this.#run) {
      this.stop();
      this.#run = run?.id;
    }
    if (!run) return;
    if (this.#container.startupProbe && !this.#loops.has('startup')) {
      // Readiness that was told for this run says that the startup probe has passed.
      if (!around.wasReady) this.#begin('startup', run, around);
    }
    const startup = this.#loops.get('startup');
    if (startup && startup.verdict !== 'success') return;
    for (const kind of ['liveness', 'readiness'] as const)
      if (this.#container[`${kind}Probe`] && !this.#loops.has(kind)) this.#begin(kind, run, around);
  }

  /** Verdict of each probe that the container has. */
  verdicts(): Verdicts {
    const verdicts: Verdicts = {};
    for (const kind of ['startup', 'liveness', 'readiness'] as const) {
      if (!this.#container[`${kind}Probe`]) continue;
      const waiting = { startup: 'unknown', liveness: 'success', readiness: 'failure' } as const;
      const startedBefore = kind === 'startup' && this.#loops.size > 0 && !this.#loops.has('startup');
      verdicts[kind] = startedBefore ? 'success' : (this.#loops.get(kind)?.verdict ?? waiting[kind]);
    }
    return verdicts;
  }

  stop(): void {
    for (const loop of this.#loops.values()) loop.stop();
    this.#loops.clear();
    this.#run = undefined;
  }

  #begin(kind: ProbeKind, run: RunnerContainer, around: ProbeSurroundings): void {
    const probe = this.#container[`${kind}Probe`]!;
    const ranMs = Math.max(0, around.nowMs - (run.startedAtMs ?? around.nowMs));
    this.#loops.set(
      kind,
      new ProbeLoop({
        kind,
        probe,
        wasReady: around.wasReady,
        fresh: ranMs < FRESH_MS,
        ranMs,
        carryOut: (timeoutMs) =>
          carryOut(probe, {
            runner: around.runner,
            containerId: run.id,
            container: this.#container,
            podIp: around.podIp,
            timeoutMs,
          }),
        onVerdict: around.onVerdict,
        onFailure: (message) => around.onFailure(kind, message),
      }),
    );
  }
}
