/** Defaults of Pod: pkg/apis/core/v1/defaults.go and the pod registry. */
import type { Container, Pod, Probe } from '../../../model/kubernetes.ts';
import { parseQuantity } from '../quantity.ts';

/** The members that defaulting touches beyond those that the shared model spells out. */
type WithDefaults = Container & {
  terminationMessagePolicy?: string;
  lifecycle?: { postStart?: Probe; preStop?: Probe };
};
type Volume = Record<string, unknown> & {
  emptyDir?: Record<string, unknown>;
  hostPath?: { type?: string };
  secret?: { defaultMode?: number };
  configMap?: { defaultMode?: number };
  downwardAPI?: { defaultMode?: number; items?: FieldRefHolder[] };
  projected?: {
    defaultMode?: number;
    sources?: {
      downwardAPI?: { items?: FieldRefHolder[] };
      serviceAccountToken?: { expirationSeconds?: number };
    }[];
  };
};
interface FieldRefHolder {
  fieldRef?: { apiVersion?: string };
  resourceFieldRef?: { divisor?: string };
}
type PodWithDefaults = Pod & {
  spec: {
    enableServiceLinks?: boolean;
    securityContext?: Record<string, unknown>;
    serviceAccount?: string;
    preemptionPolicy?: string;
    priority?: number;
    hostIPC?: boolean;
    ephemeralContainers?: Container[];
  };
};

const defaultFileMode = 0o644;

export function defaultPod(pod: Pod): void {
  pod.spec ??= { containers: [] };
  const spec = pod.spec as PodWithDefaults['spec'] & Pod['spec'];
  spec.containers ??= [];
  spec.restartPolicy ??= 'Always';
  spec.dnsPolicy ??= 'ClusterFirst';
  spec.terminationGracePeriodSeconds ??= 30;
  spec.schedulerName ??= 'default-scheduler';
  spec.securityContext ??= {};
  spec.enableServiceLinks ??= true;
  spec.preemptionPolicy ??= 'PreemptLowerPriority';
  spec.priority ??= 0;
  if (spec.serviceAccountName) spec.serviceAccount ??= spec.serviceAccountName;
  else if (spec.serviceAccount) spec.serviceAccountName = spec.serviceAccount;
  for (const volume of (spec.volumes ?? []) as unknown as Volume[]) defaultVolume(volume);
  for (const container of allContainers(pod)) defaultContainer(container as WithDefaults, !!spec.hostNetwork);
  pod.status ??= {};
  pod.status.phase ??= 'Pending';
  pod.status.qosClass ??= qosClass(pod);
}

/** Containers of every sort. */
export function allContainers(pod: Pod): Container[] {
  const { initContainers = [], containers = [] } = pod.spec;
  const ephemeral = (pod.spec as { ephemeralContainers?: Container[] }).ephemeralContainers ?? [];
  return [...initContainers, ...containers, ...ephemeral];
}

function defaultContainer(container: WithDefaults, hostNetwork: boolean): void {
  container.resources ??= {};
  const { limits } = container.resources;
  // A limit without a request reserves the limit.
  if (limits) container.resources.requests = { ...limits, ...container.resources.requests };
  container.terminationMessagePath ??= '/dev/termination-log';
  container.terminationMessagePolicy ??= 'File';
  container.imagePullPolicy ??= imageTag(container.image ?? '') === 'latest' ? 'Always' : 'IfNotPresent';
  for (const port of container.ports ?? []) {
    port.protocol ??= 'TCP';
    if (hostNetwork && !port.hostPort) port.hostPort = port.containerPort;
  }
  for (const variable of container.env ?? []) {
    if (variable.valueFrom?.fieldRef) variable.valueFrom.fieldRef.apiVersion ??= 'v1';
    if (variable.valueFrom?.resourceFieldRef) variable.valueFrom.resourceFieldRef.divisor ??= '0';
  }
  for (const probe of [container.livenessProbe, container.readinessProbe, container.startupProbe]) {
    if (!probe) continue;
    probe.timeoutSeconds ??= 1;
    probe.periodSeconds ??= 10;
    probe.successThreshold ??= 1;
    probe.failureThreshold ??= 3;
    if (probe.grpc) probe.grpc.service ??= '';
    defaultHttpGet(probe);
  }
  for (const hook of [container.lifecycle?.postStart, container.lifecycle?.preStop])
    if (hook) defaultHttpGet(hook);
}

function defaultHttpGet(action: Probe): void {
  if (!action.httpGet) return;
  action.httpGet.path ??= '/';
  action.httpGet.scheme ??= 'HTTP';
}

function defaultVolume(volume: Volume): void {
  const sources = Object.keys(volume).filter((key) => key !== 'name');
  if (sources.length === 0) volume.emptyDir = {};
  if (volume.hostPath) volume.hostPath.type ??= '';
  for (const source of [volume.secret, volume.configMap, volume.downwardAPI, volume.projected])
    if (source) source.defaultMode ??= defaultFileMode;
  for (const item of volume.downwardAPI?.items ?? []) defaultFieldRef(item);
  for (const source of volume.projected?.sources ?? []) {
    if (source.serviceAccountToken) source.serviceAccountToken.expirationSeconds ??= 3600;
    for (const item of source.downwardAPI?.items ?? []) defaultFieldRef(item);
  }
}

function defaultFieldRef(item: FieldRefHolder): void {
  if (item.fieldRef) item.fieldRef.apiVersion ??= 'v1';
  if (item.resourceFieldRef) item.resourceFieldRef.divisor ??= '0';
}

/** The tag of an image reference; `latest` when it has neither tag nor digest. */
export function imageTag(image: string): string {
  const digest = image.indexOf('@');
  const name = digest < 0 ? image : image.slice(0, digest);
  const colon = name.lastIndexOf(':');
  if (colon > name.lastIndexOf('/')) return name.slice(colon + 1);
  return digest < 0 ? 'latest' : '';
}

/** Guaranteed when every container limits cpu and memory to its requests, BestEffort when none states any. */
export function qosClass(pod: Pod): 'Guaranteed' | 'Burstable' | 'BestEffort' {
  let stated = false;
  let guaranteed = true;
  for (const container of [...(pod.spec.initContainers ?? []), ...pod.spec.containers]) {
    for (const resource of ['cpu', 'memory']) {
      const request = container.resources?.requests?.[resource];
      const limit = container.resources?.limits?.[resource];
      const requested = nanosOf(request);
      const limited = nanosOf(limit);
      if (requested > 0n || limited > 0n) stated = true;
      if (limited === 0n || requested !== limited) guaranteed = false;
    }
  }
  return !stated ? 'BestEffort' : guaranteed ? 'Guaranteed' : 'Burstable';
}

function nanosOf(value: string | number | undefined): bigint {
  return value === undefined ? 0n : (parseQuantity(String(value))?.nanos ?? 0n);
}
