/** A pod manager over an API in memory: what tests of the manager put in and look at. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ConfigMap, Pod, PodSpec, PodStatus } from '../../src/model/kubernetes.ts';
import { PodManager, type PodManagerOptions, type PodSource } from '../../src/pods/manager.ts';
import type { ProcessRunner } from '../../src/pods/process/runner.ts';
import type { PodApi } from '../../src/pods/status-writer.ts';
import type { TestNode } from './pods.ts';
import { eventually } from './until.ts';

/** Pods by `namespace/name`, with every status ever written; changes are told like a watch does. */
export class MemoryPods implements PodSource, PodApi {
  readonly items = new Map<string, Pod>();
  readonly synced = Promise.resolve();
  readonly written: { key: string; status: PodStatus; atMs: number }[] = [];
  readonly events: { pod: string; type: string; reason: string; message: string }[] = [];
  readonly configMaps = new Map<string, ConfigMap>();
  failWrites = 0;
  #listeners: ((keys: ReadonlySet<string>) => void)[] = [];
  #serial = 0;

  onChange(listener: (keys: ReadonlySet<string>) => void) {
    this.#listeners.push(listener);
  }

  /** A restarted manager subscribes anew. */
  forgetListeners() {
    this.#listeners = [];
  }

  async writeStatus(pod: Pod, status: PodStatus) {
    await sleep(1);
    if (this.failWrites > 0) {
      this.failWrites--;
      throw new Error('the API is away');
    }
    const key = keyOf(pod);
    const current = this.items.get(key);
    if (current?.metadata.uid !== pod.metadata.uid) return;
    this.written.push({ key, status, atMs: Date.now() });
    this.#put({ ...current!, status });
  }

  async deletePod(pod: Pod) {
    const key = keyOf(pod);
    if (this.items.get(key)?.metadata.uid === pod.metadata.uid) this.drop(key);
  }

  create(name: string, spec: Partial<PodSpec> & Pick<PodSpec, 'containers'>): string {
    const key = `default/${name}`;
    this.#put({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: {
        name,
        namespace: 'default',
        uid: `uid-${process.pid}-${name}-${++this.#serial}`,
        labels: { app: name },
      },
      spec: { nodeName: 'n1', terminationGracePeriodSeconds: 5, ...spec },
      status: { phase: 'Pending' },
    });
    return key;
  }

  /** As `kubectl delete` does: marks it, the node deletes it in the end. */
  delete(key: string, graceSeconds?: number) {
    const pod = this.items.get(key)!;
    this.#put({
      ...pod,
      metadata: {
        ...pod.metadata,
        deletionTimestamp: new Date().toISOString(),
        ...(graceSeconds === undefined ? {} : { deletionGracePeriodSeconds: graceSeconds }),
      },
    });
  }

  /** As `kubectl delete --force --grace-period=0` does. */
  drop(key: string) {
    this.items.delete(key);
    this.#tell(key);
  }

  status(key: string): PodStatus | undefined {
    return this.items.get(key)?.status;
  }

  condition(key: string, type: string): string | undefined {
    return this.status(key)?.conditions?.find((one) => one.type === type)?.status;
  }

  reasons(key: string): string[] {
    return this.events.filter((event) => event.pod === key).map((event) => event.reason);
  }

  #put(pod: Pod) {
    this.items.set(keyOf(pod), pod);
    this.#tell(keyOf(pod));
  }

  #tell(key: string) {
    queueMicrotask(() => {
      for (const listener of this.#listeners) listener(new Set([key]));
    });
  }
}

const keyOf = (pod: Pod) => `${pod.metadata.namespace}/${pod.metadata.name}`;

export async function startManager(
  node: TestNode,
  runner: ProcessRunner,
  pods: MemoryPods,
  overrides: Partial<PodManagerOptions> = {},
): Promise<PodManager> {
  const manager = new PodManager({
    nodeName: 'n1',
    runner,
    source: pods,
    api: pods,
    events: {
      record: (about, what) => pods.events.push({ pod: `${about.namespace}/${about.name}`, ...what }),
    },
    configMap: async (namespace, name) => pods.configMaps.get(`${namespace}/${name}`),
    hostIps: () => ['127.0.0.1'],
    stateDir: node.stateDir,
    backoff: { baseMs: 100, maxMs: 400 },
    ...overrides,
  });
  node.closers.unshift(() => manager.close());
  await manager.start();
  return manager;
}

/** Deletes all pods and waits until the node is empty. */
export async function emptyNode(pods: MemoryPods, runner: ProcessRunner): Promise<void> {
  for (const key of pods.items.keys()) pods.drop(key);
  await eventually('the node is empty', () => runner.sandboxes().length === 0);
}
