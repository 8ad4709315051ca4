/** Pod: its spec and its status. */
import {
  appArmorProfile,
  container,
  ephemeralContainer,
  resourceRequirements,
  seccompProfile,
  seLinuxOptions,
  windowsOptions,
} from './container.ts';
import {
  bool,
  int32,
  int64,
  list,
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
import { affinity, toleration, topologySpreadConstraint } from './scheduling.ts';
import { localObjectReference, volume } from './volume.ts';

const sysctl = struct('core.v1.Sysctl', 'A kernel setting of the pod.', {
  name: req(str('Name, e.g. net.core.somaxconn.')),
  value: req(str('Value.')),
});
const podSecurityContext = struct('core.v1.PodSecurityContext', 'Security settings of all containers.', {
  seLinuxOptions: ptr(obj(() => seLinuxOptions, 'SELinux labels.')),
  windowsOptions: ptr(obj(() => windowsOptions, 'Settings for Windows.')),
  runAsUser: ptr(int64('User id of the processes.')),
  runAsGroup: ptr(int64('Group id of the processes.')),
  runAsNonRoot: ptr(bool('True refuses to run as user 0.')),
  supplementalGroups: list(scalar('int64'), {}, 'Further groups of the processes.'),
  supplementalGroupsPolicy: ptr(str('Merge or Strict.')),
  fsGroup: ptr(int64('Group that owns volumes.')),
  sysctls: list(() => sysctl, {}, 'Kernel settings of the pod.'),
  fsGroupChangePolicy: ptr(str('Always or OnRootMismatch.')),
  seccompProfile: ptr(obj(() => seccompProfile, 'Which system calls are allowed.')),
  appArmorProfile: ptr(obj(() => appArmorProfile, 'Which AppArmor profile is used.')),
  seLinuxChangePolicy: ptr(str('MountOption or Recursive.')),
});

const hostAlias = struct('core.v1.HostAlias', 'A line of /etc/hosts.', {
  ip: req(str('Address.')),
  hostnames: strings('Names of the address.'),
});
const dnsOption = struct('core.v1.PodDNSConfigOption', 'An option of resolv.conf.', {
  name: str('Name of the option.'),
  value: ptr(str('Value of the option.')),
});
const podDNSConfig = struct('core.v1.PodDNSConfig', 'resolv.conf of the pod.', {
  nameservers: strings('Name servers.'),
  searches: strings('Search domains.'),
  options: list(() => dnsOption, {}, 'Options.'),
});
const readinessGate = struct('core.v1.PodReadinessGate', 'A condition that readiness needs.', {
  conditionType: req(str('Type of a condition of the pod.')),
});
const podOS = struct('core.v1.PodOS', 'Operating system of the pod.', {
  name: req(str('linux or windows.')),
});
const schedulingGate = struct('core.v1.PodSchedulingGate', 'Keeps a pod from being scheduled.', {
  name: req(str('Name of the gate.')),
});
const podResourceClaim = struct('core.v1.PodResourceClaim', 'A claim on devices.', {
  name: req(str('Name in the pod.')),
  resourceClaimName: ptr(str('Name of a ResourceClaim.')),
  resourceClaimTemplateName: ptr(str('Name of a ResourceClaimTemplate.')),
});

export const podSpec = struct('core.v1.PodSpec', 'What a pod should run.', {
  volumes: list(() => volume, { keys: ['name'], merge: 'name', retainKeys: true }, 'Volumes.'),
  initContainers: list(
    () => container,
    { keys: ['name'], merge: 'name' },
    'Containers that run, one after the other, before the others.',
  ),
  containers: req(list(() => container, { keys: ['name'], merge: 'name' }, 'Containers, at least one.')),
  ephemeralContainers: list(
    () => ephemeralContainer,
    { keys: ['name'], merge: 'name' },
    'Containers added for debugging.',
  ),
  restartPolicy: str('Always, OnFailure or Never; Always if unset.'),
  terminationGracePeriodSeconds: ptr(int64('Seconds between the stop signal and the kill; 30 if unset.')),
  activeDeadlineSeconds: ptr(int64('Seconds that the pod may be active.')),
  dnsPolicy: str('ClusterFirst, ClusterFirstWithHostNet, Default or None.'),
  nodeSelector: stringMap('Labels that the node must have.', { atomic: true }),
  serviceAccountName: str('Service account of the pod.'),
  serviceAccount: str('Older name of serviceAccountName.'),
  automountServiceAccountToken: ptr(bool('False mounts no token.')),
  nodeName: str('Node that runs the pod; set by the scheduler.'),
  hostNetwork: bool('True uses the network namespace of the node.'),
  hostPID: bool('True uses the process ids of the node.'),
  hostIPC: bool('True uses the IPC namespace of the node.'),
  shareProcessNamespace: ptr(bool('True shares one process namespace among the containers.')),
  securityContext: ptr(obj(() => podSecurityContext, 'Security settings of all containers.')),
  imagePullSecrets: list(
    () => localObjectReference,
    { keys: ['name'], merge: 'name' },
    'Secrets for pulling images.',
  ),
  hostname: str('Host name of the pod; its name if unset.'),
  subdomain: str('Gives the pod the name <hostname>.<subdomain>.<namespace>.svc.<domain>.'),
  affinity: ptr(obj(() => affinity, 'Where the pod may or should run.')),
  schedulerName: str('Scheduler of the pod; default-scheduler if unset.'),
  tolerations: list(() => toleration, {}, 'Taints that the pod puts up with.'),
  hostAliases: list(() => hostAlias, { keys: ['ip'], merge: 'ip' }, 'Lines for /etc/hosts.'),
  priorityClassName: str('Name of the priority.'),
  priority: ptr(int32('Priority; set from priorityClassName.')),
  dnsConfig: ptr(obj(() => podDNSConfig, 'resolv.conf of the pod.')),
  readinessGates: list(() => readinessGate, {}, 'Conditions that readiness needs.'),
  runtimeClassName: ptr(str('Runtime class.')),
  enableServiceLinks: ptr(bool('False sets no variables for Services; true if unset.')),
  preemptionPolicy: ptr(str('Never or PreemptLowerPriority.')),
  overhead: quantities('Resources that the runtime class costs.'),
  topologySpreadConstraints: list(
    () => topologySpreadConstraint,
    { keys: ['topologyKey', 'whenUnsatisfiable'], merge: 'topologyKey' },
    'How evenly pods spread.',
  ),
  setHostnameAsFQDN: ptr(bool('True makes the full name the host name.')),
  os: ptr(obj(() => podOS, 'Operating system of the pod.')),
  hostUsers: ptr(bool('False gives the pod a user namespace.')),
  schedulingGates: list(
    () => schedulingGate,
    { keys: ['name'], merge: 'name' },
    'Keep the pod from being scheduled.',
  ),
  resourceClaims: list(
    () => podResourceClaim,
    { keys: ['name'], merge: 'name', retainKeys: true },
    'Claims on devices.',
  ),
  resources: ptr(obj(() => resourceRequirements, 'Compute resources of the whole pod.')),
});

const podCondition = struct('core.v1.PodCondition', 'One aspect of a pod, e.g. Ready.', {
  type: req(str('Name of the condition.')),
  status: req(str('True, False or Unknown.')),
  lastProbeTime: time('When the condition was last checked.'),
  lastTransitionTime: time('When the status last changed.'),
  reason: str('Why, one CamelCase word.'),
  message: str('Details for a person.'),
});
const waiting = struct('core.v1.ContainerStateWaiting', 'A container that does not run yet.', {
  reason: str('Why.'),
  message: str('Details.'),
});
const running = struct('core.v1.ContainerStateRunning', 'A container that runs.', {
  startedAt: time('Since when.'),
});
const terminated = struct('core.v1.ContainerStateTerminated', 'A container that ended.', {
  exitCode: req(int32('Exit code.')),
  signal: int32('Signal that ended it.'),
  reason: str('Why.'),
  message: str('Details.'),
  startedAt: time('When it started.'),
  finishedAt: time('When it ended.'),
  containerID: str('Identity of the container.'),
});
const containerState = struct('core.v1.ContainerState', 'State of a container; one of three.', {
  waiting: ptr(obj(() => waiting, 'It does not run yet.')),
  running: ptr(obj(() => running, 'It runs.')),
  terminated: ptr(obj(() => terminated, 'It ended.')),
});
const volumeMountStatus = struct('core.v1.VolumeMountStatus', 'State of a volume mount.', {
  name: req(str('Name of the volume.')),
  mountPath: req(str('Path in the container.')),
  readOnly: bool('Whether it is read-only.'),
  recursiveReadOnly: ptr(str('Disabled, IfPossible or Enabled.')),
});
const linuxUser = struct('core.v1.LinuxContainerUser', 'Identity of the first process.', {
  uid: req(int64('User id.')),
  gid: req(int64('Group id.')),
  supplementalGroups: list(scalar('int64'), {}, 'Further groups.'),
});
const containerUser = struct('core.v1.ContainerUser', 'Identity of the first process.', {
  linux: ptr(obj(() => linuxUser, 'On Linux.')),
});
const resourceHealth = struct('core.v1.ResourceHealth', 'Health of a device.', {
  resourceID: req(str('Identity of the device.')),
  health: str('Healthy, Unhealthy or Unknown.'),
});
const resourceStatus = struct('core.v1.ResourceStatus', 'State of a resource.', {
  name: req(str('Name of the resource.')),
  resources: list(() => resourceHealth, { keys: ['resourceID'] }, 'Health of its devices.'),
});
const containerStatus = struct('core.v1.ContainerStatus', 'State of a container.', {
  name: req(str('Name of the container.')),
  state: obj(() => containerState, 'State now.'),
  lastState: obj(() => containerState, 'State before the last restart.'),
  ready: req(bool('Whether it passes its readiness check.')),
  restartCount: req(int32('Number of restarts.')),
  image: req(str('Image that runs.')),
  imageID: req(str('Identity of the image.')),
  containerID: str('Identity of the container.'),
  started: ptr(bool('Whether it passed its startup check.')),
  allocatedResources: quantities('Resources that the node set aside.'),
  resources: ptr(obj(() => resourceRequirements, 'Resources in force.')),
  volumeMounts: list(
    () => volumeMountStatus,
    { keys: ['mountPath'], merge: 'mountPath' },
    'State of mounts.',
  ),
  user: ptr(obj(() => containerUser, 'Identity of the first process.')),
  allocatedResourcesStatus: list(
    () => resourceStatus,
    { keys: ['name'], merge: 'name' },
    'State of resources.',
  ),
});
const podIP = struct('core.v1.PodIP', 'An address of a pod.', { ip: req(str('IP address.')) });
const hostIP = struct('core.v1.HostIP', 'An address of a node.', { ip: req(str('IP address.')) });
const claimStatus = struct('core.v1.PodResourceClaimStatus', 'State of a claim on devices.', {
  name: req(str('Name in the pod.')),
  resourceClaimName: ptr(str('Name of the ResourceClaim.')),
});

const podStatus = struct('core.v1.PodStatus', 'What a pod does now.', {
  phase: str('Pending, Running, Succeeded, Failed or Unknown.'),
  conditions: list(() => podCondition, { keys: ['type'], merge: 'type' }, 'Aspects of the state.'),
  message: str('Details for a person.'),
  reason: str('Why, one CamelCase word.'),
  nominatedNodeName: str('Node that will have room after a preemption.'),
  hostIP: str('Address of the node; the first of hostIPs.'),
  hostIPs: list(() => hostIP, { merge: 'ip' }, 'Addresses of the node.'),
  podIP: str('Address of the pod; the first of podIPs.'),
  podIPs: list(
    () => podIP,
    { keys: ['ip'], merge: 'ip' },
    'Addresses of the pod, at most one for each IP family.',
  ),
  startTime: ptr(time('When the node took the pod on.')),
  initContainerStatuses: list(() => containerStatus, {}, 'State of the init containers.'),
  containerStatuses: list(() => containerStatus, {}, 'State of the containers.'),
  qosClass: str('Guaranteed, Burstable or BestEffort.'),
  ephemeralContainerStatuses: list(() => containerStatus, {}, 'State of the ephemeral containers.'),
  resize: str('State of a change of resources.'),
  resourceClaimStatuses: list(
    () => claimStatus,
    { keys: ['name'], merge: 'name', retainKeys: true },
    'State of claims on devices.',
  ),
});

export const pod = topLevel('core.v1.Pod', 'Containers that run together on a node with one address.', {
  spec: obj(() => podSpec, 'What the pod should run.'),
  status: obj(() => podStatus, 'What the pod does now.'),
});
