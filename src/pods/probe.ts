/** What probes mean; pure. Who carries them out is in probers.ts, when in probe-loop.ts. */
import type { Probe } from '../model/kubernetes.ts';

export type ProbeKind = 'startup' | 'liveness' | 'readiness';

export interface ProbeSettings {
  initialDelayMs: number;
  periodMs: number;
  timeoutMs: number;
  successThreshold: number;
  failureThreshold: number;
}

/** Kubernetes' defaults: every 10 s, 1 s to answer, once for success, three times for failure. */
export function probeSettings(probe: Probe): ProbeSettings {
  return {
    initialDelayMs: (probe.initialDelaySeconds ?? 0) * 1000,
    periodMs: Math.max(probe.periodSeconds || 10, 1) * 1000,
    timeoutMs: Math.max(probe.timeoutSeconds || 1, 1) * 1000,
    successThreshold: Math.max(probe.successThreshold || 1, 1),
    failureThreshold: Math.max(probe.failureThreshold || 3, 1),
  };
}

export interface ProbeProgress {
  /** What counts: changes only when a threshold is reached. */
  verdict: 'unknown' | 'success' | 'failure';
  /** How often the last result came in a row. */
  streak: number;
  last: boolean | undefined;
}

/** Before the first probe a container is not ready, alive, and not known to have started. */
export function beforeProbes(kind: ProbeKind, wasReady = false): ProbeProgress {
  const verdict = {
    readiness: wasReady ? 'success' : 'failure',
    liveness: 'success',
    startup: 'unknown',
  } as const;
  return { verdict: verdict[kind], streak: 0, last: undefined };
}

/** Takes one result in. */
export function afterProbe(progress: ProbeProgress, ok: boolean, settings: ProbeSettings): ProbeProgress {
  const streak = progress.last === ok ? progress.streak + 1 : 1;
  const threshold = ok ? settings.successThreshold : settings.failureThreshold;
  const verdict = streak >= threshold ? (ok ? 'success' : 'failure') : progress.verdict;
  return { verdict, streak, last: ok };
}

/**
 * Waits between the extra probes of a container that has just started, in milliseconds. A server is often ready
 * a few milliseconds after its start; the next regular probe would find that out a whole period later. A failure
 * of an extra probe counts for nothing.
 */
const EAGER_MS = [10, 20, 40, 80, 150, 300, 400];

/**
 * What comes after the n-th probe (n counts from 1) of a container that never passed: an extra probe soon, or
 * undefined when the regular period applies. Only for probes whose success tells something new.
 */
export function eagerDelayMs(kind: ProbeKind, count: number, settings: ProbeSettings): number | undefined {
  if (kind === 'liveness') return undefined;
  const delay = EAGER_MS[count - 1];
  return delay !== undefined && delay < settings.periodMs ? delay : undefined;
}
