/**
 * Pods that nobody else will ever remove: those bound to a Node that is gone, and finished ones beyond a limit.
 * Source: k8s.io/kubernetes/pkg/controller/podgc, --terminated-pod-gc-threshold.
 */
import { type ApiClient, type Log, type Reflector, resources } from '../../client/index.ts';
import { isNetError } from '../../errors/net-error.ts';
import type { Node, Pod } from '../../model/kubernetes.ts';
import type { NodeView, PodView } from '../views.ts';

export interface PodCollectorOptions {
  client: Pick<ApiClient, 'delete'>;
  nodes: Pick<Reflector<Node, NodeView>, 'items'>;
  pods: Pick<Reflector<Pod, PodView>, 'items'>;
  signal: AbortSignal;
  log: Log;
  monotonicMs: () => number;
  /** Pods of a Node that does not exist are removed after this: it may be about to register. */
  orphanGraceMs: number;
  /** The most finished Pods that are kept, the youngest ones; 0 keeps all. */
  finishedLimit: number;
}

export class PodCollector {
  readonly #options: PodCollectorOptions;
  /** Since when a pod has been without its Node, by uid. */
  readonly #orphaned = new Map<string, number>();
  #working = false;

  constructor(options: PodCollectorOptions) {
    this.#options = options;
  }

  /** Nodes were not seen for a while: what seemed to be gone gets its grace time again. */
  forget(): void {
    this.#orphaned.clear();
  }

  /** Removes what is due. Never rejects; what fails is due in the next round again. */
  async collect(): Promise<void> {
    if (this.#working) return;
    this.#working = true;
    try {
      for (const pod of this.#orphans()) await this.#remove(pod, 'removed the pod of a node that is gone');
      for (const pod of this.#surplus())
        await this.#remove(pod, 'removed a finished pod, there are too many');
    } finally {
      this.#working = false;
    }
  }

  #orphans(): PodView[] {
    const { nodes, pods, monotonicMs, orphanGraceMs } = this.#options;
    const now = monotonicMs();
    const due: PodView[] = [];
    const present = new Set<string>();
    for (const pod of pods.items.values()) {
      if (pod.nodeName === '' || nodes.items.has(pod.nodeName)) continue;
      present.add(pod.uid);
      const since = this.#orphaned.get(pod.uid);
      if (since === undefined) this.#orphaned.set(pod.uid, now);
      else if (now - since > orphanGraceMs) due.push(pod);
    }
    for (const uid of this.#orphaned.keys()) if (!present.has(uid)) this.#orphaned.delete(uid);
    return due;
  }

  #surplus(): PodView[] {
    const { pods, finishedLimit } = this.#options;
    if (finishedLimit === 0) return [];
    const finished = [...pods.items.values()].filter(({ createdAt }) => createdAt !== undefined);
    if (finished.length <= finishedLimit) return [];
    const age = ({ createdAt, key }: PodView) => `${createdAt} ${key}`;
    finished.sort((a, b) => (age(a) < age(b) ? -1 : 1));
    return finished.slice(0, finished.length - finishedLimit);
  }

  async #remove(pod: PodView, why: string): Promise<void> {
    const { client, signal, log } = this.#options;
    try {
      await client.delete(resources.pods, pod, {
        signal,
        gracePeriodSeconds: 0,
        preconditions: { uid: pod.uid },
        retryForMs: 0,
      });
      log.info({ pod: pod.key, node: pod.nodeName }, why);
    } catch (error) {
      if (!isNetError(error, 'CLIENT_NOT_FOUND')) log.debug({ pod: pod.key }, 'pod was not removed');
    }
  }
}
