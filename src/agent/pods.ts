/** The Pods of this node as processes: a runner, its manager, and their network through the agent's own pod links. */
import { join } from 'node:path';
import { type ApiClient, type EventRecorder, type Log, type Reflector, resources } from '../client/index.ts';
import type { PodNetworking } from '../cni/index.ts';
import { isNetError } from '../errors/index.ts';
import type { ConfigMap, Pod } from '../model/kubernetes.ts';
import { PodManager, type PodNetwork, ProcessRunner, podApi } from '../pods/index.ts';
import type { AgentOptions } from './options.ts';

/** Pods of the agent itself belong to no CNI network, and have one interface. */
const POD_IFNAME = 'eth0';

export interface NodePodsOptions {
  readonly options: AgentOptions;
  readonly client: ApiClient;
  readonly recorder: EventRecorder;
  readonly source: Reflector<Pod>;
  readonly networking: PodNetworking;
  readonly hostIps: () => string[];
  readonly log: Log;
}

export interface NodePods {
  readonly runner: ProcessRunner;
  readonly manager: PodManager;
}

/** Adopts the pods that run; `undo` is told how to let go of them. Throws PODS_*. */
export async function openPods(made: NodePodsOptions, undo: AsyncDisposableStack): Promise<NodePods> {
  const { options, client, recorder, source, networking, hostIps, log } = made;
  const { nodeName, stateDir } = options;
  const podLog = (message: string, error?: unknown) =>
    error === undefined
      ? log.info({}, message)
      : log.warn({ error: (error as Error).message ?? String(error) }, message);
  const runner = await ProcessRunner.open({
    stateDir,
    cgroupRoot: join(options.cgroupPath, 'pods'),
    network: podNetwork(networking),
    netnsPrefix: `${netnsPrefix(stateDir)}-`,
    log: podLog,
  });
  undo.defer(() => runner.close());
  const manager = new PodManager({
    nodeName,
    runner,
    source,
    api: podApi(client),
    events: recorder,
    configMap: (namespace, name) => readConfigMap(client, namespace, name),
    hostIps,
    stateDir,
    log: podLog,
  });
  undo.defer(() => manager.close());
  return { runner, manager };
}

function podNetwork(networking: PodNetworking): PodNetwork {
  const keyOf = (sandboxId: string) => ({ containerId: sandboxId, ifname: POD_IFNAME });
  return {
    async add({ sandboxId, metadata, netnsPath }) {
      const { namespace, name, uid } = metadata;
      const attachment = await networking.add({
        ...keyOf(sandboxId),
        netns: netnsPath,
        pod: { namespace, name, uid },
        ifAttached: 'ensure',
      });
      return { ips: attachment.addresses.map(String) };
    },
    del: ({ sandboxId }) => networking.del(keyOf(sandboxId)),
    async check({ sandboxId, netnsPath }) {
      const missing = await networking.check(keyOf(sandboxId), netnsPath);
      if (missing.length > 0) throw new Error(missing.join('; '));
    },
  };
}

/** Namespaces of pods are named after the node's own folder, so that two nodes of a lab are told apart. */
export function netnsPrefix(stateDir: string): string {
  return stateDir.replace(/^\/run\//, '').replace(/[^a-z0-9-]+/g, '-');
}

async function readConfigMap(
  client: ApiClient,
  namespace: string,
  name: string,
): Promise<ConfigMap | undefined> {
  try {
    return await client.get(resources.configMaps, { namespace, name });
  } catch (error) {
    if (isNetError(error, 'CLIENT_NOT_FOUND')) return undefined;
    throw error;
  }
}
