/** core/v1 kinds other than Pod and Service: Namespace, Node, ConfigMap, Endpoints and shared references. */
import {
  bool,
  dflt,
  int32,
  list,
  map,
  microTime,
  obj,
  ptr,
  quantities,
  req,
  scalar,
  str,
  stringMap,
  strings,
  struct,
  time,
} from './field.ts';
import { topLevel } from './meta.ts';

export const objectReference = struct(
  'core.v1.ObjectReference',
  'Points at an object, or at a part of it.',
  {
    kind: str('Kind of the object.'),
    namespace: str('Namespace of the object.'),
    name: str('Name of the object.'),
    uid: str('UID of the object.'),
    apiVersion: str('API version of the object.'),
    resourceVersion: str('Version of the object that is meant, if one is.'),
    fieldPath: str('Part of the object, e.g. spec.containers{name}.'),
  },
  { atomic: true },
);

const statusCondition = (name: string, doc: string, beat: 'heartbeat' | 'none') =>
  struct(name, doc, {
    type: req(str('Name of the condition.')),
    status: req(str('True, False or Unknown.')),
    ...(beat === 'heartbeat' && { lastHeartbeatTime: time('When the condition was last reported.') }),
    lastTransitionTime: time('When the status last changed.'),
    reason: str('Why, one CamelCase word.'),
    message: str('Details for a person.'),
  });

const namespaceCondition = statusCondition(
  'core.v1.NamespaceCondition',
  'One aspect of a namespace, e.g. what still blocks its deletion.',
  'none',
);

export const namespace = topLevel('core.v1.Namespace', 'A scope for names.', {
  spec: obj(() => namespaceSpec, 'What the namespace should be.'),
  status: obj(() => namespaceStatus, 'What the namespace is now.'),
});
const namespaceSpec = struct('core.v1.NamespaceSpec', 'Attributes of a namespace.', {
  finalizers: strings('What must be emptied before the namespace may go.'),
});
const namespaceStatus = struct('core.v1.NamespaceStatus', 'State of a namespace.', {
  phase: str('Active or Terminating.'),
  conditions: list(() => namespaceCondition, { keys: ['type'], merge: 'type' }, 'Aspects of the state.'),
});

const taint = struct('core.v1.Taint', 'Keeps pods away from a node unless they tolerate it.', {
  key: req(str('Name of the taint.')),
  value: str('Value of the taint.'),
  effect: req(str('NoSchedule, PreferNoSchedule or NoExecute.')),
  timeAdded: ptr(time('When a NoExecute taint was put on.')),
});

const configMapNodeConfigSource = struct(
  'core.v1.ConfigMapNodeConfigSource',
  'No longer used: a ConfigMap that configures the node.',
  {
    namespace: req(str('Namespace of the ConfigMap.')),
    name: req(str('Name of the ConfigMap.')),
    uid: str('UID of the ConfigMap.'),
    resourceVersion: str('Version of the ConfigMap.'),
    kubeletConfigKey: req(str('Key that holds the configuration.')),
  },
);
const nodeConfigSource = struct('core.v1.NodeConfigSource', 'No longer used.', {
  configMap: ptr(obj(() => configMapNodeConfigSource, 'The ConfigMap.')),
});

const nodeSpec = struct('core.v1.NodeSpec', 'Attributes of a node.', {
  podCIDR: str('Range from which pods of the node get addresses; the first of podCIDRs.'),
  podCIDRs: strings('Ranges of the node, at most one for each IP family.', { set: true, merge: true }),
  providerID: str('Identity of the node at its cloud provider.'),
  unschedulable: bool('True keeps new pods away (kubectl cordon).'),
  taints: list(() => taint, {}, 'Taints of the node.'),
  configSource: ptr(obj(() => nodeConfigSource, 'No longer used.')),
  externalID: str('No longer used.'),
});

const nodeAddress = struct('core.v1.NodeAddress', 'An address of a node.', {
  type: req(str('InternalIP, ExternalIP, Hostname, InternalDNS or ExternalDNS.')),
  address: req(str('The address.')),
});
const nodeCondition = statusCondition(
  'core.v1.NodeCondition',
  'One aspect of a node, e.g. Ready.',
  'heartbeat',
);
const daemonEndpoint = struct('core.v1.DaemonEndpoint', 'A port of a daemon.', {
  Port: req(int32('Port number.')),
});
const nodeDaemonEndpoints = struct('core.v1.NodeDaemonEndpoints', 'Ports of the daemons of a node.', {
  kubeletEndpoint: obj(() => daemonEndpoint, 'Where the node agent listens.'),
});
const nodeSystemInfo = struct('core.v1.NodeSystemInfo', 'What a node is made of.', {
  machineID: req(str('Content of /etc/machine-id.')),
  systemUUID: req(str('UUID from the firmware.')),
  bootID: req(str('Identity of this boot.')),
  kernelVersion: req(str('As uname -r.')),
  osImage: req(str('Name of the operating system from os-release.')),
  containerRuntimeVersion: req(str('Runtime and version, e.g. containerd://1.7.0.')),
  kubeletVersion: req(str('Version of the node agent.')),
  kubeProxyVersion: req(str('Version of the service proxy.')),
  operatingSystem: req(str('linux.')),
  architecture: req(str('amd64, arm64, ...')),
});
const containerImage = struct('core.v1.ContainerImage', 'An image on a node.', {
  names: strings('Names by which the image is known.'),
  sizeBytes: { ...int32('Size in bytes.'), type: scalar('int64') },
});
const attachedVolume = struct('core.v1.AttachedVolume', 'A volume attached to a node.', {
  name: req(str('Name of the volume.')),
  devicePath: req(str('Device on the node.')),
});
const nodeConfigStatus = struct('core.v1.NodeConfigStatus', 'No longer used.', {
  assigned: ptr(obj(() => nodeConfigSource, 'No longer used.')),
  active: ptr(obj(() => nodeConfigSource, 'No longer used.')),
  lastKnownGood: ptr(obj(() => nodeConfigSource, 'No longer used.')),
  error: str('No longer used.'),
});
const nodeRuntimeHandlerFeatures = struct(
  'core.v1.NodeRuntimeHandlerFeatures',
  'Features of a runtime handler.',
  {
    recursiveReadOnlyMounts: ptr(bool('Recursive read-only mounts work.')),
    userNamespaces: ptr(bool('User namespaces work.')),
  },
);
const nodeRuntimeHandler = struct('core.v1.NodeRuntimeHandler', 'A handler of the container runtime.', {
  name: dflt('', str('Name; empty for the default handler.')),
  features: ptr(obj(() => nodeRuntimeHandlerFeatures, 'What it can do.')),
});
const nodeFeatures = struct('core.v1.NodeFeatures', 'Features of the container runtime.', {
  supplementalGroupsPolicy: ptr(bool('supplementalGroupsPolicy works.')),
});

const nodeStatus = struct('core.v1.NodeStatus', 'State of a node.', {
  capacity: quantities('Resources that the node has.'),
  allocatable: quantities('Resources that pods may use.'),
  phase: str('No longer used.'),
  conditions: list(() => nodeCondition, { keys: ['type'], merge: 'type' }, 'Aspects of the state.'),
  addresses: list(() => nodeAddress, { keys: ['type'], merge: 'type' }, 'Addresses of the node.'),
  daemonEndpoints: obj(() => nodeDaemonEndpoints, 'Ports of the daemons of the node.'),
  nodeInfo: obj(() => nodeSystemInfo, 'What the node is made of.'),
  images: list(() => containerImage, {}, 'Images on the node.'),
  volumesInUse: strings('Volumes in use.'),
  volumesAttached: list(() => attachedVolume, {}, 'Volumes attached.'),
  config: ptr(obj(() => nodeConfigStatus, 'No longer used.')),
  runtimeHandlers: list(() => nodeRuntimeHandler, {}, 'Handlers of the container runtime.'),
  features: ptr(obj(() => nodeFeatures, 'Features of the container runtime.')),
});

export const node = topLevel('core.v1.Node', 'A machine that runs pods.', {
  spec: obj(() => nodeSpec, 'What the node should be.'),
  status: obj(() => nodeStatus, 'What the node is now.'),
});

export const configMap = topLevel('core.v1.ConfigMap', 'Configuration for pods, as keys and values.', {
  immutable: ptr(bool('True forbids any further change of the data.')),
  data: stringMap('Values that are text.'),
  binaryData: map(scalar('bytes'), 'Values that are bytes, in base64.'),
});

const endpointAddress = struct(
  'core.v1.EndpointAddress',
  'The address of one endpoint.',
  {
    ip: req(str('IP address, not loopback, link-local or multicast.')),
    hostname: str('Host name of the endpoint.'),
    nodeName: ptr(str('Node that hosts the endpoint.')),
    targetRef: ptr(obj(() => objectReference, 'Object behind the endpoint.')),
  },
  { atomic: true },
);
const endpointPort = struct(
  'core.v1.EndpointPort',
  'A port of endpoints.',
  {
    name: str('Name of the Service port; may be empty only when there is one port.'),
    port: req(int32('Port number.')),
    protocol: str('TCP, UDP or SCTP.'),
    appProtocol: ptr(str('Application protocol, e.g. kubernetes.io/h2c.')),
  },
  { atomic: true },
);
const endpointSubset = struct('core.v1.EndpointSubset', 'Addresses that share the same ports.', {
  addresses: list(() => endpointAddress, {}, 'Addresses that are ready.'),
  notReadyAddresses: list(() => endpointAddress, {}, 'Addresses that are not ready.'),
  ports: list(() => endpointPort, {}, 'Ports of the addresses.'),
});
export const endpoints = topLevel(
  'core.v1.Endpoints',
  'The older form of EndpointSlice: all endpoints of one Service.',
  { subsets: list(() => endpointSubset, {}, 'The endpoints.') },
);

const eventSource = struct('core.v1.EventSource', 'Who reported an event.', {
  component: str('Program.'),
  host: str('Node of the program.'),
});
const coreEventSeries = struct('core.v1.EventSeries', 'How often an event repeated.', {
  count: int32('Number of occurrences.'),
  lastObservedTime: microTime('Time of the last occurrence.'),
});
export const coreEvent = topLevel('core.v1.Event', 'A report of something that happened to an object.', {
  involvedObject: req(obj(() => objectReference, 'The object that the event is about.')),
  reason: str('Why, one CamelCase word.'),
  message: str('What happened, for a person.'),
  source: obj(() => eventSource, 'Who reported it.'),
  firstTimestamp: time('First occurrence.'),
  lastTimestamp: time('Last occurrence.'),
  count: int32('Number of occurrences.'),
  type: str('Normal or Warning.'),
  eventTime: microTime('Time of the event.'),
  series: ptr(obj(() => coreEventSeries, 'How often it repeated.')),
  action: str('What was done or failed.'),
  related: ptr(obj(() => objectReference, 'Second object of a more complex action.')),
  reportingComponent: dflt('', str('Name of the controller that reported it.')),
  reportingInstance: dflt('', str('Instance of that controller.')),
});

const eventSeries = struct('events.v1.EventSeries', 'How often an event repeated.', {
  count: req(int32('Number of occurrences.')),
  lastObservedTime: req(microTime('Time of the last occurrence.')),
});
export const event = topLevel('events.v1.Event', 'A report of something that happened to an object.', {
  eventTime: req(microTime('Time of the event.')),
  series: ptr(obj(() => eventSeries, 'How often it repeated.')),
  reportingController: str('Name of the controller that reported it.'),
  reportingInstance: str('Instance of that controller.'),
  action: str('What was done or failed.'),
  reason: str('Why, one CamelCase word.'),
  regarding: obj(() => objectReference, 'The object that the event is about.'),
  related: ptr(obj(() => objectReference, 'Second object of a more complex action.')),
  note: str('What happened, for a person.'),
  type: str('Normal or Warning.'),
  deprecatedSource: obj(() => eventSource, 'source of a core/v1 Event.'),
  deprecatedFirstTimestamp: time('firstTimestamp of a core/v1 Event.'),
  deprecatedLastTimestamp: time('lastTimestamp of a core/v1 Event.'),
  deprecatedCount: int32('count of a core/v1 Event.'),
});

export const binding = topLevel('core.v1.Binding', 'Assigns a pod to a node.', {
  target: req(obj(() => objectReference, 'The node.')),
});
