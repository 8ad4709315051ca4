import type { Probe } from '../model/kubernetes.ts';
import {
  afterProbe,
  beforeProbes,
  eagerDelayMs,
  type ProbeKind,
  type ProbeProgress,
  probeSettings,
} from './probe.ts';
import type { ProbeOutcome } from './probers.ts';

export interface ProbeLoopOptions {
  kind: ProbeKind;
  probe: Probe;
  /** Readiness that is already known, of a container that was adopted. */
  wasReady?: boolean;
  /** The container was just started: try more often at first. */
  fresh: boolean;
  /** How long it runs already, in milliseconds; initialDelaySeconds counts from its start. */
  ranMs: number;
  carryOut: (timeoutMs: number) => Promise<ProbeOutcome>;
  /** The verdict has changed. */
  onVerdict: () => void;
  /** A regular probe failed. */
  onFailure: (message: string) => void;
}

/** Probes one container in one way until stopped. */
export class ProbeLoop {
  readonly kind: ProbeKind;
  readonly #options: ProbeLoopOptions;
  #progress: ProbeProgress;
  #timer: NodeJS.Timeout | undefined;
  #count = 0;
  #stopped = false;

  constructor(options: ProbeLoopOptions) {
    this.kind = options.kind;
    this.#options = options;
    this.#progress = beforeProbes(options.kind, options.wasReady);
    const settings = probeSettings(options.probe);
    this.#plan(Math.max(0, settings.initialDelayMs - options.ranMs));
  }

  get verdict(): ProbeProgress['verdict'] {
    return this.#progress.verdict;
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  #plan(delayMs: number): void {
    this.#timer = setTimeout(() => void this.#once(), delayMs);
    this.#timer.unref();
  }

  async #once(): Promise<void> {
    const { kind, probe, fresh, carryOut, onVerdict, onFailure } = this.#options;
    const settings = probeSettings(probe);
    const startedMs = performance.now();
    const { ok, message } = await carryOut(settings.timeoutMs);
    if (this.#stopped) return;
    this.#count++;
    const never = this.#progress.last === undefined;
    const eager = fresh && never && !ok ? eagerDelayMs(kind, this.#count, settings) : undefined;
    if (eager !== undefined) {
      this.#plan(eager);
      return;
    }
    const before = this.#progress.verdict;
    this.#progress = afterProbe(this.#progress, ok, settings);
    if (!ok) onFailure(message);
    if (before !== this.#progress.verdict) onVerdict();
    // A startup probe that has passed has said all it can.
    if (kind === 'startup' && this.#progress.verdict !== 'unknown') return;
    if (!this.#stopped) this.#plan(Math.max(0, settings.periodMs - (performance.now() - startedMs)));
  }
}
