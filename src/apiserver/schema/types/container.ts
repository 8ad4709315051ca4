/** Containers of a pod: commands, environment, ports, probes, resources, security. */
import {
  bool,
  dflt,
  type Field,
  int32,
  int64,
  intOrString,
  list,
  obj,
  ptr,
  quantities,
  quantity,
  req,
  str,
  strings,
  struct,
} from './field.ts';

const containerPort = struct('core.v1.ContainerPort', 'A port of a container.', {
  name: str('Name, by which Services may refer to the port.'),
  hostPort: int32('Port of the node that leads to the container.'),
  containerPort: req(int32('Port number in the pod.')),
  protocol: dflt('TCP', str('TCP, UDP or SCTP; TCP if unset.')),
  hostIP: str('Address of the node for hostPort.'),
});

const fieldSelector = struct(
  'core.v1.ObjectFieldSelector',
  'A field of the pod.',
  {
    apiVersion: str('Version in which fieldPath is written; v1 if unset.'),
    fieldPath: req(str('Path, e.g. metadata.name or status.podIP.')),
  },
  { atomic: true },
);
export const objectFieldSelector = fieldSelector;
export const resourceFieldSelector = struct(
  'core.v1.ResourceFieldSelector',
  'A resource of a container.',
  {
    containerName: str('Container; needed for volumes.'),
    resource: req(str('Name, e.g. limits.cpu.')),
    divisor: quantity('Unit of the result; 1 if unset.'),
  },
  { atomic: true },
);
const keySelector = (name: string, what: string) =>
  struct(
    name,
    `A key of a ${what}.`,
    {
      name: dflt('', str(`Name of the ${what}.`)),
      key: req(str('The key.')),
      optional: ptr(bool(`True lets the ${what} or the key be absent.`)),
    },
    { atomic: true },
  );
const configMapKeySelector = keySelector('core.v1.ConfigMapKeySelector', 'ConfigMap');
const secretKeySelector = keySelector('core.v1.SecretKeySelector', 'Secret');
const envVarSource = struct('core.v1.EnvVarSource', 'Where the value of a variable comes from.', {
  fieldRef: ptr(obj(() => fieldSelector, 'A field of the pod.')),
  resourceFieldRef: ptr(obj(() => resourceFieldSelector, 'A resource of the container.')),
  configMapKeyRef: ptr(obj(() => configMapKeySelector, 'A key of a ConfigMap.')),
  secretKeyRef: ptr(obj(() => secretKeySelector, 'A key of a Secret.')),
});
const envVar = struct('core.v1.EnvVar', 'An environment variable.', {
  name: req(str('Name of the variable.')),
  value: str('Value; $(NAME) is replaced by variables set before.'),
  valueFrom: ptr(obj(() => envVarSource, 'Where the value comes from, instead of value.')),
});
const envSource = (name: string, what: string) =>
  struct(name, `All keys of a ${what}.`, {
    name: dflt('', str(`Name of the ${what}.`)),
    optional: ptr(bool(`True lets the ${what} be absent.`)),
  });
const configMapEnvSource = envSource('core.v1.ConfigMapEnvSource', 'ConfigMap');
const secretEnvSource = envSource('core.v1.SecretEnvSource', 'Secret');
const envFromSource = struct('core.v1.EnvFromSource', 'Variables from all keys of an object.', {
  prefix: str('Put before each key.'),
  configMapRef: ptr(obj(() => configMapEnvSource, 'The ConfigMap.')),
  secretRef: ptr(obj(() => secretEnvSource, 'The Secret.')),
});

const resourceClaim = struct('core.v1.ResourceClaim', 'A claim of the pod that a container uses.', {
  name: req(str('Name in spec.resourceClaims of the pod.')),
  request: str('Request of the claim; all if empty.'),
});
export const resourceRequirements = struct('core.v1.ResourceRequirements', 'Compute resources.', {
  limits: quantities('What may be used at most.'),
  requests: quantities('What is reserved; limits if unset.'),
  claims: list(() => resourceClaim, { keys: ['name'] }, 'Claims of the pod that are used.'),
});
const containerResizePolicy = struct('core.v1.ContainerResizePolicy', 'What a resource change needs.', {
  resourceName: req(str('cpu or memory.')),
  restartPolicy: req(str('NotRequired or RestartContainer.')),
});

const volumeMount = struct('core.v1.VolumeMount', 'Where a volume appears in a container.', {
  name: req(str('Name of the volume.')),
  readOnly: bool('True mounts it read-only.'),
  recursiveReadOnly: ptr(str('Disabled, IfPossible or Enabled.')),
  mountPath: req(str('Path in the container; no colon.')),
  subPath: str('Path in the volume.'),
  mountPropagation: ptr(str('None, HostToContainer or Bidirectional.')),
  subPathExpr: str('Path in the volume, with $(VARIABLES).'),
});
const volumeDevice = struct('core.v1.VolumeDevice', 'A block device in a container.', {
  name: req(str('Name of a volume that is a claim.')),
  devicePath: req(str('Path of the device.')),
});

const execAction = struct('core.v1.ExecAction', 'A command in the container.', {
  command: strings('The command, not run in a shell; exit code 0 is success.'),
});
const httpHeader = struct('core.v1.HTTPHeader', 'A header of a request.', {
  name: req(str('Name of the header.')),
  value: req(str('Value of the header.')),
});
const httpGetAction = struct('core.v1.HTTPGetAction', 'An HTTP GET; status 200 to 399 is success.', {
  path: str('Path; / if unset.'),
  port: req(intOrString('Port number or name of a container port.')),
  host: str('Address; the pod IP if unset.'),
  scheme: str('HTTP or HTTPS; HTTP if unset.'),
  httpHeaders: list(() => httpHeader, {}, 'Headers of the request.'),
});
const tcpSocketAction = struct('core.v1.TCPSocketAction', 'A TCP connection.', {
  port: req(intOrString('Port number or name of a container port.')),
  host: str('Address; the pod IP if unset.'),
});
const grpcAction = struct('core.v1.GRPCAction', 'A gRPC health check.', {
  port: req(int32('Port number.')),
  service: dflt('', ptr(str('Service to ask for.'))),
});
const sleepAction = struct('core.v1.SleepAction', 'A pause.', { seconds: req(int64('Seconds.')) });
const lifecycleHandler = struct('core.v1.LifecycleHandler', 'What a hook does.', {
  exec: ptr(obj(() => execAction, 'A command.')),
  httpGet: ptr(obj(() => httpGetAction, 'An HTTP GET.')),
  tcpSocket: ptr(obj(() => tcpSocketAction, 'No longer used.')),
  sleep: ptr(obj(() => sleepAction, 'A pause.')),
});
const lifecycle = struct('core.v1.Lifecycle', 'Hooks of a container.', {
  postStart: ptr(obj(() => lifecycleHandler, 'Run right after the start.')),
  preStop: ptr(obj(() => lifecycleHandler, 'Run before the container is stopped.')),
});
const probe = struct('core.v1.Probe', 'A check of a container.', {
  exec: ptr(obj(() => execAction, 'A command.')),
  httpGet: ptr(obj(() => httpGetAction, 'An HTTP GET.')),
  tcpSocket: ptr(obj(() => tcpSocketAction, 'A TCP connection.')),
  grpc: ptr(obj(() => grpcAction, 'A gRPC health check.')),
  initialDelaySeconds: int32('Seconds before the first check.'),
  timeoutSeconds: int32('Seconds until a check fails; 1 if unset.'),
  periodSeconds: int32('Seconds between checks; 10 if unset.'),
  successThreshold: int32('Successes in a row after a failure that count as success; 1 if unset.'),
  failureThreshold: int32('Failures in a row that count as failure; 3 if unset.'),
  terminationGracePeriodSeconds: ptr(int64('Replaces that of the pod when this probe ends the container.')),
});

export const seLinuxOptions = struct('core.v1.SELinuxOptions', 'SELinux labels.', {
  user: str('User label.'),
  role: str('Role label.'),
  type: str('Type label.'),
  level: str('Level label.'),
});
export const windowsOptions = struct('core.v1.WindowsSecurityContextOptions', 'Settings for Windows.', {
  gmsaCredentialSpecName: ptr(str('Name of a GMSA credential spec.')),
  gmsaCredentialSpec: ptr(str('A GMSA credential spec.')),
  runAsUserName: ptr(str('User of the process.')),
  hostProcess: ptr(bool('Run as a host process.')),
});
export const seccompProfile = struct('core.v1.SeccompProfile', 'Which system calls are allowed.', {
  type: req(str('Localhost, RuntimeDefault or Unconfined.')),
  localhostProfile: ptr(str('File on the node, for type Localhost.')),
});
export const appArmorProfile = struct('core.v1.AppArmorProfile', 'Which AppArmor profile is used.', {
  type: req(str('Localhost, RuntimeDefault or Unconfined.')),
  localhostProfile: ptr(str('Profile loaded on the node, for type Localhost.')),
});
const capabilities = struct('core.v1.Capabilities', 'Linux capabilities beyond the default.', {
  add: strings('Capabilities to add.'),
  drop: strings('Capabilities to drop.'),
});
const securityContext = struct('core.v1.SecurityContext', 'Security settings of a container.', {
  capabilities: ptr(obj(() => capabilities, 'Linux capabilities.')),
  privileged: ptr(bool('True gives all rights of the node.')),
  seLinuxOptions: ptr(obj(() => seLinuxOptions, 'SELinux labels.')),
  windowsOptions: ptr(obj(() => windowsOptions, 'Settings for Windows.')),
  runAsUser: ptr(int64('User id of the process.')),
  runAsGroup: ptr(int64('Group id of the process.')),
  runAsNonRoot: ptr(bool('True refuses to run as user 0.')),
  readOnlyRootFilesystem: ptr(bool('True makes the root file system read-only.')),
  allowPrivilegeEscalation: ptr(bool('False sets no_new_privs.')),
  procMount: ptr(str('Default or Unmasked.')),
  seccompProfile: ptr(obj(() => seccompProfile, 'Which system calls are allowed.')),
  appArmorProfile: ptr(obj(() => appArmorProfile, 'Which AppArmor profile is used.')),
});

/** Fields that all three sorts of containers share, in the order in which Kubernetes documents them. */
const common: Record<string, Field> = {
  name: req(str('Name, a DNS label, unique in the pod. Cannot be changed.')),
  image: str('Image to run.'),
  command: strings('Replaces the entry point of the image. $(NAME) is replaced by variables.'),
  args: strings('Arguments of the entry point. $(NAME) is replaced by variables.'),
  workingDir: str('Working directory.'),
  ports: list(
    () => containerPort,
    { keys: ['containerPort', 'protocol'], merge: 'containerPort' },
    'Ports of the container, for information and for names.',
  ),
  envFrom: list(() => envFromSource, {}, 'Variables from whole objects.'),
  env: list(() => envVar, { keys: ['name'], merge: 'name' }, 'Environment variables.'),
  resources: obj(() => resourceRequirements, 'Compute resources.'),
  resizePolicy: list(() => containerResizePolicy, {}, 'What resource changes need.'),
  restartPolicy: ptr(str('Always, for an init container that keeps running beside the others.')),
  volumeMounts: list(() => volumeMount, { keys: ['mountPath'], merge: 'mountPath' }, 'Where volumes appear.'),
  volumeDevices: list(() => volumeDevice, { keys: ['devicePath'], merge: 'devicePath' }, 'Block devices.'),
  livenessProbe: ptr(obj(() => probe, 'Failing it restarts the container.')),
  readinessProbe: ptr(obj(() => probe, 'Failing it takes the pod out of Services.')),
  startupProbe: ptr(obj(() => probe, 'Must succeed before the other probes begin.')),
  lifecycle: ptr(obj(() => lifecycle, 'Hooks.')),
  terminationMessagePath: str('File with the final message; /dev/termination-log if unset.'),
  terminationMessagePolicy: str('File or FallbackToLogsOnError; File if unset.'),
  imagePullPolicy: str('Always, Never or IfNotPresent.'),
  securityContext: ptr(obj(() => securityContext, 'Security settings.')),
  stdin: bool('True keeps a standard input open.'),
  stdinOnce: bool('True closes standard input after the first attach.'),
  tty: bool('True gives the container a terminal.'),
};

export const container = struct('core.v1.Container', 'A process of a pod with its files.', common);
export const ephemeralContainer = struct(
  'core.v1.EphemeralContainer',
  'A container added to a running pod for debugging.',
  { ...common, targetContainerName: str('Container whose namespaces are shared.') },
);
