import { type Cidr, type IpAddress, parseCidr, parseIp, tryParseIp } from '../addr/index.ts';
import { agentError } from '../errors/index.ts';
import type { BackendType } from '../overlay/index.ts';
import { POD_LINK_KINDS, type PodLinkKind } from '../podlink/index.ts';
import { NODE_HOOKS, type NodeHook } from '../service/index.ts';
import { type EngineChoice, SERVICE_ENGINES } from './engine-choice.ts';
import type { NodeContextInput } from './node-context.ts';

/** What `portolan agent` is told. */
export interface AgentOptions {
  nodeName: string;
  kubeconfig: string;
  /** Holds sockets, the attachment store and pods; one agent a folder. */
  stateDir: string;
  /** Folder in a bpffs that is this node's alone. */
  bpffsDir: string;
  /** Folder of a cgroup2 mount: processes in it and below reach Services at their sockets. */
  cgroupPath: string;
  backend: BackendType;
  directRouting: boolean;
  clusterCidrs: readonly Cidr[];
  /** Where other nodes reach this one; found by the default route when empty. */
  nodeIps: readonly IpAddress[];
  /** The link to other nodes; that of the default route when undefined. */
  interface: string | undefined;
  /** Where figures for Prometheus are served to everybody who reaches it; not at all when undefined. */
  metricsListen?: { host: string; port: number } | undefined;
  /** Where load balancers ask whether to send clients to this node; nowhere when undefined. */
  healthzListen?: { host: string; port: number } | undefined;
  /** Services with figures of their own for Prometheus, the oldest known first; 0 for none. Default 1,000. */
  metricsServices?: number;
  /** How pods to come are connected; default `routed`. Those that exist keep their kind. */
  podLink?: PodLinkKind;
  /** `process` runs the Pods of this node; `none` leaves that to a kubelet. */
  pods: 'process' | 'none';
  /** Where the CNI plugin and its configuration are installed; not at all when undefined. */
  cni: { binDir: string; confDir: string } | undefined;
  /** flannel's file for its own plugin and others. */
  subnetEnvPath: string | undefined;
  nodeLabels: Readonly<Record<string, string>>;
  /** Cut established connections that a new policy forbids; default true. */
  cutEstablished?: boolean;
  /** What carries Services; default `auto`: eBPF where the kernel has what it needs, nftables elsewhere. */
  serviceEngine?: EngineChoice;
  /** What Services are on this node. */
  services?: ServiceOptions;
  /** Where packets of clients outside are met; default `auto`. */
  nodeHook?: NodeHook;
  /** Which source addresses pods may send with: their own (default), or any. */
  podSources?: 'own' | 'any';
  /** Which decisions of network policies go to the agent's log. */
  policyLog: 'off' | 'denied' | 'all';
  version: string;
}

/** Switches of Services; without them primary and loopback addresses serve nodePorts, and externalIPs nobody. */
export type ServiceOptions = Pick<
  NodeContextInput,
  'nodePortAddresses' | 'externalIPs' | 'masqueradeAll' | 'proxyName' | 'dsrDispatch'
>;

/** The same as it comes from the command line. */
export interface AgentFlags {
  nodeName: string;
  kubeconfig: string;
  stateDir: string;
  bpffs: string;
  cgroup: string;
  backend: string;
  directRouting: boolean;
  clusterCidr: string[];
  nodeIp: string[];
  interface?: string;
  metricsListen?: string;
  healthzListen?: string;
  metricsServices?: string;
  podLink?: string;
  pods: string;
  cniBinDir?: string;
  cniConfDir?: string;
  subnetEnv?: string;
  label: string[];
  policyEstablished?: string;
  externalIps?: boolean;
  nodeHook?: string;
  dsrDispatch?: string;
  nodeportAddresses?: string[];
  serviceEngine?: string;
  masqueradeAll?: boolean;
  serviceProxyName?: string;
  policyLog?: string;
  podSources?: string;
}

/** sun_path holds 107 bytes and a zero (unix(7)); the longest name in the folder is "/agent.sock" and room for more. */
const LONGEST_STATE_DIR = 89;

/** Checks flags as a whole. Throws AGENT_BAD_OPTION, AGENT_CIDR_OVERLAP. */
export function agentOptions(flags: AgentFlags, version: string): AgentOptions {
  const refuse = (option: string, value: string, want: string, cause?: unknown) =>
    agentError('AGENT_BAD_OPTION', { option, value, want }, cause);
  if (!/^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/.test(flags.nodeName))
    throw refuse('node-name', flags.nodeName, 'a lower-case host name, as Kubernetes names nodes');
  if (flags.backend !== 'vxlan' && flags.backend !== 'host-gw')
    throw refuse('backend', flags.backend, 'vxlan or host-gw');
  const { policyLog = 'off' } = flags;
  if (policyLog !== 'off' && policyLog !== 'denied' && policyLog !== 'all')
    throw refuse('policy-log', policyLog, 'off, denied or all');
  const { podSources = 'own' } = flags;
  if (podSources !== 'own' && podSources !== 'any') throw refuse('pod-sources', podSources, 'own or any');
  const serviceEngine = SERVICE_ENGINES.find((name) => name === (flags.serviceEngine ?? 'auto'));
  if (serviceEngine === undefined)
    throw refuse('service-engine', flags.serviceEngine ?? '', 'auto, ebpf or nftables');
  const { dsrDispatch = 'ipip' } = flags;
  if (dsrDispatch !== 'ipip' && dsrDispatch !== 'option')
    throw refuse('dsr-dispatch', dsrDispatch, 'ipip or option');
  const podLink = POD_LINK_KINDS.find((kind) => kind === (flags.podLink ?? 'routed'));
  if (podLink === undefined) throw refuse('pod-link', flags.podLink ?? '', POD_LINK_KINDS.join(' or '));
  if (flags.pods !== 'process' && flags.pods !== 'none') throw refuse('pods', flags.pods, 'process or none');
  if ((flags.cniBinDir === undefined) !== (flags.cniConfDir === undefined))
    throw refuse('cni-bin-dir', flags.cniBinDir ?? '', 'both --cni-bin-dir and --cni-conf-dir, or neither');
  for (const [option, path] of [
    ['state-dir', flags.stateDir],
    ['bpffs', flags.bpffs],
    ['cgroup', flags.cgroup],
  ] as const)
    if (!path.startsWith('/')) throw refuse(option, path, 'an absolute path');
  if (Buffer.byteLength(flags.stateDir) > LONGEST_STATE_DIR)
    throw refuse('state-dir', flags.stateDir, `at most ${LONGEST_STATE_DIR} bytes: sockets are made in it`);
  const nodeHook = NODE_HOOKS.find((hook) => hook === flags.nodeHook);
  if (flags.nodeHook !== undefined && nodeHook === undefined)
    throw refuse('node-hook', flags.nodeHook, NODE_HOOKS.join(', '));
  if (flags.clusterCidr.length === 0) throw refuse('cluster-cidr', '""', 'a network such as 10.244.0.0/16');
  const clusterCidrs = flags.clusterCidr.map((text) =>
    parsed(() => parseCidr(text), 'cluster-cidr', text, 'a network such as 10.244.0.0/16'),
  );
  checkOverlaps(clusterCidrs, 'cluster CIDRs');
  const nodeIps = flags.nodeIp.map((text) =>
    parsed(() => parseIp(text), 'node-ip', text, 'an IPv4 or IPv6 address'),
  );
  const wantIps = (want: string) => refuse('node-ip', flags.nodeIp.join(','), want);
  if (new Set(nodeIps.map(({ family }) => family)).size < nodeIps.length)
    throw wantIps('one address a family');
  if (nodeIps.some((ip) => clusterCidrs.every((cidr) => cidr.family !== ip.family)))
    throw wantIps('addresses of the families of --cluster-cidr');
  for (const ip of nodeIps) {
    const first = parseCidr(`${ip}/${ip.family === 4 ? 32 : 128}`);
    for (const second of clusterCidrs)
      if (first.overlaps(second))
        throw agentError('AGENT_CIDR_OVERLAP', {
          first: String(first),
          second: String(second),
          what: '--node-ip and --cluster-cidr',
        });
  }
  return {
    nodeName: flags.nodeName,
    kubeconfig: flags.kubeconfig,
    stateDir: flags.stateDir,
    bpffsDir: flags.bpffs,
    cgroupPath: flags.cgroup,
    backend: flags.backend,
    directRouting: flags.directRouting,
    clusterCidrs,
    nodeIps,
    interface: flags.interface,
    metricsListen: listenAddress('metrics-listen', flags.metricsListen, '127.0.0.1:9090 or [::1]:9090'),
    healthzListen:
      flags.healthzListen === 'off'
        ? undefined
        : listenAddress('healthz-listen', flags.healthzListen, '[::]:10256, or off'),
    metricsServices: countOf('metrics-services', flags.metricsServices ?? '1000'),
    podLink,
    pods: flags.pods,
    cni:
      flags.cniBinDir && flags.cniConfDir
        ? { binDir: flags.cniBinDir, confDir: flags.cniConfDir }
        : undefined,
    subnetEnvPath: flags.subnetEnv,
    nodeLabels: Object.fromEntries(flags.label.map((text) => labelOf(text))),
    cutEstablished: (flags.policyEstablished ?? 'cut') === 'cut',
    serviceEngine,
    services: {
      externalIPs: flags.externalIps ?? false,
      masqueradeAll: flags.masqueradeAll ?? false,
      proxyName: flags.serviceProxyName,
      dsrDispatch,
      ...(flags.nodeportAddresses && {
        nodePortAddresses: flags.nodeportAddresses.map((text) =>
          text === 'primary'
            ? text
            : parsed(
                () => parseCidr(text),
                'nodeport-addresses',
                text,
                'primary, or a network such as 10.0.0.0/8',
              ),
        ),
      }),
    },
    ...(nodeHook !== undefined && { nodeHook }),
    policyLog,
    podSources,
    version,
  };

  function parsed<T>(read: () => T, option: string, value: string, want: string): T {
    try {
      return read();
    } catch (cause) {
      throw refuse(option, value, want, cause);
    }
  }
  function countOf(option: string, text: string): number {
    if (!/^\d{1,7}$/.test(text)) throw refuse(option, text, 'a number from 0 on');
    return Number(text);
  }
  function listenAddress(
    option: string,
    text: string | undefined,
    example: string,
  ): { host: string; port: number } | undefined {
    if (text === undefined) return undefined;
    const match = /^(?:\[(?<six>[^\]]+)\]|(?<four>[^:]+)):(?<port>\d{1,5})$/.exec(text)?.groups;
    const host = tryParseIp(match?.['six'] ?? match?.['four'] ?? '');
    const port = Number(match?.['port']);
    if (!host || port > 65_535) throw refuse(option, text, `ADDRESS:PORT, such as ${example}`);
    return { host: String(host), port };
  }
  function labelOf(text: string): [string, string] {
    const at = text.indexOf('=');
    if (at < 1) throw refuse('label', text, 'KEY=VALUE');
    return [text.slice(0, at), text.slice(at + 1)];
  }
}

/** Throws AGENT_CIDR_OVERLAP for the first two networks that have addresses in common. */
export function checkOverlaps(cidrs: readonly Cidr[], what: string): void {
  cidrs.forEach((first, at) => {
    for (const second of cidrs.slice(at + 1))
      if (first.overlaps(second))
        throw agentError('AGENT_CIDR_OVERLAP', { first: String(first), second: String(second), what });
  });
}
