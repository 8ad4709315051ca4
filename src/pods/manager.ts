/**
 * Runs the pods that the API has bound to this node, like kubelet.
 *
 *   API ──watch──► items ──► worker a pod ──► runner (sandbox, containers)
 *    ▲                         │    ▲             │
 *    └──── status, delete ─────┘    └── changes ──┘        probes ──► worker
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import type { ConfigMap, Pod } from '../model/kubernetes.ts';
import { type BackoffSettings, defaultBackoff } from './backoff.ts';
import type { DnsDefaults } from './container-config.ts';
import type { ManagerContext, PodEvents } from './context.ts';
import { PodWorker } from './pod-worker.ts';
import type { PodRunner } from './runner.ts';
import { Semaphore } from './semaphore.ts';
import type { PodApi } from './status-writer.ts';
import type { RunnerContainer } from './types.ts';

/** The pods of the API, as the client's Reflector keeps them: `namespace/name` to object. */
export interface PodSource {
  readonly items: ReadonlyMap<string, Pod>;
  readonly synced: Promise<void>;
  onChange(listener: (keys: ReadonlySet<string>) => void): void;
}

export interface PodManagerOptions {
  nodeName: string;
  runner: PodRunner;
  /** May hold pods of other nodes, too. */
  source: PodSource;
  api: PodApi;
  events: PodEvents;
  configMap: (namespace: string, name: string) => Promise<ConfigMap | undefined>;
  /** Addresses of the node, the first is hostIP. */
  hostIps: () => readonly string[];
  /** The node's state folder: volumes in pods/volumes, logs in pods/logs. */
  stateDir: string;
  /** Default: pods use the node's resolv.conf. */
  dns?: DnsDefaults;
  /** Of restarts; kubelet's by default. */
  backoff?: Partial<BackoffSettings>;
  /** Default 8. */
  parallelStarts?: number;
  /** Default 30 s. */
  resyncMs?: number;
  nowMs?: () => number;
  log?: (message: string, error?: unknown) => void;
}

/** What `portolan pod list` shows of a pod on this node. */
export interface PodOnNode {
  namespace: string;
  name: string;
  uid: string;
  phase: string;
  ips: string[];
  sandboxId: string | undefined;
  containers: RunnerContainer[];
}

/** Looked at as a whole this often, against anything missed, and for changed ConfigMaps. */
const RESYNC_MS = 30_000;

export class PodManager {
  readonly #options: PodManagerOptions;
  readonly #context: ManagerContext;
  /** By pod uid. */
  readonly #workers = new Map<string, PodWorker>();
  #resync: NodeJS.Timeout | undefined;
  #unsubscribe: (() => void) | undefined;
  #closed = false;

  constructor(options: PodManagerOptions) {
    this.#options = options;
    const logs = join(options.stateDir, 'pods/logs');
    const logFolder = (pod: Pod) => {
      const { namespace = 'default', name, uid = '' } = pod.metadata;
      return join(logs, `${namespace}_${name}_${uid}`);
    };
    this.#context = {
      runner: options.runner,
      api: options.api,
      events: options.events,
      configMap: options.configMap,
      hostIps: options.hostIps,
      dns: options.dns ?? { servers: [], clusterDomain: 'cluster.local' },
      backoff: { ...defaultBackoff, ...options.backoff },
      starts: new Semaphore(options.parallelStarts ?? 8),
      volumesFolder: join(options.stateDir, 'pods/volumes'),
      logFolder,
      logPath: (pod, container, attempt) => join(logFolder(pod), container, `${attempt}.log`),
      nowMs: options.nowMs ?? Date.now,
      log: options.log ?? (() => {}),
    };
  }

  /** Waits for the first list, then takes over what runs and removes what no pod of the API stands behind. */
  async start(): Promise<void> {
    const { source, runner } = this.#options;
    await source.synced;
    if (this.#closed) return;
    this.#unsubscribe = runner.onChange((change) => this.#workers.get(change.podUid)?.wake());
    source.onChange((keys) => this.#reconcile(keys));
    this.#reconcile(source.items.keys());
    await this.#removeOrphans();
    this.#resync = setInterval(() => this.#resyncAll(), this.#options.resyncMs ?? RESYNC_MS);
    this.#resync.unref();
  }

  /** Stops looking after pods; they go on running. */
  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#resync);
    this.#unsubscribe?.();
    for (const worker of this.#workers.values()) worker.close();
    this.#workers.clear();
  }

  /** The pods of this node. */
  list(): PodOnNode[] {
    return [...this.#workers.values()].map((worker) => this.#describe(worker));
  }

  /** The latest run of a container; the first of the pod without a name. For exec and logs. */
  findContainer(namespace: string, name: string, container?: string): RunnerContainer | undefined {
    const worker = [...this.#workers.values()].find((one) => one.key === `${namespace}/${name}`);
    if (!worker) return undefined;
    const wanted = container ?? worker.pod.spec.containers[0]?.name;
    return this.#describe(worker)
      .containers.filter((one) => one.name === wanted)
      .sort((a, b) => a.attempt - b.attempt)
      .at(-1);
  }

  #describe(worker: PodWorker): PodOnNode {
    const { name, namespace = 'default' } = worker.pod.metadata;
    const sandbox = this.#options.runner
      .sandboxes()
      .filter((one) => one.metadata.uid === worker.uid)
      .sort((a, b) => a.metadata.attempt - b.metadata.attempt)
      .at(-1);
    return {
      namespace,
      name,
      uid: worker.uid,
      phase: worker.pod.status?.phase ?? 'Pending',
      ips: worker.pod.spec.hostNetwork ? [...this.#options.hostIps()] : (sandbox?.ips ?? []),
      sandboxId: sandbox?.id,
      containers: sandbox ? this.#options.runner.containers(sandbox.id) : [],
    };
  }

  #isMine(pod: Pod | undefined): pod is Pod {
    return pod?.spec.nodeName === this.#options.nodeName && pod.metadata.uid !== undefined;
  }

  #reconcile(keys: Iterable<string>): void {
    if (this.#closed) return;
    const { items } = this.#options.source;
    const changed = new Set(keys);
    for (const worker of this.#workers.values()) {
      if (!changed.has(worker.key)) continue;
      const pod = items.get(worker.key);
      if (!this.#isMine(pod) || pod.metadata.uid !== worker.uid) worker.vanish();
    }
    for (const key of changed) {
      const pod = items.get(key);
      if (!this.#isMine(pod)) continue;
      const uid = pod.metadata.uid!;
      const worker = this.#workers.get(uid);
      if (worker) worker.update(pod);
      else this.#begin(uid, pod);
    }
  }

  #begin(uid: string, pod: Pod): void {
    const worker = new PodWorker(this.#context, pod);
    this.#workers.set(uid, worker);
    void worker.gone.then(() => {
      if (this.#workers.get(uid) === worker) this.#workers.delete(uid);
    });
    worker.wake();
  }

  #resyncAll(): void {
    const { items } = this.#options.source;
    const keys = new Set(items.keys());
    for (const worker of this.#workers.values()) {
      keys.add(worker.key);
      void worker.refreshVolumes();
      worker.wake();
    }
    for (const key of keys) {
      const pod = items.get(key);
      if (!this.#isMine(pod) || !this.#workers.has(pod.metadata.uid!)) this.#reconcile([key]);
    }
  }

  /** Pods that were deleted while nobody looked. */
  async #removeOrphans(): Promise<void> {
    const { runner } = this.#options;
    const { log, volumesFolder } = this.#context;
    for (const sandbox of runner.sandboxes()) {
      const { uid, namespace, name } = sandbox.metadata;
      if (this.#workers.has(uid)) continue;
      try {
        await runner.removeSandbox(sandbox.id);
        rmSync(join(volumesFolder, uid), { recursive: true, force: true });
        rmSync(this.#context.logFolder({ metadata: { uid, namespace, name } } as Pod), {
          recursive: true,
          force: true,
        });
        log(`pod ${namespace}/${name}, which the API does not have, was removed`);
      } catch (error) {
        log(`pod ${namespace}/${name}, which the API does not have, was not removed`, error);
      }
    }
  }
}
