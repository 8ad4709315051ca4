/** Says on a Namespace what became of its egress address. */
import type { EventRecorder } from '../client/index.ts';
import type { EgressState } from '../egress/index.ts';

/** What is closed for a moment only, while nodes agree on a holder, is nobody's trouble. */
const SETTLES_MS = 3_000;

export interface EgressEventsOptions {
  readonly recorder: Pick<EventRecorder, 'record'>;
  readonly nodeName: string;
  readonly nodes: () => Iterable<string>;
}

export class EgressEvents {
  readonly #options: EgressEventsOptions;
  /** What was told last, by namespace and family. */
  readonly #told = new Map<string, string>();
  readonly #waiting = new Map<string, { text: string; timer: NodeJS.Timeout }>();

  constructor(options: EgressEventsOptions) {
    this.#options = options;
  }

  /** All states as they are now. */
  tell(states: readonly EgressState[]): void {
    const now = new Map(states.map((state) => [`${state.namespace} ${state.family}`, state]));
    for (const [key, { timer }] of this.#waiting)
      if (!now.has(key)) {
        clearTimeout(timer);
        this.#waiting.delete(key);
      }
    for (const key of [...this.#told.keys()]) if (!now.has(key)) this.#told.delete(key);
    for (const [key, state] of now) this.#tellOne(key, state);
  }

  close(): void {
    for (const { timer } of this.#waiting.values()) clearTimeout(timer);
    this.#waiting.clear();
  }

  #tellOne(key: string, { namespace, fate, pods }: EgressState): void {
    const waiting = this.#waiting.get(key);
    const text = fate.kind === 'closed' ? fate.why : `${fate.kind} ${fate.address}`;
    if (waiting?.text === text) return;
    if (waiting) {
      clearTimeout(waiting.timer);
      this.#waiting.delete(key);
    }
    if (this.#told.get(key) === text) return;
    if (fate.kind !== 'closed') {
      this.#told.set(key, text);
      if (fate.kind === 'here')
        this.#record(
          namespace,
          'Normal',
          'EgressAddressHeld',
          `${this.#options.nodeName} holds ${fate.address}`,
        );
      return;
    }
    if (pods === 0 && !this.#isFirst()) return;
    const timer = setTimeout(() => {
      this.#waiting.delete(key);
      this.#told.set(key, text);
      const message = `nothing that its pods send leaves the cluster: ${fate.why}`;
      this.#record(
        namespace,
        'Warning',
        fate.address ? 'EgressAddressUnavailable' : 'EgressAddressWrong',
        message,
      );
    }, SETTLES_MS).unref();
    this.#waiting.set(key, { text, timer });
  }

  /** For namespaces without pods here, one node speaks for all. */
  #isFirst(): boolean {
    const { nodeName, nodes } = this.#options;
    for (const name of nodes()) if (name < nodeName) return false;
    return true;
  }

  #record(namespace: string, type: 'Normal' | 'Warning', reason: string, message: string): void {
    // In the namespace itself, where its users look.
    const about = { apiVersion: 'v1', kind: 'Namespace', name: namespace, namespace };
    this.#options.recorder.record(about, { type, reason, message });
  }
}
