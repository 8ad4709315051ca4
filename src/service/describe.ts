/** Plans as text: what `service show`, `service explain` and tests read. */
import type { BackendPlan, Client, FrontendPlan, NodeContext, PortPlan, Rule } from './types.ts';
import { CLIENTS } from './types.ts';

/** `10.96.0.10:80` or `[fd00::1]:80`. */
export function socketAddress(address: string, port: number): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

/** `forward cluster masquerade`, `reject`. */
export function ruleText(rule: Rule): string {
  if (rule.verdict !== 'forward') return rule.verdict;
  return `forward ${rule.set}${rule.masquerade ? ' masquerade' : ''}`;
}

/** One line a frontend: `ClusterIP 10.96.0.10:80/TCP pod,node: forward cluster; outside: forward cluster masquerade`. */
export function frontendText(frontend: FrontendPlan, protocol: string): string {
  const head = `${frontend.kind} ${socketAddress(frontend.address, frontend.port)}/${protocol}`;
  if (frontend.shadowedBy !== undefined) return `${head} shadowed by ${frontend.shadowedBy}`;
  const by = new Map<string, Client[]>();
  for (const client of CLIENTS) {
    const text = ruleText(frontend.rules[client]);
    by.set(text, [...(by.get(text) ?? []), client]);
  }
  return `${head} ${[...by].map(([text, clients]) => `${clients.join(',')}: ${text}`).join('; ')}`;
}

/** Why a backend is, or is not, in the set that a rule names. */
export function backendReason(
  backend: BackendPlan,
  port: PortPlan,
  set: 'cluster' | 'local',
  node: NodeContext,
): string {
  const { endpoint } = backend;
  const chosen = set === 'cluster' ? backend.inCluster : backend.inLocal;
  const { source, topology } = port[set];
  if (chosen && backend.weight === 0) return 'weight 0';
  if (chosen) return source === 'terminating' ? 'terminating, serves because nobody is ready' : 'ready';
  if (!endpoint.serving && !endpoint.ready) return 'not serving';
  if (set === 'local' && endpoint.nodeName !== node.nodeName)
    return `on node ${endpoint.nodeName || '(unknown)'}, policy Local wants ${node.nodeName}`;
  if (!endpoint.ready) return endpoint.terminating ? 'terminating while others are ready' : 'not ready';
  if (topology === 'node') return `hinted for node ${endpoint.forNodes.join(', ')}`;
  if (topology === 'zone')
    return `hinted for zone ${endpoint.forZones.join(', ')}, this node is in ${node.zone}`;
  return 'this set is not used by the Service';
}

/** Several lines a port, as tests compare them. */
export function portText(port: PortPlan): string[] {
  const members = (set: 'cluster' | 'local') => {
    const { members, source, topology } = port[set];
    if (members.length === 0) return '-';
    const list = members.map((at) => {
      const { endpoint, port: number, weight } = port.backends[at]!;
      return `${socketAddress(endpoint.address, number)}${weight === 1 ? '' : `*${weight}`}`;
    });
    const how = [source === 'terminating' ? 'terminating' : '', topology === 'any' ? '' : `by ${topology}`];
    return [list.join(' '), ...how.filter(Boolean)].join(' ');
  };
  return [
    ...port.frontends.map((frontend) => frontendText(frontend, port.protocol)),
    `cluster: ${members('cluster')}`,
    `local: ${members('local')}`,
  ];
}
