/** What a Service says about its load balancer addresses. */
import { keyOf } from '../../client/index.ts';
import type { Condition, Service } from '../../model/kubernetes.ts';
import { POOLED_CONDITION } from '../../service/facts.ts';

/** Addresses that a Service asks for, e.g. `172.31.0.200,fd00::200`. */
export const requestAnnotation = 'portolan.dev/load-balancer-ips';
/** Services of one namespace with the same value may share an address when their ports differ. */
export const sharingAnnotation = 'portolan.dev/sharing-key';
/** `spec.loadBalancerClass` that is ours; one without class is ours, too. */
export const loadBalancerClass = 'portolan.dev/l2';
/** Condition in a Service's status by which nodes know that its addresses came from here. */
export const addressCondition = POOLED_CONDITION;

export interface LoadBalancerView {
  readonly key: string;
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  readonly version: string;
  readonly createdAt: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Of type LoadBalancer, of our class and not being deleted. */
  readonly wanted: boolean;
  readonly families: readonly (4 | 6)[];
  /** Families that the Service cannot do without: all but the second one of PreferDualStack. */
  readonly required: readonly (4 | 6)[];
  readonly request: string;
  readonly sharingKey: string;
  /** `TCP/80`, sorted. */
  readonly ports: readonly string[];
  readonly local: boolean;
  /** Selector as one text: Services that keep the client's address share only with the same pods behind them. */
  readonly selector: string;
  /** Addresses in the status now. */
  readonly ingress: readonly string[];
  /** The status is exactly what we would write for `ingress`: mode VIP and nothing else. */
  readonly plain: boolean;
  readonly conditions: readonly Condition[];
}

const nothing: readonly never[] = Object.freeze([]);

/** Undefined for Services that never had to do with load balancer addresses from here. */
export function loadBalancerView(service: Service): LoadBalancerView | undefined {
  const { metadata, spec, status } = service;
  const conditions = status?.conditions ?? nothing;
  const ours = conditions.some(({ type }) => type === addressCondition);
  if (spec.type !== 'LoadBalancer' && !ours) return undefined;
  const families = (spec.ipFamilies ?? ['IPv4']).map((family) => (family === 'IPv6' ? 6 : 4));
  const ingress = status?.loadBalancer?.ingress ?? [];
  return {
    key: keyOf(service),
    namespace: metadata.namespace ?? '',
    name: metadata.name,
    uid: metadata.uid ?? '',
    version: metadata.resourceVersion ?? '',
    createdAt: metadata.creationTimestamp ?? '',
    labels: metadata.labels ?? {},
    wanted:
      spec.type === 'LoadBalancer' &&
      metadata.deletionTimestamp === undefined &&
      (spec.loadBalancerClass === undefined || spec.loadBalancerClass === loadBalancerClass),
    families,
    required: spec.ipFamilyPolicy === 'PreferDualStack' ? families.slice(0, 1) : families,
    request: metadata.annotations?.[requestAnnotation] ?? spec.loadBalancerIP ?? '',
    sharingKey: metadata.annotations?.[sharingAnnotation] ?? '',
    ports: (spec.ports ?? []).map(({ protocol = 'TCP', port }) => `${protocol}/${port}`).sort(),
    local: spec.externalTrafficPolicy === 'Local',
    selector: JSON.stringify(Object.entries(spec.selector ?? {}).sort()),
    ingress: ingress.flatMap(({ ip }) => (ip ? [ip] : [])),
    plain: ingress.every(
      (entry) => entry.ip && entry.ipMode === 'VIP' && !entry.hostname && !entry.ports?.length,
    ),
    conditions,
  };
}
