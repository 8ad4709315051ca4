/**
 * What the controllers keep of the objects they watch. A cluster has tens of thousands of Pods, so a view holds
 * only what some planner reads.
 */
import { keyOf } from '../client/index.ts';
import type {
  Affinity,
  Condition,
  Lease,
  Node,
  Pod,
  PodSpec,
  Protocol,
  Service,
  ServiceCIDR,
  Taint,
} from '../model/kubernetes.ts';
import type { Labels } from '../model/label-selector.ts';
import { serviceFacts } from '../service/facts.ts';
import { type LoadBalancerView, loadBalancerView } from './load-balancers/types.ts';

export type { Labels };

const noLabels: Labels = Object.freeze({});
const nothing: readonly never[] = Object.freeze([]);

/** Label of a Node that names its zone. */
export const zoneLabel = 'topology.kubernetes.io/zone';

/** A container port that has a name, as `targetPort: <name>` finds it. */
export interface NamedPort {
  name: string;
  protocol: Protocol;
  port: number;
}

/** What a Pod without a node asks of the scheduler. */
export interface SchedulingView {
  schedulerName: string;
  gated: boolean;
  nodeSelector: Labels;
  affinity: Affinity;
  tolerations: NonNullable<PodSpec['tolerations']>;
  spread: NonNullable<PodSpec['topologySpreadConstraints']>;
  /** The PodScheduled condition says Unschedulable with this message. */
  unschedulable?: string;
}

export interface PodView {
  key: string;
  namespace: string;
  name: string;
  uid: string;
  labels: Labels;
  /** `''` while it is bound to no node. */
  nodeName: string;
  ips: readonly string[];
  /** Succeeded or Failed: it will never serve again. */
  finished: boolean;
  /** When it was made; only of finished ones, the oldest of which are collected. */
  createdAt?: string;
  ready: boolean;
  /** Has a deletionTimestamp. */
  deleting: boolean;
  namedPorts: readonly NamedPort[];
  /** Has no address of its own, but those of its node. */
  hostNetwork: boolean;
  /** `protocol/port/hostIP` of each hostPort. */
  hostPorts: readonly string[];
  hostname: string;
  subdomain: string;
  /** Only while it is bound to no node. */
  scheduling?: SchedulingView;
  /** The pod's own terms that keep others off its node; empty for most. */
  antiAffinity: NonNullable<
    NonNullable<Affinity['podAntiAffinity']>['requiredDuringSchedulingIgnoredDuringExecution']
  >;
}

export function podView(pod: Pod): PodView {
  const { spec, status, metadata } = pod;
  const containers = [
    ...spec.containers,
    ...(spec.initContainers ?? []).filter((container) => container.restartPolicy === 'Always'),
  ];
  const namedPorts: NamedPort[] = [];
  const hostPorts: string[] = [];
  for (const container of containers)
    for (const port of container.ports ?? []) {
      const protocol = port.protocol ?? 'TCP';
      if (port.name) namedPorts.push({ name: port.name, protocol, port: port.containerPort });
      const hostPort = port.hostPort ?? (spec.hostNetwork ? port.containerPort : undefined);
      if (hostPort) hostPorts.push(`${protocol}/${hostPort}/${port.hostIP ?? ''}`);
    }
  const ips = status?.podIPs?.map((entry) => entry.ip) ?? (status?.podIP ? [status.podIP] : []);
  const view: PodView = {
    key: keyOf(pod),
    namespace: metadata.namespace ?? '',
    name: metadata.name,
    uid: metadata.uid ?? '',
    labels: metadata.labels ?? noLabels,
    nodeName: spec.nodeName ?? '',
    ips: ips.length > 0 ? ips : nothing,
    finished: status?.phase === 'Succeeded' || status?.phase === 'Failed',
    ready: conditionOf(status?.conditions, 'Ready')?.status === 'True',
    deleting: metadata.deletionTimestamp !== undefined,
    namedPorts: namedPorts.length > 0 ? namedPorts : nothing,
    hostNetwork: spec.hostNetwork === true,
    hostPorts: hostPorts.length > 0 ? hostPorts : nothing,
    hostname: spec.hostname ?? '',
    subdomain: spec.subdomain ?? '',
    antiAffinity: [
      ...(spec.affinity?.podAntiAffinity?.requiredDuringSchedulingIgnoredDuringExecution ?? nothing),
    ],
  };
  if (view.finished) view.createdAt = metadata.creationTimestamp ?? '';
  if (view.nodeName === '') {
    const scheduled = conditionOf(status?.conditions, 'PodScheduled');
    view.scheduling = {
      schedulerName: spec.schedulerName ?? 'default-scheduler',
      gated: (spec.schedulingGates?.length ?? 0) > 0,
      nodeSelector: spec.nodeSelector ?? noLabels,
      affinity: spec.affinity ?? {},
      tolerations: spec.tolerations ?? [],
      spread: spec.topologySpreadConstraints ?? [],
      ...(scheduled?.status === 'False' && { unschedulable: scheduled.message ?? '' }),
    };
  }
  return view;
}

export interface NodeView {
  name: string;
  uid: string;
  version: string;
  labels: Labels;
  zone: string;
  podCidrs: readonly string[];
  unschedulable: boolean;
  deleting: boolean;
  taints: readonly Taint[];
  conditions: readonly Condition[];
  ready: 'True' | 'False' | 'Unknown' | 'Never';
  createdAtMs: number;
  /** How many pods it takes, Infinity when it does not say. */
  podCapacity: number;
  /** Thousandths of a CPU that pods may use, 0 when it does not say. */
  cpuMillis: number;
}

/** `2`, `0.5` and `1500m` in thousandths. */
function cpuMillisOf(quantity: unknown): number {
  const match = /^(\d+(?:\.\d+)?)(m?)$/.exec(String(quantity ?? ''));
  return match ? Math.round(Number(match[1]) * (match[2] === 'm' ? 1 : 1000)) : 0;
}

export function nodeView(node: Node): NodeView {
  const capacity = Number(node.status?.allocatable?.['pods'] ?? node.status?.capacity?.['pods']);
  return {
    name: node.metadata.name,
    uid: node.metadata.uid ?? '',
    version: node.metadata.resourceVersion ?? '',
    labels: node.metadata.labels ?? noLabels,
    zone: node.metadata.labels?.[zoneLabel] ?? '',
    podCidrs: node.spec?.podCIDRs ?? (node.spec?.podCIDR ? [node.spec.podCIDR] : []),
    unschedulable: node.spec?.unschedulable === true,
    deleting: node.metadata.deletionTimestamp !== undefined,
    taints: node.spec?.taints ?? [],
    conditions: node.status?.conditions ?? [],
    ready: conditionOf(node.status?.conditions, 'Ready')?.status ?? 'Never',
    createdAtMs: Date.parse(node.metadata.creationTimestamp ?? '') || 0,
    podCapacity: Number.isFinite(capacity) ? capacity : Number.POSITIVE_INFINITY,
    cpuMillis: cpuMillisOf(node.status?.allocatable?.['cpu']),
  };
}

/** A Service is kept whole where the EndpointSlices need it, without what people write into annotations. */
export interface ServiceView {
  key: string;
  namespace: string;
  name: string;
  uid: string;
  createdAt: string;
  labels: Labels;
  spec: Service['spec'];
  /** Its endpoints are shared out among zones by their CPU; absent for most. */
  topologyAuto?: true;
  /** Only of Services that have to do with load balancer addresses. */
  loadBalancer?: LoadBalancerView;
  /** What agents cannot use of it, in words; few have any. */
  problems?: readonly string[];
}

/** Annotations that ask for hints by zone: since 1.27, and before. */
const TOPOLOGY_ANNOTATIONS = [
  'service.kubernetes.io/topology-mode',
  'service.kubernetes.io/topology-aware-hints',
];

function isTopologyAuto(annotations: Readonly<Record<string, string>> = {}): boolean {
  const wanted = TOPOLOGY_ANNOTATIONS.map((name) => annotations[name]).find((value) => value !== undefined);
  return wanted === 'Auto' || wanted === 'auto';
}

export function serviceView(service: Service): ServiceView {
  const loadBalancer = loadBalancerView(service);
  const problems = service.metadata.annotations ? serviceFacts(service).problems : nothing;
  return {
    key: keyOf(service),
    namespace: service.metadata.namespace ?? '',
    name: service.metadata.name,
    uid: service.metadata.uid ?? '',
    createdAt: service.metadata.creationTimestamp ?? '',
    labels: service.metadata.labels ?? noLabels,
    spec: service.spec,
    ...(isTopologyAuto(service.metadata.annotations) && { topologyAuto: true as const }),
    ...(loadBalancer && { loadBalancer }),
    ...(problems.length > 0 && { problems: problems.map(({ message }) => message) }),
  };
}

export interface LeaseView {
  /** Changes with every renewal. */
  renewTime: string;
  durationSeconds: number;
}

export function leaseView(lease: Lease): LeaseView {
  return {
    renewTime: lease.spec?.renewTime ?? '',
    durationSeconds: lease.spec?.leaseDurationSeconds ?? 40,
  };
}

export interface ServiceCidrView {
  name: string;
  uid: string;
  version: string;
  cidrs: readonly string[];
  deleting: boolean;
  finalizers: readonly string[];
  conditions: readonly Condition[];
}

export function serviceCidrView(object: ServiceCIDR): ServiceCidrView {
  return {
    name: object.metadata.name,
    uid: object.metadata.uid ?? '',
    version: object.metadata.resourceVersion ?? '',
    cidrs: object.spec?.cidrs ?? [],
    deleting: object.metadata.deletionTimestamp !== undefined,
    finalizers: object.metadata.finalizers ?? [],
    conditions: object.status?.conditions ?? [],
  };
}

/** The condition of a type, if there is one. */
export function conditionOf(
  conditions: readonly Condition[] | undefined,
  type: string,
): Condition | undefined {
  return conditions?.find((condition) => condition.type === type);
}
