/** The questions that the agent's socket answers. */
import { desiredOverlay, openOverlayKernel, planOverlay, planText } from '../overlay/index.ts';
import { portText } from '../service/index.ts';
import type { AgentParts } from './agent.ts';
import { peerLeases } from './peers.ts';
import type { Routes } from './socket.ts';
import { agentStatus } from './status.ts';

/** One Service as `portolan service list` shows it. */
export interface ServiceRow {
  service: string;
  ports: string[];
  state: string;
}

export function agentRoutes(parts: AgentParts): Routes {
  return {
    'GET /status': () => agentStatus(parts),
    'GET /overlay/plan': () => {
      const config = parts.overlayConfig();
      if (!config) return { changes: [], note: 'this node has no pod CIDR yet' };
      const kernel = openOverlayKernel();
      try {
        const observed = kernel.observe();
        const leases = peerLeases(parts.nodes.items.values(), config.node).leases;
        const changes = planOverlay(desiredOverlay(config, leases, observed), observed);
        return { changes: planText(changes) };
      } finally {
        kernel.close();
      }
    },
    'GET /pods': () =>
      parts.manager?.list() ??
      parts.networking.list().map((attachment) => ({
        namespace: attachment.pod?.namespace ?? '',
        name: attachment.pod?.name ?? attachment.containerId,
        uid: attachment.pod?.uid ?? '',
        phase: attachment.state,
        ips: attachment.addresses.map(String),
        sandboxId: attachment.containerId,
        containers: [],
      })),
    'GET /links': () =>
      parts.networking.list().map((attachment) => ({
        containerId: attachment.containerId,
        hostLink: attachment.hostLink,
        netns: attachment.netns,
        pod: attachment.pod ? `${attachment.pod.namespace}/${attachment.pod.name}` : '',
        addresses: attachment.addresses.map(String),
        state: attachment.state,
      })),
    'GET /services': (): ServiceRow[] =>
      [...parts.controller.plans].map(([service, plan]) => ({
        service,
        ports: plan.ports.flatMap((port) => portText(port)),
        state: parts.controller.failed.get(service)?.message ?? 'done',
      })),
    'GET /services/maps': () => parts.engine.dump(),
    'GET /services/diff': () => parts.engine.diff(parts.controller.plans.values()),
  };
}
