/** ClusterNetworkPolicy (kubernetes-sigs/network-policy-api apis/v1alpha2), and NodeNetworkPolicy of the same words. */
import { int32, list, obj, ptr, req, str, strings, struct } from './field.ts';
import { condition, labelSelector, topLevel } from './meta.ts';

const name = (tail: string) => `policy.networking.v1alpha2.${tail}`;

const namespacedPod = struct(name('NamespacedPod'), 'Pods of some namespaces.', {
  namespaceSelector: obj(() => labelSelector, 'Namespaces of the pods; empty selects all.'),
  podSelector: req(obj(() => labelSelector, 'The pods; empty selects all.')),
});
const subject = struct(name('ClusterNetworkPolicySubject'), 'Pods that the policy is about; set one field.', {
  namespaces: ptr(obj(() => labelSelector, 'All pods of these namespaces; empty selects all.')),
  pods: ptr(obj(() => namespacedPod, 'Pods of some namespaces.')),
});

const portRange = struct(name('PortRange'), 'Ports from start to end, both included.', {
  start: req(int32('First port.')),
  end: req(int32('Last port, greater than start.')),
});
const port = struct(name('Port'), 'A port or a range of ports; set one field.', {
  number: ptr(int32('Port number.')),
  range: ptr(obj(() => portRange, 'Range of ports.')),
});
const transport = (tail: string) =>
  struct(name(`ClusterNetworkPolicyProtocol${tail}`), `What ${tail} traffic must be like.`, {
    destinationPort: ptr(obj(() => port, 'Its destination port.')),
  });
const [tcp, udp, sctp] = [transport('TCP'), transport('UDP'), transport('SCTP')];
const protocol = struct(name('ClusterNetworkPolicyProtocol'), 'Traffic of one protocol; set one field.', {
  tcp: ptr(obj(() => tcp, 'TCP traffic.')),
  udp: ptr(obj(() => udp, 'UDP traffic.')),
  sctp: ptr(obj(() => sctp, 'SCTP traffic.')),
  destinationNamedPort: str('Name of a container port of the destination pod.'),
});

const podPeers = {
  namespaces: ptr(obj(() => labelSelector, 'All pods of these namespaces; empty selects all.')),
  pods: ptr(obj(() => namespacedPod, 'Pods of some namespaces.')),
};
const ingressPeer = struct(name('ClusterNetworkPolicyIngressPeer'), 'A source; set one field.', podPeers);
const egressPeer = struct(name('ClusterNetworkPolicyEgressPeer'), 'A destination; set one field.', {
  ...podPeers,
  nodes: ptr(obj(() => labelSelector, 'Addresses of these nodes; empty selects all.')),
  networks: ptr(strings('Networks such as 10.0.0.0/8, at most 25; they match pods as well.', { set: true })),
});

const commonRule = {
  name: str('Name of the rule for people, at most 100 characters.'),
  action: req(str('Accept, Deny, or Pass (on to the next tier).')),
};
/** An empty list is kept, so that it is refused (upstream: minItems 1): it would mean all traffic, as if it were unset. */
const protocols = ptr(list(() => protocol, {}, 'What traffic the rule is about, 1 to 25; all if unset.'));
const ingressRule = struct(
  name('ClusterNetworkPolicyIngressRule'),
  'What happens to traffic to the subject.',
  {
    ...commonRule,
    from: req(list(() => ingressPeer, {}, 'Sources, 1 to 25.')),
    protocols,
  },
);
const egressRule = struct(
  name('ClusterNetworkPolicyEgressRule'),
  'What happens to traffic from the subject.',
  {
    ...commonRule,
    to: req(list(() => egressPeer, {}, 'Destinations, 1 to 25.')),
    protocols,
  },
);

const spec = struct(name('ClusterNetworkPolicySpec'), 'What the policy decides.', {
  tier: req(str('Admin (before NetworkPolicies) or Baseline (for what they leave open).')),
  priority: req(int32('0 to 1000; within a tier the lower one is asked first.')),
  subject: req(obj(() => subject, 'Pods that the policy is about; never those of the host network.')),
  ingress: list(() => ingressRule, {}, 'Rules for traffic to the subject, in order, at most 25.'),
  egress: list(() => egressRule, {}, 'Rules for traffic from the subject, in order, at most 25.'),
});
const status = struct(name('ClusterNetworkPolicyStatus'), 'State of the policy.', {
  conditions: list(() => condition, { keys: ['type'], merge: 'type' }, 'Aspects of the state.'),
});

export const clusterNetworkPolicy = topLevel(
  name('ClusterNetworkPolicy'),
  "An administrator's policy for pods of the whole cluster, before or after NetworkPolicies.",
  {
    spec: req(obj(() => spec, 'What the policy decides.')),
    status: obj(() => status, 'What the policy is now.'),
  },
);

const nodeName = (tail: string) => `policy.portolan.v1alpha1.${tail}`;
const nodeRule = (tail: string, side: 'from' | 'to', peers: string) =>
  struct(nodeName(tail), 'What happens to traffic of a node.', {
    name: str('Name of the rule for people, at most 100 characters.'),
    action: req(str('Accept or Deny.')),
    [side]: req(list(() => egressPeer, {}, `${peers}, 1 to 25.`)),
    protocols,
  });
const nodeIngressRule = nodeRule('NodeNetworkPolicyIngressRule', 'from', 'Sources');
const nodeEgressRule = nodeRule('NodeNetworkPolicyEgressRule', 'to', 'Destinations');
const nodeSpec = struct(nodeName('NodeNetworkPolicySpec'), 'What the policy decides.', {
  nodeSelector: req(obj(() => labelSelector, 'Nodes that the policy is about; empty selects all.')),
  priority: req(int32('0 to 1000; the lower one is asked first.')),
  defaultIngress: str('Accept or Deny what comes to the node and no rule matches; Accept if unset.'),
  defaultEgress: str('Accept or Deny what the node sends and no rule matches; Accept if unset.'),
  ingress: list(() => nodeIngressRule, {}, 'Rules for traffic to the node, in order, at most 25.'),
  egress: list(() => nodeEgressRule, {}, 'Rules for traffic from the node, in order, at most 25.'),
});
export const nodeNetworkPolicy = topLevel(
  nodeName('NodeNetworkPolicy'),
  'What nodes themselves accept and send: a firewall for their own addresses.',
  {
    spec: req(obj(() => nodeSpec, 'What the policy decides.')),
    status: obj(() => status, 'What the policy is now.'),
  },
);
