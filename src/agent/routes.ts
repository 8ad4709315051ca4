/** The questions that the agent's socket answers. */
import { agentError } from '../errors/index.ts';
import { desiredOverlay, openOverlayKernel, planOverlay, planText } from '../overlay/index.ts';
import { METRICS_TYPE } from '../reconcile/index.ts';
import { explanationText, type PacketQuery, portText, type ServiceExplanation } from '../service/index.ts';
import type { AgentParts } from './agent.ts';
import { agentMetrics } from './metrics.ts';
import { peerLeases } from './peers.ts';
import { policyRoutes } from './policy.ts';
import { type Routes, TextAnswer } from './socket.ts';
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
    'GET /services/explain': (query) => explanationText(explained(parts, query.get('service') ?? '')),
    'GET /services/packet': (query) => parts.engine.explainPacket(packetOf(query)),
    ...policyRoutes(parts),
    'GET /services/announced': () => parts.announcer.list(),
    'GET /metrics': async () => new TextAnswer(await agentMetrics(parts), METRICS_TYPE),
    'GET /services/maps': () => parts.engine.dump(),
    'GET /services/diff': () => parts.engine.diff(parts.controller.plans.values()),
  };
}

function explained(parts: AgentParts, text: string): ServiceExplanation {
  const service = text.includes('/') ? text : `default/${text}`;
  const found = parts.controller.explain(service);
  if (!found) throw agentError('AGENT_NO_SUCH_SERVICE', { service });
  return found;
}

/** `from=pod|outside`, `source`, `to=ADDRESS`, `port`, `protocol`. */
function packetOf(query: URLSearchParams): PacketQuery {
  const protocol = (query.get('protocol') ?? 'tcp').toUpperCase();
  const port = Number(query.get('port'));
  if ((protocol !== 'TCP' && protocol !== 'UDP') || !Number.isInteger(port) || port < 1 || port > 65535)
    throw agentError('AGENT_BAD_OPTION', {
      option: 'to',
      value: `${query.get('to')}:${query.get('port')}/${protocol}`,
      want: 'ADDRESS:PORT/tcp or /udp',
    });
  return {
    client: query.get('from') === 'outside' ? 'outside' : 'pod',
    source: query.get('source') ?? '',
    target: query.get('to') ?? '',
    targetPort: port,
    protocol,
  };
}
