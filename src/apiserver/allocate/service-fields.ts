/**
 * Service fields that follow from others when clients leave them out or change the type:
 * pkg/registry/core/service/strategy.go and storage/alloc.go.
 */
import { isDeepStrictEqual } from 'node:util';
import type { Service } from '../../model/kubernetes.ts';

type Spec = Service['spec'];

export const needsClusterIp = ({ spec }: Service) => spec.type !== 'ExternalName';
export const needsNodePorts = ({ spec }: Service) =>
  spec.type === 'NodePort' || (spec.type === 'LoadBalancer' && spec.allocateLoadBalancerNodePorts !== false);
export const mayHaveNodePorts = ({ spec }: Service) =>
  spec.type === 'NodePort' || spec.type === 'LoadBalancer';
export const needsHealthCheckPort = ({ spec }: Service) =>
  spec.type === 'LoadBalancer' && spec.externalTrafficPolicy === 'Local';
const isExternal = ({ spec }: Service) =>
  mayHaveNodePorts({ spec } as Service) || (spec.externalIPs?.length ?? 0) > 0;

/** Makes clusterIP and clusterIPs agree, whichever of them a client set or changed. */
export function normalizeClusterIps(next: Service, old: Service | undefined): void {
  const { spec } = next;
  if (!old) {
    if (spec.clusterIP && (spec.clusterIPs?.length ?? 0) === 0) spec.clusterIPs = [spec.clusterIP];
    return;
  }
  const sameOne = (spec.clusterIP ?? '') === (old.spec.clusterIP ?? '');
  const sameAll = isDeepStrictEqual(spec.clusterIPs ?? [], old.spec.clusterIPs ?? []);
  if (!sameOne && sameAll) {
    if (spec.clusterIP) spec.clusterIPs = [spec.clusterIP];
    else delete spec.clusterIPs;
  } else if (sameOne && !sameAll && (spec.clusterIPs?.length ?? 0) === 0) delete spec.clusterIP;
}

/** Takes over what the server chose earlier and the client left out, as a PUT of a manifest does. */
export function keepAllocated(next: Service, old: Service): void {
  const { spec } = next;
  if (
    needsClusterIp(old) &&
    needsClusterIp(next) &&
    !spec.clusterIP &&
    (spec.clusterIPs?.length ?? 0) === 0
  ) {
    set(spec, 'clusterIP', old.spec.clusterIP);
    set(spec, 'clusterIPs', old.spec.clusterIPs && [...old.spec.clusterIPs]);
  }
  // Not for a LoadBalancer without allocation: there, leaving a node port out gives it back.
  if (needsNodePorts(old) && needsNodePorts(next)) {
    const taken = new Set((spec.ports ?? []).map((port) => port.nodePort).filter(Boolean));
    const find = (test: (port: NonNullable<Spec['ports']>[number]) => boolean) =>
      (old.spec.ports ?? []).find((port) => port.nodePort && !taken.has(port.nodePort) && test(port));
    for (const port of spec.ports ?? []) {
      if (port.nodePort) continue;
      const before =
        find((p) => p.port === port.port && p.protocol === port.protocol) ??
        find((p) => p.port === port.port);
      if (!before?.nodePort) continue;
      port.nodePort = before.nodePort;
      taken.add(before.nodePort);
    }
  }
  if (needsHealthCheckPort(old) && needsHealthCheckPort(next) && !spec.healthCheckNodePort)
    set(spec, 'healthCheckNodePort', old.spec.healthCheckNodePort);
  if (needsClusterIp(old) && needsClusterIp(next)) {
    spec.ipFamilyPolicy ??= old.spec.ipFamilyPolicy ?? 'SingleStack';
    if ((spec.ipFamilies?.length ?? 0) === 0)
      set(spec, 'ipFamilies', old.spec.ipFamilies && [...old.spec.ipFamilies]);
  }
}

/** Drops what the new type no longer has, unless the client changed it: then validation tells. */
export function dropDependents(next: Service, old: Service): void {
  const { spec } = next;
  if (needsClusterIp(old) && !needsClusterIp(next)) {
    if (spec.clusterIP === old.spec.clusterIP && isDeepStrictEqual(spec.clusterIPs, old.spec.clusterIPs)) {
      delete spec.clusterIP;
      delete spec.clusterIPs;
    }
    if (isDeepStrictEqual(spec.ipFamilies, old.spec.ipFamilies)) delete spec.ipFamilies;
    if (spec.ipFamilyPolicy === old.spec.ipFamilyPolicy) delete spec.ipFamilyPolicy;
    if (spec.internalTrafficPolicy === old.spec.internalTrafficPolicy) delete spec.internalTrafficPolicy;
  }
  if (mayHaveNodePorts(old) && !mayHaveNodePorts(next)) {
    const before = new Set((old.spec.ports ?? []).map((port) => port.nodePort));
    for (const port of spec.ports ?? []) if (before.has(port.nodePort)) delete port.nodePort;
  }
  if (
    needsHealthCheckPort(old) &&
    !needsHealthCheckPort(next) &&
    spec.healthCheckNodePort === old.spec.healthCheckNodePort
  )
    delete spec.healthCheckNodePort;
  if (old.spec.type === 'LoadBalancer' && spec.type !== 'LoadBalancer') {
    if (spec.allocateLoadBalancerNodePorts === old.spec.allocateLoadBalancerNodePorts)
      delete spec.allocateLoadBalancerNodePorts;
    if (spec.loadBalancerClass === old.spec.loadBalancerClass) delete spec.loadBalancerClass;
    if (next.status) next.status = { ...next.status, loadBalancer: {} };
  }
  if (isExternal(old) && !isExternal(next) && spec.externalTrafficPolicy === old.spec.externalTrafficPolicy)
    delete spec.externalTrafficPolicy;
  // One family of two goes with the policy; the first stays, it is immutable.
  if (spec.ipFamilyPolicy === 'SingleStack' && old.spec.ipFamilyPolicy !== 'SingleStack') {
    if (isDeepStrictEqual(spec.clusterIPs, old.spec.clusterIPs) && spec.clusterIPs)
      spec.clusterIPs = spec.clusterIPs.slice(0, 1);
    if (isDeepStrictEqual(spec.ipFamilies, old.spec.ipFamilies) && spec.ipFamilies)
      spec.ipFamilies = spec.ipFamilies.slice(0, 1);
  }
}

function set<Key extends keyof Spec>(spec: Spec, key: Key, value: Spec[Key] | undefined): void {
  if (value === undefined) delete spec[key];
  else spec[key] = value as Spec[Key];
}
