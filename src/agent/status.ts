/** What an agent says of itself: plain data, so that it travels as JSON and prints as a table. */
import { isNetError } from '../errors/index.ts';
import { type ObjectStatus, statusText } from '../reconcile/index.ts';
import type { EngineStatus } from '../service/index.ts';
import { type EgressSummary, egressProblems, egressSummary } from './egress-answers.ts';
import type { AgentParts } from './parts.ts';

/** Something that is not as it should be. */
export interface Problem {
  object: string;
  message: string;
  remedy: string;
}

export interface AgentStatus {
  node: string;
  version: string;
  pid: number;
  uptimeSeconds: number;
  /** Resident memory of the agent. */
  rssBytes: number;
  ready: boolean;
  api: { connected: boolean; error?: string };
  addresses: string[];
  podCidrs: string[];
  podMtuBytes: number | undefined;
  overlay: {
    backend: string;
    tables: string;
    rules: string;
    changes: number;
    devices: { name: string; mac: string; mtu: number; local: string }[];
    peers: { node: string; address: string; podCidrs: string[]; via: string; error?: string }[];
  };
  services: EngineStatus & {
    synced: boolean;
    planned: number;
    failed: Record<string, string>;
    timing: { count: number; lastMs: number; maxMs: number };
  };
  /** `active`: those that select pods of this node; `synced`: they are listed from the API server. */
  policies: { state: string; synced: boolean; policies: number; active: number; isolatedPods: number };
  egress: EgressSummary;
  /** `kind`: of links to come; `bridged`: how many of those that are there hang on the bridge. */
  podLinks: {
    kind: string;
    count: number;
    bridged: number;
    pools: { pool: string; used: number; usable: number }[];
  };
  pods: number;
  problems: Problem[];
}

/** Collects the status of a running agent. */
export function agentStatus(parts: AgentParts): AgentStatus {
  const { options, nodes, controller, networking } = parts;
  const overlay = parts.overlay()?.status();
  const { cannotAdd } = parts.health();
  const peers = (overlay?.peers ?? []).map((peer) => ({
    node: peer.node,
    address: String(peer.publicIp),
    podCidrs: peer.podCidrs.map(String),
    via: peer.via,
    ...(peer.error && { error: peer.error.message }),
  }));
  const failed = Object.fromEntries([...controller.failed].map(([key, error]) => [key, error.message]));
  return {
    node: options.nodeName,
    version: options.version,
    pid: process.pid,
    uptimeSeconds: Math.round((Date.now() - parts.startedAt) / 1000),
    rssBytes: process.memoryUsage.rss(),
    ready: cannotAdd === undefined,
    api: { connected: nodes.connected, ...(nodes.lastError && { error: nodes.lastError.message }) },
    addresses: (overlay?.lease ? Object.values(overlay.lease.endpoints) : []).flatMap((end) =>
      end ? [String(end.publicIp)] : [],
    ),
    podCidrs: (parts.overlayConfig()?.podCidrs ?? []).map(String),
    podMtuBytes: overlay?.podMtuBytes,
    overlay: {
      backend: options.backend,
      tables: overlay ? statusText(overlay.tables) : 'waiting for a pod CIDR',
      rules: overlay ? statusText(overlay.rules) : 'waiting for a pod CIDR',
      changes: overlay?.changes ?? 0,
      devices: [...(overlay?.devices ?? [])],
      peers,
    },
    services: {
      ...engineStatus(parts),
      synced: controller.ready,
      planned: controller.plans.size,
      failed,
      timing: {
        count: controller.timing.count,
        lastMs: controller.timing.lastMs,
        maxMs: controller.timing.maxMs,
      },
    },
    policies: policySummary(parts),
    egress: { state: statusText(parts.egress.status().state), ...egressSummary(parts.egress) },
    podLinks: {
      kind: options.podLink ?? 'routed',
      count: networking.list().length,
      bridged: networking.list().filter(({ kind }) => kind === 'bridge').length,
      pools: networking.store.usage().map(({ pool, used, usable }) => ({
        pool: String(pool),
        used: Number(used),
        usable: Number(usable),
      })),
    },
    pods: parts.manager?.list().length ?? 0,
    problems: problemsOf(parts),
  };
}

/** The engine's, with what rules beside it count. */
function engineStatus({ engine, podSources }: AgentParts): EngineStatus {
  const status = engine.status();
  return { ...status, counters: { ...status.counters, ...podSources.counters() } };
}

function policySummary({ policy }: AgentParts): AgentStatus['policies'] {
  const { state, synced, policies, active, isolatedPods } = policy.controller.status();
  return { state: statusText(state), synced, policies, active, isolatedPods };
}

function problemsOf(parts: AgentParts): Problem[] {
  const found: Problem[] = [];
  const tell = (object: string, error: Error) => {
    found.push({
      object,
      message: error.message,
      remedy: isNetError(error) ? error.remedy : 'See the log of the agent',
    });
  };
  const check = (object: string, status: ObjectStatus) => {
    if (status.state !== 'error') return;
    if (status.error instanceof AggregateError)
      for (const error of status.error.errors) tell(object, error as Error);
    else tell(object, status.error);
  };
  if (parts.nodes.lastError) tell('API server', parts.nodes.lastError);
  for (const [part, error] of parts.failures) tell(part, error);
  check('Node object', parts.registration.status);
  check('Service rules', parts.serviceRules.status);
  check('source addresses of pods', parts.podSources.status);
  const overlay = parts.overlay()?.status();
  if (overlay) {
    check('overlay', overlay.tables);
    check('overlay rules', overlay.rules);
    for (const warning of overlay.warnings) tell('firewall', warning);
    for (const peer of overlay.peers) if (peer.error) tell(`peer ${peer.node}`, peer.error);
  }
  check('network policy', parts.policy.controller.status().state);
  check('egress addresses', parts.egress.status().state);
  for (const { namespace, why } of egressProblems(parts.egress.status().states))
    found.push({
      object: `egress address of namespace ${namespace}`,
      message: `nothing that its pods send leaves the cluster: ${why}`,
      remedy:
        'docs/egress.md says which addresses a node can hold; without the annotation pods are masqueraded',
    });
  for (const [service, error] of parts.controller.failed) tell(`Service ${service}`, error);
  for (const [service, { error }] of parts.controller.refused) tell(`Service ${service}`, error);
  const { cannotAdd } = parts.health();
  if (cannotAdd)
    found.push({
      object: 'pods',
      message: cannotAdd,
      remedy:
        'The controller gives pod CIDRs: see that "portolan controller" runs with a --cluster-cidr that has room',
    });
  return found;
}
