/** A Pod and its containers as the runner takes them; pure but for what volumes.ts looks up. */
import { podsError } from '../errors/index.ts';
import type { Container, Pod } from '../model/kubernetes.ts';
import { containerEnv, type EnvSources, expand } from './env.ts';
import type { ContainerConfig, ContainerMount, ContainerSecurity, SandboxConfig } from './types.ts';
import { memoryVolumes } from './volumes.ts';

/** The kernel's limit of a hostname, less the NUL. */
const HOSTNAME_BYTES = 63;

export interface DnsDefaults {
  /** Address of the cluster's DNS Service; none: pods use the node's resolv.conf. */
  servers: string[];
  /** e.g. `cluster.local`. */
  clusterDomain: string;
}

/** Sysctls that belong to the pod's namespaces; others would change the host. */
const namespacedSysctl = /^(net\.|kernel\.(shm|msg|sem)|fs\.mqueue\.)/;

/** Throws PODS_SPEC_UNSUPPORTED. */
export function sandboxConfig(pod: Pod, attempt: number, dns: DnsDefaults): SandboxConfig {
  const { spec, metadata } = pod;
  const hostNetwork = spec.hostNetwork === true;
  const sysctls: Record<string, string> = {};
  for (const { name, value } of spec.securityContext?.sysctls ?? []) {
    if (!namespacedSysctl.test(name) || (hostNetwork && name.startsWith('net.')))
      throw podsError('PODS_SPEC_UNSUPPORTED', {
        field: 'securityContext.sysctls',
        why: `sets "${name}", which does not belong to the pod alone`,
      });
    sysctls[name] = value;
  }
  return {
    metadata: {
      name: metadata.name,
      namespace: metadata.namespace ?? 'default',
      uid: metadata.uid ?? '',
      attempt,
    },
    hostname: podHostname(pod),
    hostNetwork,
    dns: podDns(pod, dns),
    sysctls,
    memoryVolumes: memoryVolumes(pod),
    hostAliases: (spec.hostAliases ?? []).map(({ ip, hostnames = [] }) => ({ ip, hostnames })),
    labels: metadata.labels ?? {},
    annotations: metadata.annotations ?? {},
  };
}

/** The name inside the pod: spec.hostname or the pod's name, cut as kubelet cuts it. */
export function podHostname(pod: Pod): string {
  return (pod.spec.hostname ?? pod.metadata.name).slice(0, HOSTNAME_BYTES).replace(/[-.]+$/, '');
}

function podDns(pod: Pod, defaults: DnsDefaults): SandboxConfig['dns'] {
  const { dnsConfig, hostNetwork } = pod.spec;
  const policy = pod.spec.dnsPolicy ?? 'ClusterFirst';
  const cluster =
    defaults.servers.length > 0 &&
    (policy === 'ClusterFirstWithHostNet' || (policy === 'ClusterFirst' && !hostNetwork));
  const domain = defaults.clusterDomain;
  const namespace = pod.metadata.namespace ?? 'default';
  const base = cluster
    ? {
        servers: defaults.servers,
        searches: [`${namespace}.svc.${domain}`, `svc.${domain}`, domain],
        options: ['ndots:5'],
      }
    : { servers: [], searches: [], options: [] };
  const extra = (dnsConfig?.options ?? []).map(({ name, value }) =>
    value === undefined ? name : `${name}:${value}`,
  );
  return {
    servers: [...base.servers, ...(dnsConfig?.nameservers ?? [])],
    searches: [...base.searches, ...(dnsConfig?.searches ?? [])],
    options: [...base.options, ...extra],
  };
}

/** What a container asks of its security, with the pod's as the default. Throws PODS_SPEC_UNSUPPORTED. */
export function containerSecurity(pod: Pod, container: Container): ContainerSecurity {
  const ofPod = pod.spec.securityContext ?? {};
  const own = (container.securityContext ?? {}) as {
    runAsUser?: number;
    runAsGroup?: number;
    runAsNonRoot?: boolean;
    privileged?: boolean;
    allowPrivilegeEscalation?: boolean;
    capabilities?: { add?: string[]; drop?: string[] };
  };
  // There is no image to name a user.
  const uid = own.runAsUser ?? ofPod.runAsUser ?? 0;
  const gid = own.runAsGroup ?? ofPod.runAsGroup ?? 0;
  if ((own.runAsNonRoot ?? ofPod.runAsNonRoot) && uid === 0)
    throw podsError('PODS_SPEC_UNSUPPORTED', {
      field: 'securityContext.runAsNonRoot',
      why: 'is true, and there is no runAsUser other than 0',
    });
  const groups = new Set([gid, ...(ofPod.supplementalGroups ?? [])]);
  if (ofPod.fsGroup !== undefined) groups.add(ofPod.fsGroup);
  return {
    uid,
    gid,
    groups: [...groups],
    privileged: own.privileged === true,
    addCapabilities: own.capabilities?.add ?? [],
    dropCapabilities: own.capabilities?.drop ?? [],
    noNewPrivileges: own.allowPrivilegeEscalation === false,
  };
}

/** True when the runner can know what to run: without images only spec.containers[].command says it. */
export function hasCommand(container: Container): boolean {
  return (container.command?.length ?? 0) > 0;
}

export interface ContainerSurroundings {
  attempt: number;
  sources: EnvSources;
  mounts: ContainerMount[];
  logPath: string;
}

/** Throws PODS_ENV_MISSING, PODS_SPEC_UNSUPPORTED. */
export function containerConfig(
  pod: Pod,
  container: Container,
  { attempt, sources, mounts, logPath }: ContainerSurroundings,
): ContainerConfig {
  const env = containerEnv(container, sources);
  const values = new Map(env.map((variable) => [variable.name, variable.value]));
  const expanded = (text: string) => expand(text, (name) => values.get(name));
  return {
    name: container.name,
    attempt,
    image: container.image ?? '',
    command: [...(container.command ?? []), ...(container.args ?? [])].map(expanded),
    workingDir: container.workingDir || '/',
    env,
    mounts,
    security: containerSecurity(pod, container),
    logPath,
    terminationMessagePath: container.terminationMessagePath || '/dev/termination-log',
  };
}
