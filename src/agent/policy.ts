/** Network policy in the agent: its sources, the controller, and the questions that its socket answers. */
import { join } from 'node:path';
import type { Family } from '../addr/index.ts';
import { type ApiClient, type EventRecorder, type Log, Reflector, resources } from '../client/index.ts';
import { policyError } from '../errors/index.ts';
import type { NftRuleFound } from '../kernel/nft/index.ts';
import type { ClusterNetworkPolicy } from '../model/cluster-network-policy.ts';
import type { Namespace, NetworkPolicy, Node, Pod } from '../model/kubernetes.ts';
import { ALLOW_LOCKOUT, type NodeNetworkPolicy } from '../model/node-network-policy.ts';
import type { PeerState } from '../overlay/index.ts';
import {
  type ClusterPolicyFacts,
  clusterPolicyFacts,
  type Direction,
  type Logging,
  type NodePolicyFacts,
  type NodePolicyState,
  namespaceLabels,
  nodeFacts,
  nodePolicyFacts,
  ownerName,
  PolicyController,
  type PolicyFacts,
  type PolicyStatus,
  podFacts,
  policyFacts,
  type Tier,
} from '../policy/index.ts';
import type { ServiceFacts, SliceFacts } from '../service/index.ts';
import { AcceptedPoliciesFile } from './accepted-policies.ts';
import { nodeContacts } from './contacts.ts';
import { explainTraffic } from './policy-explain.ts';
import { PolicyLog } from './policy-log.ts';
import { type Routes, StreamAnswer } from './socket.ts';

export interface PolicyOptions {
  readonly client: ApiClient;
  readonly nodeName: string;
  readonly stateDir: string;
  readonly cutEstablished: boolean;
  readonly recorder: EventRecorder;
  /** URL of the API server, and UDP port of the tunnel, if there is one: no policy may cut them by mistake. */
  readonly server: string;
  readonly tunnelPort: number | undefined;
  /** What goes to the agent's log. */
  readonly logging: Logging;
  readonly signal: AbortSignal;
  readonly log: Log;
}

export interface AgentPolicy {
  readonly controller: PolicyController;
  readonly reports: PolicyLog;
  /** Starts to list policies; pods and namespaces follow when there is one. */
  startSources(): void;
}

export function openPolicy(options: PolicyOptions): AgentPolicy {
  const { client, nodeName, cutEstablished, signal, log, logging, tunnelPort } = options;
  const source = { client, signal, log };
  const policies = new Reflector<NetworkPolicy, PolicyFacts>({
    ...source,
    resource: resources.networkPolicies,
    project: policyFacts,
  });
  const clusterPolicies = new Reflector<ClusterNetworkPolicy, ClusterPolicyFacts>({
    ...source,
    resource: resources.clusterNetworkPolicies,
    project: clusterPolicyFacts,
    mayBeAbsent: true,
  });
  const nodePolicies = new Reflector<NodeNetworkPolicy, NodePolicyFacts>({
    ...source,
    resource: resources.nodeNetworkPolicies,
    project: nodePolicyFacts,
    mayBeAbsent: true,
  });
  const nodes = new Reflector({
    ...source,
    resource: resources.nodes,
    project: (node: Node) => nodeFacts(node),
  });
  const pods = new Reflector({ ...source, resource: resources.pods, project: (pod: Pod) => podFacts(pod) });
  const namespaces = new Reflector({
    ...source,
    resource: resources.namespaces,
    project: (namespace: Namespace) => namespaceLabels(namespace),
  });
  const controller = new PolicyController({
    nodeName,
    policies,
    pods,
    namespaces,
    cluster: {
      policies: clusterPolicies,
      nodes,
      nodePolicies,
      contacts: () => nodeContacts({ nodeName, server: options.server, tunnelPort, nodes: nodes.items }),
      accepted: new AcceptedPoliciesFile(join(options.stateDir, 'firewall-accepted.json'), nodeName),
      onNodePolicy: (state) => tellNodePolicy(state, options),
    },
    cutEstablished,
    log,
    startSources: () => {
      pods.start();
      namespaces.start();
      nodes.start();
    },
  });
  const startSources = () => {
    policies.start();
    clusterPolicies.start();
    nodePolicies.start();
  };
  const reports = new PolicyLog({ controller, always: logging, log });
  return { controller, reports, startSources };
}

/** An Event says how a policy of nodes stands here, when that is not what its author wants to hear. */
function tellNodePolicy(state: NodePolicyState, { nodeName, recorder, log }: PolicyOptions): void {
  const { name, uid, lockouts, problems, until } = state;
  log.info({ policy: name, state: state.state, lockouts, until }, 'policy of the node itself');
  const policy = { apiVersion: 'policy.portolan.dev/v1alpha1', kind: 'NodeNetworkPolicy', name, uid };
  const cut = lockouts.join(', ');
  if (state.state === 'refused')
    recorder.record(policy, {
      type: 'Warning',
      reason: 'WouldLockOut',
      message: `${nodeName} does not enforce it: it would cut ${cut}. Accept that by a rule, or annotate it ${ALLOW_LOCKOUT}=true`,
    });
  if ((state.state === 'in force' || state.state === 'on trial') && lockouts.length > 0)
    recorder.record(policy, {
      type: 'Warning',
      reason: 'LocksOut',
      message: `${nodeName} enforces it although it cuts ${cut}`,
    });
  if (state.state === 'expired')
    recorder.record(policy, {
      type: 'Warning',
      reason: 'NotConfirmed',
      message: `${nodeName} no longer enforces it: nobody confirmed it in time`,
    });
  if (problems.length > 0)
    recorder.record(policy, { type: 'Warning', reason: 'NotUnderstood', message: problems.join('; ') });
}

/** One policy as `portolan policy list` shows it. */
export interface PolicyRow {
  /** `namespace/name`, or the name of a ClusterNetworkPolicy. */
  policy: string;
  /** Of a ClusterNetworkPolicy. */
  tier: Tier | undefined;
  priority: number | undefined;
  directions: Direction[];
  /** Pods of this node that it selects. */
  pods: string[];
  /** metadata.generation in force here; undefined when it selects no pod of this node. */
  enforced: number | undefined;
  generation: number;
  problems: string[];
}

/** One rule of a policy with what it has matched. */
export interface PolicyRuleRow {
  rule: string;
  family: string;
  connections: number;
  bytes: number;
}

export interface PolicyAnswerSources {
  readonly policy: AgentPolicy;
  readonly services: { readonly items: ReadonlyMap<string, ServiceFacts> };
  readonly slices: { readonly items: ReadonlyMap<string, SliceFacts> };
  readonly options: { readonly nodeName: string };
  readonly overlay: () => { status(): { readonly peers: readonly PeerState[] } } | undefined;
}

export function policyRoutes(sources: PolicyAnswerSources): Routes {
  const { controller } = sources.policy;
  const synced = () => {
    if (!controller.status().synced) throw policyError('POLICY_NOT_SYNCED', {});
  };
  return {
    'GET /policy/status': (): PolicyStatus => controller.status(),
    'GET /policy/list': (): PolicyRow[] => {
      synced();
      const { policies, clusterPolicies } = controller.compiler;
      const sorted = [...clusterPolicies.values()].sort(
        (a, b) => a.priority - b.priority || (a.name < b.name ? -1 : 1),
      );
      const tier = (name: Tier) => sorted.filter((each) => each.tier === name);
      return [
        ...tier('Admin').map((policy) => clusterRow(policy, controller)),
        ...[...policies.values()].map((policy) => row(policy, controller)),
        ...tier('Baseline').map((policy) => clusterRow(policy, controller)),
      ];
    },
    'GET /policy/plan': async () => {
      const text = await controller.plan();
      return text.split('\n').filter((line) => line !== '');
    },
    'GET /policy/show': (query) => {
      synced();
      const name = query.get('name') ?? '';
      const policy = controller.compiler.policies.get(name);
      const cluster = controller.compiler.clusterPolicies.get(name);
      if (!policy && !cluster) throw policyError('POLICY_NO_SUCH_POLICY', { name });
      const rules: PolicyRuleRow[] = [];
      for (const family of [4, 6] as const)
        rules.push(...ruleRows(controller.engine.rules(family), name, family));
      return { ...(policy ? row(policy, controller) : clusterRow(cluster!, controller)), rules };
    },
    'GET /policy/log': () => {
      const { recent } = sources.policy.reports;
      if (!recent) throw policyError('POLICY_LOG_OFF', {});
      return recent;
    },
    'GET /policy/log/follow': (query) =>
      new StreamAnswer((send) => sources.policy.reports.follow(query.has('all') ? 'all' : 'denied', send)),
    'GET /firewall/status': () => controller.nodePolicies(),
    'POST /firewall/check': (_query, body) => {
      synced();
      return controller.checkNodePolicy(nodePolicyFacts(body as NodeNetworkPolicy));
    },
    'GET /policy/explain': (query) => {
      synced();
      return explainTraffic(query, { ...sources, controller, tunnelled: tunnels(sources) });
    },
  };
}

/** By which way nodes reach each other's pods: this node knows of its own peers. */
function tunnels({ options, overlay }: PolicyAnswerSources) {
  const peers = overlay()?.status().peers ?? [];
  return (one: string, other: string, family: Family) => {
    const peer = one === options.nodeName ? other : other === options.nodeName ? one : undefined;
    return peers.some((each) => each.node === peer && each.family === family && each.via === 'vxlan');
  };
}

function row(policy: PolicyFacts, controller: PolicyController): PolicyRow {
  const directions = (['ingress', 'egress'] as const).filter((each) => policy[each] !== undefined);
  const pods = [...controller.compiler.isolated.values()].filter(({ standings }) =>
    directions.some((each) => standings[each].policies.includes(policy.key)),
  );
  return {
    policy: policy.key,
    tier: undefined,
    priority: undefined,
    directions,
    pods: pods.map(({ local }) => `${local.namespace}/${local.name}`).sort(),
    enforced: controller.status().enforced[policy.key],
    generation: policy.generation,
    problems: [...policy.problems],
  };
}

function clusterRow(policy: ClusterPolicyFacts, controller: PolicyController): PolicyRow {
  const { name, tier, priority, generation, problems } = policy;
  const directions = (['ingress', 'egress'] as const).filter((each) => policy[each].length > 0);
  const place = tier === 'Admin' ? 'admin' : 'baseline';
  const pods = [...controller.compiler.isolated.values()].filter(({ standings }) =>
    directions.some((each) => standings[each][place].includes(name)),
  );
  return {
    policy: name,
    tier,
    priority,
    directions,
    pods: pods.map(({ local }) => `${local.namespace}/${local.name}`).sort(),
    enforced: controller.status().enforced[name],
    generation,
    problems: [...problems],
  };
}

/** Counters of the rules whose comment names the policy. */
function ruleRows(rules: readonly NftRuleFound[], policy: string, family: Family): PolicyRuleRow[] {
  const rows = new Map<string, PolicyRuleRow>();
  const owner = ownerName(policy);
  for (const { comment, packets, bytes } of rules) {
    const match = /^(?:np|cnp|nnp) (\S+) ((?:in|e)gress\[\d+\])/.exec(comment);
    if (match?.[1] !== owner) continue;
    const rule = match[2]!;
    const found = rows.get(rule) ?? { rule, family: `IPv${family}`, connections: 0, bytes: 0 };
    found.connections += packets ?? 0;
    found.bytes += bytes ?? 0;
    rows.set(rule, found);
  }
  return [...rows.values()];
}
