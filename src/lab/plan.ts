import { type EngineChoice, SERVICE_ENGINES } from '../agent/engine-choice.ts';
import { entry, errorsOf } from '../errors/index.ts';
import { POD_LINK_KINDS, type PodLinkKind } from '../podlink/kinds.ts';

/** What a person asks of `lab up`. */
export interface LabOptions {
  /** Prefix of everything the lab makes: namespaces, folders, cgroups. Default `portolan-lab`. */
  name: string;
  nodes: number;
  backend: 'vxlan' | 'host-gw';
  dualStack: boolean;
  /** What carries Services; default `auto`. */
  serviceEngine?: EngineChoice;
  /** How pods are connected; default `routed`. */
  podLink?: PodLinkKind;
  /** Route without encapsulation between nodes, which share one link here. Off shows VXLAN at work. */
  directRouting: boolean;
  /** Port of the API server on this machine's loopback. */
  port: number;
}

export interface LabNode {
  name: string;
  /** Name below /run/netns. */
  netns: string;
  addresses: string[];
  stateDir: string;
  bpffsDir: string;
  /** Path below the root of the cgroup2 hierarchy. */
  cgroup: string;
}

/** Everything a lab consists of, named and numbered; nothing here touches the machine. */
export interface LabPlan {
  options: LabOptions;
  stateDir: string;
  apiserver: { dataDir: string; url: string; underlayUrl: string };
  /** One switch between the nodes, in a namespace of its own so that the machine's own network stays as it is. */
  underlay: { netns: string; bridge: string; gateways: string[]; prefixLengths: number[]; mtuBytes: number };
  nodes: LabNode[];
  clusterCidrs: string[];
  serviceCidrs: string[];
}

export const labCatalogue = {
  LAB_BAD_OPTION: entry(
    (c: { option: string; value: unknown; want: string }) =>
      `Cannot run a lab with --${c.option} ${c.value}: want ${c.want}`,
    () => `See "portolan lab up --help"`,
  ),
  LAB_RUNNING: entry(
    (c: { name: string }) => `Cannot start lab "${c.name}": it is running`,
    (c) =>
      `Look at it with "portolan lab status", end it with "portolan lab down", or choose another --name than ${c.name}`,
  ),
  LAB_BUSY: entry(
    (c: { name: string; pid: number }) =>
      `Cannot change lab "${c.name}": process ${c.pid} is starting or ending it`,
    (c) => `Wait for it, or interrupt it with "kill -INT ${c.pid}": it then removes what it made`,
  ),
  LAB_NAME_TAKEN: entry(
    (c: { name: string; path: string }) =>
      `Cannot use "${c.name}" as the name of a lab: "${c.path}" is there and is no lab's`,
    () => `Choose another --name; nothing was touched`,
  ),
  LAB_STATE_UNREADABLE: entry(
    (c: { name: string; path: string }) => `Cannot read the state of lab "${c.name}" in "${c.path}"`,
    (c) => `Remove the lab with "portolan lab down --name ${c.name}" and start it again`,
  ),
  LAB_NOT_RUNNING: entry(
    (c: { name: string }) => `Cannot find lab "${c.name}": it is not running`,
    () => `Start it with "portolan lab up"`,
  ),
  LAB_NO_SUCH_NODE: entry(
    (c: { node: string; nodes: string[] }) => `Cannot find node "${c.node}" in this lab`,
    (c) => `Its nodes are ${c.nodes.join(', ')}`,
  ),
  LAB_NO_SUCH_PROCESS: entry(
    (c: { what: string; known: string[] }) => `Cannot find "${c.what}" in this lab`,
    (c) => `It has ${c.known.join(', ')}`,
  ),
  LAB_INTERRUPTED: entry(
    (c: { what: string }) => `Stopped waiting for ${c.what}: interrupted`,
    () => `Nothing to do: what was made is being removed`,
  ),
  LAB_PROCESS_ENDED: entry(
    (c: { process: string; log: string; last: string }) =>
      `Cannot start ${c.process}: it ended at once: ${c.last}`,
    (c) => `Its log is ${c.log}`,
  ),
  LAB_TIMEOUT: entry(
    (c: { what: string; seconds: number; state: string }) =>
      `Gave up on ${c.what} after ${c.seconds} s: ${c.state}`,
    () =>
      `Logs are in the lab's state folder, see "portolan lab status"; "portolan lab down" removes everything`,
  ),
  LAB_PORT_IN_USE: entry(
    (c: { port: number }) => `Cannot start the API server: port ${c.port} of 127.0.0.1 is in use`,
    () => `Choose another with --port, or end the program that holds it (see "ss -ltnp")`,
  ),
  LAB_NEEDS_ROOT: entry(
    (c: { what: string }) => `Cannot run ${c.what}: not root`,
    (c) => `It makes network namespaces: run "sudo ./portolan ${c.what}"`,
  ),
  LAB_NO_KUBECTL: entry(
    (c: { why: string }) => `Cannot find kubectl: ${c.why}`,
    () => `Install one (Debian: apt-get install kubernetes-client), or put it into the PATH`,
  ),
};
export const labError = errorsOf(labCatalogue);

const MOST_NODES = 100;

function refuse(option: string, value: unknown, want: string) {
  return labError('LAB_BAD_OPTION', { option, value, want });
}

/**
 * Checks the name of a lab. Everything of a lab is found by its name, so that none may read like a part of another:
 * the namespaces of a lab "a-node1" would pass for pods of node1 in lab "a". Throws LAB_BAD_OPTION.
 */
export function checkLabName(name: string): void {
  if (!/^[a-z][a-z0-9-]{0,30}$/.test(name))
    throw refuse('name', name, 'up to 31 of a-z, 0-9 and -, a letter first');
  if (/-(node\d+|underlay)(-|$)/.test(name))
    throw refuse('name', name, 'a name without "-node1" or "-underlay" in it: parts of labs are called so');
}

/** Names and numbers of a lab. Throws LAB_BAD_OPTION. */
export function planLab(options: LabOptions): LabPlan {
  const { name, nodes: count, backend, dualStack, port } = options;
  checkLabName(name);
  if (!Number.isInteger(count) || count < 1 || count > MOST_NODES)
    throw refuse('nodes', count, `1 to ${MOST_NODES}`);
  if (backend !== 'vxlan' && backend !== 'host-gw') throw refuse('backend', backend, 'vxlan or host-gw');
  const { serviceEngine = 'auto', podLink = 'routed' } = options;
  if (!SERVICE_ENGINES.includes(serviceEngine))
    throw refuse('service-engine', serviceEngine, 'auto, ebpf or nftables');
  if (!POD_LINK_KINDS.includes(podLink)) throw refuse('pod-link', podLink, POD_LINK_KINDS.join(' or '));
  if (!Number.isInteger(port) || port < 1 || port > 65535) throw refuse('port', port, '1 to 65535');
  const stateDir = `/run/${name}`;
  return {
    options,
    stateDir,
    apiserver: {
      dataDir: `${stateDir}/apiserver`,
      url: `https://127.0.0.1:${port}`,
      underlayUrl: 'https://172.31.0.1:6443',
    },
    underlay: {
      netns: `${name}-underlay`,
      bridge: 'underlay',
      gateways: dualStack ? ['172.31.0.1', 'fd00:172:31::1'] : ['172.31.0.1'],
      prefixLengths: dualStack ? [24, 64] : [24],
      mtuBytes: 1500,
    },
    nodes: Array.from({ length: count }, (_, at) => {
      const host = at + 11;
      const node = `node${at + 1}`;
      return {
        name: node,
        netns: `${name}-${node}`,
        addresses: dualStack
          ? [`172.31.0.${host}`, `fd00:172:31::${host.toString(16)}`]
          : [`172.31.0.${host}`],
        stateDir: `${stateDir}/${node}`,
        bpffsDir: `/sys/fs/bpf/${name}/${node}`,
        cgroup: `${name}/${node}`,
      };
    }),
    clusterCidrs: dualStack ? ['10.244.0.0/16', 'fd00:10:244::/56'] : ['10.244.0.0/16'],
    serviceCidrs: dualStack ? ['10.96.0.0/16', 'fd00:10:96::/112'] : ['10.96.0.0/16'],
  };
}

/** A node of a lab by its name. Throws LAB_NO_SUCH_NODE. */
export function nodeNamed(plan: LabPlan, node: string): LabNode {
  const found = plan.nodes.find(({ name }) => name === node);
  if (!found) throw labError('LAB_NO_SUCH_NODE', { node, nodes: plan.nodes.map(({ name }) => name) });
  return found;
}
