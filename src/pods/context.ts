import type { ConfigMap, ObjectReference, Pod } from '../model/kubernetes.ts';
import type { BackoffSettings } from './backoff.ts';
import type { DnsDefaults } from './container-config.ts';
import type { PodRunner } from './runner.ts';
import type { Semaphore } from './semaphore.ts';
import type { PodApi } from './status-writer.ts';

/** Tells people what happened to a pod; the client's EventRecorder is one. */
export interface PodEvents {
  record(about: ObjectReference, what: { type: 'Normal' | 'Warning'; reason: string; message: string }): void;
}

/** What the workers of one node share. */
export interface ManagerContext {
  runner: PodRunner;
  api: PodApi;
  events: PodEvents;
  configMap: (namespace: string, name: string) => Promise<ConfigMap | undefined>;
  hostIps: () => readonly string[];
  dns: DnsDefaults;
  backoff: BackoffSettings;
  /** Sandboxes and containers being started at the same time. */
  starts: Semaphore;
  volumesFolder: string;
  /** Folder of a pod's logs. */
  logFolder: (pod: Pod) => string;
  logPath: (pod: Pod, container: string, attempt: number) => string;
  nowMs: () => number;
  log: (message: string, error?: unknown) => void;
}
