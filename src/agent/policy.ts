/** Network policy in the agent: its sources, the controller, and the questions that its socket answers. */
import { type Family, type IpAddress, tryParseIp } from '../addr/index.ts';
import { type ApiClient, type EventRecorder, type Log, Reflector, resources } from '../client/index.ts';
import { policyError } from '../errors/index.ts';
import type { NftRuleFound } from '../kernel/nft/index.ts';
import type { ClusterNetworkPolicy } from '../model/cluster-network-policy.ts';
import type { Namespace, NetworkPolicy, Node, Pod, Protocol } from '../model/kubernetes.ts';
import { ALLOW_LOCKOUT, type NodeNetworkPolicy } from '../model/node-network-policy.ts';
import {
  type ClusterPolicyFacts,
  clusterPolicyFacts,
  type Direction,
  type Endpoint,
  type Explanation,
  endpointText,
  evaluate,
  explain,
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
import { nodeContacts } from './contacts.ts';
import { PolicyLog } from './policy-log.ts';
import { type Routes, StreamAnswer } from './socket.ts';

export interface PolicyOptions {
  readonly client: ApiClient;
  readonly nodeName: string;
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
  const { name, lockouts, problems, until } = state;
  log.info({ policy: name, state: state.state, lockouts, until }, 'policy of the node itself');
  const policy = { apiVersion: 'policy.portolan.dev/v1alpha1', kind: 'NodeNetworkPolicy', name };
  const cut = lockouts.join(', ');
  if (state.state === 'refused')
    recorder.record(policy, {
      type: 'Warning',
      reason: 'WouldLockOut',
      message: `${nodeName} does not enforce it: it would cut ${cut}. Accept that by a rule, or annotate it ${ALLOW_LOCKOUT}=true`,
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
      const sorted = [...clusterPolicies.values()].sort((a, b) => a.priority - b.priority);
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
    'POST /firewall/check': (_query, body) => {
      synced();
      return controller.checkNodePolicy(nodePolicyFacts(body as NodeNetworkPolicy));
    },
    'GET /policy/explain': (query): Explanation[] => {
      synced();
      const { protocol, port } = readPort(query.get('port') ?? '80/tcp');
      const own = controller.nodeAddresses();
      const from = ends(query.get('from') ?? '', controller, own);
      return targets(query.get('to') ?? '', port, protocol, sources, own).flatMap(({ to, port: number }) => {
        const source = from.find((each) => to.some(({ address }) => address.family === each.address.family));
        const target = to.find(({ address }) => address.family === source?.address.family);
        if (!source || !target) return [];
        const flow = { from: source, to: target, protocol, port: number };
        return [
          withUnknown(explain(flow, evaluate(flow, controller.compiler)), [source, target], controller),
        ];
      });
    },
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

function readPort(text: string): { protocol: Protocol; port: number } {
  const [number = '', name = 'tcp'] = text.split('/');
  const protocol = name.toUpperCase();
  const port = Number(number);
  if (!/^\d{1,5}$/.test(number) || port > 65_535 || !/^(TCP|UDP|SCTP)$/.test(protocol))
    throw policyError('POLICY_BAD_PORT', { text });
  return { protocol: protocol as Protocol, port };
}

/** The addresses that a text names: itself, or those of a pod. */
function ends(text: string, controller: PolicyController, own: ReadonlySet<string>): Endpoint[] {
  const address = tryParseIp(text);
  if (address) return [controller.endpoint(address, own)];
  const pod = controller.compiler.pods.get(text);
  const known: readonly IpAddress[] = pod ? controller.compiler.addressesOf(text, pod) : [];
  const addresses = known.length > 0 ? known : (pod?.addresses ?? []);
  if (pod && addresses.length > 0) return addresses.map((each) => ({ address: each, pod }));
  throw policyError('POLICY_NO_SUCH_ENDPOINT', { text });
}

/** What a connection may end at: one destination, or every backend of a Service. */
function targets(
  text: string,
  port: number,
  protocol: Protocol,
  { services, slices, policy }: PolicyAnswerSources,
  own: ReadonlySet<string>,
): { to: Endpoint[]; port: number }[] {
  const { controller } = policy;
  const address = tryParseIp(text);
  const byAddress = address
    ? [...services.items.values()].find(({ clusterIPs }) => clusterIPs.includes(String(address)))
    : undefined;
  const key = byAddress?.key ?? /^(?:service|svc)\/(.+)$/.exec(text)?.[1];
  if (key === undefined) return [{ to: ends(text, controller, own), port }];
  const servicePort = services.items
    .get(key)
    ?.ports.find((each) => each.port === port && each.protocol === protocol);
  if (!servicePort) throw policyError('POLICY_NO_SUCH_ENDPOINT', { text: `${text} port ${port}` });
  const found: { to: Endpoint[]; port: number }[] = [];
  for (const slice of slices.items.values()) {
    if (slice.service !== key) continue;
    const backend = slice.ports.find((each) => each.name === servicePort.name && each.protocol === protocol);
    if (!backend) continue;
    for (const endpoint of slice.endpoints) {
      const at = tryParseIp(endpoint.address);
      if (at) found.push({ to: [controller.endpoint(at, own)], port: backend.port });
    }
  }
  return found;
}

/** A pod of this node that nothing is known of is closed, whatever policies would say. */
function withUnknown(
  explanation: Explanation,
  sides: readonly Endpoint[],
  controller: PolicyController,
): Explanation {
  const closed = [...controller.compiler.isolated.values()].filter(({ unknown }) => unknown);
  const side = sides.find(({ address }) =>
    closed.some(({ local }) => local.addresses.some((each) => each.equals(address))),
  );
  if (!side) return explanation;
  const why = `${endpointText(side)} is closed until its labels are known: its namespace has policies`;
  return { ...explanation, allowed: false, reasons: [why, ...explanation.reasons] };
}
