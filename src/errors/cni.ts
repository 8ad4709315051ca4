/** What can go wrong in a call of the CNI plugin. The number that the runtime sees is in src/cni/verdict.ts. */
import { entry, errorsOf } from './net-error.ts';

export const cniCatalogue = {
  CNI_FRAME_MALFORMED: entry(
    (c: { why: string }) => `Cannot read the call: ${c.why}`,
    () =>
      'The plugin binary and the agent differ: restart the agent with --cni-bin-dir, which installs its own',
  ),
  CNI_INPUT_TOO_LARGE: entry(
    (c: { limitBytes: number }) => `Cannot read the call: it is longer than ${c.limitBytes} bytes`,
    () => 'Look for an oversized "prevResult" or "args" in the network configuration',
  ),
  CNI_INPUT_TIMEOUT: entry(
    (c: { timeoutMs: number }) => `Cannot read the call: its end did not come within ${c.timeoutMs} ms`,
    () => 'The runtime must close the standard input of the plugin after the configuration',
  ),
  CNI_TIMEOUT: entry(
    (c: { command: string; timeoutMs: number }) =>
      `Cannot finish ${c.command}: it is not done after ${c.timeoutMs} ms`,
    () => 'Look into the log of the agent; the runtime repeats the call',
  ),
  CNI_COMMAND_UNKNOWN: entry(
    (c: { command: string; known: string[] }) =>
      c.command === ''
        ? 'Cannot run: required environment variable CNI_COMMAND is missing'
        : `Cannot run CNI_COMMAND "${c.command}": want one of ${c.known.join(', ')}`,
    () => 'This program is a CNI plugin: a container runtime runs it, not a person',
  ),
  CNI_ENV_MISSING: entry(
    (c: { command: string; variables: string[] }) =>
      `Cannot run ${c.command}: required environment variables ${c.variables.join(', ')} are missing`,
    () => 'The runtime must set them; see section 2 of the CNI specification',
  ),
  CNI_ENV_INVALID: entry(
    (c: { variable: string; value: string; why: string }) =>
      `Cannot use ${c.variable} "${c.value}": ${c.why}`,
    (c) => `Correct ${c.variable} in the call of the runtime`,
  ),
  CNI_INPUT_NOT_JSON: entry(
    (c: { why: string }) => `Cannot decode the network configuration: ${c.why}`,
    () =>
      'Correct the configuration list, usually in /etc/cni/net.d, or have it written again: restart the agent with --cni-conf-dir',
  ),
  CNI_VERSION_UNSUPPORTED: entry(
    (c: { version: string; supported: readonly string[] }) =>
      c.version === ''
        ? `Cannot use a network configuration without "cniVersion": want one of ${c.supported.join(', ')}`
        : `Cannot use cniVersion "${c.version}": want one of ${c.supported.join(', ')}`,
    () => 'Set "cniVersion" of the configuration list to one of these',
  ),
  CNI_VERSION_TOO_OLD: entry(
    (c: { version: string; command: string; since: string }) =>
      `Cannot run ${c.command} with cniVersion "${c.version}": ${c.command} came with ${c.since}`,
    () => 'Raise "cniVersion" of the configuration list',
  ),
  CNI_FIELD_UNSUPPORTED: entry(
    (c: { key: string; value: string; hint?: string | undefined }) =>
      `Cannot use the network configuration: key "${c.key}" with value ${c.value} is not supported${
        c.hint ? `, did you mean "${c.hint}"?` : ''
      }`,
    (c) => (c.hint ? `Rename "${c.key}" to "${c.hint}"` : `Remove "${c.key}"`),
  ),
  CNI_CONFIG_INVALID: entry(
    (c: { problems: string[] }) => `Cannot use the network configuration: ${c.problems.join('; ')}`,
    () => 'Correct these keys of the configuration list, usually in /etc/cni/net.d',
  ),
  CNI_NETNS_GONE: entry(
    (c: { netns: string }) => `Cannot attach to network namespace "${c.netns}": it does not exist`,
    () => 'The container is gone; nothing has to be cleaned up',
  ),
  CNI_NETNS_IS_HOST: entry(
    (c: { netns: string }) =>
      `Cannot attach to network namespace "${c.netns}": it is the one of the node itself`,
    () => 'Pods with host network must not be given to a CNI plugin',
  ),
  CNI_IFNAME_TAKEN: entry(
    (c: { ifname: string; netns: string }) =>
      `Cannot create interface "${c.ifname}" in network namespace "${c.netns}": one of that name exists`,
    () => 'Use another CNI_IFNAME, or run DEL for what made it',
  ),
  CNI_HOST_PORT_TAKEN: entry(
    (c: { frontend: string; owner: string }) =>
      `Cannot map ${c.frontend} to the container: it belongs to ${c.owner}`,
    () => 'Choose another port or hostIP, or remove its owner',
  ),
  CNI_HOST_PORT_ADDRESS: entry(
    (c: { mapping: string; why: string }) => `Cannot map ${c.mapping} to the container: ${c.why}`,
    () => 'Name an address that the node has, of a family that the container has, or none for all of them',
  ),
  CNI_HOST_PORTS_UNKNOWN: entry(
    (c: { ports: string }) =>
      `Cannot map ${c.ports} to the container now: the Services of this node are not known yet`,
    () => 'The agent has not reached the API server since it started; the runtime tries again',
  ),
  CNI_HOST_PORT_FAILED: entry(
    (c: { ports: string; why: string }) => `Cannot map ${c.ports} to the container: ${c.why}`,
    () => 'See "portolan status" and "portolan service diff" on this node; the runtime may try again',
  ),
  CNI_CHECK_FAILED: entry(
    (c: { containerId: string; ifname: string; missing: string[] }) =>
      `Network of "${c.ifname}" in container "${c.containerId}" is not as ADD left it: ${c.missing.join('; ')}`,
    () => 'The agent repairs the end at the host by itself; for the rest create the pod again',
  ),
  CNI_NOT_AVAILABLE: entry(
    (c: { why: string }) => `Cannot add pods now: ${c.why}`,
    () => 'See "portolan status" on this node',
  ),
  CNI_PODS_LIMITED: entry(
    (c: { why: string }) => `Cannot add pods now, and running pods have limited connectivity: ${c.why}`,
    () => 'See "portolan status" on this node',
  ),
  CNI_SOCKET_IN_USE: entry(
    (c: { path: string }) => `Cannot listen on "${c.path}": another agent answers there`,
    () => 'Stop the other agent, or choose another --state-dir',
  ),
  CNI_SOCKET_FAILED: entry(
    (c: { path: string; why: string }) => `Cannot listen on "${c.path}": ${c.why}`,
    () => 'Paths of unix sockets have at most 107 bytes, and their folder must exist and be writable',
  ),
  CNI_INSTALL_FAILED: entry(
    (c: { path: string; why: string }) => `Cannot install "${c.path}": ${c.why}`,
    () => 'Run as root; choose folders with --cni-bin-dir and --cni-conf-dir',
  ),
  CNI_SHIM_UNUSABLE: entry(
    (c: { path: string; why: string }) => `Cannot install the plugin from "${c.path}": ${c.why}`,
    () => 'Build it again with "npm run build"',
  ),
};

/** Makes an error of the CNI catalogue. */
export const cniError = errorsOf(cniCatalogue);
