/** Pods of some namespaces, listed only as long as somebody asks for them. */
import { type ApiClient, type Log, Reflector, resources } from '../client/index.ts';
import type { EgressPod, RemotePods } from '../egress/index.ts';
import type { Pod } from '../model/kubernetes.ts';
import { podFacts } from '../policy/index.ts';

export interface NamespacePodsOptions {
  readonly client: ApiClient;
  readonly signal: AbortSignal;
  readonly log: Log;
  /** The node whose pods are known in another way. */
  readonly except: string;
  readonly onChange: () => void;
}

export class NamespacePods {
  readonly #options: NamespacePodsOptions;
  readonly #followed = new Map<string, { stop: AbortController; pods: Reflector<Pod, EgressPod> }>();

  constructor(options: NamespacePodsOptions) {
    this.#options = options;
  }

  /** The pods of these namespaces as far as they are known; others are followed no longer. */
  of(namespaces: ReadonlySet<string>): RemotePods {
    for (const [name, { stop }] of this.#followed)
      if (!namespaces.has(name)) {
        this.#followed.delete(name);
        stop.abort();
      }
    for (const name of namespaces) if (!this.#followed.has(name)) this.#follow(name);
    const followed = [...this.#followed];
    return {
      pods: followed.flatMap(([, { pods }]) => [...pods.items.values()]),
      listed: new Set(followed.flatMap(([name, { pods }]) => (pods.hasSynced ? [name] : []))),
    };
  }

  close(): void {
    this.of(new Set());
  }

  #follow(namespace: string): void {
    const { client, log, signal, except, onChange } = this.#options;
    const stop = new AbortController();
    const pods = new Reflector<Pod, EgressPod>({
      client,
      log,
      namespace,
      signal: AbortSignal.any([signal, stop.signal]),
      resource: resources.pods,
      project: (pod) => egressPod(pod, except),
    });
    this.#followed.set(namespace, { stop, pods });
    pods.onChange(() => {
      if (!stop.signal.aborted) onChange();
    });
    pods.start();
  }
}

/** Undefined for pods that have no address of their own, or none any more. */
function egressPod(pod: Pod, except: string): EgressPod | undefined {
  const { namespace, name, node, hostNetwork, ended, addresses } = podFacts(pod);
  if (hostNetwork || ended || node === except || addresses.length === 0) return undefined;
  return { name: `${namespace}/${name}`, namespace, addresses };
}
