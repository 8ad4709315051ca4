/**
 * The nouns of Service load balancing.
 *
 *     Service ─┐                        ┌─ frontend  10.96.0.10:80  (who may come here, what happens then)
 *              ├─► ServicePlan ─ PortPlan ─ sets     cluster, local (which backends a new connection may get)
 *     Slices ──┘                        └─ backend   10.244.1.2:8080
 *
 * Semantics: Kubernetes Services as kube-proxy's nftables mode has them.
 */
import type { Family } from '../addr/index.ts';
import type { Protocol } from '../model/kubernetes.ts';

export type { Family, Protocol };

/** What a Service says to the data path, without what it does not act on. */
export interface ServiceFacts {
  /** `namespace/name`. */
  readonly key: string;
  /** For a deterministic winner when two Services claim one frontend: the older one wins. */
  readonly createdAt: string;
  readonly type: 'ClusterIP' | 'NodePort' | 'LoadBalancer' | 'ExternalName';
  /** Why this Service has nothing in the data path; undefined when it has. */
  readonly ignored: string | undefined;
  readonly clusterIPs: readonly string[];
  readonly externalIPs: readonly string[];
  /** Ingress addresses in mode VIP; those in mode Proxy are left to the real load balancer. */
  readonly loadBalancerIPs: readonly string[];
  /** Those of them that Portolan's own pools gave: the nodes announce them on their link. */
  readonly pooledIPs: readonly string[];
  /** CIDRs in canonical text; empty means everybody. For load balancer addresses only. */
  readonly sourceRanges: readonly string[];
  readonly ports: readonly ServicePortFacts[];
  /** Idle time of ClientIP affinity; 0 for none. */
  readonly affinitySeconds: number;
  readonly internalLocal: boolean;
  readonly externalLocal: boolean;
  /** 0 for none. */
  readonly healthCheckNodePort: number;
  /** How a connection from outside chooses: `maglev` (default) keeps flows on every node alike. */
  readonly algorithm: 'maglev' | 'random';
  /** How answers go back to clients outside; `dsr` leaves to the node how a backend's node is told. */
  readonly forwarding: Forwarding | 'dsr';
  /** By endpoint address or node name; 1 for all others. */
  readonly weights: ReadonlyMap<string, number> | undefined;
  /** Fields that could not be used, as messages with remedy. */
  readonly problems: readonly Error[];
}

/**
 * How answers of backends on other nodes go back to clients outside: by this node, or directly, when the backend's node
 * was told of the client's packet inside another one or by an option in its header.
 */
export type Forwarding = 'snat' | 'dsr-ipip' | 'dsr-option';

export interface ServicePortFacts {
  /** "" for the only port without a name. */
  readonly name: string;
  readonly protocol: Protocol;
  readonly port: number;
  /** 0 for none. */
  readonly nodePort: number;
}

/** What an EndpointSlice says to the data path. */
export interface SliceFacts {
  readonly key: string;
  /** Key of the Service; undefined when the slice is not for the data path. */
  readonly service: string | undefined;
  readonly family: Family;
  readonly ports: readonly { readonly name: string; readonly protocol: Protocol; readonly port: number }[];
  readonly endpoints: readonly EndpointFacts[];
}

export interface EndpointFacts {
  /** Canonical text. */
  readonly address: string;
  readonly ready: boolean;
  readonly serving: boolean;
  readonly terminating: boolean;
  /** "" when unknown. */
  readonly nodeName: string;
  /** Zones and nodes that hints reserve this endpoint for; shared empty arrays when there are none. */
  readonly forZones: readonly string[];
  readonly forNodes: readonly string[];
}

/** hostPorts of one pod or container of this node. */
export interface HostPortFacts {
  /** `pod/namespace/name`, or `container/network/id` where no Pod is known: no Service has a key of three parts. */
  readonly key: string;
  /** For a deterministic winner when two pods want one port: the older one wins. */
  readonly createdAt: string;
  /** Of the pod, one a family, canonical. */
  readonly addresses: readonly string[];
  readonly ports: readonly HostPort[];
  readonly problems: readonly Error[];
}

export interface HostPort {
  readonly protocol: Protocol;
  readonly hostPort: number;
  /** Canonical; undefined for every address of the node, `0.0.0.0` and `::` for those of one family. */
  readonly hostIP: string | undefined;
  readonly containerPort: number;
}

/** What planning has to know about the node it plans for. */
export interface NodeContext {
  /** Name of the Node object. */
  readonly nodeName: string;
  /** Label topology.kubernetes.io/zone; undefined when the node has none. */
  readonly zone: string | undefined;
  /** Addresses on which nodePorts are served, loopback included if wanted; canonical text. */
  readonly nodePortAddresses: readonly string[];
  /** All addresses of the node, loopback included: where hostPorts are. */
  readonly localAddresses: readonly string[];
  /** Serve externalIPs at all. Anyone who may create Services can claim any address with them (CVE-2020-8554). */
  readonly externalIPs: boolean;
  /** Masquerade every connection to a ClusterIP. */
  readonly masqueradeAll: boolean;
  /** Value of the label service.kubernetes.io/service-proxy-name that is ours; undefined: Services without it. */
  readonly proxyName: string | undefined;
  /** How backends' nodes are told with the annotation's value `dsr`. */
  readonly dsrDispatch: 'ipip' | 'option';
}

/** Who opens a connection, seen from this node. */
export type Client = 'pod' | 'node' | 'outside';

export const CLIENTS: readonly Client[] = ['pod', 'node', 'outside'];

/** `HostPort` is a port of a pod's container that its node lends it. */
export type FrontendKind = 'ClusterIP' | 'NodePort' | 'LoadBalancer' | 'ExternalIP' | 'HostPort';

export type SetName = 'cluster' | 'local';

/** What happens to a new connection of one kind of client. */
export interface Rule {
  readonly set: SetName;
  readonly verdict: 'forward' | 'reject' | 'drop';
  /** Whether the source becomes an address of this node. A client that is its own backend is always masqueraded. */
  readonly masquerade: boolean;
}

export type Rules = Readonly<Record<Client, Rule>>;

export interface FrontendPlan {
  readonly kind: FrontendKind;
  readonly address: string;
  readonly port: number;
  readonly rules: Rules;
  /** Service that owns this address and port already; this frontend is then not programmed. */
  shadowedBy: string | undefined;
}

/** One endpoint behind a Service port: chosen for new connections, or only kept for flows that it serves. */
export interface BackendPlan {
  readonly endpoint: EndpointFacts;
  readonly port: number;
  readonly weight: number;
  readonly inCluster: boolean;
  readonly inLocal: boolean;
}

/** Backends that new connections may get, and how they came to be in it. */
export interface EndpointSet {
  /** Indexes into `backends` of the port. */
  readonly members: readonly number[];
  /** `terminating` when no endpoint is ready and those on their way out serve on. */
  readonly source: 'ready' | 'terminating' | 'none';
  /** Whether hints narrowed it. */
  readonly topology: 'any' | 'node' | 'zone';
}

/** One port of a Service in one family. */
export interface PortPlan {
  /** Unique and stable: `default/web:http/TCP/ip4`. */
  readonly key: string;
  readonly service: string;
  readonly name: string;
  readonly family: Family;
  readonly protocol: Protocol;
  readonly frontends: readonly FrontendPlan[];
  /** Sorted by address, so that every node builds the same consistent-hash table. */
  readonly backends: readonly BackendPlan[];
  readonly cluster: EndpointSet;
  readonly local: EndpointSet;
  readonly affinitySeconds: number;
  readonly algorithm: 'maglev' | 'random';
  readonly forwarding: Forwarding;
  readonly sourceRanges: readonly string[];
  /** Whether they have an address of this node among them: its own processes may come then. */
  readonly nodeAllowed: boolean;
}

/** Everything about one Service. */
export interface ServicePlan {
  readonly key: string;
  readonly ignored: string | undefined;
  readonly ports: readonly PortPlan[];
  /** ClusterIPs that somebody else serves on this node: what goes there is left alone. Absent when there are none. */
  readonly notOurs?: readonly string[];
  /** HTTP health check for outside load balancers; ready endpoints on this node. */
  readonly healthCheck: { readonly port: number; readonly localReady: number } | undefined;
  readonly problems: readonly Error[];
}

/** What changed since the last delta. */
export interface PlanDelta {
  /** True for the first delta after start: `upsert` is everything, and what is not in it does not exist. */
  readonly full: boolean;
  readonly upsert: readonly ServicePlan[];
  readonly remove: readonly string[];
}
