/**
 * The meaning of NetworkPolicy v1 and ClusterNetworkPolicy for one connection. Written once: the compiled rules are tested against it, `explain`
 * prints it, and established connections are judged by it.
 *
 *     egress of the source  AND  ingress of the destination
 *        │
 *        Admin tier: the first rule that matches     ──► Accept or Deny is final, Pass ends the tier
 *        a NetworkPolicy selects the pod for the direction: it is isolated
 *           any rule of any such policy matches      ──► allowed by that rule
 *           else                                     ──► denied: isolated by those policies
 *        Baseline tier: the first rule that matches  ──► Accept or Deny
 *        else                                        ──► allowed
 *
 * A node's own traffic to its own pods is always allowed (the kubelet's probes), and so is a pod's to itself, by way of
 * a Service or not. Replies are no connections.
 * Sources: Kubernetes API reference, networking.k8s.io/v1 NetworkPolicy; kubernetes-sigs/network-policy-api v1alpha2.
 */
import type { IpAddress } from '../addr/index.ts';
import type { Protocol } from '../model/kubernetes.ts';
import { type Labels, labelSelectorSelects } from '../model/label-selector.ts';
import type {
  ClusterPolicyFacts,
  Direction,
  PeerFacts,
  PodFacts,
  PolicyFacts,
  PortFacts,
  RuleFacts,
  Selection,
  Tier,
  TierRuleFacts,
} from './types.ts';

/** One end of a connection. */
export interface Endpoint {
  readonly address: IpAddress;
  /** The pod whose address it is; undefined for nodes, host-network pods and everything outside. */
  readonly pod?: PodFacts | undefined;
  /** The node whose own address it is. */
  readonly node?: string | undefined;
}

export interface Flow {
  readonly from: Endpoint;
  readonly to: Endpoint;
  /** Undefined for protocols without ports, such as ICMP. */
  readonly protocol: Protocol | undefined;
  /** The destination's port, after translation of Services. */
  readonly port: number;
}

/** A rule of a ClusterNetworkPolicy that matched. */
export interface TierMatch {
  readonly tier: Tier;
  readonly policy: string;
  readonly index: number;
  readonly rule: TierRuleFacts;
}

/** What one end's policies say. */
export interface SideVerdict {
  readonly allowed: boolean;
  /** Rules of ClusterNetworkPolicies that matched, in order; the last one decides unless it passes. */
  readonly tiers: readonly TierMatch[];
  /** Policies that isolate the pod in this direction; empty when none does. */
  readonly isolatedBy: readonly string[];
  /** The rule that allows. */
  readonly rule?: { readonly policy: string; readonly index: number } | undefined;
}

export interface Verdict {
  readonly allowed: boolean;
  /** Policies do not apply: the source is the node of the destination, or the destination itself. */
  readonly exempt?: 'own node' | 'itself' | undefined;
  readonly egress: SideVerdict;
  readonly ingress: SideVerdict;
}

/** What flows are judged by. */
export interface PolicyWorld {
  /** Policies of a namespace, in an order that stays. */
  policiesOf(namespace: string): Iterable<PolicyFacts>;
  /** ClusterNetworkPolicies of a tier, in the order in which they are asked. */
  clusterPoliciesOf(tier: Tier): Iterable<ClusterPolicyFacts>;
  /** Labels of a node; undefined when there is no such one. */
  nodeLabels(node: string): Labels | undefined;
  /** Labels of a namespace; undefined when there is no such one. */
  namespaceLabels(namespace: string): Labels | undefined;
}

const OPEN: SideVerdict = { allowed: true, tiers: [], isolatedBy: [] };

export function evaluate(flow: Flow, world: PolicyWorld): Verdict {
  const { from, to } = flow;
  if (from.node !== undefined && to.pod?.node === from.node) return exempt('own node');
  if (from.address.equals(to.address)) return exempt('itself');
  const egress = judge(flow, 'egress', world);
  const ingress = judge(flow, 'ingress', world);
  return { allowed: egress.allowed && ingress.allowed, egress, ingress };
}

function exempt(why: Verdict['exempt']): Verdict {
  return { allowed: true, exempt: why, egress: OPEN, ingress: OPEN };
}

function judge(flow: Flow, direction: Direction, world: PolicyWorld): SideVerdict {
  const { pod } = direction === 'ingress' ? flow.to : flow.from;
  const peer = direction === 'ingress' ? flow.from : flow.to;
  if (!pod || pod.hostNetwork) return OPEN;
  const admin = tierMatch('Admin', pod, direction, peer, flow, world);
  const decided = decision(admin);
  if (decided !== undefined) return { allowed: decided, tiers: [admin!], isolatedBy: [] };
  const passed = admin ? [admin] : [];
  const isolatedBy: string[] = [];
  let rule: SideVerdict['rule'];
  for (const policy of world.policiesOf(pod.namespace)) {
    const rules = policy[direction];
    if (!rules || !labelSelectorSelects(policy.podSelector, pod.labels)) continue;
    isolatedBy.push(policy.key);
    if (rule) continue;
    const index = rules.findIndex((each) => ruleMatches(each, peer, flow, world));
    if (index >= 0) rule = { policy: policy.key, index };
  }
  if (isolatedBy.length > 0) return { allowed: rule !== undefined, tiers: passed, isolatedBy, rule };
  const baseline = tierMatch('Baseline', pod, direction, peer, flow, world);
  if (!admin && !baseline) return OPEN;
  const tiers = baseline ? [...passed, baseline] : passed;
  return { allowed: decision(baseline) ?? true, tiers, isolatedBy: [] };
}

/** Undefined when it leaves the decision to others. */
function decision(match: TierMatch | undefined): boolean | undefined {
  if (!match || match.rule.action === 'Pass') return undefined;
  return match.rule.action === 'Accept';
}

/** The first rule of a tier that matches. */
function tierMatch(
  tier: Tier,
  pod: PodFacts,
  direction: Direction,
  peer: Endpoint,
  flow: Flow,
  world: PolicyWorld,
): TierMatch | undefined {
  for (const policy of world.clusterPoliciesOf(tier)) {
    if (!selectionSelects(policy.subject, pod, world.namespaceLabels(pod.namespace))) continue;
    const index = policy[direction].findIndex((each) => ruleMatches(each, peer, flow, world));
    if (index >= 0) return { tier, policy: policy.name, index, rule: policy[direction][index]! };
  }
  return undefined;
}

/** Whether peers and ports of a rule match; `peer` is the other end of the flow. */
export function ruleMatches(rule: RuleFacts, peer: Endpoint, flow: Flow, world: PolicyWorld): boolean {
  if (rule.ports && !rule.ports.some((port) => portMatches(port, flow))) return false;
  return !rule.peers || rule.peers.some((each) => peerMatches(each, peer, world));
}

function portMatches({ protocol, port, endPort }: PortFacts, flow: Flow): boolean {
  if (protocol !== flow.protocol) return false;
  if (port === undefined) return true;
  if (typeof port === 'number') return flow.port >= port && flow.port <= (endPort ?? port);
  return (flow.to.pod?.ports ?? []).some(
    (named) => named.name === port && named.protocol === protocol && named.port === flow.port,
  );
}

function peerMatches(peer: PeerFacts, { address, pod, node }: Endpoint, world: PolicyWorld): boolean {
  if (peer.kind === 'nodes') {
    const labels = node === undefined ? undefined : world.nodeLabels(node);
    return labels !== undefined && labelSelectorSelects(peer.selector, labels);
  }
  if (peer.kind === 'block')
    return peer.ranges.some(
      ({ first, last }) =>
        first.family === address.family && address.compare(first) >= 0 && address.compare(last) <= 0,
    );
  return pod !== undefined && selectionSelects(peer.selection, pod, world.namespaceLabels(pod.namespace));
}

/** Whether a pod is one of a selection; a namespace without labels is one that is not known (yet). */
export function selectionSelects(selection: Selection, pod: PodFacts, labels: Labels | undefined): boolean {
  if (pod.hostNetwork) return false;
  const { namespaces } = selection;
  if (typeof namespaces === 'string') {
    if (namespaces !== pod.namespace) return false;
  } else if (labels === undefined || !labelSelectorSelects(namespaces, labels)) return false;
  return labelSelectorSelects(selection.pods, pod.labels);
}
