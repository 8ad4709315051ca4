/** What the agent watches in the API, each projected to what is used of it. */
import { type ApiClient, type Log, Reflector, resources } from '../client/index.ts';
import type { EndpointSlice, Node, Pod, Service, ServiceCIDR } from '../model/kubernetes.ts';
import {
  type HostPortFacts,
  hostPortsOfPod,
  type ServiceFacts,
  type SliceFacts,
  serviceFacts,
  sliceFacts,
} from '../service/index.ts';

export interface Sources {
  readonly nodes: Reflector<Node, Node>;
  readonly services: Reflector<Service, ServiceFacts>;
  readonly slices: Reflector<EndpointSlice, SliceFacts>;
  readonly ranges: Reflector<ServiceCIDR, readonly string[]>;
  /** The Pods bound to this node. */
  readonly ownPods: Reflector<Pod>;
  /** hostPorts of them, for when a kubelet runs them and nothing else of them is asked. */
  readonly hostPorts: Reflector<Pod, HostPortFacts>;
}

/** Makes the sources; they begin with `start()` and end with the signal. */
export function openSources(
  common: { client: ApiClient; signal: AbortSignal; log: Log },
  nodeName: string,
  proxyName?: string,
): Sources {
  return {
    nodes: new Reflector({
      ...common,
      resource: resources.nodes,
      project: (node: Node) => slimNode(node, nodeName),
    }),
    services: new Reflector({
      ...common,
      resource: resources.services,
      project: (service: Service) => serviceFacts(service, proxyName),
    }),
    slices: new Reflector({ ...common, resource: resources.endpointSlices, project: sliceFacts }),
    ranges: new Reflector({
      ...common,
      resource: resources.serviceCidrs,
      project: (object: ServiceCIDR): readonly string[] => object.spec?.cidrs ?? [],
    }),
    ownPods: new Reflector<Pod>({
      ...common,
      resource: resources.pods,
      fieldSelector: `spec.nodeName=${nodeName}`,
    }),
    hostPorts: new Reflector({
      ...common,
      resource: resources.pods,
      fieldSelector: `spec.nodeName=${nodeName}`,
      project: (pod: Pod) => hostPortsOfPod(pod),
    }),
  };
}

/** What of a Node the agent keeps: thousands of others must stay small, and only its own is compared with facts. */
export function slimNode(node: Node, own: string): Node {
  const { name, uid, labels, annotations, deletionTimestamp } = node.metadata;
  const { spec, status } = node;
  const slim: Node = {
    apiVersion: node.apiVersion,
    kind: node.kind,
    metadata: { name, ...(annotations && { annotations }) },
    ...(spec && { spec }),
  };
  if (name !== own) return { ...slim, ...(status?.addresses && { status: { addresses: status.addresses } }) };
  return {
    ...slim,
    metadata: {
      ...slim.metadata,
      ...(uid && { uid }),
      ...(labels && { labels }),
      ...(deletionTimestamp && { deletionTimestamp }),
    },
    ...(status && {
      status: {
        ...(status.addresses && { addresses: status.addresses }),
        ...(status.conditions && { conditions: status.conditions }),
        ...(status.capacity && { capacity: status.capacity }),
        ...(status.nodeInfo && { nodeInfo: status.nodeInfo }),
      },
    }),
  };
}
