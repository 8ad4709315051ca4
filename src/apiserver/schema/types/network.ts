/** Service, EndpointSlice, NetworkPolicy, ServiceCIDR and Lease. */

import { objectReference } from './core.ts';
import {
  bool,
  dflt,
  int32,
  intOrString,
  list,
  microTime,
  obj,
  ptr,
  req,
  str,
  stringMap,
  strings,
  struct,
} from './field.ts';
import { condition, labelSelector, topLevel } from './meta.ts';

const servicePort = struct('core.v1.ServicePort', 'A port that a Service exposes.', {
  name: str('Name of the port; needed when there are several.'),
  protocol: dflt('TCP', str('TCP, UDP or SCTP; TCP if unset.')),
  appProtocol: ptr(str('Application protocol, e.g. kubernetes.io/h2c.')),
  port: req(int32('Port of the Service.')),
  targetPort: intOrString('Port of the pods, a number or the name of a container port; port if unset.'),
  nodePort: int32('Port on every node, for types NodePort and LoadBalancer; allocated if unset.'),
});
const clientIPConfig = struct('core.v1.ClientIPConfig', 'Session affinity by client address.', {
  timeoutSeconds: ptr(int32('Seconds that a client stays with its endpoint, 1 to 86400; 10800 if unset.')),
});
const sessionAffinityConfig = struct('core.v1.SessionAffinityConfig', 'How session affinity works.', {
  clientIP: ptr(obj(() => clientIPConfig, 'Session affinity by client address.')),
});

export const serviceSpec = struct('core.v1.ServiceSpec', 'What a Service should do.', {
  ports: list(() => servicePort, { keys: ['port', 'protocol'], merge: 'port' }, 'Ports that are exposed.'),
  selector: stringMap('Pods with these labels are the endpoints; without it, someone else writes them.', {
    atomic: true,
  }),
  clusterIP: str('Virtual address; allocated if unset, "None" for a headless Service.'),
  clusterIPs: strings('Virtual addresses, at most one for each IP family; the first is clusterIP.'),
  type: str('ClusterIP, NodePort, LoadBalancer or ExternalName; ClusterIP if unset.'),
  externalIPs: strings('Further addresses on which nodes accept traffic for this Service.'),
  sessionAffinity: str('ClientIP or None; None if unset.'),
  loadBalancerIP: str('Wish for the address of the load balancer; deprecated.'),
  loadBalancerSourceRanges: strings('Client ranges that may use the load balancer.'),
  externalName: str('DNS name that the Service stands for, for type ExternalName.'),
  externalTrafficPolicy: str('Cluster or Local: whether nodes forward outside traffic to other nodes.'),
  healthCheckNodePort: int32('Port at which nodes tell a load balancer about local endpoints.'),
  publishNotReadyAddresses: bool('True publishes endpoints whatever their readiness.'),
  sessionAffinityConfig: ptr(obj(() => sessionAffinityConfig, 'How session affinity works.')),
  ipFamilies: strings('IPv4, IPv6 or both, in the order of clusterIPs.'),
  ipFamilyPolicy: ptr(str('SingleStack, PreferDualStack or RequireDualStack.')),
  allocateLoadBalancerNodePorts: ptr(bool('False allocates no node ports for type LoadBalancer.')),
  loadBalancerClass: ptr(str('Which load balancer implementation should serve this Service.')),
  internalTrafficPolicy: ptr(str('Cluster or Local: whether pods may reach endpoints on other nodes.')),
  trafficDistribution: ptr(str('Wish for the choice of endpoints, e.g. PreferClose.')),
});

const portStatus = struct('core.v1.PortStatus', 'State of a load balancer port.', {
  port: req(int32('Port number.')),
  protocol: req(str('TCP, UDP or SCTP.')),
  error: ptr(str('Why the port does not work, one CamelCase word.')),
});
const loadBalancerIngress = struct('core.v1.LoadBalancerIngress', 'An address of a load balancer.', {
  ip: str('IP address.'),
  hostname: str('DNS name.'),
  ipMode: ptr(str('VIP (packets arrive with this address) or Proxy.')),
  ports: list(() => portStatus, {}, 'State of its ports.'),
});
const loadBalancerStatus = struct('core.v1.LoadBalancerStatus', 'State of a load balancer.', {
  ingress: list(() => loadBalancerIngress, {}, 'Its addresses.'),
});
const serviceStatus = struct('core.v1.ServiceStatus', 'State of a Service.', {
  loadBalancer: obj(() => loadBalancerStatus, 'State of its load balancer.'),
  conditions: list(() => condition, { keys: ['type'], merge: 'type' }, 'Aspects of the state.'),
});
export const service = topLevel('core.v1.Service', 'A stable name and address for a set of pods.', {
  spec: obj(() => serviceSpec, 'What the Service should do.'),
  status: obj(() => serviceStatus, 'What the Service does now.'),
});

const endpointConditions = struct('discovery.v1.EndpointConditions', 'State of an endpoint.', {
  ready: ptr(bool('May receive new connections; unset counts as true.')),
  serving: ptr(bool('Passes its readiness check, terminating or not; unset counts as ready.')),
  terminating: ptr(bool('Is being shut down; unset counts as false.')),
});
const forZone = struct('discovery.v1.ForZone', 'A zone that should use an endpoint.', {
  name: req(str('Name of the zone.')),
});
const forNode = struct('discovery.v1.ForNode', 'A node that should use an endpoint.', {
  name: req(str('Name of the node.')),
});
const endpointHints = struct('discovery.v1.EndpointHints', 'Who should use an endpoint.', {
  forZones: list(() => forZone, {}, 'Zones that should use it.'),
  forNodes: list(() => forNode, {}, 'Nodes that should use it.'),
});
const endpoint = struct('discovery.v1.Endpoint', 'One endpoint of a Service.', {
  addresses: req(
    strings('Addresses of the endpoint, all for the same thing; clients use the first.', { set: true }),
  ),
  conditions: obj(() => endpointConditions, 'State of the endpoint.'),
  hostname: ptr(str('Host name of the endpoint.')),
  targetRef: ptr(obj(() => objectReference, 'Object behind the endpoint.')),
  deprecatedTopology: stringMap('No longer used.'),
  nodeName: ptr(str('Node that hosts the endpoint.')),
  zone: ptr(str('Zone of the endpoint.')),
  hints: ptr(obj(() => endpointHints, 'Who should use the endpoint.')),
});
const slicePort = struct(
  'discovery.v1.EndpointPort',
  'A port of all endpoints of a slice.',
  {
    name: ptr(str('Name of the Service port, empty for the only port.')),
    protocol: ptr(str('TCP, UDP or SCTP; TCP if unset.')),
    port: ptr(int32('Port number; unset means all ports.')),
    appProtocol: ptr(str('Application protocol, e.g. kubernetes.io/h2c.')),
  },
  { atomic: true },
);
export const endpointSlice = topLevel(
  'discovery.v1.EndpointSlice',
  'Some endpoints of a Service, all of one address type.',
  {
    addressType: req(str('IPv4, IPv6 or FQDN. Cannot be changed.')),
    endpoints: req(list(() => endpoint, {}, 'The endpoints, at most 1000.')),
    ports: ptr(list(() => slicePort, {}, 'Ports of each endpoint, at most 100.')),
  },
);

const endpointBeta = struct('discovery.v1beta1.Endpoint', endpoint.doc, {
  addresses: endpoint.fields.get('addresses')!,
  conditions: endpoint.fields.get('conditions')!,
  hostname: endpoint.fields.get('hostname')!,
  targetRef: endpoint.fields.get('targetRef')!,
  topology: stringMap('Labels of the place of the endpoint: its zone and its node.'),
  nodeName: endpoint.fields.get('nodeName')!,
  hints: endpoint.fields.get('hints')!,
});
/** The version that kubectl up to 1.20 describes; the zone is a label there. */
export const endpointSliceBeta = topLevel('discovery.v1beta1.EndpointSlice', endpointSlice.doc, {
  addressType: endpointSlice.fields.get('addressType')!,
  endpoints: req(list(() => endpointBeta, {}, 'The endpoints, at most 1000.')),
  ports: endpointSlice.fields.get('ports')!,
});

const ipBlock = struct('networking.v1.IPBlock', 'A range of addresses with holes.', {
  cidr: req(str('The range, e.g. 192.168.1.0/24.')),
  except: strings('Ranges inside cidr that do not count.'),
});
const networkPolicyPeer = struct('networking.v1.NetworkPolicyPeer', 'Who may be at the other end.', {
  podSelector: ptr(
    obj(() => labelSelector, 'Pods, of this namespace or of those that namespaceSelector selects.'),
  ),
  namespaceSelector: ptr(obj(() => labelSelector, 'Namespaces.')),
  ipBlock: ptr(obj(() => ipBlock, 'Addresses; excludes the selectors.')),
});
const networkPolicyPort = struct('networking.v1.NetworkPolicyPort', 'A port that traffic may use.', {
  protocol: ptr(str('TCP, UDP or SCTP; TCP if unset.')),
  port: ptr(intOrString('Port number or name of a container port; unset means all.')),
  endPort: ptr(int32('Last port of a range that starts at port.')),
});
const ingressRule = struct('networking.v1.NetworkPolicyIngressRule', 'Traffic to the pods that is allowed.', {
  ports: list(() => networkPolicyPort, {}, 'Ports; empty means all.'),
  from: list(() => networkPolicyPeer, {}, 'Sources; empty means all.'),
});
const egressRule = struct('networking.v1.NetworkPolicyEgressRule', 'Traffic from the pods that is allowed.', {
  ports: list(() => networkPolicyPort, {}, 'Ports; empty means all.'),
  to: list(() => networkPolicyPeer, {}, 'Destinations; empty means all.'),
});
const networkPolicySpec = struct('networking.v1.NetworkPolicySpec', 'What a NetworkPolicy allows.', {
  podSelector: req(
    obj(() => labelSelector, 'Pods that the policy is about; empty selects all of the namespace.'),
  ),
  ingress: list(() => ingressRule, {}, 'Rules for traffic to the pods.'),
  egress: list(() => egressRule, {}, 'Rules for traffic from the pods.'),
  policyTypes: strings('Ingress, Egress or both: the directions that the policy isolates.'),
});
export const networkPolicy = topLevel(
  'networking.v1.NetworkPolicy',
  'Which traffic a set of pods may receive and send.',
  { spec: obj(() => networkPolicySpec, 'What is allowed.') },
);

const serviceCIDRSpec = struct('networking.v1.ServiceCIDRSpec', 'Ranges for ClusterIPs.', {
  cidrs: strings('One range, or one for each IP family. Cannot be changed.'),
});
const serviceCIDRStatus = struct('networking.v1.ServiceCIDRStatus', 'State of a ServiceCIDR.', {
  conditions: list(() => condition, { keys: ['type'], merge: 'type' }, 'Aspects of the state.'),
});
export const serviceCIDR = topLevel(
  'networking.v1.ServiceCIDR',
  'Ranges from which ClusterIPs are allocated.',
  {
    spec: obj(() => serviceCIDRSpec, 'The ranges.'),
    status: obj(() => serviceCIDRStatus, 'What the ServiceCIDR is now.'),
  },
);

const leaseSpec = struct('coordination.v1.LeaseSpec', 'Who holds a lease until when.', {
  holderIdentity: ptr(str('Who holds the lease.')),
  leaseDurationSeconds: ptr(int32('Seconds after renewTime for which the lease is held.')),
  acquireTime: ptr(microTime('When the holder got it.')),
  renewTime: ptr(microTime('When the holder last renewed it.')),
  leaseTransitions: ptr(int32('How often the holder changed.')),
  strategy: ptr(str('How a leader is chosen by coordinated leader election.')),
  preferredHolder: ptr(str('Who should take the lease over.')),
});
export const lease = topLevel('coordination.v1.Lease', 'A claim that must be renewed.', {
  spec: obj(() => leaseSpec, 'The claim.'),
});
