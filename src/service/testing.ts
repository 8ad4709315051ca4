/** Builders of Services and EndpointSlices in few words, for tests of this folder and of the engines. */
import type { EndpointSlice, EndpointSliceEndpoint, Service } from '../model/kubernetes.ts';
import type { NodeContext, Protocol } from './types.ts';

/** A Service `default/NAME` with port 80/TCP on 10.96.0.10; whatever is given in `spec` counts instead. */
export function aService(
  spec: Partial<Service['spec']> = {},
  metadata: Partial<Service['metadata']> = {},
  status?: Service['status'],
): Service {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name: 'web', namespace: 'default', creationTimestamp: '2026-01-01T00:00:00Z', ...metadata },
    spec: {
      type: 'ClusterIP',
      clusterIP: spec.clusterIPs?.[0] ?? '10.96.0.10',
      clusterIPs: [spec.clusterIP ?? '10.96.0.10'],
      ports: [{ port: 80, targetPort: 8080, protocol: 'TCP' }],
      ...spec,
    },
    ...(status ? { status } : {}),
  };
}

/**
 * An endpoint in words: `10.244.1.2 node-a`, then any of `unready`, `terminating` (still serving), `gone`
 * (terminating and not serving), `zone:x`, `node:x` (hints).
 */
export function anEndpoint(text: string): EndpointSliceEndpoint {
  const [address, nodeName, ...words] = text.split(' ');
  const is = (word: string) => words.includes(word);
  const hinted = (kind: string) =>
    words.filter((w) => w.startsWith(`${kind}:`)).map((w) => ({ name: w.slice(5) }));
  const zones = hinted('zone');
  const nodes = hinted('node');
  return {
    addresses: [address!],
    ...(nodeName ? { nodeName } : {}),
    conditions: {
      ready: !is('unready') && !is('terminating') && !is('gone'),
      serving: !is('unready') && !is('gone'),
      terminating: is('terminating') || is('gone'),
    },
    ...(zones.length + nodes.length > 0
      ? {
          hints: {
            ...(zones.length ? { forZones: zones } : {}),
            ...(nodes.length ? { forNodes: nodes } : {}),
          },
        }
      : {}),
  };
}

/** A slice of Service `web` with port 8080/TCP. */
export function aSlice(
  endpoints: readonly string[],
  more: { name?: string; service?: string; port?: number; portName?: string; protocol?: Protocol } = {},
): EndpointSlice {
  const service = more.service ?? 'web';
  const parsed = endpoints.map(anEndpoint);
  return {
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: {
      name: more.name ?? `${service}-1`,
      namespace: 'default',
      labels: { 'kubernetes.io/service-name': service },
    },
    addressType: parsed[0]?.addresses[0]?.includes(':') ? 'IPv6' : 'IPv4',
    ports: [{ name: more.portName ?? '', port: more.port ?? 8080, protocol: more.protocol ?? 'TCP' }],
    endpoints: parsed,
  };
}

/** Node `node-a` in zone `a` with address 192.168.0.1. */
export function aNode(more: Partial<NodeContext> = {}): NodeContext {
  return {
    nodeName: 'node-a',
    zone: 'a',
    nodePortAddresses: ['192.168.0.1', '127.0.0.1', 'fd00::1', '::1'],
    localAddresses: ['192.168.0.1', '127.0.0.1', 'fd00::1', '::1'],
    externalIPs: true,
    masqueradeAll: false,
    proxyName: undefined,
    dsrDispatch: 'ipip',
    ...more,
  };
}
