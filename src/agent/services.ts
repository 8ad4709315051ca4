/** Services on this node: the engine, the planner that drives it, and the links by which clients outside come in. */
import { mkdirSync } from 'node:fs';
import type { IpAddress } from '../addr/index.ts';
import type { ApiClient, EventRecorder, Log } from '../client/index.ts';
import { ensureBpffs } from '../kernel/bpf/index.ts';
import { ensureCgroup } from '../kernel/cgroup/index.ts';
import { Rtnl } from '../kernel/rtnl/index.ts';
import { EbpfEngine, HealthCheckServers, masqueradeParts, ServiceController } from '../service/index.ts';
import { Announcer } from './l2/announcer.ts';
import { NftParts } from './nft-parts.ts';
import { nodeContext } from './node-context.ts';
import type { AgentOptions } from './options.ts';
import type { Sources } from './sources.ts';
import { staleSocketHandler } from './stale-sockets.ts';

export interface NodeServicesOptions {
  readonly options: AgentOptions;
  readonly sources: Pick<Sources, 'services' | 'slices' | 'ranges'>;
  readonly client: ApiClient;
  readonly recorder: EventRecorder;
  readonly addresses: readonly IpAddress[];
  /** Paths of the namespaces of this node's pods. */
  readonly podNetns: () => readonly string[];
  readonly log: Log;
}

export interface NodeServices {
  readonly engine: EbpfEngine;
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
  ensureBpffs();
  ensureCgroup(cgroupPath);
  mkdirSync(bpffsDir, { recursive: true, mode: 0o700 });
  const engine = EbpfEngine.open({
    bpffsDir,
    cgroupPath,
    nodeName,
    onStaleSockets: staleSocketHandler(podNetns, log),
  });
  undo.defer(() => engine.close());
  const rules = new NftParts('service rules', masqueradeParts());
  undo.defer(() => rules.stop());
  rules.start();
  const healthChecks = new HealthCheckServers({ healthy: () => controller.ready });
  undo.defer(() => healthChecks.close());
  let addresses = made.addresses;
  const announcer = new Announcer({
    client: made.client,
    nodeName,
    services: sources.services.items,
    plans: () => controller.plans,
    addresses: () => addresses,
    log,
    onEvent: (keys, type, reason, message) => {
      for (const key of keys) {
        const [namespace, name] = key.split('/') as [string, string];
        recorder.record({ apiVersion: 'v1', kind: 'Service', namespace, name }, { type, reason, message });
      }
    },
  });
  undo.defer(() => announcer.close());
  sources.services.onChange((keys) => announcer.servicesChanged(keys));
  let node = nodeContext({ nodeName, zone: undefined, addresses });
  const controller: ServiceController = new ServiceController({
    ...sources,
    engine,
    node,
    log,
    onApplied: (delta) => {
      healthChecks.apply(delta);
      announcer.plansChanged();
    },
    onResult: (key, error) => {
      if (!error) return;
      const [namespace, name] = key.split('/') as [string, string];
      const message = `${nodeName}: ${error.message}`;
      recorder.record(
        { apiVersion: 'v1', kind: 'Service', namespace, name },
        { type: 'Warning', reason: 'ServiceNotProgrammed', message },
      );
    },
  });
  undo.defer(() => controller.close());
  attachNodeInterfaces(engine, made.addresses);
  /** What the controller plans for, once it can be told. */
  const tell = () => {
    if (controller.ready && JSON.stringify(controller.node) !== JSON.stringify(node))
      controller.setNode(node);
  };
  return {
    engine,
    controller,
    rules,
    announcer,
    follow: ({ addresses: now, zone }) => {
      addresses = now;
      announcer.plansChanged();
      try {
        attachNodeInterfaces(engine, addresses);
      } catch (error) {
        log.warn({ error: (error as Error).message }, 'clients outside may not reach Services by a link');
      }
      node = nodeContext({ nodeName, zone, addresses });
      tell();
    },
    start: async () => {
      await controller.start();
      tell();
    },
  };
}

/** Clients outside reach NodePorts and load balancer addresses by the links that have this node's addresses. */
function attachNodeInterfaces(engine: EbpfEngine, addresses: readonly IpAddress[]): void {
  using rtnl = Rtnl.open();
  const own = new Set(addresses.map(String));
  for (const { address, ifindex } of rtnl.addrs())
    if (own.has(String(address))) engine.attachNodeInterface(ifindex);
}
