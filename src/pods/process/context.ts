import { join } from 'node:path';
import type { PodNetwork, RunnerContainer } from '../types.ts';
import type { RecordFolder } from './records.ts';

/** What the parts of the process runner share. */
export interface RunnerContext {
  records: RecordFolder;
  /** cgroup2 folder of this node's pods; undefined leaves processes where the agent is. */
  cgroupRoot: string | undefined;
  network: PodNetwork;
  shimPath: string;
  netnsPrefix: string;
  maskedPaths: readonly string[];
  logMaxBytes: number;
  logFiles: number;
  bootId: string;
  nowMs: () => number;
  newId: () => string;
  log: (message: string, error?: unknown) => void;
}

/** The cgroup of a whole pod; below it one of the shims and one a container. */
export function podCgroup(context: RunnerContext, sandboxId: string): string | undefined {
  return context.cgroupRoot === undefined ? undefined : join(context.cgroupRoot, sandboxId);
}

export function shimCgroup(context: RunnerContext, sandboxId: string): string | undefined {
  const pod = podCgroup(context, sandboxId);
  return pod === undefined ? undefined : join(pod, 'shim');
}

export function containerCgroup(context: RunnerContext, sandboxId: string, id: string): string | undefined {
  const pod = podCgroup(context, sandboxId);
  return pod === undefined ? undefined : join(pod, id);
}

/** A promise with its resolve beside it. */
export function deferred(): { promise: Promise<void>; resolve: () => void } {
  const { promise, resolve } = Promise.withResolvers<void>();
  return { promise, resolve };
}

export type Ended = Pick<RunnerContainer, 'exitCode' | 'signal' | 'finishedAtMs' | 'reason' | 'message'>;
