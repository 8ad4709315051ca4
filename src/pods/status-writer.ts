import { setTimeout as sleep } from 'node:timers/promises';
import { isNetError } from '../errors/index.ts';
import type { Pod, PodStatus } from '../model/kubernetes.ts';

/** Writes what the node knows about its pods to the API. */
export interface PodApi {
  /** Replaces the status of exactly this pod (same uid). */
  writeStatus(pod: Pod, status: PodStatus): Promise<void>;
  /** Deletes exactly this pod (same uid) at once, with grace period 0. Absent is success. */
  deletePod(pod: Pod): Promise<void>;
}

const FIRST_RETRY_MS = 50;
const LAST_RETRY_MS = 5_000;

/**
 * Writes the statuses of one pod in order, the newest only: while one write is on its way, later ones replace each
 * other. A failed write is repeated with a growing wait until it succeeds or the pod is gone.
 */
export class StatusWriter {
  readonly #api: PodApi;
  readonly #stop = new AbortController();
  readonly #log: (message: string, error?: unknown) => void;
  #next: { pod: Pod; status: PodStatus } | undefined;
  #writing: Promise<void> | undefined;
  #told: string | undefined;

  constructor(api: PodApi, log: (message: string, error?: unknown) => void) {
    this.#api = api;
    this.#log = log;
  }

  /** Remembers what the API has, so that the same is not written again. */
  known(status: PodStatus): void {
    this.#told = JSON.stringify(status);
  }

  write(pod: Pod, status: PodStatus): void {
    if (this.#stop.signal.aborted || JSON.stringify(status) === this.#told) return;
    this.#told = JSON.stringify(status);
    this.#next = { pod, status };
    this.#writing ??= this.#work();
  }

  /** Resolves when everything asked for was written. */
  async drained(): Promise<void> {
    await this.#writing;
  }

  /** Writes no more, and gives up what was not written yet. */
  close(): void {
    this.#stop.abort();
  }

  async #work(): Promise<void> {
    let retryMs = FIRST_RETRY_MS;
    while (this.#next && !this.#stop.signal.aborted) {
      const { pod, status } = this.#next;
      this.#next = undefined;
      try {
        await this.#api.writeStatus(pod, status);
        retryMs = FIRST_RETRY_MS;
      } catch (error) {
        if (isNetError(error, 'CLIENT_NOT_FOUND')) break;
        this.#log(`status of pod ${pod.metadata.namespace}/${pod.metadata.name} was not written`, error);
        this.#next ??= { pod, status };
        await sleep(retryMs, undefined, { signal: this.#stop.signal, ref: false }).catch(() => {});
        retryMs = Math.min(retryMs * 2, LAST_RETRY_MS);
      }
    }
    this.#writing = undefined;
  }
}
