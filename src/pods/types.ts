/**
 * The nouns of the Container Runtime Interface v1 (k8s.io/cri-api), as far as Portolan uses them: a pod is one
 * sandbox (namespaces, network) and containers in it; each new try of either has the next attempt number.
 */

/** Which Pod object a sandbox belongs to. CRI: PodSandboxMetadata. */
export interface SandboxMetadata {
  name: string;
  namespace: string;
  uid: string;
  /** 0 for the first sandbox of a Pod, one more for each later one. */
  attempt: number;
}

/** CRI: PodSandboxConfig. */
export interface SandboxConfig {
  metadata: SandboxMetadata;
  /** Name inside the UTS namespace; at most 63 bytes. */
  hostname: string;
  /** The pod uses the network namespace of the process that runs the runner. */
  hostNetwork: boolean;
  dns: DnsConfig;
  /** e.g. `net.ipv4.ip_unprivileged_port_start`; only of the pod's own namespaces. */
  sysctls: Record<string, string>;
  /** Volumes in memory, shared by the containers of the pod. */
  memoryVolumes: { name: string; sizeBytes?: number }[];
  /** Extra lines of /etc/hosts: spec.hostAliases. */
  hostAliases: { ip: string; hostnames: string[] }[];
  labels: Record<string, string>;
  annotations: Record<string, string>;
}

/** Content of /etc/resolv.conf; all empty means that of the host. */
export interface DnsConfig {
  servers: string[];
  searches: string[];
  options: string[];
}

export type SandboxState = 'ready' | 'notReady';

/** CRI: PodSandboxStatus. */
export interface Sandbox {
  id: string;
  metadata: SandboxMetadata;
  state: SandboxState;
  createdAtMs: number;
  hostNetwork: boolean;
  /** Addresses of the pod, the first is its podIP; empty with hostNetwork. */
  ips: string[];
  /** Path of the pod's network namespace; absent with hostNetwork. */
  netnsPath?: string;
  /** Process 1 of the pod, as the host numbers it; absent when it has ended. */
  pid?: number;
  labels: Record<string, string>;
  annotations: Record<string, string>;
}

/** One mount of a container. CRI: Mount. */
export interface ContainerMount {
  /** A path of the host, or the name of one of the sandbox's memory volumes with a path in it. */
  source: { hostPath: string } | { memoryVolume: string; subPath?: string };
  containerPath: string;
  readonly: boolean;
}

/** CRI: LinuxContainerSecurityContext. */
export interface ContainerSecurity {
  uid: number;
  gid: number;
  groups: number[];
  /** All capabilities of the runner, and nothing masked. */
  privileged: boolean;
  /** Changes to the default set, without the CAP_ prefix; `ALL` stands for all. */
  addCapabilities: string[];
  dropCapabilities: string[];
  noNewPrivileges: boolean;
}

/** CRI: ContainerConfig. */
export interface ContainerConfig {
  name: string;
  /** 0 for the first run of a container in its Pod, one more for each restart. */
  attempt: number;
  /** Recorded; the process runner has no images. */
  image: string;
  /** Program and arguments. */
  command: string[];
  workingDir: string;
  env: { name: string; value: string }[];
  mounts: ContainerMount[];
  security: ContainerSecurity;
  /** Absolute path of the log file; its folder is made. */
  logPath: string;
  /** What the container writes there is its termination message. */
  terminationMessagePath: string;
}

export type ContainerState = 'created' | 'running' | 'exited';

/** CRI: ContainerStatus. */
export interface RunnerContainer {
  id: string;
  sandboxId: string;
  name: string;
  attempt: number;
  image: string;
  state: ContainerState;
  createdAtMs: number;
  startedAtMs?: number;
  finishedAtMs?: number;
  /** 0..255; 128 + signal for a killed one. */
  exitCode?: number;
  signal?: number;
  /** `Completed`, `Error`, `StartError`, `MonitorLost`, `Lost`. */
  reason?: string;
  message?: string;
  logPath: string;
  /** Its first process, as the host numbers it; while running. */
  pid?: number;
}

export interface ExecResult {
  exitCode: number;
  /** Cut at the limit of bytes asked for. */
  stdout: Buffer;
  stderr: Buffer;
  timedOut: boolean;
}

/** What a pod's network is set up for. */
export interface NetworkRequest {
  sandboxId: string;
  metadata: SandboxMetadata;
  netnsPath: string;
  labels: Record<string, string>;
  annotations: Record<string, string>;
}

export interface NetworkResult {
  /** The first is the podIP; one of each family at most. */
  ips: string[];
}

/** Gives a sandbox its network; the agent wires it to the CNI code in its own process. */
export interface PodNetwork {
  /** Repeating it for the same sandbox answers the same addresses. */
  add(request: NetworkRequest): Promise<NetworkResult>;
  /** Absent is success; the namespace may be gone already. */
  del(request: NetworkRequest): Promise<void>;
  /** Rejects when the network of a running sandbox is not what `add` made. */
  check?(request: NetworkRequest): Promise<void>;
}
