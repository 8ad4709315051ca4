import { entry, errorsOf } from './net-error.ts';

/** Failures of running pods: sandboxes, containers, their files, probes and the Pod objects behind them. */
export const podsCatalogue = {
  PODS_SHIM_MISSING: entry(
    (c: { path: string }) => `Cannot start pods: "${c.path}" cannot be run`,
    () => 'Run "npm run build", or start Portolan by its launcher "./portolan", which builds what is missing',
  ),
  PODS_SHIM_FAILED: entry(
    (c: { role: string; id: string; step: string }) => `Cannot start ${c.role} "${c.id}": ${c.step}`,
    () =>
      'The step that failed is named, the kernel answer is in brackets; pods need Linux 5.12 or newer and root',
  ),
  PODS_SHIM_SILENT: entry(
    (c: { role: string; id: string }) =>
      `Cannot start ${c.role} "${c.id}": its helper process ended without an answer`,
    () => 'It was killed, perhaps by the kernel for want of memory: see "dmesg"; the start is tried again',
  ),
  PODS_SANDBOX_UNKNOWN: entry(
    (c: { id: string }) => `Cannot find sandbox "${c.id}"`,
    () => 'See "portolan pod list"; it may have been removed',
  ),
  PODS_SANDBOX_NOT_READY: entry(
    (c: { id: string; state: string }) => `Cannot use sandbox "${c.id}": it is ${c.state}, want ready`,
    () => 'A new sandbox is made for the pod; retry on that one',
  ),
  PODS_SANDBOX_NETWORK: entry(
    (c: { pod: string; action: 'set up' | 'remove' }) => `Cannot ${c.action} the network of pod "${c.pod}"`,
    () => 'The cause says what failed; it is tried again',
  ),
  PODS_CONTAINER_UNKNOWN: entry(
    (c: { id: string }) => `Cannot find container "${c.id}"`,
    () => 'See "portolan pod list"; it may have been removed',
  ),
  PODS_CONTAINER_STATE: entry(
    (c: { id: string; action: string; state: string; want: string }) =>
      `Cannot ${c.action} container "${c.id}": it is ${c.state}, want ${c.want}`,
    () => 'Look at the state of the container with "portolan pod list" and its log',
  ),
  PODS_CONTAINER_STUCK: entry(
    (c: { id: string }) => `Cannot stop container "${c.id}": a process of it does not end after SIGKILL`,
    () => 'It waits in the kernel, often for a device or a network file system: see "ps -o pid,stat,wchan"',
  ),
  PODS_BAD_REQUEST: entry(
    (c: { field: string; why: string }) => `Cannot hand "${c.field}" to the pod shim: ${c.why}`,
    () => 'Correct that field of the Pod',
  ),
  PODS_MOUNT_TYPE: entry(
    (c: { target: string; found: string; want: string }) =>
      `Cannot mount on "${c.target}": the host has a ${c.found} there, want a ${c.want}`,
    () => 'Choose another mountPath',
  ),
  PODS_VOLUME_UNSUPPORTED: entry(
    (c: { volume: string }) =>
      `Cannot mount volume "${c.volume}": its type is not supported, want emptyDir, configMap or hostPath`,
    () => 'Use one of these volume types',
  ),
  PODS_VOLUME_MISSING: entry(
    (c: { volume: string; why: string }) => `Cannot mount volume "${c.volume}": ${c.why}`,
    () => 'Create what it refers to, or mark it optional; it is tried again',
  ),
  PODS_ENV_MISSING: entry(
    (c: { container: string; variable: string; why: string }) =>
      `Cannot set variable "${c.variable}" of container "${c.container}": ${c.why}`,
    () => 'Create what it refers to, or mark it optional; it is tried again',
  ),
  PODS_PORT_UNKNOWN: entry(
    (c: { container: string; port: string }) => `Cannot find port "${c.port}" of container "${c.container}"`,
    () => 'Name the port in spec.containers[].ports, or give its number',
  ),
  PODS_SPEC_UNSUPPORTED: entry(
    (c: { field: string; why: string }) => `Cannot run this pod: ${c.field} ${c.why}`,
    () => 'Remove the field, or run the pod with a CRI runtime',
  ),
  PODS_NO_LOG: entry(
    (c: { container: string; previous: boolean }) =>
      `Cannot read the ${c.previous ? 'previous ' : ''}log of container "${c.container}": there is none`,
    (c) =>
      c.previous
        ? 'The container has not been restarted; leave out --previous'
        : 'The container has not been started yet: see "kubectl describe pod"',
  ),
  PODS_RECORD_BROKEN: entry(
    (c: { path: string; why: string }) => `Cannot read the record "${c.path}": ${c.why}`,
    () => 'The pod is removed and started again; nothing has to be done',
  ),
} as const;

export const podsError = errorsOf(podsCatalogue);
