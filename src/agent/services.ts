/** Services on this node: the engine, the planner that drives it, and the links by which clients outside come in. */
import type { IpAddress } from '../addr/index.ts';
import type { ApiClient, EventRecorder, Log } from '../client/index.ts';
import { agentError } from '../errors/index.ts';
import {
  HealthCheckServers,
  type HostPortFacts,
  type NodeServiceEngine,
  ServiceController,
  type TableSource,
} from '../service/index.ts';
import { NAMESPACE_KEY } from './egress.ts';
import { Announcer } from './l2/announcer.ts';
import { LocalAddresses } from './local-addresses.ts';
import type { NftParts } from './nft-parts.ts';
import { nodeContext } from './node-context.ts';
import { NodeInterfaces } from './node-interfaces.ts';
import type { AgentOptions } from './options.ts';
import { openEngine } from './service-engine.ts';
import { serviceEvents } from './service-events.ts';
import type { Sources } from './sources.ts';
import { staleSocketHandler } from './stale-sockets.ts';
import { ToldPeers } from './told-peers.ts';

export interface NodeServicesOptions {
  readonly options: AgentOptions;
  readonly sources: Pick<Sources, 'nodes' | 'services' | 'slices' | 'ranges'>;
  /** hostPorts of this node, and which of them Pods of the API have. */
  readonly hostPorts: TableSource<HostPortFacts>;
  readonly isApiPod: (key: string) => boolean;
  readonly client: ApiClient;
  readonly recorder: EventRecorder;
  readonly addresses: readonly IpAddress[];
  /** Addresses besides those of Services that one node has to answer for, see Announcer. */
  readonly otherAddresses: () => ReadonlyMap<string, readonly string[]>;
  readonly onRole: () => void;
  /** Paths of the namespaces of this node's pods. */
  readonly podNetns: () => readonly string[];
  readonly log: Log;
}

export interface NodeServices {
  readonly engine: NodeServiceEngine;
  readonly controller: ServiceController;
  readonly rules: NftParts;
  /** Says on this node's links where load balancer addresses are. */
  readonly announcer: Announcer;
  /** The node's addresses, its links or its zone may have changed. */
  follow(node: { addresses: readonly IpAddress[]; zone: string | undefined }): void;
  /** Programs everything as soon as it is known. */
  start(): Promise<void>;
}

/**
 * Adopts or attaches the programs at once, so that they serve from the first moment. Throws SERVICE_ENGINE_OPEN,
 * KERNEL_*.
 */
export function openServices(made: NodeServicesOptions, undo: AsyncDisposableStack): NodeServices {
  const { options, sources, recorder, podNetns, log } = made;
  const { nodeName, bpffsDir, cgroupPath } = options;
  const { engine, rules, retireOther } = openEngine(
    {
      choice: options.serviceEngine ?? 'auto',
      bpffsDir,
      cgroupPath,
      nodeName,
      nodeHook: options.nodeHook,
      onStaleSockets: staleSocketHandler(podNetns, log),
      log,
    },
    undo,
  );
  // It would be promised and not done: at a socket nobody can be hidden.
  if (options.services?.masqueradeAll && engine.name === 'ebpf')
    throw agentError('AGENT_BAD_OPTION', {
      option: 'masquerade-all',
      value: 'true',
      want: '--service-engine nftables with it: eBPF connects processes to endpoints at their sockets',
    });
  let addresses = made.addresses;
  const announcer = new Announcer({
    client: made.client,
    nodeName,
    services: sources.services.items,
    plans: () => controller.plans,
    others: made.otherAddresses,
    onRole: made.onRole,
    addresses: () => addresses,
    log,
    onEvent: (keys, type, reason, message) => {
      for (const key of keys) {
        // Of other addresses their own part tells.
        if (key.startsWith(NAMESPACE_KEY)) continue;
        const [namespace, name] = key.split('/') as [string, string];
        recorder.record({ apiVersion: 'v1', kind: 'Service', namespace, name }, { type, reason, message });
      }
    },
  });
  undo.defer(() => announcer.close());
  sources.services.onChange((keys) => announcer.servicesChanged(keys));
  const local = new LocalAddresses({ except: options.clusterCidrs, log });
  undo.defer(() => local.close());
  let zone: string | undefined;
  const contextNow = () => nodeContext({ nodeName, zone, addresses, local: local.now, ...options.services });
  let node = contextNow();
  const events = serviceEvents({ recorder, nodeName, log, isApiPod: made.isApiPod });
  const healthChecks = new HealthCheckServers({
    healthy: () => controller.ready,
    onResult: events.healthCheck,
  });
  undo.defer(() => healthChecks.close());
  const controller: ServiceController = new ServiceController({
    services: sources.services,
    slices: sources.slices,
    ranges: sources.ranges,
    hostPorts: made.hostPorts,
    engine,
    node,
    log,
    onApplied: (delta) => {
      healthChecks.apply(delta);
      announcer.plansChanged();
      peers.planned(delta.upsert);
      events.planned(delta);
    },
    onResult: events.programmed,
    onRefused: events.refused,
  });
  undo.defer(() => controller.close());
  const peers = new ToldPeers({
    nodes: sources.nodes,
    nodeName,
    engine,
    plans: () => controller.plans.values(),
    log,
  });
  undo.defer(() => peers.close());
  const interfaces = new NodeInterfaces({ engine, log });
  undo.defer(() => interfaces.close());
  interfaces.attach([...addresses.map(String), ...node.nodePortAddresses]);
  interfaces.follow();
  /** What the controller plans for, once it can be told. */
  const tell = () => {
    if (controller.ready && JSON.stringify(controller.node) !== JSON.stringify(node))
      controller.setNode(node);
  };
  const look = () => {
    node = contextNow();
    try {
      interfaces.attach([...addresses.map(String), ...node.nodePortAddresses]);
    } catch (error) {
      log.warn({ error: (error as Error).message }, 'clients outside may not reach Services by a link');
    }
    tell();
  };
  local.follow(look);
  return {
    engine,
    controller,
    rules,
    announcer,
    follow: (now) => {
      ({ addresses, zone } = now);
      announcer.plansChanged();
      look();
    },
    start: async () => {
      await controller.start();
      tell();
      // Two engines at once do no harm: whoever translates a connection first leaves nothing for the other.
      await retireOther();
    },
  };
}
