/** The questions that the agent's socket answers. */
import { desiredOverlay, openOverlayKernel, planOverlay, planText } from '../overlay/index.ts';
import { METRICS_TYPE } from '../reconcile/index.ts';
import { explanationText, type ServiceExplanation } from '../service/index.ts';
import { egressRoutes } from './egress-answers.ts';
import { agentMetrics } from './metrics.ts';
import { packetAnswer } from './packet.ts';
import type { AgentParts } from './parts.ts';
import { peerLeases } from './peers.ts';
import { policyRoutes } from './policy.ts';
import { noSuchService, serviceName } from './service-names.ts';
import { serviceRows, shownService } from './show-service.ts';
import { type Routes, TextAnswer } from './socket.ts';
import { agentStatus } from './status.ts';

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
        kind: attachment.kind,
        netns: attachment.netns,
        pod: attachment.pod ? `${attachment.pod.namespace}/${attachment.pod.name}` : '',
        addresses: attachment.addresses.map(String),
        state: attachment.state,
      })),
    'GET /services': () => serviceRows(parts),
    'GET /services/show': (query) => shownService(parts, query),
    'GET /services/explain': (query) => explanationText(explained(parts, query.get('service') ?? '')),
    'GET /services/packet': (query) => packetAnswer(parts, query),
    ...policyRoutes(parts),
    ...egressRoutes(parts.egress, parts.options.nodeName, parts.findPod),
    'GET /services/announced': () => parts.announcer.list(),
    'GET /metrics': async () => new TextAnswer(await agentMetrics(parts), METRICS_TYPE),
    'GET /services/maps': () => parts.engine.dump(),
    'GET /services/diff': () => ({ altered: [], ...parts.engine.diff(parts.controller.plans.values()) }),
  };
}

function explained(parts: AgentParts, text: string): ServiceExplanation {
  const service = serviceName(text);
  const found = parts.controller.explain(service);
  if (!found) throw noSuchService(service, parts.controller.plans.keys());
  return found;
}
